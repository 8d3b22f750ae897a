"""The promises of a model: what tools rely on that shapes do not show. `trial` checks them."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp

from jaxmf.data.ratings import Pairs, Ratings, Side, pairs_of
from jaxmf.models._objective import objective
from jaxmf.models._scores import linked, products
from jaxmf.models.least_squares import background_of
from jaxmf.models.leaves import fill_beyond_rank
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, Rows, pack, unpack
from jaxmf.models.trial import NUM_RATINGS, Promise, Sample


def _slope_of_penalty(model: Model, trained: Rows, weight: Rows, hyper: Hyper) -> Rows:
    slope: Rows = jax.grad(lambda trained: jnp.asarray(model.penalty(trained, weight, hyper)) + 0.0)(trained)
    return slope


def _diagonal(model: Model, sample: Sample) -> tuple[Any, Any]:
    """Compare the penalty's gradient at rows z with ridge · z, where the ridge is the gradient at rows of 1."""
    trained = sample.params.trained._replace(shared={})
    slope = partial(_slope_of_penalty, model, weight=sample.weight, hyper=sample.hyper)
    ridge = slope(jax.tree.map(jnp.ones_like, trained))
    return slope(trained), jax.tree.map(jnp.multiply, ridge, trained)


def _squared(model: Model, sample: Sample) -> tuple[Any, Any]:
    """Compare how a rating's loss and (⟨design, row⟩ − target)² change if all rows of a side change, for each side.

    The design is evaluated once, since it must not read the rows of that side.
    """
    assert model.design is not None
    found, expected = {}, {}
    for side in get_args(Side):
        rows, others = getattr(sample.params.trained, side), getattr(sample.others, side)
        index = getattr(sample.ratings, side)
        moved = sample.params._replace(trained=sample.params.trained._replace(**{side: others}))
        design, target = model.design(moved, sample.ratings, side)

        def error(rows: Any, design: Any = design, target: Any = target, index: Any = index) -> Any:
            products = jax.tree.map(lambda d, z: jnp.sum((d * z[index]).reshape(len(target), -1), axis=1), design, rows)
            return (sum(jax.tree.leaves(products)) - target) ** 2

        if jax.tree.leaves(rows):
            found[side] = model.loss(sample.params, sample.ratings) - model.loss(moved, sample.ratings)
            expected[side] = error(rows) - error(others)
    return found, expected


def _masked(model: Model, sample: Sample) -> tuple[Any, Any]:
    """Compare loss and background with factors beyond the rank set to 0 on one side and on both, for each side."""
    if sample.hyper.rank is None:
        return (), ()
    trained = sample.params.trained
    within = fill_beyond_rank(trained, 1)

    def losses(trained: Rows) -> tuple[Any, Any]:
        params = sample.params._replace(trained=trained)
        background = () if model.background is None else model.background(params, sample.hyper)
        return model.loss(params, sample.ratings), background

    found = {side: losses(trained._replace(**{side: getattr(within, side)})) for side in get_args(Side)}
    return found, dict.fromkeys(found, losses(within))


def _one_curvature(model: Model, sample: Sample) -> tuple[Any, Any]:
    """Compare the background's gradient at rows z of a side with 2 (H z + h), H being that of the first row."""
    found, expected = {}, {}
    for side in get_args(Side):
        rows, num_rows = getattr(sample.params.trained, side), getattr(sample.ratings, f"num_{side}s")
        quadratic = background_of(model, sample.params, sample.hyper, side, num_rows)
        if quadratic is None or not jax.tree.leaves(rows):
            continue

        def background(rows: Any, side: Side = side) -> Any:
            assert model.background is not None
            params = sample.params._replace(trained=sample.params.trained._replace(**{side: rows}))
            return model.background(params, sample.hyper)

        found[side] = jax.grad(background)(rows)
        table = 2 * (pack(rows, num_rows) @ quadratic.curvature + quadratic.slope)
        expected[side] = unpack(table, rows)
    return found, expected


def _quadratic_shared(model: Model, sample: Sample) -> tuple[Any, Any]:
    """Compare the slopes of the objective by the shared leaves at a and at b with those at a + b and at 0, in sum."""
    a, b = sample.params.trained.shared, sample.others.shared
    if not jax.tree.leaves(a):
        return (), ()

    def total(shared: Any) -> jax.Array:
        params = sample.params._replace(trained=sample.params.trained._replace(shared=shared))
        return objective(model, params, sample.ratings, sample.hyper, sample.weight)

    def slopes(one: Any, other: Any) -> Any:
        return jax.tree.map(jnp.add, *map(jax.grad(total), (one, other)))

    zero, both = jax.tree.map(jnp.zeros_like, a), jax.tree.map(jnp.add, a, b)
    return slopes(a, b), slopes(both, zero)


def _at(index: jax.Array, rows: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.at[index].get(mode="clip"), rows)


def _each_alone(function: Callable[[Params, Ratings, Rows], Any], sample: Sample) -> Any:
    """Return a function's results for each rating by itself, given only its own two rows and its share."""

    def alone(read: tuple[Ratings, Rows]) -> Any:
        cell, share = read
        user, item, zero = cell.user[None], cell.item[None], jnp.zeros(1, jnp.int32)
        one = jax.tree.map(lambda leaf: leaf[None], replace(cell, num_users=1, num_items=1))
        one = replace(one, user=zero, item=zero)
        own = Params(*(Rows(_at(user, rows.user), _at(item, rows.item), rows.shared) for rows in sample.params))
        weight = Rows(share.user * _at(user, sample.weight.user), share.item * _at(item, sample.weight.item))
        return jax.tree.map(lambda leaf: leaf[0], function(own, one, weight))

    return jax.lax.map(alone, (sample.ratings, sample.share))


def _own_loss(model: Model, sample: Sample) -> tuple[Any, Any]:
    alone = _each_alone(lambda params, one, _: model.loss(params, one), sample)
    return alone, model.loss(sample.params, sample.ratings)


def _own_design(model: Model, sample: Sample) -> tuple[Any, Any]:
    def both(params: Params, ratings: Ratings) -> Any:
        assert model.design is not None
        return {side: model.design(params, ratings, side) for side in get_args(Side)}

    return _each_alone(lambda params, one, _: both(params, one), sample), both(sample.params, sample.ratings)


def _own_penalty(model: Model, sample: Sample, shared: bool) -> tuple[Any, Any]:
    """Compare the penalty's gradient at a rating's own two rows by themselves and among all rows, times the share.

    The last number of each leaf is the largest gradient. In the first tree, how much a row's gradient changes if other
    rows change is added to it, so that the trees differ if it does.
    """
    if not shared:
        sample = sample._replace(share=jax.tree.map(jnp.ones_like, sample.share))

    def slope(params: Params, weight: Rows) -> Rows:
        return _slope_of_penalty(model, params.trained._replace(shared={}), weight, sample.hyper)

    def times(share: jax.Array, rows: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf * share.reshape(-1, *[1] * (leaf.ndim - 1)), rows)

    whole, share = slope(sample.params, sample.weight), sample.share
    expected = Rows(
        times(share.user, _at(sample.ratings.user, whole.user)), times(share.item, _at(sample.ratings.item, whole.item))
    )
    found = _each_alone(lambda params, _, weight: slope(params, weight), sample)
    change = _change_by_others(lambda trained: slope(sample.params._replace(trained=trained), sample.weight), sample)
    size = jax.tree.map(lambda leaf: jnp.max(abs(leaf), initial=0), whole)

    def behind(leaf: jax.Array, number: jax.Array) -> jax.Array:
        return jnp.append(leaf.reshape(-1), number)

    return jax.tree.map(behind, found, jax.tree.map(jnp.add, size, change)), jax.tree.map(behind, expected, size)


def _change_by_others(slope: Callable[[Rows], Rows], sample: Sample) -> Rows:
    """Return how much the gradients of rows change at most, leaf by leaf, if other rows of their side change.

    For each bit, the rows whose index has the bit set are changed: any two rows differ in some bit, so that one of them
    changes without the other.
    """
    trained, others = (rows._replace(shared={}) for rows in (sample.params.trained, sample.others))
    before = slope(trained)

    def chosen(bit: jax.Array, leaf: jax.Array) -> jax.Array:
        return (jnp.arange(len(leaf)) >> bit & 1).reshape(-1, *[1] * (leaf.ndim - 1)) == 1

    def change(bit: jax.Array) -> Rows:
        moved = jax.tree.map(lambda own, other: jnp.where(chosen(bit, own), other, own), trained, others)
        changes = jax.tree.map(lambda a, b: jnp.where(chosen(bit, a), 0, abs(a - b)), slope(moved), before)
        largest: Rows = jax.tree.map(lambda leaf: jnp.max(leaf, initial=0), changes)
        return largest

    bits = max(sample.ratings.num_users, sample.ratings.num_items).bit_length()
    largest: Rows = jax.tree.map(jnp.max, jax.lax.map(change, jnp.arange(bits)))
    return largest


def _gathered(params: Params, users: jax.Array, items: jax.Array) -> Params:
    """Gather the rows of users and items in this order; rows beyond the tables are 0."""

    def take(index: jax.Array, rows: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=0, mode="fill", fill_value=0), rows)

    return Params(*(Rows(take(users, rows.user), take(items, rows.item), rows.shared) for rows in params))


def _scores(model: Model, params: Params, pairs: Pairs) -> jax.Array:
    """Return r̂ of pairs as rankings compute it."""
    if model.embed is None:
        return model.predict(params, pairs)
    found = products(model.embed, params, pairs.user)
    predicted: jax.Array = linked(model, jnp.take_along_axis(found, pairs.item[:, None], axis=1)[:, 0])
    return predicted


def _right_scores(model: Model, sample: Sample) -> tuple[Any, Any]:
    pairs = pairs_of(sample.ratings)
    return _scores(model, sample.params, pairs), model.predict(sample.params, pairs)


def _own_users(model: Model, sample: Sample) -> tuple[Any, Any]:
    """Compare predictions with scores of gathered users and all items, with a row of zeros behind these."""
    pairs = pairs_of(sample.ratings)
    found = _gathered(sample.params, pairs.user, jnp.arange(sample.ratings.num_items + 1))
    own = replace(pairs, user=jnp.arange(NUM_RATINGS))
    return _scores(model, found, own), model.predict(sample.params, pairs)


def _own_pairs(model: Model, sample: Sample) -> tuple[Any, Any]:
    """Compare predictions with scores of gathered users and of gathered items, in reverse order with zeros behind."""
    pairs = pairs_of(sample.ratings)
    catalog = jnp.append(pairs.item[::-1], sample.ratings.num_items)
    gathered, index = _gathered(sample.params, pairs.user, catalog), jnp.arange(NUM_RATINGS)
    scores = _scores(model, gathered, replace(pairs, user=index, item=index[::-1]))
    return scores, model.predict(sample.params, pairs)


DIAGONAL_PENALTY = Promise(
    _diagonal,
    "its penalty is not a weighted sum of the squares of a row's numbers, so that the slope by {where} is not "
    "ridge · z",
    "Penalize each number by its own square, times a factor that depends on no trained number of that side",
)
SQUARED_LOSS = Promise(
    _squared,
    "its loss is not the squared distance of ⟨design, row⟩ from the target, with the rows of the {where}s as unknowns",
    "Let the loss be the squared error without a factor, and let `design` not read the rows that it is for",
)
MASKED_COLUMNS = Promise(
    _masked,
    "its columns beyond the active rank do not stay 0: the loss depends on them even where those of the {where}s are 0",
    "Let a column of factors enter only through its product with the other side's column, leave `rank` out",
)
ONE_CURVATURE = Promise(
    _one_curvature,
    "its background is not a quadratic in the rows of one side with the same Hessian for each row, so that the slope "
    "by {where} differs",
    "Let it be a sum of squared products over all cells, of the tables that `embed` returns",
)
QUADRATIC_SHARED = Promise(
    _quadratic_shared,
    "its objective is not a quadratic in the trained shared leaves, so that the slope by {where} is not linear in them",
    "Let predictions depend on them linearly, or move them to `fixed`",
)
# What the normal equations rely on.
LEAST_SQUARES = (DIAGONAL_PENALTY, SQUARED_LOSS, MASKED_COLUMNS, ONE_CURVATURE, QUADRATIC_SHARED)
OWN_LOSS = Promise(
    _own_loss,
    "its loss of a rating reads more than that rating and the rows of its user and item: it differs given only these",
    "Let it read nothing else",
)
SHARED_PENALTY = Promise(
    partial(_own_penalty, shared=True),
    "its penalty is not a sum over rows, each times its weight, so that the shares of single ratings do not add up to "
    "its slope by {where}",
    "Multiply each row's penalty by its entry in `weight`, and add no term that depends on several rows",
)
OWN_DESIGN = Promise(
    _own_design,
    "its design of a rating reads more than that rating and the rows of its user and item: it differs given only these",
    "Let it read nothing else",
)
OWN_PENALTY = Promise(
    partial(_own_penalty, shared=False),
    "its penalty of a row depends on other rows: given only the row, the slope by {where} differs",
    "Let it be a sum over rows",
)
RIGHT_SCORES = Promise(
    _right_scores,
    "its `embed` and `link` do not give the predictions of `predict`",
    "Leave `embed` None",
)
OWN_USERS = Promise(
    _own_users,
    "its predictions read other users' rows, a user's index or the number of items, so that they differ if only some "
    "users are given",
    "Keep what is known of each user in `fixed.user`",
)
OWN_PAIRS = Promise(
    _own_pairs,
    "its predictions read more than the rows of a user and an item, so that they differ if only some items are given",
    "Let it read nothing else",
)
