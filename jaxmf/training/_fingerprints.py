"""Fingerprints of the ratings of a fit, so that it is not resumed on different ratings."""

import hashlib
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmf.data.ratings import Ratings


class Fingerprints(NamedTuple):
    """Fingerprints of the training ratings, and of the validation ratings (None without any)."""

    train: str
    valid: str | None


def fingerprint(tree: Any) -> str:
    """Return 16 hex digits of SHA-256 over the arrays of a pytree: dtypes, shapes and values, in order.

    Cost: O(size) on the host, half a second for 20 million ratings.
    """
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{array.dtype}{np.shape(leaf)}".encode())
        digest.update(array.view(np.uint8).data)
    return digest.hexdigest()[:16]


def fingerprints(train: Ratings, valid: Ratings | None) -> Fingerprints:
    """Return the fingerprints of a fit's training and validation ratings, without their padding."""
    return Fingerprints(_without_padding(train), None if valid is None else _without_padding(valid))


def _without_padding(ratings: Ratings) -> str:
    """Return the fingerprint of the ratings up to the last one whose weight is not 0."""
    end = 1 + int(np.flatnonzero(ratings.weight)[-1])
    return fingerprint([np.asarray(leaf)[:end] for leaf in jax.tree.leaves(ratings)])


def check_same(earlier: Fingerprints | None, now: Fingerprints, patience: int | None) -> None:
    """Raise ValueError unless a fit may be resumed on these ratings; `earlier` is None if its ratings are unknown.

    With `patience`, the best epoch so far was chosen on the validation ratings, so they must be the same too. Without
    it they are only measured, so they may differ.
    """
    if earlier is None:
        return
    parts: dict[str, tuple[str | None, str | None]] = {"training": (earlier.train, now.train)}
    if patience is not None:
        parts["validation"] = (earlier.valid, now.valid)
    for name, (before, after) in parts.items():
        if before != after:
            raise ValueError(
                f"resume: the earlier fit had other {name} ratings: their pairs, values, weights or order differ "
                f"(fingerprint {before} there, {after} here). Resume with the ratings of the earlier fit, or start a "
                "new fit without resume="
            )
