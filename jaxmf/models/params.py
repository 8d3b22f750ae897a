"""The pytrees of a model: its parameters, grouped by user, item and shared, and the hyperparameters of a fit."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Rows(NamedTuple):
    """Values per user, per item, and shared by all.

    Leaves of `user` have a leading axis of users, leaves of `item` a leading axis of items, leaves of `shared` any
    shape.
    """

    user: Any = {}  # noqa: RUF012
    item: Any = {}  # noqa: RUF012
    shared: Any = {}  # noqa: RUF012


class Params(NamedTuple):
    """A model's parameters.

    Only `trained` has gradients, optimizer state and a penalty, and is verified; `fixed` holds means and features. Two
    leaf names mean something to the library: columns (last axis) of `factors` beyond the active rank stay 0, and the
    updates of `bias` are scaled to `learning_rate_bias`.
    """

    trained: Rows
    fixed: Rows = Rows()

    def __repr__(self) -> str:
        return f"<Params {', '.join(f'{name} {shape}' for name, shape in leaf_shapes(self).items())}>"


class Hyper(NamedTuple):
    """The traced hyperparameters of a fit: each can be changed, swept or differentiated without recompiling.

    Attributes:
      l2: λ ≥ 0, the penalty on factors.
      l2_bias: λ_b ≥ 0, the penalty on biases; None means λ.
      reg_exponent: ν in [0, 1]: a row with n observations is penalized by λ·n^ν. With 0 the penalty per row is
        constant, with 1 it is λ per observation.
      learning_rate: step size of the gradient solvers.
      learning_rate_bias: step size of leaves named `bias`; None means `learning_rate`. It scales *updates*.
      momentum: for optimizer factories that read it; jaxmf itself does not.
      init_scale: standard deviation of the initial factors.
      unobserved: α0 ≥ 0, the weight of a cell in the model's `background`; None for a model without one.
      rank: active rank; None means the model's width.
      extra: a user's own numbers, by name.
    """

    l2: Any = 0.05
    l2_bias: Any = None
    reg_exponent: Any = 1.0
    learning_rate: Any = 0.01
    learning_rate_bias: Any = None
    momentum: Any = 0.9
    init_scale: Any = 0.1
    unobserved: Any = None
    rank: Any = None
    extra: dict[str, Any] = {}  # noqa: RUF012

    def __repr__(self) -> str:
        return f"Hyper({', '.join(f'{name}={_number(value)}' for name, value in self._asdict().items())})"


def leaf_shapes(tree: Any) -> dict[str, str]:
    """Return dtype and shape of every leaf of a pytree by its path, as in `trained.user.bias: float32[17]`."""

    def shape(leaf: Any) -> str:
        return f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "dtype") else f"a {type(leaf).__name__}"

    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): shape(leaf) for path, leaf in paths}


def _number(value: Any) -> str:
    """Format a number, be it a scalar array, as Python does; an array, or a traced number, by its dtype and shape."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name!r}: {_number(entry)}" for name, entry in value.items()) + "}"
    if not hasattr(value, "dtype"):
        return repr(value)
    concrete = value.shape == () and not isinstance(value, jax.core.Tracer)
    return f"{value.item()!r}" if concrete else f"{value.dtype}{list(value.shape)}"


def cast_hyper(hyper: Hyper, dtype: Any) -> Hyper:
    """Cast the numbers to the ratings' dtype, so that nothing is promoted; the rank becomes an integer."""
    rank = None if hyper.rank is None else jnp.asarray(hyper.rank, jnp.int32)
    numbers: Hyper = jax.tree.map(lambda x: jnp.asarray(x, dtype), hyper._replace(rank=None))
    return numbers._replace(rank=rank)


def bias_l2(hyper: Hyper) -> Any:
    """Return λ_b, which is λ unless given."""
    return hyper.l2 if hyper.l2_bias is None else hyper.l2_bias


def pack(rows: Any, num_rows: int) -> jax.Array:
    """Return all leaves of one side as one table (num_rows, D), in tree order; D is 0 for a side without leaves."""
    leaves = [leaf.reshape(num_rows, -1) for leaf in jax.tree.leaves(rows)]
    return jnp.concatenate(leaves, axis=1) if leaves else jnp.zeros((num_rows, 0), jnp.float32)


def unpack(table: jax.Array, like: Any) -> Any:
    """Undo `pack`: split a table (rows, D) into leaves with the trailing shapes of `like`."""
    leaves = jax.tree.leaves(like)
    cuts = [0]
    for leaf in leaves:
        cuts.append(cuts[-1] + math.prod(leaf.shape[1:]))
    columns = zip(cuts, cuts[1:], leaves, strict=False)
    pieces = [table[:, a:b].reshape(len(table), *leaf.shape[1:]) for a, b, leaf in columns]
    return jax.tree.unflatten(jax.tree.structure(like), pieces)
