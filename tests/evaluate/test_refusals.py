"""Bad input to rankings, comparisons and audits is refused before anything compiles: what, where, what to do."""

from dataclasses import replace

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import HYPER, KEY, MODELS, pick, random_ratings

from jaxmf import Dataset, evaluate, models
from jaxmf.evaluate.measures import METRICS

BIASED, RATINGS, TEST = MODELS["biased"], random_ratings(), random_ratings(seed=5, num_ratings=40)
PARAMS = jax.tree.map(
    lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(lambda: BIASED.init(KEY, RATINGS, HYPER))
)
OTHER = random_ratings(num_users=20, num_items=16)
TWICE = pick(TEST, np.append(np.arange(40), 7))
TABLE = pd.DataFrame({"model": ["a", "a", "b", "b"], "protocol": "rated", "k": 3, "threshold": 3.5})
TABLE = TABLE.assign(user_id=[1, 2, 1, 2], **dict.fromkeys(METRICS, 0.5))
FRAME = pd.DataFrame({"user_id": [1, 1, 2], "item_id": [1, 2, 1], "rating": [3.0, 4.0, 5.0]})
NAMED = Dataset.from_frame(FRAME)


def rank(model=BIASED, params=PARAMS, train=RATINGS, test=TEST, **options):
    return evaluate.ranking(model, params, train, test, **options)


def rank_users(**options):
    return evaluate.ranking_by_user(BIASED, PARAMS, RATINGS, TEST, **options)


def compare(table=TABLE, **options):
    return evaluate.compare(table, **options)


CASES = {
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
        r"^protocol must be 'catalog' \(all items but the seen\) or 'rated' \(the user's test items\), not 'all'",
    ),
    "ranking-threshold": (lambda: rank(threshold="high"), "^threshold must be a finite number, not 'high': the least"),
    "ranking-threshold-nan": (lambda: rank(threshold=float("nan")), "^threshold must be a finite number, not nan"),
    "ranking-threshold-above": (
        lambda: rank(threshold=5.5),
        r"^threshold: no test rating is 5\.5 or more, they go from 0\.5 to 5, so that nothing is relevant: lower it",
    ),
    "ranking-empty": (lambda: rank(empty=0), "^empty must be 'skip' or 'zero', not 0: what recall is where nothing"),
    "ranking-twice": (
        lambda: rank(test=TWICE),
        r"^test has 1 pair\(s\) of user and item more than once, the first \(\d+, \d+\) in rows of the model",
    ),
    "ranking-nothing-new": (
        lambda: rank(test=RATINGS),
        "^test has no pair of user and item that is not in train or exclude; expected held-out ratings: jaxmf.splits",
    ),
    "ranking-confidence": (lambda: rank(confidence=95), r"^confidence must be between 0 and 1, such as 0\.95, not 95"),
    "ranking-resamples": (lambda: rank(resamples=0), "^resamples must be a positive integer, such as 1000, not 0"),
    "ranking-seed": (lambda: rank(seed=KEY), "^seed must be an integer of at least 0, not"),
    "ranking-name": (
        lambda: rank(name="popularity"),
        "^the model has the name of a baseline, 'popularity': give it another with name=",
    ),
    "ranking-name-number": (lambda: rank_users(name=3), "^name must be a str, not int: it is what the table calls"),
    "summarize-ranking": (
        lambda: evaluate.summarize(TABLE.drop(columns=["user_id", "map"])),
        r"^by_user lacks the column\(s\) 'user_id', 'map'; expected what evaluate\.ranking_by_user returns",
    ),
    "summarize-list": (lambda: evaluate.summarize([TABLE]), "^by_user must be a DataFrame, not list: expected what"),
    "summarize-no-rows": (lambda: evaluate.summarize(TABLE[:0]), "^by_user has no rows; expected what"),
    "summarize-twice": (
        lambda: evaluate.summarize(pd.concat([TABLE, TABLE])),
        "^by_user has users of the model 'a' more than once; expected one row per user: tell models apart with",
    ),
    "summarize-confidence": (lambda: evaluate.summarize(TABLE, 1.0), r"^confidence must be between 0 and 1.*not 1\.0"),
    "compare-one": (
        lambda: compare(TABLE[:2]),
        "^compare: expected at least two models, found 'a': use pandas.concat on tables",
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
        "^compare: the table has protocol 'rated', 'catalog'; expected one: select it first",
    ),
    "compare-users": (
        lambda: compare(TABLE.assign(user_id=[1, 2, 1, 3])),
        "^compare: 'b' and 'a' were ranked for different users; rank all with the same train, test and exclude",
    ),
    "compare-resamples": (lambda: compare(resamples=1.5), r"^resamples must be a positive integer.*not 1\.5"),
    "leakage-frame": (
        lambda: evaluate.leakage(FRAME, NAMED),
        "^train must be a Dataset or its Ratings, not DataFrame",
    ),
    "leakage-ids": (
        lambda: evaluate.leakage(NAMED, replace(NAMED, item_ids=NAMED.item_ids[::-1])),
        r"^train and test have as many item_ids, but not the same ones\. Split one Dataset",
    ),
}


@pytest.mark.parametrize(("bad", "message"), CASES.values(), ids=CASES)
def test_refused(bad, message, no_compile):
    with pytest.raises(ValueError, match=message):
        bad()
