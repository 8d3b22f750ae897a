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
from jaxmf.kernels.blocks import as_call, as_rows, gather, in_blocks, scatter, scatter_add, slice_at
from jaxmf.kernels.devices import AXIS, all_gather, check_devices, ppermute, shard_map
from jaxmf.kernels.xla import LESS_OPTIMIZED, TWO_STEP_SUMS, without
from jaxmf.models._objective import objective
from jaxmf.models.leaves import update_scale
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, Rows
from jaxmf.models.promises import OWN_LOSS, SHARED_PENALTY
from jaxmf.solvers.matched import Arranged, Matchings, arrange_matchings
from jaxmf.solvers.solver import Machine, Problem, Solver, StepInfo

# On a CPU, this pass of XLA mistakes a gather of few rows for work on the whole table and gives half of it to another
# thread, which costs more than it saves.
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
    """Per-sample SGD: one rating at a time, in a fresh order every epoch, but computed many at a time.

    For each rating in turn, with both rows as they were before the rating and the full learning rate,

        θ ← θ − lr · ∇ w[ℓ_ui + λ n_u^(ν−1) ‖p_u‖² + λ n_i^(ν−1) ‖q_i‖² + λ_b (n_u^(ν−1) b_u² + n_i^(ν−1) c_i²)]

    for the rows of u and i alone; the terms sum to the objective. Ratings that share no user and no item commute. So a
    matching of the rating graph can be applied at once, with the same result as one rating after another. `prepare`
    splits the ratings into matchings of at most `batch_size`, and an epoch visits the matchings in a random order. This
    *is* a serial order (`visiting_order`), drawn from fewer orders than a full shuffle has; it is not i.i.d. sampling.

    Args:
      batch_size: maximum number of ratings per matching. There are at least as many matchings as the most active user
        or item has ratings, so a batch_size above num_ratings / that number leaves lanes empty. None takes
        this quotient, per device, rounded down to a multiple of 16, or of 32 from 128 on, between 32 and 256.
      schedule: function of the number of epochs done that returns a factor for the learning rates, such as
        `optax.exponential_decay(1.0, transition_steps=1, decay_rate=0.95)`; None keeps the rates constant.
      clip_update: bound on the absolute value of every number of an update, learning rate included; None for no bound.
      clip_value: bound on the absolute value of every number of the rows that a rating updates; None for no bound.
      devices: number of local devices that work at once, each on its own group of users and with one group of items
        after another (Gemulla's strata). On a CPU, each core may be a device: see `als`.

    Returns:
      a Solver for models without trained `shared` leaves, whose loss of a rating reads only the rating's own two rows,
      and whose penalty is a sum over rows, each times its weight. `fit` and `sweep` check this with a user's model, and
      name the model if they refuse it.

    Raises:
      ValueError: `batch_size` or `devices` is not a positive integer, there are too few devices, `schedule` is not a
        function, or a bound is not positive; at `check`, the model trains `shared` leaves, which every rating would
        touch, reads whole tables, draws, or has a `background`.

    Cost: O(num_ratings · D) per epoch for rows of D numbers; `prepare` O(num_ratings · log(num_ratings)) on the host,
    where the last max(100,000, batch_size²) ratings are placed one by one.

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
    # Solvers that differ in other options only get the same function here, so that they share their layouts.
    def prepare(ratings: Ratings) -> Layout:
        user, item = np.asarray(ratings.user), np.asarray(ratings.item)
        layout = lay_out(user, item, ratings.num_users, ratings.num_items, batch_size, devices)
        on_device: Layout = jax.tree.map(jnp.asarray, layout)
        return on_device

    return prepare


def visiting_order(key: jax.Array, num_matchings: jax.typing.ArrayLike, most: int) -> jax.Array:
    """Return the order (most,) in which an epoch visits the matchings of each stratum, followed by the empty ones."""
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
            f"sgd: the model {model.name!r} draws (it has a `draw`), but sgd plans before the first draw which ratings "
            "commute. Use solvers.minibatch."
        )
    if model.background is not None:
        raise ValueError(
            f"sgd: the model {model.name!r} has a `background`, which is no sum over ratings. Use solvers.minibatch."
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
    rows = epoch(constants.matchings, constants.members, order, constants.num_matchings, (params, rates, hyper))
    trained = _map_sides(lambda slot, leaf: leaf[slot], constants.slot.user, constants.slot.item, rows)
    return Params(trained, params.fixed), jax.tree.map(lambda epochs: epochs + 1, state), StepInfo(jnp.array(False))


class _Device(NamedTuple):
    """What a device reads in an epoch: its matchings in a row, and what is replicated on all devices."""

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
    replicated: tuple[Params, Rows, Hyper],
    model: Model,
    options: StepOptions,
) -> Rows:
    """Return the rows of all groups after each device has visited its users with its items, then with the next's."""
    strata, _, max_matchings, batch_size = matchings.user.shape
    in_a_row: Matchings = jax.tree.map(lambda leaf: leaf.reshape(strata * max_matchings, *leaf.shape[3:]), matchings)
    device, trained = _Device(in_a_row, *replicated, model, options), replicated[0].trained
    apply = partial(_apply, device)

    def visit_some(tables: Rows, some: tuple[jax.Array, jax.Array]) -> tuple[Rows, None]:
        first, indices = some

        def visit_all(tables: Rows) -> Rows:
            visited: Rows = jax.lax.scan(apply, tables, indices)[0]
            return visited

        return jax.lax.cond(first < num_matchings, visit_all, lambda tables: tables, tables), None

    def visit_stratum(tables: Rows, first: jax.Array) -> tuple[Rows, None]:
        # Counting tells which matchings are empty, so that under a `vmap` over keys the condition is the same for all.
        some = jnp.arange(0, max_matchings, AT_ONCE, dtype=order.dtype), (first + order).reshape(-1, AT_ONCE)
        tables, _ = jax.lax.scan(visit_some, tables, some)
        return tables._replace(item=ppermute(tables.item, options.devices)), None

    tables = _map_sides(partial(_table, batch_size), members.user[0], members.item[0], trained)
    tables, _ = jax.lax.scan(visit_stratum, tables, max_matchings * jnp.arange(strata, dtype=order.dtype))
    rows = jax.tree.map(lambda blocks, leaf: as_rows(blocks, leaf)[:-batch_size], tables, trained)
    gathered: Rows = all_gather(rows, options.devices)
    return gathered


def _apply(device: _Device, tables: Rows, index: jax.Array) -> tuple[Rows, None]:
    """Apply one matching: read its rows, compute their changes, write them."""
    slots, *read = as_call(partial(_read, device))(tables, index)
    change = as_call(partial(_change, device))(*read)
    return as_call(partial(_write, device.options))(tables, slots, change), None


def _read(device: _Device, tables: Rows, index: jax.Array) -> tuple[Rows, Rows, Rows, jax.Array, Any]:
    """Return the slots of a matching's rows, these rows (trained, in blocks, and fixed), and the ratings' numbers."""
    user, item, ids, numbers, context = jax.tree.map(lambda leaf: slice_at(leaf, index), device.matchings)
    blocks = _map_sides(gather, user, item, tables)
    fixed = _map_sides(lambda row, leaf: leaf.at[row].get(mode="clip"), ids.user, ids.item, device.params.fixed)
    return Rows(user, item), blocks, fixed, numbers, context


def _change(device: _Device, blocks: Rows, fixed: Rows, numbers: jax.Array, context: Any) -> Rows:
    """Return what each rating adds to its own two rows; with a bound on values, the rows' new values."""
    params, hyper, model, options = device.params, device.hyper, device.model, device.options

    def loss(trained: Rows, fixed: Rows, value: jax.Array, w: jax.Array, share: Rows, context: Any) -> jax.Array:
        # One rating is the same model, on the rating's own two rows.
        trained, fixed, share, context = jax.tree.map(lambda leaf: leaf[None], (trained, fixed, share, context))
        zero = jnp.zeros(1, jnp.int32)
        one = Ratings(zero, zero, value[None], w[None], num_users=1, num_items=1, context=context)
        return objective(model, Params(trained, fixed._replace(shared=params.fixed.shared)), one, hyper, share)

    value, w, share_user, share_item = numbers
    trained = jax.tree.map(as_rows, blocks, params.trained)
    slope = jax.vmap(jax.grad(loss))(trained, fixed, value, w, Rows(share_user, share_item), context)
    step = _clip(jax.tree.map(lambda rate, g: (rate * g).astype(g.dtype), device.rates, slope), options.clip_update)
    if options.clip_value is None:
        change: Rows = jax.tree.map(in_blocks, step)
        return change
    stepped = _clip(jax.tree.map(jnp.add, trained, step), options.clip_value)
    stepped = jax.tree.map(lambda new, old: jnp.where(_per_row(w > 0, old), new, old), stepped, trained)
    values: Rows = jax.tree.map(in_blocks, stepped)
    return values


def _write(options: StepOptions, tables: Rows, slots: Rows, change: Rows) -> Rows:
    """Write what `_change` returned into the tables."""
    write = scatter_add if options.clip_value is None else scatter
    return _map_sides(write, slots.user, slots.item, tables, change)


def _table(batch_size: int, members: jax.Array, rows: jax.Array) -> jax.Array:
    """Return the rows of a group in blocks, and below them one row of 0 for each padding lane."""
    group = rows.at[members].get(mode="clip")
    return in_blocks(jnp.pad(group, [(0, batch_size)] + [(0, 0)] * (rows.ndim - 1)))


def _map_sides(function: Callable[..., jax.Array], user: Any, item: Any, *trees: Rows) -> Rows:
    """Map `function(argument, *leaves)` over the leaves of each side, with that side's argument; drop `shared`."""
    sides = ((user, [tree.user for tree in trees]), (item, [tree.item for tree in trees]))
    return Rows(*(jax.tree.map(partial(function, argument), *leaves) for argument, leaves in sides))


def _clip(tree: Any, bound: float | None) -> Any:
    return tree if bound is None else jax.tree.map(lambda leaf: jnp.clip(leaf, -bound, bound), tree)


def _per_row(condition: jax.Array, leaf: jax.Array) -> jax.Array:
    return condition.reshape(-1, *[1] * (leaf.ndim - 1))
