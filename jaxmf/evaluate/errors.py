"""Predict in the caller's ids, and measure errors on held-out ratings."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmf.data.checks import check_clip, expect, listed
from jaxmf.data.dataset import Dataset
from jaxmf.data.observed import as_parts, as_ratings
from jaxmf.data.ratings import Pairs, Ratings, Side, padded, padded_size
from jaxmf.data.unknown import OnUnknown, check_on_unknown, positions, refusal, unknown_ids
from jaxmf.kernels.programs import jit, of_model
from jaxmf.kernels.xla import TWO_STEP_SUMS, without
from jaxmf.models.baselines import damped_bias, global_mean
from jaxmf.models.checks import check_predicts
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params
from jaxmf.models.promises import OWN_PAIRS
from jaxmf.models.trial import check_promises
from jaxmf.models.unknown import check_zeros, mean_of_unknown, predict_unknown

Clip = tuple[float, float] | None


def predict(
    model: Model,
    params: Params,
    data: Dataset,
    frame: pd.DataFrame,
    clip: Clip = None,
    on_unknown: OnUnknown = "error",
) -> pd.Series:
    """Predict the ratings of the (user, item) pairs of a table.

    Args:
      model: the model.
      params: its parameters.
      data: the Dataset whose ids the model was fitted with.
      frame: columns `user_id` and `item_id`, in the ids of `data`; others are ignored.
      clip: (low, high) bounds for the predictions, or None.
      on_unknown: how to treat pairs with an id that `data` does not know; a missing id is unknown. "error" raises
        ValueError; "drop" leaves these pairs out; "bias" predicts with a row of zeros for the unknown id: μ plus the
        known side's bias, if any, without factors and content, and with μ for the mean of an unknown user. "drop" and
        "bias" issue a UserWarning with the number of pairs. If the model has a `design`, `fold_in` uses the ratings or
        features of the unknown ids and predicts better.

    Returns:
      a Series `prediction` in the dtype of the parameters, at least float32, with the frame's index; with "drop", only
      of the rows whose ids are both known.

    Raises:
      ValueError: an argument of the wrong type, a missing column, an id that `data` does not know, `data` with a
        different number of users or items than the model, bounds in the wrong order, or on_unknown="bias" for a model
        with leaves other than `factors`, `bias` and `content`, for which a row of zeros has no known meaning, or with
        predictions that read more than the rows of the pair (`jaxmf.models.promises`).

    Cost: O(n · D) for rows of D numbers. Calls of about the same size share a program, also with `rating`.

    >>> import jax, jaxmf
    >>> data = jaxmf.Dataset.from_arrays(["ann", "ann", "bob"], ["x", "y", "x"], [5.0, 3.0, 4.0])
    >>> model = jaxmf.models.global_mean()
    >>> params = model.init(None, data.ratings, jaxmf.Hyper())
    >>> pairs = pd.DataFrame({"user_id": ["bob", "bob"], "item_id": ["y", "x"]}, index=[7, 8])
    >>> jaxmf.predict(model, params, data, pairs).to_dict()
    {7: 4.0, 8: 4.0}
    """
    expect(
        data, Dataset, "predict: data", "pass the one whose ids the model was fitted with, such as the training data"
    )
    expect(frame, pd.DataFrame, "predict: frame", "expected a table with columns user_id and item_id")
    check_predicts(model, params, data, "predict")
    missing = [name for name in ("user_id", "item_id") if name not in frame]
    if missing:
        raise ValueError(
            f"predict: missing column {missing[0]!r}; the table has [{listed(frame.columns, 12)}]. Rename its columns "
            "to user_id and item_id"
        )
    check_on_unknown("predict", on_unknown)
    check_clip(clip)
    user = positions(data.user_ids, frame["user_id"], "user")
    item = positions(data.item_ids, frame["item_id"], "item")
    unknown, index = (user < 0) | (item < 0), frame.index
    if unknown.any():
        _report_unknown(model, params, data, frame, user, item, on_unknown)
    # Index 0 stands in for unknown ids, so that the program is the same as for as many known pairs.
    values = _predicted(model, params, Pairs(np.maximum(user, 0), np.maximum(item, 0)))
    if unknown.any() and on_unknown == "drop":
        values, index = values[~unknown], index[~unknown]
    elif unknown.any():
        mean = mean_of_unknown(params, data.user)
        values = values.copy()
        values[unknown] = predict_unknown(model, params, user[unknown], item[unknown], mean)
    if clip is not None:
        values = np.clip(values, float(clip[0]), float(clip[1]))  # Python floats, which keep the dtype
    return pd.Series(values, index, name="prediction")


def _report_unknown(
    model: Model,
    params: Params,
    data: Dataset,
    frame: pd.DataFrame,
    user: np.ndarray,
    item: np.ndarray,
    on_unknown: OnUnknown,
) -> None:
    """Raise ValueError about unknown ids, or warn how their pairs are treated."""
    if on_unknown == "error":
        try:
            data.user_index(frame["user_id"])
            data.item_index(frame["item_id"])
        except ValueError as error:
            raise refusal("predict", error) from None
    if on_unknown == "bias":
        sides: dict[Side, np.ndarray] = {"user": user, "item": item}
        check_zeros("predict", model, params, [side for side, index in sides.items() if (index < 0).any()])
        if len(data):  # promises are tried on some of the ratings
            check_promises("predict", (OWN_PAIRS,), model, params, Hyper(), data, "pass on_unknown='drop'")
    treatment = "left out" if on_unknown == "drop" else "predicted from the known terms"
    count = ((user < 0) | (item < 0)).sum()
    ids = unknown_ids(user=(frame["user_id"], user < 0), item=(frame["item_id"], item < 0))
    warnings.warn(f"predict: {count} of {len(frame)} pairs have unknown ids and are {treatment}: {ids}", stacklevel=3)


def rating(model: Model, params: Params, test: Dataset | Ratings, clip: Clip = None) -> dict[str, float]:
    """Return the weighted errors of the predictions on held-out ratings.

        rmse = √(Σ w (r − r̂)² / Σ w)      mae = Σ w |r − r̂| / Σ w      mse = rmse²

    Args:
      model: the model.
      params: its parameters.
      test: ratings over the same users and items; the rows of a user or item without training ratings are 0, so its
        predictions fall back on the other terms.
      clip: (low, high) bounds for the predictions, such as (1, 5); None for no bounds.

    Returns:
      {"rmse", "mae", "mse"}, floats in rating units (mse: squared), summed in float64.

    Raises:
      ValueError: an argument of the wrong type, what `as_ratings` refuses, such as no rating with weight, a different
        number of users or items than the model, or bounds in the wrong order.

    Cost: O(n · D) for rows of D numbers.
    """
    ratings = as_ratings(test, "evaluate.rating: test")
    check_predicts(model, params, ratings, "evaluate.rating", ratings.context)
    _check_rating(model, "evaluate.rating")
    weight = np.asarray(ratings.weight, np.float64)
    error = np.asarray(ratings.value, np.float64) - predictions(model, params, ratings, clip)
    mse = float(weight @ error**2 / weight.sum())
    return {"rmse": mse**0.5, "mae": float(weight @ np.abs(error) / weight.sum()), "mse": mse}


def against_baselines(
    model: Model, params: Params, train: Dataset | Ratings, test: Dataset | Ratings, clip: Clip = None
) -> pd.DataFrame:
    """Return the errors of a model and of two baselines: the global mean and the damped bias of the training ratings.

    Args:
      model, params: the model and its parameters.
      train: the ratings that the baselines are computed from.
      test, clip: as in `rating`.

    Returns:
      a table with the columns model, num_ratings, rmse, mae, mse; the model first.

    Raises:
      ValueError: as `rating`, or `train` and `test` over different users or items.

    Cost: that of three calls of `rating`.
    """
    seen, held_out = as_parts(train, test, ("train", "test"))
    check_predicts(model, params, held_out, "evaluate.against_baselines", held_out.context)
    _check_rating(model, "evaluate.against_baselines")
    check_clip(clip)
    fitted, seen = [(model, params)], padded(seen)
    fitted += [(baseline, baseline.init(None, seen, Hyper())) for baseline in (global_mean(), damped_bias())]
    rows = [{"model": m.name, "num_ratings": len(held_out.value)} | rating(m, p, held_out, clip) for m, p in fitted]
    return pd.DataFrame(rows)


def _check_rating(model: Model, who: str) -> None:
    """Raise ValueError, starting with `who`, for a model whose predictions are not ratings."""
    if model.predicts != "rating":
        raise ValueError(
            f"{who}: the model {model.name!r} predicts preferences, which only order items, so that they have no error "
            "in rating units: use evaluate.ranking"
        )


def predictions(model: Model, params: Params, pairs: Pairs | Ratings, clip: Clip = None) -> np.ndarray:
    """Return the model's predictions (n,) on the host, in float64."""
    check_clip(clip)
    prediction = _predicted(model, params, pairs).astype(np.float64)
    return prediction if clip is None else np.clip(prediction, *clip)


def _predicted(model: Model, params: Params, pairs: Pairs | Ratings) -> np.ndarray:
    """Return the predictions on the host, in the model's dtype or at least float32; pairs are repeated as padding."""
    n = len(pairs.user)
    position = np.arange(padded_size(n)) % max(n, 1)
    user, item = (jnp.asarray(np.append(index, 0)[position], jnp.int32) for index in (pairs.user, pairs.item))
    context = jax.tree.map(lambda leaf: np.asarray(leaf)[position], pairs.context)
    prediction = np.asarray(_compiled(model)(params, Pairs(user, item, context)))[:n]
    return prediction.astype(np.promote_types(prediction.dtype, np.float32), copy=False)


@of_model
def _compiled(model: Model) -> Any:
    """Return the jitted `predict` of a model."""
    return jit(model.predict, compiler_options=dict(without(TWO_STEP_SUMS)))
