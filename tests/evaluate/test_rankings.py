"""Ranking measures against loops over every order of the ties, scikit-learn, and numbers found by hand."""

import itertools
import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import COMPILED, HYPER, MODELS, init, observations, random_ratings
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score

from jaxmf import Dataset, Hyper, Model, Params, Rows, datasets, evaluate, models, splits
from jaxmf.evaluate import _positions
from jaxmf.evaluate._measures import METRICS
from jaxmf.kernels._memoize import notes

# A model whose scores are a table, by which tests say what ties with what.
TABLE = Model(
    init=None,
    predict=lambda params, pairs: params.fixed.user["score"][pairs.user, pairs.item],
    loss=None,
    penalty=None,
    name="table",
    embed=lambda params: (params.fixed.user["score"], params.fixed.item["one"]),
)
SLOW = TABLE._replace(embed=None, name="slow")
TRAIN = random_ratings(folds=True)
TEST = random_ratings(seed=5, num_ratings=70, folds=True)
COUNTED = ["num_candidates", "num_relevant"]


def table(seed=0, levels=4, shape=(17, 13)):
    """Parameters of TABLE with scores of so few levels that they tie."""
    return of(jnp.asarray(np.random.default_rng(seed).integers(0, levels, shape), float))


def of(score):
    """Parameters of TABLE with these scores."""
    return Params(Rows(), Rows({"score": score}, {"one": jnp.eye(score.shape[1], dtype=score.dtype)}))


def orders(score):
    """Every order of the candidates by falling score."""
    groups = [[i for i in score if score[i] == level] for level in sorted(set(score.values()), reverse=True)]
    for parts in itertools.product(*(itertools.permutations(group) for group in groups)):
        yield [i for part in parts for i in part]


def of_one_order(order, relevant, k, novelty):
    gain = [float(i in relevant) for i in order[:k]]
    hits, R = sum(gain), len(relevant)
    ideal = sum(1 / math.log2(1 + j) for j in range(1, min(R, k) + 1))
    precisions = [g * sum(gain[: j + 1]) / (j + 1) for j, g in enumerate(gain)]
    pairs = [(order.index(i), order.index(other)) for i in relevant for other in order if other not in relevant]
    return {
        "precision": hits / k,
        "recall": hits / R if R else np.nan,
        "capped_recall": hits / min(R, k) if R else np.nan,
        "ndcg": sum(g / math.log2(2 + j) for j, g in enumerate(gain)) / ideal if R else np.nan,
        "map": sum(precisions) / min(R, k) if R else np.nan,
        "mrr": max(g / (j + 1) for j, g in enumerate(gain)),
        "hit_rate": max(gain),
        "auc": sum(a < b for a, b in pairs) / len(pairs) if pairs else np.nan,
        "novelty": sum(novelty[i] for i in order[:k]) / len(order[:k]),
    }


def by_loops(score, train, test, k, protocol, threshold, exclude=()):
    """Table of the users as `ranking_by_user` has it, and coverage."""
    seen = {(u, i) for u, i, _, w in observations(train) if w} | set(exclude)
    known = len({u for u, _, _, w in observations(train) if w})
    novelty = [
        math.log2((known + 1) / (sum(w for _, j, _, w in observations(train) if j == i) + 1))
        for i in range(train.num_items)
    ]
    rows, missed, possible = [], np.ones(train.num_items), set()
    for u in range(train.num_users):
        tested = {i: r for v, i, r, w in observations(test) if v == u and w}
        candidates = list(tested)
        if protocol == "catalog":
            candidates = [i for i in range(train.num_items) if (u, i) not in seen]
        tested = {i: r for i, r in tested.items() if i in candidates}
        if not tested:
            continue
        relevant = [i for i, r in tested.items() if r >= threshold]
        found, chance, number = dict.fromkeys(METRICS, 0.0), np.zeros(train.num_items), 0
        for order in orders({i: score[u][i] for i in candidates}):
            for name, value in of_one_order(order, relevant, k, novelty).items():
                found[name] += value
            chance[order[:k]] += 1
            number += 1
        missed *= 1 - chance / number
        possible |= set(candidates)
        means = {name: value / number for name, value in found.items()}
        rows.append({"user_id": u, "num_candidates": len(candidates), "num_relevant": len(relevant), **means})
    return pd.DataFrame(rows), np.sum(1 - missed) / len(possible)


@pytest.mark.parametrize("number", [float, np.float32, np.float64, np.float16], ids=lambda kind: kind.__name__)
def test_a_number_of_numpy_is_a_threshold_like_pythons(number):
    """Ratings of 4.5 and 4.1 in float32 reach such a threshold, and as many positions count."""
    value = jnp.where(jnp.arange(len(TEST.value)) % 2, 4.1, 4.5).astype(jnp.float32)
    test = replace(TEST, value=value, weight=TEST.weight.astype(jnp.float32))
    low: Any = number(4.1) if number is not np.float16 else number(4.0)
    k: Any = np.int8(127)
    found = evaluate.ranking_by_user(TABLE, table(), TRAIN, test, k, "rated", low, baselines=False)
    assert found["num_relevant"].tolist() == found["num_candidates"].tolist()


@pytest.mark.parametrize("protocol", ["rated", "catalog"])
@pytest.mark.parametrize(("k", "levels", "threshold"), [(1, 4, 3.5), (3, 5, 3.0), (5, 9, 4.0), (50, 6, 3.5)])
def test_measures_equal_the_loops(protocol, k, levels, threshold):
    params = table(k, levels)
    score = np.asarray(params.fixed.user["score"])
    expected, coverage = by_loops(score, TRAIN, TEST, k, protocol, threshold)
    assert (expected["num_relevant"] == 0).any()
    assert expected["num_relevant"].max() > 1
    assert len(expected) < TEST.num_users
    given = (TABLE, params, TRAIN, TEST, k, protocol, threshold)
    found = evaluate.ranking_by_user(*given, baselines=False)
    assert found.columns.tolist() == ["model", "protocol", "k", "threshold", "user_id", *COUNTED, *METRICS]
    assert found[["model", "protocol", "k", "threshold"]].drop_duplicates().to_dict("records") == [
        {"model": "table", "protocol": protocol, "k": k, "threshold": threshold}
    ]
    pd.testing.assert_frame_equal(found[expected.columns], expected, rtol=1e-12, check_dtype=False)

    means = evaluate.ranking(*given).set_index(["model", "metric"])
    assert means.loc[("table", "coverage"), "value"] == pytest.approx(coverage, rel=1e-12)
    for name in METRICS:
        own = means.loc[("table", name)]
        assert own["value"] == pytest.approx(expected[name].mean(), rel=1e-12)
        assert own["num_users"] == expected[name].notna().sum()
        assert own["low"] <= own["value"] <= own["high"]
    assert means.loc[("oracle", "ndcg"), "value"] == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("by", ["activity", "popularity"])
def test_groups_are_ranked_like_parts_of_the_test_ratings(by):
    """Users by their training ratings; relevant items by theirs, those of other groups being no candidates."""
    params = table(3, 9)
    score = np.asarray(params.fixed.user["score"])
    found = evaluate.ranking_by_group(TABLE, params, TRAIN, TEST, by=by, groups=2, k=3, threshold=3.0, baselines=False)
    bounds = found[["by", "from_count", "to_count"]].drop_duplicates().to_numpy().tolist()
    assert [name for name, *_ in bounds] == [by, by]
    assert bounds[0][2] < bounds[1][1]
    rows = observations(TRAIN)
    for _, low, _ in bounds:
        own = 0 if by == "activity" else 1
        count = np.bincount([row[own] for row in rows if row[3]], minlength=17)
        # The bounds are of relevant ratings; the first group has all that is below the second.
        inside = (count < bounds[1][1]) if low == bounds[0][1] else (count >= bounds[1][1])
        kept = np.array([bool(inside[row[own]]) for row in observations(TEST)])
        left = {row[:2] for row, mask in zip(observations(TEST), kept, strict=True) if row[3] and not mask}
        part = replace(TEST, weight=TEST.weight * kept)
        expected, _ = by_loops(score, TRAIN, part, 3, "catalog", 3.0, left if by == "popularity" else ())
        values = found[found["from_count"] == low].set_index("metric")["value"]
        for name in METRICS:
            assert values[name] == pytest.approx(expected[name].mean(), rel=1e-12)
    whole = evaluate.ranking_by_group(TABLE, params, TRAIN, TEST, by=by, groups=1, k=3, threshold=3.0)
    same = evaluate.ranking(TABLE, params, TRAIN, TEST, 3, threshold=3.0)
    pd.testing.assert_frame_equal(whole.drop(columns=["by", "from_count", "to_count"]), same)


def test_empty_users_count_as_zero_on_request():
    given = {"model": TABLE, "params": table(), "train": TRAIN, "test": TEST, "baselines": False}
    skipped, zero = (evaluate.ranking_by_user(**given, empty=empty) for empty in ("skip", "zero"))
    empty = skipped["num_relevant"] == 0
    for name in ("recall", "capped_recall", "ndcg", "map"):
        assert skipped.loc[empty, name].isna().all()
        assert (zero.loc[empty, name] == 0).all()
    rest = [name for name in METRICS if name not in ("recall", "capped_recall", "ndcg", "map")]
    pd.testing.assert_frame_equal(zero.loc[~empty], skipped.loc[~empty])
    pd.testing.assert_frame_equal(zero[rest], skipped[rest])
    assert (skipped.loc[empty, ["precision", "mrr", "hit_rate"]] == 0).all(axis=None)


@pytest.mark.parametrize("levels", [3, 10**6], ids=["ties", "no ties"])
def test_as_scikit_learn_has_them(levels):
    """ndcg and auc with ties and without, average precision without them and to the end of the candidates."""
    params = table(1, levels)
    found = evaluate.ranking_by_user(TABLE, params, TRAIN, TEST, k=4, empty="zero", baselines=False)
    whole = evaluate.ranking_by_user(TABLE, params, TRAIN, TEST, k=13, empty="zero", baselines=False)
    seen = {(u, i) for u, i, _, w in observations(TRAIN) if w}
    liked = {(u, i) for u, i, r, w in observations(TEST) if w and r >= 3.5}
    for u, ndcg, precision, auc in zip(found["user_id"], found["ndcg"], whole["map"], found["auc"], strict=True):
        items = [i for i in range(13) if (u, i) not in seen]
        truth = np.array([(u, i) in liked for i in items])
        score = np.asarray(params.fixed.user["score"])[u, items]
        assert ndcg == pytest.approx(ndcg_score([truth], [score], k=4), rel=1e-12)
        if truth.any():
            assert auc == pytest.approx(roc_auc_score(truth, score), rel=1e-12)
            if levels > 3:
                assert precision == pytest.approx(average_precision_score(truth, score), rel=1e-12)


HAND = Dataset.from_arrays(list("aaabbc"), [1, 2, 3, 1, 2, 1], [5.0, 3.0, 2.0, 4.0, 5.0, 1.0])
HAND_TEST = HAND.align(Dataset.from_arrays(["b", "c", "c"], [3, 2, 3], [5.0, 2.0, 4.0]))


def test_baselines_by_hand():
    """Items 1, 2, 3 have 3, 2 and 1 ratings with means 10/3, 4 and 2. Of b, item 3 is the only candidate, and relevant;
    c may get item 2, which is not, or item 3, which is."""
    params = models.global_mean().init(None, HAND.ratings, Hyper())
    given = (models.global_mean(), params, HAND, HAND_TEST, 1)
    found = evaluate.ranking(*given).set_index(["model", "metric"])["value"].unstack()  # noqa: PD010
    one = dict.fromkeys(("precision", "recall", "capped_recall", "ndcg", "map", "mrr", "hit_rate"), 1.0)
    half, three = dict.fromkeys(one, 0.5), dict.fromkeys(one, 0.75)
    one_bit, bits = math.log2(4 / 2), math.log2(4 / 3)
    expected = {
        # c: item 2 first. Items 2 and 3 are in somebody's first place, and nobody could get item 1.
        "popularity": half | {"auc": 0.0, "coverage": 1.0, "novelty": (one_bit + bits) / 2},
        "item_mean": half | {"auc": 0.0, "coverage": 1.0, "novelty": (one_bit + bits) / 2},
        # c: item 2 or 3, each with chance ½.
        "random": three | {"auc": 0.5, "coverage": 0.75, "novelty": (one_bit + (one_bit + bits) / 2) / 2},
        "global_mean": three | {"auc": 0.5, "coverage": 0.75, "novelty": (one_bit + (one_bit + bits) / 2) / 2},
        "oracle": one | {"auc": 1.0, "coverage": np.nan, "novelty": np.nan},
    }
    for name, values in expected.items():
        assert found.loc[name].to_dict() == pytest.approx(values, rel=1e-6, nan_ok=True), name
    assert list(evaluate.ranking(*given)["model"].unique()) == [
        *("global_mean", "random", "popularity", "item_mean", "damped_bias", "oracle")
    ]
    by_user = evaluate.ranking_by_user(*given)
    assert by_user["user_id"].tolist() == ["b", "c"] * 6


@pytest.mark.parametrize("protocol", ["rated", "catalog"])
def test_baselines_equal_the_loops(protocol):
    """Also for an item without training ratings, which has their mean."""
    seen = [(i, r) for _, i, r, w in observations(TRAIN) if w]
    of_item = [[r for i, r in seen if i == item] for item in range(13)]
    mean = sum(r for _, r in seen) / len(seen)
    scores = {"popularity": [len(x) for x in of_item], "item_mean": [sum(x) / len(x) if x else mean for x in of_item]}
    assert not of_item[0]
    assert not of_item[12]
    found = evaluate.ranking_by_user(TABLE, table(), TRAIN, TEST, 3, protocol)
    for name, score in scores.items():
        expected, _ = by_loops([score] * 17, TRAIN, TEST, 3, protocol, 3.5)
        own = found[found["model"] == name].reset_index(drop=True)
        pd.testing.assert_frame_equal(own[expected.columns], expected, rtol=1e-12, check_dtype=False)


def test_the_damped_bias_is_the_model():
    model = models.damped_bias()
    params = model.init(None, TRAIN, Hyper())
    for protocol in ("rated", "catalog"):
        found = evaluate.ranking_by_user(model, params, TRAIN, TEST, 3, protocol, name="own")
        own, baseline = (found[found["model"] == name].drop(columns="model") for name in ("own", "damped_bias"))
        pd.testing.assert_frame_equal(own.reset_index(drop=True), baseline.reset_index(drop=True))


@pytest.mark.parametrize("protocol", ["rated", "catalog"])
def test_the_numbers_of_the_items_do_not_matter(protocol):
    """Neither for a tie nor for anything else: all models, with items and observations in another order."""
    rng = np.random.default_rng(0)
    renamed, params = rng.permutation(13), table(levels=3)
    score = params.fixed.user["score"]
    other_params = of(score[:, np.argsort(renamed)])

    def shuffled(ratings):
        order = rng.permutation(len(ratings.value))
        moved = replace(ratings, item=jnp.asarray(renamed, jnp.int32)[ratings.item])
        return replace(moved, **{name: getattr(moved, name)[order] for name in ("user", "item", "value", "weight")})

    same = evaluate.ranking(TABLE, params, TRAIN, TEST, 3, protocol)
    other = evaluate.ranking(TABLE, other_params, shuffled(TRAIN), shuffled(TEST), 3, protocol)
    pd.testing.assert_frame_equal(same, other, rtol=1e-12)
    again = evaluate.ranking(TABLE, params, TRAIN, TEST, 3, protocol)
    pd.testing.assert_frame_equal(same, again, check_exact=True)


@pytest.mark.parametrize("protocol", ["rated", "catalog"])
def test_ratings_without_weight_are_not_there(protocol):
    def observed(ratings):
        kept = np.flatnonzero(ratings.weight)
        return replace(ratings, **{name: getattr(ratings, name)[kept] for name in ("user", "item", "value", "weight")})

    whole = evaluate.ranking(TABLE, table(), TRAIN, TEST, 3, protocol)
    pruned = evaluate.ranking(TABLE, table(), observed(TRAIN), observed(TEST), 3, protocol)
    pd.testing.assert_frame_equal(whole, pruned, rtol=1e-12)
    assert (np.asarray(TRAIN.weight) == 0).any()
    assert (np.asarray(TEST.weight) == 0).any()


def test_excluded_pairs_are_no_candidates():
    further = random_ratings(seed=8, num_ratings=40, folds=True)
    params, pairs = table(3), [(u, i) for u, i, _, w in observations(further) if w]
    expected, coverage = by_loops(np.asarray(params.fixed.user["score"]), TRAIN, TEST, 3, "catalog", 3.5, pairs)
    given = {"model": TABLE, "params": params, "train": TRAIN, "test": TEST, "k": 3, "exclude": further}
    found = evaluate.ranking_by_user(**given, baselines=False)
    pd.testing.assert_frame_equal(found[expected.columns], expected, rtol=1e-12, check_dtype=False)
    means = evaluate.ranking(**given)
    assert means.query("model == 'table' and metric == 'coverage'")["value"].item() == pytest.approx(coverage)


@pytest.mark.parametrize("model", [TABLE, SLOW, MODELS["biased"]], ids=lambda model: model.name)
def test_blocks_change_nothing_and_share_a_program(model, monkeypatch):
    params = table() if model is not MODELS["biased"] else init(model, TRAIN, HYPER)
    given = (model, params, TRAIN, TEST, 3)
    whole, means = evaluate.ranking_by_user(*given, baselines=False), evaluate.ranking(*given)
    for users in (1, 4):
        monkeypatch.setattr(_positions, "_CELLS", users * 13 * _positions._row_size(model, params, 13))
        notes(model.init).pop("programs", None)
        before = COMPILED.count("jit(rank)")
        blocks = evaluate.ranking_by_user(*given, baselines=False)
        assert COMPILED.count("jit(rank)") == before + 1
        pd.testing.assert_frame_equal(whole, blocks, rtol=1e-12)
        pd.testing.assert_frame_equal(means, evaluate.ranking(*given), rtol=1e-12)


def test_another_split_of_about_the_same_size_compiles_nothing():
    """Neither another number of users, nor one of relevant items."""
    data = datasets.synthetic(num_users=60, num_items=40, num_ratings=1500)
    train, test = splits.random(data)
    params = init(MODELS["biased"], train.ratings, HYPER)

    def ranked(train, test):
        evaluate.ranking(MODELS["biased"], params, train, test, protocol="rated")
        found = evaluate.ranking_by_user(MODELS["biased"], params, train, test)
        return found["user_id"].nunique(), found["num_relevant"].max()

    sizes = [ranked(train, test)]
    before = len(COMPILED)
    sizes += [ranked(*splits.random(data, seed=1))]
    sizes += [ranked(train.take(np.arange(len(train) - 12)), test.take(test.user < 50))]
    assert COMPILED[before:] == []
    users, most = zip(*sizes, strict=True)
    assert len(set(users)) > 1
    assert len(set(most)) > 1


def test_sizes_change_nothing(monkeypatch):
    given = MODELS["biased"], init(MODELS["biased"], TRAIN, HYPER), TRAIN, TEST, 3
    found = evaluate.ranking(*given)
    monkeypatch.setattr(_positions, "power_of_4", lambda count: max(count, 1))
    monkeypatch.setattr("jaxmf.evaluate._setting.padded", lambda ratings: ratings)
    pd.testing.assert_frame_equal(found, evaluate.ranking(*given), rtol=1e-13)


def test_a_diverged_fit_is_no_ranking():
    params = table()
    score = np.array(params.fixed.user["score"])
    score[3, 5] = np.nan
    bad = of(jnp.asarray(score))
    tested = replace(TEST, user=jnp.full_like(TEST.user, 3), item=jnp.arange(70, dtype=jnp.int32) % 13)
    tested = replace(tested, weight=(jnp.arange(70) < 13) * 1.0)
    for protocol in ("rated", "catalog"):
        with pytest.raises(ValueError, match=r"^evaluate: 'table' predicts numbers .* use the parameters of one"):
            evaluate.ranking(TABLE, bad, TRAIN, tested, 3, protocol)


def test_scores_stay_single_and_ties_with_them():
    """Two scores that are the same in float32 tie, as they do for whoever sorts them."""
    score = np.ones((17, 13))
    score[:, 5] += 1e-9
    single = of(jnp.asarray(score, jnp.float32))
    double = of(jnp.asarray(score))
    for protocol in ("rated", "catalog"):
        auc = [
            evaluate.ranking_by_user(TABLE, each, TRAIN, TEST, 3, protocol, baselines=False)["auc"].dropna()
            for each in (single, double)
        ]
        assert (auc[0] == 0.5).all()
        assert (auc[1] != 0.5).any()


def document_precision(user, item, rating, score, k=10, threshold=3.5):
    """The document's loop: each user's own test items, sorted by prediction; every user counts."""
    total, users = 0.0, np.unique(user)
    for u in users:
        own = np.flatnonzero(user == u)
        top = sorted(zip(item[own], score[own], strict=True), key=lambda x: x[1], reverse=True)[:k]
        total += len({i for i, _ in top} & set(item[own][rating[own] >= threshold])) / k
    return total / len(users)


@pytest.mark.slow
@pytest.mark.realdata
def test_the_document_s_protocol_on_latest_small(latest_small, optimized):
    train, _, test = splits.temporal_per_user(latest_small)
    model = models.damped_bias()
    params = model.init(None, train.ratings, Hyper())
    found = evaluate.ranking(model, params, train, test, 10, "rated", 3.5, "zero", name="own")
    precision = found[found["metric"] == "precision"].set_index("model")
    assert (precision["num_users"] == 610).all()
    assert precision.loc["random", "value"] == pytest.approx(0.526, abs=5e-4)
    assert precision.loc["damped_bias", "value"] == pytest.approx(0.572, abs=5e-4)
    assert precision.loc["oracle", "value"] == pytest.approx(0.658, abs=5e-4)

    columns = (test.user, test.item, test.rating)
    score = np.asarray(jax.jit(model.predict)(params, test.ratings))
    assert document_precision(*columns, score) == pytest.approx(precision.loc["own", "value"], abs=1e-3)
    assert document_precision(*columns, test.rating) == pytest.approx(precision.loc["oracle", "value"], rel=1e-12)
    rng = np.random.default_rng(0)
    shuffles = [document_precision(*columns, rng.random(len(test))) for _ in range(20)]
    error = np.std(shuffles) / np.sqrt(len(shuffles))
    assert abs(np.mean(shuffles) - precision.loc["random", "value"]) < 4 * error
