"""Split ratings, on the host, into matchings: no two of their ratings share a user or an item, so updates commute."""

import heapq
from typing import Any, NamedTuple

import numpy as np

from jaxmf.data.ratings import padded_size

_ONE_BY_ONE = 100_000  # number of ratings that are quickly placed one by one
AT_ONCE = 32  # matchings that are visited or skipped together
_LANES_TRIED = 8  # lanes of earlier matchings that are tried, per rating that is placed one by one


class Members(NamedTuple):
    """The users and the items of each device's group: (devices, rows), padded with the number of users or items."""

    user: Any
    item: Any


class Layout(NamedTuple):
    """The positions of the ratings in matchings, and the groups of rows.

    Attributes:
      position: (strata, devices, max matchings, batch_size) int32; padding lanes hold n.
      members: the rows of each group.
      num_ratings: n.
      num_matchings: number of matchings that a device visits per stratum; the ones behind these are empty.
    """

    position: Any
    members: Members
    num_ratings: Any
    num_matchings: Any


def lay_out(
    user: np.ndarray, item: np.ndarray, num_users: int, num_items: int, batch_size: int | None, devices: int
) -> Layout:
    """Lay out the ratings in matchings of at most `batch_size` for each device.

    Users and items are split into one group per device, with about equally many ratings each. In stratum s, device d
    has the ratings of users of group d and items of group d + s, so that no two devices share a row.

    Args:
      user, item: (n,) int.
      num_users, num_items: numbers of rows.
      batch_size: maximum number of ratings per matching; None is n / (ratings of the most active row · devices),
        rounded down to a multiple of 16, or of 32 from 128 on, between 32 and 256.
      devices: number of devices.

    Cost: O(n log n); the last max(100,000, batch_size²) ratings are placed one by one.
    """
    n = len(user)
    degree = np.bincount(user, minlength=num_users), np.bincount(item, minlength=num_items)
    if batch_size is None:
        batch_size = n // (max(side.max(initial=1) for side in degree) * devices)
        step = 16 if batch_size < 128 else 32
        batch_size = int(np.clip(batch_size // step * step, 32, 256))
    user_group, item_group = (_balanced(side, devices) for side in degree)
    parts = []
    for stratum in range(devices):
        for device in range(devices):
            of_device = user_group[user] == device
            of_stratum = item_group[item] == (device + stratum) % devices
            ratings = np.flatnonzero(of_device & of_stratum)
            parts.append(np.append(ratings, n)[matchings(user[ratings], item[ratings], batch_size)])
    num_matchings = max(map(len, parts))
    max_matchings = padded_size(num_matchings, AT_ONCE)
    position = np.stack([np.pad(part, ((0, max_matchings - len(part)), (0, 0)), constant_values=n) for part in parts])
    position = position.reshape(devices, devices, max_matchings, batch_size).astype(np.int32)
    members = Members(_members(user_group, devices), _members(item_group, devices))
    return Layout(position, members, np.int32(n), np.int32(num_matchings))


def _members(group: np.ndarray, devices: int) -> np.ndarray:
    """Return the rows of each group, (devices, largest group), padded with the number of rows."""
    num_rows, members = len(group), [np.flatnonzero(group == device) for device in range(devices)]
    size = min(num_rows, padded_size(max(map(len, members)), 1))
    padded = [np.pad(rows, (0, size - len(rows)), constant_values=num_rows) for rows in members]
    return np.stack(padded).astype(np.int32)


def matchings(user: np.ndarray, item: np.ndarray, batch_size: int) -> np.ndarray:
    """Split ratings into matchings, one per row of the result, in which no user and no item occurs twice.

    Many ratings are split as by Gemulla et al.: users and items are put into `batch_size` groups each, with about
    equally many ratings. The blocks (group of users, group of items) on one diagonal have no row in common, so that one
    rating of each block makes a matching. What is left over in the longer blocks of a diagonal is split again, into
    different groups, until few ratings are left. These are placed one by one, by falling degree of their more active
    row: each into the first matching that has an empty lane and neither its user nor its item, which leaves the fewest
    lanes empty; earlier matchings are tried as well.

    Args:
      user, item: (n,) int.
      batch_size: maximum number of ratings per matching.

    Returns:
      (num_matchings, batch_size) int32 positions; padding lanes hold n.

    >>> matchings(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[0, 2], [1, 3]]
    """
    n = len(user)
    random, left, parts = np.random.default_rng(0), np.arange(n), [np.empty((0, batch_size), np.int64)]
    while len(left) > max(_ONE_BY_ONE, batch_size**2):
        layout, left_over = _diagonals(user[left], item[left], batch_size, random)
        parts.append(np.append(left, n)[layout])
        left = left[left_over]
    num_tried = _LANES_TRIED * len(left) // batch_size
    parts[-1:] = [parts[-1][num_tried:], _first_fit(user, item, left, parts[-1][:num_tried])]
    layout = np.concatenate(parts).astype(np.int32)
    return layout if len(layout) else np.full((1, batch_size), n, np.int32)


def _diagonals(
    user: np.ndarray, item: np.ndarray, batch_size: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return matchings, for each diagonal as many as its blocks have ratings on average, and the ratings left over."""
    user_group = _balanced(np.bincount(user), batch_size)[user]
    diagonal = (_balanced(np.bincount(item), batch_size)[item] - user_group) % batch_size
    block = diagonal * batch_size + user_group
    order = random.permutation(len(user))
    order = order[np.argsort(block[order], kind="stable")]
    size = np.bincount(block, minlength=batch_size**2)
    nth = np.arange(len(user)) - (np.cumsum(size) - size)[block[order]]  # within the rating's block
    length = size.reshape(batch_size, batch_size).sum(axis=1) // batch_size
    fits = nth < length[diagonal[order]]
    layout = np.full((length.sum(), batch_size), len(user))
    matching = (np.cumsum(length) - length)[diagonal[order]] + nth
    layout[matching[fits], user_group[order[fits]]] = order[fits]
    return layout, order[~fits]


def _balanced(degree: np.ndarray, num_groups: int) -> np.ndarray:
    """Return the group of each row: by falling degree, rows go to the group with the fewest ratings so far."""
    group = np.empty(len(degree), np.int64)
    loads = [(0, lightest) for lightest in range(num_groups)]
    for row in np.argsort(-degree, kind="stable").tolist():
        load, lightest = loads[0]
        group[row] = lightest
        heapq.heapreplace(loads, (load + int(degree[row]), lightest))
    return group


def _first_fit(user: np.ndarray, item: np.ndarray, left: np.ndarray, layout: np.ndarray) -> np.ndarray:
    """Place the ratings that are left in empty lanes of the layout, or in new matchings behind it."""
    n, batch_size = len(user), layout.shape[1]
    degree = np.maximum(np.bincount(user[left])[user[left]], np.bincount(item[left])[item[left]]) if len(left) else left
    # One arbitrary-precision integer per row, whose bit s says that matching s has the row already.
    user_busy, item_busy = _busy(user, left, layout), _busy(item, left, layout)
    free = [np.flatnonzero(lanes == n)[::-1].tolist() for lanes in layout]
    full = sum(1 << s for s, lanes in enumerate(free) if not lanes)
    placed = []
    order = left[np.argsort(-degree, kind="stable")]
    for r, u, i in zip(*(array.tolist() for array in (order, user[order], item[order])), strict=True):
        busy = user_busy[u] | item_busy[i] | full
        bit = ~busy & (busy + 1)
        s = bit.bit_length() - 1
        user_busy[u] |= bit
        item_busy[i] |= bit
        if s == len(free):
            free.append(list(range(batch_size))[::-1])
        placed.append((s, free[s].pop(), r))
        if not free[s]:
            full |= bit
    layout = np.pad(layout, ((0, len(free) - len(layout)), (0, 0)), constant_values=n)
    matching, lane, rating = np.array(placed, int).reshape(-1, 3).T
    layout[matching, lane] = rating
    return layout


def _busy(row: np.ndarray, left: np.ndarray, layout: np.ndarray) -> dict[int, int]:
    """Return for each row of the ratings that are left, which matchings have it, as bits."""
    rows = np.unique(row[left])
    busy = np.zeros((len(rows), len(layout)), bool)
    matching, lane = np.nonzero(np.isin(np.append(row, -1)[layout], rows))
    busy[np.searchsorted(rows, row[layout[matching, lane]]), matching] = True
    packed = np.packbits(busy, axis=1, bitorder="little")
    return {int(index): int.from_bytes(bits.tobytes(), "little") for index, bits in zip(rows, packed, strict=True)}


def fill(layout: Layout) -> tuple[int, float]:
    """Return the number of matchings that a device visits per epoch, and the share of their lanes with a rating."""
    position = np.asarray(layout.position)[:, :, : layout.num_matchings]
    return position.shape[0] * position.shape[2], float((position < layout.num_ratings).mean())
