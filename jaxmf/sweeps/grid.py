"""Turn the grid of a sweep, or its list of points, into members, and assign each to the program that it runs in."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxmf.kernels._memoize import how_built
from jaxmf.models.checks import check_hyper
from jaxmf.models.leaves import map_factors
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params

Grid = Mapping[str, Iterable[Any]] | Sequence[Mapping[str, Any]]

NUMBERS = tuple(name for name in Hyper._fields if name not in ("rank", "extra"))
EXTRA = "extra."

# Time to compile one more program. Together with the seconds per column of the factors (`Solver.machine`) it decides
# between one program for all ranks and one for each rank; benchmarks/sweep.py measures both.
_COMPILE_SECONDS = 1.5


class Member(NamedTuple):
    """One fit of a sweep.

    Attributes:
      point: its values in the grid, by name.
      hyper: its hyperparameters; `rank` is None if the grid gives the rank.
      rank: the rank that the grid gives, or None.
      seed: its key is `fold_in(key, seed)`, or the key of the sweep if None.
      fold: index of the fold whose weights it has, or None.
    """

    point: dict[str, Any]
    hyper: Hyper
    rank: int | None
    seed: int | None
    fold: int | None


def members(grid: Grid, hyper: Hyper, num_folds: int | None = None) -> list[Member]:
    """Return the members of a grid, the last name varying fastest, or of a list of points, in order.

    Args:
      grid: name -> values, all combinations of which are taken, or a list of points, name -> value. Names are `rank`,
        `seed`, `fold`, the other numbers of `Hyper`, and `extra.NAME` for a user's own.
      hyper: the hyperparameters that the grid does not name.
      num_folds: number of folds, all of which are used if the grid does not name `fold`; None if there are none.

    Raises:
      ValueError: an unknown name, values that are not a list, an empty list, points with different names, or a value
        out of range, whose message shows the point.
    """
    points = _product(grid) if isinstance(grid, Mapping) else _points(grid)
    known = ("rank", "seed", "fold", *NUMBERS)
    for name in points[0]:
        if not isinstance(name, str) or not (name in known or (name.startswith(EXTRA) and len(name) > len(EXTRA))):
            raise ValueError(f"sweep: grid names {name!r}; expected {', '.join(known)} or {EXTRA}NAME")
    if "fold" in points[0] and num_folds is None:
        raise ValueError(
            "sweep: grid names 'fold', but there are no folds: pass folds=jaxmf.splits.k_fold(train, k) without valid="
        )
    if num_folds is not None and "fold" not in points[0]:
        points = [point | {"fold": fold} for point in points for fold in range(num_folds)]
    return [_member(point, hyper, num_folds) for point in points]


def _product(grid: Mapping[str, Iterable[Any]]) -> list[dict[str, Any]]:
    axes = {}
    for name, values in grid.items():
        if isinstance(values, str | bytes | Mapping) or not np.iterable(values):
            raise ValueError(
                f"sweep: grid[{name!r}] must be a list of values, not {values!r}; for one value pass a list of one"
            )
        axes[name] = list(values)
        if not axes[name]:
            raise ValueError(f"sweep: grid[{name!r}] is empty; give it values, or leave the name out")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _points(grid: Any) -> list[dict[str, Any]]:
    if not isinstance(grid, Sequence) or isinstance(grid, str) or not all(isinstance(point, Mapping) for point in grid):
        raise ValueError(
            f"sweep: grid must map names to lists of values, or be a list of points, not {type(grid).__name__}: "
            'for example {"rank": [8, 16], "l2": [0.05, 0.1]}'
        )
    if not grid:
        raise ValueError("sweep: grid is an empty list; give it at least one point")
    for index, point in enumerate(grid):
        if point.keys() != grid[0].keys():
            raise ValueError(
                f"sweep: point {index} of the grid names {sorted(point)}, but point 0 names {sorted(grid[0])}; all "
                "points need the same names"
            )
    return [dict(point) for point in grid]


def _member(point: dict[str, Any], hyper: Hyper, num_folds: int | None) -> Member:
    point = {
        name: value.item() if hasattr(value, "item") and np.ndim(value) == 0 else value for name, value in point.items()
    }
    integers: dict[str, int | None] = {}
    for name, low, high in (("rank", 1, None), ("seed", 0, 2**32 - 1), ("fold", 0, (num_folds or 0) - 1)):
        value = integers[name] = point.get(name)
        if name in point and not (
            isinstance(value, int) and not isinstance(value, bool) and low <= value and (high is None or value <= high)
        ):
            limit = "" if high is None else f" to {high}"
            raise ValueError(f"sweep: {name} must be an integer from {low}{limit}, not {value!r}, in the point {point}")
    numbers = {name: value for name, value in point.items() if name not in integers}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            short = name.removeprefix(EXTRA)
            raise ValueError(f"sweep: {short} must be one finite number, not {value!r}, in the point {point}")
    hyper = with_numbers(hyper, numbers)
    if "rank" in point:
        hyper = hyper._replace(rank=None)
    try:
        check_hyper(hyper)
    except ValueError as error:
        raise ValueError(f"sweep: {error}, in the point {point}") from None
    return Member(point, hyper, integers["rank"], integers["seed"], integers["fold"])


def setting(member: Member) -> tuple[tuple[str, Any], ...]:
    """Return a member's point without seed and fold: members that differ in nothing else have the same setting."""
    return tuple((name, value) for name, value in member.point.items() if name not in ("seed", "fold"))


def with_numbers(hyper: Hyper, values: Mapping[str, Any]) -> Hyper:
    """Return `hyper` with these values by name, where `extra.NAME` means an entry of `hyper.extra`."""
    fields = {name: value for name, value in values.items() if not name.startswith(EXTRA)}
    extra = {name.removeprefix(EXTRA): value for name, value in values.items() if name.startswith(EXTRA)}
    return hyper._replace(**fields, extra=hyper.extra | extra)


class Assignment(NamedTuple):
    """A member, and the program that it runs in.

    Attributes:
      member, model: the member as the user sees it, and the model at the member's own rank.
      run_member, run_model: the member as it runs, and the model whose program it runs in, which may be wider.
    """

    member: Member
    model: Model
    run_member: Member
    run_model: Model


def assign(model: Model, listed: list[Member], column_seconds: float, pad: bool | Model | None) -> list[Assignment]:
    """Assign each member to the program of its own rank, or all members to that of the largest rank.

    Args:
      model: the model; the `rank` of a member overrides its width.
      listed: the members.
      column_seconds: the seconds that one more column of the factors takes, over all epochs.
      pad: True for the program of the largest rank, False for each member's own, a model wide enough for all to run
        that one, or None for whichever costs less. A user's own model is not padded by default, since its `init` may
        start differently in a wider table.
    """
    ranks = sorted({member.rank for member in listed if member.rank is not None})
    if not ranks:
        return [Assignment(member, model, member, model) for member in listed]
    active = [member._replace(hyper=member.hyper._replace(rank=member.rank)) for member in listed]
    if model.with_rank is None:
        return [Assignment(member, model, member, model) for member in active]
    models = [model.with_rank(member.rank or 0) for member in listed]
    if pad is None and how_built(model) is not None:
        columns = sum(ranks[-1] - (member.rank or 0) for member in listed)
        pad = columns * column_seconds < (len(ranks) - 1) * _COMPILE_SECONDS
    if not pad:
        return [Assignment(member, at_rank, member, at_rank) for member, at_rank in zip(listed, models, strict=True)]
    wide = pad if isinstance(pad, Model) else model.with_rank(ranks[-1])
    return [Assignment(*parts, wide) for parts in zip(listed, models, active, strict=True)]


def narrowed(params: Params, assignment: Assignment) -> Params:
    """Return the parameters with as many columns as the member's own rank, if it ran in a wider program."""
    if assignment.run_model is assignment.model:
        return params
    return params._replace(trained=map_factors(lambda table: table[..., : assignment.member.rank], params.trained))
