"""Implicit feedback: which models list what users will like, and what is wrong with choosing α0 by the loss?

    python -m experiments.implicit_feedback [--data NAME] [--out FOLDER] [--smoke]

1. What do popularity, models of ratings and the four models of preferences reach on held-out likes, over five splits?
2. How does ALS over the whole matrix (`ials`) depend on α0, on λ, on ν and on the rank?
3. What does the validation loss choose, and what does that cost?

A like is a rating of at least 4. Of each user's likes a random 20 % are the test part, and of the others 20 % the
validation part. Everything is chosen by the NDCG@10 of the validation part of the first split; what was chosen is then
fitted, in each of the five splits, to all likes but those of the test part. If the library implicit is installed (extra
`bench`), its ALS is searched as much and tested with them. Writes tables (CSV), figures and summary.md; float32. Test
likes are used once per model and split.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pandas as pd
from tqdm import tqdm

import jaxmf
from experiments import implicit_peer
from experiments.implicit_measures import (
    FRACTIONS,
    LIKED,
    MEASURES,
    Split,
    by_split,
    compared,
    is_explicit,
    judged,
    measured,
    split_of,
    validated,
)
from experiments.implicit_words import BY_LOSS, in_words
from experiments.setting import setting
from jaxmf import Hyper, Model, Params, models, plot, solvers
from jaxmf.data import Dataset, datasets
from jaxmf.shell import names
from jaxmf.solvers import Solver

SEED = 0
UNOBSERVED, PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0), (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
RANKS = (32, 16, 64, 128)  # the first one for the map of α0 and λ
Cost = dict[str, float]


class Family(NamedTuple):
    """A model of preferences, its solver, and what is tried: a grid of settings, and for how many epochs."""

    model: Model
    solver: Solver
    grid: list[dict[str, float]]
    epochs: int
    patience: int | None


class Way(NamedTuple):
    """A model with its solver, hyperparameters and number of epochs, all chosen."""

    model: Model
    solver: Solver | None  # None for a model whose `init` fits it
    hyper: Hyper
    epochs: int


Fitter = Callable[[Split], tuple[Model, Params, Cost]]


def default_data() -> Dataset:
    """Return MovieLens latest-small if JAXMF_DATA is set, else embedded implicit feedback of its size."""
    if not os.environ.get("JAXMF_DATA"):
        return datasets.synthetic(feedback="implicit")
    data: Dataset = names.dataset("ml-latest-small")
    return data


def families(smoke: bool) -> dict[str, Family]:
    """Return the models of preferences and their grids, two of them for a smoke test; `search_ials` extends its own."""
    rank, epochs = (2, 2) if smoke else (64, 24)
    adam = solvers.minibatch(optax.adam, batch_size=256)
    cells = [{"unobserved": weight, "l2": l2} for weight, l2 in product(*sizes_of(smoke)[:2])]

    def by_adam(rates: tuple[float, ...], penalties: tuple[float, ...]) -> list[dict[str, float]]:
        """Give biases, which say how popular an item is, a tenth of the penalty."""
        points = product(rates[:1], penalties[:2]) if smoke else product(rates, penalties)
        return [{"learning_rate": rate, "l2": l2, "l2_bias": 0.1 * l2} for rate, l2 in points]

    of_bpr, of_softmax = by_adam((0.003, 0.006), (0.02, 0.03, 0.04)), by_adam((0.005, 0.01), (0.05, 0.1))
    of_logistic = by_adam((0.005, 0.01), (0.03, 0.06))
    every = {
        "ials": Family(models.ials(sizes_of(smoke)[2][0]), solvers.als(), cells, 2 if smoke else 12, None),
        "bpr": Family(models.bpr(rank, negatives=4, popularity=0.5), adam, of_bpr, epochs, 5),
        "sampled_softmax": Family(models.sampled_softmax(rank, negatives=16), adam, of_softmax, epochs, 5),
        "logistic_mf": Family(models.logistic_mf(rank, negatives=4), adam, of_logistic, epochs, 5),
    }
    return {name: every[name] for name in (("ials", "bpr") if smoke else every)}


def sizes_of(smoke: bool) -> tuple[tuple[float, ...], tuple[float, ...], tuple[int, ...]]:
    """Return the weights α0, penalties λ and ranks that are tried."""
    return ((0.1, 1.0), (0.005, 0.01), (2,)) if smoke else (UNOBSERVED, PENALTIES, RANKS)


def swept(family: Family, split: Split, grid: list[dict[str, float]]) -> pd.DataFrame:
    """Fit every member of a grid; return the table of members with the NDCG@10 of all validation users."""
    problem = jax.random.key(SEED), family.model, family.solver, split.train, split.valid
    runs = jaxmf.sweep(*problem, grid=grid, epochs=family.epochs, patience=family.patience, keep="all", progress=True)
    table = runs.to_frame().rename(columns={"valid_ndcg": "watched_ndcg"})
    ndcg = [validated(runs.model(member), runs.params(member), split) for member in table.index]
    return table.assign(valid_ndcg=ndcg)


def search_ials(family: Family, split: Split, smoke: bool) -> pd.DataFrame:
    """Try every α0 and λ at ν = 1 and one rank, the three best with other ν, and the three best of all at other ranks.

    The penalty of a row, λ (n + α0 m)^ν with m rows on the other side, is about as strong for every ν if λ s^(1 − ν) is
    tried in place of λ, with s the geometric mean of α0 |I| and α0 |U|.
    """
    tried, count = swept(family, split, family.grid), 1 if smoke else 3
    cells = (split.train.num_users * split.train.num_items) ** 0.5
    best = tried.nlargest(count, "valid_ndcg")
    others = [
        {
            "unobserved": point.unobserved,
            "l2": factor * point.l2 * (point.unobserved * cells) ** (1 - nu),
            "reg_exponent": nu,
        }
        for point, nu, factor in product(best.itertuples(), (0.0, 0.5), (1.0, 2.0))
    ]
    distinct = pd.DataFrame(others).drop_duplicates().to_dict("records")  # twice one λ is another
    tried = pd.concat([tried, swept(family, split, distinct)], ignore_index=True)
    points = tried.nlargest(count, "valid_ndcg")[["unobserved", "l2", "reg_exponent"]].to_dict("records")
    ranks = [{"rank": rank} | point for rank in sizes_of(smoke)[2][1:] for point in points]
    return pd.concat([tried, swept(family, split, ranks)], ignore_index=True) if ranks else tried


def best_of(tried: pd.DataFrame) -> pd.Series:
    """Return the member with the highest NDCG@10 on validation."""
    return tried.loc[tried["valid_ndcg"].idxmax()]


def way_of(family: Family, member: pd.Series) -> Way:
    """Return the setting of a member of a sweep, with the number of epochs after which it was best."""
    assert family.model.with_rank is not None
    numbers = member[["l2", "l2_bias", "reg_exponent", "learning_rate"]].astype(float).to_dict()
    hyper = Hyper(**numbers, unobserved=member.get("unobserved"))
    return Way(family.model.with_rank(int(member["rank"])), family.solver, hyper, int(member["epoch"]))


def search(split: Split, smoke: bool) -> tuple[dict[str, pd.DataFrame], dict[str, Way]]:
    """Try every setting of every family; return a table by family, and the settings chosen by NDCG@10.

    Of the map of `ials`, the setting with the lowest validation loss is returned too.
    """
    tables, ways = {}, {}
    for name, family in families(smoke).items():
        tried = search_ials(family, split, smoke) if name == "ials" else swept(family, split, family.grid)
        tables[name], ways[name] = tried, way_of(family, best_of(tried))
        if name == "ials":
            ways[BY_LOSS] = way_of(family, tried.loc[tried["valid_loss"].iloc[: len(family.grid)].idxmin()])
    return tables, ways


def ways_of_ratings() -> dict[str, Way]:
    """Return the models of ratings, with the settings of the README."""
    return {
        "damped item means": Way(models.damped_bias(), None, Hyper(), 0),
        "biased_mf, of ratings": Way(models.biased_mf(16), solvers.als(), Hyper(l2=0.1), 20),
    }


def fitted(way: Way, split: Split) -> tuple[Model, Params, Cost]:
    """Fit to all likes, or ratings, but those of the test; return the model, its parameters, and what the fit took."""
    train = split.ratings if way.model.predicts == "rating" else split.both
    if way.solver is None:
        return way.model, way.model.init(None, train.ratings, way.hyper), {}
    clock = time.perf_counter()
    problem = jax.random.key(SEED), way.model, way.solver, train
    fit = jaxmf.fit(*problem, hyper=way.hyper, epochs=way.epochs, track=False)
    wall, seconds = time.perf_counter() - clock, float(fit.history["seconds"][-1])
    return way.model, fit.params, {"epochs": way.epochs, "seconds": seconds, "wall_seconds": wall}


def by_peer(peer: implicit_peer.Peer, split: Split) -> tuple[Model, Params, Cost]:
    """Fit the ALS of implicit to all likes but those of the test."""
    model, params, seconds = implicit_peer.fit(peer, split.both, SEED)
    return model, params, {"epochs": peer.iterations, "seconds": seconds, "wall_seconds": seconds}


def over_splits(data: Dataset, fitters: dict[str, Fitter], num_splits: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Fit and test every model in every split; return each user's measures, and what each fit took."""
    tables, costs = [], []
    progress = tqdm(total=num_splits * len(fitters), desc="tests")
    for seed in range(num_splits):
        split = split_of(data, seed)
        for index, (name, fitter) in enumerate(fitters.items()):
            model, params, cost = fitter(split)
            tables.append(judged(name, model, params, split, baselines=index == 0).assign(split=seed))
            if cost:
                costs.append({"model": name, "split": seed, **cost})
            progress.update()
    progress.close()
    return pd.concat(tables, ignore_index=True), pd.DataFrame(costs)


def figures(tried: pd.DataFrame, num_cells: int, measures: pd.DataFrame, solver: dict[str, str]) -> dict[str, Any]:
    """Draw the measures of all models, the maps of `ials`, and what the loss says of α0."""
    cells, settings = tried.iloc[:num_cells], ["unobserved", "l2", "reg_exponent"]
    ranks = tried.merge(tried.loc[tried["rank"] == tried["rank"].max(), settings])
    text = [f"α0 = {p.unobserved:g}, λ = {p.l2:.3g}, ν = {p.reg_exponent:g}" for p in ranks.itertuples()]  # noqa: RUF001
    penalties = sorted(cells["l2"].unique())
    middle = int(np.clip(penalties.index(best_of(cells)["l2"]), 1, max(len(penalties) - 2, 1)))
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
    num_splits = 1 if here.smoke else 5
    searched = {name: family.grid for name, family in families(here.smoke).items()}
    about = {"splits": num_splits, "liked": LIKED, "fractions": FRACTIONS, "grids": searched}
    manifest = here.begin(about | {"ranks": sizes_of(here.smoke)[2]}, SEED)
    first = split_of(here.data, 0)
    tables, ways = search(first, here.smoke)
    if is_explicit(here.data):
        ways = ways_of_ratings() | ways
    fitters: dict[str, Fitter] = {name: partial(fitted, way) for name, way in ways.items()}
    if implicit_peer.is_installed():
        epochs = families(here.smoke)["ials"].epochs
        tables[implicit_peer.NAME], peer = implicit_peer.search(first, *sizes_of(here.smoke), epochs, SEED)
        fitters[implicit_peer.NAME] = partial(by_peer, peer)
    by_user, costs = over_splits(here.data, fitters, num_splits)
    users = by_user.groupby(["model", "protocol", "k", "threshold", "user_id"], sort=False).mean().reset_index()
    results: dict[str, Any] = {"num_splits": num_splits, "sizes": [len(part) for part in first[:4]], "ways": ways}
    tried = pd.concat([table.assign(model=name) for name, table in tables.items()], ignore_index=True)
    results["tried"] = tried[["model", *tried.columns.drop(["model", "member"])]]
    results["chosen"] = pd.DataFrame([best_of(table).to_dict() | {"model": name} for name, table in tables.items()])
    results |= {"splits": by_split(by_user), "seconds": costs}
    results["measures"] = measured(users, results["splits"])
    results["compared"] = compared(users, ("popularity", "ials"))
    for name in ("tried", "chosen", "splits", "measures", "compared", "seconds"):
        here.table(name, results[name])
    solver = {name: way.solver.name for name, way in ways.items() if way.solver is not None}
    solver[implicit_peer.NAME] = "conjugate gradient"
    results["cells"] = tables["ials"].iloc[: len(searched["ials"])]
    for name, figure in figures(tables["ials"], len(searched["ials"]), results["measures"], solver).items():
        here.figure(name, figure)
    here.finish(manifest, in_words(here, results))


if __name__ == "__main__":
    main()
