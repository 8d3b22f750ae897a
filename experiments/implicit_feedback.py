"""Implicit feedback: which models list what users will like, and what is wrong with choosing α0 by the loss?

    python -m experiments.implicit_feedback [--data NAME] [--out FOLDER] [--smoke]

1. What do popularity, a model of ratings and the four models of preferences reach on held-out likes, over five splits?
2. How does ALS over the whole matrix (`ials`) depend on α0, on λ and on the rank?
3. What does early stopping on the validation loss choose, and what does that cost?

A like is a rating of at least 4. Of each user's likes a random 20 % are the test part, and of the others 20 % the
validation part. Everything is chosen by the NDCG@10 of the validation part of the first split; what was chosen is then
fitted, in each of the five splits, to all likes but those of the test part. Writes tables (CSV), figures and
summary.md; float32. Test likes are used once per model and split.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pandas as pd
from tqdm import tqdm

import jaxmf
from experiments.implicit_words import in_words
from experiments.setting import setting
from jaxmf import Hyper, Model, Params, evaluate, models, plot, solvers, splits
from jaxmf.data import Dataset, datasets
from jaxmf.data.pairs import among, numbered
from jaxmf.evaluate.intervals import holm
from jaxmf.shell import names
from jaxmf.solvers import Solver

SEED, LIKED, FRACTIONS = 0, 4.0, (0.8, 0.2)
MEASURES = {
    "Recall@20": ("capped_recall", 20),
    "Recall@50": ("capped_recall", 50),
    "NDCG@100": ("ndcg", 100),
    "NDCG@10": ("ndcg", 10),
}
BY_LOSS = "ials, chosen by loss"


class Split(NamedTuple):
    """The likes for training and validation, both of these together, those for the test, and all ratings but those."""

    train: Dataset
    valid: Dataset
    both: Dataset
    test: Dataset
    ratings: Dataset


class Family(NamedTuple):
    """A model of preferences, its solver, and what is tried: a grid of settings, and for how many epochs."""

    model: Model
    solver: Solver
    grid: Any
    epochs: int
    patience: int | None


class Way(NamedTuple):
    """A model with its solver, hyperparameters and number of epochs, all chosen."""

    model: Model
    solver: Solver | None  # None for a model whose `init` fits it
    hyper: Hyper
    epochs: int


def default_data() -> Dataset:
    """Return MovieLens latest-small if JAXMF_DATA is set, else embedded implicit feedback of its size."""
    if not os.environ.get("JAXMF_DATA"):
        return datasets.synthetic(feedback="implicit")
    data: Dataset = names.dataset("ml-latest-small")
    return data


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


def families(smoke: bool) -> dict[str, Family]:
    """Return the models of preferences and their grids; `ials` is searched further, over its ranks."""
    rank, epochs = (4, 2) if smoke else (64, 40)
    adam = solvers.minibatch(optax.adam, batch_size=256)
    rates, penalties = ((0.01,), (0.03, 0.1)) if smoke else ((0.003, 0.01), (0.03, 0.06, 0.1))
    by_adam = {"learning_rate": rates, "l2": penalties}
    cells = {"unobserved": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0), "l2": (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)}
    if smoke:
        cells = {"unobserved": (0.1, 1.0), "l2": (0.005, 0.01)}
    return {
        "ials": Family(models.ials(rank // 2), solvers.als(), cells, 2 if smoke else 16, None),
        "bpr": Family(models.bpr(rank, negatives=4, popularity=0.5), adam, by_adam, epochs, 5),
        "sampled_softmax": Family(models.sampled_softmax(rank, negatives=32), adam, by_adam, epochs // 2, 5),
        "logistic_mf": Family(models.logistic_mf(rank, negatives=4), adam, by_adam, epochs, 5),
    }


def swept(family: Family, split: Split, grid: Any) -> pd.DataFrame:
    """Fit every member of a grid; return the table of members, watched on validation likes."""
    problem = jax.random.key(SEED), family.model, family.solver, split.train, split.valid
    options: Any = {"epochs": family.epochs, "patience": family.patience, "keep": "none", "progress": True}
    runs = jaxmf.sweep(*problem, grid=grid, **options)
    return runs.to_frame().assign(compile_seconds=runs.compile_seconds)


def way_of(family: Family, member: pd.Series) -> Way:
    """Return the setting of a member of a sweep, with the number of epochs after which it was best."""
    assert family.model.with_rank is not None
    hyper = Hyper(member["l2"], learning_rate=member["learning_rate"], unobserved=member.get("unobserved"))
    return Way(family.model.with_rank(int(member["rank"])), family.solver, hyper, int(member["epoch"]))


def best_of(tried: pd.DataFrame) -> pd.Series:
    """Return the member with the highest NDCG@10 on validation."""
    return tried.loc[tried["valid_ndcg"].idxmax()]


def search(split: Split, smoke: bool) -> tuple[dict[str, pd.DataFrame], dict[str, Way]]:
    """Try every setting of every family; return a table by family, and the settings chosen.

    `ials` is tried at one rank with every α0 and λ, then with the three best of these at every other rank. The setting
    with the lowest validation loss is returned too, under a name of its own.
    """
    tables, ways = {}, {}
    for name, family in families(smoke).items():
        tried = swept(family, split, family.grid)
        if name == "ials":
            ways[BY_LOSS] = way_of(family, tried.loc[tried["valid_loss"].idxmin()])
            points = tried.nlargest(3, "valid_ndcg")[["unobserved", "l2"]].to_dict("records")
            ranks = (2, 4) if smoke else (16, 64, 128)
            further = swept(family, split, [{"rank": rank} | point for rank in ranks for point in points])
            tried = pd.concat([tried, further], ignore_index=True)
        tables[name], ways[name] = tried, way_of(family, best_of(tried))
    return tables, ways


def ways_of_ratings() -> dict[str, Way]:
    """Return the models of ratings, with the settings of the README."""
    return {
        "damped item means": Way(models.damped_bias(), None, Hyper(), 0),
        "biased_mf, of ratings": Way(models.biased_mf(16), solvers.als(), Hyper(l2=0.1), 20),
    }


def fitted(way: Way, split: Split) -> tuple[Params, dict[str, float]]:
    """Fit to all likes, or ratings, but those of the test; return the parameters and what the fit took."""
    train = split.ratings if way.model.predicts == "rating" else split.both
    if way.solver is None:
        return way.model.init(None, train.ratings, way.hyper), {}
    clock = time.perf_counter()
    problem = jax.random.key(SEED), way.model, way.solver, train
    fit = jaxmf.fit(*problem, hyper=way.hyper, epochs=way.epochs, track=False)
    wall, seconds = time.perf_counter() - clock, float(fit.history["seconds"][-1])
    return fit.params, {"seconds": seconds, "seconds_per_epoch": seconds / way.epochs, "wall_seconds": wall}


def judged(name: str, model: Model, params: Params, split: Split, baselines: bool) -> pd.DataFrame:
    """Return the measures of each user's test likes at every number of positions; popularity and chance if asked."""
    judge = partial(evaluate.ranking_by_user, model, params, split.both, split.test, name=name, baselines=baselines)
    table = pd.concat([judge(k=k) for k in sorted({k for _, k in MEASURES.values()})])
    return table[table["model"].isin([name, "popularity", "random"])]


def over_splits(data: Dataset, ways: dict[str, Way], num_splits: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Fit and test every model in every split; return each user's measures, and what each fit took."""
    tables, costs = [], []
    rounds = [(seed, name) for seed in range(num_splits) for name in ways]
    split = split_of(data, 0)
    for seed, name in tqdm(rounds, desc="tests"):
        if name == next(iter(ways)):
            split = split_of(data, seed)
        params, cost = fitted(ways[name], split)
        table = judged(name, ways[name].model, params, split, baselines=name == next(iter(ways)))
        tables.append(table.assign(split=seed))
        if cost:
            costs.append({"model": name, "split": seed, "epochs": ways[name].epochs, **cost})
    return pd.concat(tables, ignore_index=True), pd.DataFrame(costs)


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


def figures(tried: pd.DataFrame, measures: pd.DataFrame, solver: dict[str, str]) -> dict[str, Any]:
    """Draw the measures of all models, the maps of `ials`, and what its loss says of α0."""
    best = best_of(tried)
    cells = tried[tried["rank"] == tried["rank"].iloc[0]]
    points = tried.iloc[: len(cells)].nlargest(3, "valid_ndcg")[["unobserved", "l2"]]
    ranks = tried.merge(points, on=["unobserved", "l2"])
    text = [f"α0 = {point.unobserved:g}, λ = {point.l2:g}" for point in ranks.itertuples()]
    penalties = sorted(cells["l2"].unique())
    middle = int(np.clip(penalties.index(best["l2"]), 1, max(len(penalties) - 2, 1)))
    near = cells[cells["l2"].isin(penalties[middle - 1 : middle + 2])]
    drawn = measures.rename(columns={"measure": "metric"}).assign(protocol="catalog")
    drawn["solver"] = drawn["model"].map(solver).fillna("closed form")
    return {
        "measures": plot.rankings(drawn, tuple(MEASURES)),
        "map": plot.heat_map(cells, "valid_ndcg", "l2", "unobserved"),
        "ranks": plot.panel(ranks.assign(setting=text), ("valid_ndcg",), "rank", "setting"),
        "trap": plot.panel(near, ("valid_loss", "valid_ndcg"), "unobserved", "l2"),
    }


def main() -> None:
    """Run the study."""
    here = setting("implicit_feedback", __doc__ or "", default_data)
    num_splits = 2 if here.smoke else 5
    grids = {name: list(family.grid.items()) for name, family in families(here.smoke).items()}
    about = {"splits": num_splits, "liked": LIKED, "fractions": FRACTIONS, "grids": grids}
    manifest = here.begin(about, SEED)
    first = split_of(here.data, 0)
    tables, ways = search(first, here.smoke)
    if is_explicit(here.data):
        ways = ways_of_ratings() | ways
    by_user, costs = over_splits(here.data, ways, num_splits)
    users = by_user.groupby(["model", "protocol", "k", "threshold", "user_id"], sort=False).mean().reset_index()
    results: dict[str, Any] = about | {
        "splits_tested": num_splits,
        "sizes": [len(part) for part in first[:4]],
        "ways": ways,
    }
    results["tried"] = pd.concat([table.assign(model=name) for name, table in tables.items()], ignore_index=True)
    results["chosen"] = pd.DataFrame([best_of(table).to_dict() | {"model": name} for name, table in tables.items()])
    results["splits"] = by_split(by_user)
    results["measures"] = measured(users, results["splits"])
    results["compared"] = compared(users, ("popularity", "ials"))
    results["seconds"] = costs
    for name in ("tried", "chosen", "splits", "measures", "compared", "seconds"):
        here.table(name, results[name])
    solver = {name: way.solver.name for name, way in ways.items() if way.solver is not None}
    for name, figure in figures(tables["ials"], results["measures"], solver).items():
        here.figure(name, figure)
    here.finish(manifest, in_words(here, results))


if __name__ == "__main__":
    main()
