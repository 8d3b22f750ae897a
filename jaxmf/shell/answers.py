"""What a kept fit is asked by the command line: how good it is, and what it recommends."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jaxmf import evaluate, models, output, recommend
from jaxmf.data import Dataset
from jaxmf.data.checks import listed
from jaxmf.data.ids import as_ids, distinct, match
from jaxmf.evaluate.rankings import Protocol
from jaxmf.models import Model
from jaxmf.training import Fit


def evaluate_fit(
    fit: Fit,
    train: Dataset,
    test: Dataset,
    k: int = 10,
    threshold: float | None = None,
    clip: evaluate.Clip = None,
    out: Path | None = None,
) -> dict[str, pd.DataFrame]:
    """Errors, rankings by both protocols and the audit of the split, beside baselines.

    Args:
      fit: the fit.
      train: what it was fitted to.
      test: other ratings over the same users and items.
      k: as in `jaxmf.evaluate.ranking`.
      threshold: the least rating that is relevant; None for that of `relevance`.
      clip: as in `jaxmf.evaluate.rating`.
      out: folder for config.json and a CSV of each table.

    Returns:
      {"errors", "ranking", "leakage"}: the tables of `against_baselines`, `ranking` and `leakage` in `jaxmf.evaluate`.
      "ranking" lacks a protocol that has nothing to rank: "catalog", where all of test is in train.

    Raises:
      ValueError: as these.
    """
    threshold = relevance(train, test) if threshold is None else threshold
    leakage = evaluate.leakage(train, test)
    unseen = leakage.set_index("check").loc["test pairs in train", "share"] < 1
    options: dict[str, Any] = {"k": k, "threshold": threshold}
    options["protocols"] = ("catalog", "rated") if unseen else ("rated",)
    tables = {
        "errors": evaluate.against_baselines(fit.model, fit.params, train, test, clip),
        "ranking": rankings(fit.model, fit.params, train, test, **options),
        "leakage": leakage,
    }
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
    """`jaxmf.evaluate.ranking` by each of the protocols; `exclude` is for "catalog"."""
    found = [
        evaluate.ranking(
            model, params, train, test, protocol=name, exclude=exclude if name == "catalog" else None, **options
        )
        for name in protocols
    ]
    return pd.concat(found, ignore_index=True)


def relevance(train: Dataset, test: Dataset) -> float:
    """The rating from which on an item is relevant: the median of train, above its least, and one that test has."""
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
    """The table of `jaxmf.recommend.top_n`, of a fit that further ratings may have been added to.

    Args:
      fit: the fit.
      train: what it was fitted to.
      users, n, options: as in `top_n`; users None with `new` are those of `new`.
      new: further ratings, see `jaxmf.recommend.update`, which solves the rows they touch; timestamps are optional.
      columns: of `train.items`, put behind item_id.

    Raises:
      ValueError: as `top_n` and `update`, or a column that the items do not have.
    """
    known = [] if train.items is None else [name for name in columns if name in train.items]
    if missing := [name for name in columns if name not in known]:
        there = "none" if train.items is None else listed(train.items, 12)
        raise ValueError(f"the fit's items have no column {listed(missing[:1])}; their columns: {there}")
    params, data = fit.params, train
    if new is not None:
        if "timestamp" not in new:
            data = replace(data, timestamp=None)
        params, data = recommend.update(fit.model, params, fit.hyper, data, new)
        users = distinct(as_ids(new["user_id"])) if users is None else users
    table = recommend.top_n(fit.model, params, data, users, n, **options)
    for place, name in enumerate(known, 2):
        assert data.items is not None
        row = match(data.item_ids, table["item_id"])
        table.insert(place, name, pd.api.extensions.take(data.items[name].array, row, allow_fill=True))
    return table
