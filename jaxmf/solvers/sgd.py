"""Per-sample stochastic gradient descent, exact and vectorized over conflict-free ratings."""

import heapq
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxmf.data.checks import is_positive, is_positive_integer
from jaxmf.data.ratings import Ratings, take
from jaxmf.models.memoize import memoize
from jaxmf.models.model import Hyper, Model, Params, Rows, objective, row_weights, update_scale
from jaxmf.solvers.devices import AXIS, check_devices, from_next, of_all, split, spread
from jaxmf.solvers.shuffle import shuffle
from jaxmf.solvers.solver import Problem, Solver, StepInfo

_SAFE = "promise_in_bounds"
# On a CPU, XLA takes a gather of few rows for work on the whole table and hands half to a thread, which costs more than
# it saves; and it sums more than 32 products in two steps, which takes twice as long.
_COMPILER_OPTIONS = (("xla_disable_hlo_passes", "cpu-parallel-task-assigner,tree_reduction_rewriter"),)
_BLOCK = 4
_FEW = 100_000  # ratings that are quickly put into matchings one by one
_TRIED = 8  # times as many lanes of earlier matchings are looked at for them


class Layout(NamedTuple):
    """Positions of the ratings in matchings, and who has which rows.

    Attributes:
      position: (strata, devices, num_matchings, batch_size) int32; padding lanes hold n.
      members: the users and the items of each device's group, (devices, rows), filled up with their number.
    """

    position: Any
    members: Rows


class Options(NamedTuple):
    """The static choices of `sgd` that a step reads."""

    schedule: Callable[[jax.Array], jax.Array] | None = None
    clip_update: float | None = None
    clip_value: float | None = None
    devices: int = 1


@memoize
def sgd(
    batch_size: int | None = None,
    schedule: Callable[[jax.Array], jax.Array] | None = None,
    clip_update: float | None = None,
    clip_value: float | None = None,
    devices: int = 1,
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
        user or an item, so more than num_ratings / that number leaves lanes empty: see `fill`. None is as many, down to
        a multiple of 8, between 32 and 256; on several devices, that divided by their number.
      schedule: factor on the learning rates as a function of the epochs done, such as
        `optax.exponential_decay(1.0, transition_steps=1, decay_rate=0.95)`; None keeps them.
      clip_update: clip every number of an update, learning rate included, to ± this; None does not.
      clip_value: clip every number of the rows that a rating has updated to ± this; None does not.
      devices: how many of this process work at once, each on users of its own with the items of one group after another
        (Gemulla's strata, which take turns). On a CPU, a device per core: see `als`.

    Returns:
      a Solver for any model without trained `shared` leaves.

    Raises:
      ValueError: fewer devices than asked, `batch_size` is not a positive integer, `schedule` not a function, or a bound not positive; at
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

    check_devices("sgd", devices)
    step = partial(_step, options=Options(schedule, clip_update, clip_value, devices))
    arrange = partial(_arrange, devices=devices)
    return Solver(_prepare(batch_size, devices), init, step, _check, "sgd", arrange, _COMPILER_OPTIONS, devices)


@memoize
def _prepare(batch_size: int | None, devices: int) -> Callable[[Ratings], Layout]:
    # One function per batch size, whatever the other options are, so that these solvers share their layouts.
    def prepare(ratings: Ratings) -> Layout:
        user, item = np.asarray(ratings.user), np.asarray(ratings.item)
        users, items = np.bincount(user, minlength=ratings.num_users), np.bincount(item, minlength=ratings.num_items)
        largest = max(users.max(initial=1), items.max(initial=1))
        size = batch_size or int(np.clip(len(user) // (largest * devices) // 8 * 8, 32, 256))
        group = Rows(_balanced(users, devices), _balanced(items, devices))
        position = _strata(user, item, group.user[user], group.item[item], devices, size)
        return jax.tree.map(jnp.asarray, Layout(position, Rows(*(_members(own, devices) for own in group[:2]))))

    return prepare


def _strata(
    user: np.ndarray, item: np.ndarray, user_group: np.ndarray, item_group: np.ndarray, devices: int, batch_size: int
) -> np.ndarray:
    """Matchings of every block: in stratum s, device d has users of group d and items of group d + s."""
    n, parts = len(user), []
    for stratum in range(devices):
        for device in range(devices):
            own = np.flatnonzero((user_group == device) & (item_group == (device + stratum) % devices))
            parts.append(np.append(own, n)[matchings(user[own], item[own], batch_size)])
    longest = max(map(len, parts))
    padded = [np.pad(part, ((0, longest - len(part)), (0, 0)), constant_values=n) for part in parts]
    return np.stack(padded).reshape(devices, devices, longest, batch_size).astype(np.int32)


def _members(group: np.ndarray, devices: int) -> np.ndarray:
    """The rows of each group, (devices, most in a group), filled up with the number of rows."""
    rows = [np.flatnonzero(group == own) for own in range(devices)]
    most = max(map(len, rows))
    return np.stack([np.pad(own, (0, most - len(own)), constant_values=len(group)) for own in rows]).astype(np.int32)


def matchings(user: np.ndarray, item: np.ndarray, batch_size: int) -> np.ndarray:
    """Split ratings into matchings: no user and no item twice in a row of the result.

    Many ratings are split as Gemulla et al. do: users and items fall into `batch_size` groups with equally many ratings
    each, and of the blocks (group of users, group of items) those of one diagonal have no row in common, so that one
    rating of each makes a matching. What longer blocks of a diagonal have left over is split again, into other groups,
    until it is little: then ratings by decreasing larger degree, each into the first matching that has room and neither
    its user nor its item, be it an earlier one, which leaves fewest lanes empty.

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
    random, left, parts = np.random.default_rng(0), np.arange(n), [np.empty((0, batch_size), np.int64)]
    while len(left) > max(_FEW, batch_size**2):
        layout, over = _diagonals(user[left], item[left], batch_size, random)
        parts.append(np.append(left, n)[layout])
        left = left[over]
    some = _TRIED * len(left) // batch_size
    parts[-1:] = [parts[-1][some:], _first_fit(user, item, left, parts[-1][:some])]
    layout = np.concatenate(parts).astype(np.int32)
    return layout if len(layout) else np.full((1, batch_size), n, np.int32)


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


def _first_fit(user: np.ndarray, item: np.ndarray, left: np.ndarray, layout: np.ndarray) -> np.ndarray:
    """The layout with the ratings that are left, in empty lanes or in matchings after it."""
    n, batch_size = len(user), layout.shape[1]
    degree = np.maximum(np.bincount(user[left])[user[left]], np.bincount(item[left])[item[left]]) if len(left) else left
    # One arbitrary-precision integer per row: bit s says that matching s has that row already.
    user_busy, item_busy = _busy(user, left, layout), _busy(item, left, layout)
    free = [np.flatnonzero(lanes == n)[::-1].tolist() for lanes in layout]
    full = sum(1 << s for s, lanes in enumerate(free) if not lanes)
    found = []
    for r in left[np.argsort(-degree, kind="stable")].tolist():
        u, i = user[r], item[r]
        busy = user_busy[u] | item_busy[i] | full
        bit = ~busy & (busy + 1)
        s = bit.bit_length() - 1
        user_busy[u] |= bit
        item_busy[i] |= bit
        if s == len(free):
            free.append(list(range(batch_size))[::-1])
        found.append((s, free[s].pop(), r))
        if not free[s]:
            full |= bit
    layout = np.pad(layout, ((0, len(free) - len(layout)), (0, 0)), constant_values=n)
    matching, lane, rating = np.array(found, int).reshape(-1, 3).T
    layout[matching, lane] = rating
    return layout


def _busy(row: np.ndarray, left: np.ndarray, layout: np.ndarray) -> dict[int, int]:
    rows = np.unique(row[left])
    busy = np.zeros((len(rows), len(layout)), bool)
    matching, lane = np.nonzero(np.isin(np.append(row, -1)[layout], rows))
    busy[np.searchsorted(rows, row[layout[matching, lane]]), matching] = True
    packed = np.packbits(busy, axis=1, bitorder="little")
    return {int(own): int.from_bytes(bits.tobytes(), "little") for own, bits in zip(rows, packed, strict=True)}


def fill(layout: Layout, num_ratings: int) -> tuple[int, float]:
    """Number of matchings that a device visits in an epoch, and the share of their lanes that hold a rating."""
    position = np.asarray(layout.position)
    return position.shape[0] * position.shape[2], float((position < num_ratings).mean())


def visiting_order(key: jax.Array, num_matchings: int) -> jax.Array:
    """The order in which one epoch visits the matchings of each block: (num_matchings,)."""
    return shuffle(key, num_matchings)


def _check(model: Model, params: Params, hyper: Hyper) -> None:
    if jax.tree.leaves(params.trained.shared):
        raise ValueError(
            f"sgd: the model {model.name!r} trains `shared` leaves, which every rating touches, so no two ratings "
            "commute. Use solvers.minibatch, or move those leaves to `fixed`."
        )


class Matchings(NamedTuple):
    """The ratings in matchings, each array (strata, devices, num_matchings, batch_size).

    Attributes:
      user, item: where the rows stand in the tables of their group. Padding lanes have weight 0 and rows of their own
        below the tables, since updates of equal rows would be undefined.
      value, weight: of the ratings.
      share: w n^(ν−1) of the user and the item.
      ids: the rows themselves, any for padding lanes.
    """

    user: jax.Array
    item: jax.Array
    value: jax.Array
    weight: jax.Array
    share: Rows
    ids: Rows


class Arranged(NamedTuple):
    """What no epoch changes: the ratings in matchings, the rows of each group as in `Layout`, and where each row stands
    among these.
    """

    matchings: Matchings
    members: Rows
    place: Rows


def _arrange(problem: Problem, hyper: Hyper, devices: int) -> Arranged:
    ratings, (position, members) = problem.ratings, problem.layout
    own = take(ratings, position)
    lane, inside = jnp.arange(position.shape[-1], dtype=position.dtype), position < ratings.value.shape[0]
    share = row_weights(ratings, hyper.reg_exponent - 1)
    place = Rows(_place(members.user, ratings.num_users), _place(members.item, ratings.num_items))

    def local(place: jax.Array, row: jax.Array, size: int) -> jax.Array:
        return jnp.where(inside, place[row] % size, size + lane)

    cells = Matchings(
        local(place.user, own.user, members.user.shape[1]),
        local(place.item, own.item, members.item.shape[1]),
        own.value,
        own.weight,
        Rows(own.weight * share.user[own.user], own.weight * share.item[own.item]),
        Rows(own.user, own.item),
    )
    return Arranged(split(cells, devices, PartitionSpec(None, AXIS)), members, place)


def _place(members: jax.Array, num_rows: int) -> jax.Array:
    flat = members.reshape(-1)
    return jnp.zeros(num_rows, flat.dtype).at[flat].set(jnp.arange(flat.size, dtype=flat.dtype), mode="drop")


def _step(
    key: jax.Array,
    model: Model,
    params: Params,
    state: tuple[jax.Array, ...],
    problem: Problem,
    hyper: Hyper,
    options: Options,
) -> tuple[Params, tuple[jax.Array, ...], StepInfo]:
    layout: Arranged = problem.layout
    rate = jnp.asarray(hyper.learning_rate)
    if options.schedule is not None:
        rate = rate * jnp.asarray(options.schedule(state[0]), rate.dtype)
    rates = jax.tree.map(lambda scale: -rate * scale, update_scale(params.trained, hyper))
    order = visiting_order(key, layout.matchings.user.shape[2])
    epoch = spread(
        partial(_epoch, model=model, options=options),
        options.devices,
        (PartitionSpec(None, AXIS), PartitionSpec(AXIS), *[PartitionSpec()] * 4),
    )
    found = epoch(layout.matchings, layout.members, order, params, rates, hyper)
    trained = _map_sides(lambda place, rows: rows[place], layout.place.user, layout.place.item, found)
    return Params(trained, params.fixed), jax.tree.map(lambda epochs: epochs + 1, state), StepInfo(jnp.array(False))


def _epoch(
    matchings: Matchings,
    members: Rows,
    order: jax.Array,
    params: Params,
    rates: Rows,
    hyper: Hyper,
    model: Model,
    options: Options,
) -> Rows:
    """The rows of all groups after what each device does: its users with its items, then with the next device's."""
    (trained, fixed), devices, batch_size = params, options.devices, matchings.user.shape[3]

    def loss(own: Rows, own_fixed: Rows, value: jax.Array, w: jax.Array, share: Rows) -> jax.Array:
        # A rating is the same model on its own two rows.
        own, own_fixed, share = jax.tree.map(lambda leaf: leaf[None], (own, own_fixed, share))
        first = jnp.zeros(1, jnp.int32)
        alone = Ratings(first, first, value[None], w[None], num_users=1, num_items=1)
        return objective(model, Params(own, own_fixed._replace(shared=fixed.shared)), alone, hyper, share)

    def apply(tables: Rows, number: jax.Array, stratum: Matchings) -> tuple[Rows, None]:
        user, item, value, w, share, ids = jax.tree.map(lambda leaf: leaf.at[number].get(mode=_SAFE), stratum)
        blocks = _map_sides(lambda index, rows: rows.at[index].get(unique_indices=True, mode=_SAFE), user, item, tables)
        own = jax.tree.map(_as_rows, blocks, trained)
        own_fixed = _map_sides(lambda index, rows: rows.at[index].get(mode="clip"), ids.user, ids.item, fixed)
        pull = jax.vmap(jax.grad(loss))(own, own_fixed, value, w, share)
        change = jax.tree.map(lambda rate, p: (rate * p).astype(p.dtype), rates, pull)
        change = _clip(change, options.clip_update)
        if options.clip_value is None:
            return _map_sides(_add, user, item, tables, jax.tree.map(_in_blocks, change)), None
        after = _clip(jax.tree.map(jnp.add, own, change), options.clip_value)
        after = jax.tree.map(lambda new, old: jnp.where(_per_row(w > 0, old), new, old), after, own)
        return _map_sides(_set, user, item, tables, jax.tree.map(_in_blocks, after)), None

    def visit(tables: Rows, stratum: Matchings) -> tuple[Rows, None]:
        tables, _ = jax.lax.scan(partial(apply, stratum=stratum), tables, order)
        return tables._replace(item=from_next(tables.item, devices)), None

    tables = _map_sides(partial(_gathered, batch_size), members.user[0], members.item[0], trained)
    tables, _ = jax.lax.scan(visit, tables, jax.tree.map(lambda leaf: leaf[:, 0], matchings))
    own = jax.tree.map(lambda blocks, rows: _as_rows(blocks, rows)[:-batch_size], tables, trained)
    return of_all(own, devices)


def _gathered(batch_size: int, members: jax.Array, rows: jax.Array) -> jax.Array:
    own = rows.at[members].get(mode="clip")
    return _in_blocks(jnp.pad(own, [(0, batch_size)] + [(0, 0)] * (rows.ndim - 1)))


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
