"""Document 000: per-sample SGD on MovieLens, with its settings, its searches, and the effects of its two bugs.

    python -m experiments.sgd_movielens [--data NAME] [--out FOLDER] [--smoke]

1. What errors does its model reach, over 20 seeds, if centered and aligned as it claims, and what with each bug?
2. What do its grid of 27 cells, which it gave up, and its Optuna search find?
3. What is recommended to a user?

The bugs: a user's mean is taken over all columns, with 0 for unrated ones, so that nothing is centered; and validation
and test number the items in order of their own appearance, so that their columns do not match those of training. Writes
tables (CSV), figures and summary.md; float32. Everything is chosen on validation; test is used once per seed.
"""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pandas as pd
from tqdm import tqdm

import jaxmf
from experiments.setting import Parts, Setting, by_time, compared, default_data, over_seeds, setting, shown
from jaxmf import Hyper, models, plot, recommend, search, solvers
from jaxmf.data import Dataset
from jaxmf.files.output import markdown

RANK, RATE, L2, EPOCHS, PATIENCE = 27, 0.004099151484173524, 0.00010453688227089353, 50, 5
GRID: dict[str, Any] = {"learning_rate": (0.001, 0.01, 0.1), "l2": (0.01, 0.1, 1.0), "rank": (10, 20, 50)}
SPACE: dict[str, Any] = {"learning_rate": (0.5e-5, 0.5e-2, "log"), "l2": (1e-4, 1e-1, "log"), "rank": (10, 50)}
# The document's update lr·(e·q − λ·p) is half of a gradient step, and its factors start at scale 1/rank.
HYPER = Hyper(L2, reg_exponent=1.0, learning_rate=RATE / 2, init_scale=1 / RANK)
SOLVER = solvers.sgd(clip_value=10.0)
SEED, TRIALS, SEARCH_EPOCHS = 0, 50, 20
USER = 1


def uncentered(parts: tuple[Dataset, ...]) -> tuple[Dataset, ...]:
    """Subtract what the document takes for a user's mean: the sum of ratings over the number of items in the part."""
    shifted = []
    for part in parts:
        total = np.bincount(part.user, part.rating, part.num_users)
        shifted.append(replace(part, rating=part.rating - (total / len(np.unique(part.item)))[part.user]))
    return tuple(shifted)


def misaligned(parts: tuple[Dataset, ...]) -> tuple[Dataset, ...]:
    """Give the i-th item of validation and of test the id of the i-th item of training, as the document does."""
    train, *held_out = parts
    columns = pd.unique(train.item)
    return train, *(replace(part, item=columns[pd.factorize(part.item)[0]].astype(np.int32)) for part in held_out)


def loop(parts: tuple[Dataset, ...], seed: int, epochs: int) -> dict[str, float]:
    """Run the document's loop in NumPy, with both bugs; return the test error at its lowest validation loss.

    It visits ratings user by user, in the same order in every epoch, updates V by the new U, and adds λ(‖U‖² + ‖V‖²) to
    the validation loss.
    """
    random = np.random.default_rng(seed)
    train, valid, test = ((part.user, part.item, part.rating) for part in misaligned(uncentered(parts)))
    U, V = (random.normal(0, 1 / RANK, (n, RANK)) for n in (parts[0].num_users, parts[0].num_items))
    order = np.lexsort((pd.factorize(train[1])[0], train[0]))
    ratings = list(zip(*(column[order].tolist() for column in train), strict=True))

    def mse(user: np.ndarray, item: np.ndarray, rating: np.ndarray) -> float:
        return float(np.mean((rating - (U[user] * V[item]).sum(axis=1)) ** 2))

    best: dict[str, float] = {"valid_loss": np.inf}
    for epoch in range(1, epochs + 1):
        for user, item, rating in tqdm(ratings, desc=f"the document's loop, epoch {epoch}", leave=False):
            error = rating - U[user] @ V[item]
            U[user] += RATE * (error * V[item] - L2 * U[user])
            V[item] += RATE * (error * U[user] - L2 * V[item])
            np.clip(U[user], -10, 10, out=U[user])
            np.clip(V[item], -10, 10, out=V[item])
        loss = mse(*valid) + L2 * float((U**2).sum() + (V[np.unique(train[1])] ** 2).sum())
        if loss < best["valid_loss"]:
            best = {"seed": seed, "epoch": epoch, "valid_loss": loss, "test_mse": mse(*test)}
        elif epoch - best["epoch"] >= PATIENCE:
            break
    return best


def with_bugs(parts: tuple[Dataset, ...], num_seeds: int, epochs: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Fit the document's settings with every combination of its bugs; return errors, and the history of one seed."""
    centered, plain = models.mf(RANK, "user"), models.mf(RANK, None)
    ways = {
        "none": (centered, parts),
        "own columns": (centered, misaligned(parts)),
        "mean over all columns": (plain, uncentered(parts)),
        "both": (plain, misaligned(uncentered(parts))),
    }
    tables, histories = [], []
    for name, (model, altered) in ways.items():
        table, runs = over_seeds(model, SOLVER, altered, HYPER, num_seeds, epochs, PATIENCE)
        tables.append(table.assign(bugs=name))
        histories.append(runs.history[runs.history["seed"] == 0].assign(bugs=name))
    return pd.concat(tables, ignore_index=True), pd.concat(histories, ignore_index=True)


def grid_search(parts: Parts, ranks: tuple[int, ...], epochs: int) -> pd.DataFrame:
    """Fit every cell of the document's grid, stopping by validation."""
    points = [
        {"rank": rank, "l2": l2, "learning_rate": rate / 2, "init_scale": 1 / rank}
        for rank in ranks
        for l2 in GRID["l2"]
        for rate in GRID["learning_rate"]
    ]
    problem = jax.random.key(SEED), models.mf(max(ranks), "user"), SOLVER, *parts[:2]
    runs = jaxmf.sweep(*problem, grid=points, epochs=epochs, patience=PATIENCE, keep="none", progress=True)
    return runs.to_frame().assign(document_rate=lambda table: 2 * table["learning_rate"])


def optuna_search(parts: Parts, trials: int, epochs: int) -> pd.DataFrame:
    """Search the document's ranges by TPE, in batches of eight."""
    problem = jax.random.key(SEED), models.mf(max(SPACE["rank"][:2]), "user"), SOLVER, *parts[:2]
    start = Hyper(init_scale=1 / RANK)
    searched = search.optuna(
        *problem, space=SPACE, trials=trials, epochs=epochs, hyper=start, patience=PATIENCE, keep="none"
    )
    return searched.runs.to_frame().assign(document_rate=lambda table: 2 * table["learning_rate"])


def in_words(here: Setting, results: dict[str, Any]) -> list[str]:
    """Return the paragraphs of summary.md; every number in them is also in a table beside it."""
    bugs = results["bugs"].groupby("bugs", sort=False)
    means = bugs[["best_epoch", "valid_mse", "test_mse", "test_rmse"]].mean()
    means = means.join(bugs["test_rmse"].agg(["min", "max"]).add_prefix("test_rmse, ")).reset_index()
    right, both = (means.set_index("bugs").loc[name] for name in ("none", "both"))
    best, chosen = results["best"], results["chosen"]
    columns = ["rank", "l2", "document_rate", "status", "epoch", "train_loss", "valid_loss"]
    return [
        "# Matrix factorization by per-sample SGD",
        f"{here.data.describe()['name']}, {len(here.data):,} ratings; split by each user's time into train / valid "
        f"/ test of {' / '.join(f'{size:,}' for size in results['sizes'])}. Plain factors of {RANK} columns on ratings "
        f"less their user's mean, numbers clipped to ±10, patience {PATIENCE}; {results['num_seeds']} seeds, float32.",
        f"- **With the document's settings the test RMSE is {right['test_rmse']:.4f}; with both of its bugs "
        f"{both['test_rmse']:.4f}, and it prints 1.3596.**\n"
        f"- Chosen on validation from its {len(results['grid'])} cells and {len(results['optuna'])} trials: rank "
        f"{best['rank']}, λ = {best['l2']:.2e}, its learning rate {best['document_rate']:.2e}; test RMSE "
        f"{chosen['test_rmse'].mean():.4f} ({chosen['test_rmse'].min():.4f} to {chosen['test_rmse'].max():.4f} over "
        "seeds).",
        "## 1. The document's settings, and its bugs",
        markdown(means),
        "![Validation MSE by epoch](figures/bugs.png)",
        "## 2. Its searches, without the bugs",
        f"The grid that it gave up, {results['grid_seconds']:.0f} s here (seconds of the fits, on one core each):",
        markdown(results["grid"][columns].sort_values("valid_loss").head(10)),
        "Optuna, the ten best trials:",
        markdown(results["optuna"][columns].sort_values("valid_loss").head(10)),
        "## 3. What user 1 is recommended",
        "Items that the user has rated in training are left out; predictions are not clipped to the scale.",
        markdown(results["top"]),
        "## The document's figures",
        markdown(shown(results["document"])),
    ]


def main() -> None:
    """Run the study."""
    here = setting("sgd_movielens", __doc__ or "", default_data)
    num_seeds, share = (2, 0.05) if here.smoke else (20, 1.0)
    ranks, trials = ((10,), 8) if here.smoke else (GRID["rank"], TRIALS)
    about = {"seeds": num_seeds, "rank": RANK, "l2": L2, "learning_rate": RATE, "grid": GRID, "space": SPACE}
    manifest = here.begin(about | {"trials": trials, "share_of_epochs": share}, SEED)
    parts = by_time(here.data)
    epochs, searched = max(2, int(share * EPOCHS)), max(2, int(share * SEARCH_EPOCHS))
    results: dict[str, Any] = {"sizes": [len(part) for part in parts], "num_seeds": num_seeds}
    results["bugs"], history = with_bugs(parts, num_seeds, epochs)
    results["grid"] = grid_search(parts, ranks, searched)
    results["grid_seconds"] = results["grid"]["seconds"].sum()
    results["optuna"] = optuna_search(parts, trials, searched)
    tried = pd.concat([results["grid"], results["optuna"]], ignore_index=True)
    results["best"] = tried.loc[tried["valid_loss"].idxmin()]
    best = results["best"]
    model = models.mf(int(best["rank"]), "user")
    hyper = Hyper(best["l2"], learning_rate=best["learning_rate"], init_scale=best["init_scale"])
    results["chosen"], runs = over_seeds(model, SOLVER, parts, hyper, num_seeds, epochs, PATIENCE)
    results["top"] = recommend.top_n(model, runs.params(0), parts[0], users=[parts[0].user_ids[USER - 1]], n=10)
    results["loop"] = pd.DataFrame([loop(parts, seed, epochs) for seed in range(1 if here.smoke else 3)])
    results["loop"]["test_rmse"] = np.sqrt(results["loop"]["test_mse"])
    both = results["bugs"][results["bugs"]["bugs"] == "both"]
    reason = "its own loop, in NumPy, which visits ratings user by user in one order, gives {:.4f} to {:.4f}"
    printed = {"training": 70312, "validation": 15102, "test": 15422}
    sizes = [(f"{part} ratings", n, ours) for (part, n), ours in zip(printed.items(), results["sizes"], strict=True)]
    rows = [
        ("test MSE, both bugs", 1.8485, both["test_mse"]),
        ("test RMSE, both bugs", 1.3596, both["test_rmse"]),
        ("best predicted rating of user 1", 5.85, results["top"]["score"].max()),
        ("least validation loss of 50 trials", 3.0988, results["optuna"]["valid_loss"].min()),
    ]
    low, high = results["loop"].min(), results["loop"].max()
    why = {
        rows[0][0]: reason.format(low["test_mse"], high["test_mse"]),
        rows[1][0]: reason.format(low["test_rmse"], high["test_rmse"]),
        rows[2][0]: "ours without the bugs",
        rows[3][0]: "ours without the bugs and without the penalty in the loss",
    }
    results["document"] = compared([*sizes, *rows], why)
    for name in ("bugs", "loop", "grid", "optuna", "chosen", "top", "document"):
        here.table(name, results[name])
    here.figure("bugs", plot.curves(history, "valid_loss", ["bugs"]))
    here.finish(manifest, in_words(here, results))


if __name__ == "__main__":
    main()
