"""The bilinear family, r̂_ui = mean + b_u + c_i + p_u·q_i + a_u·x_i; each model has the terms that its pytree has."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxmf.data.checks import is_positive_integer
from jaxmf.data.ratings import Pairs, Ratings, Side, counts
from jaxmf.kernels._memoize import memoize
from jaxmf.kernels.draws import normal
from jaxmf.metrics import weighted_mean
from jaxmf.models.features import as_matrix, check_features, dense_rows, project, pull_back, to_device
from jaxmf.models.leaves import fill_beyond_rank
from jaxmf.models.model import ByHand, Model
from jaxmf.models.params import Hyper, Params, Rows, bias_l2

Center = Literal["global", "user"] | None

BOTH: tuple[Side, ...] = ("user", "item")
_OTHER: dict[Side, Side] = {"user": "item", "item": "user"}


@memoize
def mf(rank: int, center: Center = "global") -> Model:
    """Plain matrix factorization, r̂_ui = mean + p_u·q_i.

    Args:
      rank: width k of the factor tables, `trained.user["factors"]` (num_users, k) and `trained.item["factors"]`.
      center: "global" subtracts μ, the weighted mean of the training ratings; "user" subtracts each user's own mean (μ
        for a user without ratings); None subtracts nothing. The mean is fixed, not trained.

    Returns:
      a Model; calls with equal arguments return the same object, so that compiled programs are found again.

    Raises:
      ValueError: for a rank that is not a positive integer, or an unknown `center`.

    Reference: Koren, Bell and Volinsky (2009), Matrix factorization techniques for recommender systems.
    """
    if center not in (None, "global", "user"):
        raise ValueError(f"mf: center must be None, 'global' or 'user', not {center!r}")
    return of_terms(rank, partial(mf, center=center), "mf", center)


@memoize
def biased_mf(rank: int) -> Model:
    """Matrix factorization with biases, r̂_ui = μ + b_u + c_i + p_u·q_i.

    Args:
      rank: width k of the factor tables; the biases are `trained.user["bias"]` (num_users,) and
        `trained.item["bias"]` (num_items,); μ is `fixed.shared["mean"]`, not trained.

    Returns:
      a Model; calls with equal arguments return the same object.

    Raises:
      ValueError: for a rank that is not a positive integer.

    Reference: Koren, Bell and Volinsky (2009), Matrix factorization techniques for recommender systems.
    """
    return of_terms(rank, biased_mf, "biased_mf", "global", BOTH)


@memoize
def content_mf(rank: int, features: Any) -> Model:
    """Biased factorization with weights for known features of the items, r̂_ui = μ + b_u + c_i + p_u·q_i + a_u·x_i.

    Args:
      rank: width k of the factor tables.
      features: x, one row per item in the order of `Dataset.item_ids`: an array (num_items, F), or a SciPy sparse
        matrix of that shape, whose rows stay sparse. `jaxmf.content.tfidf` makes either. Fixed, not penalized.

    Returns:
      a Model with the leaves of `biased_mf`, `trained.user["content"]` (num_users, F), a_u, which starts at 0, and
      `fixed.item["content"]`, the features: (num_items, F), or SparseRows.

    Raises:
      ValueError: for a rank that is not a positive integer; features that are not a matrix of finite numbers; at
        `init`, if the number of features' rows differs from the number of items; by `als`, for more than 256 features,
        because it solves all weights of a user at once.

    Cost: per rating, dense features add O(F), and sparse ones O(longest row) to the prediction and O(F) to the step,
    since the penalty moves all of a_u.

    Reference: Rendle (2012), Factorization machines with libFM: this is the model of that paper without
    interactions among features.
    """
    matrix = as_matrix(features)
    with_rank = partial(content_mf, features=matrix)
    return of_terms(rank, with_rank, "content_mf", "global", BOTH, matrix)


def predict(params: Params, pairs: Pairs | Ratings) -> jax.Array:
    """Return r̂ (n,), the sum of the terms that the parameters have."""
    user, item, users, items = params.trained.user, params.trained.item, pairs.user, pairs.item
    rating: jax.Array = _mean_term(params, users)
    for rows, index in ((user, users), (item, items)):
        if "bias" in rows:
            rating = rating + rows["bias"][index]
    if "factors" in user:
        rating = rating + jnp.sum(user["factors"][users] * item["factors"][items], axis=-1)
    if "content" in user:
        rating = rating + project(user["content"], params.fixed.item["content"], users, items)
    return rating


def embed(params: Params) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return tables of users and of items whose products add up to r̂: one pair for content, one for all other terms.

    Means and biases are columns of these tables, multiplied by ones: adding each of them to the products would take
    another pass over all scores.
    """
    user, item = params.trained.user, params.trained.item
    of_user = _mean_term(params, jnp.arange(len(jax.tree.leaves(user)[0])))
    left, right = [], []
    if "factors" in user:
        left, right = [user["factors"]], [item["factors"]]
    if "bias" in item:
        left, right = [*left, jnp.ones_like(of_user)[:, None]], [*right, item["bias"][:, None]]
    if "bias" in user:
        of_user = of_user + user["bias"]
    if "bias" in user or jax.tree.leaves(params.fixed.user) or params.fixed.shared:
        left, right = [*left, of_user[:, None]], [*right, jnp.ones_like(right[0][:, :1])]
    terms = jnp.concatenate(left, axis=1), jnp.concatenate(right, axis=1)
    if "content" not in user:
        return terms[:1], terms[1:]
    return (terms[0], user["content"]), (terms[1], params.fixed.item["content"])


def loss(params: Params, ratings: Ratings) -> jax.Array:
    """Return the squared errors (r − r̂)², (n,)."""
    return (ratings.value - predict(params, ratings)) ** 2


def penalty(trained: Rows, weight: Rows, hyper: Hyper) -> jax.Array:
    """Return λ Σ weight·(‖factors‖² + ‖content weights‖²) + λ_b Σ weight·bias², over the rows of both sides."""
    total: Any = 0.0
    for rows, row_weight in ((trained.user, weight.user), (trained.item, weight.item)):
        for name in ("factors", "content"):
            if name in rows:
                total = total + hyper.l2 * jnp.sum(row_weight * jnp.sum(rows[name] ** 2, axis=-1))
        if "bias" in rows:
            total = total + bias_l2(hyper) * jnp.sum(row_weight * rows["bias"] ** 2)
    scalar: jax.Array = total
    return scalar


def gradient(params: Params, ratings: Ratings, weight: Rows, hyper: Hyper) -> Rows:
    """Return the objective's gradient, derived by hand. With e = r − r̂ and sums over a row's observations,

    ∂L/∂p_u = −2 Σ_i w e q_i + 2 λ n_u^ν p_u        ∂L/∂b_u = −2 Σ_i w e + 2 λ_b n_u^ν b_u
    ∂L/∂q_i = −2 Σ_u w e p_u + 2 λ n_i^ν q_i        ∂L/∂c_i = −2 Σ_u w e + 2 λ_b n_i^ν c_i
    ∂L/∂a_u = −2 Σ_i w e x_i + 2 λ n_u^ν a_u
    """
    error = ratings.weight * (ratings.value - predict(params, ratings))

    def of_side(side: Side, num_rows: int) -> dict[str, jax.Array]:
        rows, others = getattr(params.trained, side), getattr(params.trained, _OTHER[side])
        index, other_index = getattr(ratings, side), getattr(ratings, _OTHER[side])
        out = penalty_slope(rows, getattr(weight, side), hyper)
        if "factors" in rows:
            out["factors"] -= 2 * jax.ops.segment_sum(error[:, None] * others["factors"][other_index], index, num_rows)
        if "bias" in rows:
            out["bias"] -= 2 * jax.ops.segment_sum(error, index, num_rows)
        if "content" in rows:
            out["content"] -= 2 * pull_back(error, params.fixed.item["content"], ratings, rows["content"].shape)
        return out

    return Rows(of_side("user", ratings.num_users), of_side("item", ratings.num_items))


def hvp(params: Params, ratings: Ratings, weight: Rows, hyper: Hyper, direction: Rows) -> Rows:
    """Return the objective's Hessian times a direction ṗ, q̇, ḃ, ċ, ȧ, derived by hand. With e = r − r̂ and r̂'s change

    ẏ = ṗ_u·q_i + p_u·q̇_i + ḃ_u + ċ_i + ȧ_u·x_i

    p_u: 2 Σ_i w (ẏ q_i − e q̇_i) + 2 λ n_u^ν ṗ_u        b_u: 2 Σ_i w ẏ + 2 λ_b n_u^ν ḃ_u
    q_i: 2 Σ_u w (ẏ p_u − e ṗ_u) + 2 λ n_i^ν q̇_i        c_i: 2 Σ_u w ẏ + 2 λ_b n_i^ν ċ_i
    a_u: 2 Σ_i w ẏ x_i + 2 λ n_u^ν ȧ_u
    """
    error = ratings.weight * (ratings.value - predict(params, ratings))
    user, item, moved_user, moved_item = params.trained.user, params.trained.item, direction.user, direction.item
    change = jnp.zeros_like(error)
    for rows, index in ((moved_user, ratings.user), (moved_item, ratings.item)):
        if "bias" in rows:
            change += rows["bias"][index]
    if "factors" in user:
        change += jnp.sum(moved_user["factors"][ratings.user] * item["factors"][ratings.item], axis=-1)
        change += jnp.sum(user["factors"][ratings.user] * moved_item["factors"][ratings.item], axis=-1)
    if "content" in user:
        change += project(moved_user["content"], params.fixed.item["content"], ratings.user, ratings.item)
    change *= ratings.weight

    def of_side(side: Side, num_rows: int) -> dict[str, jax.Array]:
        others, moved_others = getattr(params.trained, _OTHER[side]), getattr(direction, _OTHER[side])
        rows, index, other_index = getattr(direction, side), getattr(ratings, side), getattr(ratings, _OTHER[side])
        out = penalty_slope(rows, getattr(weight, side), hyper)
        if "factors" in rows:
            pull = change[:, None] * others["factors"][other_index]
            pull -= error[:, None] * moved_others["factors"][other_index]
            out["factors"] += 2 * jax.ops.segment_sum(pull, index, num_rows)
        if "bias" in rows:
            out["bias"] += 2 * jax.ops.segment_sum(change, index, num_rows)
        if "content" in rows:
            out["content"] += 2 * pull_back(change, params.fixed.item["content"], ratings, rows["content"].shape)
        return out

    return Rows(of_side("user", ratings.num_users), of_side("item", ratings.num_items))


def penalty_slope(rows: dict[str, jax.Array], row_weight: jax.Array, hyper: Hyper) -> dict[str, jax.Array]:
    """Return 2 λ n^ν times each row, with λ_b for biases: the penalty's gradient, or its Hessian times these rows."""
    l2 = {"factors": hyper.l2, "bias": bias_l2(hyper), "content": hyper.l2}
    return {name: 2 * l2[name] * row_weight.reshape(-1, *[1] * (leaf.ndim - 1)) * leaf for name, leaf in rows.items()}


BY_HAND = ByHand(gradient, hvp)


def design(params: Params, ratings: Ratings, side: Side) -> tuple[dict[str, jax.Array], jax.Array]:
    """Return the model as a linear one in the rows of one side: r̂ = ⟨design, row⟩ + (r − target).

    For a user the design is [q_i, x_i, 1] and the target r − mean − c_i; for an item the design is [p_u, 1] and the
    target r − mean − b_u − a_u·x_i. The design has the keys of that side's rows and a leading axis n; the target has
    the shape (n,).
    """
    trained, rows = params.trained, getattr(params.trained, side)
    others, index = getattr(trained, _OTHER[side]), getattr(ratings, _OTHER[side])
    target = ratings.value - _mean_term(params, ratings.user)
    out = {}
    if "factors" in others:
        out["factors"] = others["factors"][index]
    if "bias" in rows:
        out["bias"] = jnp.ones_like(target)
    if "bias" in others:
        target = target - others["bias"][index]
    if "content" in trained.user:
        x, a = params.fixed.item["content"], trained.user["content"]
        if side == "item":
            target = target - project(a, x, ratings.user, ratings.item)
        else:
            out["content"] = dense_rows(x, ratings.item, a.shape[-1])
    return out, target


def of_terms(
    rank: int, with_rank: Any, name: str, center: Center = None, bias: tuple[Side, ...] = (), features: Any = None
) -> Model:
    """Return the bilinear model of factors, this mean, biases of these sides, and weights for features if given."""
    if not is_positive_integer(rank):
        raise ValueError(f"{name}: rank must be a positive integer, not {rank!r}")

    def init(key: jax.Array, ratings: Ratings, hyper: Hyper) -> Params:
        n_u, n_i = counts(ratings)
        # A column does not depend on the number of columns, so that rank 5 starts the same in a wider table.
        drawn = normal(key, len(n_u) + len(n_i), rank, n_u.dtype)

        def rows_of(side: Side, normals: jax.Array, n: jax.Array) -> dict[str, jax.Array]:
            factors = jnp.where((n > 0)[:, None], hyper.init_scale * normals, 0)
            rows = {"factors": factors.astype(n.dtype)} | ({"bias": jnp.zeros_like(n)} if side in bias else {})
            return rows if hyper.rank is None else fill_beyond_rank(rows, hyper.rank)

        trained = Rows(rows_of("user", drawn[: len(n_u)], n_u), rows_of("item", drawn[len(n_u) :], n_i))
        fixed = mean_of(ratings, center)
        if features is None:
            return Params(trained, fixed)
        check_features(name, features, ratings.num_items)
        weights = jnp.zeros((ratings.num_users, features.shape[1]), n_u.dtype)
        content = {"content": to_device(features, n_u.dtype)}
        return Params(trained._replace(user=trained.user | {"content": weights}), fixed._replace(item=content))

    return Model(init, predict, loss, penalty, BY_HAND, design, with_rank, name, embed)


def mean_of(ratings: Ratings, center: Center) -> Rows:
    """Return the mean that predictions start from, as `fixed` parameters: of all ratings, of each user's, or none."""
    if center is None:
        return Rows()
    mean = weighted_mean(ratings.value, ratings.weight)
    if center == "global":
        return Rows(shared={"mean": mean})
    total = jax.ops.segment_sum(ratings.weight * ratings.value, ratings.user, ratings.num_users)
    n_u, _ = counts(ratings)
    return Rows(user={"mean": jnp.where(n_u > 0, total / jnp.where(n_u > 0, n_u, 1), mean)})


def _mean_term(params: Params, users: jax.Array) -> Any:
    rating: jax.Array = jnp.zeros(users.shape, jnp.result_type(*jax.tree.leaves(params)))
    if "mean" in params.fixed.shared:
        rating = rating + params.fixed.shared["mean"]
    if "mean" in params.fixed.user:
        rating = rating + params.fixed.user["mean"][users]
    return rating
