"""How is a gradient verified? Every witness, its error against its step, and the mistakes that it lets through.

    python -m experiments.gradient_study [--data NAME] [--out FOLDER] [--smoke]

1. Are the built-in models' gradients and Hessians right, on the data and on random problems, without a false alarm?
2. How small can the error of a finite difference be, and at which step? What are its slopes?
3. Does ALS end where the gradient does? Do all solvers of one objective?
4. Which of ten planted mistakes does each method notice, and does it name the leaf?

Writes tables (CSV), figures and summary.md; everything in float64 unless a table says float32.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from tqdm import tqdm

import jaxmf
from experiments.setting import Setting, setting
from jaxmf import Hyper, Model, jobs, models, plot, solvers, verify
from jaxmf.data import Dataset, content, splits
from jaxmf.data.ratings import to_float64
from jaxmf.output import markdown
from jaxmf.verify.case import jit

HYPER = Hyper(l2=0.05, l2_bias=0.02, reg_exponent=0.5, init_scale=0.5)
RANK = 4
SEED = 0
# Where solvers meet: few factors and enough penalty, so that there is one minimum to be found.
MEET = {"rank": 2, "hyper": Hyper(l2=0.1, init_scale=0.3)}
CHECKS = (verify.gradients, verify.hessian, verify.taylor, verify.complex_step)


def small_data() -> Dataset:
    """Small enough for hundreds of problems, large enough that sums round; square, so that sides can be swapped."""
    return jaxmf.datasets.synthetic(num_users=50, num_items=50, num_ratings=700, seed=SEED)


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


def on_random_problems(name: str, number: int) -> pd.DataFrame:
    """The errors of one model for random ratings, weights, parameters, λ, λ_b and ν: gradients always, the rest of the
    checks on every sixth.
    """
    data, rows = small_data(), []
    model = built_in(data)[name]
    start = jit(model.init)
    for problem in range(number):
        random = np.random.default_rng(problem)
        # The pairs stay, and a random half of them counts: all problems share their programs.
        seen, values = random.random(len(data)) < 0.5, random.integers(1, 11, len(data)) / 2
        ratings = replace(data.ratings, value=jnp.asarray(values, float), weight=jnp.asarray(seen, float))
        hyper = Hyper(*10 ** random.uniform(-4, 2, 2), random.uniform(0, 1))
        params, scale = start(jax.random.key(problem), ratings, hyper), 10 ** random.uniform(-3, 1)
        drawn = jax.tree.map(lambda x, s=scale, r=random: s * r.standard_normal(x.shape), params.trained)
        given = (model, params._replace(trained=drawn), ratings, hyper)
        for check in CHECKS if problem % 6 == 0 else CHECKS[:1]:
            report = check(*given, num_directions=1, seed=problem)
            for row in report.to_frame().to_dict("records"):
                known = {"model": name, "leaf": row["leaf"], "problem": problem, "passed": row["passed"]}
                columns = report.limits.items() or [("slopes", np.nan)]
                named = [(f"{check.__name__}: {column}", row.get(column, np.nan), limit) for column, limit in columns]
                rows += [known | {"comparison": what, "error": error, "limit": limit} for what, error, limit in named]
    return pd.DataFrame(rows)


def spread(errors: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """What the errors on random problems come to, per group; a missing error has no method to be compared with."""
    groups = errors.groupby(by, sort=False)
    table = groups.agg(problems=("problem", "nunique"), median=("error", "median"), largest=("error", "max"))
    table["alarms"] = groups["passed"].agg(lambda passed: int((~passed).sum()))
    return table.assign(limit=groups["limit"].first(), dtype="float64").reset_index()


def steps(data: Dataset, candidates: dict[str, Model]) -> dict[str, verify.Differences]:
    """Errors of finite differences against their steps."""
    given = {name: (model, model.init(jax.random.key(SEED), data.ratings, HYPER)) for name, model in candidates.items()}
    return {name: verify.differences(*own, data, HYPER, seed=SEED) for name, own in given.items()}


def where_solvers_end(share: float) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """One objective, four solvers, each with a schedule that lets it come to rest."""
    data = small_data()
    epochs = {"als": 200, "sgd": 4000, "momentum": 2000, "adam": 1500}
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
        "momentum": (solvers.minibatch(momentum, everything), {"learning_rate": 10.0, "momentum": 0.98}),
        "adam": (solvers.minibatch(adam, everything), {"learning_rate": 0.03}),
    }
    model = models.biased_mf(MEET["rank"])
    with jax.enable_x64(True):
        ratings, fits = to_float64(data.ratings), {}
        for name, (solver, numbers) in ways.items():
            hyper = MEET["hyper"]._replace(**numbers)
            fits[name] = jaxmf.fit(jax.random.key(SEED), model, solver, ratings, hyper=hyper, epochs=epochs[name])
    table = verify.stationarity(fits, ratings).to_frame()
    return table, {name: fit.to_frame() for name, fit in fits.items()}


def planted() -> pd.DataFrame:
    """Ten mistakes in biased factorization, where some ratings have weight 0."""
    data = small_data()
    ratings = replace(data.ratings, weight=splits.k_fold(data, 3)[0])
    model = models.biased_mf(RANK)
    return verify.mutants(model, model.init(jax.random.key(SEED), ratings, HYPER), ratings, HYPER).to_frame()


def in_words(here: Setting, found: dict[str, Any]) -> list[str]:
    """The paragraphs of summary.md; every number in them is in a table beside it."""
    checks, random, slopes = found["checks"], found["random problems"], found["step sizes"]
    halves, (ends, _), mistakes = found["half-steps"], found["where solvers end"], found["planted mistakes"]
    rows = sum(map(len, checks.values()))
    wrong = sum(int((~table["passed"]).sum()) for table in checks.values())
    in_all = spread(random, ["comparison"])
    hand = in_all.loc[in_all["comparison"] == "gradients: hand_vs_autodiff", "median"].iloc[0]
    central = slopes[(slopes["scheme"] == "central") & (slopes["dtype"] == "float64")]["best_error"].max()
    own = slopes[slopes["model"] == "biased_mf"].drop(columns="model")
    powers = [f"c{k}" for k in range(6)]
    caught = {name: int((mistakes[name].fillna("") != "").sum()) for name in verify.METHODS}
    named = {name: int((mistakes[name] == mistakes["leaves"]).sum()) for name in verify.METHODS}
    return [
        "# How a gradient is verified",
        f"Questions 1 and 2 are asked of {here.data.describe()['name']}, {len(here.data):,} ratings; random problems, "
        f"solvers and mistakes have {len(small_data()):,} synthetic ones. λ = {HYPER.l2}, λ_b = {HYPER.l2_bias}, "
        f"ν = {HYPER.reg_exponent} in question 2.",  # noqa: RUF001
        f"- Of {rows} rows of the checks on the data, {wrong} fail. On {random['problem'].nunique()} random "
        f"problems with each of {random['model'].nunique()} models: {in_all['alarms'].sum()} false alarms.\n"
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
        markdown(in_all, "{:.1e}"),
        "![Relative errors on random problems](figures/agreement.png)",
        "![Taylor remainders](figures/remainders.png)",
        "## 2. How far can a difference be trusted?",
        "Along any line the objective is a polynomial of degree 4, and along one in a single side's rows of degree 2 "
        "(coefficients relative to what they consist of, biased_mf):",
        markdown(own[["place", *powers]].drop_duplicates(), "{:.1e}"),
        "So the five-point stencil has no truncation error, nor has the central one within a side: they only get "
        "better as the step grows, until the values themselves do. Slopes in the log-log plane, biased_mf; where one "
        "is missing there is no such error to measure:",
        markdown(own.drop(columns=powers), "{:.2e}"),
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
        "`jax.test_util`, at the initial parameters, whose biases are 0 and hide a forgotten λ_b.",
        markdown(mistakes),
        "![Planted mistakes by method](figures/mutants.png)",
    ]


def write(here: Setting, name: str, result: Any) -> Any:
    """The tables and figures of a part, as soon as it is done; returns what the summary needs of it."""
    if name == "random problems":
        here.table("random_problems", spread(result, ["comparison", "model", "leaf"]))
        limits = result.dropna(subset="limit").groupby("comparison", sort=False)["limit"].first()
        here.figure("agreement", plot.agreement(result, limits.to_dict()))
    if name == "checks":
        for check, table in result.items():
            here.table(check, table)
    if name == "step sizes":
        curves, slopes = result["biased_mf"].curves, result["biased_mf"].slopes
        here.table("step_sizes", curves)
        here.figure("step_sizes", plot.step_sizes(curves, slopes))
        each = [found.slopes.merge(found.line, on="place").assign(model=model) for model, found in result.items()]
        result = pd.concat(each, ignore_index=True)
        here.table("slopes", result)
    if name == "remainders":
        here.figure("remainders", plot.remainders(result))
    if name == "half-steps":
        here.table("half_steps", result)
        here.figure("half_steps", plot.half_steps(result))
    if name == "where solvers end":
        here.table("stationarity", result[0])
        here.figure("descents", plot.descents(result[1]))
    if name == "planted mistakes":
        here.table("mutants", result)
        here.figure("mutants", plot.mutants(result))
    return result


def main() -> None:
    """Run the study."""
    here = setting("gradient_study", __doc__ or "", small_data)
    manifest = here.begin({"rank": RANK, "hyper": HYPER._asdict()}, SEED)
    candidates = built_in(here.data)
    model = candidates["biased_mf"]
    given = (model, model.init(jax.random.key(SEED), here.data.ratings, HYPER), here.data, HYPER)
    parts: dict[str, Callable[[], Any]] = {
        name: partial(on_random_problems, name, 6 if here.smoke else 200) for name in candidates
    }
    parts |= {
        "where solvers end": lambda: where_solvers_end(0.01 if here.smoke else 1.0),
        "step sizes": lambda: steps(here.data, {name: candidates[name] for name in ("biased_mf", "content_mf")}),
        "half-steps": lambda: verify.half_steps(*given, num_sweeps=4 if here.smoke else 60).to_frame(),
        "planted mistakes": planted,
        "remainders": lambda: verify.remainders(*given, seed=SEED),
        "checks": lambda: jobs.verify_models(here.data, candidates, HYPER, SEED)[0],
    }
    found: dict[str, Any] = {}
    # Two at a time, since most of the work is compilation; the last ones by programs that are there by then.
    with ThreadPoolExecutor(2) as pool, tqdm(total=len(parts)) as bar:
        running = {pool.submit(part): name for name, part in parts.items()}
        for done in as_completed(running):
            name = running[done]
            found[name] = done.result() if name in candidates else write(here, name, done.result())
            bar.update()
    random = pd.concat([found[name] for name in candidates], ignore_index=True)
    found["random problems"] = write(here, "random problems", random)
    here.finish(manifest, in_words(here, found))


if __name__ == "__main__":
    main()
