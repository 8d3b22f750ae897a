"""The scores that rank items: products of a model's tables, or else its predictions."""

from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp

from jaxmf.data.ratings import Pairs
from jaxmf.models.features import project_all
from jaxmf.models.model import Model
from jaxmf.models.params import Params
from jaxmf.models.protocols import Embed


def scores(model: Model, params: Params, users: jax.Array, num_items: int) -> jax.Array:
    """Return the scores (m, num_items) that rank every item for users (m,): left·right of `embed`, or else predictions.

    Cost: O(m · num_items · D) for rows of D numbers; memory O(m · num_items), and D times that without `model.embed`.
    """
    if model.embed is not None:
        return products(model.embed, params, users)
    items = jnp.arange(num_items)
    return jax.vmap(lambda user: model.predict(params, Pairs(jnp.full_like(items, user), items)))(users)


def products(embed: Embed, params: Params, users: jax.Array) -> jax.Array:
    """Return left·right (m, num_items) for users (m,) and every item."""
    gathered = (rows._replace(user=jax.tree.map(lambda leaf: leaf[users], rows.user)) for rows in params)
    left, right = (tables if type(tables) is tuple else (tables,) for tables in embed(Params(*gathered)))
    return reduce(jnp.add, map(project_all, left, right))


def linked(model: Model, score: Any) -> Any:
    """Return the predictions r̂ that belong to scores."""
    return score if model.embed is None or model.link is None else model.link(score)
