"""Recommendations, neighbors, and new users, items and ratings."""

from functools import partial

import jax
import numpy as np
import pandas as pd
from helpers import FEATURES, HYPER, KEY, MODELS

from bad_input.builders import BIASED, FIT, PARAMS, RATINGS, UNEVEN, zeros
from jaxmf import Dataset, Rows
from jaxmf.recommend import fold_in, similar_items, similar_users, top_n, update

CONTENT = MODELS["content"]
WITH_CONTENT = zeros(lambda: CONTENT.init(KEY, RATINGS, HYPER))
COLUMNS = map(np.asarray, (RATINGS.user, RATINGS.item, RATINGS.value))
DATA = Dataset(pd.RangeIndex(17, name="user_id"), pd.RangeIndex(13, name="item_id"), *COLUMNS)
NEW = pd.DataFrame({"user_id": [20, 20], "item_id": [1, 2], "rating": [3.0, 4.0]})
ITEM = pd.DataFrame({"user_id": [1], "item_id": [99], "rating": [3.0]})
SEEN = pd.DataFrame({"user_id": [int(RATINGS.user[0])], "item_id": [int(RATINGS.item[0])], "rating": [3.0]})
DIVERGED = jax.tree.map(lambda leaf: leaf + np.nan, PARAMS)
TABLE = pd.DataFrame(FEATURES[:2], index=[99, 98])
LONELY = BIASED._replace(design=None, name="lonely")
AGED = PARAMS._replace(fixed=Rows({"age": np.zeros(17)}, {"age": np.zeros(13)}, PARAMS.fixed.shared))


def top(model=BIASED, params=PARAMS, train=DATA, **changes):
    return top_n(model, params, train, **changes)


def fold(frame=NEW, model=BIASED, params=PARAMS, hyper=HYPER, data=DATA, how=fold_in, **changes):
    return how(model, params, hyper, data, frame, **changes)


CASES = {
    "top-model": (partial(top, model="biased"), "^model must be a Model, not str"),
    "top-ratings": (
        partial(top, train=RATINGS),
        "^top_n: train must be a Dataset, not Ratings: pass the one whose ids",
    ),
    "top-params": (partial(top, params=None), "^top_n: params must be a Params"),
    "top-sizes": (partial(top, train=DATA.extend(NEW)), "^top_n: the model has 17 users, the ratings have 18"),
    "top-diverged": (
        partial(top, params=DIVERGED),
        r"^top_n: trained.user.bias of params has NaN or infinite .*diverged",
    ),
    "top-n": (partial(top, n=0), "^top_n: n must be a positive integer, not 0"),
    "top-n-float": (partial(top, n=2.0), r"^top_n: n must be a positive integer, not 2\.0"),
    "top-memory": (
        partial(top, max_memory=-1),
        "^top_n: max_memory must be a positive integer of bytes or None, not -1",
    ),
    "top-user": (partial(top, users=[3, "x"]), r"^top_n: 1 unknown user id\(s\): 'x'; known ids are like 0, 1, 2"),
    "top-text": (
        partial(top, users=["3"]),
        r"^top_n: 1 unknown user id\(s\): '3'; known ids are like 0, 1, 2 \(user_ids\), of type int64, and these "
        r"of type str\. Drop them, or check their type",
    ),
    "top-truth": (partial(top, candidates=[True]), r"unknown item id\(s\): True; .* int64, and these of type bool"),
    "top-half": (
        partial(top, users=[3.0, 3.5]),
        r"^top_n: 1 unknown user id\(s\): 3\.5; known ids .* \(user_ids\)\.",
    ),
    "top-table": (
        partial(top, users=np.zeros((2, 2), int)),
        r"^the ids have shape \(2, 2\); expected one dimension: use \.ravel\(\)",
    ),
    "top-one-user": (partial(top, users=3), r"^expected a list of user ids, got 3; for one user pass \[3\]"),
    "top-one-user-drop": (partial(top, users=3, on_unknown="drop"), r"^expected a list of user ids, got 3"),
    "top-unhashable": (partial(top, users=[[1]], on_unknown="drop"), "^user ids must be hashable"),
    "top-candidate": (partial(top, candidates=[77]), r"^top_n: 1 unknown item id\(s\): 77.*on_unknown='bias' or"),
    "top-bias-of-what": (
        partial(top, params=AGED, users=[1, 99], on_unknown="bias"),
        r"^top_n: on_unknown='bias' is not for the model 'biased_mf': .* unknown user has for params\.fixed\.user\.age",
    ),
    "top-no-candidates": (partial(top, candidates=[]), "^top_n: no candidates are left to choose from; name items"),
    "top-on-unknown": (
        partial(top, on_unknown="ignore"),
        "^top_n: on_unknown must be 'error', 'bias' or 'drop', not 'igno",
    ),
    "similar-id": (partial(similar_items, BIASED, PARAMS, DATA, [50]), r"^1 unknown item id\(s\): 50"),
    "similar-n": (
        partial(similar_users, BIASED, PARAMS, DATA, [5], n=-1),
        "^similar_users: n must be a positive integer",
    ),
    "similar-leaf": (
        partial(similar_items, BIASED, PARAMS, DATA, [5], leaf="bias"),
        r"^similar_items: the items have no table 'bias' with one row each; expected one of \['factors'\]: pass it",
    ),
    "fold-no-design": (
        partial(fold, model=LONELY),
        "^fold_in: the model 'lonely' has no `design`.* fit it again to data.extend",
    ),
    "fold-no-design-update": (partial(fold, model=LONELY, how=update), "^update: the model 'lonely' has no `design`"),
    "fold-hyper": (partial(fold, hyper={"l2": 1}), "^hyper must be a Hyper, not dict"),
    "fold-bfloat16": (
        partial(fold, params=jax.tree.map(lambda leaf: leaf.astype(jax.dtypes.bfloat16), PARAMS)),
        "^fold_in: params are in bfloat16; expected float32 or float64, as fit returns them, to solve for rows",
    ),
    "fold-l2": (partial(fold, hyper=HYPER._replace(l2=0.0)), "^fold_in: als: l2 must be positive, not 0"),
    "fold-data": (partial(fold, data=RATINGS), "^fold_in: data must be a Dataset, not Ratings"),
    "fold-sweeps": (partial(fold, sweeps=-1), "^fold_in: sweeps must be 0 or a positive integer, not -1"),
    "fold-sweeps-bool": (partial(fold, sweeps=True), "^fold_in: sweeps must be 0 or a positive integer, not True"),
    "fold-frame": (partial(fold, [1, 2]), "frame must be a DataFrame, not list"),
    "fold-column": (partial(fold, NEW.drop(columns="item_id")), "^missing column item_id"),
    "fold-twice": (partial(fold, pd.concat([NEW, NEW])), r"^2 row\(s\) repeat a \(user, item\) pair"),
    "fold-rating": (partial(fold, NEW.assign(rating=np.nan)), "NaN or infinite rating"),
    "fold-rated": (
        partial(fold, SEEN, how=update),
        r"a pair that data already has a rating for in 1 row\(s\), at index 0; drop",
    ),
    "fold-known": (
        partial(fold, pd.DataFrame({"user_id": [16], "item_id": [12], "rating": [1.0]})),
        r"a user and an item that are both known in 1 row\(s\), at index 0; .*use update, or drop them",
    ),
    "fold-type": (
        partial(fold, NEW.assign(user_id="20")),
        "^column 'user_id': new ids are like '20', known ones like 0, 1, 2, and the type int64 does not hold str: conv",
    ),
    "fold-half": (partial(fold, NEW.assign(user_id=[20.0, 20.5])), "and the type int64 does not hold float64: convert"),
    "fold-features-missing": (
        partial(fold, None, CONTENT, WITH_CONTENT, features=TABLE.set_axis([99, None])),
        "^item_ids: missing id at position 1: drop it",
    ),
    "fold-no-features": (
        partial(fold, ITEM, CONTENT, WITH_CONTENT),
        r"^fold_in: the model uses features of the items, and there are 1 new item\(s\), such as 99: pass features=",
    ),
    "fold-no-such-features": (
        partial(fold, features=TABLE),
        "^fold_in: features are of no use to a model without content",
    ),
    "fold-features-list": (
        partial(fold, ITEM, CONTENT, WITH_CONTENT, features=FEATURES),
        "^fold_in: features must be a DataFrame, not ndarray: expected one row per new item, indexed by item id",
    ),
    "fold-features-lack": (
        partial(fold, ITEM, CONTENT, WITH_CONTENT, features=TABLE[1:]),
        r"^fold_in: features has no row for 1 new item\(s\): 99; expected one row each",
    ),
    "fold-features-twice": (
        partial(fold, ITEM, CONTENT, WITH_CONTENT, features=pd.concat([TABLE, TABLE])),
        "^fold_in: features has more than one row for item 99, 98; expected one each",
    ),
    "fold-features-width": (
        partial(fold, ITEM, CONTENT, WITH_CONTENT, features=TABLE.iloc[:, :3]),
        "^fold_in: features has 3 columns; expected 5, as the model was built with",
    ),
    "fold-features-nan": (
        partial(fold, ITEM, CONTENT, WITH_CONTENT, features=TABLE * np.nan),
        "^fold_in: .*features has NaN or infinite entries",
    ),
    "fold-fixed": (
        partial(fold, params=AGED),
        "^fold_in: the model holds age fixed for each user, which is not known of new one",
    ),
    "fold-fixed-item": (partial(fold, ITEM, params=AGED), "^fold_in: the model holds age fixed for each item"),
    # Parameters that do not fit the model, and what the others refuse as `top_n` does.
    "top-uneven-params": (
        partial(top, params=UNEVEN),
        r"^top_n: predict of the model 'biased_mf' fails on these params \(TypeError: .*\)\. Pass fit\.model",
    ),
    "fold-uneven-params": (partial(fold, params=UNEVEN), "^fold_in: predict of the model 'biased_mf' fails on these"),
    "fold-model": (partial(fold, model="biased"), "^model must be a Model, not str"),
    "fold-diverged": (partial(fold, params=DIVERGED), "^fold_in: trained.user.bias of params has NaN or infinite"),
    "fold-sizes": (partial(fold, data=DATA.extend(NEW)), "^fold_in: the model has 17 users, the ratings have 18"),
    "update-sweeps": (
        partial(fold, how=update, sweeps=-1),
        "^update: sweeps must be 0 or a positive integer, not -1",
    ),
    "update-params": (partial(fold, how=update, params=None), "^update: params must be a Params, not NoneType"),
    "update-hyper": (partial(fold, how=update, hyper=None), "^hyper must be a Hyper, not NoneType"),
    "update-features-list": (
        partial(fold, ITEM, CONTENT, WITH_CONTENT, how=update, features=[1.0]),
        "^update: features must be a DataFrame, not list",
    ),
    "top-one-candidate": (partial(top, candidates=7), r"^expected a list of item ids, got 7; for one item pass \[7\]"),
    "similar-model": (partial(similar_users, FIT, PARAMS, DATA), "^model must be a Model, not Fit"),
    "similar-params": (
        partial(similar_items, BIASED, FIT, DATA),
        "^similar_items: params must be a Params, not Fit: take the fit.params",
    ),
    "similar-ratings": (partial(similar_items, BIASED, PARAMS, RATINGS), "^similar_items: data must be a Dataset, not"),
    "similar-diverged": (partial(similar_users, BIASED, DIVERGED, DATA), "^similar_users: trained.user.bias of params"),
    "similar-one": (partial(similar_users, BIASED, PARAMS, DATA, 5), r"^expected a list of user ids, got 5; .*\[5\]"),
    "similar-memory": (
        partial(similar_items, BIASED, PARAMS, DATA, [5], max_memory=0.5),
        "^similar_items: max_memory must be a positive integer of bytes or None, not 0.5",
    ),
}
