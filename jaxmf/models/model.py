"""What a model is: pure functions over `Params`, and the one objective composed from them."""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxmf.data.ratings import Pairs, Ratings, counts
from jaxmf.kernels._memoize import described, reduced
from jaxmf.metrics import total, weighted_mean
from jaxmf.models.features import project_all
from jaxmf.models.seen import Seen, seen_of

Reads = Literal["rows", "tables"]


class Rows(NamedTuple):
    """Values sorted by whose they are: one row per user, one row per item, or shared by all.

    Leaves of `user` have a leading axis of users, leaves of `item` one of items, leaves of `shared` any shape.
    """

    user: Any = {}  # noqa: RUF012
    item: Any = {}  # noqa: RUF012
    shared: Any = {}  # noqa: RUF012


class Params(NamedTuple):
    """A model's parameters.

    Only `trained` meets gradients, optimizer state, weight decay and verification; `fixed` holds means and features.
    Two leaf names mean something to the library: the columns (last axis) of `factors` beyond the active rank stay 0,
    and the updates of `bias` are scaled to `learning_rate_bias`.
    """

    trained: Rows
    fixed: Rows = Rows()

    def __repr__(self) -> str:
        return f"<Params {', '.join(f'{name} {shape}' for name, shape in leaf_shapes(self).items())}>"


class Hyper(NamedTuple):
    """The traced numbers of a fit: every leaf may be changed, swept or differentiated without recompiling.

    Attributes:
      l2: λ ≥ 0, the penalty on factors.
      l2_bias: λ_b ≥ 0, the penalty on biases; None means λ.
      reg_exponent: ν in [0, 1]: a row with n observations is penalized by λ·n^ν. 0 is a constant penalty per row, 1 is
        λ per observation.
      learning_rate: step size of the gradient solvers.
      learning_rate_bias: step size of the leaves named `bias`; None means `learning_rate`. It scales *updates*.
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


class ByHand(NamedTuple):
    """The derivatives of the objective that were derived by hand, for `jaxmf.verify`.

    Attributes:
      gradient: `(params, ratings, weight, hyper) -> Rows`, the gradient with respect to `trained`.
      hvp: `(params, ratings, weight, hyper, direction) -> Rows`, the product of the Hessian with a `direction` shaped
        as `trained`, or None.
    """

    gradient: Callable[..., Rows]
    hvp: Callable[..., Rows] | None = None


class Model(NamedTuple):
    """A model: four pure functions, and what only some tools need: these refuse a model that has None there.

    Attributes:
      init: `(key, ratings, hyper) -> Params`. Rows without weight start at 0.
      predict: `(params, pairs) -> (n,)` for Pairs or Ratings, of which it reads `user`, `item` and `context` alone.
      loss: `(params, ratings) -> (n,)`, one number per observation; the library applies the weights.
      penalty: `(trained, weight, hyper) -> scalar`, where `weight.user` and `weight.item` hold one factor per row.
      by_hand: the derivatives of the objective that were derived by hand, or None.
      design: `(params, ratings, side) -> (design, target)` or None. `design` has the structure of that side's trained
        rows with a leading axis n, and r̂ − (r − target) = Σ_leaves ⟨design, row⟩: the loss is the squared distance of
        that sum from `target`, and the penalty is a diagonal quadratic in the rows. ALS and fold-in need it.
      with_rank: `(rank) -> Model`, the same model at another width, or None.
      name: shown in tables.
      embed: `(params) -> (left, right)`, tables (num_users, d) and (num_items, d) with r̂ = link(left·right), or tuples
        of tables whose products add up, of which some of `right` may be SparseRows. It is called on some rows of the
        parameters too. None where predictions are no such products: rankings then call `predict` on all pairs.
      link: an increasing function of left·right, elementwise, that gives r̂; None for left·right itself. Rankings are by
        left·right, which does not saturate.
      reads: "rows" if the loss and the prediction of a pair read no trained rows but the pair's own two, which `jaxmf`
        tries where it relies on it; "tables" if they read others too, as SVD++ reads those of all items that a user has
        rated: then `sgd`, `fold_in`, `update` and `top_n(candidates=)` refuse the model.
      background: `(params, hyper) -> scalar` that the objective adds, such as a loss over all cells, observed or not;
        or None.
      draw: `(key, ratings, seen) -> ratings`, the ratings with what the loss reads at random in their `context`, such
        as an item that the user has not rated, or None. `jaxmf.models.is_seen` says what a user has rated. `minibatch`
        draws for every batch; the losses in a history are of one draw, which is the same for all fits.
    """

    init: Callable[..., Params]
    predict: Callable[..., jax.Array]
    loss: Callable[..., jax.Array]
    penalty: Callable[..., jax.Array]
    by_hand: ByHand | None = None
    design: Callable[..., tuple[Any, jax.Array]] | None = None
    with_rank: Callable[[int], "Model"] | None = None
    name: str = "custom"
    embed: Callable[[Params], tuple[Any, Any]] | None = None
    link: Callable[[jax.Array], jax.Array] | None = None
    reads: Reads = "rows"
    background: Callable[..., jax.Array] | None = None
    draw: Callable[[jax.Array, Ratings, Seen], Ratings] | None = None

    def __repr__(self) -> str:
        return described(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced(self)

    def __copy__(self) -> "Model":
        return self

    def __deepcopy__(self, memo: Any) -> "Model":
        return self


def leaf_shapes(tree: Any) -> dict[str, str]:
    """Dtype and shape of every leaf of a pytree, by its path, as in `trained.user.bias: float32[17]`."""

    def shape(leaf: Any) -> str:
        return f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "dtype") else f"a {type(leaf).__name__}"

    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): shape(leaf) for path, leaf in paths}


def _number(value: Any) -> str:
    """A number as Python writes it, an array of several by its shape."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name!r}: {_number(entry)}" for name, entry in value.items()) + "}"
    if not hasattr(value, "dtype"):
        return repr(value)
    concrete = value.shape == () and not isinstance(value, jax.core.Tracer)
    return f"{value.item()!r}" if concrete else f"{value.dtype}{list(value.shape)}"


def row_weights(
    ratings: Ratings, exponent: jax.typing.ArrayLike, unobserved: jax.typing.ArrayLike | None = None
) -> Rows:
    """One factor n^exponent per user and per item, n the weighted number of training observations.

    With a weight α0 of cells that are not observed, n is n_u + α0 |I| of a user and n_i + α0 |U| of an item (Rendle et
    al. 2021, Revisiting the performance of iALS on item recommendation benchmarks). Safe at n = 0 in value and in
    derivative: 0^0 = 1, and 0 for any other exponent, negative ones included.
    """

    def power(n: jax.Array) -> jax.Array:
        empty = jnp.where(jnp.equal(exponent, 0), 1, 0).astype(n.dtype)
        return jnp.where(n > 0, jnp.where(n > 0, n, 1) ** exponent, empty)

    n_u, n_i = counts(ratings)
    if unobserved is not None:
        n_u, n_i = n_u + unobserved * ratings.num_items, n_i + unobserved * ratings.num_users
    exponent = jnp.asarray(exponent, n_u.dtype)
    return Rows(power(n_u), power(n_i))


def objective(model: Model, params: Params, ratings: Ratings, hyper: Hyper, weight: Rows | None = None) -> jax.Array:
    """The regularized training objective, the one that every solver minimizes.

        L(θ) = Σ_{(u,i)∈Ω} w_ui ℓ_ui(θ) + background(θ, hyper) + penalty(θ, n^ν, hyper)

    and for the built-in models, with r̂ the model's prediction,

        L(θ) = Σ w_ui (r_ui − r̂_ui)² + λ Σ_u n_u^ν ‖p_u‖² + λ Σ_i n_i^ν ‖q_i‖² + λ_b (Σ_u n_u^ν b_u² + Σ_i n_i^ν c_i²)

    The squared error is a sum, without ½. Other conventions in ours:

    - updates `lr·(e·q − λ·p)` per rating (Funk, Surprise): ν = 1, λ_b = λ, half that learning rate, `sgd`;
    - mean error plus λ‖·‖² at every step: `minibatch`, ν = 0, λ·|Ω| and λ_b·|Ω|;
    - λ·I added to each row's normal equations: `als`, ν = 0; λ·n·I (ALS-WR, Spark): ν = 1.

    Args:
      model: the model.
      params: its parameters.
      ratings: Ω with weights w, (n,).
      hyper: λ, λ_b, ν and α0.
      weight: n^ν per row, computed from `ratings` and α0 if None.

    Returns:
      a scalar of the ratings' dtype.
    """
    hyper = cast_hyper(hyper, ratings.value.dtype)
    if weight is None:
        weight = row_weights(ratings, hyper.reg_exponent, hyper.unobserved)
    return total(ratings.weight * model.loss(params, ratings)) + beside(model, params, weight, hyper)


def beside(model: Model, params: Params, weight: Rows, hyper: Hyper) -> jax.Array:
    """What the objective adds to the loss of the observations: the penalty, and a model's `background`."""
    penalty = model.penalty(params.trained, weight, hyper)
    return penalty if model.background is None else model.background(params, hyper) + penalty


def drawn(key: jax.Array, model: Model, ratings: Ratings, seen: Seen | None = None) -> Ratings:
    """The ratings with what the model's loss reads at random, by its `draw`; as they are if it has none.

    With them, `objective` is a fixed function, and `jaxmf.verify` tries its gradient.

    Args:
      key: of the draw.
      model: the model.
      ratings: what to draw for.
      seen: of which items each user has rated; None for those in `ratings`.
    """
    if model.draw is None:
        return ratings
    return model.draw(key, ratings, seen_of(ratings) if seen is None else seen)


def mean_loss(model: Model, params: Params, ratings: Ratings) -> jax.Array:
    """Weighted mean of the model's loss, without penalty: Σ w·ℓ / Σ w."""
    return weighted_mean(model.loss(params, ratings), ratings.weight)


def scores(model: Model, params: Params, users: jax.Array, num_items: int) -> jax.Array:
    """What ranks every item for users (m,), (m, num_items): left·right of the model's `embed`, or else its predictions.

    Cost: O(m · num_items · D) for rows of D numbers; memory O(m · num_items), and D times that without `model.embed`.
    """
    if model.embed is not None:
        return products(model.embed, params, users)
    items = jnp.arange(num_items)
    return jax.vmap(lambda user: model.predict(params, Pairs(jnp.full_like(items, user), items)))(users)


def products(embed: Callable[[Params], tuple[Any, Any]], params: Params, users: jax.Array) -> jax.Array:
    """left·right (m, num_items) for users (m,) and every item."""
    own = (rows._replace(user=jax.tree.map(lambda leaf: leaf[users], rows.user)) for rows in params)
    left, right = (tables if type(tables) is tuple else (tables,) for tables in embed(Params(*own)))
    return reduce(jnp.add, map(project_all, left, right))


def linked(model: Model, score: Any) -> Any:
    """The predictions r̂ of scores."""
    return score if model.embed is None or model.link is None else model.link(score)


def cast_hyper(hyper: Hyper, dtype: Any) -> Hyper:
    """Numbers in the ratings' dtype, so that nothing is promoted; the rank is an integer."""
    rank = None if hyper.rank is None else jnp.asarray(hyper.rank, jnp.int32)
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), hyper._replace(rank=None))._replace(rank=rank)


def bias_l2(hyper: Hyper) -> Any:
    """λ_b, which is λ unless given."""
    return hyper.l2 if hyper.l2_bias is None else hyper.l2_bias


def pack(rows: Any, num_rows: int) -> jax.Array:
    """All leaves of one side as one table (num_rows, D), in tree order; D = 0 for a side without leaves."""
    leaves = [leaf.reshape(num_rows, -1) for leaf in jax.tree.leaves(rows)]
    return jnp.concatenate(leaves, axis=1) if leaves else jnp.zeros((num_rows, 0), jnp.float32)


def unpack(table: jax.Array, like: Any) -> Any:
    """The inverse of `pack`: a table (rows, D) cut into leaves shaped as in `like`, with the table's row count."""
    leaves = jax.tree.leaves(like)
    cuts = [0]
    for leaf in leaves:
        cuts.append(cuts[-1] + math.prod(leaf.shape[1:]))
    columns = zip(cuts, cuts[1:], leaves, strict=False)
    pieces = [table[:, a:b].reshape(len(table), *leaf.shape[1:]) for a, b, leaf in columns]
    return jax.tree.unflatten(jax.tree.structure(like), pieces)
