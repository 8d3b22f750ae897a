"""What a ranking measures: its setting, and the held-out ratings as candidates of which some are relevant."""

from numbers import Real
from typing import Literal, NamedTuple

import numpy as np

from jaxmf.data.checks import is_positive_integer
from jaxmf.data.dataset import Dataset
from jaxmf.data.observed import as_parts
from jaxmf.data.pairs import among, numbered
from jaxmf.data.ratings import Ratings, counts, padded
from jaxmf.evaluate._measures import Empty
from jaxmf.evaluate._positions import Trial
from jaxmf.models.checks import check_predicts
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params
from jaxmf.models.promises import RIGHT_SCORES
from jaxmf.models.trial import check_promises

Protocol = Literal["catalog", "rated"]
Part = Dataset | Ratings


class Setting(NamedTuple):
    """What to measure; the fields are arguments of `ranking`."""

    protocol: Protocol
    k: int
    threshold: float | None
    empty: Empty


def trial_of(
    model: Model, params: Params, train: Part, test: Part, exclude: Part | None, setting: Setting
) -> tuple[Trial, Ratings, Setting]:
    """Return what to rank, the padded training ratings, and the setting with its threshold, after all checks."""
    seen, held_out = as_parts(train, test, ("train", "test"))
    excluded = [] if exclude is None else [as_parts(train, exclude, ("train", "exclude"))[1]]
    check_predicts(model, params, held_out, "evaluate.ranking")
    _check(setting, exclude)
    # Python numbers, since NumPy compares its own float64 in float64, where 4.1 exceeds a float32 rating of 4.1.
    protocol, k = setting.protocol, int(setting.k)
    num_items = held_out.num_items

    pair = _pairs(held_out)
    order = np.argsort(pair, kind="stable")
    pair, value = pair[order], np.asarray(held_out.value)[np.asarray(held_out.weight) > 0][order]
    repeats = pair[1:][pair[1:] == pair[:-1]]
    if len(repeats):
        raise ValueError(
            f"test has {len(repeats)} pair(s) of user and item more than once, the first "
            f"{tuple(map(int, divmod(repeats[0], num_items)))} by row index; expected each once: merge them"
        )
    threshold = default_threshold(seen, value) if setting.threshold is None else float(setting.threshold)
    if not (value >= threshold).any():
        raise ValueError(
            f"threshold: no test rating is {threshold} or more, they range from {value.min():g} to {value.max():g}, so "
            "nothing is relevant: lower it"
        )
    seen_pairs = None
    if protocol == "catalog":
        hidden = np.sort(np.concatenate([_pairs(part) for part in (seen, *excluded)]))
        hidden = hidden[np.diff(hidden, prepend=-1) > 0]  # without repeats; np.unique would hash them
        unseen = ~among(pair, hidden)
        pair, value = pair[unseen], value[unseen]
        if not len(pair):
            raise ValueError(
                "test has no pair of user and item that is not in train or exclude; expected held-out ratings: "
                "jaxmf.splits makes parts that do not overlap"
            )
    if protocol == "catalog" and model.embed is not None:
        promise, instead = RIGHT_SCORES, "rank with protocol='rated', which calls `predict`"
        check_promises("evaluate.ranking", (promise,), model, params, Hyper(), held_out, instead)
    user, item = np.divmod(pair, num_items)
    slot = np.zeros(held_out.num_users, np.int64)
    slot[user] = 1
    users, slot = np.flatnonzero(slot), np.where(slot > 0, np.cumsum(slot) - 1, -1)
    if protocol == "catalog":
        row, column = slot[hidden // num_items], hidden % num_items
        seen_pairs = row[row >= 0], column[row >= 0]
    seen = padded(seen)  # so that the computations on the device see few shapes
    n_u, n_i = (np.asarray(n, np.float64) for n in counts(seen))
    novelty = np.log2((np.sum(n_u > 0) + 1) / (n_i + 1))
    user_id = test.user_ids[users] if isinstance(test, Dataset) else users
    item = item.astype(np.int32)
    trial = Trial(users, user_id, slot[user], item, value, value >= threshold, novelty, k, seen_pairs)
    return trial, seen, setting._replace(threshold=threshold)


def default_threshold(seen: Ratings, tested: np.ndarray) -> float:
    """Return 3.5, or the rating itself if all ratings are equal."""
    values = np.append(np.asarray(seen.value)[np.asarray(seen.weight) > 0], tested)
    return float(values[0]) if (values == values[0]).all() else 3.5


def _pairs(ratings: Ratings) -> np.ndarray:
    """Return the observed pairs of user and item, each as one number."""
    observed = np.asarray(ratings.weight) > 0
    return numbered(np.asarray(ratings.user)[observed], np.asarray(ratings.item)[observed], ratings.num_items)


def _check(setting: Setting, exclude: Part | None) -> None:
    """Raise ValueError unless the setting is valid."""
    protocol, k, threshold, empty = setting
    if not is_positive_integer(k):
        raise ValueError(f"k must be a positive integer, not {k!r}: it is the number of positions that count")
    if protocol not in ("catalog", "rated"):
        raise ValueError(
            f"protocol must be 'catalog' (all unseen items) or 'rated' (the user's test items), not {protocol!r}"
        )
    if threshold is not None and (not isinstance(threshold, Real) or not np.isfinite(float(threshold))):
        raise ValueError(f"threshold must be a finite number, not {threshold!r}: the minimum relevant rating")
    if empty not in ("skip", "zero"):
        raise ValueError(f"empty must be 'skip' or 'zero', not {empty!r}: how to treat users without relevant items")
    if exclude is not None and protocol != "catalog":
        raise ValueError(
            "exclude goes with protocol='catalog' only: 'rated' ranks each user's test items and no others"
        )
