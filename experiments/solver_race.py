"""All solvers on one objective: how near to its minimum, and how good on test, by epochs and by seconds?

    python -m experiments.solver_race [--data NAME] [--out FOLDER] [--smoke]

1. Which λ, λ_b and ν define the objective? They are chosen on validation, by ALS on a small grid.
2. Which learning rate does each gradient solver get? The one with the lowest objective after half of the race's epochs.
3. How many epochs, and seconds, until a solver is within 1 % and 0.1 % of the lowest objective? What is its test error?

All solvers start from the same parameters, over ten seeds. `minibatch` steps on the mean objective L / |Ω|, `sgd` on
one rating's share of L, so that their learning rates differ in scale. Writes tables (CSV), figures and summary.md;
float32. Test errors are plotted for every epoch, but nothing is chosen by them.
"""

from typing import Any

import jax
import numpy as np
import optax
import pandas as pd
from tqdm import tqdm

import jaxmf
from experiments.setting import Setting, default_data, setting, spread
from jaxmf import Hyper, Model, Params, evaluate, metrics, models, plot
from jaxmf.data import Dataset, Ratings
from jaxmf.files.output import markdown
from jaxmf.shell.jobs import split_three
from jaxmf.shell.recipes import BATCH_SIZE, RECIPES, Recipe
from jaxmf.solvers import Solver, minibatch, sgd

SEED = 0
GRID = {0.0: (5.0, 9.0, 13.0), 0.5: (1.0, 1.5, 2.0), 1.0: (0.1, 0.15, 0.2)}  # λ by ν
BIAS_SHARES = (1 / 3, 2 / 3, 1.0)  # λ_b / λ
FACTORS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # times the learning rate of the recipe
NEAR = {"1 %": ("gap", 0.01), "0.1 %": ("gap", 0.001), "0.5 % of valid RMSE": ("valid_gap", 0.005)}
RESOLUTION = 1e-6  # relative; float32 sums over the ratings that differ by less count as equal

Parts = tuple[Dataset, Dataset, Dataset]
Ways = dict[str, tuple[Solver, Hyper]]


def decay(epochs: jax.Array) -> jax.Array:
    """Return the factor by which a decaying learning rate is multiplied."""
    return 1 / (1 + epochs / 10)


def entrants(num_ratings: int) -> dict[str, Recipe]:
    """Return the solvers of the library's recipes, two of them also with a decaying learning rate."""
    steps = -(-num_ratings // BATCH_SIZE)

    def adam(hyper: Hyper) -> optax.GradientTransformation:
        return optax.adam(lambda step: hyper.learning_rate * decay(step / steps))

    decaying = {"sgd": sgd(schedule=decay), "adam": minibatch(adam, BATCH_SIZE)}
    recipes = {"als": RECIPES["als"]}
    for name, recipe in RECIPES.items():
        recipes[name] = recipe
        if name in decaying:
            recipes[f"decaying {name}"] = recipe._replace(solver=decaying[name])
    return recipes


def choose_objective(model: Model, parts: Parts, epochs: int) -> pd.DataFrame:
    """Fit every λ, λ_b and ν of the grid by ALS; return the table, lowest validation RMSE first."""
    points = [(nu, l2, share * l2) for nu in GRID for l2 in GRID[nu] for share in BIAS_SHARES]
    grid = [dict(zip(("reg_exponent", "l2", "l2_bias"), point, strict=True)) for point in points]
    problem = jax.random.key(SEED), model, RECIPES["als"].solver, parts[0]
    runs = jaxmf.sweep(*problem, grid=grid, epochs=epochs, track=False, keep="all", progress=True)
    errors = [evaluate.rating(model, runs.params(member), parts[1])["rmse"] for member in range(len(grid))]
    table = runs.to_frame()[["reg_exponent", "l2", "l2_bias", "epochs", "dtype"]]
    table = table.assign(solver="als", valid_rmse=errors, compile_seconds=runs.compile_seconds)
    return table.sort_values("valid_rmse", ignore_index=True)


def choose_rates(
    model: Model, train: Dataset, hyper: Hyper, recipes: dict[str, Recipe], epochs: int
) -> tuple[pd.DataFrame, Ways]:
    """Try every learning rate of every gradient solver; return the objectives, and all solvers at their best rates."""
    value = jax.jit(lambda params: models.objective(model, params, train.ratings, hyper))
    tables, ways = [], {}
    for name, (solver, rate) in tqdm(recipes.items(), desc="learning rates"):
        ways[name] = solver, hyper
        if rate is not None:
            grid = [{"learning_rate": factor * rate, "seed": 0} for factor in FACTORS]
            problem = jax.random.key(SEED), model, solver, train
            runs = jaxmf.sweep(*problem, grid=grid, hyper=hyper, epochs=epochs, track=False, keep="all")
            reached = pd.Series([float(value(runs.params(member))) for member in range(len(grid))])
            table = runs.to_frame().assign(solver=name, objective=reached)
            table["objective"] = table["objective"].where(table["status"] == "completed")
            ways[name] = solver, runs.hyper(int(table["objective"].idxmin()))
            chosen = table["objective"] == table["objective"].min()
            tables.append(table.assign(chosen=chosen, compile_seconds=runs.compile_seconds))
    columns = ["solver", "learning_rate", "status", "epochs", "objective", "chosen", "compile_seconds", "dtype"]
    return pd.concat(tables, ignore_index=True)[columns], ways


def race(model: Model, parts: Parts, ways: Ways, num_seeds: int, epochs: int) -> pd.DataFrame:
    """Return the objective, validation and test RMSE of every solver, seed and epoch."""
    test = parts[2].ratings

    def test_rmse(params: Params, valid: Ratings) -> jax.Array:
        return metrics.rmse(test.value, model.predict(params, test), test.weight)

    tables = []
    for name, (solver, hyper) in tqdm(ways.items(), desc="race"):
        problem = jax.random.key(SEED), model, solver, *parts[:2]
        options = {"hyper": hyper, "epochs": epochs, "monitor": test_rmse, "keep": "none"}
        runs = jaxmf.sweep(*problem, grid={"seed": range(num_seeds)}, **options)
        tables.append(runs.history.assign(solver=name, dtype=runs.to_frame()["dtype"][0]))
    return pd.concat(tables, ignore_index=True).rename(columns={"monitor": "test_rmse"})


def clock(model: Model, train: Dataset, ways: Ways, rounds: int, epochs: int) -> pd.DataFrame:
    """Time the epochs of fits that record nothing, one fit at a time, in rounds that alternate between solvers."""
    prepared = {name: jaxmf.prepare(solver, train) for name, (solver, _) in ways.items()}
    rows = []
    for round_index in tqdm(range(rounds + 1), desc="rounds"):  # the first one warms up
        for name, (solver, hyper) in ways.items():
            problem = jax.random.key(SEED), model, solver, prepared[name]
            fit = jaxmf.fit(*problem, hyper=hyper, epochs=epochs, track=False)
            rows.append({"solver": name, "round": round_index, "seconds": fit.history["seconds"][-1] / epochs})
    return pd.DataFrame(rows).assign(dtype=str(train.ratings.value.dtype))


def ends(history: pd.DataFrame, speed: pd.Series) -> pd.DataFrame:
    """Return for every solver and seed when it reached each target (infinite if never), its gap at the end, and its
    test RMSE at the end and at the epoch with the best validation RMSE.
    """
    rows = []
    for (solver, seed), run in history.groupby(["solver", "seed"], sort=False):
        row: dict[str, Any] = {"solver": solver, "seed": seed}
        for name, (column, share) in NEAR.items():
            epochs = float(run.loc[run[column] <= share, "epoch"].min())
            row[f"epochs to {name}"] = np.inf if np.isnan(epochs) else epochs
            row[f"seconds to {name}"] = row[f"epochs to {name}"] * speed[solver]
        last, best = run.iloc[-1], run.loc[run["valid_rmse"].idxmin()]
        row |= {"objective": last["objective"], "gap": last["gap"], "test_rmse": last["test_rmse"]}
        row |= {"best_epoch": best["epoch"], "best_test_rmse": best["test_rmse"], "dtype": last["dtype"]}
        rows.append(row)
    return pd.DataFrame(rows)


def curves(history: pd.DataFrame, speed: pd.Series) -> pd.DataFrame:
    """Return the median and the quartiles over seeds, by solver and epoch."""
    groups = history.groupby(["solver", "epoch"], sort=False)[["gap", "test_rmse"]]
    parts = {"": groups.median(), "_low": groups.quantile(0.25), "_high": groups.quantile(0.75)}
    table = pd.concat([part.add_suffix(suffix) for suffix, part in parts.items()], axis=1).reset_index()
    return table.assign(seconds=table["epoch"] * table["solver"].map(speed), dtype=history["dtype"].iloc[0])


def in_words(here: Setting, results: dict[str, Any]) -> list[str]:
    """Return the paragraphs of summary.md; every number in them is also in a table beside it."""
    ends, chosen = results["ends"], results["objectives"].iloc[0]
    groups = ends.groupby("solver", sort=False)
    near = groups[[name for name in ends if " to " in name]].median().replace(np.inf, np.nan)
    near["seconds per epoch"], near["% above at the end"] = results["speed"], 100 * groups["gap"].median()
    compiled = pd.concat([results["objectives"], results["rates"]]).groupby("solver")["compile_seconds"]
    near["compile seconds"] = compiled.first()
    best = spread(ends, ["solver"], ["best_epoch", "best_test_rmse"]).sort_values("best_test_rmse")
    winner, alike = best.iloc[0], best.loc[best["low"] <= best["high"].iloc[0], "solver"]

    def ranking(name: str) -> str:
        order = near[f"seconds to {name}"].dropna().sort_values()
        words = [f"{solver} {value:.2g} s ({near[f'epochs to {name}'][solver]:g})" for solver, value in order.items()]
        return f"within {name}: {', '.join(words) or 'none'}"

    return [
        "# A race of solvers on one objective",
        f"{here.data.describe()['name']}, {results['num_ratings']:,} ratings, {results['split']}: train / valid / test "
        f"of {' / '.join(f'{size:,}' for size in results['sizes'])}. Biased factorization of rank {results['rank']}, "
        f"ν = {chosen['reg_exponent']:g}, "  # noqa: RUF001
        f"λ = {chosen['l2']:g}, λ_b = {chosen['l2_bias']:g}, chosen on validation; "
        f"{results['epochs']} epochs from the same {results['seeds']} starts, float32.",
        "Seconds (epochs) until the objective is near the lowest, medians over starts; solvers that are not named did "
        "not get there:\n\n- **" + "**\n- **".join(ranking(name) for name in list(NEAR)[:2]) + "**\n"
        f"- Best on test, each start at the epoch that validation prefers: {winner['solver']}, RMSE "
        f"{winner['best_test_rmse']:.4f} ({winner['low']:.4f} to {winner['high']:.4f}). Intervals of "
        f"{len(alike)} of the {len(best)} solvers reach into that one: {', '.join(alike)}.",
        "![Objective and test RMSE by epoch and second](figures/race.png)",
        "Lines are medians over starts, bands their middle half. Seconds are the solver's alone: the median of "
        f"{results['rounds']} rounds that alternate between solvers, one fit at a time that records nothing, "
        "compilation apart. They are this machine's, and swing with its load.",
        "## Epochs and seconds to come near",
        markdown(near.sort_values("seconds to 1 %").reset_index()),
        f"The lowest objective is the least of all fits and of an ALS of {results['long']} epochs; the ALS of every "
        f"start ends within {results['als_above']:.1e} of it. The last target is a validation RMSE within 0.5 % of the "
        "lowest of all. A constant learning rate stops the fall at a height that grows with the rate; a decaying one "
        "is lr / (1 + epochs / 10).",
        "## Test RMSE",
        "With 95 % t intervals over starts, at the epoch that validation prefers:",
        markdown(best),
        "and at the end:",
        markdown(spread(ends, ["solver"], ["test_rmse"]).sort_values("test_rmse")),
        "## Learning rates",
        f"Those with the lowest objective after {results['tried']} epochs, of all in `rates.csv`:",
        markdown(results["rates"].query("chosen")[["solver", "learning_rate", "objective"]]),
    ]


def main() -> None:
    """Run the study."""
    here = setting("solver_race", __doc__ or "", default_data)
    rank, seeds, epochs, rounds = (2, 2, 4, 1) if here.smoke else (16, 10, 100, 7)
    sizes = {"rank": rank, "seeds": seeds, "epochs": epochs, "tried": epochs // 2, "long": 5 * epochs, "rounds": rounds}
    searched = {"grid": list(GRID.items()), "bias_shares": BIAS_SHARES, "factors": FACTORS, "batch_size": BATCH_SIZE}
    manifest = here.begin(sizes | searched, SEED)
    data = here.data.take(np.arange(200)) if here.smoke else here.data
    train, valid, test, split = split_three(data, SEED)
    parts = train, valid, test
    model, solvers = models.biased_mf(rank), entrants(len(train))
    results: dict[str, Any] = sizes | {"num_ratings": len(data), "sizes": [len(part) for part in parts]}

    results["objectives"] = choose_objective(model, parts, min(epochs, 20))
    hyper = Hyper(**results["objectives"].loc[0, ["reg_exponent", "l2", "l2_bias"]])
    recipes = {name: solvers[name] for name in (("als", "minibatch") if here.smoke else solvers)}
    results["rates"], ways = choose_rates(model, train, hyper, recipes, sizes["tried"])
    history = race(model, parts, ways, seeds, epochs)
    problem = jax.random.key(SEED), model, solvers["als"].solver, train
    exact = jaxmf.fit(*problem, hyper=hyper, epochs=sizes["long"], track=False).params
    least = min(history["objective"].min(), float(models.objective(model, exact, train.ratings, hyper)))
    history["gap"] = (history["objective"] / least - 1).clip(lower=RESOLUTION)
    history["valid_gap"] = history["valid_rmse"] / history["valid_rmse"].min() - 1
    results["seconds"] = clock(model, train, ways, rounds, min(epochs, 20))
    speed = results["seconds"][results["seconds"]["round"] > 0].groupby("solver", sort=False)["seconds"].median()
    results["ends"] = ends(history, speed)
    above = results["ends"].query("solver == 'als'")["gap"].max()
    results |= {"speed": speed, "als_above": above, "split": split}
    drawn = curves(history, speed)
    for name, table in {"curves": drawn, **results}.items():
        if isinstance(table, pd.DataFrame):
            here.table(name, table)
    here.figure("race", plot.bands(drawn, ("gap", "test_rmse"), ("epoch", "seconds"), ("gap", "epoch", "seconds")))
    here.finish(manifest, in_words(here, results))


if __name__ == "__main__":
    main()
