"""Factorization of the whole matrix for implicit feedback: a cell without an observation counts too, as a weak 0."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from scipy.sparse import issparse

from jaxmf.data.ratings import Pairs, Ratings, Side
from jaxmf.kernels._memoize import memoize
from jaxmf.models import bilinear
from jaxmf.models.features import MAX_SOLVED, as_matrix, check_features
from jaxmf.models.model import ByHand, Model
from jaxmf.models.params import Hyper, Params, Rows


@memoize
def ials(rank: int, bias: bool = False, features: Any = None) -> Model:
    """iALS, weighted factorization of the whole matrix: r̂_ui = p_u·q_i, or b_u + c_i + p_u·q_i with biases.

    With α0 = `Hyper.unobserved`, the weight of every cell (u, i), observed or not, the objective is

        Σ_{(u,i)∈Ω} w_ui (r_ui − r̂_ui)² + α0 Σ_{u,i} r̂_ui² + λ Σ_u s_u ‖p_u‖² + λ Σ_i s_i ‖q_i‖²

        s_u = (n_u + α0 |I|)^ν      s_i = (n_i + α0 |U|)^ν

    The sum over all cells is computed without them: with the tables L and R of `embed`, r̂ = L Rᵀ and
    Σ r̂² = ⟨LᵀL, RᵀR⟩. Usually every r is 1, and w is 1 or grows with how often the user chose the item. As r̂ only
    orders items, fits watch a ranking and no error of ratings.

    With features x_i of the items, q_i + x_i E takes the place of q_i in r̂: E, `trained.shared["factors"]` (F, k), is
    learned from all items, so that an item without observations has factors too. Its penalty is λ (Σ_i s_i / F) ‖E‖²,
    about that of the rows x_i E, if these are of unit features. `als` solves for E by conjugate gradients.

    Hu, Koren and Volinsky (2008) minimize Σ_{u,i} c_ui (p_ui − r̂_ui)² + λ (Σ ‖p_u‖² + Σ ‖q_i‖²) with p = 1 and
    c > 1 for observed cells, p = 0 and c = 1 for all others. Up to a constant, this is the objective above with α0 = 1,
    ν = 0, w = c − 1 and r = c / (c − 1): `Dataset.with_confidence` makes such data.

    Args:
      rank: width k of the factor tables, `trained.user["factors"]` (num_users, k) and `trained.item["factors"]`.
      bias: whether users and items have a `bias` too, penalized by λ_b; in the loss over all cells biases tend to harm.
      features: x, one row per item in the order of `Dataset.item_ids`, (num_items, F) with F up to 256, dense or
        sparse, or None. Fixed; rows of length about 1, as of `jaxmf.content.tfidf`, suit the penalty.

    Returns:
      a Model for `als` and `minibatch`; calls with equal arguments return the same object. `Hyper.unobserved` must be
      given; Rendle et al. search it from 0.003 to 1. The loss on validation data is no guide to α0, since it falls with
      it: choose α0 by a ranking, such as `monitor="ndcg"`.

    Raises:
      ValueError: for a rank that is not a positive integer, or features that are not a matrix of finite numbers with at
        most 256 columns; at a fit, if `Hyper.unobserved` is None, or the features have not one row per item.

    Cost: the sum over all cells O((num_users + num_items) k²), once per step and loss; features O(F k) per observation.

    References: Rendle, Krichene, Zhang and Koren (2021), Revisiting the performance of iALS on item recommendation
    benchmarks. Hu, Koren and Volinsky (2008), Collaborative filtering for implicit feedback datasets.

    >>> import jax, jaxmf
    >>> data = jaxmf.datasets.synthetic(num_users=30, num_items=20, num_ratings=200).binarize(4)
    >>> hyper = jaxmf.Hyper(l2=0.01, unobserved=0.1)
    >>> fit = jaxmf.fit(jax.random.key(0), ials(4), jaxmf.solvers.als(), data, hyper=hyper, epochs=5)
    >>> bool(fit.history["objective"][-1] < fit.history["objective"][0])
    True
    """
    matrix = None if features is None else _dense(features)
    plain = bilinear.of_terms(
        rank, partial(ials, bias=bias, features=matrix), "ials", None, bilinear.BOTH if bias else ()
    )

    def init(key: jax.Array, ratings: Ratings, hyper: Hyper) -> Params:
        params = plain.init(key, ratings, hyper)
        if matrix is None:
            return params
        check_features("ials", matrix, ratings.num_items)
        x = jnp.asarray(matrix, ratings.value.dtype)
        shared = {"factors": jnp.zeros((x.shape[1], rank), x.dtype)}
        return Params(params.trained._replace(shared=shared), params.fixed._replace(item={"content": x}))

    return plain._replace(
        init=init,
        predict=predict,
        loss=loss,
        penalty=penalty,
        design=design,
        embed=embed,
        background=all_cells,
        by_hand=BY_HAND,
        predicts="preference",
    )


def _dense(features: Any) -> Any:
    """Return the features as a dense array; raise a ValueError unless they are a matrix of few columns."""
    matrix = as_matrix(features, "ials")
    if matrix.shape[1] > MAX_SOLVED:
        raise ValueError(
            f"ials: features has {matrix.shape[1]} columns; expected at most {MAX_SOLVED}: reduce them by truncated "
            "SVD, as jaxmf.content.tfidf(..., components=64) does"
        )
    return matrix.toarray() if issparse(matrix) else matrix


def embed(params: Params) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the tables of the bilinear family, with the rows q_i + x_i E."""
    return bilinear.embed(_whole(params))


def predict(params: Params, pairs: Pairs | Ratings) -> jax.Array:
    """Return r̂ (n,)."""
    return bilinear.predict(*_gathered(params, pairs)) if params.trained.shared else bilinear.predict(params, pairs)


def loss(params: Params, ratings: Ratings) -> jax.Array:
    """Return the squared errors (r − r̂)², (n,)."""
    return (ratings.value - predict(params, ratings)) ** 2


def penalty(trained: Rows, weight: Rows, hyper: Hyper) -> jax.Array:
    """Return the penalty of the bilinear family, and λ (Σ_i s_i / F) ‖E‖²."""
    rows = bilinear.penalty(trained, weight, hyper)
    if not trained.shared:
        return rows
    E = trained.shared["factors"]
    scalar: jax.Array = rows + hyper.l2 * jnp.sum(weight.item) / len(E) * jnp.sum(E**2)
    return scalar


def design(params: Params, ratings: Ratings, side: Side) -> tuple[dict[str, jax.Array], jax.Array]:
    """Return the design rows and targets of the bilinear family, of q_i + x_i E for users, less p_u·x_i E for items."""
    if not params.trained.shared:
        return bilinear.design(params, ratings, side)
    if side == "user":
        gathered, near = _gathered(params, ratings)
        return bilinear.design(gathered, near, side)
    rows, target = bilinear.design(params, ratings, side)
    return rows, target - jnp.sum(rows["factors"] * _of_features(params, ratings.item), axis=-1)


def _of_features(params: Params, items: jax.Array) -> jax.Array:
    """Return x_i E, (n, k)."""
    return _times(params.fixed.item["content"][items], params.trained.shared["factors"])


def _gathered(params: Params, pairs: Any) -> tuple[Params, Any]:
    """Return the parameters with one item row q_i + x_i E per pair, and the pairs with these items."""
    item = jax.tree.map(lambda leaf: leaf[pairs.item], params.trained.item)
    item = item | {"factors": item["factors"] + _of_features(params, pairs.item)}
    return Params(Rows(params.trained.user, item)), replace(pairs, item=jnp.arange(len(pairs.item)))


def _whole(params: Params) -> Params:
    """Return the parameters with the item rows q_i + x_i E, without features."""
    trained = params.trained
    if not trained.shared:
        return params
    x = params.fixed.item["content"]
    item = trained.item | {"factors": trained.item["factors"] + _times(x, trained.shared["factors"])}
    return Params(Rows(trained.user, item))


def all_cells(params: Params, hyper: Hyper) -> jax.Array:
    """Return α0 Σ_{u,i} r̂_ui² = α0 ⟨LᵀL, RᵀR⟩."""
    left, right = _tables(params)
    cells: jax.Array = hyper.unobserved * jnp.sum(_gram(left) * _gram(right))
    return cells


def gradient(params: Params, ratings: Ratings, weight: Rows, hyper: Hyper) -> Rows:
    """Return the objective's gradient, derived by hand: that of the bilinear family, and for all cells

    ∂/∂l_u = 2 α0 Σ_i r̂_ui r_i = 2 α0 (RᵀR) l_u      ∂/∂r_i = 2 α0 Σ_u r̂_ui l_u = 2 α0 (LᵀL) r_i

    of which the columns of ones in L and R have no use. With features, ∂/∂E = Σ_i x_iᵀ (the row of q_i, unpenalized).
    """
    whole, (left, right) = _whole(params), _tables(params)
    by_left, by_right = _times(left, _gram(right)), _times(right, _gram(left))
    slope = bilinear.gradient(whole, ratings, _without(weight), hyper)
    return _finished(_plus(slope, by_left, by_right, hyper), params, params.trained, weight, hyper)


def hvp(params: Params, ratings: Ratings, weight: Rows, hyper: Hyper, direction: Rows) -> Rows:
    """Return the objective's Hessian times a direction L̇, Ṙ, derived by hand: that of the bilinear family, and

    l_u: 2 α0 ((RᵀR) l̇_u + (ṘᵀR + RᵀṘ) l_u)      r_i: 2 α0 ((LᵀL) ṙ_i + (L̇ᵀL + LᵀL̇) r_i)

    With features, ṙ_i contains x_i Ė, and E has Σ_i x_iᵀ (the row of q_i, unpenalized).
    """
    moved = params._replace(trained=direction)
    left, right = _tables(params)
    ones = _tables(params._replace(trained=jax.tree.map(jnp.zeros_like, params.trained)))
    by_left, by_right = (table - one for table, one in zip(_tables(moved), ones, strict=True))  # columns of ones rest

    def slope(rows: jax.Array, by_rows: jax.Array, others: jax.Array, by_others: jax.Array) -> jax.Array:
        change = _product(by_others, others)
        return _times(by_rows, _gram(others)) + _times(rows, change + change.T)

    found = bilinear.hvp(_whole(params), ratings, _without(weight), hyper, _whole(moved).trained)
    found = _plus(found, slope(left, by_left, right, by_right), slope(right, by_right, left, by_left), hyper)
    return _finished(found, params, direction, weight, hyper)


BY_HAND = ByHand(gradient, hvp)


def _tables(params: Params) -> tuple[jax.Array, jax.Array]:
    """Return L and R: [P] and [Q], or [P, 1, b] and [Q, c, 1] with biases."""
    (left,), (right,) = embed(params)
    return left, right


def _without(weight: Rows) -> Rows:
    zeros: Rows = jax.tree.map(jnp.zeros_like, weight)
    return zeros


def _finished(rows: Rows, params: Params, trained: Rows, weight: Rows, hyper: Hyper) -> Rows:
    """Add the row of E, if there are features, and the slope of the penalty at these trained numbers."""
    shared = {}
    if params.trained.shared:
        E = trained.shared["factors"]
        pull = _product(params.fixed.item["content"], rows.item["factors"])
        shared = {"factors": pull + 2 * hyper.l2 * jnp.sum(weight.item) / len(E) * E}

    def penalized(side: Side) -> dict[str, jax.Array]:
        slope = bilinear.penalty_slope(getattr(trained, side), getattr(weight, side), hyper)
        return {name: leaf + slope[name] for name, leaf in getattr(rows, side).items()}

    return Rows(penalized("user"), penalized("item"), shared)


def _plus(rows: Rows, by_left: jax.Array, by_right: jax.Array, hyper: Hyper) -> Rows:
    """Add 2 α0 times what the columns of L and of R have to the rows of users and of items."""
    rank = rows.user["factors"].shape[1]

    def added(leaves: dict[str, jax.Array], table: jax.Array, bias: int) -> dict[str, Any]:
        parts = {"factors": table[:, :rank], "bias": table[:, bias]}
        return {name: leaf + 2 * hyper.unobserved * parts[name] for name, leaf in leaves.items()}

    return rows._replace(user=added(rows.user, by_left, -1), item=added(rows.item, by_right, -2))


def _gram(table: jax.Array) -> jax.Array:
    return _product(table, table)


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    """Return leftᵀ right in full precision, since an accelerator's default has 10-bit mantissas."""
    return jnp.matmul(left.T, right, precision="highest")


def _times(table: jax.Array, matrix: jax.Array) -> jax.Array:
    return jnp.matmul(table, matrix, precision="highest")
