"""Where derivatives are looked at: also at weights, numbers, ratings and a rank drawn at random, which hide nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmf.data.ratings import Ratings, padded
from jaxmf.models.leaves import map_factors, width
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Rows, bias_l2
from jaxmf.verify.case import Case, autodiff, bare, check_functions, perturbed, powers, without_padding

_FEWEST = 16  # ratings of a probe, of the padding if need be: with one or two there would be nothing to draw
_ZEROS = 0.25  # share of the weights that are 0


class Probe(NamedTuple):
    """A point where derivatives are compared: its name, the trained parameters, and what else the objective reads."""

    name: str
    trained: Rows
    case: Case


def probes(model: Model, trained: Rows, case: Case, random: np.random.Generator) -> tuple[Probe, ...]:
    """The points where a model's derivatives are to agree; all run one program, since only their data differ.

    - `given`: everything as given, with λ_b and the rank as numbers where they were None.
    - `nearby`: the parameters moved a little at random, so that nothing is 0 by construction.
    - `weights`: also w between 0.5 and 2.5, a quarter 0, and a user and an item whose weights are all 0.
    - `numbers`: `nearby`, with λ, λ_b and ν independent of each other, and all other floating numbers of Hyper moved.
    - `ratings`: all of it, and other pairs, some of them twice; values anywhere in the range of the given ones, some of
      them 0; a user and an item without ratings; the fixed parameters moved too.
    - `rank`: the same with ν = 0, and with the columns of `factors` beyond half of the width at 0, as an active rank
      leaves them; not for a model of width 1.

    Where the objective is not finite at the ratings that were drawn, as for the logarithm of a rating, the last two
    have the given ratings and fixed parameters.
    """
    case = case._replace(hyper=_filled(trained, case.hyper), num_ratings=np.maximum(_FEWEST, case.num_ratings))
    check_functions(model, trained, case)
    near, observed = perturbed(trained, random), without_padding(case)
    weighted = padded(of_columns(observed, weight=_weights(observed, random)))
    numbers = _numbers(case.hyper, observed, random)
    moved = perturbed(_scaled(trained, random), random)
    fixed, others = _scaled(case.fixed, random), padded(_ratings(observed, random))
    drawn = case._replace(fixed=fixed, ratings=others, hyper=numbers)
    if not np.isfinite(float(autodiff(bare(model))(moved, _weighed(drawn))[0])):
        moved, drawn = near, case._replace(ratings=weighted, hyper=numbers)
    found = {
        "given": (trained, case),
        "nearby": (near, case),
        "weights": (near, case._replace(ratings=weighted)),
        "numbers": (near, case._replace(hyper=numbers)),
        "ratings": (moved, drawn),
    }
    if (rank := (width(trained) or 1) // 2) > 0:
        number = np.asarray(rank, np.asarray(case.hyper.rank).dtype)
        beyond = numbers._replace(rank=number, reg_exponent=np.zeros(()))
        within = map_factors(lambda table: np.where(np.arange(table.shape[-1]) < rank, table, 0), moved)
        found["rank"] = (within, drawn._replace(hyper=beyond))
    return tuple(Probe(name, point, _weighed(where)) for name, (point, where) in found.items())


def worst(
    errors: Mapping[str, Mapping[str, Sequence[float]]], limits: Mapping[str, float]
) -> tuple[dict[str, float], str]:
    """The largest error in each column, NaN for none, and the names of the probes with one over its limit.

    Args:
      errors: by probe and column; a column without errors is not judged.
      limits: by column.
    """
    # np.max carries NaN on, so that an error that is not a number is not lost.
    largest = {
        name: {column: float(np.max(found[column])) for column in limits if len(found.get(column, ()))}
        for name, found in errors.items()
    }
    failed = [name for name, found in largest.items() if not all(found[c] <= limits[c] for c in found)]
    together = {c: [found[c] for found in largest.values() if c in found] for c in limits}
    return {c: np.max(values) if values else np.nan for c, values in together.items()}, ", ".join(failed)


def _weighed(case: Case) -> Case:
    """With the n^ν of its own ratings and numbers."""
    return case._replace(weight=powers(case.ratings, case.hyper))


def _filled(trained: Rows, hyper: Hyper) -> Hyper:
    """λ_b and the active rank as numbers, so that probes differ in no structure."""
    most = width(trained)
    rank = np.int32(most) if hyper.rank is None and most is not None else hyper.rank
    return hyper._replace(l2_bias=bias_l2(hyper), rank=rank)


def of_columns(ratings: Ratings, **columns: Any) -> Ratings:
    """The ratings with other columns, from the host."""
    return replace(ratings, **columns)


def _weights(ratings: Ratings, random: np.random.Generator) -> np.ndarray:
    """Some of them 0, and all those of the first rating's user and item, unless few others would be left."""
    drawn = random.uniform(0.5, 2.5, ratings.value.size)
    weight = np.where(random.random(drawn.size) < _ZEROS, 0, drawn)
    for index in map(np.asarray, (ratings.user, ratings.item)):
        others = np.where(index == index[0], 0, weight)
        weight = others if 2 * np.count_nonzero(others) > np.count_nonzero(weight) else weight
    return weight if weight.any() else drawn


def _numbers(hyper: Hyper, ratings: Ratings, random: np.random.Generator) -> Hyper:
    """λ and λ_b are in proportion to the ratings, so that a penalty is not lost beside the errors."""
    value = np.asarray(ratings.value)
    size = np.ptp(value) or np.abs(value).max() or 1.0
    l2, l2_bias = size * 10 ** random.uniform(-1, 1, 2)
    numbers = _scaled(hyper, random)
    return numbers._replace(l2=l2, l2_bias=l2_bias, reg_exponent=np.asarray(random.uniform(0.2, 0.8)))


def _ratings(ratings: Ratings, random: np.random.Generator) -> Ratings:
    """Other ratings, as many, over the same users and items, the last of whom have none if they are not alone."""
    n = ratings.value.size
    user, item = (random.integers(0, max(1, count - 1), n) for count in (ratings.num_users, ratings.num_items))
    given = np.asarray(ratings.value)
    low, high = (given.min(), given.max()) if np.ptp(given) else np.sort(np.array([0.5, 1.5]) * (given[0] or 1.0))
    value = random.uniform(low, high, n)
    weight = _weights(of_columns(ratings, user=user, item=item), random)
    counted = np.flatnonzero(weight)
    few = max(1, len(counted) // 8)
    for index in (user, item):
        index[counted[-few:]] = index[counted[:few]]
    value[counted[few : 2 * few]] = 0
    kind = np.asarray(ratings.user).dtype
    return of_columns(ratings, user=user.astype(kind), item=item.astype(kind), value=value, weight=weight)


def _scaled(tree: Any, random: np.random.Generator) -> Any:
    """Floating numbers times 0.5 to 1.5, one by one, so that signs stay; where all are 0, numbers up to 0.15."""

    def change(leaf: Any) -> Any:
        number = np.asarray(leaf)
        if not np.issubdtype(number.dtype, np.floating):
            return leaf
        factor = random.uniform(0.5, 1.5, number.shape)
        return factor * (number if number.any() else 0.1)

    return jax.tree.map(change, tree)
