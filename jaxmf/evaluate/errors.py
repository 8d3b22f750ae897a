"""Predictions in the caller's ids, and errors on held-out ratings."""

from functools import lru_cache
from typing import Any

import jax
import numpy as np
import pandas as pd

from jaxmf.data.checks import check_clip, expect
from jaxmf.data.dataset import Dataset
from jaxmf.data.observed import as_parts, as_ratings
from jaxmf.data.ratings import Ratings
from jaxmf.models.bilinear import damped_bias, global_mean
from jaxmf.models.model import Hyper, Model, Params, check_predicts
from jaxmf.models.xla import TWO_STEP_SUMS, without

Clip = tuple[float, float] | None


def predict(model: Model, params: Params, data: Dataset, frame: pd.DataFrame, clip: Clip = None) -> pd.Series:
    """Predicted ratings for the (user, item) pairs of a table.

    Args:
      model: the model.
      params: its parameters.
      data: the Dataset that knows the ids the model was fitted with.
      frame: columns `user_id` and `item_id`, in the ids of `data`; others are ignored.
      clip: (low, high) bounds for the predictions, or None.

    Returns:
      a Series `prediction` with the frame's index.

    Raises:
      ValueError: an argument of another type, a missing column, an id that `data` does not know, `data` of another
        number of users or items than the model has, or bounds in the wrong order.

    Cost: O(n · D) for rows of D numbers.
    """
    expect(
        data, Dataset, "predict: data", "pass the one whose ids the model was fitted with, such as the training data"
    )
    expect(frame, pd.DataFrame, "predict: frame", "expected a table with columns user_id and item_id")
    check_predicts(model, params, data, "predict")
    missing = [name for name in ("user_id", "item_id") if name not in frame]
    if missing:
        raise ValueError(
            f"predict: missing column {missing[0]!r}; the table has {list(frame.columns)}. Rename its columns to "
            "user_id and item_id"
        )
    users, items = data.user_index(frame["user_id"]), data.item_index(frame["item_id"])
    return pd.Series(predictions(model, params, users, items, clip), frame.index, name="prediction")


def rating(model: Model, params: Params, test: Dataset | Ratings, clip: Clip = None) -> dict[str, float]:
    """Errors of the predictions on held-out ratings, weighted.

        rmse = √(Σ w (r − r̂)² / Σ w)      mae = Σ w |r − r̂| / Σ w      mse = rmse²

    Args:
      model: the model.
      params: its parameters.
      test: ratings over the same users and items; a user or item without training ratings has zero rows, so that its
        prediction falls back on the terms that are known.
      clip: (low, high) bounds for the predictions, such as (1, 5); None leaves them as they are.

    Returns:
      {"rmse", "mae", "mse"}, floats in rating units (mse: squared), summed in float64.

    Raises:
      ValueError: an argument of another type, what `as_ratings` refuses, such as no rating with weight, another number
        of users or items than the model has, or bounds in the wrong order.

    Cost: O(n · D) for rows of D numbers.
    """
    ratings = as_ratings(test, "evaluate.rating: test")
    check_predicts(model, params, ratings, "evaluate.rating")
    weight = np.asarray(ratings.weight, np.float64)
    error = np.asarray(ratings.value, np.float64) - predictions(model, params, ratings.user, ratings.item, clip)
    mse = float(weight @ error**2 / weight.sum())
    return {"rmse": mse**0.5, "mae": float(weight @ np.abs(error) / weight.sum()), "mse": mse}


def against_baselines(
    model: Model, params: Params, train: Dataset | Ratings, test: Dataset | Ratings, clip: Clip = None
) -> pd.DataFrame:
    """Errors of a model beside those of the global mean and of the damped bias of the training ratings.

    Args:
      model, params: the model and its parameters.
      train: what the baselines are computed from.
      test, clip: as in `rating`.

    Returns:
      a table with the columns model, num_ratings, rmse, mae, mse; the model first.

    Raises:
      ValueError: as `rating`, or `train` and `test` over other users or items.

    Cost: that of three calls of `rating`.
    """
    seen, held_out = as_parts(train, test, ("train", "test"))
    check_predicts(model, params, held_out, "evaluate.against_baselines")
    check_clip(clip)
    fitted = [(model, params)]
    fitted += [(baseline, baseline.init(None, seen, Hyper())) for baseline in (global_mean(), damped_bias())]
    rows = [{"model": m.name, "num_ratings": len(held_out.value)} | rating(m, p, held_out, clip) for m, p in fitted]
    return pd.DataFrame(rows)


def predictions(model: Model, params: Params, users: Any, items: Any, clip: Clip = None) -> np.ndarray:
    """The model's predictions (n,) for index arrays (n,), on the host in float64."""
    check_clip(clip)
    prediction = np.asarray(_compiled(model)(params, users, items), np.float64)
    return prediction if clip is None else np.clip(prediction, *clip)


@lru_cache(maxsize=64)
def _compiled(model: Model) -> Any:
    return jax.jit(model.predict, compiler_options=dict(without(TWO_STEP_SUMS)))
