"""Ratings in matchings, which share no user and no item, so that they may be applied at once: laid out on the host."""

import heapq
from typing import Any, NamedTuple

import numpy as np

from jaxmf.data.ratings import padded_size

_FEW = 100_000  # ratings that are quickly put into matchings one by one
AT_ONCE = 32  # matchings that are visited or left out together
_TRIED = 8  # times as many lanes of earlier matchings are looked at for them


class Members(NamedTuple):
    """The users of each device's group, and the items: (devices, rows), filled up with their number."""

    user: Any
    item: Any


class Layout(NamedTuple):
    """Positions of the ratings in matchings, and who has which rows.

    Attributes:
      position: (strata, devices, most matchings, batch_size) int32; padding lanes hold n.
      members: of the groups.
      num_ratings: n.
      num_matchings: how many a device visits in a stratum; those behind them are empty.
    """

    position: Any
    members: Members
    num_ratings: Any
    num_matchings: Any


def lay_out(
    user: np.ndarray, item: np.ndarray, num_users: int, num_items: int, batch_size: int | None, devices: int
) -> Layout:
    """Ratings in matchings of at most `batch_size` for each of so many devices.

    Users and items fall into as many groups as there are devices, with equally many ratings each. In stratum s, device
    d has the ratings of its own group of users with the group of items d + s, so that no two devices share a row.

    Args:
      user, item: (n,) int.
      num_users, num_items: how many rows there are.
      batch_size: most ratings per matching; None is n / (most ratings of a row · devices), down to a multiple of 16,
        or of 32 from 128 on, between 32 and 256.
      devices: how many.

    Cost: O(n log n), the last max(100,000, batch_size²) ratings one by one.
    """
    n = len(user)
    degree = np.bincount(user, minlength=num_users), np.bincount(item, minlength=num_items)
    if batch_size is None:
        batch_size = n // (max(own.max(initial=1) for own in degree) * devices)
        step = 16 if batch_size < 128 else 32
        batch_size = int(np.clip(batch_size // step * step, 32, 256))
    users, items = (_balanced(own, devices) for own in degree)
    parts = []
    for stratum in range(devices):
        for device in range(devices):
            own = np.flatnonzero((users[user] == device) & (items[item] == (device + stratum) % devices))
            parts.append(np.append(own, n)[matchings(user[own], item[own], batch_size)])
    longest = max(map(len, parts))
    most = padded_size(longest, AT_ONCE)
    position = np.stack([np.pad(part, ((0, most - len(part)), (0, 0)), constant_values=n) for part in parts])
    position = position.reshape(devices, devices, most, batch_size).astype(np.int32)
    members = Members(_members(users, devices), _members(items, devices))
    return Layout(position, members, np.int32(n), np.int32(longest))


def _members(group: np.ndarray, devices: int) -> np.ndarray:
    """The rows of each group, (devices, most in a group), filled up with the number of rows."""
    rows = [np.flatnonzero(group == own) for own in range(devices)]
    most = min(len(group), padded_size(max(map(len, rows)), 1))
    return np.stack([np.pad(own, (0, most - len(own)), constant_values=len(group)) for own in rows]).astype(np.int32)


def matchings(user: np.ndarray, item: np.ndarray, batch_size: int) -> np.ndarray:
    """Split ratings into matchings: no user and no item twice in a row of the result.

    Many ratings are split as Gemulla et al. do: users and items fall into `batch_size` groups with equally many ratings
    each, and of the blocks (group of users, group of items) those of one diagonal have no row in common, so that one
    rating of each makes a matching. What longer blocks of a diagonal have left over is split again, into other groups,
    until it is little: then ratings by decreasing larger degree, each into the first matching that has room and neither
    its user nor its item, be it an earlier one, which leaves fewest lanes empty.

    Args:
      user: (n,) int.
      item: (n,) int.
      batch_size: most ratings per matching.

    Returns:
      (num_matchings, batch_size) int32 positions; padding lanes hold n.

    >>> matchings(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[0, 2], [1, 3]]
    """
    n = len(user)
    random, left, parts = np.random.default_rng(0), np.arange(n), [np.empty((0, batch_size), np.int64)]
    while len(left) > max(_FEW, batch_size**2):
        layout, over = _diagonals(user[left], item[left], batch_size, random)
        parts.append(np.append(left, n)[layout])
        left = left[over]
    some = _TRIED * len(left) // batch_size
    parts[-1:] = [parts[-1][some:], _first_fit(user, item, left, parts[-1][:some])]
    layout = np.concatenate(parts).astype(np.int32)
    return layout if len(layout) else np.full((1, batch_size), n, np.int32)


def _diagonals(
    user: np.ndarray, item: np.ndarray, batch_size: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Matchings of as many ratings of each block as its diagonal's blocks have on average, and what is left over."""
    own = _balanced(np.bincount(user), batch_size)[user]
    diagonal = (_balanced(np.bincount(item), batch_size)[item] - own) % batch_size
    block = diagonal * batch_size + own
    order = random.permutation(len(user))
    order = order[np.argsort(block[order], kind="stable")]
    size = np.bincount(block, minlength=batch_size**2)
    place = np.arange(len(user)) - (np.cumsum(size) - size)[block[order]]
    length = size.reshape(batch_size, batch_size).sum(axis=1) // batch_size
    fits = place < length[diagonal[order]]
    layout = np.full((length.sum(), batch_size), len(user))
    layout[((np.cumsum(length) - length)[diagonal[order]] + place)[fits], own[order[fits]]] = order[fits]
    return layout, order[~fits]


def _balanced(degree: np.ndarray, num_groups: int) -> np.ndarray:
    """The group of each row: by decreasing degree into the group that has the fewest ratings so far."""
    group = np.empty(len(degree), np.int64)
    loads = [(0, number) for number in range(num_groups)]
    for row in np.argsort(-degree, kind="stable").tolist():
        load, number = loads[0]
        group[row] = number
        heapq.heapreplace(loads, (load + int(degree[row]), number))
    return group


def _first_fit(user: np.ndarray, item: np.ndarray, left: np.ndarray, layout: np.ndarray) -> np.ndarray:
    """The layout with the ratings that are left, in empty lanes or in matchings after it."""
    n, batch_size = len(user), layout.shape[1]
    degree = np.maximum(np.bincount(user[left])[user[left]], np.bincount(item[left])[item[left]]) if len(left) else left
    # One arbitrary-precision integer per row: bit s says that matching s has that row already.
    user_busy, item_busy = _busy(user, left, layout), _busy(item, left, layout)
    free = [np.flatnonzero(lanes == n)[::-1].tolist() for lanes in layout]
    full = sum(1 << s for s, lanes in enumerate(free) if not lanes)
    found = []
    order = left[np.argsort(-degree, kind="stable")]
    for r, u, i in zip(*(array.tolist() for array in (order, user[order], item[order])), strict=True):
        busy = user_busy[u] | item_busy[i] | full
        bit = ~busy & (busy + 1)
        s = bit.bit_length() - 1
        user_busy[u] |= bit
        item_busy[i] |= bit
        if s == len(free):
            free.append(list(range(batch_size))[::-1])
        found.append((s, free[s].pop(), r))
        if not free[s]:
            full |= bit
    layout = np.pad(layout, ((0, len(free) - len(layout)), (0, 0)), constant_values=n)
    matching, lane, rating = np.array(found, int).reshape(-1, 3).T
    layout[matching, lane] = rating
    return layout


def _busy(row: np.ndarray, left: np.ndarray, layout: np.ndarray) -> dict[int, int]:
    """For each row of a rating that is left, the matchings that have it, as bits."""
    rows = np.unique(row[left])
    busy = np.zeros((len(rows), len(layout)), bool)
    matching, lane = np.nonzero(np.isin(np.append(row, -1)[layout], rows))
    busy[np.searchsorted(rows, row[layout[matching, lane]]), matching] = True
    packed = np.packbits(busy, axis=1, bitorder="little")
    return {int(own): int.from_bytes(bits.tobytes(), "little") for own, bits in zip(rows, packed, strict=True)}


def fill(layout: Layout) -> tuple[int, float]:
    """Number of matchings that a device visits in an epoch, and the share of their lanes that hold a rating."""
    position = np.asarray(layout.position)[:, :, : layout.num_matchings]
    return position.shape[0] * position.shape[2], float((position < layout.num_ratings).mean())
