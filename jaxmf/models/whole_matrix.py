"""Factorization of the whole matrix for implicit feedback: a cell without an observation counts too, as a weak 0."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxmf.data.ratings import Ratings
from jaxmf.kernels._memoize import memoize
from jaxmf.models import bilinear
from jaxmf.models.model import ByHand, Model
from jaxmf.models.params import Hyper, Params, Rows


@memoize
def ials(rank: int, bias: bool = False) -> Model:
    """iALS, weighted factorization of the whole matrix: r̂_ui = p_u·q_i, or b_u + c_i + p_u·q_i with biases.

    With α0 = `Hyper.unobserved`, the weight of every cell (u, i), observed or not, the objective is

        Σ_{(u,i)∈Ω} w_ui (r_ui − r̂_ui)² + α0 Σ_{u,i} r̂_ui² + λ Σ_u s_u ‖p_u‖² + λ Σ_i s_i ‖q_i‖²

        s_u = (n_u + α0 |I|)^ν      s_i = (n_i + α0 |U|)^ν

    The sum over all cells is computed without them: with the tables L and R of `embed`, r̂ = L Rᵀ and
    Σ r̂² = ⟨LᵀL, RᵀR⟩. Usually every r is 1, and w is 1 or grows with how often the user chose the item. As r̂ only
    orders items, fits watch a ranking and no error of ratings.

    Hu, Koren and Volinsky (2008) minimize Σ_{u,i} c_ui (p_ui − r̂_ui)² + λ (Σ ‖p_u‖² + Σ ‖q_i‖²) with p = 1 and
    c > 1 for observed cells, p = 0 and c = 1 for all others. Up to a constant, this is the objective above with α0 = 1,
    ν = 0, w = c − 1 and r = c / (c − 1): `Dataset.with_confidence` makes such data.

    Args:
      rank: width k of the factor tables, `trained.user["factors"]` (num_users, k) and `trained.item["factors"]`.
      bias: whether users and items have a `bias` too, penalized by λ_b; in the loss over all cells biases tend to harm.

    Returns:
      a Model for `als` and `minibatch`; calls with equal arguments return the same object. `Hyper.unobserved` must be
      given; Rendle et al. search it from 0.003 to 1. The loss on validation data is no guide to α0, since it falls with
      it: choose α0 by a ranking, such as `monitor="ndcg"`.

    Raises:
      ValueError: for a rank that is not a positive integer; at a fit, if `Hyper.unobserved` is None.

    Cost: the sum over all cells O((num_users + num_items) k²), once per step and loss.

    References: Rendle, Krichene, Zhang and Koren (2021), Revisiting the performance of iALS on item recommendation
    benchmarks. Hu, Koren and Volinsky (2008), Collaborative filtering for implicit feedback datasets.

    >>> import jax, jaxmf
    >>> data = jaxmf.datasets.synthetic(num_users=30, num_items=20, num_ratings=200).binarize(4)
    >>> hyper = jaxmf.Hyper(l2=0.01, unobserved=0.1)
    >>> fit = jaxmf.fit(jax.random.key(0), ials(4), jaxmf.solvers.als(), data, hyper=hyper, epochs=5)
    >>> bool(fit.history["objective"][-1] < fit.history["objective"][0])
    True
    """
    sides = bilinear.BOTH if bias else ()
    model = bilinear.of_terms(rank, partial(ials, bias=bias), "ials", None, sides)
    return model._replace(background=all_cells, by_hand=BY_HAND, predicts="preference")


def all_cells(params: Params, hyper: Hyper) -> jax.Array:
    """Return α0 Σ_{u,i} r̂_ui² = α0 ⟨LᵀL, RᵀR⟩."""
    left, right = _tables(params)
    cells: jax.Array = hyper.unobserved * jnp.sum(_gram(left) * _gram(right))
    return cells


def gradient(params: Params, ratings: Ratings, weight: Rows, hyper: Hyper) -> Rows:
    """Return the objective's gradient, derived by hand: that of the bilinear family, and for all cells

    ∂/∂l_u = 2 α0 Σ_i r̂_ui r_i = 2 α0 (RᵀR) l_u      ∂/∂r_i = 2 α0 Σ_u r̂_ui l_u = 2 α0 (LᵀL) r_i

    of which the columns of ones in L and R have no use.
    """
    left, right = _tables(params)
    by_left, by_right = _times(left, _gram(right)), _times(right, _gram(left))
    return _plus(bilinear.gradient(params, ratings, weight, hyper), by_left, by_right, hyper)


def hvp(params: Params, ratings: Ratings, weight: Rows, hyper: Hyper, direction: Rows) -> Rows:
    """Return the objective's Hessian times a direction L̇, Ṙ, derived by hand: that of the bilinear family, and

    l_u: 2 α0 ((RᵀR) l̇_u + (ṘᵀR + RᵀṘ) l_u)      r_i: 2 α0 ((LᵀL) ṙ_i + (L̇ᵀL + LᵀL̇) r_i)
    """
    left, right = _tables(params)
    ones = _tables(params._replace(trained=jax.tree.map(jnp.zeros_like, params.trained)))
    moved = _tables(params._replace(trained=direction))
    by_left, by_right = (table - constant for table, constant in zip(moved, ones, strict=True))  # columns of ones rest

    def slope(rows: jax.Array, by_rows: jax.Array, others: jax.Array, by_others: jax.Array) -> jax.Array:
        change = _product(by_others, others)
        return _times(by_rows, _gram(others)) + _times(rows, change + change.T)

    found = bilinear.hvp(params, ratings, weight, hyper, direction)
    return _plus(found, slope(left, by_left, right, by_right), slope(right, by_right, left, by_left), hyper)


BY_HAND = ByHand(gradient, hvp)


def _tables(params: Params) -> tuple[jax.Array, jax.Array]:
    """Return L and R: [P] and [Q], or [P, 1, b] and [Q, c, 1] with biases."""
    (left,), (right,) = bilinear.embed(params)
    return left, right


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
