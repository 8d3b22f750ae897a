"""Evaluations and recommendations of a saved fit, for the command line."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jaxmf import evaluate, models, recommend
from jaxmf.data import Dataset
from jaxmf.data.checks import listed
from jaxmf.data.exact import as_ids
from jaxmf.data.ids import distinct, match
from jaxmf.evaluate._baselines import baselines
from jaxmf.evaluate._setting import Protocol
from jaxmf.files import output
from jaxmf.models import Model
from jaxmf.training import Fit
from jaxmf.training._watched import ranking as watched_ranking
from jaxmf.training._watched import watched

K = 10  # top positions of a ranking that count


def evaluate_fit(
    fit: Fit,
    train: Dataset,
    test: Dataset,
    k: int = K,
    threshold: float | None = None,
    clip: evaluate.Clip = None,
    out: Path | None = None,
) -> dict[str, pd.DataFrame]:
    """Return errors and rankings of a fit, beside baselines, and the leakage audit of the test ratings.

    A model of preferences has rankings only.

    Args:
      fit: the fit.
      train: the ratings that it was fitted to.
      test: other ratings over the same users and items.
      k: as in `jaxmf.evaluate.ranking`.
      threshold: minimum rating counted as relevant; None for the default, see `relevance`.
      clip: as in `jaxmf.evaluate.rating`.
      out: folder for config.json and one CSV per table, or None.

    Returns:
      {"errors", "ranking", "leakage"}: the tables of `against_baselines`, `ranking` and `leakage` in `jaxmf.evaluate`.
      A model of preferences has no "errors". "ranking" lacks a protocol that has nothing to rank: "catalog" if all test
      pairs are in train, and of a model of preferences "rated" if all test ratings are equal.

    Raises:
      ValueError: as these three functions, or if there is nothing to rank by either protocol.
    """
    ranks = fit.model.predicts == "preference"
    threshold = relevance(train, test) if threshold is None else threshold
    leakage = evaluate.leakage(train, test)
    unseen = leakage.set_index("check").loc["test pairs in train", "share"] < 1
    rated = not ranks or len(np.unique(test.rating)) > 1
    protocols: tuple[Protocol, ...] = (*(("catalog",) if unseen else ()), *(("rated",) if rated else ()))
    if not protocols:
        raise ValueError(
            f"all {len(test)} pairs of {test.name} are in the fit's training data, so that there is nothing to rank: "
            "evaluate on others"
        )
    errors = {} if ranks else {"errors": evaluate.against_baselines(fit.model, fit.params, train, test, clip)}
    options: dict[str, Any] = {"k": k, "threshold": threshold, "protocols": protocols}
    ranking = rankings(fit.model, fit.params, train, test, **options)
    tables = errors | {"ranking": ranking, "leakage": leakage}
    if out is not None:
        configuration = {"job": "evaluate", "model": fit.model.name, "k": k, "threshold": threshold, "clip": clip}
        described = {"train": train.describe(), "test": test.describe()}
        output.write_json(out / "config.json", output.manifest(described, configuration, None))
        for name, table in tables.items():
            output.write_table(out / f"{name}.csv", table)
    return tables


def rankings(
    model: Model,
    params: models.Params,
    train: Dataset,
    test: Dataset,
    exclude: Dataset | None = None,
    protocols: Sequence[Protocol] = ("catalog", "rated"),
    **options: Any,
) -> pd.DataFrame:
    """Concatenate the tables of `jaxmf.evaluate.ranking` by each protocol; `exclude` applies to "catalog" only."""
    tables = [
        evaluate.ranking(
            model, params, train, test, protocol=name, exclude=exclude if name == "catalog" else None, **options
        )
        for name in protocols
    ]
    return pd.concat(tables, ignore_index=True)


def beside_popularity(
    model: Model, params: models.Params, train: Dataset, test: Dataset, exclude: Dataset | None = None
) -> pd.DataFrame:
    """Return the table of `jaxmf.evaluate.ranking` for a model and for the popularity of items, among all items."""
    options: dict[str, Any] = {"k": K, "threshold": relevance(train, test), "exclude": exclude, "baselines": False}
    fitted = {model.name: (model, params), "popularity": popularity(train)}
    tables = [evaluate.ranking(*one, train, test, name=name, **options) for name, one in fitted.items()]
    return pd.concat(tables, ignore_index=True)


def popularity(train: Dataset) -> tuple[Model, models.Params]:
    """Return the baseline that orders items by how often they are chosen in the training data."""
    return next(fitted for name, fitted in baselines(train.ratings) if name == "popularity")


def watched_popularity(train: Dataset, valid: Dataset) -> float:
    """Return the NDCG of popularity as a fit that monitors "ndcg" measures its own: on a sample of users."""
    return float(watched_ranking(*popularity(train), watched(train.ratings, valid.ratings), "ndcg", K))


def relevance(train: Dataset, test: Dataset) -> float:
    """Return the default minimum relevant rating: train's median, but above its minimum and at most test's maximum."""
    values = np.unique(train.rating)
    median = np.quantile(train.rating, 0.5, method="higher")
    return float(min(max(median, values[min(1, len(values) - 1)]), test.rating.max()))


def recommend_items(
    fit: Fit,
    train: Dataset,
    users: Iterable[Any] | None = None,
    n: int = 10,
    new: pd.DataFrame | None = None,
    columns: Iterable[str] = (),
    **options: Any,
) -> pd.DataFrame:
    """Return the table of `jaxmf.recommend.top_n` for a fit, after adding further ratings if there are any.

    Args:
      fit: the fit.
      train: the ratings that it was fitted to.
      users, n, options: as in `top_n`; with `new`, None means the users of `new`.
      new: further ratings; `jaxmf.recommend.update` solves the rows of their users and items. Timestamps are optional.
      columns: columns of `train.items` to insert after item_id.

    Raises:
      ValueError: as `top_n` and `update`, or if the items lack one of the columns.
    """
    present = [] if train.items is None else [name for name in columns if name in train.items]
    if missing := [name for name in columns if name not in present]:
        available = "none" if train.items is None else listed(train.items, 12)
        raise ValueError(f"the fit's items have no column {listed(missing[:1])}; their columns: {available}")
    params, data = fit.params, train
    if new is not None:
        if "timestamp" not in new:
            data = replace(data, timestamp=None)
        params, data = recommend.update(fit.model, params, fit.hyper, data, new)
        users = distinct(as_ids(new["user_id"])) if users is None else users
    table = recommend.top_n(fit.model, params, data, users, n, **options)
    for position, name in enumerate(present, 2):
        assert data.items is not None
        rows = match(data.item_ids, table["item_id"])
        table.insert(position, name, pd.api.extensions.take(data.items[name].array, rows, allow_fill=True))
    return table
