"""Rank for groups of users, by their activity, or of items, by their popularity."""

from dataclasses import replace
from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmf.data.checks import is_positive_integer
from jaxmf.data.observed import as_parts
from jaxmf.data.ratings import Ratings
from jaxmf.evaluate._setting import Part, default_threshold
from jaxmf.evaluate.rankings import ranking
from jaxmf.models.model import Model
from jaxmf.models.params import Params

By = Literal["activity", "popularity"]


def ranking_by_group(
    model: Model,
    params: Params,
    train: Part,
    test: Part,
    by: By = "popularity",
    groups: int = 3,
    threshold: float | None = None,
    exclude: Part | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Measure a ranking of the whole catalog for users of little and of much activity, or for rare and popular items.

    "activity" groups the users by their number of training ratings. "popularity" groups the relevant test items by
    theirs: each group is ranked by itself, with the relevant items of the other groups left out of the candidates, so
    that it tells how well the items of this popularity are found among all others.

    Args:
      model, params, train, test, threshold, exclude: as in `ranking`.
      by: "activity" of users or "popularity" of items.
      groups: number of groups, about equal in users, or in relevant test ratings. Equal counts stay together, so that
        there may be fewer groups.
      options: further arguments of `ranking`, except `protocol`.

    Returns:
      the tables of `ranking`, one below the other, with three columns in front: `by`, and the lowest and the highest
      number of training ratings in the group, `from_count` and `to_count`.

    Raises:
      ValueError: as `ranking`, a `protocol`, an unknown `by`, or `groups` that is not a positive integer.

    Cost: that of `ranking` for each group.

    Reference: Steck (2011), Item popularity and recommendation accuracy.
    """
    if by not in get_args(By):
        raise ValueError(f"by must be 'activity' (of users) or 'popularity' (of items), not {by!r}")
    if not is_positive_integer(groups):
        raise ValueError(f"groups must be a positive integer, not {groups!r}")
    if "protocol" in options:
        raise ValueError("ranking_by_group ranks the whole catalog: leave protocol out")
    seen, held_out = as_parts(train, test, ("train", "test"))
    others = None if exclude is None else as_parts(train, exclude, ("train", "exclude"))[1]
    weight, value = np.asarray(held_out.weight), np.asarray(held_out.value)
    threshold = default_threshold(seen, value[weight > 0]) if threshold is None else threshold
    side, size = ("user", held_out.num_users) if by == "activity" else ("item", held_out.num_items)
    count = np.bincount(np.asarray(getattr(seen, side))[np.asarray(seen.weight) > 0], minlength=size)
    number = count[np.asarray(getattr(held_out, side))]
    relevant = (weight > 0) & (value >= threshold)
    if not relevant.any():  # let `ranking` say so
        return ranking(model, params, seen, held_out, threshold=threshold, exclude=others, **options)
    ranked = np.sort(count[np.unique(held_out.user[relevant])] if by == "activity" else number[relevant])
    lowest = np.unique(ranked[[len(ranked) * group // groups for group in range(groups)]])
    group_of = np.maximum(np.searchsorted(lowest, number, side="right") - 1, 0)
    tables = []
    for group in range(len(lowest)):
        inside = group_of == group
        part, rest = (replace(held_out, weight=jnp.asarray(np.where(mask, weight, 0))) for mask in (inside, ~inside))
        left_out = others if by == "activity" else _joined(others, rest)
        table = ranking(model, params, seen, part, threshold=threshold, exclude=left_out, **options)
        bounds = number[inside & relevant]
        for index, (name, entry) in enumerate({"by": by, "from_count": bounds.min(), "to_count": bounds.max()}.items()):
            table.insert(index, name, entry)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _joined(one: Ratings | None, other: Ratings) -> Ratings | None:
    """Return the observations of both, or None if there are none."""
    parts = [part for part in (one, other) if part is not None and np.asarray(part.weight).any()]
    if len(parts) < 2:
        return parts[0] if parts else None
    columns: dict[str, Any] = {
        name: jnp.concatenate([jnp.asarray(getattr(part, name)) for part in parts])
        for name in ("user", "item", "value", "weight")
    }
    return replace(other, **columns, context={})
