"""The problem zoo, and slow NumPy oracles written from the formulas, one loop per sum."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from scipy.sparse import csr_array

from jaxmf import Hyper, Params, Ratings, Rows, models, solvers
from jaxmf.shell import cli
from jaxmf.training import make_fit, prepare, start


def slow(*values):
    """One case of a parametrized test, left out unless asked for by `-m slow`."""
    return pytest.param(*values, marks=pytest.mark.slow)


RANK = 3
KEY = jax.random.key(1)
MOST = 300
HYPER = Hyper(l2=0.07, l2_bias=0.03, reg_exponent=0.5, learning_rate=0.02, learning_rate_bias=0.05, init_scale=0.5)

# Of the items that `random_ratings` has by default: some zeros, an item without features, a feature without items.
FEATURES = np.fromfunction(lambda i, f: (7 * i + 3 * f) % 5 / 4 * ((i + f) % 3 > 0) * (i < 12) * (f < 4), (13, 5))

MODELS = {
    "mf": models.mf(RANK),
    "mf-uncentered": models.mf(RANK, None),
    "mf-user-mean": models.mf(RANK, "user"),
    "biased": models.biased_mf(RANK),
    "content": models.content_mf(RANK, csr_array(FEATURES)),
}


def all_cells(params, hyper):
    """α0 Σ_{u,i} r̂² over all cells of the biased model, without them, by the Gram matrices of both sides."""
    left, right = (jnp.concatenate(tables, axis=1) for tables in MODELS["biased"].embed(params))
    return hyper.unobserved * jnp.sum((left.T @ left) * (right.T @ right))


IALS = MODELS["biased"]._replace(background=all_cells, by_hand=None, name="ials")

# Those that differ in more than a constant: plain around each user's mean, with biases around one mean, with content.
DISTINCT = {name: MODELS[name] for name in ("mf-user-mean", "biased", "content")}


def heavy_ball(hyper):
    return optax.sgd(hyper.learning_rate, momentum=hyper.momentum)


def nesterov(hyper):
    return optax.sgd(hyper.learning_rate, momentum=hyper.momentum, nesterov=True)


def adamw(hyper):
    return optax.adamw(hyper.learning_rate, weight_decay=0.01)


SOLVERS = {
    "sgd": solvers.sgd(8),
    "momentum": solvers.minibatch(heavy_ball, 32),
    "adam": solvers.minibatch(optax.adam, 32),
    "adamw": solvers.minibatch(adamw, 32),
    "als": solvers.als(),
}
# A solver for each kind of state: none, numbers with tables, and a number. The others are slow cases.
QUICK = ("sgd", "adam", "als")
each_state = pytest.mark.parametrize(
    "solver", [SOLVERS[name] if name in QUICK else slow(SOLVERS[name]) for name in SOLVERS], ids=SOLVERS
)
# Kinds of solvers with a model that has every kind of leaf but content, and with content, and every model.
PAIRS = [
    *[("biased", solver) for solver in ("sgd", "momentum", "adamw", "als")],
    *[("content", solver) for solver in ("sgd", "adam", "als")],
    ("mf", "als"),
    ("mf-uncentered", "sgd"),
    ("mf-user-mean", "adam"),
]


def random_ratings(seed=0, num_users=17, num_items=13, num_ratings=90, folds=False, dtype=None) -> Ratings:
    """Distinct pairs; the last user and the last item have no rating; with `folds`, a third of the weights are 0.

    With `folds`, user 0 and item 0 keep ratings but lose all their weight.
    """
    rng = np.random.default_rng(seed)
    pair = rng.choice((num_users - 1) * (num_items - 1), num_ratings, replace=False)
    user, item = pair // (num_items - 1), pair % (num_items - 1)
    weight = (rng.random(num_ratings) > 1 / 3) & (user > 0) & (item > 0)
    # Padding reads the last observation, whose weight must not be 0 by itself.
    user, item, weight = (np.roll(x, -1 - np.flatnonzero(weight)[-1]) for x in (user, item, weight))
    return Ratings(
        user=jnp.asarray(user, jnp.int32),
        item=jnp.asarray(item, jnp.int32),
        value=jnp.asarray(rng.integers(1, 11, num_ratings) / 2, dtype or float),
        weight=jnp.asarray(weight if folds else np.ones(num_ratings), dtype or float),
        num_users=num_users,
        num_items=num_items,
    )


def planted_ratings(rank, seed=0, num_users=40, num_items=30, share=0.6, noise=0.0) -> tuple[Ratings, Ratings]:
    """Training and held-out ratings of a random matrix of this rank, centred at 0."""
    rng = np.random.default_rng(seed)
    full = rng.normal(size=(num_users, rank)) @ rng.normal(size=(rank, num_items))
    full = full + noise * rng.normal(size=full.shape)
    seen = rng.random(full.shape) < share

    def ratings(mask):
        user, item = np.nonzero(mask)
        index = (jnp.asarray(user, jnp.int32), jnp.asarray(item, jnp.int32))
        return Ratings(*index, jnp.asarray(full[mask]), jnp.ones(len(user)), num_users, num_items)

    return ratings(seen), ratings(~seen)


def pick(ratings, index) -> Ratings:
    """The observations at these positions (numbers or a mask), in this order."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[index]), ratings)


def run(model, solver, ratings, hyper, epochs=1, params=None, key=KEY, valid=None, patience=None, **options):
    """`make_fit` on its own, under jit, from `params` if given; the final state and the history."""
    params = init(model, ratings, hyper, key) if params is None else params
    batch, drawn = prepare(solver, ratings, valid), model._replace(init=lambda *_: params)
    state = start(key, drawn, solver, batch, hyper, patience)
    assert epochs <= MOST  # runs of any number up to that share a program
    state, history = compiled(model, solver, MOST, patience, **options)(key, batch, hyper, state, epochs)
    return state, {name: column[:epochs] for name, column in history.items()}


def init(model, ratings, hyper, key=KEY) -> Params:
    """What a fit under this key starts from."""
    return _init(model)(jax.random.fold_in(key, 0), ratings, hyper)


@lru_cache
def _init(model):
    return jax.jit(model.init)


# Without `jit` each of their operations would be compiled by itself.
objective = jax.jit(models.objective, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def gradient(model, params, ratings, hyper) -> Rows:
    """That of the objective by the trained leaves, by automatic differentiation."""
    return jax.grad(lambda trained: models.objective(model, Params(trained, params.fixed), ratings, hyper))(
        params.trained
    )


@lru_cache
def compiled(model, solver, epochs, patience=None, **options):
    """Jitted once for all tests of a process: `Hyper` and weights are traced, so most cases share a program."""
    return jax.jit(make_fit(model, solver, epochs, patience, **options))


def on_host(ratings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, items and values, as a `Dataset` has them."""
    return np.asarray(ratings.user), np.asarray(ratings.item), np.asarray(ratings.value)


def structure(tree) -> Any:
    """The tree's structure, as `Any`: the type that `jax.tree.structure` declares has no `==`."""
    return jax.tree.structure(tree)


def assert_close(actual, expected, rtol=1e-12, atol=0.0):
    """Same tree, same leaves to this tolerance."""
    assert structure(actual) == structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=rtol, atol=atol)


def assert_same_bits(actual, expected):
    assert structure(actual) == structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def largest(tree) -> float:
    return max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


COMPILED: list[str] = []  # what XLA has compiled in this process, by the name of the function
TRANSFERS = ("jit(stage)", "jit(convert_element_type)")  # what `jnp.asarray` compiles, in some versions of JAX


@jax.monitoring.register_event_duration_secs_listener
def _note_compilation(event: str, duration_secs: float, **about: str | int) -> None:
    if event.endswith("backend_compile_duration") and about.get("fun_name") not in TRANSFERS:
        COMPILED.append(str(about.get("fun_name")))


class Ended(NamedTuple):
    code: int | str  # text where `sys.exit` got one, which no test expects
    out: str
    err: str


def shell(*arguments) -> Ended:
    """The command line, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with mock.patch.object(sys, "argv", ["jaxmf", *map(str, arguments)]), redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            return Ended(end.code or 0, out.getvalue(), err.getvalue())
    raise AssertionError("the command line did not exit")


# NumPy oracles. A parameter set is a dict: P, Q (tables), b, c (biases; zeros if the model has none), A (weights of
# the content X; no columns if the model has none), m (the fixed mean of each user), biased (whether b, c are trained).


def to_numpy(params: Params) -> dict:
    user, item = params.trained.user, params.trained.item
    P, Q = np.array(user["factors"]), np.array(item["factors"])
    fixed = params.fixed
    mean = np.zeros(len(P)) + float(fixed.shared.get("mean", 0.0)) + np.asarray(fixed.user.get("mean", 0.0))
    biased = "bias" in user
    b, c = (np.array(user["bias"]), np.array(item["bias"])) if biased else (np.zeros(len(P)), np.zeros(len(Q)))
    A, X = np.zeros((len(P), 0)), np.zeros((len(Q), 0))
    if "content" in user:
        A, x = np.array(user["content"]), fixed.item["content"]
        X = np.zeros((len(Q), A.shape[1])) if isinstance(x, models.SparseRows) else np.array(x)
        if isinstance(x, models.SparseRows):
            for i in range(len(Q)):
                np.add.at(X[i], np.asarray(x.column)[i], np.asarray(x.value)[i])
    return {"P": P, "Q": Q, "b": b, "c": c, "A": A, "X": X, "m": mean, "biased": biased}


def to_rows(theta: dict) -> Rows:
    user, item = {"factors": theta["P"]}, {"factors": theta["Q"]}
    if theta["biased"]:
        user, item = user | {"bias": theta["b"]}, item | {"bias": theta["c"]}
    if theta["A"].shape[1]:
        user = user | {"content": theta["A"]}
    return Rows(user, item)


def observations(ratings: Ratings) -> list[tuple[int, int, float, float]]:
    columns = (ratings.user, ratings.item, ratings.value, ratings.weight)
    return list(zip(*(np.asarray(column).tolist() for column in columns), strict=True))


def degrees(ratings: Ratings) -> tuple[np.ndarray, np.ndarray]:
    n_u, n_i = np.zeros(ratings.num_users), np.zeros(ratings.num_items)
    for u, i, _, w in observations(ratings):
        n_u[u] += w
        n_i[i] += w
    return n_u, n_i


def power(n: float, exponent: float) -> float:
    """n^exponent, with 0^0 = 1 and 0 to anything else 0."""
    return float(n) ** exponent if n > 0 else float(exponent == 0)


def numbers(hyper: Hyper) -> tuple[float, float, float, float, float]:
    """λ, λ_b, ν, learning rate, learning rate of the biases."""
    l2_bias = hyper.l2 if hyper.l2_bias is None else hyper.l2_bias
    rate_bias = hyper.learning_rate if hyper.learning_rate_bias is None else hyper.learning_rate_bias
    return hyper.l2, l2_bias, hyper.reg_exponent, hyper.learning_rate, rate_bias


def numpy_predict(theta: dict, u: int, i: int) -> float:
    products = np.dot(theta["P"][u], theta["Q"][i]) + np.dot(theta["A"][u], theta["X"][i])
    return theta["m"][u] + theta["b"][u] + theta["c"][i] + float(products)


def numpy_objective(theta: dict, ratings: Ratings, hyper: Hyper) -> float:
    l2, l2_bias, nu, _, _ = numbers(hyper)
    total = sum(w * (r - numpy_predict(theta, u, i)) ** 2 for u, i, r, w in observations(ratings))
    n_u, n_i = degrees(ratings)
    for u, n in enumerate(n_u):
        total += power(n, nu) * (l2 * np.sum(theta["P"][u] ** 2) + l2_bias * theta["b"][u] ** 2)
        total += power(n, nu) * l2 * np.sum(theta["A"][u] ** 2)
    for i, n in enumerate(n_i):
        total += power(n, nu) * (l2 * np.sum(theta["Q"][i] ** 2) + l2_bias * theta["c"][i] ** 2)
    return float(total)


def numpy_sgd(theta: dict, ratings: Ratings, hyper: Hyper, order, clip_update=np.inf, clip_value=np.inf) -> dict:
    """One rating at a time, all blocks from before the rating, each with its share of the penalty."""
    l2, l2_bias, nu, rate, rate_bias = numbers(hyper)
    theta = {name: np.copy(value) for name, value in theta.items()}
    n_u, n_i = degrees(ratings)
    seen = observations(ratings)
    for position in order:
        u, i, r, w = seen[position]
        error = r - numpy_predict(theta, u, i)
        share_u, share_i = power(n_u[u], nu - 1), power(n_i[i], nu - 1)
        P, Q, b, c, A, X = (theta[name] for name in "PQbcAX")
        steps = {
            ("P", u): rate * w * (-2 * error * Q[i] + 2 * l2 * share_u * P[u]),
            ("Q", i): rate * w * (-2 * error * P[u] + 2 * l2 * share_i * Q[i]),
            ("A", u): rate * w * (-2 * error * X[i] + 2 * l2 * share_u * A[u]),
        }
        if theta["biased"]:
            steps["b", u] = rate_bias * w * (-2 * error + 2 * l2_bias * share_u * b[u])
            steps["c", i] = rate_bias * w * (-2 * error + 2 * l2_bias * share_i * c[i])
        for (name, row), step in steps.items() if w else ():
            moved = theta[name][row] - np.clip(step, -clip_update, clip_update)
            theta[name][row] = np.clip(moved, -clip_value, clip_value)
    return theta


def numpy_minibatch(theta: dict, ratings: Ratings, hyper: Hyper, batches, momentum=0.0, nesterov=False) -> dict:
    """The batch's weighted mean error plus the whole penalty / |Ω|, over all rows at every step."""
    l2, l2_bias, nu, rate, rate_bias = numbers(hyper)
    theta = {name: np.copy(value) for name, value in theta.items()}
    n_u, n_i = degrees(ratings)
    seen = observations(ratings)
    total = sum(w for *_, w in seen)
    power_u, power_i = np.array([power(n, nu) for n in n_u]), np.array([power(n, nu) for n in n_i])
    velocity = {name: np.zeros_like(theta[name]) for name in "PQbcA"}
    for batch in batches:
        rows = [seen[position] for position in batch if position < len(seen)]
        size = sum(w for *_, w in rows) or 1.0
        pull = {
            "P": 2 * l2 * power_u[:, None] * theta["P"] / total,
            "Q": 2 * l2 * power_i[:, None] * theta["Q"] / total,
            "b": 2 * l2_bias * power_u * theta["b"] / total,
            "c": 2 * l2_bias * power_i * theta["c"] / total,
            "A": 2 * l2 * power_u[:, None] * theta["A"] / total,
        }
        for u, i, r, w in rows:
            slope = -2 * w * (r - numpy_predict(theta, u, i)) / size
            pull["P"][u] += slope * theta["Q"][i]
            pull["Q"][i] += slope * theta["P"][u]
            pull["b"][u] += slope
            pull["c"][i] += slope
            pull["A"][u] += slope * theta["X"][i]
        for name in "PQAbc" if theta["biased"] else "PQA":
            velocity[name] = pull[name] + momentum * velocity[name]
            step = pull[name] + momentum * velocity[name] if nesterov else velocity[name]
            theta[name] = theta[name] - (rate_bias if name in "bc" else rate) * step
    return theta


def numpy_als(theta: dict, ratings: Ratings, hyper: Hyper, side: str) -> dict:
    """One half-step: each row of the side solves its own normal equations; rows without weight become 0."""
    l2, l2_bias, nu, _, _ = numbers(hyper)
    theta = {name: np.copy(value) for name, value in theta.items()}
    own, other, bias, other_bias = ("P", "Q", "b", "c") if side == "user" else ("Q", "P", "c", "b")
    n = degrees(ratings)[side == "item"]
    rank, one = theta["P"].shape[1], [1.0] if theta["biased"] else []
    content = theta["X"].shape[1] if side == "user" else 0
    ridge = np.diag([l2] * (rank + content) + [l2_bias] * len(one))
    for row in range(len(n)):
        A, rhs = np.zeros_like(ridge), np.zeros(len(ridge))
        for u, i, r, w in observations(ratings):
            mine, others = (u, i) if side == "user" else (i, u)
            if mine == row:
                known = 0.0 if content else np.dot(theta["A"][u], theta["X"][i])
                d = np.concatenate([theta[other][others], theta["X"][i, :content], one])
                A += w * np.outer(d, d)
                rhs += w * (r - theta["m"][u] - theta[other_bias][others] - known) * d
        z = np.linalg.solve(A + power(n[row], nu) * ridge, rhs) if n[row] > 0 else np.zeros(len(ridge))
        theta[own][row] = z[:rank]
        if content:
            theta["A"][row] = z[rank : rank + content]
        if theta["biased"]:
            theta[bias][row] = z[-1]
    return theta


class Study(NamedTuple):
    """A folder of results, and what `run` returned."""

    out: Path
    returned: pd.DataFrame

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.out / f"{name}.csv")

    def config(self) -> dict:
        return json.loads((self.out / "config.json").read_text(encoding="utf-8"))
