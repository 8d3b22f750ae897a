"""The study of implicit feedback: models that rank, on one split, from verified gradients to rankings of test items."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from jaxmf import evaluate, models, verify
from jaxmf.data import Dataset
from jaxmf.files import output
from jaxmf.models import Hyper, Model, Params
from jaxmf.models.checks import check_hyper
from jaxmf.shell.answers import K, popularity, watched_popularity
from jaxmf.shell.implicit_report import summary
from jaxmf.shell.jobs import split_three
from jaxmf.shell.recipes import BATCH_SIZE, OF_ALL_CELLS, OF_DRAWN_ITEMS, PREFERENCES, RECIPES, Family
from jaxmf.shell.study_tables import append, begin, done, refuse_wrong, write
from jaxmf.sweeps import Sweep, sweep

# The default of sampled softmax, 64 drawn items per observation, would take most of the study's time.
SOFTMAX = partial(models.sampled_softmax, negatives=8)
MODELS: dict[str, Callable[[int], Model]] = {**PREFERENCES, "sampled_softmax": SOFTMAX}
_VERIFIED = 2000  # training observations with which the gradients are verified


class Settings(NamedTuple):
    """The numbers of a study.

    Attributes:
      rank: number of factors.
      l2: values of λ to choose from, per observation (ν = 1).
      unobserved: values of α0 to choose from, for iALS.
      epochs: maximum number of epochs per fit.
      patience: epochs without improvement of the validation NDCG before a fit stops.
      seed: seed of the split, if it is random, and of the initial parameters.
    """

    rank: int = 32
    l2: Sequence[float] = (0.003, 0.01, 0.03, 0.1)
    unobserved: Sequence[float] = (0.03, 0.1, 0.3, 1.0)
    epochs: int = 25
    patience: int = 5
    seed: int = 0


class _Study(NamedTuple):
    """The inputs of all stages of a study, and the tables that the stages add rows to."""

    train: Dataset
    valid: Dataset
    test: Dataset
    candidates: dict[str, Model]
    settings: Settings
    tables: dict[str, pd.DataFrame]


def run(data: Dataset, out: Path, settings: Settings | None = None, progress: bool = False) -> pd.DataFrame:
    """Verify the gradients, then fit iALS by `als` and three models of drawn items by Adam, and rank test items.

    λ, the number of epochs and, for iALS, α0 are chosen by the NDCG on the validation part; the test part is used once
    per model, for the chosen parameters. The split (70/15/15) is per user by time if there are timestamps, else random.

    Args:
      data: implicit feedback, whose ratings are all equal, with or without weights.
      out: folder for config.json (the manifest), gradients.csv, leakage.csv (audit of the split), search.csv (every
        setting tried), metrics.csv (one row per model and baseline), ranking.csv (all measures of the rankings of test
        items, with intervals), history.csv (every epoch of every fit), figures/ and summary.md. Rows are written as
        soon as a model is finished; an interrupted run continues from them if configuration and data are the same.
      settings: the numbers of the study; None for the defaults.
      progress: show a progress bar on standard error.

    Returns:
      the table in metrics.csv, best validation NDCG first.

    Raises:
      ValueError: if a number is out of range, or for ratings that a model is not for.
      WrongGradientError: if a gradient fails its verification; the report is written first.
    """
    from tqdm import tqdm

    clock = time.perf_counter()
    settings = Settings() if settings is None else settings
    study, manifest = _begin(data, out, settings)
    leakage = evaluate.leakage(study.train, study.test)
    output.write_table(out / "leakage.csv", leakage)
    todo = [name for name in MODELS if (name, _recipe_name(name)) not in done(study.tables)]
    with tqdm(total=len(MODELS) + len(todo) + 1, disable=not progress) as bar:
        gradients = _verify(study, bar)
        refuse_wrong(gradients, out)
        _rank_baselines(study)
        for name in todo:
            bar.set_description(f"{name} by {_recipe_name(name)}")
            _record(study, name, _search(study, name))
            write(out, study.tables)
            bar.update()
        study.tables["metrics"] = study.tables["metrics"].sort_values("valid_ndcg", ascending=False, ignore_index=True)
        write(out, study.tables)
        bar.set_description("drawing")
        _draw(study, out / "figures")
        bar.update()
    manifest |= {"wall_seconds": round(time.perf_counter() - clock, 1), "finished": True}
    sizes = len(study.train), len(study.valid), len(study.test)
    output.write_text(out / "summary.md", summary(manifest, gradients, study.tables, leakage, sizes))
    output.write_json(out / "config.json", manifest)
    return study.tables["metrics"]


def _begin(data: Dataset, out: Path, settings: Settings) -> tuple[_Study, dict[str, Any]]:
    """Split the data, write the manifest, and read the tables of an interrupted run."""
    train, valid, test, split = split_three(data, settings.seed)
    numbers = settings._asdict() | {"l2": list(settings.l2), "unobserved": list(settings.unobserved)}
    recipes = {name: RECIPES[_recipe_name(name)] for name in MODELS}
    configuration = {
        "job": "implicit study",
        "split": split,
        **numbers,
        "reg_exponent": 1.0,
        "learning_rate": {name: recipe.learning_rate for name, recipe in recipes.items()},
        "batch_size": BATCH_SIZE,
        "k": K,
    }
    for value in settings.l2:
        check_hyper(Hyper(l2=value))
    for value in settings.unobserved:
        check_hyper(Hyper(unobserved=value))
    candidates = {name: make(settings.rank) for name, make in MODELS.items()}
    for model in candidates.values():
        if model.check is not None:
            model.check(train.ratings)
    manifest = output.manifest(data.describe(), configuration, settings.seed)
    return _Study(train, valid, test, candidates, settings, begin(out, manifest)), manifest


def _family(name: str) -> Family:
    return OF_ALL_CELLS if name == "ials" else OF_DRAWN_ITEMS


def _recipe_name(name: str) -> str:
    return _family(name).solvers[0]


def _verify(study: _Study, bar: Any) -> pd.DataFrame:
    """Return the report of the gradients, with a fixed draw for the models that compare with drawn items."""
    rows = np.random.default_rng(study.settings.seed).permutation(len(study.train))[:_VERIFIED]
    observed = study.train.take(np.sort(rows)).ratings
    key = jax.random.key(study.settings.seed)

    def report(name: str) -> pd.DataFrame:
        model, hyper = study.candidates[name], _family(name).hyper
        params = jax.jit(model.init)(key, observed, hyper)
        table = verify.gradients(model, params, observed, hyper).to_frame().assign(model=name)
        bar.update()
        return table

    bar.set_description("verifying gradients")
    with ThreadPoolExecutor(2) as pool:
        table = pd.concat(pool.map(report, MODELS), ignore_index=True)
    return table[["model", *table.columns.drop("model")]]


def _search(study: _Study, name: str) -> Sweep:
    """Fit a model with every λ, and with every α0 if it has one, one fit after another, so that their times compare."""
    family, recipe = _family(name), RECIPES[_recipe_name(name)]
    grid = {"unobserved": study.settings.unobserved} if name == "ials" else {}
    return sweep(
        jax.random.key(study.settings.seed),
        study.candidates[name],
        recipe.solver,
        study.train,
        study.valid,
        grid=grid | {"l2": study.settings.l2},
        hyper=family.hyper._replace(learning_rate=recipe.learning_rate or 1.0),
        epochs=study.settings.epochs,
        patience=study.settings.patience,
        monitor="ndcg",
        workers=1,
    )


def _record(study: _Study, name: str, runs: Sweep) -> None:
    """Add the fits of one model to the tables; rank the test items only by the best on validation."""
    best, solver = runs.best(), _recipe_name(name)
    facts = {"model": name, "solver": solver}
    table = runs.to_frame().rename(columns={"epoch": "best_epoch"})
    columns = [*runs.members[0].point, "status", "epochs", "best_epoch", "valid_loss", "valid_ndcg", "seconds"]
    search = table[columns].assign(**facts, chosen=table["member"] == best)
    history = runs.history.assign(**facts, chosen=runs.history["member"] == best)
    row = search.iloc[best].drop("chosen").to_dict()
    row |= {"seconds_per_epoch": row["seconds"] / row["epochs"], "search_seconds": table["seconds"].sum()}
    row |= {"compile_seconds": runs.compile_seconds, "dtype": table["dtype"].iloc[0]}
    ranking = _ranking(study, study.candidates[name], runs.params(best), name, baselines=False).assign(solver=solver)
    append(study.tables, "search", search)
    append(study.tables, "history", history)
    _append_ranking(study, ranking, {name: row})


def _rank_baselines(study: _Study) -> None:
    """Rank the test items by popularity, by the items' mean ratings, and as the test part itself would have it."""
    rows: dict[str, dict[str, Any]] = {"popularity": {"valid_ndcg": watched_popularity(study.train, study.valid)}}
    rows["item_mean"] = {}
    ranking = _ranking(study, *popularity(study.train), "the model", baselines=True).assign(solver="closed form")
    known = study.tables["metrics"]
    if len(known):
        study.tables["metrics"] = known[known["solver"] != "closed form"]
        study.tables["ranking"] = study.tables["ranking"][study.tables["ranking"]["solver"] != "closed form"]
    _append_ranking(study, ranking[ranking["model"].isin([*rows, "oracle"])], rows)


def _ranking(study: _Study, model: Model, params: Params, name: str, baselines: bool) -> pd.DataFrame:
    """Return the measures of a ranking of test items, among all items but those of the other parts."""
    options: dict[str, Any] = {"k": K, "exclude": study.valid, "name": name, "baselines": baselines}
    return evaluate.ranking(model, params, study.train, study.test, **options)


def _append_ranking(study: _Study, ranking: pd.DataFrame, rows: dict[str, dict[str, Any]]) -> None:
    """Add measures to ranking.csv, and a row per model to metrics.csv: what is known of it, and its test measures."""
    for name, row in rows.items():
        own = ranking[ranking["model"] == name].set_index("metric")
        interval = {f"test_ndcg_{end}": own.loc["ndcg", end] for end in ("low", "high")}
        tested = {f"test_{metric}": value for metric, value in own["value"].items()}
        facts = {"model": name, "solver": own["solver"].iloc[0]}
        append(study.tables, "metrics", pd.DataFrame([facts | row | tested | interval]))
    append(study.tables, "ranking", ranking)


def _draw(study: _Study, folder: Path) -> None:
    """Draw the rankings of test items, the validation NDCG over α0 and λ, and by epoch and second."""
    from jaxmf import plot

    history, search = study.tables["history"], study.tables["search"]
    chosen = history[history["chosen"]]
    chosen = chosen.assign(solver=chosen["model"] + ", " + chosen["solver"], model="best of each model")
    metrics = ("recall", "map", "auc", "ndcg")
    plot.save(plot.rankings(study.tables["ranking"], metrics), folder / "ranking.png")
    ials = search[search["model"] == "ials"]
    plot.save(plot.heat_map(ials, "valid_ndcg", "unobserved", "l2"), folder / "unobserved_and_l2.png")
    baseline = watched_popularity(study.train, study.valid)
    plot.save(plot.convergence(chosen, baseline, "valid_ndcg", "popularity"), folder / "convergence.png")
