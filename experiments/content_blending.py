"""Document 001: biased factorization blended with the items' content, on MovieLens.

    python -m experiments.content_blending [--data NAME] [--out FOLDER] [--smoke]

1. Do its models and settings reproduce its figures, over ten seeds, and what is the effect of its misplaced content?
2. Its search, for factors with biases and with full or reduced content: which is best on validation, and on test?
3. Where does content help? Errors by the number of the item's training ratings, with cold items apart.

The bug: its TF-IDF has one row per rating, and row i is used for item i, so that items get the words of other items.
Writes tables (CSV), figures and summary.md; float32. Everything is chosen on validation; test is used once per model.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from scipy import stats

import jaxmf
from experiments.setting import (
    Parts,
    Setting,
    by_time,
    compared,
    default_data,
    over_seeds,
    setting,
    shown,
    spread,
    user_then_time,
)
from jaxmf import Hyper, Model, Params, Ratings, Rows, content, evaluate, models, plot, search, solvers
from jaxmf.data import Dataset
from jaxmf.files.output import markdown
from jaxmf.sweeps import Sweep

SEED, K, THRESHOLD, PATIENCE, COMPONENTS = 0, 10, 3.5, 5, 64
# The document's update lr·(e·q − λ·p) is half of a gradient step.
BIASED = Hyper(3.677e-05, reg_exponent=1.0, learning_rate=0.012377 / 2, init_scale=0.01)
CONTENT = Hyper(1.6073221934120177e-05, reg_exponent=1.0, learning_rate=0.008089574860460297 / 2, init_scale=0.01)
SPACE: dict[str, Any] = {"rank": (5, 50), "learning_rate": (0.5e-4, 0.5e-1, "log"), "l2": (1e-5, 1e-1, "log")}
SOLVER = solvers.sgd(clip_update=5.0)
PLAIN, FULL, REDUCED = "biases", "content in full", "content reduced"
MISPLACED, LAST = "content misplaced", "content misplaced, epoch 21"
EDGES, SEEN = (0, 1, 3, 10, 30, 100), "training ratings of the item"
DIFFERENCE = "difference of users' MSE"


class Fitted(NamedTuple):
    """A model fitted from several seeds: a row per seed, the fits, and each user's ranking metrics, mean over seeds."""

    table: pd.DataFrame
    runs: Sweep
    by_user: pd.DataFrame


def misplaced(data: Dataset, features: Any) -> Any:
    """Return the features as the document assigns them: its i-th item gets those of the item of its i-th rating."""
    rated = data.item[user_then_time(data)]
    numbered = pd.unique(rated)
    source = np.arange(data.num_items)
    source[numbered] = rated[: len(numbered)]
    return features[source]


def fitted(
    name: str,
    model: Model,
    parts: Sequence[Dataset],
    hyper: Hyper,
    num_seeds: int,
    epochs: int,
    patience: int | None = PATIENCE,
    baselines: bool = False,
) -> Fitted:
    """Fit a model from several seeds; compute errors and rankings of each user's test items, and maybe of baselines."""
    table, runs = over_seeds(model, SOLVER, parts, hyper, num_seeds, epochs, patience)
    train, _, test = parts
    judge = partial(evaluate.ranking_by_user, k=K, protocol="rated", threshold=THRESHOLD, empty="zero", name=name)
    ranked = [
        judge(model, runs.params(seed), train, test, baselines=baselines and seed == 0) for seed in range(num_seeds)
    ]
    table = table.assign(variant=name)
    for metric in ("precision", "recall"):
        table[metric] = [by_user.loc[by_user["model"] == name, metric].mean() for by_user in ranked]
    means = pd.concat(ranked).groupby(["model", "protocol", "k", "threshold", "user_id"], sort=False).mean()
    return Fitted(table, runs, means.reset_index())


def search_ranges(name: str, model: Model, parts: Parts, trials: int, epochs: int) -> pd.DataFrame:
    """Search the document's ranges by TPE, in batches of eight, on validation."""
    problem = jax.random.key(SEED), model, SOLVER, *parts[:2]
    start = Hyper(init_scale=0.01)
    searched = search.optuna(
        *problem, space=SPACE, trials=trials, epochs=epochs, hyper=start, patience=PATIENCE, keep="none", progress=True
    )
    return searched.runs.to_frame().assign(variant=name, document_rate=lambda table: 2 * table["learning_rate"])


def at_rank(model: Model, rank: int) -> Model:
    """Return the same model with factors of that rank."""
    assert model.with_rank is not None
    return model.with_rank(rank)


def squared_errors(fits: dict[str, Fitted], parts: Sequence[Dataset]) -> pd.DataFrame:
    """Return the squared error of every test rating, model and seed, with its user and its item's rating count."""
    train, _, test = parts
    seen = np.bincount(train.item, minlength=train.num_items)[test.item]
    labels = [*(f"{a}" if b == a + 1 else f"{a} to {b - 1}" for a, b in pairwise(EDGES)), f"{EDGES[-1]}+"]
    about = pd.DataFrame({"user": test.user, SEEN: pd.cut(seen, [*EDGES, np.inf], right=False, labels=labels)})
    runs = [(name, seed, fit.runs) for name, fit in fits.items() for seed in fit.table.index]
    predictors = [(name, seed, sweep.model(seed), sweep.params(seed)) for name, seed, sweep in runs]
    damped = models.damped_bias()
    predictors.append(("damped bias", 0, damped, damped.init(None, train.ratings, Hyper())))
    frame = test.to_frame()
    tables = []
    for name, seed, model, params in predictors:
        error = test.rating - evaluate.predict(model, params, test, frame).to_numpy()
        tables.append(about.assign(variant=name, seed=seed, squared=error**2))
    return pd.concat(tables, ignore_index=True)


def by_popularity(squared: pd.DataFrame) -> pd.DataFrame:
    """Return the RMSE of every model and seed, by the number of the item's training ratings."""
    groups = squared.groupby(["variant", "seed", SEEN], sort=False, observed=True)["squared"]
    table = groups.agg(["mean", "size"]).reset_index()
    return table.assign(test_rmse=np.sqrt(table["mean"])).rename(columns={"size": "num_test"}).drop(columns="mean")


def paired(squared: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Compare each model with a reference on users' MSE, averaged over seeds, by Wilcoxon's signed-rank test."""
    users = squared.pivot_table("squared", "user", "variant")
    rows = []
    for name in users.columns.drop(reference):
        difference = users[name] - users[reference]
        interval = stats.bootstrap((difference,), np.mean, method="percentile", random_state=SEED).confidence_interval
        row = {"variant": name, "reference": reference, DIFFERENCE: difference.mean()}
        row |= {"low": interval.low, "high": interval.high, "p": stats.wilcoxon(difference).pvalue}
        rows.append(row | {"users better": float((difference < 0).mean()), "users": len(difference)})
    return pd.DataFrame(rows)


def worked(features: np.ndarray | None) -> tuple[float, Rows]:
    """Run the document's worked example, with or without content; return its prediction and the updated rows."""
    U = [[0.1, 0.2, 0.3, 0.4, 0.5], [0.2, 0.3, 0.1, 0.5, 0.4], [0.3, 0.1, 0.2, 0.4, 0.3]]
    V = [[0.4, 0.3, 0.5, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4, 0.5], [0.5, 0.4, 0.3, 0.2, 0.1]]
    user, item = {"bias": [0.1, 0.2, 0.3], "factors": U}, {"bias": [0.2, 0.3, 0.4], "factors": V}
    # The document adds up 0.55, 0.07 and 0.18 to 0.81: adding 0.01 to the mean gives the prediction that it uses.
    fixed = Rows(shared={"mean": 3.0 if features is None else 3.01})
    model = models.biased_mf(5)
    if features is not None:
        user["content"] = [[0.1, 0.2], [0.3, 0.1], [0.4, 0.3]]
        model, fixed = models.content_mf(5, features), fixed._replace(item={"content": features})
    before = Params(*jax.tree.map(jnp.asarray, (Rows(user, item), fixed), is_leaf=lambda x: isinstance(x, list)))
    ratings = Ratings(jnp.array([0]), jnp.array([1]), jnp.array([4.0]), jnp.ones(1), num_users=3, num_items=3)
    begun = model._replace(init=lambda key, ratings, hyper: before)
    hyper = Hyper(0.1, reg_exponent=1.0, learning_rate=0.01 / 2)
    fit = jaxmf.fit(jax.random.key(SEED), begun, solvers.sgd(4), ratings, hyper=hyper, epochs=1, track=False)
    return float(model.predict(before, ratings)[0]), fit.params.trained


def worked_rows() -> list[tuple[str, Any, Any]]:
    """Return every printed number of the worked examples, and ours."""
    rows: list[tuple[str, Any, Any]] = []
    content_rows = np.array([[0.6, 0.8], [0.7, 0.9], [0.5, 0.4]], np.float32)
    examples = {
        "without": (None, 3.95, 0.1004, 0.3002, (0.09995, 0.1999, 0.29985, 0.3998, 0.49975)),
        "with": (content_rows, 4.21, 0.0978, 0.2976, (0.09969, 0.19938, 0.29907, 0.39876, 0.49845, 0.09843, 0.19791)),
    }
    for word, (features, prediction, user_bias, item_bias, factors) in examples.items():
        predicted, (user, item, _) = worked(features)
        rows.append((f"worked example {word} content: prediction", prediction, predicted))
        rows.append((f"worked example {word} content: user bias", user_bias, float(user["bias"][0])))
        rows.append((f"worked example {word} content: item bias", item_bias, float(item["bias"][1])))
        updated = np.concatenate([np.asarray(user[name][0]) for name in ("factors", "content") if name in user])
        pairs = enumerate(zip(factors, updated, strict=True))
        rows += [(f"worked example {word} content: P[0, {n}]", printed, ours) for n, (printed, ours) in pairs]
    return rows


def worked_loss(predicted: Sequence[float]) -> float:
    """Return the objective of the document's three ratings, with the predictions and squared norms that it states.

    No factors have both, so a fixed mean per user, which is not penalized, makes up the difference.
    """
    model = models.biased_mf(5)
    user, item, value = jnp.array([0, 1, 2]), jnp.array([1, 2, 0]), jnp.array([4.0, 3.5, 5.0])
    ratings = Ratings(user, item, value, jnp.ones(3), num_users=3, num_items=3)
    trained = Rows(
        {"bias": jnp.full(3, (0.2 / 3) ** 0.5), "factors": jnp.full((3, 5), (1.2 / 15) ** 0.5)},
        {"bias": jnp.full(3, (0.3 / 3) ** 0.5), "factors": jnp.full((3, 5), (0.8 / 15) ** 0.5)},
    )
    fixed = Rows(shared={"mean": jnp.array(3.0)})
    shortfall = jnp.array(predicted) - model.predict(Params(trained, fixed), ratings)
    params = Params(trained, fixed._replace(user={"mean": shortfall}))
    return float(models.objective(model, params, ratings, Hyper(0.1, reg_exponent=0.0)))


def its_popularity(test: Dataset) -> float:
    """Return precision@10 of the document's popularity: the ten items with the highest mean *test* rating, for all."""
    frame = test.to_frame()
    means = frame.groupby("item_id")["rating"].mean()
    top = means.sort_values(ascending=False).index[:K]  # the document's own line: an unstable sort orders the ties
    hits = frame["item_id"].isin(top) & (frame["rating"] >= THRESHOLD)
    precision: float = float(hits.sum()) / K / frame["user_id"].nunique()
    return precision


def against_document(data: Dataset, parts: Sequence[Dataset], fits: dict[str, Fitted], terms: int) -> pd.DataFrame:
    """Return the table of the document's numbers beside ours."""
    train, _, test = parts
    plain, bug, last = (fits[name].table for name in (PLAIN, MISPLACED, LAST))
    rows: list[tuple[str, Any, Any]] = [
        ("training ratings", 70312, len(train)),
        ("validation ratings", 15102, len(parts[1])),
        ("test ratings", 15422, len(test)),
        ("terms of TF-IDF", 1675, terms),
        ("sparsity, %", 98.8146, 100 * (1 - len(train) / (data.num_users * data.num_items))),
        ("best validation MSE, biases", 0.7712, plain["valid_mse"]),
        ("best epoch, biases", 17, plain["best_epoch"]),
        ("best validation MSE, content misplaced", 0.8027, bug["valid_mse"]),
        ("test RMSE, content misplaced, epoch 21", 0.9171, last["test_rmse"]),
        ("precision@10, content misplaced, epoch 21", 0.5636, last["precision"]),
        ("recall@10, content misplaced, epoch 21", 0.6994, last["recall"]),
        ("precision@10, its popularity", 0.0016, its_popularity(test)),
        ("worked loss without content", 0.3025, worked_loss((3.95, 3.6, 4.8))),
        ("worked loss with content", 0.2625, worked_loss((4.0, 3.55, 4.9))),
        *worked_rows(),
    ]
    losses = "its losses include the penalty, and an epoch of ours has fewer orders than a full shuffle"
    by_chance = "one run by chance; it counts words once per rating, and updates Q by the new P"
    why = {"best validation MSE, biases": losses, "best epoch, biases": losses}
    why |= dict.fromkeys((row[0] for row in rows if "misplaced" in row[0]), by_chance)
    table = compared(rows, why)
    table.loc[table["within"] == "yes", "why"] = ""
    table.loc[table["figure"] == "precision@10, its popularity", "why"] = (
        "its ten items have the highest mean in test, of one rating each: almost nobody else rated them"
    )
    return table


def in_words(here: Setting, results: dict[str, Any]) -> list[str]:
    """Return the paragraphs of summary.md; every number in them is also in a table beside it."""
    columns = ["best_epoch", "valid_mse", "precision", "recall", "test_rmse"]
    settings = spread(results["settings"], ["variant"], columns)
    chosen = spread(results["chosen"], ["variant"], columns).set_index("variant")
    best = chosen["valid_mse"].idxmin()
    pair = results["paired"].set_index("variant").loc[best if best != PLAIN else FULL]
    ranking = results["ranking"].pivot_table("value", "model", "metric")["precision"]
    popularity = results["popularity"].pivot_table("test_rmse", SEEN, "variant", observed=True)
    cold = ", ".join(f"{name} {value:.4f}" for name, value in popularity.loc["0"].items())
    right, wrong = (settings.set_index("variant")["test_rmse"][name] for name in (FULL, MISPLACED))
    tried = ["variant", "rank", "l2", "document_rate", "status", "epoch", "train_loss", "valid_loss"]
    best_trials = results["search"].sort_values("valid_loss").groupby("variant", sort=False).head(3)
    return [
        "# Biases, content, and both",
        f"{here.data.describe()['name']}, {len(here.data):,} ratings, split by each user's time into train, valid and "
        f"test. Per-sample SGD, updates clipped to ±5, patience {PATIENCE}, the best epoch kept; "
        f"{results['num_seeds']} seeds, float32, predictions not clipped. Precision and recall are of each user's own "
        f"test items, at {K}, relevant from {THRESHOLD}; a user with none relevant counts as 0.",
        f"- **Chosen on validation: {best}, with a test RMSE of {chosen['test_rmse'][best]:.4f} "
        f"({chosen['low'][best]:.4f} to {chosen['high'][best]:.4f}) and precision@10 "
        f"{chosen['precision'][best]:.4f}**; the damped bias has {ranking['damped_bias']:.4f}, random order "
        f"{ranking['random']:.4f}.\n"
        f"- User by user, {pair.name} differs from {pair['reference']} by {pair[DIFFERENCE]:+.4f} of MSE "
        f"({pair['low']:+.4f} to {pair['high']:+.4f}; p = {pair['p']:.1e} by signed ranks), and is better for "
        f"{pair['users better']:.0%} of {pair['users']} users.\n"
        f"- With the document's settings content has {right:.4f} where its rows are right, and {wrong:.4f} where they "
        "are those of other items, as in the document, which prints 0.9171.\n"
        f"- Test RMSE of items without a training rating: {cold}.",
        "## 1. The document's settings",
        markdown(settings),
        "![Validation MSE by epoch](figures/settings.png)",
        "## 2. Its search",
        f"The document's ranges, {results['trials']} trials for each model, the three best of each:",
        markdown(best_trials[tried]),
        "Those chosen, over seeds:",
        markdown(chosen.reset_index()),
        "Rankings of each user's own test items, with intervals over users, and differences from the damped "
        "bias and from factors with biases (Wilcoxon's test, Holm's correction):",
        "![Rankings](figures/rankings.png)",
        markdown(results["compared"].drop(columns=["protocol", "k", "threshold"])),
        "Squared errors, user by user:",
        markdown(results["paired"]),
        "## 3. Whom content helps",
        "![Test RMSE by ratings of the item](figures/popularity.png)",
        markdown(popularity.reset_index()),
        "## The document's figures",
        markdown(shown(results["document"])),
    ]


def main() -> None:
    """Run the study."""
    here = setting("content_blending", __doc__ or "", default_data)
    smoke = here.smoke
    num_seeds, trials, epochs, steps = (2, 2, 1, 2) if smoke else (10, 30, 50, 25)
    about = {"seeds": num_seeds, "trials": trials, "epochs": epochs, "space": SPACE, "components": COMPONENTS}
    manifest = here.begin(about | {"k": K, "threshold": THRESHOLD}, SEED)
    parts = by_time(here.data)
    terms = content.tfidf(parts[0])
    reduced = content.tfidf(parts[0], components=COMPONENTS)
    variants = {
        PLAIN: (models.biased_mf(42), BIASED, epochs),
        FULL: (models.content_mf(28, terms), CONTENT, 2 * epochs),
        REDUCED: (models.content_mf(28, reduced), CONTENT, 2 * epochs),
        MISPLACED: (models.content_mf(28, misplaced(here.data, terms)), CONTENT, 2 * epochs),
    }
    if smoke:
        del variants[REDUCED]
    reproduced = {name: fitted(name, model, parts, hyper, num_seeds, n) for name, (model, hyper, n) in variants.items()}
    reproduced[LAST] = (
        reproduced[MISPLACED]
        if smoke
        else fitted(LAST, variants[MISPLACED][0], parts, CONTENT, num_seeds, min(21, epochs), patience=None)
    )
    results: dict[str, Any] = about | {"num_seeds": num_seeds}
    results["settings"] = pd.concat([fit.table for fit in reproduced.values()], ignore_index=True)

    search_models = {
        name: at_rank(variant[0], SPACE["rank"][1]) for name, variant in variants.items() if name != MISPLACED
    }
    tried = [search_ranges(name, model, parts, trials, steps) for name, model in search_models.items()]
    results["search"] = pd.concat(tried, ignore_index=True)
    best = results["search"].sort_values("valid_loss").groupby("variant", sort=False).first()
    fits: dict[str, Fitted] = {}
    for name, row in best.iterrows():
        hyper = Hyper(row["l2"], learning_rate=row["learning_rate"], init_scale=0.01)
        model = at_rank(search_models[name], int(row["rank"]))
        fits[name] = fitted(name, model, parts, hyper, num_seeds, epochs, baselines=not fits)
    results["chosen"] = pd.concat([fit.table for fit in fits.values()], ignore_index=True)
    by_user = pd.concat([fit.by_user for fit in fits.values()])
    results["ranking"] = evaluate.summarize(by_user)
    metrics = ("precision", "recall")
    comparisons = [
        evaluate.compare(by_user[by_user["model"] != "oracle"], name, metrics) for name in ("damped_bias", PLAIN)
    ]
    results["compared"] = pd.concat(comparisons).query("model in @fits")
    squared = squared_errors(fits, parts)
    results["paired"] = paired(squared, PLAIN)
    results["popularity"] = by_popularity(squared)
    results["document"] = against_document(here.data, parts, reproduced, content.tfidf(here.data).shape[1])
    for name in ("settings", "search", "chosen", "ranking", "compared", "paired", "popularity", "document"):
        here.table(name, results[name])
    history = pd.concat([fit.runs.history.assign(variant=name) for name, fit in reproduced.items()])
    here.figure("settings", plot.curves(history, "valid_loss", ["variant"]))
    here.figure("popularity", plot.panel(results["popularity"], ("test_rmse",), SEEN, "variant"))
    solver = results["ranking"]["model"].isin(list(fits)).map({True: "sgd", False: "closed form"})
    here.figure(
        "rankings", plot.rankings(results["ranking"].assign(solver=solver), ("precision", "recall", "auc", "ndcg"))
    )
    here.finish(manifest, in_words(here, results))


if __name__ == "__main__":
    main()
