"""The ratings in matchings, as the steps of `sgd` read them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxmf.data.ratings import Ratings, take
from jaxmf.kernels._matchings import Layout, Members
from jaxmf.kernels.devices import AXIS, shard
from jaxmf.models._objective import row_weights
from jaxmf.models.params import Hyper, Rows


class Matchings(NamedTuple):
    """The ratings in matchings, each array (strata, devices, most matchings, …, batch_size).

    Attributes:
      user, item: where the rows stand in the tables of their group. Padding lanes have weight 0 and rows of their own
        below the tables, since updates of equal rows would be undefined.
      ids: the rows themselves, any for padding lanes.
      numbers: value, weight w, and w n^(ν−1) of the user and of the item, one after another on an axis of their own.
      context: that of the ratings.
    """

    user: jax.Array
    item: jax.Array
    ids: Rows
    numbers: jax.Array
    context: dict[str, Any]


class Arranged(NamedTuple):
    """What no epoch changes: the ratings in matchings, the rows of each group as in `Layout`, where each row stands
    among these, and the number of matchings.
    """

    matchings: Matchings
    members: Members
    place: Rows
    num_matchings: jax.Array


def arrange_matchings(ratings: Ratings, layout: Layout, hyper: Hyper, devices: int) -> Arranged:
    """Put the ratings in the matchings of their layout; computed once per fit."""
    position, members, num_ratings, num_matchings = layout
    own = take(ratings, position)
    lane, inside = jnp.arange(position.shape[-1], dtype=position.dtype), position < num_ratings
    share = row_weights(ratings, hyper.reg_exponent - 1)
    place = Rows(_place(members.user, ratings.num_users), _place(members.item, ratings.num_items))

    def local(place: jax.Array, row: jax.Array, size: int) -> jax.Array:
        return jnp.where(inside, place[row] % size, size + lane)

    shares = own.weight * share.user[own.user], own.weight * share.item[own.item]
    cells = Matchings(
        local(place.user, own.user, members.user.shape[1]),
        local(place.item, own.item, members.item.shape[1]),
        Rows(own.user, own.item),
        jnp.stack([own.value, own.weight, *shares], axis=-2),
        own.context,
    )
    return Arranged(shard(cells, devices, PartitionSpec(None, AXIS)), members, place, num_matchings)


def _place(members: jax.Array, num_rows: int) -> jax.Array:
    flat = members.reshape(-1)
    return jnp.zeros(num_rows, flat.dtype).at[flat].set(jnp.arange(flat.size, dtype=flat.dtype), mode="drop")
