"""Accept a Dataset or its `Ratings` wherever a tool takes ratings, and validate them once, on the host."""

from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.checks import is_positive_integer, listed
from jaxmf.data.dataset import Dataset
from jaxmf.data.ids import same
from jaxmf.data.ratings import Ratings

_DTYPES: dict[str, Any] = {"user": jnp.integer, "item": jnp.integer, "value": jnp.floating, "weight": jnp.floating}


def as_ratings(data: Dataset | Ratings, name: str) -> Ratings:
    """Return the validated ratings of a Dataset or Ratings that a caller passed as `name`.

    Args:
      data: a Dataset, or Ratings, which are returned unchanged.
      name: what messages call the argument.

    Returns:
      Ratings, at least one of which has a weight above 0.

    Raises:
      ValueError: `data` is something else, has no ratings, or none with a weight above 0; arrays have wrong shapes or
        dtypes; context has a wrong length; an index is out of range; a value or weight is not finite; or a weight is
        negative.

    Cost: O(n) on the host.
    """
    ratings = data.ratings if isinstance(data, Dataset) else data
    if not isinstance(ratings, Ratings):
        raise ValueError(
            f"{name} must be a Dataset or its Ratings, not {type(data).__name__}: Dataset.from_frame makes one of a "
            "table, Dataset.from_arrays of arrays"
        )
    arrays = {field.name: getattr(ratings, field.name) for field in fields(Ratings) if field.name in _DTYPES}
    n = len(ratings.value) if np.ndim(ratings.value) else 0
    for column, x in arrays.items():
        if np.shape(x) != (n,) or not jnp.issubdtype(getattr(x, "dtype", object), _DTYPES[column]):
            held = ", ".join(f"{c} {getattr(x, 'dtype', 'list')}{[*np.shape(x)]}" for c, x in arrays.items())
            raise ValueError(
                f"{name} holds {held}; expected arrays of one length, integers in user and item, floats in value and "
                "weight. Dataset.from_arrays(...).ratings has them"
            )
    for path, leaf in jax.tree_util.tree_leaves_with_path(ratings.context):
        if np.shape(leaf)[:1] != (n,):
            where = jax.tree_util.keystr(path, simple=True, separator=".")
            raise ValueError(
                f"{name} holds context {where!r} of shape {list(np.shape(leaf))}; expected a leading axis of {n}, one "
                "entry per rating"
            )
    narrow = [x.dtype for x in (arrays["value"], arrays["weight"]) if x.dtype not in (np.float32, np.float64)]
    if narrow:
        raise ValueError(
            f"{name} holds numbers in {narrow[0]}; expected float32 or float64, since sums of many numbers lose too "
            "many digits in less: convert them with jaxmf.data.ratings.cast(ratings, 'float32')"
        )
    if n == 0:
        raise ValueError(f"{name} has no ratings; expected at least one")
    for column, count in (("user", ratings.num_users), ("item", ratings.num_items)):
        if not is_positive_integer(count):
            raise ValueError(f"{name} has num_{column}s {count!r}; expected a positive integer")
        index = np.asarray(arrays[column])
        _refuse(
            (index < 0) | (index >= count),
            f"{name} has {column} indices outside 0 .. {count - 1}",
            f"num_{column}s must be greater than the largest index; Dataset.from_arrays numbers ids of any kind",
        )
    value, weight = np.asarray(ratings.value), np.asarray(ratings.weight)
    _refuse(
        ~np.isfinite(value), f"{name} has a NaN or infinite value", "leave these ratings out: weight 0 is not enough"
    )
    _refuse(
        ~np.isfinite(weight) | (weight < 0), f"{name} has a negative or infinite weight", "use 0 to ignore a rating"
    )
    if not weight.any():
        raise ValueError(f"{name} has no ratings with weight; expected at least one of weight above 0")
    return ratings


def as_parts(
    train: Dataset | Ratings, other: Dataset | Ratings, names: tuple[str, str] = ("train", "valid")
) -> tuple[Ratings, Ratings]:
    """Return `as_ratings` of both parts; raise ValueError unless they have the same users and items."""
    parts = as_ratings(train, names[0]), as_ratings(other, names[1])
    remedy = f"Split one Dataset with jaxmf.splits, or bring the other to its ids with {names[0]}.align({names[1]})"
    sizes = [f"{part.num_users} users and {part.num_items} items" for part in parts]
    if sizes[0] != sizes[1]:
        raise ValueError(f"{names[0]} has {sizes[0]}, {names[1]} has {sizes[1]}. {remedy}")
    if isinstance(train, Dataset) and isinstance(other, Dataset):
        for column in ("user_ids", "item_ids"):
            if not same(getattr(train, column), getattr(other, column)):
                raise ValueError(f"{names[0]} and {names[1]} have equally many {column}, but different ones. {remedy}")
    return parts


def _refuse(bad: np.ndarray, problem: str, remedy: str) -> None:
    if bad.any():
        positions = listed(np.flatnonzero(bad).tolist())
        raise ValueError(f"{problem} in {bad.sum()} place(s), at position {positions}; {remedy}")
