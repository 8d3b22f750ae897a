"""Document 003: gradient descent and ALS on planted ratings, its figures, and the challenges that it leaves open.

    python -m experiments.latent_factors [--out FOLDER] [--smoke]

1. Do the document's variants reproduce its errors, over 20 seeds of the same settings?
2. Its SGD and its ALS minimize different objectives. What does a fair comparison say, with each λ chosen on validation?
3. The challenges: Adam against momentum, early stopping, the rank with and without enough penalty; and learning rates
   of the biases.
4. What does the objective look like around a solution, and which paths do solvers take there?

Writes tables (CSV), figures and summary.md; float32, but the Hessian in float64. The document monitors test errors, and
so does question 1; elsewhere a sixth of the training ratings is for validation, and test is used once, for the chosen
settings.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jax.flatten_util import ravel_pytree
from tqdm import tqdm

import jaxmf
from experiments.setting import Setting, compared, setting, shown, spread
from jaxmf import Hyper, Model, Params, Rows, evaluate, models, plot, solvers, splits
from jaxmf.data import Dataset, Ratings, datasets
from jaxmf.data.ratings import to_float64
from jaxmf.files.output import markdown
from jaxmf.solvers import Solver
from jaxmf.sweeps import Sweep

RANK, CLIP, SEED, SEED_DATA = 4, (1.0, 5.0), 0, 42
PLAIN, BIASED = models.mf(RANK, None), models.biased_mf(RANK)
LAMBDA, LAMBDA_BIAS = 0.01, 0.001
PRINTED = {"SGD, batch 1": 1.0551, "minibatch, 32": 1.3128, "momentum, 32": 1.0588, "ALS": 0.9943, "biased, 32": 0.4592}
SWEPT = {0.001: 0.4398, 0.005: 0.4419, 0.01: 0.4409, 0.05: 0.4392, 0.1: 0.4409, 0.5: 0.4385, 1.0: 0.4396}
Ways = dict[str, tuple[Solver, float]]
GRID = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
RANKS = (1, 2, 4, 8, 16)


def heavy_ball(hyper: Hyper) -> optax.GradientTransformation:
    """Return gradient descent with momentum."""
    return optax.sgd(hyper.learning_rate, momentum=hyper.momentum)


ONE, BATCH = solvers.minibatch(optax.sgd, 1), solvers.minibatch(optax.sgd, 32)
MOMENTUM, ADAM, ALS = solvers.minibatch(heavy_ball, 32), solvers.minibatch(optax.adam, 32), solvers.als()
WAYS: Ways = {
    "minibatch, 32": (BATCH, 0.02),
    "momentum, 32": (MOMENTUM, 0.02),
    "Adam, 32": (ADAM, 0.02),
    "ALS": (ALS, 1.0),
}


def penalized(ratings: Dataset, learning_rate: float, l2: float = LAMBDA) -> Hyper:
    """Return the document's hyperparameters: its λ‖·‖² beside the *mean* error at every step is λ·|Ω| in L."""
    return Hyper(l2 * len(ratings), LAMBDA_BIAS * len(ratings), 0.0, learning_rate, init_scale=0.1)


@cache
def clipped(model: Model) -> Callable[[Params, Ratings], jax.Array]:
    """Return the RMSE function of predictions clipped to the scale, which the document prints throughout."""

    def rmse(params: Params, ratings: Ratings) -> jax.Array:
        predicted = jnp.clip(model.predict(params, ratings), *CLIP)
        return jnp.sqrt(jnp.sum(ratings.weight * (ratings.value - predicted) ** 2) / jnp.sum(ratings.weight))

    return rmse


def runs(
    model: Model, solver: Solver, train: Dataset, valid: Dataset, epochs: int, hyper: Hyper, grid: Any, **options: Any
) -> Sweep:
    """Run a sweep with the clipped RMSE of every epoch in its history, as `monitor`."""
    problem = jax.random.key(SEED), model, solver, train, valid
    return jaxmf.sweep(*problem, grid=grid, hyper=hyper, epochs=epochs, monitor=clipped(model), **options)


def variants(train: Dataset, test: Dataset, num_seeds: int, share: float) -> pd.DataFrame:
    """Run the document's five fits; return every epoch of every seed."""
    exact = Hyper(LAMBDA, reg_exponent=0.0, init_scale=0.1)
    ways: dict[str, tuple[Model, Solver, Hyper, int]] = {
        "SGD, batch 1": (PLAIN, ONE, penalized(train, 0.005), 150),
        "minibatch, 32": (PLAIN, BATCH, penalized(train, 0.02), 150),
        "momentum, 32": (PLAIN, MOMENTUM, penalized(train, 0.02), 150),
        "ALS": (PLAIN, ALS, exact, 50),
        "biased, 32": (BIASED, BATCH, penalized(train, 0.01), 150),
    }
    histories = []
    for name, (model, solver, hyper, epochs) in tqdm(ways.items(), desc="the document's fits"):
        sweep = runs(model, solver, train, test, max(2, int(share * epochs)), hyper, {"seed": range(num_seeds)})
        histories.append(sweep.history.assign(variant=name, model=model.name, dtype=sweep.to_frame()["dtype"][0]))
    return pd.concat(histories, ignore_index=True)


def loop(train: Dataset, test: Dataset, seed: int, rate: float, l2: float, size: int, epochs: int, bias: bool) -> float:
    """Run the document's loop in NumPy; return its clipped test RMSE: the lowest with biases, else the last."""
    random = np.random.default_rng(seed)
    mean = float(train.rating.mean()) if bias else 0.0
    shapes = {"b": (train.num_users, 1), "c": (train.num_items, 1)}
    theta = {name: np.zeros(shape) for name, shape in shapes.items()}
    theta |= {name: random.normal(0, 0.1, (shape[0], RANK)) for name, shape in zip("PQ", shapes.values(), strict=True)}
    penalty = {"P": l2, "Q": l2, "b": LAMBDA_BIAS, "c": LAMBDA_BIAS}

    def predict(u: np.ndarray, i: np.ndarray) -> np.ndarray:
        predicted: np.ndarray = mean + theta["b"][u, 0] + theta["c"][i, 0] + (theta["P"][u] * theta["Q"][i]).sum(axis=1)
        return predicted

    errors = []
    for _ in range(epochs):
        order = random.permutation(len(train))
        for begin in range(0, len(order), size):
            batch = order[begin : begin + size]
            u, i = train.user[batch], train.item[batch]
            slope = (-2 * (train.rating[batch] - predict(u, i)) / len(batch))[:, None]
            gradients = [("P", u, slope * theta["Q"][i]), ("Q", i, slope * theta["P"][u])]
            gradients += [("b", u, slope), ("c", i, slope)] if bias else []
            for name in theta:
                theta[name] *= 1 - 2 * rate * penalty[name]
            for name, row, gradient in gradients:
                np.add.at(theta[name], row, -rate * gradient)
        error = test.rating - np.clip(predict(test.user, test.item), *CLIP)
        errors.append(float(np.sqrt(np.mean(error**2))))
    return min(errors) if bias else errors[-1]


def lambdas(train: Dataset, test: Dataset, num_seeds: int, epochs: int) -> pd.DataFrame:
    """Run the document's λ sweep of biased factorization; return each fit's lowest test RMSE of all epochs, as the
    document does, and its RMSE at the end, with its factors and without them.
    """
    points = [{"l2": value * len(train), "seed": seed} for value in SWEPT for seed in range(num_seeds)]
    sweep = runs(BIASED, BATCH, train, test, epochs, penalized(train, 0.01), points, keep="all")
    least = sweep.history.groupby("member")["monitor"].min()
    rows = []
    for member, point in enumerate(points):
        params = sweep.params(member)
        bare = jax.tree_util.tree_map_with_path(
            lambda path, leaf: 0 * leaf if path[-1].key == "factors" else leaf, params.trained
        )
        errors = {
            name: evaluate.rating(BIASED, evaluated, test, CLIP)["rmse"]
            for name, evaluated in (("last", params), ("last, factors taken away", params._replace(trained=bare)))
        }
        rows.append({"lambda": point["l2"] / len(train), "seed": point["seed"], "least": least[member], **errors})
    return pd.DataFrame(rows)


def objectives(train: Dataset, test: Dataset, ways: Ways, num_seeds: int, share: float) -> pd.DataFrame:
    """Minimize both objectives of the document by every solver; return the values reached and the test RMSE."""
    ways = {"SGD, batch 1": (ONE, 0.005)} | ways
    rows = []
    for source, l2 in (("its SGD's", LAMBDA * len(train)), ("its ALS's", LAMBDA)):
        for name, (solver, rate) in ways.items():
            hyper = Hyper(l2, reg_exponent=0.0, learning_rate=rate, init_scale=0.1)
            epochs = max(2, int(share * (50 if solver is ALS else 150)))
            sweep = runs(PLAIN, solver, train, test, epochs, hyper, {"seed": range(num_seeds)})
            last = sweep.to_frame()
            rows.append(
                pd.DataFrame(
                    {"objective of": source, "l2": l2, "solver": name, "seed": last["seed"], "epochs": epochs}
                ).assign(objective=last["objective"], test_rmse=last["monitor"], dtype=last["dtype"])
            )
    return pd.concat(rows, ignore_index=True)


def validated(
    train: Dataset, test: Dataset, ways: Ways, num_seeds: int, epochs: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Choose each solver's λ and epoch on validation, stopping after ten epochs without gain; test once per seed."""
    part, valid = splits.random(train, (5 / 6, 1 / 6), SEED)
    searched, rows = [], []
    for model in (PLAIN, BIASED):
        for name, (solver, rate) in ways.items():
            hyper = Hyper(reg_exponent=0.0, learning_rate=rate, init_scale=0.1)
            grid = {"l2": GRID, "seed": range(num_seeds)}
            sweep = runs(model, solver, part, valid, epochs, hyper, grid, patience=10, keep="all")
            table = sweep.to_frame().assign(variant=name)
            best = table.groupby("l2")["monitor"].mean().idxmin()
            searched.append(table)
            for member in table.index[table["l2"] == best]:
                error = evaluate.rating(model, sweep.params(member), test, CLIP)["rmse"]
                epochs_run = sweep.history[sweep.history["member"] == member]
                row = {"model": model.name, "solver": name, "l2": best, "seed": table["seed"][member]}
                row |= {"best_epoch": table["epoch"][member], "epochs": len(epochs_run)}
                row |= {"seconds": table["seconds"][member]}
                rows.append(
                    row | {"valid_rmse": table["monitor"][member], "test_rmse": error, "dtype": table["dtype"][member]}
                )
    return pd.concat(searched, ignore_index=True), pd.DataFrame(rows)


def ranks(
    train: Dataset, test: Dataset, num_seeds: int, epochs: int, patiences: tuple[int | None, ...]
) -> pd.DataFrame:
    """Fit biased factorization by Adam: every rank, little and enough penalty, with and without early stopping."""
    part, valid = splits.random(train, (5 / 6, 1 / 6), SEED)
    wide = models.biased_mf(max(RANKS))
    rows = []
    for patience in patiences:
        grid = {"rank": RANKS, "l2": (GRID[0], 3.0), "seed": range(num_seeds)}
        hyper = Hyper(reg_exponent=0.0, learning_rate=0.02, init_scale=0.1)
        sweep = runs(wide, ADAM, part, valid, epochs, hyper, grid, patience=patience, keep="all", pad=True)
        for member, row in sweep.to_frame().iterrows():
            model, params = sweep.model(member), sweep.params(member)
            errors = {
                f"{name}_rmse": evaluate.rating(model, params, ratings, CLIP)["rmse"]
                for name, ratings in (("train", part), ("valid", valid), ("test", test))
            }
            member_row = {"rank": row["rank"], "l2": row["l2"], "seed": row["seed"], "epochs": row["epochs"]}
            rows.append(member_row | {"early stopping": patience is not None} | errors)
    return pd.DataFrame(rows)


def bias_rates(train: Dataset, test: Dataset, num_seeds: int, epochs: int) -> pd.DataFrame:
    """Run the document's biased fit with other learning rates for the biases; return the last epoch."""
    grid = {"learning_rate_bias": (0.002, 0.005, 0.01, 0.05, 0.2), "seed": range(num_seeds)}
    table = runs(BIASED, BATCH, train, test, epochs, penalized(train, 0.01), grid, keep="none").to_frame()
    return table[["learning_rate_bias", "seed", "status", "train_loss", "monitor", "dtype"]]


def slices(
    train: Dataset, ways: Ways, sweeps: int, size: int, epochs: int
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame, np.ndarray]:
    """Evaluate the objective of the document's ALS in two planes through its solution; also return the paths of solvers
    that start in the second plane, in its coordinates, and the Hessian's eigenvalues.

    The document's plane moves users along two random orthonormal directions; the second one moves all parameters along
    the Hessian's two leading eigenvectors.
    """
    hyper = Hyper(LAMBDA, reg_exponent=0.0, init_scale=0.1)
    with jax.enable_x64(True):
        ratings = to_float64(train.ratings)
        exact = solvers.als(tol=1e-10)
        fit = jaxmf.fit(jax.random.key(SEED), PLAIN, exact, ratings, hyper=hyper, epochs=sweeps, track=False)
        solution = fit.params.trained
        center, unravel = ravel_pytree(solution)
        value = jax.jit(lambda flat: models.objective(PLAIN, Params(unravel(flat)), ratings, hyper))
        eigenvalues, vectors = jnp.linalg.eigh(jax.jit(jax.hessian(value))(center))
        random = np.random.default_rng(SEED).standard_normal((2, len(center)))
        users, _ = ravel_pytree(solution._replace(item=jax.tree.map(jnp.zeros_like, solution.item)))
        random[:, np.asarray(users) == 0] = 0
        planes = {"random": np.linalg.qr(random.T)[0].T, "hessian": np.asarray(vectors.T[:-3:-1])}
        tables = {}
        for name, plane in planes.items():
            steps = np.linspace(-2, 2, size)
            a, b = (coordinate.ravel() for coordinate in np.meshgrid(steps, steps))
            points = center + a[:, None] * plane[0] + b[:, None] * plane[1]
            tables[name] = pd.DataFrame({"a": a, "b": b, "objective": jax.lax.map(value, points)})
        plane = planes["hessian"]
        begin = Params(unravel(center + 1.5 * plane[0] + 1.5 * plane[1]))
        displaced = PLAIN._replace(init=lambda key, ratings, hyper: begin)
        paths = [pd.DataFrame({"solver": list(ways), "epoch": 0, "a": 1.5, "b": 1.5})]
        for name, (solver, rate) in ways.items():
            resumed, tuned = None, hyper._replace(learning_rate=rate)
            for epoch in range(1, epochs + 1):
                resumed = jaxmf.fit(
                    jax.random.key(SEED), displaced, solver, ratings, hyper=tuned, epochs=1, track=False, resume=resumed
                )
                flat = ravel_pytree(resumed.params.trained)[0] - center
                point = {"solver": name, "epoch": epoch, "a": flat @ plane[0], "b": flat @ plane[1]}
                paths.append(pd.DataFrame([point]).astype({"a": float, "b": float}))
    return tables, pd.concat(paths, ignore_index=True), np.asarray(eigenvalues)


def checked_gradient() -> tuple[float, float]:
    """Return ∂L/∂U[0, 0] on 5 × 5 ratings, which the document checks, and the error of its difference quotient."""
    *_, generator = datasets.planted_draws(SEED_DATA)
    train, _ = datasets.planted(SEED_DATA)
    block = train.take((train.user < 5) & (train.item < 5))
    hyper, model = Hyper(0.1, reg_exponent=0.0), models.mf(3, None)
    with jax.enable_x64(True):
        ratings = replace(block.ratings, num_users=5, num_items=5)
        U, V = (jnp.asarray(generator.normal(0, 0.5, (5, 3))) for _ in range(2))

        def value(element: jax.Array) -> jax.Array:
            rows = Rows({"factors": U.at[0, 0].set(element)}, {"factors": V})  # noqa: PD008
            return models.objective(model, Params(rows), ratings, hyper)

        slope = float(jax.grad(value)(U[0, 0]))
        quotient = float(value(U[0, 0] + 1e-5) - value(U[0, 0] - 1e-5)) / 2e-5
    return slope, abs(slope - quotient) / abs(quotient)


def against_document(
    train: Dataset, test: Dataset, history: pd.DataFrame, swept: pd.DataFrame, share: float
) -> pd.DataFrame:
    """Compare the document's numbers with the range of ours; outside of it, also with the range of its own loop."""
    slope, error = checked_gradient()
    rows: list[tuple[str, Any, Any]] = [("training ratings", 952, len(train)), ("test ratings", 238, len(test))]
    rows += [("gradient at U[0, 0]", 2.93976684, slope)]
    rows += [("relative error of its difference quotient", "below 1e-9", "below 1e-9" if error < 1e-9 else error)]
    last = history[history["epoch"] == history.groupby("variant")["epoch"].transform("max")]
    for name, printed in PRINTED.items():
        rows.append((f"test RMSE, {name}", printed, last.loc[last["variant"] == name, "monitor"]))
    best = history[history["variant"] == "momentum, 32"].groupby("member")["monitor"].min()
    rows.append(("least test RMSE, momentum, 32", 1.0545, best))
    for value, printed in SWEPT.items():
        rows.append((f"least test RMSE, biased, λ = {value:g}", printed, swept.loc[swept["lambda"] == value, "least"]))
    table = compared(rows)
    settings = {f"least test RMSE, biased, λ = {value:g}": (0.01, value, 32, 20, True) for value in SWEPT}
    settings["test RMSE, SGD, batch 1"] = (0.005, LAMBDA, 1, 150, False)
    for row in tqdm(table.index[table["within"] == "no"], desc="the document's loop"):
        if table["figure"][row] in settings:
            rate, l2, size, epochs, bias = settings[table["figure"][row]]
            errors = [loop(train, test, seed, rate, l2, size, max(1, int(share * epochs)), bias) for seed in range(5)]
            table.loc[row, "why"] = (
                f"one run by chance: the document's own loop, in NumPy, gives {min(errors):.4f} to {max(errors):.4f} "
                "in 5"
            )
    return table


def in_words(here: Setting, results: dict[str, Any]) -> list[str]:
    """Return the paragraphs of summary.md; every number in them is also in a table beside it."""
    document, swept, eigenvalues = results["document"], results["lambdas"], results["eigenvalues"]
    fair = spread(results["objectives"], ["objective of", "l2", "solver"], ["objective", "test_rmse"])
    columns = ["best_epoch", "epochs", "valid_rmse", "test_rmse"]
    chosen = spread(results["validated"], ["model", "solver", "l2"], columns)
    by_rank = spread(results["ranks"], ["early stopping", "l2", "rank"], ["train_rmse", "valid_rmse", "test_rmse"])
    rates = spread(results["bias_rates"], ["learning_rate_bias"], ["train_loss", "monitor"])
    factors = swept.groupby("lambda")[["least", "last", "last, factors taken away"]].mean().reset_index()
    lost = (factors["last, factors taken away"] - factors["last"]).abs().max()
    best = chosen.loc[chosen["valid_rmse"].idxmin()]
    fits = document.dropna(subset="seeds")
    within = int((fits["within"] == "yes").sum())
    return [
        "# Latent factors by gradients",
        f"Planted ratings of rank {RANK}: {len(here.data):,} train and {results['num_test']:,} test. RMSE of "
        f"predictions clipped to {CLIP[0]:g} … {CLIP[1]:g}, float32, {results['num_seeds']} seeds for the document's "
        f"figures, {results['few_seeds']} elsewhere; intervals are 95 % t intervals over seeds.",
        f"- **{within} of {len(fits)} of the document's errors lie within the spread of our seeds.**\n"
        f"- Chosen on validation: {best['model']} by {best['solver']}, λ = {best['l2']:g}, with a test RMSE of "
        f"{best['test_rmse']:.4f} ({best['low']:.4f} to {best['high']:.4f}).\n"
        f"- In the document's biased fits the factors do nothing: without them the RMSE changes by {lost:.1e} at most, "
        "for any λ of its sweep, which is why that is flat. Beside the *mean* error its λ is one of "
        f"{LAMBDA * len(here.data):.2f} in the sum.",
        "## 1. The document's figures",
        markdown(shown(document)),
        "![Test RMSE by epoch](figures/convergence.png)",
        "![Training against test](figures/generalization.png)",
        "![Test RMSE by λ](figures/lambdas.png)",
        markdown(factors),
        "## 2. A fair comparison",
        "The document compares SGD on λ·|Ω| with ALS on λ. Both objectives, by every solver:",
        markdown(fair),
        "Each with its own λ and early stopping after ten epochs without improvement, both by validation. Without "
        "biases gradient descent leaves the saddle at 0 so slowly that this rule stops it there:",
        markdown(chosen),
        "## 3. The challenges",
        "Rank, by Adam; the planted rank is 4:",
        "![Errors by rank](figures/ranks.png)",
        markdown(by_rank),
        "Learning rates of the biases, where the factors have 0.01; the last epoch, on test, as in the document:",
        markdown(rates),
        "## 4. The landscape",
        f"The Hessian at ALS's solution has eigenvalues from {eigenvalues[0]:.2e} to {eigenvalues[-1]:.2e}; "
        f"{int((eigenvalues < 1e-6 * eigenvalues[-1]).sum())} of {len(eigenvalues)} are below a millionth of the "
        f"largest, and the objective does not change under the {RANK * (RANK - 1) // 2} rotations of the factors.",
        "![The objective in two planes](figures/landscape.png)",
    ]


def main() -> None:
    """Run the study."""
    here = setting("latent_factors", __doc__ or "", lambda: datasets.planted(SEED_DATA)[0])
    train, test = here.data, datasets.planted(SEED_DATA)[1]
    num_seeds, few_seeds, share, size = (2, 2, 0.03, 6) if here.smoke else (20, 10, 1.0, 30)
    manifest = here.begin({"seeds": num_seeds, "few_seeds": few_seeds, "share_of_epochs": share, "grid": GRID}, SEED)
    results: dict[str, Any] = {"num_seeds": num_seeds, "few_seeds": few_seeds, "num_test": len(test)}
    history = variants(train, test, num_seeds, share)
    results["lambdas"] = lambdas(train, test, num_seeds, int(100 * share))
    ways = {name: WAYS[name] for name in ("minibatch, 32", "ALS")} if here.smoke else WAYS
    results["objectives"] = objectives(train, test, ways, few_seeds, share)
    results["search"], results["validated"] = validated(train, test, ways, few_seeds, int(300 * share))
    results["ranks"] = ranks(train, test, few_seeds, int(150 * share), (10,) if here.smoke else (None, 10))
    results["bias_rates"] = bias_rates(train, test, few_seeds, int(150 * share))
    planes, paths, results["eigenvalues"] = slices(train, ways, int(50_000 * share), size, max(2, int(30 * share)))
    results["document"] = against_document(train, test, history, results["lambdas"], share)

    # The history of one seed of each variant, and the last epoch of all seeds.
    one_seed = history[history["seed"] == 0].assign(
        solver=lambda table: table["variant"], valid_rmse=lambda t: t["monitor"]
    )
    last = history[history["epoch"] == history.groupby("variant")["epoch"].transform("max")]
    here.table("variants", last.drop(columns=["valid_loss", "valid_rmse", "valid_mae"]))
    here.table("convergence", one_seed.drop(columns="variant"))
    for name in ("lambdas", "objectives", "search", "validated", "ranks", "bias_rates", "document"):
        here.table(name, results[name])
    here.table("paths", paths)
    here.table("landscape", pd.concat([table.assign(plane=name) for name, table in planes.items()]))
    here.table("eigenvalues", pd.DataFrame({"eigenvalue": results["eigenvalues"]}))
    damped = models.damped_bias()
    baseline = evaluate.rating(damped, damped.init(None, train.ratings, Hyper()), test, CLIP)["rmse"]
    here.figure("convergence", plot.convergence(one_seed, baseline))
    here.figure("generalization", plot.generalization(one_seed))
    labels = {"lambda": "l2", "last": "last epoch", "least": "least of all epochs"}
    by_lambda = results["lambdas"].rename(columns=labels)
    here.figure(
        "lambdas", plot.panel(by_lambda, ("least of all epochs", "last epoch", "last, factors taken away"), "l2")
    )
    by_rank = results["ranks"].assign(
        setting=lambda t: (
            "λ = " + t["l2"].map("{:g}".format) + t["early stopping"].map({True: ", early stop", False: ""})
        )
    )
    here.figure("ranks", plot.panel(by_rank, ("train_rmse", "test_rmse"), "rank", "l2"))
    here.figure("landscape", plot.landscape(planes, paths))
    here.finish(manifest, in_words(here, results))


if __name__ == "__main__":
    main()
