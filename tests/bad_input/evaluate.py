"""Predictions and their errors, rankings, comparisons and audits."""

from dataclasses import replace

import numpy as np
import pandas as pd
from helpers import pick, random_ratings

import jaxmf
from bad_input.builders import BIASED, CLIP, DATA, FIT, FRAME, MODEL, NINE, OTHER, PARAMS, RATINGS, SMALL, UNEVEN
from jaxmf import evaluate, models
from jaxmf.evaluate._measures import METRICS

TEST = random_ratings(seed=5, num_ratings=40)
TWICE = pick(TEST, np.append(np.arange(40), 7))
TABLE = pd.DataFrame({"model": ["a", "a", "b", "b"], "protocol": "rated", "k": 3, "threshold": 3.5})
TABLE = TABLE.assign(user_id=[1, 2, 1, 2], **dict.fromkeys(METRICS, 0.5))


def rate(model=BIASED, params=PARAMS, test=RATINGS, clip=None):
    return evaluate.rating(model, params, test, clip)


def predict(model=BIASED, params=PARAMS, data=DATA, frame=NINE, clip=None, on_unknown="error"):
    return jaxmf.predict(model, params, data, frame, clip, on_unknown)


def predict_unknown(**rows):
    """Of a user or an item that is unknown, by a model whose rows are these."""
    trained = {side: leaves for side, leaves in rows.items() if side in ("user", "item")}
    fixed = {side.removeprefix("fixed_"): leaves for side, leaves in rows.items() if side not in trained}
    params = PARAMS._replace(trained=PARAMS.trained._replace(**trained), fixed=PARAMS.fixed._replace(**fixed))
    model = BIASED._replace(predict=lambda params, pairs: 0.0 * pairs.user, name="mine")
    return predict(model, params, frame=NINE.replace({"user_id": {2: 99}, "item_id": {100: 7}}), on_unknown="bias")


def grouped(**options):
    return evaluate.ranking_by_group(BIASED, PARAMS, RATINGS, TEST, **options)


def rank(model=BIASED, params=PARAMS, train=RATINGS, test=TEST, **options):
    return evaluate.ranking(model, params, train, test, **options)


def rank_users(model=BIASED, params=PARAMS, **options):
    return evaluate.ranking_by_user(model, params, RATINGS, TEST, **options)


def beside_baselines(model=BIASED, params=PARAMS, clip=None):
    return evaluate.against_baselines(model, params, RATINGS, TEST, clip)


def compare(table=TABLE, **options):
    return evaluate.compare(table, **options)


CASES = {
    # Predictions and their errors.
    "model-evaluate": (lambda: rate(model=models.biased_mf), MODEL.format("function")),
    "model-predict": (lambda: predict(model=FIT), MODEL.format("Fit") + r".*or take the fit\.model of a fit"),
    "rating-frame": (
        lambda: rate(test=FRAME),
        r"^evaluate\.rating: test must be a Dataset or its Ratings, not DataFrame: Dataset\.from_frame makes one",
    ),
    "rating-weightless": (
        lambda: rate(test=replace(RATINGS, weight=np.zeros(90))),
        r"^evaluate\.rating: test has no ratings with weight; expected at least one",
    ),
    "rating-fit": (
        lambda: rate(params=FIT),
        r"^evaluate\.rating: params must be a Params, not Fit: take the fit\.params of a fit",
    ),
    "rating-users": (
        lambda: rate(test=replace(RATINGS, num_users=18)),
        r"^evaluate\.rating: the model has 17 users, the ratings have 18\. Split one Dataset with jaxmf\.splits",
    ),
    "rating-items": (
        lambda: rate(test=replace(RATINGS, num_items=15)),
        r"^evaluate\.rating: the model has 13 items, the ratings have 15\. Split one Dataset",
    ),
    "clip-order": (lambda: rate(clip=(5, 1)), CLIP + r"\(5, 1\)"),
    "clip-equal": (lambda: predict(clip=(3, 3)), CLIP + r"\(3, 3\)"),
    "clip-number": (lambda: predict(clip=5.0), CLIP + "5.0"),
    "clip-string": (lambda: predict(clip="15"), CLIP + "'15'"),
    "clip-three": (lambda: rate(clip=(1, 2, 3)), CLIP + r"\(1, 2, 3\)"),
    "clip-nan": (lambda: rate(clip=(1, float("nan"))), CLIP + r"\(1, nan\)"),
    "baselines-frame": (
        lambda: evaluate.against_baselines(BIASED, PARAMS, NINE, DATA),
        "^train must be a Dataset or its Ratings, not DataFrame: Dataset.from_frame",
    ),
    "baselines-counts": (
        lambda: evaluate.against_baselines(BIASED, PARAMS, RATINGS, OTHER),
        r"^train has 17 users and 13 items, test has 20 users and 16 items\. Split one Dataset .*train\.align\(test\)",
    ),
    "baselines-ids": (
        lambda: evaluate.against_baselines(BIASED, PARAMS, DATA, replace(DATA, item_ids=DATA.item_ids[::-1])),
        r"^train and test have equally many item_ids, but different ones\. Split one Dataset .*train\.align\(test\)",
    ),
    "predict-ratings": (
        lambda: predict(data=RATINGS),
        "^predict: data must be a Dataset, not Ratings: pass the one whose ids the model was fitted with",
    ),
    "predict-dataset": (
        lambda: predict(frame=DATA),
        "^predict: frame must be a DataFrame, not Dataset: expected a table with columns user_id and item_id",
    ),
    "predict-other-data": (
        lambda: predict(data=SMALL, frame=FRAME),
        r"^predict: the model has 17 users, the ratings have 3\. Split one Dataset",
    ),
    "predict-unknown-user": (
        lambda: predict(frame=NINE.replace({"user_id": {2: 99}})),
        r"^predict: 1 unknown user id\(s\): 99; known ids are like 0, 1, 2 \(user_ids\)\. Drop them, or check their "
        r"type, or pass on_unknown='bias' or on_unknown='drop'$",
    ),
    "predict-on-unknown": (
        lambda: predict(on_unknown="ignore"),
        r"^predict: on_unknown must be 'error', 'bias' or 'drop', not 'ignore'",
    ),
    "predict-bias-of-what": (
        lambda: predict_unknown(user={"scale": np.ones(17)}),
        r"^predict: on_unknown='bias' is not for the model 'mine': nothing says what an unknown user has for "
        r"params\.trained\.user\.scale \(0 stands for nothing only in factors, bias, content\)\. Pass on_unknown='dro",
    ),
    "predict-bias-of-a-table": (
        lambda: predict_unknown(item=np.ones((13, 2))),
        r"^predict: .* an unknown item has for params\.trained\.item \(0 stands",
    ),
    "predict-bias-of-fixed": (
        lambda: predict_unknown(fixed_user={"age": np.ones(17)}),
        r"^predict: .* an unknown user has for params\.fixed\.user\.age \(0 stands for nothing only in mean\)",
    ),
    "predict-unknown-item": (
        lambda: predict(frame=NINE.assign(item_id=NINE["item_id"].astype(str))),
        r"13 unknown item id\(s\): '100', .*; known ids are like 100, .* \(item_ids\), of type int64, and these",
    ),
    "predict-no-item-column": (
        lambda: predict(frame=NINE[["user_id"]]),
        r"^predict: missing column 'item_id'; the table has \['user_id'\]\. Rename its columns to user_id and item_id",
    ),
    "predict-many-columns": (
        lambda: predict(frame=pd.DataFrame(columns=["x" * 10_000, *range(100)])),
        r"^predict: missing column 'user_id'; the table has \['x{20,80}[^x]{1,150}\]\. Rename",
    ),
    "predict-no-user-column": (
        lambda: predict(frame=NINE[["item_id"]]),
        "^predict: missing column 'user_id'; .*Rename",
    ),
    # Rankings, comparisons, audits.
    "groups-by": (
        lambda: grouped(by="age"),
        r"^by must be 'activity' \(of users\) or 'popularity' \(of items\), not 'age'",
    ),
    "groups-0": (lambda: grouped(groups=0), "^groups must be a positive integer, not 0"),
    "groups-protocol": (lambda: grouped(protocol="rated"), "^ranking_by_group ranks the whole catalog: leave protocol"),
    "groups-nothing-relevant": (lambda: grouped(threshold=99.0), "^threshold: no test rating is 99.0 or more"),
    "ranking-model": (lambda: rank(model=models.biased_mf), "^model must be a Model, not function"),
    "ranking-params": (lambda: rank(params={}), r"^evaluate\.ranking: params must be a Params, not dict"),
    "ranking-train": (lambda: rank(train=FRAME), "^train must be a Dataset or its Ratings, not DataFrame"),
    "ranking-test": (lambda: rank(test=FRAME), "^test must be a Dataset or its Ratings, not DataFrame"),
    "ranking-counts": (lambda: rank(test=OTHER), "^train has 17 users and 13 items, test has 20 users and 16 items"),
    "ranking-exclude": (lambda: rank(exclude=OTHER), "^train has 17 users and 13 items, exclude has 20 users and 16"),
    "ranking-exclude-rated": (
        lambda: rank(exclude=TEST, protocol="rated"),
        "^exclude goes with protocol='catalog' only: 'rated' ranks each user's test items and no others",
    ),
    "ranking-other-model": (
        lambda: rank(train=OTHER, test=OTHER),
        r"^evaluate\.ranking: the model has 17 users, the ratings have 20\. Split one Dataset",
    ),
    "ranking-k": (lambda: rank(k=0), "^k must be a positive integer, not 0: it is the number of positions"),
    "ranking-k-float": (lambda: rank(k=2.5), r"^k must be a positive integer, not 2\.5"),
    "ranking-protocol": (
        lambda: rank(protocol="all"),
        r"^protocol must be 'catalog' \(all unseen items\) or 'rated' \(the user's test items\), not 'all'",
    ),
    "ranking-threshold": (
        lambda: rank(threshold="high"),
        "^threshold must be a finite number, not 'high': the minimum",
    ),
    "ranking-threshold-nan": (lambda: rank(threshold=float("nan")), "^threshold must be a finite number, not nan"),
    "ranking-threshold-above": (
        lambda: rank(threshold=5.5),
        r"^threshold: no test rating is 5\.5 or more, they range from 0\.5 to 5, so nothing is relevant: lower it",
    ),
    "ranking-empty": (lambda: rank(empty=0), "^empty must be 'skip' or 'zero', not 0: how to treat users"),
    "ranking-twice": (
        lambda: rank(test=TWICE),
        r"^test has 1 pair\(s\) of user and item more than once, the first \(\d+, \d+\) by row index; expected",
    ),
    "ranking-nothing-new": (
        lambda: rank(test=RATINGS),
        "^test has no pair of user and item that is not in train or exclude; expected held-out ratings: jaxmf.splits",
    ),
    "ranking-confidence": (lambda: rank(confidence=95), r"^confidence must be between 0 and 1, such as 0\.95, not 95"),
    "ranking-name": (
        lambda: rank(name="popularity"),
        "^the model has the name of a baseline, 'popularity': give it another name with name=",
    ),
    "ranking-name-number": (lambda: rank_users(name=3), "^name must be a str, not int: it names the model"),
    "summarize-ranking": (
        lambda: evaluate.summarize(TABLE.drop(columns=["user_id", "map"])),
        r"^by_user lacks the column\(s\) 'user_id', 'map'; expected the table that evaluate\.ranking_by_user returns",
    ),
    "summarize-list": (
        lambda: evaluate.summarize([TABLE]),
        "^by_user must be a DataFrame, not list: expected the table",
    ),
    "summarize-no-rows": (lambda: evaluate.summarize(TABLE[:0]), "^by_user has no rows; expected the table"),
    "summarize-twice": (
        lambda: evaluate.summarize(pd.concat([TABLE, TABLE])),
        "^by_user has users of the model 'a' more than once; expected one row per user: give each model its",
    ),
    "summarize-confidence": (lambda: evaluate.summarize(TABLE, 1.0), r"^confidence must be between 0 and 1.*not 1\.0"),
    "compare-one": (
        lambda: compare(TABLE[:2]),
        "^compare: expected at least two models, found 'a': join tables by pandas.concat",
    ),
    "compare-reference": (
        lambda: compare(reference="c"),
        "^compare: reference must be a model of the table, 'a', 'b', not 'c'",
    ),
    "compare-metric": (
        lambda: compare(metrics=("ndcg", "rmse")),
        r"^compare: metrics must be a list of names among precision, recall, .*not \('ndcg', 'rmse'\)",
    ),
    "compare-metric-string": (
        lambda: compare(metrics="ndcg"),
        "^compare: metrics must be a list of names .*not 'ndcg'",
    ),
    "compare-no-metric": (lambda: compare(metrics=()), r"^compare: metrics must be a list of names .*not \(\)"),
    "compare-protocols": (
        lambda: compare(TABLE.assign(protocol=["rated", "rated", "catalog", "catalog"])),
        "^compare: the table has protocol 'rated', 'catalog'; expected one: select its rows first",
    ),
    "compare-users": (
        lambda: compare(TABLE.assign(user_id=[1, 2, 1, 3])),
        "^compare: 'b' and 'a' were ranked for different users; rank all with the same train, test and exclude",
    ),
    "leakage-frame": (
        lambda: evaluate.leakage(FRAME, SMALL),
        "^train must be a Dataset or its Ratings, not DataFrame",
    ),
    "leakage-ids": (
        lambda: evaluate.leakage(SMALL, replace(SMALL, item_ids=SMALL.item_ids[::-1])),
        r"^train and test have equally many item_ids, but different ones\. Split one Dataset",
    ),
    # Parameters that do not fit the model, and functions of one's own.
    "rating-uneven-params": (
        lambda: rate(params=UNEVEN),
        r"^evaluate\.rating: predict of the model 'biased_mf' fails on these params \(TypeError: .*\)\. Pass",
    ),
    "rating-none": (lambda: rate(params=None), r"^evaluate\.rating: params must be a Params, not NoneType"),
    "rating-table": (
        lambda: rate(model=BIASED._replace(predict=lambda params, pairs: params.trained.user["factors"][pairs.user])),
        r"^evaluate\.rating: predict of the model 'biased_mf' returns .*\(1, 3\).*; expected one number per pair",
    ),
    "predict-uneven-params": (
        lambda: predict(params=UNEVEN),
        "^predict: predict of the model 'biased_mf' fails on these params",
    ),
    "predict-trained": (lambda: predict(params=PARAMS.trained), "^predict: params must be a Params, not Rows: take"),
    "baselines-model": (lambda: beside_baselines(model=models.biased_mf), MODEL.format("function")),
    "baselines-params": (
        lambda: beside_baselines(params=FIT),
        r"^evaluate\.against_baselines: params must be a Params, not Fit",
    ),
    "baselines-uneven-params": (
        lambda: beside_baselines(params=UNEVEN),
        r"^evaluate\.against_baselines: predict of the model 'biased_mf' fails on these params",
    ),
    "baselines-clip": (lambda: beside_baselines(clip=(5, 1)), CLIP + r"\(5, 1\)"),
    "ranking-uneven-params": (
        lambda: rank(params=UNEVEN),
        r"^evaluate\.ranking: predict of the model 'biased_mf' fails on these params",
    ),
    "ranking-by-user-model": (lambda: rank_users(model=FIT), MODEL.format("Fit")),
    "ranking-by-user-params": (lambda: rank_users(params=FIT), r"^evaluate\.ranking: params must be a Params, not Fit"),
    "ranking-by-user-k": (lambda: rank_users(k=True), "^k must be a positive integer, not True"),
    "compare-metric-twice": (
        lambda: compare(metrics=("ndcg", "ndcg")),
        r"^compare: metrics must be a list of names among .*, each once, not \('ndcg', 'ndcg'\)",
    ),
    "compare-frame": (lambda: compare({"model": ["a"]}), "^by_user must be a DataFrame, not dict: expected the table"),
    "compare-confidence": (lambda: compare(confidence="95%"), "^confidence must be between 0 and 1.*not '95%'"),
    "leakage-counts": (lambda: evaluate.leakage(RATINGS, OTHER), "^train has 17 users and 13 items, test has 20 users"),
}
