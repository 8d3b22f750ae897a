"""Find the positions of relevant candidates: among the tested items on the host, among all items on the device."""

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

_CELLS = 1 << 18  # users × items ranked at once: on a CPU, larger blocks do not fit the cache and are slower


class Trial(NamedTuple):
    """What to rank and what is relevant, on the host; the same for all models.

    Attributes:
      user: (num_users,) indices of the evaluated users.
      user_id: (num_users,) their ids in tables.
      row: (n,) position in `user` of each tested candidate's user, ascending.
      item: (n,) the candidate's item.
      value: (n,) its rating.
      relevant: (n,) whether the rating reaches the threshold.
      novelty: (num_items,) novelty of each item, in bits.
      k: number of positions that count.
      seen: rows and items of the pairs that are not candidates, sorted by row; None if all candidates are tested pairs.
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
    """The positions of the relevant candidates.

    Attributes:
      candidates: (num_users,) number of candidates.
      relevant: (num_users,) number of relevant candidates.
      row: (p,) position in `Trial.user` of each relevant candidate's user.
      above: (p,) number of that user's candidates with a higher score.
      tied: (p,) number of that user's candidates with the same score, itself included.
      novelty: (num_users,) expected mean novelty of the first k candidates.
      coverage: expected share of all candidates that are among some user's first k.
    """

    candidates: np.ndarray
    relevant: np.ndarray
    row: np.ndarray
    above: np.ndarray
    tied: np.ndarray
    novelty: np.ndarray
    coverage: float


def rank_positions(trial: Trial, model: Model, params: Params) -> Positions:
    """Return the positions by the model's scores; raise ValueError if a score is not finite."""
    if trial.seen is not None:
        return _among_all(trial, model, params)
    score = predictions(model, params, Pairs(jnp.asarray(trial.user[trial.row]), jnp.asarray(trial.item)))
    _check_finite(model, trial, np.bincount(trial.row, ~np.isfinite(score), len(trial.user)) == 0)
    return _among_tested(trial, score)


def oracle(trial: Trial) -> Positions:
    """Return the positions by the tested ratings.

    Among all items, novelty and coverage are NaN, since the tested ratings do not order the other items.
    """
    tested = _among_tested(trial, trial.value)
    if trial.seen is None:
        return tested
    unknown = np.full(len(trial.user), np.nan)
    return tested._replace(candidates=_num_candidates(trial), novelty=unknown, coverage=np.nan)


def runs(*keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, per entry of sorted keys (n,), where its run of equal keys begins and how long the run is.

    >>> [x.tolist() for x in runs(np.array([3, 3, 5, 5, 5]), np.array([0, 1, 1, 1, 2]))]
    [[0, 1, 2, 2, 4], [1, 1, 2, 2, 1]]
    """
    n = len(keys[0])
    begins = np.ones(n, bool)
    begins[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    begin = np.flatnonzero(begins)
    run = np.cumsum(begins) - 1
    return begin[run], np.diff(np.append(begin, n))[run]


def _among_tested(trial: Trial, score: np.ndarray) -> Positions:
    """Rank each user's tested items against each other, by one sort."""
    order = np.lexsort((-score, trial.row))
    row, item, relevant = trial.row[order], trial.item[order], trial.relevant[order]
    user_begin, size = runs(row)
    tie_begin, tied = runs(row, score[order])
    above = tie_begin - user_begin
    chance = np.clip((trial.k - above) / tied, 0, 1)
    novelty = np.bincount(row, chance * trial.novelty[item]) / np.bincount(row, chance)
    missed = np.ones(len(trial.novelty))
    np.multiply.at(missed, item, 1 - chance)
    coverage = float(np.sum(1 - missed) / len(np.unique(item)))
    candidates, R = size[np.unique(row, return_index=True)[1]], np.bincount(row, relevant).astype(np.int64)
    return Positions(candidates, R, row[relevant], above[relevant], tied[relevant], novelty, coverage)


def _among_all(trial: Trial, model: Model, params: Params) -> Positions:
    """Rank each user's tested items against all items that the user has not seen, in blocks of users on the device."""
    assert trial.seen is not None
    num_users, num_items = len(trial.user), len(trial.novelty)
    R = np.bincount(trial.row, trial.relevant, num_users).astype(np.int64)
    # Users with about as many relevant items share a block, so that its loop over these wastes little.
    order = np.argsort(R, kind="stable")
    slot_of_user = np.argsort(order)
    seen_slot, seen_item = _by_slot(slot_of_user, *trial.seen)
    slot, item = _by_slot(slot_of_user, trial.row[trial.relevant], trial.item[trial.relevant])
    nth = np.arange(len(slot)) - runs(slot)[0] if len(slot) else slot
    size = max(1, min(power_of_4(num_users), _CELLS // (num_items * _row_size(model, params, num_items))))
    max_relevant = min(power_of_4(int(R.max())), num_items)
    program = _compiled(model, num_items, min(trial.k, num_items))

    weight = trial.novelty.astype(jnp.result_type(float))

    def block(index: int) -> tuple[slice, tuple[np.ndarray, ...], Any]:
        """Return the slice of relevant candidates in a block, its program's results, and which items are candidates."""
        begin = index * size
        users = order[begin : begin + size]
        hidden = np.zeros((size, num_items), bool)
        hidden[len(users) :] = True  # the padding of the last block has no candidates
        seen_part = slice(*np.searchsorted(seen_slot, (begin, begin + size)))
        hidden[seen_slot[seen_part] - begin, seen_item[seen_part]] = True
        part = slice(*np.searchsorted(slot, (begin, begin + size)))
        relevant = np.zeros((max_relevant, size), np.int32)
        relevant[nth[part], slot[part] - begin] = item[part]
        user = np.resize(trial.user[users], size).astype(np.int32)
        results = program(params, user, hidden, relevant, np.int32(R[users].max()), weight)
        higher, equal, novelty, missing, finite = map(np.asarray, results)
        counts = (x[nth[part], slot[part] - begin] for x in (higher, equal))
        return part, (*counts, novelty[: len(users)], missing, finite[: len(users)]), ~hidden.all(axis=0)

    above, tied = np.zeros((2, len(slot)), np.int64)
    novelty, finite = np.zeros(num_users), np.zeros(num_users, bool)
    missed, possible = np.ones(num_items), np.zeros(num_items, bool)
    for index, (part, results, candidates) in enumerate(blocks(block, -(-num_users // size), num_threads())):
        users = slice(index * size, (index + 1) * size)
        above[part], tied[part], novelty[users], missing, finite[users] = results
        missed *= missing
        possible |= candidates
    _check_finite(model, trial, finite[slot_of_user])
    coverage = float(np.sum(1 - missed) / possible.sum())
    return Positions(_num_candidates(trial), R, order[slot], above, tied, novelty[slot_of_user], coverage)


def _by_slot(slot_of_user: np.ndarray, row: np.ndarray, item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs as (slot, item), sorted by slot."""
    order = np.argsort(slot_of_user[row], kind="stable")
    return slot_of_user[row][order], item[order]


def _row_size(model: Model, params: Params, num_items: int) -> int:
    """Return how many numbers one score takes in memory: an item's whole row without `embed`, else 1."""
    if model.embed is not None:
        return 1
    total: int = sum(leaf.size for leaf in jax.tree.leaves(params.trained.item))
    return max(1, total // num_items)


@of_model
def _compiled(model: Model, num_items: int, k: int) -> Any:
    """Return the program for one block of users (m,).

    It takes a mask (m, num_items) of hidden items, the relevant items (p, m), and how many of the p rows to read.
    """

    @jit
    def rank(
        params: Params, users: jax.Array, hidden: jax.Array, items: jax.Array, count: jax.Array, novelty: jax.Array
    ) -> tuple[jax.Array, ...]:
        score = scores(model, params, users, num_items)
        score = score.astype(jnp.promote_types(score.dtype, jnp.float32))
        finite = jnp.isfinite(score).all(axis=1)
        score = jnp.where(hidden, jnp.finfo(score.dtype).min, score)
        # Take the minimum of the k, not the last: to slice the result of top_k, XLA on a CPU sorts the whole row.
        kth = jax.lax.top_k(score, k)[0].min(axis=1, keepdims=True)
        higher, tied = score > kth, (score == kth) & ~hidden
        room = (k - higher.sum(axis=1, keepdims=True)) / jnp.maximum(tied.sum(axis=1, keepdims=True), 1)
        chance = jnp.where(higher, 1, jnp.where(tied, room, 0)).astype(novelty.dtype)
        mean = jnp.sum(chance * novelty[None, :], axis=1) / jnp.maximum(chance.sum(axis=1), 1)

        def compare(r: jax.Array, counts: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            relevant = jnp.take_along_axis(score, items[r][:, None], axis=1)
            above, equal = jnp.sum(score > relevant, axis=1), jnp.sum(score == relevant, axis=1)
            return counts[0].at[r].set(above.astype(jnp.int32)), counts[1].at[r].set(equal.astype(jnp.int32))

        zeros = jnp.zeros(items.shape, jnp.int32)
        above, equal = jax.lax.fori_loop(0, count, compare, (zeros, zeros))
        return above, equal, mean, jnp.prod(1 - chance, axis=0), finite

    return rank


def _num_candidates(trial: Trial) -> np.ndarray:
    """Return each user's number of candidates, all items that are not seen."""
    assert trial.seen is not None
    return len(trial.novelty) - np.bincount(trial.seen[0], minlength=len(trial.user))


def _check_finite(model: Model, trial: Trial, finite: np.ndarray) -> None:
    """Raise ValueError unless the scores of every user are finite."""
    if not finite.all():
        raise ValueError(
            f"evaluate: {model.name!r} predicts numbers that are not finite for {np.sum(~finite)} user(s), the first "
            f"at row {trial.user[~finite][0]}; expected finite numbers: if its fit diverged (see fit.status), use the "
            "parameters of one that did not"
        )
