"""Document 002: ALS over d and λ to the document's stopping rule, and whether its choice of λ = 4 is right.

    python -m experiments.als_sweep [--data NAME] [--out FOLDER] [--smoke]

1. What errors do the document's 16 cells reach on one split, with its initialization and stopping rule, and how fast?
2. Which λ does cross-validation choose, over ten folds with one initialization each, and is λ = 4 as good?
3. Does λ times the number of ratings (ν = 1) do better than the document's constant penalty?

Writes tables (CSV), the document's JSON and its figures, and summary.md; float32. The test errors of question 1 are
those that the document prints; nothing is chosen by them.
"""

import time
from functools import cache
from typing import Any

import jax
import pandas as pd
from scipy import stats

import jaxmf
from experiments.setting import Setting, compared, default_data, setting, shown
from jaxmf import Hyper, Model, Params, Rows, evaluate, plot, splits
from jaxmf.data import Dataset, Ratings
from jaxmf.files import output
from jaxmf.files.output import markdown

D, L2 = (1, 5, 20, 50), (1.0, 2.0, 4.0, 6.0)
PER_RATING = (0.1, 0.2)  # with ν = 1, the document's λ shrink the factors to 0
CHOSEN = 4.0  # the document's choice of λ
SOLVER = jaxmf.solvers.als(tol=1e-3, rule="difference")
SEED, FOLDS = 0, 10
METRICS = ("train_mse", "train_mae", "test_mse", "test_mae")


@cache  # one object per rank, so that compiled programs are reused
def uniform(rank: int) -> Model:
    """Return the document's model: U·V without a mean, initially uniform between 0 and 1."""
    plain = jaxmf.models.mf(rank, None)

    def init(key: jax.Array, ratings: Ratings, hyper: Hyper) -> Params:
        users, items = jax.random.split(key)
        U = jax.random.uniform(users, (ratings.num_users, rank), ratings.value.dtype)
        V = jax.random.uniform(items, (ratings.num_items, rank), ratings.value.dtype)
        return Params(Rows({"factors": U}, {"factors": V}))

    return plain._replace(init=init, with_rank=uniform, name="mf, uniform start")


def cells(train: Dataset, test: Dataset, ranks: tuple[int, ...], epochs: int) -> tuple[pd.DataFrame, float]:
    """Fit the document's cells on one split to its stopping rule; return their errors and the seconds of all."""
    clock = time.perf_counter()
    runs = jaxmf.sweep(
        jax.random.key(SEED),
        uniform(max(ranks)),
        SOLVER,
        train,
        grid={"rank": ranks, "l2": L2},
        hyper=Hyper(reg_exponent=0.0),
        epochs=epochs,
        track=False,
        keep="all",
        progress=True,
    )
    table = runs.to_frame()
    rows = []
    for member, row in table.iterrows():
        fitted = runs.model(member), runs.params(member)
        errors = {
            f"{part}_{metric}": value
            for part, ratings in (("train", train), ("test", test))
            for metric, value in evaluate.rating(*fitted, ratings).items()
        }
        cell = {"d": row["rank"], "lambda_reg": row["l2"], "status": row["status"], "sweeps": row["epochs"]}
        rows.append(cell | {name: errors[name] for name in METRICS})
    return pd.DataFrame(rows).assign(dtype=table["dtype"]), time.perf_counter() - clock


def folds(
    data: Dataset, ranks: tuple[int, ...], nu: float, l2: tuple[float, ...], epochs: int, num_folds: int
) -> pd.DataFrame:
    """Fit every cell on every fold, with a different initialization per fold."""
    runs = jaxmf.sweep(
        jax.random.key(SEED),
        uniform(max(ranks)),
        SOLVER,
        data,
        grid=[{"rank": d, "l2": value, "seed": n, "fold": n} for d in ranks for value in l2 for n in range(num_folds)],
        folds=splits.k_fold(data, num_folds, SEED),
        hyper=Hyper(reg_exponent=nu),
        epochs=epochs,
        track=False,
        keep="none",
        progress=True,
    )
    return runs.to_frame()


def against_chosen(validated: pd.DataFrame) -> pd.DataFrame:
    """Compare each cell's validation MSE with the document's λ at the same d, paired by fold, with a t interval."""
    table = validated.pivot_table("valid_loss", "fold", ["rank", "l2"])
    rows = []
    for d, l2 in table.columns:
        row = {"d": d, "l2": l2, "valid_mse": table[d, l2].mean(), "valid_mse_se": table[d, l2].sem()}
        if l2 != CHOSEN:
            mean, low, high = _interval(table[d, l2] - table[d, CHOSEN])
            row |= {f"less that of {CHOSEN:g}": mean, "low": low, "high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def in_words(here: Setting, results: dict[str, Any], sizes: tuple[int, int]) -> list[str]:
    """Return the paragraphs of summary.md; every number in them is also in a table beside it."""
    grid, seconds = results["grid"]
    best, per_rating = (_means(results[name]) for name in ("folds", "folds_per_rating"))
    d, l2 = best.idxmin()
    test = grid.set_index(["d", "lambda_reg"])["test_mse"]
    chosen = best.xs(CHOSEN, level=1)
    mean, low, high = _interval(_best(results["folds_per_rating"]) - _best(results["folds"]))
    return [
        "# ALS over d and λ",
        f"{here.data.describe()['name']}, {len(here.data):,} ratings; 10 % at random are test ({sizes[1]:,}), the rest "
        f"({sizes[0]:,}) train, and cross-validated on {results['folds']['fold'].nunique()} folds, each with its own "
        "start. Plain factors without a mean, started uniformly between 0 and 1, float32. A fit stops by the "
        f"document's rule, in question 1 after {results['sweeps']} sweeps at most, else after {results['validated']}.",
        f"- **Cross-validation chooses d = {d}, λ = {l2:g}**, with an MSE of {best.min():.4f} ({test[d, l2]:.4f} on "
        f"test). The document's λ = {CHOSEN:g} has {chosen.min():.4f} at its best d, {chosen.idxmin()}.\n"
        f"- {_verdict(results['differences'])}\n"
        f"- λ per rating (ν = 1) has {per_rating.min():.4f} at its best, d = {per_rating.idxmin()[0]} and "  # noqa: RUF001
        f"λ = {per_rating.idxmin()[1]:g}: {mean:+.4f} ({low:+.4f} to {high:+.4f}, fold by fold) from the best with the "
        "document's penalty.\n"
        f"- The {len(grid)} cells took {seconds:.0f} s here, compilation included; the document's 16 took 378 s.",
        "## 1. The document's grid",
        "A rating of 0 means a missing one in the document, and is a rating here; these data have none.",
        markdown(grid.drop(columns="dtype")),
        "![Errors by d, a panel for each λ](figures/panel.png)",
        f"![Errors by d for λ = {CHOSEN:g}](figures/chosen.png)",
        "## 2. Is its choice right?",
        "Validation MSE over the folds, with its standard error, and the difference from λ = 4 at the same d, fold by "
        "fold, with a 95 % t interval; negative is better than the document's choice:",
        markdown(results["differences"]),
        "![Validation MSE by d and λ](figures/folds.png)",
        "## 3. λ times the number of ratings",
        "A row's penalty is λ times its number of ratings, as in ALS-WR (ν = 1): with the document's λ, and with "  # noqa: RUF001
        "smaller ones that do not shrink the factors to 0:",
        "![Validation MSE by d and λ per rating](figures/folds_per_rating.png)",
        "## The document's figures",
        markdown(shown(results["document"])),
    ]


def _interval(difference: pd.Series) -> tuple[float, float, float]:
    """Return the mean over folds with its 95 % t interval."""
    mean = difference.mean()
    return mean, *stats.t.interval(0.95, len(difference) - 1, mean, difference.sem())


def _best(validated: pd.DataFrame) -> pd.Series:
    """Return the validation MSE of the best cell, by fold."""
    return validated.pivot_table("valid_loss", "fold", ["rank", "l2"])[_means(validated).idxmin()]


def _means(validated: pd.DataFrame) -> pd.Series:
    """Return the mean validation MSE of each cell."""
    return validated.groupby(["rank", "l2"])["valid_loss"].mean()


def _verdict(differences: pd.DataFrame) -> str:
    tested = differences.dropna(subset="low")
    better, worse = tested[tested["high"] < 0], tested[tested["low"] > 0]

    def named(rows: pd.DataFrame) -> str:
        return ", ".join(f"λ = {row.l2:g} at d = {row.d}" for row in rows.itertuples()) or "none"

    return f"Surely better than λ = {CHOSEN:g} at the same d: {named(better)}. Surely worse: {named(worse)}."


def against_document(grid: pd.DataFrame, seconds: float, means: pd.Series) -> pd.DataFrame:
    """Return the table of the document's figures and claims beside ours."""
    by_l2 = means.groupby("l2").min()
    falls, rises = by_l2[1.0] > by_l2[2.0] > by_l2[4.0], by_l2[6.0] > by_l2[4.0]
    largest = grid[list(METRICS)].max().max()
    rows = [
        ("seconds of 16 cells", 378, seconds),
        ("all errors are below 0.8", "yes", "yes" if largest < 0.8 else f"no, up to {largest:.4f}"),
        ("λ chosen", int(CHOSEN), int(means.idxmin()[1])),
        ("from λ = 1 to 4 errors fall", "yes", "yes" if falls else "no"),
        ("from λ = 4 to 6 errors rise", "yes", "yes" if rises else "no"),
    ]
    why = dict.fromkeys([row[0] for row in rows[:2]], "its data and its machine are not named")
    why[rows[2][0]] = "ours by cross-validation, its by test errors"
    why |= dict.fromkeys([row[0] for row in rows[3:]], "ours cross-validated, best d for each λ")
    return compared(rows, why)


def main() -> None:
    """Run the study."""
    here = setting("als_sweep", __doc__ or "", default_data)
    ranks, sweeps, validated, num_folds = ((1, 5), 4, 4, 3) if here.smoke else (D, 400, 30, FOLDS)
    about = {
        "d": ranks,
        "l2": L2,
        "per_rating": PER_RATING,
        "folds": num_folds,
        "sweeps": sweeps,
        "validated": validated,
    }
    manifest = here.begin(about, SEED)
    train, test = splits.random(here.data, (0.9, 0.1), SEED)

    grid, seconds = cells(train, test, ranks, sweeps)
    here.table("grid", grid)
    output.write_json(here.out / "q3.json", grid[["d", "lambda_reg", *METRICS]].to_dict("records"))
    here.figure("panel", plot.facets(grid, METRICS, "d", "lambda_reg"))
    here.figure("chosen", plot.facets(grid[grid["lambda_reg"] == CHOSEN], METRICS, "d", "lambda_reg"))
    results: dict[str, Any] = about | {"grid": (grid, seconds)}
    for name, nu, l2 in (("folds", 0.0, L2), ("folds_per_rating", 1.0, PER_RATING + L2)):
        results[name] = folds(train, ranks, nu, l2, validated, num_folds)
        here.table(name, results[name])
        here.figure(name, plot.heat_map(results[name], "valid_loss", "rank", "l2"))
    results["differences"] = against_chosen(results["folds"])
    here.table("differences", results["differences"])
    results["document"] = against_document(grid, seconds, _means(results["folds"]))
    here.table("document", results["document"])
    here.finish(manifest, in_words(here, results, (len(train), len(test))))


if __name__ == "__main__":
    main()
