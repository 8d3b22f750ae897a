"""Searches against what they replace: Optuna one trial after another, and full grids, in one run each.

    python -m benchmarks.search optuna      `jaxmf.search.optuna` in batches against Optuna one trial after another,
                                            with a program per rank or one for all ranks, for the same seconds
    python -m benchmarks.search halving     a grid of 45 settings by `jaxmf.sweep` and by `jaxmf.search.halving`, and
                                            `jaxmf.search.hyperband` over the space that the grid spans
    python -m benchmarks.search descent     `jaxmf.search.descend` from five starts against grids over λ, and λ by λ_b

Data: MovieLens latest-small if JAXMF_DATA is set, else the embedded data. With --smoke everything is tiny, uses
embedded data and goes to a temporary folder. In `optuna`, compilation counts toward the seconds of every way; the
others report it separately. Writes results/benchmarks/search/.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import optuna
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

import jaxmf
from benchmarks.setting import Setting, setting, show
from experiments.setting import default_data
from jaxmf import plot


class Sizes(NamedTuple):
    """The sizes of a run."""

    budget: float = 40.0  # seconds of each way's search, per seed
    seeds: int = 5
    trial_epochs: int = 20
    trial_patience: int = 5
    epochs: int = 81  # of the grid, and of halving's last rung
    rounds: int = 3
    als_epochs: int = 20
    points: int = 9  # values of λ on the grid that descent is compared with
    evaluations: int = 20


TINY = Sizes(
    budget=7.0, seeds=2, trial_epochs=4, trial_patience=2, epochs=9, rounds=1, als_epochs=2, points=3, evaluations=3
)


HYPER = jaxmf.Hyper(init_scale=0.01)
ASK = 8
SPACE: dict[str, Any] = {"rank": (5, 50), "learning_rate": (1e-4, 1e-1, "log"), "l2": (1e-5, 1e-1, "log")}
GRID: dict[str, Any] = {"rank": (4, 8, 16), "l2": (0.01, 0.03, 0.1, 0.3, 1.0), "learning_rate": (0.003, 0.01, 0.03)}
SPANNED = {name: (min(values), max(values), "log") for name, values in GRID.items()}
FACTOR, MIN_EPOCHS = 3, 3
NAMES = ("l2", "l2_bias")
STARTS = (0.02, 0.05, 0.1, 0.2, 0.4)


def equal_time(here: Setting, sizes: Sizes) -> None:
    """Compare the best validation loss and the number of trials of every way, by seconds since its start."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    train, valid = data(here.smoke)
    ways: dict[str, Callable[..., list[dict[str, Any]]]] = {
        "one by one": partial(one_by_one, padded=False),
        "one by one, padded": partial(one_by_one, padded=True),
        f"batches of {ASK}": batches,
    }
    rows = []
    for seed in tqdm(range(sizes.seeds), desc="seeds"):
        for way, search in ways.items():
            jax.clear_caches()  # so that each way compiles anew
            rows += [{"way": way, "seed": seed} | row for row in search(sizes, seed, train, valid)]
    dtype = str(train.ratings.value.dtype)
    steps = pd.DataFrame(rows).assign(dtype=dtype)
    table = pd.DataFrame([medians(steps, way, sizes.budget * part / 4) for way in ways for part in (1, 2, 3, 4)])
    here.table("optuna_trials", steps)
    write(here, sizes, "optuna", table.assign(seeds=sizes.seeds, dtype=dtype), train, seed=None)
    here.figure("optuna", draw_optuna(steps, list(ways), sizes.budget))


def one_by_one(
    sizes: Sizes, seed: int, train: jaxmf.Dataset, valid: jaxmf.Dataset, padded: bool
) -> list[dict[str, Any]]:
    """Run Optuna's own loop over `jaxmf.fit`, with a program per rank, or all ranks padded to the largest."""
    rows: list[dict[str, Any]] = []
    compiled: list[float] = []
    key, solver, clock = jax.random.key(seed), jaxmf.solvers.sgd(), time.perf_counter()
    batch = jaxmf.prepare(solver, train, valid)  # once for all trials, since the layout is not what is compared

    def objective(trial: optuna.Trial) -> float:
        rank = trial.suggest_int("rank", *SPACE["rank"])
        numbers: dict[str, Any] = {}
        for name in ("learning_rate", "l2"):
            numbers[name] = trial.suggest_float(name, *SPACE[name][:2], log=True)
        model = jaxmf.models.biased_mf(SPACE["rank"][1] if padded else rank)
        hyper = HYPER._replace(rank=rank if padded else None, **numbers)
        fit = jaxmf.fit(
            key,
            model,
            solver,
            batch,
            hyper=hyper,
            epochs=sizes.trial_epochs,
            patience=sizes.trial_patience,
            track=False,
        )
        compiled.append(fit.compile_seconds)
        assert fit.state.best is not None, "there are validation ratings"
        score = float(fit.state.best.score)
        return score if np.isfinite(score) else np.nan  # which tells Optuna that the trial failed

    def note(study: optuna.Study, _: optuna.trial.FrozenTrial) -> None:
        rows.append(so_far(study, clock, compiled))

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective, timeout=sizes.budget - (time.perf_counter() - clock), callbacks=[note])
    return rows


def batches(sizes: Sizes, seed: int, train: jaxmf.Dataset, valid: jaxmf.Dataset) -> list[dict[str, Any]]:
    """Run `jaxmf.search.optuna`, a batch per call, until the budget is spent."""
    rows: list[dict[str, Any]] = []
    compiled: list[float] = []
    study, clock = None, time.perf_counter()
    while time.perf_counter() - clock < sizes.budget:
        runs, study = jaxmf.search.optuna(
            jax.random.key(seed),
            jaxmf.models.biased_mf(SPACE["rank"][1]),
            jaxmf.solvers.sgd(),
            train,
            valid,
            space=SPACE,
            trials=ASK,
            ask=ASK,
            study=study,
            epochs=sizes.trial_epochs,
            patience=sizes.trial_patience,
            hyper=HYPER,
            track=False,
        )
        compiled.append(runs.compile_seconds)
        rows.append(so_far(study, clock, compiled))
    return rows


def so_far(study: optuna.Study, clock: float, compiled: list[float]) -> dict[str, Any]:
    """Return the seconds, the number of trials (pruned ones too) and the best value of those not pruned."""
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    values = [trial.value for trial in complete if trial.value is not None]
    row = {"seconds": time.perf_counter() - clock, "trials": len(trials)}
    return row | {"best_valid_loss": min(values, default=np.nan), "compile_seconds": sum(compiled)}


def medians(steps: pd.DataFrame, way: str, seconds: float) -> dict[str, Any]:
    """Return medians over seeds of trials, losses and compile seconds, of trials that had ended by that time."""
    rows = steps[steps["way"] == way]
    losses = best_by(rows, seconds)
    ended = rows[rows["seconds"] <= seconds].groupby("seed")[["trials", "compile_seconds"]].max()
    ended = ended.reindex(rows["seed"].unique(), fill_value=0)
    row = {"way": way, "seconds": seconds, "trials": ended["trials"].median(), "valid_loss": middle(losses)}
    row |= {"min_valid_loss": finite(min(losses)), "max_valid_loss": finite(max(losses))}
    return row | {"compile_seconds": ended["compile_seconds"].median()}


def best_by(rows: pd.DataFrame, seconds: float) -> list[float]:
    """Return each seed's best loss by that time; infinite, which counts as worst, if no trial had ended."""
    ended = rows[rows["seconds"] <= seconds].groupby("seed")["best_valid_loss"].min()
    losses: list[float] = ended.reindex(rows["seed"].unique()).fillna(np.inf).tolist()
    return losses


def middle(losses: list[float]) -> float:
    """Return the median loss, or NaN if it is infinite."""
    return finite(statistics.median(losses))


def finite(loss: float) -> float:
    """Return the loss, or NaN if it is infinite, which means that no trial had ended."""
    return loss if np.isfinite(loss) else np.nan


def draw_optuna(steps: pd.DataFrame, ways: list[str], budget: float) -> Figure:
    """Draw the median best validation loss by second, with a step where a trial or a batch ends."""
    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for way, color in zip(ways, plot.style.COLORS, strict=False):
        rows = steps[steps["way"] == way]
        times = np.append(np.sort(rows["seconds"][rows["seconds"] <= budget]), budget)
        axes.step(times, [middle(best_by(rows, seconds)) for seconds in times], where="post", color=color, label=way)
    axes.set(xlim=(0, budget), xlabel="seconds, compilation included", ylabel="best validation loss, median of seeds")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def halving(here: Setting, sizes: Sizes) -> None:
    """Compare seconds, best loss and members per rung of the grid, halving and Hyperband."""
    train, valid = data(here.smoke)
    model, solver = jaxmf.models.biased_mf(max(GRID["rank"])), jaxmf.solvers.minibatch(optax.adam, 2048)
    problem = (jax.random.key(0), model, solver, train, valid)
    choices: dict[str, Any] = {"hyper": HYPER, "epochs": sizes.epochs, "patience": sizes.epochs, "track": False}
    rungs = choices | {"min_epochs": MIN_EPOCHS, "factor": FACTOR}
    ways: dict[str, Callable[[], jaxmf.Sweep]] = {
        "hyperband": lambda: jaxmf.search.hyperband(*problem, space=SPANNED, **rungs),
        "grid": lambda: jaxmf.sweep(*problem, grid=GRID, **choices),
        "halving": lambda: jaxmf.search.halving(*problem, grid=GRID, **rungs),
    }
    compiled, seconds, sweeps = {}, {}, {}
    for way, search in ways.items():
        jax.clear_caches()
        compiled[way] = search().compile_seconds
        if way == "hyperband":  # once more, before its programs are cleared; the grid and halving share their programs
            sweeps[way] = search()
            seconds[way] = [sweeps[way].seconds]
    for _ in tqdm(range(sizes.rounds), desc="rounds"):
        for way in ("grid", "halving"):
            sweeps[way] = ways[way]()
            seconds.setdefault(way, []).append(sweeps[way].seconds)
            assert sweeps[way].compile_seconds < compiled[way] / 2, f"{way} compiled again"
    dtype = str(train.ratings.value.dtype)
    order = ("grid", "halving", "hyperband")
    table = pd.DataFrame([summary(way, sweeps[way], seconds[way], compiled[way]) for way in order])
    table["times_as_fast"] = table["seconds"].iloc[0] / table["seconds"]
    table["excess_percent"] = 100 * (table["valid_loss"] / table["valid_loss"].iloc[0] - 1)
    members = pd.concat([by_rung(way, sweeps[way]) for way in order]).assign(dtype=dtype)
    write(here, sizes, "halving", table.assign(dtype=dtype), train)
    here.table("halving_rungs", members)
    show(members)


def summary(way: str, runs: jaxmf.Sweep, seconds: list[float], compile_seconds: float) -> dict[str, Any]:
    """Return a row with the costs of a way and its best setting."""
    best = runs.to_frame().iloc[runs.best()]
    row = {"way": way, "settings": len(runs.members), "rounds": len(seconds), "seconds": statistics.median(seconds)}
    row |= {"compile_seconds": compile_seconds, "programs": runs.num_programs, "all_epochs": runs.table["epochs"].sum()}
    return row | {name: best[name] for name in ("rank", "l2", "learning_rate", "epoch", "valid_loss")}


def by_rung(way: str, runs: jaxmf.Sweep) -> pd.DataFrame:
    """Return for each rung how many members were compared, how many continued, and the best score."""
    groups = runs.rungs.groupby(["rung", "epochs"])
    table = groups.agg(members=("member", "size"), selected=("selected", "sum"), best_valid_loss=("score", "min"))
    table = table.reset_index()
    table.insert(0, "way", way)
    return table


def descent(here: Setting, sizes: Sizes) -> None:
    """Compare where descent ends from every start with the best points of the grids."""
    train, valid = data(here.smoke)
    problem = (jax.random.key(0), jaxmf.models.biased_mf(8), jaxmf.solvers.als(), train, valid)
    values = np.geomspace(0.01, 1, sizes.points)
    grids = {"1d": {"l2": values}, "2d": dict.fromkeys(NAMES, values)}
    grid_bests = pd.DataFrame([grid_best(name, grid, problem, sizes) for name, grid in grids.items()])
    lowest = dict(zip(grid_bests["grid"], grid_bests["valid_loss"], strict=True))

    descend = partial(jaxmf.search.descend, *problem, names=NAMES, method="unrolled", epochs=sizes.als_epochs)
    clock = time.perf_counter()
    descend(jaxmf.Hyper(l2=STARTS[0]), max_evaluations=1)
    compile_seconds = time.perf_counter() - clock
    rows, evaluations = [], []
    for start in tqdm(STARTS, desc="starts"):
        clock = time.perf_counter()
        result = descend(jaxmf.Hyper(l2=start), max_evaluations=sizes.evaluations)
        seconds = time.perf_counter() - clock
        row = {"start": start} | {name: float(getattr(result.hyper, name)) for name in NAMES}
        row |= {"valid_loss": result.loss, "evaluations": len(result.table), "seconds": seconds}
        row |= {"at_or_below_grid": result.loss <= lowest["1d"], "at_or_below_2d_grid": result.loss <= lowest["2d"]}
        rows.append(row)
        evaluations.append(result.table.assign(start=start))
    # One program serves all starts; the call that compiled it also made one evaluation.
    compile_seconds -= rows[0]["seconds"] / rows[0]["evaluations"]
    dtype = str(train.ratings.value.dtype)
    steps, grid_bests = (
        pd.concat(evaluations, ignore_index=True),
        grid_bests.assign(epochs=sizes.als_epochs, dtype=dtype),
    )
    table = pd.DataFrame(rows).assign(compile_seconds=compile_seconds, epochs=sizes.als_epochs, dtype=dtype)
    write(here, sizes, "descent", table, train)
    here.table("descent_grids", grid_bests)
    here.table("descent_evaluations", steps)
    show(grid_bests, digits=6)
    here.figure("descent", draw_descent(steps, lowest))


def grid_best(name: str, grid: dict[str, np.ndarray], problem: tuple[Any, ...], sizes: Sizes) -> dict[str, Any]:
    """Return the best point of a grid after the last epoch, and the costs of the grid; its first point compiles."""
    search = partial(jaxmf.sweep, *problem, epochs=sizes.als_epochs, track=False, keep="none")
    compile_seconds = search(grid={name: values[:1] for name, values in grid.items()}).compile_seconds
    runs = search(grid=grid)
    best = runs.to_frame().iloc[runs.best()]
    row = {"grid": name, "members": len(runs.members)} | {name: best[name] for name in (*NAMES, "valid_loss")}
    return row | {"seconds": runs.seconds, "compile_seconds": compile_seconds}


def draw_descent(steps: pd.DataFrame, lowest: dict[str, float]) -> Figure:
    """Draw the validation loss by evaluation, a line per start, and the best of each grid."""
    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for (start, rows), color, marker in zip(
        steps.groupby("start"), plot.style.COLORS, plot.style.MARKERS, strict=False
    ):
        axes.plot(rows["evaluation"] + 1, rows["valid_loss"], color=color, marker=marker, ms=4, label=f"λ = {start:g}")
    for (name, loss), line in zip(lowest.items(), (":", "--"), strict=True):
        axes.axhline(loss, color="gray", linestyle=line, label={"1d": "grid of λ", "2d": "grid of λ by λ_b"}[name])
    # Cut off the overshoots of line searches, which would hide where the lines end.
    highest = steps.loc[steps["evaluation"] == 0, "valid_loss"].max()
    bottom = min(steps["valid_loss"].min(), *lowest.values())
    margin = 0.04 * (highest - bottom)
    axes.set(ylim=(bottom - margin, highest + margin), xlabel="evaluation", ylabel="validation loss")
    axes.locator_params(axis="x", integer=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def data(smoke: bool) -> tuple[jaxmf.Dataset, jaxmf.Dataset]:
    """Return training and validation ratings."""
    tiny = partial(jaxmf.datasets.synthetic, num_users=300, num_items=200, num_ratings=8000)
    train, valid, _ = jaxmf.splits.temporal_per_user(tiny() if smoke else default_data())
    return train, valid


def write(
    here: Setting, sizes: Sizes, name: str, table: pd.DataFrame, data: jaxmf.Dataset, seed: int | None = 0
) -> None:
    """Write the table and its manifest, and print the table."""
    here.write(name, table, data.describe(), {"optuna": version("optuna")} | sizes._asdict(), seed)
    show(table, digits=6)


JOBS = {"optuna": equal_time, "halving": halving, "descent": descent}


def main() -> None:
    """Run the job named on the command line."""
    here = setting("search", __doc__ or "", JOBS, smoke=True)
    JOBS[here.job](here, TINY if here.smoke else Sizes())


if __name__ == "__main__":
    main()
