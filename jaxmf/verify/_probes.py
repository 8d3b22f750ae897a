"""Probes: points at which derivatives are compared, with random weights, numbers and ratings that hide no mistake."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmf.data.ratings import Ratings, padded
from jaxmf.models.leaves import map_factors, width
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Rows, bias_l2
from jaxmf.verify.case import Case, autodiff, bare, check_shapes, perturbed, powers, without_padding

_FEWEST = 16  # minimum number of ratings of a probe, padding included: one or two would leave nothing to draw
_ZEROS = 0.25  # share of the weights that are 0


class Probe(NamedTuple):
    """A point at which derivatives are compared: its name, trained parameters, and what else the objective reads."""

    name: str
    trained: Rows
    case: Case


def probes(model: Model, trained: Rows, case: Case, random: np.random.Generator) -> tuple[Probe, ...]:
    """Return the points at which to compare a model's derivatives; they differ in data only, so one program runs all.

    - `given`: everything as given, except that a λ_b or rank of None becomes a number.
    - `nearby`: the parameters perturbed a little at random, so that nothing is 0 by construction.
    - `weights`: `nearby`, with weights between 0.5 and 2.5, a quarter of them 0, and a user and an item whose weights
      are all 0.
    - `numbers`: `nearby`, with λ, λ_b and ν independent of each other, and all other floating numbers of Hyper scaled.
    - `ratings`: all of these changes, and other pairs, some of them repeated; values in the range of the given ones,
      some of them 0; a user and an item without ratings; the fixed parameters scaled as well.
    - `rank`: like `ratings`, with ν = 0 and the columns of `factors` beyond half of the width at 0, as an active rank
      leaves them; not for a model of width 1.

    If the objective is not finite at the ratings drawn, as with the logarithm of a rating of 0, the last two keep the
    given ratings and fixed parameters.
    """
    case = case._replace(hyper=_filled(trained, case.hyper), num_ratings=np.maximum(_FEWEST, case.num_ratings))
    check_shapes(model, trained, case)
    near, observed = perturbed(trained, random), without_padding(case)
    weighted = padded(of_columns(observed, weight=_weights(observed, random)))
    numbers = _numbers(case.hyper, observed, random)
    moved = perturbed(_scaled(trained, random), random)
    fixed, ratings = _scaled(case.fixed, random), padded(_ratings(observed, random))
    drawn = case._replace(fixed=fixed, ratings=ratings, hyper=numbers)
    if not np.isfinite(float(autodiff(bare(model))(moved, _weighed(drawn))[0])):
        moved, drawn = near, case._replace(ratings=weighted, hyper=numbers)
    points = {
        "given": (trained, case),
        "nearby": (near, case),
        "weights": (near, case._replace(ratings=weighted)),
        "numbers": (near, case._replace(hyper=numbers)),
        "ratings": (moved, drawn),
    }
    if (rank := (width(trained) or 1) // 2) > 0:
        active_rank = np.asarray(rank, np.asarray(case.hyper.rank).dtype)
        lowered = numbers._replace(rank=active_rank, reg_exponent=np.zeros(()))
        masked = map_factors(lambda table: np.where(np.arange(table.shape[-1]) < rank, table, 0), moved)
        points["rank"] = (masked, drawn._replace(hyper=lowered))
    return tuple(Probe(name, point, _weighed(data)) for name, (point, data) in points.items())


def worst(
    errors: Mapping[str, Mapping[str, Sequence[float]]], limits: Mapping[str, float]
) -> tuple[dict[str, float], str]:
    """Return the largest error of each column, NaN if it has none, and the names of the probes that exceed a limit.

    Args:
      errors: probe -> column -> errors; a column without errors is not judged.
      limits: column -> limit.
    """
    # np.max propagates NaN, so that an error of NaN is not lost.
    largest = {
        name: {column: float(np.max(columns[column])) for column in limits if len(columns.get(column, ()))}
        for name, columns in errors.items()
    }
    failed = [name for name, maxima in largest.items() if not all(maxima[c] <= limits[c] for c in maxima)]
    by_column = {c: [maxima[c] for maxima in largest.values() if c in maxima] for c in limits}
    return {c: np.max(maxima) if maxima else np.nan for c, maxima in by_column.items()}, ", ".join(failed)


def _weighed(case: Case) -> Case:
    """Return the case with n^ν computed from its ratings and numbers."""
    return case._replace(weight=powers(case.ratings, case.hyper))


def _filled(trained: Rows, hyper: Hyper) -> Hyper:
    """Return `hyper` with λ_b and the active rank as numbers, so that all probes have one pytree structure."""
    full = width(trained)
    rank = np.int32(full) if hyper.rank is None and full is not None else hyper.rank
    return hyper._replace(l2_bias=bias_l2(hyper), rank=rank)


def of_columns(ratings: Ratings, **columns: Any) -> Ratings:
    """Return the ratings with these columns, host arrays, in place of theirs."""
    return replace(ratings, **columns)


def _weights(ratings: Ratings, random: np.random.Generator) -> np.ndarray:
    """Draw weights, some of them 0, and all of the first rating's user and item, unless that leaves too few others."""
    drawn = random.uniform(0.5, 2.5, ratings.value.size)
    weight = np.where(random.random(drawn.size) < _ZEROS, 0, drawn)
    for index in map(np.asarray, (ratings.user, ratings.item)):
        emptied = np.where(index == index[0], 0, weight)
        weight = emptied if 2 * np.count_nonzero(emptied) > np.count_nonzero(weight) else weight
    return weight if weight.any() else drawn


def _numbers(hyper: Hyper, ratings: Ratings, random: np.random.Generator) -> Hyper:
    """Draw λ, λ_b and ν, and scale the rest; λ and λ_b grow with the ratings' range, so that the penalty matters."""
    value = np.asarray(ratings.value)
    size = np.ptp(value) or np.abs(value).max() or 1.0
    l2, l2_bias = size * 10 ** random.uniform(-1, 1, 2)
    numbers: Hyper = _scaled(hyper, random)
    return numbers._replace(l2=l2, l2_bias=l2_bias, reg_exponent=np.asarray(random.uniform(0.2, 0.8)))


def _ratings(ratings: Ratings, random: np.random.Generator) -> Ratings:
    """Draw as many ratings over the same users and items, of whom the last get none unless they are the only ones."""
    n = ratings.value.size
    user, item = (random.integers(0, max(1, count - 1), n) for count in (ratings.num_users, ratings.num_items))
    given = np.asarray(ratings.value)
    low, high = (given.min(), given.max()) if np.ptp(given) else np.sort(np.array([0.5, 1.5]) * (given[0] or 1.0))
    value = random.uniform(low, high, n)
    weight = _weights(of_columns(ratings, user=user, item=item), random)
    weighted = np.flatnonzero(weight)
    eighth = max(1, len(weighted) // 8)
    for index in (user, item):
        index[weighted[-eighth:]] = index[weighted[:eighth]]
    value[weighted[eighth : 2 * eighth]] = 0
    dtype = np.asarray(ratings.user).dtype
    return of_columns(ratings, user=user.astype(dtype), item=item.astype(dtype), value=value, weight=weight)


def _scaled(tree: Any, random: np.random.Generator) -> Any:
    """Multiply each floating number by a factor of 0.5 to 1.5, which keeps its sign; a leaf of zeros counts as 0.1."""

    def change(leaf: Any) -> Any:
        number = np.asarray(leaf)
        if not np.issubdtype(number.dtype, np.floating):
            return leaf
        factor = random.uniform(0.5, 1.5, number.shape)
        return factor * (number if number.any() else 0.1)

    return jax.tree.map(change, tree)
