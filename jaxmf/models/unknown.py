"""Predictions for users and items unknown to a model: rows of zeros stand for them, so that the known terms remain."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.ratings import Pairs, Side, padded_size
from jaxmf.kernels.programs import jit, of_model
from jaxmf.kernels.xla import TWO_STEP_SUMS, without
from jaxmf.models.leaves import NOTHING_AT_0
from jaxmf.models.model import Model
from jaxmf.models.params import Params, Rows


def check_zeros(who: str, model: Model, params: Params, sides: Iterable[Side]) -> None:
    """Raise a ValueError, starting with `who`, if rows of these sides have a leaf in which 0 is no neutral value."""
    for side in sides:
        for part, names in NOTHING_AT_0[side].items():
            for path, _ in jax.tree_util.tree_leaves_with_path(getattr(getattr(params, part), side)):
                if not {getattr(key, "key", None) for key in path} & set(names):
                    leaf = jax.tree_util.keystr(path, simple=True, separator=".")
                    where = f"params.{part}.{side}.{leaf}".rstrip(".")
                    raise ValueError(
                        f"{who}: on_unknown='bias' is not for the model {model.name!r}: nothing says what an unknown "
                        f"{side} has for {where} (0 stands for nothing only in {', '.join(names)}). Pass "
                        "on_unknown='drop'"
                    )


def mean_of_unknown(params: Params, users: np.ndarray) -> float:
    """Return the mean of all ratings, which replaces an unknown user's mean; 0 for a model without users' means.

    It is the average of the users' means over `users`, the user of each rating; over all users if there are no ratings.
    """
    if not isinstance(params.fixed.user, dict) or "mean" not in params.fixed.user:
        return 0.0
    means = np.asarray(params.fixed.user["mean"], np.float64)
    return float((means[users] if len(users) else means).mean())


def predict_unknown(model: Model, params: Params, users: np.ndarray, items: np.ndarray, mean: float) -> np.ndarray:
    """Return r̂ (n,) for indices (n,) of users and of items, where a negative index means unknown.

    Rows of zeros stand for unknown ones, where `check_zeros` allows it, and `mean` for an unknown user's mean. Pairs
    are padded to a size of `padded_size`, so that calls of similar size share a program.

    Cost: O(n · D) time and memory for rows of D numbers.
    """
    padding = (0, padded_size(len(users)) - len(users))
    index = (np.pad(side, padding, constant_values=-1).astype(np.int32) for side in (users, items))
    return np.asarray(_program(model)(params, *index, mean))[: len(users)]


@of_model
def _program(model: Model) -> Any:
    def predicted(params: Params, users: jax.Array, items: jax.Array, mean: jax.Array) -> jax.Array:
        """Predict with gathered rows, one of each side for each pair: a batch is the same model on gathered rows."""
        trained, fixed = (Rows(_rows(t.user, users), _rows(t.item, items), t.shared) for t in params)
        if isinstance(fixed.user, dict) and "mean" in fixed.user:
            known = jnp.where(users < 0, mean.astype(fixed.user["mean"].dtype), fixed.user["mean"])
            fixed = fixed._replace(user=fixed.user | {"mean": known})
        pair = jnp.arange(len(users))
        return model.predict(Params(trained, fixed), Pairs(pair, pair))

    return jit(predicted, compiler_options=dict(without(TWO_STEP_SUMS)))


def _rows(tables: Any, index: jax.Array) -> Any:
    """Gather rows of each table, and zeros for a negative index."""

    def rows(leaf: jax.Array) -> jax.Array:
        beyond = jnp.where(index < 0, leaf.shape[0], index)
        return jnp.take(leaf, beyond, axis=0, mode="fill", fill_value=0)

    return jax.tree.map(rows, tables)
