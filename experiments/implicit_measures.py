"""Splits of likes, and how users' lists are measured, for experiments.implicit_feedback."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from jaxmf import Model, Params, evaluate, splits
from jaxmf.data import Dataset
from jaxmf.data.pairs import among, numbered
from jaxmf.evaluate.intervals import holm

LIKED, FRACTIONS = 4.0, (0.8, 0.2)
MEASURES = {
    "Recall@20": ("capped_recall", 20),
    "Recall@50": ("capped_recall", 50),
    "NDCG@100": ("ndcg", 100),
    "NDCG@10": ("ndcg", 10),
}


class Split(NamedTuple):
    """The likes for training and validation, both of these together, those for the test, and all ratings but those."""

    train: Dataset
    valid: Dataset
    both: Dataset
    test: Dataset
    ratings: Dataset


def is_explicit(data: Dataset) -> bool:
    """Return whether the ratings differ from each other."""
    return bool(np.ptp(data.rating) > 0)


def split_of(data: Dataset, seed: int) -> Split:
    """Split each user's likes at random; each counts once, however often the user chose the item."""
    likes = data.binarize(LIKED) if is_explicit(data) else replace(data, weight=None)
    both, test = splits.random_per_user(likes, FRACTIONS, seed)
    train, valid = splits.random_per_user(both, FRACTIONS, seed)
    tested, rated = (numbered(part.user, part.item, data.num_items) for part in (test, data))
    return Split(train, valid, both, test, data.take(np.flatnonzero(~among(rated, np.sort(tested)))))


def validated(model: Model, params: Params, split: Split) -> float:
    """Return the NDCG@10 of all users' validation likes."""
    by_user = evaluate.ranking_by_user(model, params, split.train, split.valid, baselines=False)
    return float(by_user["ndcg"].mean())


def judged(name: str, model: Model, params: Params, split: Split, baselines: bool) -> pd.DataFrame:
    """Return the measures of each user's test likes at every number of positions; popularity and chance if asked."""
    judge = partial(evaluate.ranking_by_user, model, params, split.both, split.test, name=name, baselines=baselines)
    table = pd.concat([judge(k=k) for k in sorted({k for _, k in MEASURES.values()})])
    return table[table["model"].isin([name, "popularity", "random"])]


def by_split(by_user: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of every measure over users, for each model and split."""
    tables = []
    for measure, (metric, k) in MEASURES.items():
        means = by_user[by_user["k"] == k].groupby(["model", "split"], sort=False)[metric].mean()
        tables.append(means.rename("value").reset_index().assign(measure=measure))
    return pd.concat(tables, ignore_index=True)[["model", "measure", "split", "value"]]


def measured(users: pd.DataFrame, in_splits: pd.DataFrame) -> pd.DataFrame:
    """Return every measure with its interval over users, its range over splits, and its ratio to popularity's."""
    keys = ["model", "measure"]
    name_of = {(metric, k): measure for measure, (metric, k) in MEASURES.items()}
    table = evaluate.summarize(users)
    table["measure"] = [name_of.get(pair) for pair in zip(table["metric"], table["k"], strict=True)]
    table = table.dropna(subset="measure")[[*keys, "value", "low", "high", "num_users"]]
    spread = in_splits.groupby(keys, sort=False)["value"].agg(least="min", largest="max")
    table = table.merge(spread.reset_index(), on=keys)
    popular = table[table["model"] == "popularity"].set_index("measure")["value"]
    return table.assign(ratio=table["value"] / table["measure"].map(popular))


def compared(users: pd.DataFrame, references: Sequence[str]) -> pd.DataFrame:
    """Compare all models with each reference, user by user; the p values of all rows are corrected together."""
    tables = []
    for measure, (metric, k) in MEASURES.items():
        part = users[(users["k"] == k) & (users["model"] != "random")]
        tables += [evaluate.compare(part, name, (metric,)).assign(measure=measure) for name in references]
    table = pd.concat(tables, ignore_index=True)
    table = table.assign(p_holm=holm(table["p"].to_numpy()))
    return table[["model", "reference", "measure", "difference", "low", "high", "p", "p_holm", "num_users"]]
