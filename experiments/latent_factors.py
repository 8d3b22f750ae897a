"""Document 003: gradient descent and ALS on planted ratings, its figures, and the challenges that it leaves open.

    python -m experiments.latent_factors [--out FOLDER] [--smoke]

1. Do the document's variants give its errors, over 20 seeds of the same settings?
2. Its SGD and its ALS minimize different objectives. What does a fair comparison say, each λ chosen on validation?
3. The challenges: Adam against momentum, early stopping, the rank with and without enough penalty; and learning rates
   of the biases.
4. What does the objective look like around a solution, and how do solvers walk there?

Writes tables (CSV), figures and summary.md; float32, but the Hessian in float64. The document monitors test errors, so
question 1 does; elsewhere a sixth of the training ratings validates, and test is read once for what was chosen.
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
from jaxmf.output import markdown
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
    """Gradient descent with momentum."""
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
    """The document's numbers for gradient descent: λ‖·‖² beside the *mean* error at every step is λ·|Ω| in L."""
    return Hyper(l2 * len(ratings), LAMBDA_BIAS * len(ratings), 0.0, learning_rate, init_scale=0.1)


@cache
def clipped(model: Model) -> Callable[[Params, Ratings], jax.Array]:
    """RMSE of predictions clipped to the scale, which the document prints throughout."""

    def rmse(params: Params, ratings: Ratings) -> jax.Array:
        predicted = jnp.clip(model.predict(params, ratings), *CLIP)
        return jnp.sqrt(jnp.sum(ratings.weight * (ratings.value - predicted) ** 2) / jnp.sum(ratings.weight))

    return rmse


def runs(
    model: Model, solver: Solver, train: Dataset, valid: Dataset, epochs: int, hyper: Hyper, grid: Any, **options: Any
) -> Sweep:
    """A sweep with the clipped RMSE of every epoch in its history, as `monitor`."""
    given = jax.random.key(SEED), model, solver, train, valid
    return jaxmf.sweep(*given, grid=grid, hyper=hyper, epochs=epochs, monitor=clipped(model), **options)


def variants(train: Dataset, test: Dataset, num_seeds: int, share: float) -> pd.DataFrame:
    """The document's five fits: every epoch of every seed."""
    exact = Hyper(LAMBDA, reg_exponent=0.0, init_scale=0.1)
    ways: dict[str, tuple[Model, Solver, Hyper, int]] = {
        "SGD, batch 1": (PLAIN, ONE, penalized(train, 0.005), 150),
        "minibatch, 32": (PLAIN, BATCH, penalized(train, 0.02), 150),
        "momentum, 32": (PLAIN, MOMENTUM, penalized(train, 0.02), 150),
        "ALS": (PLAIN, ALS, exact, 50),
        "biased, 32": (BIASED, BATCH, penalized(train, 0.01), 150),
    }
    found = []
    for name, (model, solver, hyper, epochs) in tqdm(ways.items(), desc="the document's fits"):
        sweep = runs(model, solver, train, test, max(2, int(share * epochs)), hyper, {"seed": range(num_seeds)})
        found.append(sweep.history.assign(variant=name, model=model.name, dtype=sweep.to_frame()["dtype"][0]))
    return pd.concat(found, ignore_index=True)


def loop(train: Dataset, test: Dataset, seed: int, rate: float, l2: float, size: int, epochs: int, bias: bool) -> float:
    """The document's own loop, in NumPy: the least clipped test RMSE of its epochs with biases, else the last."""
    random = np.random.default_rng(seed)
    mean = float(train.rating.mean()) if bias else 0.0
    shapes = {"b": (train.num_users, 1), "c": (train.num_items, 1)}
    theta = {name: np.zeros(shape) for name, shape in shapes.items()}
    theta |= {name: random.normal(0, 0.1, (shape[0], RANK)) for name, shape in zip("PQ", shapes.values(), strict=True)}
    penalty = {"P": l2, "Q": l2, "b": LAMBDA_BIAS, "c": LAMBDA_BIAS}

    def predict(u: np.ndarray, i: np.ndarray) -> np.ndarray:
        return mean + theta["b"][u, 0] + theta["c"][i, 0] + (theta["P"][u] * theta["Q"][i]).sum(axis=1)

    errors = []
    for _ in range(epochs):
        order = random.permutation(len(train))
        for begin in range(0, len(order), size):
            rows = order[begin : begin + size]
            u, i = train.user[rows], train.item[rows]
            slope = (-2 * (train.rating[rows] - predict(u, i)) / len(rows))[:, None]
            pulls = [("P", u, slope * theta["Q"][i]), ("Q", i, slope * theta["P"][u])]
            pulls += [("b", u, slope), ("c", i, slope)] if bias else []
            for name in theta:
                theta[name] *= 1 - 2 * rate * penalty[name]
            for name, row, pull in pulls:
                np.add.at(theta[name], row, -rate * pull)
        error = test.rating - np.clip(predict(test.user, test.item), *CLIP)
        errors.append(float(np.sqrt(np.mean(error**2))))
    return min(errors) if bias else errors[-1]


def lambdas(train: Dataset, test: Dataset, num_seeds: int, epochs: int) -> pd.DataFrame:
    """The document's λ sweep of biased factorization, each fit with the least test RMSE of its epochs, as there, and
    with the RMSE that is left when its factors are taken away.
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
            name: evaluate.rating(BIASED, own, test, CLIP)["rmse"]
            for name, own in (("last", params), ("last, factors taken away", params._replace(trained=bare)))
        }
        rows.append({"lambda": point["l2"] / len(train), "seed": point["seed"], "least": least[member], **errors})
    return pd.DataFrame(rows)


def objectives(train: Dataset, test: Dataset, ways: Ways, num_seeds: int, share: float) -> pd.DataFrame:
    """Both objectives of the document by every solver: what is reached, and the test RMSE."""
    ways = {"SGD, batch 1": (ONE, 0.005)} | ways
    rows = []
    for whose, l2 in (("its SGD's", LAMBDA * len(train)), ("its ALS's", LAMBDA)):
        for name, (solver, rate) in ways.items():
            hyper = Hyper(l2, reg_exponent=0.0, learning_rate=rate, init_scale=0.1)
            epochs = max(2, int(share * (50 if solver is ALS else 150)))
            sweep = runs(PLAIN, solver, train, test, epochs, hyper, {"seed": range(num_seeds)})
            last = sweep.to_frame()
            rows.append(
                pd.DataFrame(
                    {"objective of": whose, "l2": l2, "solver": name, "seed": last["seed"], "epochs": epochs}
                ).assign(objective=last["objective"], test_rmse=last["monitor"], dtype=last["dtype"])
            )
    return pd.concat(rows, ignore_index=True)


def validated(
    train: Dataset, test: Dataset, ways: Ways, num_seeds: int, epochs: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every solver with λ of its own and early stopping after ten epochs, by validation; test read once per seed."""
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
                fixed = sweep.history[sweep.history["member"] == member]
                row = {"model": model.name, "solver": name, "l2": best, "seed": table["seed"][member]}
                row |= {"best_epoch": table["epoch"][member], "epochs": len(fixed), "seconds": table["seconds"][member]}
                rows.append(
                    row | {"valid_rmse": table["monitor"][member], "test_rmse": error, "dtype": table["dtype"][member]}
                )
    return pd.concat(searched, ignore_index=True), pd.DataFrame(rows)


def ranks(
    train: Dataset, test: Dataset, num_seeds: int, epochs: int, patiences: tuple[int | None, ...]
) -> pd.DataFrame:
    """Biased factorization by Adam, every rank with little and with enough penalty, with and without early stopping."""
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
            known = {"rank": row["rank"], "l2": row["l2"], "seed": row["seed"], "epochs": row["epochs"]}
            rows.append(known | {"early stopping": patience is not None} | errors)
    return pd.DataFrame(rows)


def bias_rates(train: Dataset, test: Dataset, num_seeds: int, epochs: int) -> pd.DataFrame:
    """The document's biased fit with other learning rates for the biases; the last epoch."""
    grid = {"learning_rate_bias": (0.002, 0.005, 0.01, 0.05, 0.2), "seed": range(num_seeds)}
    table = runs(BIASED, BATCH, train, test, epochs, penalized(train, 0.01), grid, keep="none").to_frame()
    return table[["learning_rate_bias", "seed", "status", "train_loss", "monitor", "dtype"]]


def slices(
    train: Dataset, ways: Ways, sweeps: int, size: int, epochs: int
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame, np.ndarray]:
    """The objective of the document's ALS in two planes through its solution, the paths of solvers that start in the
    second plane, as coordinates there, and the Hessian's eigenvalues.

    The document's plane moves users along two random orthonormal directions; the other one moves all parameters along
    the Hessian's two leading eigenvectors.
    """
    hyper = Hyper(LAMBDA, reg_exponent=0.0, init_scale=0.1)
    with jax.enable_x64(True):
        ratings = to_float64(train.ratings)
        exact = solvers.als(tol=1e-10)
        fit = jaxmf.fit(jax.random.key(SEED), PLAIN, exact, ratings, hyper=hyper, epochs=sweeps, track=False)
        center, unravel = ravel_pytree(fit.params.trained)
        value = jax.jit(lambda flat: models.objective(PLAIN, Params(unravel(flat)), ratings, hyper))
        eigenvalues, vectors = jnp.linalg.eigh(jax.jit(jax.hessian(value))(center))
        random = np.random.default_rng(SEED).standard_normal((2, len(center)))
        users, _ = ravel_pytree(fit.params.trained._replace(item=jax.tree.map(jnp.zeros_like, fit.params.trained.item)))
        random[:, np.asarray(users) == 0] = 0
        planes = {"random": np.linalg.qr(random.T)[0].T, "hessian": np.asarray(vectors.T[:-3:-1])}
        tables = {}
        for name, plane in planes.items():
            steps = np.linspace(-2, 2, size)
            a, b = (each.ravel() for each in np.meshgrid(steps, steps))
            points = center + a[:, None] * plane[0] + b[:, None] * plane[1]
            tables[name] = pd.DataFrame({"a": a, "b": b, "objective": jax.lax.map(value, points)})
        plane = planes["hessian"]
        begin = Params(unravel(center + 1.5 * plane[0] + 1.5 * plane[1]))
        away = PLAIN._replace(init=lambda key, ratings, hyper: begin)
        paths = [pd.DataFrame({"solver": list(ways), "epoch": 0, "a": 1.5, "b": 1.5})]
        for name, (solver, rate) in ways.items():
            found, own = None, hyper._replace(learning_rate=rate)
            for epoch in range(1, epochs + 1):
                found = jaxmf.fit(
                    jax.random.key(SEED), away, solver, ratings, hyper=own, epochs=1, track=False, resume=found
                )
                flat = ravel_pytree(found.params.trained)[0] - center
                place = {"solver": name, "epoch": epoch, "a": flat @ plane[0], "b": flat @ plane[1]}
                paths.append(pd.DataFrame([place]).astype({"a": float, "b": float}))
    return tables, pd.concat(paths, ignore_index=True), np.asarray(eigenvalues)


def checked_gradient() -> tuple[float, float]:
    """∂L/∂U[0, 0] that the document checks, of 5 × 5 ratings, and the relative error of its difference quotient."""
    *_, generator = datasets.planted_draws(SEED_DATA)
    train, _ = datasets.planted(SEED_DATA)
    block = train.take((train.user < 5) & (train.item < 5))
    hyper, model = Hyper(0.1, reg_exponent=0.0), models.mf(3, None)
    with jax.enable_x64(True):
        ratings = replace(block.ratings, num_users=5, num_items=5)
        U, V = (jnp.asarray(generator.normal(0, 0.5, (5, 3))) for _ in range(2))

        def value(first: jax.Array) -> jax.Array:
            rows = Rows({"factors": U.at[0, 0].set(first)}, {"factors": V})  # noqa: PD008
            return models.objective(model, Params(rows), ratings, hyper)

        slope = float(jax.grad(value)(U[0, 0]))
        quotient = float(value(U[0, 0] + 1e-5) - value(U[0, 0] - 1e-5)) / 2e-5
    return slope, abs(slope - quotient) / abs(quotient)


def against_document(
    train: Dataset, test: Dataset, history: pd.DataFrame, swept: pd.DataFrame, share: float
) -> pd.DataFrame:
    """Each number of the document beside the spread of ours, and of its own loop where it lies outside of ours."""
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
    ways = {f"least test RMSE, biased, λ = {value:g}": (0.01, value, 32, 20, True) for value in SWEPT}
    ways["test RMSE, SGD, batch 1"] = (0.005, LAMBDA, 1, 150, False)
    for row in tqdm(table.index[table["within"] == "no"], desc="the document's loop"):
        if table["figure"][row] in ways:
            rate, l2, size, epochs, bias = ways[table["figure"][row]]
            own = [loop(train, test, seed, rate, l2, size, max(1, int(share * epochs)), bias) for seed in range(5)]
            table.loc[row, "why"] = (
                f"one run by chance: the document's own loop, in NumPy, gives {min(own):.4f} to {max(own):.4f} in 5"
            )
    return table


def in_words(here: Setting, found: dict[str, Any]) -> list[str]:
    """The paragraphs of summary.md; every number in them is in a table beside it."""
    document, swept, eigenvalues = found["document"], found["lambdas"], found["eigenvalues"]
    fair = spread(found["objectives"], ["objective of", "l2", "solver"], ["objective", "test_rmse"])
    chosen = spread(found["validated"], ["model", "solver", "l2"], ["best_epoch", "epochs", "valid_rmse", "test_rmse"])
    by_rank = spread(found["ranks"], ["early stopping", "l2", "rank"], ["train_rmse", "valid_rmse", "test_rmse"])
    rates = spread(found["bias_rates"], ["learning_rate_bias"], ["train_loss", "monitor"])
    factors = swept.groupby("lambda")[["least", "last", "last, factors taken away"]].mean().reset_index()
    lost = (factors["last, factors taken away"] - factors["last"]).abs().max()
    best = chosen.loc[chosen["valid_rmse"].idxmin()]
    fits = document.dropna(subset="seeds")
    within = int((fits["within"] == "yes").sum())
    return [
        "# Latent factors by gradients",
        f"Planted ratings of rank {RANK}: {len(here.data):,} train and {found['num_test']:,} test. RMSE of predictions "
        f"clipped to {CLIP[0]:g} … {CLIP[1]:g}, float32, {found['num_seeds']} seeds for the document's figures, "
        f"{found['few_seeds']} elsewhere; intervals are 95 % t intervals over seeds.",
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
    num_seeds, few, share, size = (2, 2, 0.03, 6) if here.smoke else (20, 10, 1.0, 30)
    manifest = here.begin({"seeds": num_seeds, "few_seeds": few, "share_of_epochs": share, "grid": GRID}, SEED)
    found: dict[str, Any] = {"num_seeds": num_seeds, "few_seeds": few, "num_test": len(test)}
    history = variants(train, test, num_seeds, share)
    found["lambdas"] = lambdas(train, test, num_seeds, int(100 * share))
    ways = {name: WAYS[name] for name in ("minibatch, 32", "ALS")} if here.smoke else WAYS
    found["objectives"] = objectives(train, test, ways, few, share)
    found["search"], found["validated"] = validated(train, test, ways, few, int(300 * share))
    found["ranks"] = ranks(train, test, few, int(150 * share), (10,) if here.smoke else (None, 10))
    found["bias_rates"] = bias_rates(train, test, few, int(150 * share))
    planes, paths, found["eigenvalues"] = slices(train, ways, int(50_000 * share), size, max(2, int(30 * share)))
    found["document"] = against_document(train, test, history, found["lambdas"], share)

    # One seed of each variant; the rest is in its last epoch.
    own = history[history["seed"] == 0].assign(solver=lambda table: table["variant"], valid_rmse=lambda t: t["monitor"])
    last = history[history["epoch"] == history.groupby("variant")["epoch"].transform("max")]
    here.table("variants", last.drop(columns=["valid_loss", "valid_rmse", "valid_mae"]))
    here.table("convergence", own.drop(columns="variant"))
    for name in ("lambdas", "objectives", "search", "validated", "ranks", "bias_rates", "document"):
        here.table(name, found[name])
    here.table("paths", paths)
    here.table("landscape", pd.concat([table.assign(plane=name) for name, table in planes.items()]))
    here.table("eigenvalues", pd.DataFrame({"eigenvalue": found["eigenvalues"]}))
    damped = models.damped_bias()
    baseline = evaluate.rating(damped, damped.init(None, train.ratings, Hyper()), test, CLIP)["rmse"]
    here.figure("convergence", plot.convergence(own, baseline))
    here.figure("generalization", plot.generalization(own))
    by_lambda = found["lambdas"].rename(columns={"lambda": "l2", "last": "last epoch", "least": "least of all epochs"})
    here.figure(
        "lambdas", plot.panel(by_lambda, ("least of all epochs", "last epoch", "last, factors taken away"), "l2")
    )
    by_rank = found["ranks"].assign(
        setting=lambda t: (
            "λ = " + t["l2"].map("{:g}".format) + t["early stopping"].map({True: ", early stop", False: ""})
        )
    )
    here.figure("ranks", plot.panel(by_rank, ("train_rmse", "test_rmse"), "rank", "l2"))
    here.figure("landscape", plot.landscape(planes, paths))
    here.finish(manifest, in_words(here, found))


if __name__ == "__main__":
    main()
