"""Per-sample stochastic gradient descent, exact and vectorized over conflict-free ratings."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxmf.data.checks import is_positive, is_positive_integer
from jaxmf.data.ratings import Ratings
from jaxmf.kernels._matchings import AT_ONCE, Layout, Members, lay_out
from jaxmf.kernels._memoize import memoize
from jaxmf.kernels._shuffle import shuffle
from jaxmf.kernels.blocks import apart, as_rows, gather, in_blocks, scatter, scatter_add, slice_at
from jaxmf.kernels.devices import AXIS, all_gather, check_devices, ppermute, shard_map
from jaxmf.kernels.xla import LESS_OPTIMIZED, TWO_STEP_SUMS, without
from jaxmf.models._objective import objective
from jaxmf.models.leaves import update_scale
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, Rows
from jaxmf.models.promises import OWN_LOSS, SHARED_PENALTY
from jaxmf.solvers.matched import Arranged, Matchings, arrange_matchings
from jaxmf.solvers.solver import Machine, Problem, Solver, StepInfo

# On a CPU, XLA takes a gather of few rows for work on the whole table and hands half to a thread, which costs more than
# it saves.
_THREADS = "cpu-parallel-task-assigner"


class StepOptions(NamedTuple):
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
        a multiple of 16, or of 32 from 128 on, between 32 and 256; on several devices, that divided by their number.
      schedule: factor on the learning rates as a function of the epochs done, such as
        `optax.exponential_decay(1.0, transition_steps=1, decay_rate=0.95)`; None keeps them.
      clip_update: clip every number of an update, learning rate included, to ± this; None does not.
      clip_value: clip every number of the rows that a rating has updated to ± this; None does not.
      devices: how many of this process work at once, each on users of its own with the items of one group after another
        (Gemulla's strata, which take turns). On a CPU, a device per core: see `als`.

    Returns:
      a Solver for models without trained `shared` leaves whose loss of a rating reads no rows but its own two, and
      whose penalty is a sum over rows, each times its weight: `fit` and `sweep` try that with a user's model, and
      refuse it by name if it is not so.

    Raises:
      ValueError: `batch_size` or `devices` is not a positive integer, there are fewer devices, `schedule` is not a
        function, or a bound not positive; at `check`, the model trains `shared` leaves, which every rating would touch.

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
    step = partial(_step, options=StepOptions(schedule, clip_update, clip_value, devices))
    setup = partial(arrange_matchings, devices=devices)
    machine = Machine((*without(_THREADS, TWO_STEP_SUMS), LESS_OPTIMIZED), devices, column_seconds=7e-10)
    promises = OWN_LOSS, SHARED_PENALTY
    return Solver(_prepare(batch_size, devices), init, step, _check, "sgd", setup, machine=machine, promises=promises)


@memoize
def _prepare(batch_size: int | None, devices: int) -> Callable[[Ratings], Layout]:
    # One function per batch size, whatever the other options are, so that these solvers share their layouts.
    def prepare(ratings: Ratings) -> Layout:
        user, item = np.asarray(ratings.user), np.asarray(ratings.item)
        return jax.tree.map(jnp.asarray, lay_out(user, item, ratings.num_users, ratings.num_items, batch_size, devices))

    return prepare


def visiting_order(key: jax.Array, num_matchings: jax.typing.ArrayLike, most: int) -> jax.Array:
    """The order in which one epoch visits the matchings of each stratum, and behind them the empty ones: (most,)."""
    return shuffle(key, num_matchings, most)


def _check(model: Model, params: Params, hyper: Hyper, context: Any) -> None:
    if jax.tree.leaves(params.trained.shared):
        raise ValueError(
            f"sgd: the model {model.name!r} trains `shared` leaves, which every rating touches, so no two ratings "
            "commute. Use solvers.minibatch, or move those leaves to `fixed`."
        )
    if model.reads == "tables":
        raise ValueError(
            f"sgd: the model {model.name!r} reads whole tables (its `reads` is 'tables'), so no two ratings commute. "
            "Use solvers.minibatch."
        )
    if model.draw is not None:
        raise ValueError(
            f"sgd: the model {model.name!r} draws (it has a `draw`), and the order of ratings that commute is laid out "
            "before. Use solvers.minibatch."
        )
    if model.background is not None:
        raise ValueError(
            f"sgd: the model {model.name!r} has a `background`, of which no rating has a share. Use solvers.minibatch."
        )


def _step(
    key: jax.Array,
    model: Model,
    params: Params,
    state: tuple[jax.Array, ...],
    problem: Problem,
    hyper: Hyper,
    options: StepOptions,
) -> tuple[Params, tuple[jax.Array, ...], StepInfo]:
    constants: Arranged = problem.constants
    rate = jnp.asarray(hyper.learning_rate)
    if options.schedule is not None:
        rate = rate * jnp.asarray(options.schedule(state[0]), rate.dtype)
    rates = jax.tree.map(lambda scale: -rate * scale, update_scale(params.trained, hyper))
    order = visiting_order(key, constants.num_matchings, constants.matchings.user.shape[2])
    epoch = shard_map(
        partial(_epoch, model=model, options=options),
        options.devices,
        (PartitionSpec(None, AXIS), PartitionSpec(AXIS), *[PartitionSpec()] * 3),
    )
    found = epoch(constants.matchings, constants.members, order, constants.num_matchings, (params, rates, hyper))
    trained = _map_sides(lambda place, rows: rows[place], constants.place.user, constants.place.item, found)
    return Params(trained, params.fixed), jax.tree.map(lambda epochs: epochs + 1, state), StepInfo(jnp.array(False))


class _Device(NamedTuple):
    """What a device reads in an epoch: its matchings, one after another, and what all devices have."""

    matchings: Matchings
    params: Params
    rates: Rows
    hyper: Hyper
    model: Model
    options: StepOptions


def _epoch(
    matchings: Matchings,
    members: Members,
    order: jax.Array,
    num_matchings: jax.Array,
    given: tuple[Params, Rows, Hyper],
    model: Model,
    options: StepOptions,
) -> Rows:
    """The rows of all groups after what each device does: its users with its items, then with the next device's."""
    strata, _, most, batch_size = matchings.user.shape
    matchings = jax.tree.map(lambda leaf: leaf.reshape(strata * most, *leaf.shape[3:]), matchings)
    device, trained = _Device(matchings, *given, model, options), given[0].trained
    apply = partial(_apply, device)

    def apply_some(tables: Rows, some: tuple[jax.Array, jax.Array]) -> tuple[Rows, None]:
        first, at = some

        def visited(tables: Rows) -> Rows:
            return jax.lax.scan(apply, tables, at)[0]

        return jax.lax.cond(first < num_matchings, visited, lambda tables: tables, tables), None

    def visit(tables: Rows, first: jax.Array) -> tuple[Rows, None]:
        # Which are empty is told by counting, so that under a `vmap` over keys it is one condition for all.
        some = jnp.arange(0, most, AT_ONCE, dtype=order.dtype), (first + order).reshape(-1, AT_ONCE)
        tables, _ = jax.lax.scan(apply_some, tables, some)
        return tables._replace(item=ppermute(tables.item, options.devices)), None

    tables = _map_sides(partial(_table, batch_size), members.user[0], members.item[0], trained)
    tables, _ = jax.lax.scan(visit, tables, most * jnp.arange(strata, dtype=order.dtype))
    own = jax.tree.map(lambda blocks, rows: as_rows(blocks, rows)[:-batch_size], tables, trained)
    return all_gather(own, options.devices)


def _apply(device: _Device, tables: Rows, at: jax.Array) -> tuple[Rows, None]:
    """The tables after one matching: its rows are read, changed and written."""
    rows, *found = apart(partial(_read, device))(tables, at)
    change = apart(partial(_change, device))(*found)
    return apart(partial(_write, device.options))(tables, rows, change), None


def _read(device: _Device, tables: Rows, at: jax.Array) -> tuple[Rows, Rows, Rows, jax.Array, Any]:
    """Where the rows of the matching's ratings are, these rows, trained and fixed, and the ratings' numbers."""
    user, item, ids, numbers, context = jax.tree.map(lambda leaf: slice_at(leaf, at), device.matchings)
    blocks, fixed = _map_sides(gather, user, item, tables), device.params.fixed
    own_fixed = _map_sides(lambda index, rows: rows.at[index].get(mode="clip"), ids.user, ids.item, fixed)
    return Rows(user, item), blocks, own_fixed, numbers, context


def _change(device: _Device, blocks: Rows, own_fixed: Rows, numbers: jax.Array, context: Any) -> Rows:
    """What each rating adds to its own two rows; with a bound on values, what they become."""
    (trained, fixed), hyper, model, options = device.params, device.hyper, device.model, device.options

    def loss(own: Rows, own_fixed: Rows, value: jax.Array, w: jax.Array, share: Rows, context: Any) -> jax.Array:
        # A rating is the same model on its own two rows.
        own, own_fixed, share, context = jax.tree.map(lambda leaf: leaf[None], (own, own_fixed, share, context))
        first = jnp.zeros(1, jnp.int32)
        alone = Ratings(first, first, value[None], w[None], num_users=1, num_items=1, context=context)
        return objective(model, Params(own, own_fixed._replace(shared=fixed.shared)), alone, hyper, share)

    value, w, share_user, share_item = numbers
    own = jax.tree.map(as_rows, blocks, trained)
    pull = jax.vmap(jax.grad(loss))(own, own_fixed, value, w, Rows(share_user, share_item), context)
    step = _clip(jax.tree.map(lambda rate, p: (rate * p).astype(p.dtype), device.rates, pull), options.clip_update)
    if options.clip_value is None:
        return jax.tree.map(in_blocks, step)
    after = _clip(jax.tree.map(jnp.add, own, step), options.clip_value)
    after = jax.tree.map(lambda new, old: jnp.where(_per_row(w > 0, old), new, old), after, own)
    return jax.tree.map(in_blocks, after)


def _write(options: StepOptions, tables: Rows, at: Rows, new: Rows) -> Rows:
    """The tables with what `_change` returned."""
    return _map_sides(scatter_add if options.clip_value is None else scatter, at.user, at.item, tables, new)


def _table(batch_size: int, members: jax.Array, rows: jax.Array) -> jax.Array:
    """The rows of a group, and below them one for each padding lane, in blocks."""
    own = rows.at[members].get(mode="clip")
    return in_blocks(jnp.pad(own, [(0, batch_size)] + [(0, 0)] * (rows.ndim - 1)))


def _map_sides(function: Callable[..., jax.Array], user: Any, item: Any, *rows: Rows) -> Rows:
    """`function` of each side's argument and of every leaf there, alike in all `rows`; `shared` is left out."""
    sides = ((user, [r.user for r in rows]), (item, [r.item for r in rows]))
    return Rows(*(jax.tree.map(partial(function, argument), *trees) for argument, trees in sides))


def _clip(tree: Any, bound: float | None) -> Any:
    return tree if bound is None else jax.tree.map(lambda leaf: jnp.clip(leaf, -bound, bound), tree)


def _per_row(condition: jax.Array, leaf: jax.Array) -> jax.Array:
    return condition.reshape(-1, *[1] * (leaf.ndim - 1))
