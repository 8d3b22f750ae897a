"""How is a gradient verified? Every witness, its error against its step, and the mistakes that it lets through.

    python -m experiments.gradient_study [--data NAME] [--out FOLDER] [--smoke]

1. Are the built-in models' gradients and Hessians right, on the data and on random problems, without a false alarm?
2. How small can the error of a finite difference be, and at which step? What are its slopes?
3. Does ALS end where the gradient does? Do all solvers of one objective?
4. Which of ten planted mistakes does each method notice, and does it name the leaf?

Writes a table (CSV) per question, figures and summary.md; everything in float64 unless a table says float32.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from tqdm import tqdm

import jaxmf
from experiments.setting import Setting, setting
from jaxmf import Hyper, Model, models, output, plot, solvers, verify
from jaxmf.data import Dataset, content, splits
from jaxmf.data.ratings import to_float64

HYPER = Hyper(l2=0.05, l2_bias=0.02, reg_exponent=0.5, init_scale=0.5)
RANK = 4
SEED = 0
# Random problems: users, items, ratings.
SMALL = (13, 13, 120)
# Where solvers meet: few factors and enough penalty, so that there is one minimum to be found.
MEET = {"rank": 2, "hyper": Hyper(l2=0.1, init_scale=0.3)}


def own_data() -> Dataset:
    """Small enough to be shown, large enough that sums of ratings round."""
    return jaxmf.datasets.synthetic(num_users=200, num_items=150, num_ratings=5000, seed=SEED)


def built_in(data: Dataset) -> dict[str, Model]:
    """Every built-in model that is fitted."""
    return {
        "mf": models.mf(RANK),
        "mf, no mean": models.mf(RANK, None),
        "mf, users' means": models.mf(RANK, "user"),
        "biased_mf": models.biased_mf(RANK),
        "content_mf": models.content_mf(RANK, content.tfidf(data, components=8)),
        "damped_bias": models.damped_bias(),
    }


def start(model: Model, data: Dataset) -> Any:
    return model.init(jax.random.key(SEED), data.ratings, HYPER)


def witnesses(model: Model, *given: Any, whole: bool = True, **options: Any) -> dict[str, verify.GradientReport]:
    """Every check that needs no more than a model and a point, or that of the gradient."""
    checks: dict[str, Callable[..., verify.GradientReport]] = {
        "gradient": verify.gradients,
        "Hessian": verify.hessian,
        "Taylor": verify.taylor,
        "complex step": verify.complex_step,
    }
    chosen = checks if whole else {"gradient": verify.gradients}
    return {name: check(model, *given, **options) for name, check in chosen.items()}


def on_the_data(data: Dataset, candidates: dict[str, Model]) -> dict[str, pd.DataFrame]:
    """Question 1 on the data: a table per check."""
    found: dict[str, list[pd.DataFrame]] = {}
    for name, model in candidates.items():
        for check, report in witnesses(model, start(model, data), data, HYPER).items():
            found.setdefault(check, []).append(report.to_frame().assign(model=name))
    return {check: pd.concat(tables, ignore_index=True) for check, tables in found.items()}


def on_random_problems(number: int) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, float]]:
    """Question 1 on random ratings, weights, parameters, λ, λ_b and ν: every error, and what they come to."""
    data = jaxmf.datasets.synthetic(*SMALL)
    candidates, errors, limits = built_in(data), [], {}
    for problem in tqdm(range(number), "random problems"):
        random = np.random.default_rng(problem)
        # One set of pairs of which a random half counts: all problems share their programs.
        seen, values = random.random(len(data)) < 0.5, random.integers(1, 11, len(data)) / 2
        ratings = replace(data.ratings, value=jnp.asarray(values, float), weight=jnp.asarray(seen, float))
        hyper = Hyper(*10 ** random.uniform(-4, 2, 2), random.uniform(0, 1))
        for name, model in candidates.items():
            params = model.init(jax.random.key(problem), ratings, hyper)
            scale = 10 ** random.uniform(-3, 1)
            drawn = jax.tree.map(lambda x, s=scale: s * random.standard_normal(x.shape), params.trained)
            given = (params._replace(trained=drawn), ratings, hyper)
            # Gradients of every model, and the rest of one model in turn.
            whole = list(candidates)[problem % len(candidates)] == name
            for check, report in witnesses(model, *given, num_directions=2, seed=problem, whole=whole).items():
                limits |= {f"{check}: {column}": limit for column, limit in report.limits.items()}
                known = ["leaf", "passed", *report.limits]
                long = report.to_frame()[known].melt(["leaf", "passed"], var_name="column", value_name="error")
                if not report.limits:
                    long = report.to_frame()[["leaf", "passed"]].assign(column="slopes", error=np.nan)
                errors.append(long.assign(comparison=f"{check}: " + long["column"], model=name, problem=problem))
    table = pd.concat(errors, ignore_index=True).drop(columns="column")
    groups = table.groupby(["comparison", "model", "leaf"], sort=False)
    spread = groups.agg(problems=("problem", "nunique"), median=("error", "median"), largest=("error", "max"))
    spread = spread.assign(alarms=groups["passed"].agg(lambda passed: int((~passed).sum()))).reset_index()
    spread = spread[spread["median"].notna() | spread["comparison"].str.endswith("slopes")]
    return table, spread.assign(limit=spread["comparison"].map(limits), dtype="float64"), limits


def where_solvers_end(data: Dataset, share: float) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Question 3: one objective, five solvers, each with a schedule that lets it come to rest."""
    epochs = {"als": 200, "sgd": 4000, "gradient descent": 4000, "momentum": 2000, "adam": 3000}
    epochs = {name: max(4, int(share * number)) for name, number in epochs.items()}
    fading = optax.cosine_decay_schedule(1.0, epochs["adam"])

    def adam(hyper: Hyper) -> optax.GradientTransformation:
        return optax.adam(lambda step: hyper.learning_rate * fading(step))

    def momentum(hyper: Hyper) -> optax.GradientTransformation:
        return optax.sgd(hyper.learning_rate, momentum=hyper.momentum)

    everything = len(data)
    ways: dict[str, tuple[Any, dict[str, float]]] = {
        "als": (solvers.als(), {}),
        "sgd": (solvers.sgd(schedule=optax.cosine_decay_schedule(1.0, epochs["sgd"])), {"learning_rate": 0.02}),
        "gradient descent": (solvers.minibatch(optax.sgd, everything), {"learning_rate": 10.0}),
        "momentum": (solvers.minibatch(momentum, everything), {"learning_rate": 10.0, "momentum": 0.98}),
        "adam": (solvers.minibatch(adam, everything), {"learning_rate": 0.03}),
    }
    model = models.biased_mf(MEET["rank"])
    with jax.enable_x64(True):
        ratings = to_float64(data.ratings)
        fits = {}
        for name, (solver, numbers) in ways.items():
            hyper = MEET["hyper"]._replace(**numbers)
            fits[name] = jaxmf.fit(jax.random.key(SEED), model, solver, ratings, hyper=hyper, epochs=epochs[name])
    table = verify.stationarity(fits, ratings).to_frame()
    return table, {name: fit.to_frame() for name, fit in fits.items()}


def planted(number_of_users: int) -> pd.DataFrame:
    """Question 4, for biased factorization: square, with ratings of weight 0, at the initial parameters."""
    data = jaxmf.datasets.synthetic(number_of_users, number_of_users, 6 * number_of_users, seed=SEED)
    ratings = replace(data.ratings, weight=splits.k_fold(data, 3)[0])
    model = models.biased_mf(RANK)
    return verify.mutants(model, model.init(jax.random.key(SEED), ratings, HYPER), ratings, HYPER).to_frame()


def main() -> None:
    """Run the study."""
    here = setting("gradient_study", __doc__ or "", own_data)
    configuration = {"job": "gradient_study", "rank": RANK, "hyper": HYPER._asdict(), "random_problems": SMALL}
    manifest = here.begin(configuration, SEED)
    candidates = built_in(here.data)
    import time

    clock = time.perf_counter()

    def lap(what):
        nonlocal clock
        now = time.perf_counter()
        print(what, round(now - clock, 1))
        clock = now

    checks = on_the_data(here.data, candidates)
    for check, table in checks.items():
        here.table(check.lower().replace(" ", "_"), table)
    lap("checks")
    every, spread, limits = on_random_problems(4 if here.smoke else 200)
    here.table("random_problems", spread)
    here.figure("agreement", plot.agreement(every, limits))
    lap("random")

    slopes = []
    for name, model in candidates.items():
        found = verify.differences(model, start(model, here.data), here.data, HYPER)
        slopes.append(found.slopes.merge(found.line, on="place").assign(model=name))
        if name == "biased_mf":
            here.figure("step_sizes", plot.step_sizes(found.curves, found.slopes))
            here.table("step_sizes", found.curves)
    steps = pd.concat(slopes, ignore_index=True)
    here.table("slopes", steps)
    lap("diff")

    model = candidates["biased_mf"]
    given = (model, start(model, here.data), here.data, HYPER)
    here.figure("remainders", plot.remainders(verify.remainders(*given)))
    halves = verify.half_steps(*given, num_sweeps=4 if here.smoke else 60).to_frame()
    here.table("half_steps", halves)
    here.figure("half_steps", plot.half_steps(halves))
    lap("halves")
    ends, histories = where_solvers_end(own_data(), 0.01 if here.smoke else 1.0)
    here.table("stationarity", ends)
    here.figure("descents", plot.descents(histories))
    lap("ends")
    mistakes = planted(13)
    here.table("mutants", mistakes)
    here.figure("mutants", plot.mutants(mistakes))
    lap("mut")
    here.finish(manifest, [])


if __name__ == "__main__":
    main()
