"""Per-sample stochastic gradient descent, exact and vectorized over conflict-free ratings."""

import heapq
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.checks import is_positive, is_positive_integer
from jaxmf.data.ratings import Ratings, take
from jaxmf.models.memoize import memoize
from jaxmf.models.model import Hyper, Model, Params, Rows, objective, row_weights, update_scale
from jaxmf.solvers.shuffle import shuffle
from jaxmf.solvers.solver import Problem, Solver, StepInfo

_SAFE = "promise_in_bounds"
# XLA takes a gather of few rows for work on the whole table, and handing half to a thread costs more than it saves.
_ONE_THREAD = (("xla_disable_hlo_passes", "cpu-parallel-task-assigner"),)
_BLOCK = 4
_FEW = 100_000  # ratings that are quickly put into matchings one by one


class Options(NamedTuple):
    """The static choices of `sgd` that a step reads."""

    schedule: Callable[[jax.Array], jax.Array] | None = None
    clip_update: float | None = None
    clip_value: float | None = None


@memoize
def sgd(
    batch_size: int | None = None,
    schedule: Callable[[jax.Array], jax.Array] | None = None,
    clip_update: float | None = None,
    clip_value: float | None = None,
) -> Solver:
    """Per-sample SGD: one rating at a time in a fresh order every epoch, computed many at a time.

    For each rating in turn, with all blocks taken from before the rating and the full learning rate,

        θ ← θ − lr · ∇ w[ℓ_ui + λ n_u^(ν−1) ‖p_u‖² + λ n_i^(ν−1) ‖q_i‖² + λ_b (n_u^(ν−1) b_u² + n_i^(ν−1) c_i²)]

    on the rows of u and i alone; the terms sum to the objective. Ratings that share no user and no item commute, so a
    matching of the rating graph is applied at once with the same result as one after another. `prepare` splits the
    ratings into matchings of at most `batch_size`, and an epoch visits the matchings in a random order. This *is* a
    serial order (`visiting_order`), drawn from fewer orders than a full shuffle has; it is not i.i.d. sampling.

    Args:
      batch_size: most ratings per matching. There are at least as many matchings as the largest number of ratings of a
        user or an item, so more than num_ratings / that number leaves lanes empty: see `fill`. None is the power of two
        nearest to it, between 32 and 256.
      schedule: factor on the learning rates as a function of the epochs done, such as
        `optax.exponential_decay(1.0, transition_steps=1, decay_rate=0.95)`; None keeps them.
      clip_update: clip every number of an update, learning rate included, to ± this; None does not.
      clip_value: clip every number of the rows that a rating has updated to ± this; None does not.

    Returns:
      a Solver for any model without trained `shared` leaves.

    Raises:
      ValueError: `batch_size` is not a positive integer, `schedule` not a function, or a bound not positive; at
        `check`, the model trains `shared` leaves, which every rating would touch.

    Cost: O(num_ratings · D) per epoch for rows of D numbers; `prepare` O(num_ratings · log(num_ratings)) on the
    host, the last max(100,000, batch_size²) ratings one by one.

    Reference: Gemulla et al. (2011), Large-scale matrix factorization with distributed SGD, for the interchangeability
    of ratings without a common row; Funk (2006) for the algorithm.
    """
    if batch_size is not None and not is_positive_integer(batch_size):
        raise ValueError(f"sgd: batch_size must be a positive integer or None, not {batch_size!r}")
    if schedule is not None and not callable(schedule):
        raise ValueError(f"sgd: schedule must be a function of the epochs done, or None, not {schedule!r}")
    for name, bound in (("clip_update", clip_update), ("clip_value", clip_value)):
        if bound is not None and not is_positive(bound):
            raise ValueError(f"sgd: {name} must be positive or None, not {bound!r}")

    def init(model: Model, params: Params, hyper: Hyper) -> tuple[jax.Array, ...]:
        return () if schedule is None else (jnp.zeros((), jnp.int32),)

    options = Options(schedule, clip_update, clip_value)
    return Solver(_prepare(batch_size), init, partial(_step, options=options), _check, "sgd", _arrange, _ONE_THREAD)


@memoize
def _prepare(batch_size: int | None) -> Callable[[Ratings], jax.Array]:
    # One function per batch size, whatever the other options are, so that these solvers share their layouts.
    def prepare(ratings: Ratings) -> jax.Array:
        user, item = np.asarray(ratings.user), np.asarray(ratings.item)
        return jnp.asarray(matchings(user, item, batch_size or _batch_size(user, item)))

    return prepare


def _batch_size(user: np.ndarray, item: np.ndarray) -> int:
    largest = max(np.bincount(user).max(initial=1), np.bincount(item).max(initial=1))
    return 1 << int(np.clip(np.round(np.log2(max(len(user), 1) / largest)), 5, 8))


def matchings(user: np.ndarray, item: np.ndarray, batch_size: int) -> np.ndarray:
    """Split ratings into matchings: no user and no item twice in a row of the result.

    Many ratings are split as Gemulla et al. do: users and items fall into `batch_size` groups with equally many ratings
    each, and of the blocks (group of users, group of items) those of one diagonal have no row in common, so that one
    rating of each makes a matching. What longer blocks of a diagonal have left over is split again, into other groups,
    until it is little: then ratings by decreasing larger degree, each into the first matching that has room and neither
    its user nor its item, which leaves fewest lanes empty.

    Args:
      user: (n,) int.
      item: (n,) int.
      batch_size: most ratings per matching.

    Returns:
      (num_matchings, batch_size) int32 positions; padding lanes hold n.

    >>> matchings(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[0, 2], [1, 3]]
    """
    n = len(user)
    random, left, parts = np.random.default_rng(0), np.arange(n), []
    while len(left) > max(_FEW, batch_size**2):
        layout, over = _diagonals(user[left], item[left], batch_size, random)
        parts.append(np.append(left, n)[layout])
        left = left[over]
    if len(left) or not parts:
        parts.append(np.append(left, n)[_first_fit(user[left], item[left], batch_size)])
    return np.concatenate(parts).astype(np.int32)


def _diagonals(
    user: np.ndarray, item: np.ndarray, batch_size: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Matchings of as many ratings of each block as its diagonal's blocks have on average, and what is left over."""
    own = _balanced(np.bincount(user), batch_size)[user]
    diagonal = (_balanced(np.bincount(item), batch_size)[item] - own) % batch_size
    block = diagonal * batch_size + own
    order = random.permutation(len(user))
    order = order[np.argsort(block[order], kind="stable")]
    size = np.bincount(block, minlength=batch_size**2)
    place = np.arange(len(user)) - (np.cumsum(size) - size)[block[order]]
    length = size.reshape(batch_size, batch_size).sum(axis=1) // batch_size
    fits = place < length[diagonal[order]]
    layout = np.full((length.sum(), batch_size), len(user))
    layout[((np.cumsum(length) - length)[diagonal[order]] + place)[fits], own[order[fits]]] = order[fits]
    return layout, order[~fits]


def _balanced(degree: np.ndarray, num_groups: int) -> np.ndarray:
    """The group of each row: by decreasing degree into the group that has the fewest ratings so far."""
    group = np.empty(len(degree), np.int64)
    loads = [(0, number) for number in range(num_groups)]
    for row in np.argsort(-degree, kind="stable").tolist():
        load, number = loads[0]
        group[row] = number
        heapq.heapreplace(loads, (load + int(degree[row]), number))
    return group


def _first_fit(user: np.ndarray, item: np.ndarray, batch_size: int) -> np.ndarray:
    n = len(user)
    degree = np.maximum(np.bincount(user)[user], np.bincount(item)[item]) if n else np.zeros(0, int)
    # One arbitrary-precision integer per row: bit s says that matching s has that row already.
    user_busy, item_busy, full = [0] * (int(user.max(initial=-1)) + 1), [0] * (int(item.max(initial=-1)) + 1), 0
    room: list[int] = []
    position, lane_of = np.empty(n, np.int64), np.empty(n, np.int64)
    users, items = user.tolist(), item.tolist()
    for r in np.argsort(-degree, kind="stable").tolist():
        u, i = users[r], items[r]
        busy = user_busy[u] | item_busy[i] | full
        bit = ~busy & (busy + 1)
        s = bit.bit_length() - 1
        user_busy[u] |= bit
        item_busy[i] |= bit
        if s == len(room):
            room.append(batch_size)
        position[r], lane_of[r] = s, batch_size - room[s]
        room[s] -= 1
        if room[s] == 0:
            full |= bit
    layout = np.full((max(len(room), 1), batch_size), n, np.int32)
    layout[position, lane_of] = np.arange(n)
    return layout


def fill(layout: jax.Array | np.ndarray, num_ratings: int) -> tuple[int, float]:
    """Number of matchings of a layout, and the share of its lanes that hold a rating."""
    return len(layout), float((np.asarray(layout) < num_ratings).mean())


def visiting_order(key: jax.Array, num_matchings: int) -> jax.Array:
    """The order in which one epoch visits the matchings: (num_matchings,)."""
    return shuffle(key, num_matchings)


def _check(model: Model, params: Params, hyper: Hyper) -> None:
    if jax.tree.leaves(params.trained.shared):
        raise ValueError(
            f"sgd: the model {model.name!r} trains `shared` leaves, which every rating touches, so no two ratings "
            "commute. Use solvers.minibatch, or move those leaves to `fixed`."
        )


class Matchings(NamedTuple):
    """The ratings in matchings, each array (num_matchings, batch_size); `share` is w n^(ν−1) of the user and the item.

    Padding lanes have weight 0 and rows of their own below the tables, since updates of equal rows would be undefined.
    """

    user: jax.Array
    item: jax.Array
    value: jax.Array
    weight: jax.Array
    share: Rows


def _arrange(problem: Problem, hyper: Hyper) -> Matchings:
    ratings, position = problem.ratings, problem.layout
    own = take(ratings, position)
    lane, inside = jnp.arange(position.shape[1], dtype=position.dtype), position < ratings.value.shape[0]
    share = row_weights(ratings, hyper.reg_exponent - 1)
    return Matchings(
        jnp.where(inside, own.user, ratings.num_users + lane),
        jnp.where(inside, own.item, ratings.num_items + lane),
        own.value,
        own.weight,
        Rows(own.weight * share.user[own.user], own.weight * share.item[own.item]),
    )


def _step(
    key: jax.Array,
    model: Model,
    params: Params,
    state: tuple[jax.Array, ...],
    problem: Problem,
    hyper: Hyper,
    options: Options,
) -> tuple[Params, tuple[jax.Array, ...], StepInfo]:
    layout: Matchings = problem.layout
    num_matchings, batch_size = layout.user.shape
    trained, fixed = params
    rate = jnp.asarray(hyper.learning_rate)
    if options.schedule is not None:
        rate = rate * jnp.asarray(options.schedule(state[0]), rate.dtype)
    rates = jax.tree.map(lambda scale: -rate * scale, update_scale(trained, hyper))
    tables = jax.tree.map(
        lambda rows: _in_blocks(jnp.pad(rows, [(0, batch_size)] + [(0, 0)] * (rows.ndim - 1))), trained
    )

    def loss(own: Rows, own_fixed: Rows, value: jax.Array, w: jax.Array, share: Rows) -> jax.Array:
        # A rating is the same model on its own two rows.
        own, own_fixed, share = jax.tree.map(lambda leaf: leaf[None], (own, own_fixed, share))
        first = jnp.zeros(1, jnp.int32)
        alone = Ratings(first, first, value[None], w[None], num_users=1, num_items=1)
        return objective(model, Params(own, own_fixed._replace(shared=fixed.shared)), alone, hyper, share)

    def apply(tables: Rows, number: jax.Array) -> tuple[Rows, None]:
        user, item, value, w, share = jax.tree.map(lambda leaf: leaf.at[number].get(mode=_SAFE), layout)
        blocks = _map_sides(lambda index, rows: rows.at[index].get(unique_indices=True, mode=_SAFE), user, item, tables)
        own = jax.tree.map(_as_rows, blocks, trained)
        own_fixed = _map_sides(lambda index, rows: rows.at[index].get(mode="clip"), user, item, fixed)
        pull = jax.vmap(jax.grad(loss))(own, own_fixed, value, w, share)
        change = jax.tree.map(lambda rate, p: (rate * p).astype(p.dtype), rates, pull)
        change = _clip(change, options.clip_update)
        if options.clip_value is None:
            return _map_sides(_add, user, item, tables, jax.tree.map(_in_blocks, change)), None
        after = _clip(jax.tree.map(jnp.add, own, change), options.clip_value)
        after = jax.tree.map(lambda new, old: jnp.where(_per_row(w > 0, old), new, old), after, own)
        return _map_sides(_set, user, item, tables, jax.tree.map(_in_blocks, after)), None

    tables, _ = jax.lax.scan(apply, tables, visiting_order(key, num_matchings))
    trained = jax.tree.map(lambda blocks, rows: _as_rows(blocks, rows)[: len(rows)], tables, trained)
    return Params(trained, fixed), jax.tree.map(lambda epochs: epochs + 1, state), StepInfo(jnp.array(False))


def _in_blocks(rows: jax.Array) -> jax.Array:
    """(n, …) as (n, blocks, 4), filled up with 0: XLA gathers such rows twice as fast on a CPU. (n,) stays."""
    if rows.ndim == 1:
        return rows
    flat = rows.reshape(len(rows), -1)
    return jnp.pad(flat, ((0, 0), (0, -flat.shape[1] % _BLOCK))).reshape(len(rows), -1, _BLOCK)


def _as_rows(blocks: jax.Array, like: jax.Array) -> jax.Array:
    """What was put in blocks, in the shape that `like` has beyond its rows."""
    if like.ndim == 1:
        return blocks
    return blocks.reshape(len(blocks), -1)[:, : like[0].size].reshape(-1, *like.shape[1:])


def _map_sides(function: Callable[..., jax.Array], user: Any, item: Any, *rows: Rows) -> Rows:
    """`function` of each side's argument and of every leaf there, alike in all `rows`; `shared` is left out."""
    sides = ((user, [r.user for r in rows]), (item, [r.item for r in rows]))
    return Rows(*(jax.tree.map(partial(function, argument), *trees) for argument, trees in sides))


def _add(index: jax.Array, table: jax.Array, rows: jax.Array) -> jax.Array:
    return table.at[index].add(rows, unique_indices=True, mode=_SAFE)


def _set(index: jax.Array, table: jax.Array, rows: jax.Array) -> jax.Array:
    return table.at[index].set(rows, unique_indices=True, mode=_SAFE)


def _clip(tree: Any, bound: float | None) -> Any:
    return tree if bound is None else jax.tree.map(lambda leaf: jnp.clip(leaf, -bound, bound), tree)


def _per_row(condition: jax.Array, leaf: jax.Array) -> jax.Array:
    return condition.reshape(-1, *[1] * (leaf.ndim - 1))
