"""Gather the ratings into matchings, as the steps of `sgd` read them."""

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
    """The ratings in matchings, each array (strata, devices, max matchings, …, batch_size).

    Attributes:
      user, item: positions of the ratings' rows in the tables of their groups. Padding lanes have weight 0 and a row of
        their own below the tables, because several updates of one row would be undefined.
      ids: indices of these rows among all rows; arbitrary for padding lanes.
      numbers: value, weight w, and w n^(ν−1) of the user and of the item, stacked along the axis before the last.
      context: the ratings' context.
    """

    user: jax.Array
    item: jax.Array
    ids: Rows
    numbers: jax.Array
    context: dict[str, Any]


class Arranged(NamedTuple):
    """What no epoch changes.

    Attributes:
      matchings: the ratings.
      members: the rows of each group, as in `Layout`.
      slot: the position of each row among the members of all groups.
      num_matchings: number of matchings that a device visits per stratum, as in `Layout`.
    """

    matchings: Matchings
    members: Members
    slot: Rows
    num_matchings: jax.Array


def arrange_matchings(ratings: Ratings, layout: Layout, hyper: Hyper, devices: int) -> Arranged:
    """Gather the ratings into the matchings of their layout; computed once per fit."""
    position, members, num_ratings, num_matchings = layout
    cells = take(ratings, position)
    lane, inside = jnp.arange(position.shape[-1], dtype=position.dtype), position < num_ratings
    share = row_weights(ratings, hyper.reg_exponent - 1)
    slot = Rows(_slot(members.user, ratings.num_users), _slot(members.item, ratings.num_items))

    def in_group(slot: jax.Array, row: jax.Array, size: int) -> jax.Array:
        return jnp.where(inside, slot[row] % size, size + lane)

    shares = cells.weight * share.user[cells.user], cells.weight * share.item[cells.item]
    matchings = Matchings(
        in_group(slot.user, cells.user, members.user.shape[1]),
        in_group(slot.item, cells.item, members.item.shape[1]),
        Rows(cells.user, cells.item),
        jnp.stack([cells.value, cells.weight, *shares], axis=-2),
        cells.context,
    )
    return Arranged(shard(matchings, devices, PartitionSpec(None, AXIS)), members, slot, num_matchings)


def _slot(members: jax.Array, num_rows: int) -> jax.Array:
    """Return the position of each row among the members of all groups."""
    flat = members.reshape(-1)
    return jnp.zeros(num_rows, flat.dtype).at[flat].set(jnp.arange(flat.size, dtype=flat.dtype), mode="drop")
