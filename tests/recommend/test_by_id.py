"""Recommendations, predictions, new rows and rankings by ids of any type: of the same one, or refused by name."""

import numpy as np
import pandas as pd
import pytest
from helpers import HYPER, init

import jaxmf
from jaxmf import Dataset, models
from jaxmf.recommend import fold_in, similar_items, similar_users, top_n, update
from jaxmf.shell.answers import recommend_items

BIG = 2**53
MODEL = models.biased_mf(2)
# Three users, three items, five of nine pairs; what stands for the last user in another type, and ids of nobody.
USERS = {
    "integers": ([BIG + 3, BIG + 1, 7], [7.0], [float(BIG), float(BIG + 3)], 5.0),
    "unsigned": (np.array([2**63, 2**63 + 1, 7], np.uint64), [7], [-1, "7"], 5),
    "floats": ([float(BIG), 0.5, 7.0], [np.uint8(7)], [BIG + 1, True], 5),
    "text": (["7", "07", "seven"], np.array(["seven"]), [7, b"seven"], "new"),
    "tuples": ([(1, "a"), (BIG + 1, "a"), (7, "a")], [(np.float32(7), "a")], [(float(BIG), "a"), 7], (8, "a")),
}
TITLES = pd.DataFrame({"item_id": [1, 2, 3], "title": list("ABC")})


def dataset(users):
    ids = pd.Series(users, dtype=object)
    columns = {"user_id": ids[[0, 0, 1, 2, 2]].array, "item_id": [1, 2, 1, 2, 3], "rating": [3.0, 4.0, 5.0, 1.0, 2.0]}
    return Dataset.from_frame(pd.DataFrame(columns), items=TITLES)


@pytest.mark.parametrize(("users", "alias", "strangers", "new"), USERS.values(), ids=USERS)
def test_every_tool_finds_the_same_user_and_no_other(users, alias, strangers, new):
    data = dataset(users)
    params = init(MODEL, data.ratings, HYPER)
    last = [data.user_ids[data.user[3]]]
    pairs = pd.DataFrame({"user_id": pd.Series(alias), "item_id": [1.0]})
    as_it_is = jaxmf.predict(MODEL, params, data, pd.DataFrame({"user_id": pd.Series(last), "item_id": [1]}))
    assert jaxmf.predict(MODEL, params, data, pairs).tolist() == as_it_is.tolist()
    best = top_n(MODEL, params, data, last, n=2)
    pd.testing.assert_frame_equal(top_n(MODEL, params, data, alias, n=2, candidates=[3.0, 2.0, 1.0]), best)
    assert similar_users(MODEL, params, data, alias, n=2)["user_id"].tolist() == last * 2
    for stranger in strangers:
        frame = pairs.assign(user_id=pd.Series([stranger], dtype=object))
        for tool in (similar_users, top_n):
            with pytest.raises(ValueError, match=r"1 unknown user id\(s\): "):
                tool(MODEL, params, data, [stranger])
        with pytest.raises(ValueError, match=r"1 unknown user id\(s\): "):
            jaxmf.predict(MODEL, params, data, frame)
        with pytest.warns(UserWarning, match="unknown ids and are left out"):
            assert jaxmf.predict(MODEL, params, data, frame, on_unknown="drop").empty
        with pytest.warns(UserWarning, match="1 of 2 users are unknown to train and left out"):
            both = top_n(MODEL, params, data, [stranger, *alias], n=2, on_unknown="drop")
        pd.testing.assert_frame_equal(both, best, check_dtype=False)
        with pytest.warns(UserWarning, match="1 of 1 users are unknown to train and scored"):
            answer = top_n(MODEL, params, data, [stranger], n=2, on_unknown="bias")["user_id"].tolist()
        assert answer == [stranger] * 2
    frame = pd.DataFrame({"user_id": pd.Series([*alias, new]), "item_id": [1.0, 1.0], "rating": 4.0})
    for add, rows in ((fold_in, frame[1:]), (update, frame)):
        _, more = add(MODEL, params, HYPER, data, rows)
        assert more.user_ids.tolist() == [*data.user_ids, new]
        assert more.user_ids.dtype == data.user_ids.dtype
        assert more.user[5:].tolist() == [data.user[3], 3][-len(rows) :]


def test_items_by_another_type():
    data = dataset([1, 2, 3])
    params = init(MODEL, data.ratings, HYPER)
    fit = jaxmf.Fit(MODEL, params, HYPER, None, {}, "completed", None)
    assert similar_items(MODEL, params, data, np.array([2], np.uint64), n=1)["item_id"].tolist() == [2]
    with pytest.raises(ValueError, match=r"^1 unknown item id\(s\): 2\.5; "):
        similar_items(MODEL, params, data, [2.5])
    table = recommend_items(fit, data, [1.0], candidates=[3.0], columns=["title"])
    assert table[["item_id", "title"]].to_numpy().tolist() == [[3, "C"]]
    with pytest.warns(UserWarning, match="1 of 2 candidates are unknown to train"):
        table = recommend_items(fit, data, [1.0], 9, candidates=[3.0, 9.5, 3], columns=["title"], on_unknown="bias")
    assert table.set_index("item_id")["title"].fillna("-").to_dict() == {3.0: "C", 9.5: "-"}
