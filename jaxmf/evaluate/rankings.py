"""Rankings against held-out ratings: measures of each user, and their means beside baselines."""

from collections.abc import Iterator
from numbers import Real
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from jaxmf.data.checks import expect, is_positive_integer
from jaxmf.data.dataset import Dataset
from jaxmf.data.observed import as_parts
from jaxmf.data.pairs import among, numbered
from jaxmf.data.ratings import Ratings, counts, padded
from jaxmf.evaluate._baselines import NAMES
from jaxmf.evaluate._baselines import baselines as all_baselines
from jaxmf.evaluate._measures import Empty, measures
from jaxmf.evaluate._positions import Positions, Trial, oracle, positions
from jaxmf.evaluate.intervals import check_confidence, summarize
from jaxmf.models.checks import check_model, check_predicts
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params
from jaxmf.models.promises import RIGHT_SCORES
from jaxmf.models.trial import check_promises

Protocol = Literal["catalog", "rated"]
Part = Dataset | Ratings


class Setting(NamedTuple):
    """What is measured, with the arguments of `ranking`."""

    protocol: Protocol
    k: int
    threshold: float
    empty: Empty


def ranking(
    model: Model,
    params: Params,
    train: Part,
    test: Part,
    k: int = 10,
    protocol: Protocol = "catalog",
    threshold: float = 3.5,
    empty: Empty = "skip",
    exclude: Part | None = None,
    baselines: bool = True,
    confidence: float = 0.95,
    name: str | None = None,
) -> pd.DataFrame:
    """How well a model ranks held-out items, beside baselines, with intervals.

    For each user the candidates C are ranked by predicted rating. By the protocol

        "catalog"   C = all items − the user's items in `train` and `exclude`: what a recommender has to do. An item
                    that the user would like and has not rated counts as irrelevant, so that all values are low.
        "rated"     C = the user's own items in `test`, and nothing else: can the model tell what they rated high from
                    what they rated low? It says little of recommending: they chose these items themselves, and where
                    most are relevant even a random order has a high precision.

    With G the relevant candidates (rated `threshold` or more in `test`), R = |G|, and g_j = 1 if the candidate at
    position j is relevant, 0 if not or if there are fewer candidates,

        precision = Σ_{j≤k} g_j / k                   recall = Σ_{j≤k} g_j / R       hit_rate = max_{j≤k} g_j
        ndcg = Σ_{j≤k} g_j / log2(1 + j) / Σ_{j ≤ min(R, k)} 1 / log2(1 + j)         mrr = max_{j≤k} g_j / j
        map  = Σ_{j≤k} g_j · (Σ_{l≤j} g_l / j) / min(R, k)
        auc  = share of pairs (relevant, irrelevant candidate) in the right order, ties ½
        novelty  = mean over the first k of log2((U + 1) / (n_i + 1)), in bits, with n_i the item's and U all users'
                   number in `train`: each item's self-information, with one pseudo-user who has seen everything
        coverage = |∪_u first k of u| / |∪_u C_u|

    Precision divides by k even where there are fewer candidates, as the textbook does; the oracle shows what is
    attainable. The gain of ndcg is 0 or 1, not the rating.

    Ties. Where scores are equal, every value is its expectation over all orders of the equal ones, in closed form
    (independent between users, for coverage). Neither a random number decides, nor the order of the items, which often
    knows their popularity. Items without training ratings tie; for the random baseline all do, so that its values are
    exact.

    Empty users. A user without a candidate in `test` is not counted. One with candidates there and none of them
    relevant has precision, hit_rate and mrr 0, by the formulas; recall, ndcg and map are 0/0, and the user is left out
    of their means, or counts as 0 with `empty="zero"`. auc leaves out a user without a relevant or without an
    irrelevant candidate. `num_users` says how many a mean is over.

    Where definitions meet scikit-learn's: ndcg is its `ndcg_score(g, score, k=k)`, ties included, of users with R > 0
    (it counts others as 0, as `empty="zero"` does); auc is `roc_auc_score`; map with k ≥ |C| and no ties is
    `average_precision_score`, which gives each relevant one of a tie the precision at the end of the tie instead.

    Args:
      model: the model.
      params: its parameters.
      train: what the model was fitted to: weights of 0 are not seen. Baselines and novelty come from it.
      test: held-out ratings over the same users and items; those of weight 0 are not there.
      k: positions that count.
      protocol: "catalog" or "rated".
      threshold: the least rating that is relevant, in rating units.
      empty: "skip" or "zero", as above.
      exclude: further ratings whose pairs are no candidates, such as the validation part; with "catalog" only.
      baselines: also rank by these; leave them out for further models of one table.
      confidence: of the intervals.
      name: what the table calls the model; its own name if None.

    Returns:
      a tidy table: model, protocol, k, threshold, metric, value, low, high, num_users; first the model, then the
      baselines random, popularity, item_mean, damped_bias (see `evaluate.baselines`) and oracle, which ranks by the
      test ratings themselves: the best possible values. Intervals are those of `summarize`;
      coverage is no mean over users and has none. Among all items the oracle has no novelty and no coverage. Scores are
      in the parameters' dtype, values in float64 (novelty and coverage among all items: in JAX's default float).

    Raises:
      ValueError: what `rating` refuses of the model and the ratings; `train` and `test` over other users or items; a
        pair that is twice in `test`; no test rating that reaches the threshold; a bad k, protocol, threshold, `empty`,
        or confidence; a name that a baseline has; predictions that are not finite.

    Cost: "catalog" O(U · I · (D + R)) for rows of D numbers on the device, in blocks of users of fixed shape, one
    program per model for parts of about the same size; memory O(2^18) scores, on a CPU for each of its cores. "rated"
    O(n · D + n log n). Times five with the baselines.

    Reference: Manning, Raghavan and Schütze (2008), Introduction to information retrieval, chapter 8 (precision,
    recall, map). Järvelin and Kekäläinen (2002), Cumulated gain-based evaluation of IR techniques (ndcg). Voorhees
    (1999), The TREC-8 question answering track report (mrr). Rendle et al. (2009), BPR (auc). Zhou et al. (2010),
    Solving the apparent diversity-accuracy dilemma of recommender systems (novelty). Ge, Delgado-Battenfeld and Jannach
    (2010), Beyond accuracy (coverage). McSherry and Najork (2008), Computing information retrieval performance measures
    efficiently in the presence of tied scores. Cañamares and Castells (2020), On target item sampling in offline
    recommender system evaluation (protocols).
    """
    check_confidence(confidence)
    name = _name(model, name, baselines)
    setting = Setting(protocol, k, threshold, empty)
    trial, seen = _trial(model, params, train, test, exclude, setting)
    ranked = dict(_results(name, model, params, trial, seen, baselines))
    by_user = pd.concat([_table(name, positions, trial, setting) for name, positions in ranked.items()])
    covered = [
        {"model": name, **_columns(setting), "metric": "coverage"}
        | {"value": positions.coverage, "num_users": len(trial.user)}
        for name, positions in ranked.items()
        if np.isfinite(positions.coverage)
    ]
    table = pd.concat([summarize(by_user, confidence), pd.DataFrame(covered)])
    return table.sort_values("model", key=lambda names: names.map(list(ranked).index), kind="stable", ignore_index=True)


def ranking_by_user(
    model: Model,
    params: Params,
    train: Part,
    test: Part,
    k: int = 10,
    protocol: Protocol = "catalog",
    threshold: float = 3.5,
    empty: Empty = "skip",
    exclude: Part | None = None,
    baselines: bool = True,
    name: str | None = None,
) -> pd.DataFrame:
    """The measures of `ranking` for every user, from which `summarize` and `compare` go on.

    Args:
      model, params, train, test, k, protocol, threshold, empty, exclude: as in `ranking`.
      baselines: also rank by these; leave them out for further models of one table.
      name: what the table calls the model; its own name if None. Models of one table need different names.

    Returns:
      a table with one row per model and user: model, protocol, k, threshold, user_id (the number of the user where
      `test` is Ratings), num_candidates, num_relevant, precision, recall, ndcg, map (the user's average precision), mrr
      (reciprocal rank), hit_rate (0 or 1, between them for ties), auc, novelty; NaN where a measure is undefined.

    Raises:
      ValueError: as `ranking`, or a `name` that is not a string or that a baseline has.

    Cost: that of `ranking` without the intervals.
    """
    name = _name(model, name, baselines)
    setting = Setting(protocol, k, threshold, empty)
    trial, seen = _trial(model, params, train, test, exclude, setting)
    ranked = _results(name, model, params, trial, seen, baselines)
    return pd.concat([_table(*result, trial, setting) for result in ranked], ignore_index=True)


def _name(model: Model, name: str | None, baselines: bool) -> str:
    check_model(model)
    name = model.name if name is None else name
    expect(name, str, "name", "it is what the table calls the model")
    if baselines and name in NAMES:
        raise ValueError(f"the model has the name of a baseline, {name!r}: give it another with name=")
    return name


def _results(
    name: str, model: Model, params: Params, trial: Trial, seen: Ratings, baselines: bool
) -> Iterator[tuple[str, Positions]]:
    yield name, positions(trial, model, params)
    if baselines:
        yield from ((baseline, positions(trial, *fitted)) for baseline, fitted in all_baselines(seen))
        yield "oracle", oracle(trial)


def _columns(setting: Setting) -> dict[str, Any]:
    """What tables say of the setting."""
    return {"protocol": setting.protocol, "k": setting.k, "threshold": setting.threshold}


def _table(name: str, ranked: Positions, trial: Trial, setting: Setting) -> pd.DataFrame:
    counted = {"num_candidates": ranked.candidates, "num_relevant": ranked.relevant}
    columns = {"user_id": trial.user_id, **counted, **measures(ranked, trial.k, setting.empty)}
    table = pd.DataFrame(columns)
    for number, (column, value) in enumerate({"model": name, **_columns(setting)}.items()):
        table.insert(number, column, value)
    return table


def _trial(
    model: Model, params: Params, train: Part, test: Part, exclude: Part | None, setting: Setting
) -> tuple[Trial, Ratings]:
    """What is ranked, and the training ratings, after all checks."""
    seen, held_out = as_parts(train, test, ("train", "test"))
    further = [] if exclude is None else [as_parts(train, exclude, ("train", "exclude"))[1]]
    check_predicts(model, params, held_out, "evaluate.ranking")
    _check(setting, exclude)
    # As Python's numbers: one of NumPy would compare float32 ratings in its own precision, where 4.1 is less than 4.1.
    protocol, k, threshold = setting.protocol, int(setting.k), float(setting.threshold)
    num_items = held_out.num_items

    pair = _pairs(held_out)
    order = np.argsort(pair, kind="stable")
    pair, value = pair[order], np.asarray(held_out.value)[np.asarray(held_out.weight) > 0][order]
    twice = pair[1:][pair[1:] == pair[:-1]]
    if len(twice):
        raise ValueError(
            f"test has {len(twice)} pair(s) of user and item more than once, the first "
            f"{tuple(map(int, divmod(twice[0], num_items)))} in rows of the model; expected each once: merge them"
        )
    if not (value >= threshold).any():
        raise ValueError(
            f"threshold: no test rating is {threshold} or more, they go from {value.min():g} to {value.max():g}, so "
            "that nothing is relevant: lower it"
        )
    rows = None
    if protocol == "catalog":
        hidden = np.sort(np.concatenate([_pairs(part) for part in (seen, *further)]))
        hidden = hidden[np.diff(hidden, prepend=-1) > 0]  # each once; np.unique would hash them
        unseen = ~among(pair, hidden)
        pair, value = pair[unseen], value[unseen]
        if not len(pair):
            raise ValueError(
                "test has no pair of user and item that is not in train or exclude; expected held-out ratings: "
                "jaxmf.splits makes parts that do not overlap"
            )
    if protocol == "catalog" and model.embed is not None:
        promise, instead = RIGHT_SCORES, "rank with protocol='rated', which calls `predict`"
        check_promises("evaluate.ranking", (promise,), model, params, Hyper(), held_out, instead)
    user, item = np.divmod(pair, num_items)
    place = np.zeros(held_out.num_users, np.int64)
    place[user] = 1
    users, place = np.flatnonzero(place), np.where(place > 0, np.cumsum(place) - 1, -1)
    if protocol == "catalog":
        row, column = place[hidden // num_items], hidden % num_items
        rows = row[row >= 0], column[row >= 0]
    seen = padded(seen)  # what is computed of them on the device has few shapes
    n_u, n_i = (np.asarray(n, np.float64) for n in counts(seen))
    novelty = np.log2((np.sum(n_u > 0) + 1) / (n_i + 1))
    user_id = test.user_ids[users] if isinstance(test, Dataset) else users
    return Trial(users, user_id, place[user], item.astype(np.int32), value, value >= threshold, novelty, k, rows), seen


def _pairs(ratings: Ratings) -> np.ndarray:
    """The observed pairs of user and item, each as one number."""
    observed = np.asarray(ratings.weight) > 0
    return numbered(np.asarray(ratings.user)[observed], np.asarray(ratings.item)[observed], ratings.num_items)


def _check(setting: Setting, exclude: Part | None) -> None:
    protocol, k, threshold, empty = setting
    if not is_positive_integer(k):
        raise ValueError(f"k must be a positive integer, not {k!r}: it is the number of positions that count")
    if protocol not in ("catalog", "rated"):
        raise ValueError(
            f"protocol must be 'catalog' (all items but the seen) or 'rated' (the user's test items), not {protocol!r}"
        )
    if not isinstance(threshold, Real) or not np.isfinite(float(threshold)):
        raise ValueError(f"threshold must be a finite number, not {threshold!r}: the least rating that is relevant")
    if empty not in ("skip", "zero"):
        raise ValueError(f"empty must be 'skip' or 'zero', not {empty!r}: what recall is where nothing is relevant")
    if exclude is not None and protocol != "catalog":
        raise ValueError(
            "exclude goes with protocol='catalog' only: 'rated' ranks each user's test items and no others"
        )
