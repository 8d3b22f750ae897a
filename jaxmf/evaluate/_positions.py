"""Where relevant candidates stand: among the tested items on the host, among all items on the device."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.ratings import Pairs, power_of_4
from jaxmf.evaluate.errors import predictions
from jaxmf.kernels.programs import jit, of_model
from jaxmf.kernels.threads import blocks, num_threads
from jaxmf.models._scores import scores
from jaxmf.models.model import Model
from jaxmf.models.params import Params

_CELLS = 1 << 18  # users x items ranked at once: larger blocks leave the cache and are slower on a CPU


class Trial(NamedTuple):
    """What is to be ranked and what is relevant, on the host; the same for all models.

    Attributes:
      user: (num_users,) numbers of the users that count.
      user_id: (num_users,) what tables call them.
      row: (n,) which of these each tested candidate belongs to, ascending.
      item: (n,) its item.
      value: (n,) its rating.
      relevant: (n,) whether that reaches the threshold.
      novelty: (num_items,) in bits.
      k: positions that count.
      seen: rows and items of the pairs that are no candidates, by row, or None if only tested pairs are candidates.
    """

    user: np.ndarray
    user_id: Any
    row: np.ndarray
    item: np.ndarray
    value: np.ndarray
    relevant: np.ndarray
    novelty: np.ndarray
    k: int
    seen: tuple[np.ndarray, np.ndarray] | None


class Positions(NamedTuple):
    """Where the relevant candidates stand.

    Attributes:
      candidates: (num_users,) number of candidates.
      relevant: (num_users,) number of relevant ones.
      row: (p,) user of each relevant candidate.
      above: (p,) number of candidates of that user with a higher score.
      tied: (p,) number of those with the same score, itself included.
      novelty: (num_users,) expected mean novelty of the first k.
      coverage: expected share of all candidates that are among somebody's first k.
    """

    candidates: np.ndarray
    relevant: np.ndarray
    row: np.ndarray
    above: np.ndarray
    tied: np.ndarray
    novelty: np.ndarray
    coverage: float


def positions(trial: Trial, model: Model, params: Params) -> Positions:
    """Positions by the model's scores; a ValueError if one is not finite."""
    if trial.seen is not None:
        return _among_all(trial, model, params)
    score = predictions(model, params, Pairs(jnp.asarray(trial.user[trial.row]), jnp.asarray(trial.item)))
    _check_finite(model, trial, np.bincount(trial.row, ~np.isfinite(score), len(trial.user)) == 0)
    return _among_tested(trial, score)


def oracle(trial: Trial) -> Positions:
    """Positions by the tested ratings. Among all items it has no novelty or coverage: it orders no others."""
    found = _among_tested(trial, trial.value)
    if trial.seen is None:
        return found
    unknown = np.full(len(trial.user), np.nan)
    return found._replace(candidates=_num_candidates(trial), novelty=unknown, coverage=np.nan)


def runs(*keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For sorted keys (n,): where the run of equal ones begins that an entry is part of, and how long it is.

    >>> [x.tolist() for x in runs(np.array([3, 3, 5, 5, 5]), np.array([0, 1, 1, 1, 2]))]
    [[0, 1, 2, 2, 4], [1, 1, 2, 2, 1]]
    """
    n = len(keys[0])
    new = np.ones(n, bool)
    new[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    begin = np.flatnonzero(new)
    run = np.cumsum(new) - 1
    return begin[run], np.diff(np.append(begin, n))[run]


def _among_tested(trial: Trial, score: np.ndarray) -> Positions:
    """Each user's tested items against each other, by one sort."""
    order = np.lexsort((-score, trial.row))
    row, item, relevant = trial.row[order], trial.item[order], trial.relevant[order]
    first, size = runs(row)
    begin, tied = runs(row, score[order])
    above = begin - first
    chance = np.clip((trial.k - above) / tied, 0, 1)
    novelty = np.bincount(row, chance * trial.novelty[item]) / np.bincount(row, chance)
    missed = np.ones(len(trial.novelty))
    np.multiply.at(missed, item, 1 - chance)
    coverage = float(np.sum(1 - missed) / len(np.unique(item)))
    candidates, R = size[np.unique(row, return_index=True)[1]], np.bincount(row, relevant).astype(np.int64)
    return Positions(candidates, R, row[relevant], above[relevant], tied[relevant], novelty, coverage)


def _among_all(trial: Trial, model: Model, params: Params) -> Positions:
    """Each user's tested items against all that the user has not seen, in blocks of users on the device."""
    assert trial.seen is not None
    num_users, num_items = len(trial.user), len(trial.novelty)
    R = np.bincount(trial.row, trial.relevant, num_users).astype(np.int64)
    # Users with as many relevant items share a block, so that its loop over them wastes little.
    order = np.argsort(R, kind="stable")
    place = np.argsort(order)
    seen_place, seen_item = _by_place(place, *trial.seen)
    row, item = _by_place(place, trial.row[trial.relevant], trial.item[trial.relevant])
    nth = np.arange(len(row)) - runs(row)[0] if len(row) else row
    size = max(1, min(power_of_4(num_users), _CELLS // (num_items * _row_size(model, params, num_items))))
    most = min(power_of_4(int(R.max())), num_items)
    program = _compiled(model, num_items, min(trial.k, num_items))

    weight = trial.novelty.astype(jnp.result_type(float))

    def block(number: int) -> tuple[slice, tuple[np.ndarray, ...], Any]:
        """Which of the relevant candidates are in a block, what its program says, and which items are candidates."""
        begin = number * size
        users = order[begin : begin + size]
        hidden = np.zeros((size, num_items), bool)
        hidden[len(users) :] = True  # the last block's padding has no candidates
        own = slice(*np.searchsorted(seen_place, (begin, begin + size)))
        hidden[seen_place[own] - begin, seen_item[own]] = True
        own = slice(*np.searchsorted(row, (begin, begin + size)))
        asked = np.zeros((most, size), np.int32)
        asked[nth[own], row[own] - begin] = item[own]
        numbers = np.resize(trial.user[users], size).astype(np.int32)
        found = program(params, numbers, hidden, asked, np.int32(R[users].max()), weight)
        higher, equal, novelty, missing, finite = map(np.asarray, found)
        counted = (x[nth[own], row[own] - begin] for x in (higher, equal))
        return own, (*counted, novelty[: len(users)], missing, finite[: len(users)]), ~hidden.all(axis=0)

    above, tied = np.zeros((2, len(row)), np.int64)
    novelty, finite = np.zeros(num_users), np.zeros(num_users, bool)
    missed, possible = np.ones(num_items), np.zeros(num_items, bool)
    for number, (own, found, candidates) in enumerate(blocks(block, -(-num_users // size), num_threads())):
        users = slice(number * size, (number + 1) * size)
        above[own], tied[own], novelty[users], missing, finite[users] = found
        missed *= missing
        possible |= candidates
    _check_finite(model, trial, finite[place])
    coverage = float(np.sum(1 - missed) / possible.sum())
    return Positions(_num_candidates(trial), R, order[row], above, tied, novelty[place], coverage)


def _by_place(place: np.ndarray, row: np.ndarray, item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(place[row], kind="stable")
    return place[row][order], item[order]


def _row_size(model: Model, params: Params, num_items: int) -> int:
    """Numbers that one score takes: without `embed`, all of an item's row."""
    if model.embed is not None:
        return 1
    return max(1, sum(leaf.size for leaf in jax.tree.leaves(params.trained.item)) // num_items)


@of_model
def _compiled(model: Model, num_items: int, k: int) -> Any:
    """The program for one block: (m,) users, (m, num_items) what is hidden, (most, m) items asked for, how many."""

    @jit
    def rank(
        params: Params, users: jax.Array, hidden: jax.Array, items: jax.Array, count: jax.Array, novelty: jax.Array
    ) -> tuple[jax.Array, ...]:
        score = scores(model, params, users, num_items)
        score = score.astype(jnp.promote_types(score.dtype, jnp.float32))
        finite = jnp.isfinite(score).all(axis=1)
        score = jnp.where(hidden, jnp.finfo(score.dtype).min, score)
        # The least of the k, not the last: XLA on a CPU sorts the whole row for a slice of what top_k returns.
        last = jax.lax.top_k(score, k)[0].min(axis=1, keepdims=True)
        higher, tied = score > last, (score == last) & ~hidden
        room = (k - higher.sum(axis=1, keepdims=True)) / jnp.maximum(tied.sum(axis=1, keepdims=True), 1)
        chance = jnp.where(higher, 1, jnp.where(tied, room, 0)).astype(novelty.dtype)
        mean = jnp.sum(chance * novelty[None, :], axis=1) / jnp.maximum(chance.sum(axis=1), 1)

        def compare(r: jax.Array, found: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            own = jnp.take_along_axis(score, items[r][:, None], axis=1)
            counted = jnp.sum(score > own, axis=1), jnp.sum(score == own, axis=1)
            return found[0].at[r].set(counted[0].astype(jnp.int32)), found[1].at[r].set(counted[1].astype(jnp.int32))

        nothing = jnp.zeros(items.shape, jnp.int32)
        above, equal = jax.lax.fori_loop(0, count, compare, (nothing, nothing))
        return above, equal, mean, jnp.prod(1 - chance, axis=0), finite

    return rank


def _num_candidates(trial: Trial) -> np.ndarray:
    assert trial.seen is not None
    return len(trial.novelty) - np.bincount(trial.seen[0], minlength=len(trial.user))


def _check_finite(model: Model, trial: Trial, finite: np.ndarray) -> None:
    if not finite.all():
        raise ValueError(
            f"evaluate: {model.name!r} predicts numbers that are not finite for {np.sum(~finite)} user(s), the first "
            f"in row {trial.user[~finite][0]}: see whether its fit has diverged (fit.status), and use the parameters "
            "of one that did not"
        )
