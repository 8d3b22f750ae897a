"""Predictions in the caller's ids, and errors on held-out ratings."""

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
    """Predicted ratings for the (user, item) pairs of a table.

    Args:
      model: the model.
      params: its parameters.
      data: the Dataset that knows the ids the model was fitted with.
      frame: columns `user_id` and `item_id`, in the ids of `data`; others are ignored.
      clip: (low, high) bounds for the predictions, or None.
      on_unknown: what to do about pairs of an id that `data` does not know; a missing one is unknown. "error" refuses
        them; "drop" leaves them out of the answer; "bias" takes the terms that are known, as of a row of zeros: μ, or μ
        and the known side's bias, what factors and content add being 0, and μ for a user's own mean. A UserWarning then
        says how many there are. With the model's `design`, `fold_in` does better by their ratings or features.

    Returns:
      a Series `prediction` in the dtype of the parameters, float32 at least, with the frame's index, of which "drop"
      leaves the rows whose ids are both known.

    Raises:
      ValueError: an argument of another type, a missing column, an id that `data` does not know, `data` of another
        number of users or items than the model has, bounds in the wrong order, or on_unknown="bias" for a model of
        whose rows it is not known what 0 would say (of leaves other than `factors`, `bias` and `content`), or whose
        predictions read more than the rows of the pair (`jaxmf.models.promises`).

    Cost: O(n · D) for rows of D numbers. Calls of about the same size share a program, as those of `rating` do.

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
        _tell_of_unknown(model, params, data, frame, user, item, on_unknown)
    # The unknown ones have numbers of others for the time being, so that the program is that of as many known pairs.
    values = _predicted(model, params, Pairs(np.maximum(user, 0), np.maximum(item, 0)))
    if unknown.any() and on_unknown == "drop":
        values, index = values[~unknown], index[~unknown]
    elif unknown.any():
        mean = mean_of_unknown(params, data.user)
        values = values.copy()
        values[unknown] = predict_unknown(model, params, user[unknown], item[unknown], mean)
    if clip is not None:
        values = np.clip(values, float(clip[0]), float(clip[1]))  # of Python, which leave the dtype alone
    return pd.Series(values, index, name="prediction")


def _tell_of_unknown(
    model: Model,
    params: Params,
    data: Dataset,
    frame: pd.DataFrame,
    user: np.ndarray,
    item: np.ndarray,
    on_unknown: OnUnknown,
) -> None:
    """The refusal of unknown ids, or a warning of what is done about their pairs."""
    if on_unknown == "error":
        try:
            data.user_index(frame["user_id"])
            data.item_index(frame["item_id"])
        except ValueError as error:
            raise refusal("predict", error) from None
    if on_unknown == "bias":
        sides: dict[Side, np.ndarray] = {"user": user, "item": item}
        check_zeros("predict", model, params, [side for side, number in sides.items() if (number < 0).any()])
        if len(data):  # what is tried is tried at some of the ratings
            check_promises("predict", (OWN_PAIRS,), model, params, Hyper(), data, "pass on_unknown='drop'")
    then = "left out" if on_unknown == "drop" else "predicted by the terms that are known"
    count = ((user < 0) | (item < 0)).sum()
    which = unknown_ids(user=(frame["user_id"], user < 0), item=(frame["item_id"], item < 0))
    warnings.warn(f"predict: {count} of {len(frame)} pairs are of unknown ids and {then}: {which}", stacklevel=3)


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
    check_predicts(model, params, ratings, "evaluate.rating", ratings.context)
    weight = np.asarray(ratings.weight, np.float64)
    error = np.asarray(ratings.value, np.float64) - predictions(model, params, ratings, clip)
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
    check_predicts(model, params, held_out, "evaluate.against_baselines", held_out.context)
    check_clip(clip)
    fitted, seen = [(model, params)], padded(seen)
    fitted += [(baseline, baseline.init(None, seen, Hyper())) for baseline in (global_mean(), damped_bias())]
    rows = [{"model": m.name, "num_ratings": len(held_out.value)} | rating(m, p, held_out, clip) for m, p in fitted]
    return pd.DataFrame(rows)


def predictions(model: Model, params: Params, pairs: Pairs | Ratings, clip: Clip = None) -> np.ndarray:
    """The model's predictions (n,), on the host in float64."""
    check_clip(clip)
    prediction = _predicted(model, params, pairs).astype(np.float64)
    return prediction if clip is None else np.clip(prediction, *clip)


def _predicted(model: Model, params: Params, pairs: Pairs | Ratings) -> np.ndarray:
    """Predictions on the host in the model's own dtype, float32 at least; pairs are repeated up to a padded size."""
    n = len(pairs.user)
    place = np.arange(padded_size(n)) % max(n, 1)
    user, item = (jnp.asarray(np.append(number, 0)[place], jnp.int32) for number in (pairs.user, pairs.item))
    context = jax.tree.map(lambda leaf: np.asarray(leaf)[place], pairs.context)
    prediction = np.asarray(_compiled(model)(params, Pairs(user, item, context)))[:n]
    return prediction.astype(np.promote_types(prediction.dtype, np.float32), copy=False)


@of_model
def _compiled(model: Model) -> Any:
    return jit(model.predict, compiler_options=dict(without(TWO_STEP_SUMS)))
