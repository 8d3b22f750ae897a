"""How is a gradient verified? Every method, its error against its step size, and the mistakes that it misses.

    python -m experiments.gradient_study [--data NAME] [--out FOLDER] [--smoke]

1. Are the built-in models' gradients and Hessians right, on the data and on random problems, without a false alarm?
2. How small can the error of a finite difference be, and at which step size? What are its slopes?
3. Does ALS end where the gradient is 0? Do all solvers of one objective end there?
4. Which of sixteen planted mistakes does each method notice, and does it name the leaf?

Writes tables (CSV), figures and summary.md; everything in float64 unless a table says float32.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

import jaxmf
from experiments.setting import Setting, setting
from jaxmf import Hyper, Model, Params, models, plot, solvers, verify
from jaxmf.data import Dataset, content, splits
from jaxmf.data.ratings import to_float64
from jaxmf.files.output import markdown
from jaxmf.shell import jobs

HYPER = Hyper(l2=0.05, l2_bias=0.02, reg_exponent=0.5, init_scale=0.5)
RANK = 4
SEED = 0
# Where solvers must agree: few factors and enough penalty, so that there is a single minimum.
MEET_RANK, MEET = 2, Hyper(l2=0.1, init_scale=0.3)
CHECKS = (verify.gradients, verify.hessian, verify.taylor, verify.complex_step)


class Results(NamedTuple):
    """The results of a part: tables, and functions that draw the figures, by file name."""

    tables: dict[str, pd.DataFrame]
    figures: dict[str, Callable[[], Figure]]


def small_data() -> Dataset:
    """Return data small enough for hundreds of problems, large enough that sums round; square, to swap the sides."""
    return jaxmf.datasets.synthetic(num_users=50, num_items=50, num_ratings=700, seed=SEED)


def built_in(data: Dataset) -> dict[str, Model]:
    """Return every built-in model that is fitted, by name."""
    return {
        "mf": models.mf(RANK),
        "mf, no mean": models.mf(RANK, None),
        "mf, users' means": models.mf(RANK, "user"),
        "biased_mf": models.biased_mf(RANK),
        "content_mf": models.content_mf(RANK, content.tfidf(data, components=8)),
        "damped_bias": models.damped_bias(),
    }


def on_random_problems(name: str, num_problems: int) -> pd.DataFrame:
    """Check one model at random ratings, weights, parameters, λ, λ_b and ν, and return the errors; gradients are
    checked on every problem, the rest on every sixth.
    """
    data, rows = small_data(), []
    model = built_in(data)[name]
    start = jax.jit(model.init)
    for problem in range(num_problems):
        random = np.random.default_rng(problem)
        # All problems share the pairs, of which a random half has weight, so that they also share compiled programs.
        seen, values = random.random(len(data)) < 0.5, random.integers(1, 11, len(data)) / 2
        ratings = replace(data.ratings, value=jnp.asarray(values, float), weight=jnp.asarray(seen, float))
        l2, l2_bias = 10 ** random.uniform(-4, 2, 2)
        hyper = Hyper(l2, l2_bias, random.uniform(0, 1))
        params, scale = start(jax.random.key(problem), ratings, hyper), 10 ** random.uniform(-3, 1)
        drawn = jax.tree.map(lambda x, s=scale, r=random: s * r.standard_normal(x.shape), params.trained)
        arguments = (model, params._replace(trained=drawn), ratings, hyper)
        for check in CHECKS if problem % 6 == 0 else CHECKS[:1]:
            report = check(*arguments, num_directions=1, seed=problem)
            for row in report.to_frame().to_dict("records"):
                known = {"model": name, "leaf": row["leaf"], "problem": problem, "passed": row["passed"]}
                columns = report.limits.items() or [("slopes", np.nan)]
                named = [(f"{check.__name__}: {column}", row.get(column, np.nan), limit) for column, limit in columns]
                rows += [known | {"comparison": text, "error": error, "limit": limit} for text, error, limit in named]
    return pd.DataFrame(rows)


def spread(errors: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Summarize the errors on random problems by group; an error is NaN if there is no method to compare with."""
    groups = errors.groupby(by, sort=False)
    table = groups.agg(problems=("problem", "nunique"), median=("error", "median"), largest=("error", "max"))
    table["alarms"] = groups["passed"].agg(lambda passed: int((~passed).sum()))
    return table.assign(limit=groups["limit"].first(), dtype="float64").reset_index()


def agreement(errors: pd.DataFrame) -> Results:
    """Summarize all errors on random problems, in a table and a figure."""
    limits = errors.dropna(subset="limit").groupby("comparison", sort=False)["limit"].first()
    table = spread(errors, ["comparison", "model", "leaf"])
    return Results({"random_problems": table}, {"agreement": partial(plot.agreement, errors, limits.to_dict())})


def checks(data: Dataset, candidates: dict[str, Model]) -> Results:
    """Run every check of every model on the data; return a table per check."""
    return Results(jobs.verify_models(data, candidates, HYPER, SEED)[0], {})


def remainders(model: Model, params: Params, data: Dataset) -> Results:
    """Compute the Taylor remainders of one model."""
    curves = verify.remainders(model, params, data, HYPER, seed=SEED)
    return Results({}, {"remainders": partial(plot.remainders, curves)})


def step_sizes(data: Dataset, candidates: dict[str, Model]) -> Results:
    """Measure errors of finite differences against their step sizes: curves of the first model, slopes of all."""
    points = {
        name: (model, model.init(jax.random.key(SEED), data.ratings, HYPER)) for name, model in candidates.items()
    }
    reports = {name: verify.differences(*point, data, HYPER, seed=SEED) for name, point in points.items()}
    slopes = [report.slopes.merge(report.line, on="place").assign(model=name) for name, report in reports.items()]
    first = next(iter(reports.values()))
    tables = {"step_sizes": first.curves, "slopes": pd.concat(slopes, ignore_index=True)}
    return Results(tables, {"step_sizes": partial(plot.step_sizes, first.curves, first.slopes)})


def half_steps(model: Model, params: Params, data: Dataset, num_sweeps: int) -> Results:
    """Record the objective and the gradients of ALS by half-steps."""
    table = verify.half_steps(model, params, data, HYPER, num_sweeps).to_frame()
    return Results({"half_steps": table}, {"half_steps": partial(plot.half_steps, table)})


def where_solvers_end(smoke: bool) -> Results:
    """Minimize one objective by four solvers, with schedules that let them converge; a smoke run takes two, briefly."""
    data = small_data()
    epochs = {"als": 200, "sgd": 4000, "momentum": 2000, "adam": 1500}
    decay = optax.cosine_decay_schedule(1.0, epochs["adam"])

    def adam(hyper: Hyper) -> optax.GradientTransformation:
        return optax.adam(lambda step: hyper.learning_rate * decay(step))

    def momentum(hyper: Hyper) -> optax.GradientTransformation:
        return optax.sgd(hyper.learning_rate, momentum=hyper.momentum)

    full_batch = len(data)
    ways: dict[str, tuple[Any, dict[str, Any]]] = {
        "als": (solvers.als(), {}),
        "sgd": (solvers.sgd(schedule=optax.cosine_decay_schedule(1.0, epochs["sgd"])), {"learning_rate": 0.02}),
        "momentum": (solvers.minibatch(momentum, full_batch), {"learning_rate": 10.0, "momentum": 0.98}),
        "adam": (solvers.minibatch(adam, full_batch), {"learning_rate": 0.03}),
    }
    model = models.biased_mf(MEET_RANK)
    with jax.enable_x64(True):
        ratings, fits = to_float64(data.ratings), {}
        for name, num_epochs in ({"als": 4, "adam": 4} if smoke else epochs).items():
            solver, numbers = ways[name]
            hyper = MEET._replace(**numbers)
            fits[name] = jaxmf.fit(jax.random.key(SEED), model, solver, ratings, hyper=hyper, epochs=num_epochs)
    histories = {name: fit.to_frame() for name, fit in fits.items()}
    table = verify.stationarity(fits, ratings).to_frame()
    return Results({"stationarity": table}, {"descents": partial(plot.descents, histories)})


def planted() -> Results:
    """Plant mistakes in biased factorization, on ratings of which some have weight 0."""
    data = small_data()
    ratings = replace(data.ratings, weight=data.ratings.weight * splits.k_fold(data, 3)[0])
    model = models.biased_mf(RANK)
    table = verify.mutants(model, model.init(jax.random.key(SEED), ratings, HYPER), ratings, HYPER).to_frame()
    return Results({"mutants": table}, {"mutants": partial(plot.mutants, table)})


def in_words(here: Setting, tables: dict[str, pd.DataFrame], random: pd.DataFrame) -> list[str]:
    """Return the paragraphs of summary.md; every number in them is also in a table beside it."""
    slopes, halves, ends, mistakes = (tables[name] for name in ("slopes", "half_steps", "stationarity", "mutants"))
    passed = pd.concat([tables[check.__name__]["passed"] for check in CHECKS])
    overall = spread(random, ["comparison"])
    hand = overall.loc[overall["comparison"] == "gradients: hand_vs_autodiff", "median"].iloc[0]
    central = slopes[(slopes["scheme"] == "central") & (slopes["dtype"] == "float64")]["best_error"].max()
    biased = slopes[slopes["model"] == "biased_mf"].drop(columns="model")
    powers = [f"c{k}" for k in range(6)]
    caught = {name: int((mistakes[name].fillna("") != "").sum()) for name in verify.METHODS}
    named = {name: int((mistakes[name] == mistakes["leaves"]).sum()) for name in verify.METHODS}
    return [
        "# How a gradient is verified",
        f"Questions 1 and 2 are asked of {here.data.describe()['name']}, {len(here.data):,} ratings; random problems, "
        f"solvers and mistakes have {len(small_data()):,} synthetic ones. λ = {HYPER.l2}, λ_b = {HYPER.l2_bias}, "
        f"ν = {HYPER.reg_exponent} in question 2.",  # noqa: RUF001
        f"- Of {len(passed)} rows of the checks on the data, {(~passed).sum()} fail. On {random['problem'].nunique()} "
        f"random problems with each of {random['model'].nunique()} models: {overall['alarms'].sum()} false alarms.\n"
        f"- Autodiff and the hand-derived gradient differ by {hand:.1e} in the median, relative to the summed "
        f"magnitude of the terms. Central differences at their best step miss by {central:.1e} at most.\n"
        f"- ALS: the block just solved has a relative gradient of {halves['solved_gradient'].max():.1e} at most, and "
        f"the objective rose {int((halves['change'] > 0).sum())} times in {len(halves)} half-steps. "
        f"{len(ends)} solvers of one objective end within {ends['excess'].max():.1e} of the lowest value.\n"
        f"- Of {len(mistakes)} planted mistakes, {int(mistakes['passed'].sum())} are caught and every wrong leaf is "
        "named, and no right one.",
        "## 1. Are the gradients right?",
        "`gradients.csv`, `hessian.csv`, `taylor.csv` and `complex_step.csv` have a row per model and leaf, "
        "`random_problems.csv` the spread of every comparison over random ratings, weights, parameters "
        "(10⁻³ to 10 in size), λ and λ_b (10⁻⁴ to 100) and ν (0 to 1):",  # noqa: RUF001
        markdown(overall, "{:.1e}"),
        "![Relative errors on random problems](figures/agreement.png)",
        "![Taylor remainders](figures/remainders.png)",
        "## 2. How far can a difference be trusted?",
        "Along any line the objective is a polynomial of degree 4, and along one in a single side's rows of degree 2 "
        "(coefficients relative to what they consist of, biased_mf):",
        markdown(biased[["place", *powers]].drop_duplicates(), "{:.1e}"),
        "So the five-point stencil has no truncation error, nor has the central one within a side: they only get "
        "better as the step grows, until the values themselves do. Slopes in the log-log plane, biased_mf; where one "
        "is missing there is no such error to measure:",
        markdown(biased.drop(columns=powers), "{:.2e}"),
        "![Errors by step size](figures/step_sizes.png)",
        "## 3. Do solvers end where the gradient is 0?",
        markdown(ends.assign(objective=ends["objective"].map("{:.6f}".format)), "{:.1e}"),
        "![Objective above the lowest, by epoch](figures/descents.png)",
        "![ALS by half-steps](figures/half_steps.png)",
        "## 4. Which mistakes are noticed?",
        "Each planted in a copy of the hand-derived gradient of biased_mf; leaves that a method names, ? where it "
        "notices something but cannot say where. Noticed, and with exactly the wrong leaves named: "
        + ", ".join(f"{name} {caught[name]} and {named[name]}" for name in verify.METHODS)
        + ". `als` solves with the right equations, so it misses what leaves a zero a zero; `check_grads` is that of "
        "`jax.test_util`, at the initial parameters, whose biases are 0 and hide a forgotten λ_b; both look at the "
        "given data alone, whose weights are 0 or 1 and whose ratings are all positive, and miss what only random data "
        "show.",
        markdown(mistakes),
        "![Planted mistakes by method](figures/mutants.png)",
    ]


def main() -> None:
    """Run the study."""
    here = setting("gradient_study", __doc__ or "", small_data)
    manifest = here.begin({"rank": RANK, "hyper": HYPER._asdict()}, SEED)
    names = ("biased_mf",) if here.smoke else ("biased_mf", "content_mf")
    candidates = {name: model for name, model in built_in(here.data).items() if name in names or not here.smoke}
    model = candidates["biased_mf"]
    point = (model, model.init(jax.random.key(SEED), here.data.ratings, HYPER), here.data)
    parts: list[Callable[[], Results]] = [
        partial(where_solvers_end, here.smoke),
        partial(step_sizes, here.data, {name: candidates[name] for name in names}),
        partial(half_steps, *point, num_sweeps=4 if here.smoke else 60),
        planted,
        partial(remainders, *point),
        partial(checks, here.data, candidates),
    ]
    problems: list[Callable[[], pd.DataFrame]] = [
        partial(on_random_problems, name, 6 if here.smoke else 200) for name in candidates
    ]
    tables: dict[str, pd.DataFrame] = {}

    def write(results: Results) -> None:
        tables.update(results.tables)
        for name, table in results.tables.items():
            here.table(name, table)
        for name, draw in results.figures.items():
            here.figure(name, draw())

    # Two at a time, since most of the work is compilation; the last ones reuse programs that are compiled by then.
    with ThreadPoolExecutor(2) as pool, tqdm(total=len(parts) + len(problems)) as bar:
        errors = [pool.submit(part) for part in problems]
        running = [pool.submit(part) for part in parts]
        for done in as_completed([*errors, *running]):
            results = done.result()
            if done in running:
                write(results)
            bar.update()
    random = pd.concat([done.result() for done in errors], ignore_index=True)
    write(agreement(random))
    here.finish(manifest, in_words(here, tables, random))


if __name__ == "__main__":
    main()
