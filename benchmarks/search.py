"""Searches against what they replace: Optuna one trial after another, and full grids, in one run each.

    python -m benchmarks.search optuna      `jaxmf.search.optuna` in batches against Optuna one trial after another,
                                            each rank compiled for itself or all in one program, for the same seconds
    python -m benchmarks.search halving     a grid of 45 settings by `jaxmf.sweep` and by `jaxmf.search.halving`, and
                                            `jaxmf.search.hyperband` over the space that the grid spans
    python -m benchmarks.search descent     `jaxmf.search.descend` from five starts against grids over λ, and λ by λ_b

With --smoke everything is tiny, reads embedded data and goes to a temporary folder. Else they read MovieLens
latest-small where JAXMF_DATA has it, else the embedded data. `optuna` counts compilation: the budget of every way
includes it; the others report it apart. Writes results/benchmarks/search/.
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
    """How much a run does."""

    budget: float = 40.0  # seconds of a seed's search by Optuna
    seeds: int = 5
    trial_epochs: int = 20
    trial_patience: int = 5
    epochs: int = 81  # of the grid, and of the last rung of halving
    rounds: int = 3
    als_epochs: int = 20
    points: int = 9  # of λ on the grid that descent is compared with
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
    """Write and print the best validation loss and the trials of every way, by seconds since its start."""
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
            jax.clear_caches()  # each pays for its own compilation
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
    """Optuna's own loop over `jaxmf.fit`: each rank in a program of its own, or all in that of the largest."""
    rows: list[dict[str, Any]] = []
    compiled: list[float] = []
    key, solver, clock = jax.random.key(seed), jaxmf.solvers.sgd(), time.perf_counter()
    batch = jaxmf.prepare(solver, train, valid)  # once for all trials: what is compared is not the layout

    def objective(trial: optuna.Trial) -> float:
        rank = trial.suggest_int("rank", *SPACE["rank"])
        numbers: dict[str, Any] = {}
        for name in ("learning_rate", "l2"):
            numbers[name] = trial.suggest_float(name, *SPACE[name][:2], log=True)
        model = jaxmf.models.biased_mf(SPACE["rank"][1] if padded else rank)
        hyper = HYPER._replace(rank=rank if padded else None, **numbers)
        found = jaxmf.fit(
            key,
            model,
            solver,
            batch,
            hyper=hyper,
            epochs=sizes.trial_epochs,
            patience=sizes.trial_patience,
            track=False,
        )
        compiled.append(found.compile_seconds)
        assert found.state.best is not None, "there are validation ratings"
        score = float(found.state.best.score)
        return score if np.isfinite(score) else np.nan  # Optuna's word for a trial that failed

    def note(study: optuna.Study, _: optuna.trial.FrozenTrial) -> None:
        rows.append(so_far(study, clock, compiled))

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective, timeout=sizes.budget - (time.perf_counter() - clock), callbacks=[note])
    return rows


def batches(sizes: Sizes, seed: int, train: jaxmf.Dataset, valid: jaxmf.Dataset) -> list[dict[str, Any]]:
    """`jaxmf.search.optuna`, a batch per call, until the budget is spent."""
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
    """Seconds, trials (pruned ones too) and the best value of those that were not pruned."""
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    values = [trial.value for trial in complete if trial.value is not None]
    row = {"seconds": time.perf_counter() - clock, "trials": len(trials)}
    return row | {"best_valid_loss": min(values, default=np.nan), "compile_seconds": sum(compiled)}


def medians(steps: pd.DataFrame, way: str, seconds: float) -> dict[str, Any]:
    """Median trials, losses and seconds of compiling over seeds, of the trials that had ended by these seconds."""
    own = steps[steps["way"] == way]
    losses = best_by(own, seconds)
    ended = own[own["seconds"] <= seconds].groupby("seed")[["trials", "compile_seconds"]].max()
    ended = ended.reindex(own["seed"].unique(), fill_value=0)
    row = {"way": way, "seconds": seconds, "trials": ended["trials"].median(), "valid_loss": middle(losses)}
    row |= {"min_valid_loss": known(min(losses)), "max_valid_loss": known(max(losses))}
    return row | {"compile_seconds": ended["compile_seconds"].median()}


def best_by(own: pd.DataFrame, seconds: float) -> list[float]:
    """Each seed's best loss by these seconds; infinite where no trial had ended, so that it counts as the worst."""
    ended = own[own["seconds"] <= seconds].groupby("seed")["best_valid_loss"].min()
    return ended.reindex(own["seed"].unique()).fillna(np.inf).tolist()


def middle(losses: list[float]) -> float:
    """The median, missing if there is none yet."""
    return known(statistics.median(losses))


def known(loss: float) -> float:
    """The loss, or NaN in place of infinity: nothing found yet."""
    return loss if np.isfinite(loss) else np.nan


def draw_optuna(steps: pd.DataFrame, ways: list[str], budget: float) -> Figure:
    """Median best validation loss by second, a step where a trial or a batch ends."""
    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for way, color in zip(ways, plot.style.COLORS, strict=False):
        own = steps[steps["way"] == way]
        times = np.append(np.sort(own["seconds"][own["seconds"] <= budget]), budget)
        axes.step(times, [middle(best_by(own, at)) for at in times], where="post", color=color, label=way)
    axes.set(xlim=(0, budget), xlabel="seconds, compilation included", ylabel="best validation loss, median of seeds")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def halving(here: Setting, sizes: Sizes) -> None:
    """Write and print seconds, best loss and members by rung of the grid, halving and Hyperband."""
    train, valid = data(here.smoke)
    model, solver = jaxmf.models.biased_mf(max(GRID["rank"])), jaxmf.solvers.minibatch(optax.adam, 2048)
    fixed = (jax.random.key(0), model, solver, train, valid)
    choices: dict[str, Any] = {"hyper": HYPER, "epochs": sizes.epochs, "patience": sizes.epochs, "track": False}
    rungs = choices | {"min_epochs": MIN_EPOCHS, "factor": FACTOR}
    ways: dict[str, Callable[[], jaxmf.Sweep]] = {
        "hyperband": lambda: jaxmf.search.hyperband(*fixed, space=SPANNED, **rungs),
        "grid": lambda: jaxmf.sweep(*fixed, grid=GRID, **choices),
        "halving": lambda: jaxmf.search.halving(*fixed, grid=GRID, **rungs),
    }
    compiled, seconds, found = {}, {}, {}
    for way, search in ways.items():
        jax.clear_caches()
        compiled[way] = search().compile_seconds
        if way == "hyperband":  # before its programs are cleared; those of the grid and of halving are the same
            found[way] = search()
            seconds[way] = [found[way].seconds]
    for _ in tqdm(range(sizes.rounds), desc="rounds"):
        for way in ("grid", "halving"):
            found[way] = ways[way]()
            seconds.setdefault(way, []).append(found[way].seconds)
            assert found[way].compile_seconds < compiled[way] / 2, f"{way} compiled again"
    dtype = str(train.ratings.value.dtype)
    order = ("grid", "halving", "hyperband")
    table = pd.DataFrame([summary(way, found[way], seconds[way], compiled[way]) for way in order])
    table["times_as_fast"] = table["seconds"].iloc[0] / table["seconds"]
    table["excess_percent"] = 100 * (table["valid_loss"] / table["valid_loss"].iloc[0] - 1)
    members = pd.concat([by_rung(way, found[way]) for way in order]).assign(dtype=dtype)
    write(here, sizes, "halving", table.assign(dtype=dtype), train)
    here.table("halving_rungs", members)
    show(members)


def summary(way: str, runs: jaxmf.Sweep, seconds: list[float], compile_seconds: float) -> dict[str, Any]:
    """What a way cost, and the best that it found."""
    best = runs.to_frame().iloc[runs.best()]
    row = {"way": way, "settings": len(runs.members), "rounds": len(seconds), "seconds": statistics.median(seconds)}
    row |= {"compile_seconds": compile_seconds, "programs": runs.num_programs, "all_epochs": runs.table["epochs"].sum()}
    return row | {name: best[name] for name in ("rank", "l2", "learning_rate", "epoch", "valid_loss")}


def by_rung(way: str, runs: jaxmf.Sweep) -> pd.DataFrame:
    """How many members were compared at each rung, how many went on, and the best score."""
    groups = runs.rungs.groupby(["rung", "epochs"])
    table = groups.agg(members=("member", "size"), selected=("selected", "sum"), best_valid_loss=("score", "min"))
    table = table.reset_index()
    table.insert(0, "way", way)
    return table


def descent(here: Setting, sizes: Sizes) -> None:
    """Write and print where descent ends from every start, and whether at or below the best of the grids."""
    train, valid = data(here.smoke)
    fixed = (jax.random.key(0), jaxmf.models.biased_mf(8), jaxmf.solvers.als(), train, valid)
    values = np.geomspace(0.01, 1, sizes.points)
    grids = {"1d": {"l2": values}, "2d": dict.fromkeys(NAMES, values)}
    tried = pd.DataFrame([grid_best(name, grid, fixed, sizes) for name, grid in grids.items()])
    lowest = dict(zip(tried["grid"], tried["valid_loss"], strict=True))

    descend = partial(jaxmf.search.descend, *fixed, names=NAMES, method="unrolled", epochs=sizes.als_epochs)
    clock = time.perf_counter()
    descend(jaxmf.Hyper(l2=STARTS[0]), max_evaluations=1)
    compile_seconds = time.perf_counter() - clock
    rows, evaluations = [], []
    for start in tqdm(STARTS, desc="starts"):
        clock = time.perf_counter()
        found = descend(jaxmf.Hyper(l2=start), max_evaluations=sizes.evaluations)
        seconds = time.perf_counter() - clock
        row = {"start": start} | {name: float(getattr(found.hyper, name)) for name in NAMES}
        row |= {"valid_loss": found.loss, "evaluations": len(found.table), "seconds": seconds}
        row |= {"at_or_below_grid": found.loss <= lowest["1d"], "at_or_below_2d_grid": found.loss <= lowest["2d"]}
        rows.append(row)
        evaluations.append(found.table.assign(start=start))
    # One program serves all starts, and the call that compiled it evaluated once.
    compile_seconds -= rows[0]["seconds"] / rows[0]["evaluations"]
    dtype = str(train.ratings.value.dtype)
    steps, tried = pd.concat(evaluations, ignore_index=True), tried.assign(epochs=sizes.als_epochs, dtype=dtype)
    table = pd.DataFrame(rows).assign(compile_seconds=compile_seconds, epochs=sizes.als_epochs, dtype=dtype)
    write(here, sizes, "descent", table, train)
    here.table("descent_grids", tried)
    here.table("descent_evaluations", steps)
    show(tried, digits=6)
    here.figure("descent", draw_descent(steps, lowest))


def grid_best(name: str, grid: dict[str, np.ndarray], fixed: tuple[Any, ...], sizes: Sizes) -> dict[str, Any]:
    """The best point of a grid after the last epoch, and what all cost; its first point compiles."""
    search = partial(jaxmf.sweep, *fixed, epochs=sizes.als_epochs, track=False, keep="none")
    compile_seconds = search(grid={name: values[:1] for name, values in grid.items()}).compile_seconds
    runs = search(grid=grid)
    best = runs.to_frame().iloc[runs.best()]
    row = {"grid": name, "members": len(runs.members)} | {name: best[name] for name in (*NAMES, "valid_loss")}
    return row | {"seconds": runs.seconds, "compile_seconds": compile_seconds}


def draw_descent(steps: pd.DataFrame, lowest: dict[str, float]) -> Figure:
    """Validation loss by evaluation, a line per start, and the best of each grid."""
    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for (start, own), color, marker in zip(steps.groupby("start"), plot.style.COLORS, plot.style.MARKERS, strict=False):
        axes.plot(own["evaluation"] + 1, own["valid_loss"], color=color, marker=marker, ms=4, label=f"λ = {start:g}")
    for (name, loss), line in zip(lowest.items(), (":", "--"), strict=True):
        axes.axhline(loss, color="gray", linestyle=line, label={"1d": "grid of λ", "2d": "grid of λ by λ_b"}[name])
    # What a line search overshoots would hide where the lines end.
    highest = steps.loc[steps["evaluation"] == 0, "valid_loss"].max()
    bottom = min(steps["valid_loss"].min(), *lowest.values())
    margin = 0.04 * (highest - bottom)
    axes.set(ylim=(bottom - margin, highest + margin), xlabel="evaluation", ylabel="validation loss")
    axes.locator_params(axis="x", integer=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def data(smoke: bool) -> tuple[jaxmf.Dataset, jaxmf.Dataset]:
    """Training and validation ratings."""
    tiny = partial(jaxmf.datasets.synthetic, num_users=300, num_items=200, num_ratings=8000)
    train, valid, _ = jaxmf.splits.temporal_per_user(tiny() if smoke else default_data())
    return train, valid


def write(
    here: Setting, sizes: Sizes, name: str, table: pd.DataFrame, data: jaxmf.Dataset, seed: int | None = 0
) -> None:
    """The table and its manifest on disk, and the table in print."""
    here.write(name, table, data.describe(), {"optuna": version("optuna")} | sizes._asdict(), seed)
    show(table, digits=6)


JOBS = {"optuna": equal_time, "halving": halving, "descent": descent}


def main() -> None:
    """Do the job that the command line names."""
    here = setting("search", __doc__ or "", JOBS, smoke=True)
    JOBS[here.job](here, TINY if here.smoke else Sizes())


if __name__ == "__main__":
    main()
