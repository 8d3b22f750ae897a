"""Rank items against held-out ratings: the measures of each user, and their means beside baselines."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from jaxmf.data.checks import expect
from jaxmf.data.ratings import Ratings
from jaxmf.evaluate._baselines import NAMES
from jaxmf.evaluate._baselines import baselines as all_baselines
from jaxmf.evaluate._measures import Empty, measures
from jaxmf.evaluate._positions import Positions, Trial, oracle, rank_positions
from jaxmf.evaluate._setting import Part, Protocol, Setting, trial_of
from jaxmf.evaluate.intervals import check_confidence, summarize
from jaxmf.models.checks import check_model
from jaxmf.models.model import Model
from jaxmf.models.params import Params


def ranking(
    model: Model,
    params: Params,
    train: Part,
    test: Part,
    k: int = 10,
    protocol: Protocol = "catalog",
    threshold: float | None = None,
    empty: Empty = "skip",
    exclude: Part | None = None,
    baselines: bool = True,
    confidence: float = 0.95,
    name: str | None = None,
) -> pd.DataFrame:
    """Measure how well a model ranks held-out items, beside baselines, with confidence intervals.

    For each user, the candidates C are ranked by predicted rating. The protocol defines C:

        "catalog"   C = all items − the user's items in `train` and `exclude`, which is the task of a recommender. An
                    item that the user would like but has not rated counts as irrelevant, so all values are low.
        "rated"     C = the user's items in `test` only: can the model tell items rated high from items rated low? This
                    says little about recommending: users chose these items themselves, and where most of them are
                    relevant even a random order has a high precision.

    With G the relevant candidates (rated `threshold` or more in `test`), R = |G|, and g_j = 1 if the candidate at
    position j is relevant, 0 if it is not or if there are fewer candidates,

        precision = Σ_{j≤k} g_j / k                   recall = Σ_{j≤k} g_j / R       hit_rate = max_{j≤k} g_j
        capped_recall = Σ_{j≤k} g_j / min(R, k), the "Recall@k" of Liang et al. (2018) and Rendle et al. (2021)
        ndcg = Σ_{j≤k} g_j / log2(1 + j) / Σ_{j ≤ min(R, k)} 1 / log2(1 + j)         mrr = max_{j≤k} g_j / j
        map  = Σ_{j≤k} g_j · (Σ_{l≤j} g_l / j) / min(R, k)
        auc  = share of pairs (relevant, irrelevant candidate) in the right order, where a tie counts ½
        novelty  = mean over the first k of log2((U + 1) / (n_i + 1)), in bits, with n_i the item's number of ratings
                   and U the number of users in `train`: the item's self-information, with one pseudo-user added who has
                   rated everything
        coverage = |∪_u first k of u| / |∪_u C_u|

    As in the textbook, precision divides by k even if there are fewer candidates; the oracle shows what is attainable.
    The gain of ndcg is 0 or 1, not the rating.

    Ties. Where scores are equal, every value is its expectation over all orders of the tied candidates, in closed form
    (independent between users, for coverage). So neither chance decides nor the order of the items, which often
    reflects their popularity. Items without training ratings tie; for the random baseline all items do, so that its
    values are exact.

    Empty users. A user without a candidate in `test` is not counted. If a user has such candidates but none of them is
    relevant, precision, hit_rate and mrr are 0, by the formulas; recall, capped_recall, ndcg and map are 0/0, and the
    user is left out of their means, or counts as 0 with `empty="zero"`. auc leaves out users without a relevant or
    without an irrelevant candidate. `num_users` is the number of users in a mean.

    In scikit-learn, ndcg is `ndcg_score(g, score, k=k)`, ties included, for users with R > 0 (it counts others as 0, as
    `empty="zero"` does); auc is `roc_auc_score`; map with k ≥ |C| and without ties is `average_precision_score`, which
    instead gives every relevant candidate of a tie the precision at the end of the tie.

    Args:
      model: the model.
      params: its parameters.
      train: the training ratings, also for baselines and novelty; those of weight 0 are ignored.
      test: held-out ratings over the same users and items; those of weight 0 are ignored.
      k: number of positions that count.
      protocol: "catalog" or "rated".
      threshold: minimum rating counted as relevant, in rating units; None is 3.5, or any rating if all ratings in
        `train` and `test` are equal, as those of clicks and likes are.
      empty: "skip" or "zero", as above.
      exclude: further ratings whose pairs are not candidates, such as the validation part; only with "catalog".
      baselines: whether to rank by the baselines too; pass False for further models in one table.
      confidence: confidence level of the intervals.
      name: name of the model in the table; None for `model.name`.

    Returns:
      a tidy table: model, protocol, k, threshold, metric, value, low, high, num_users; first the model, then the
      baselines random, popularity, item_mean, damped_bias (`evaluate/_baselines.py`) and oracle, which ranks by the
      test ratings themselves: the best possible values. Intervals are those of `summarize`; coverage is not a mean over
      users and has none. Among all items the oracle has no novelty and no coverage. Scores are in the parameters'
      dtype, values in float64 (novelty and coverage among all items: in JAX's default float).

    Raises:
      ValueError: what `rating` refuses of the model and the ratings; `train` and `test` over different users or items;
        a repeated pair in `test`; no test rating that reaches the threshold; a bad k, protocol, threshold, `empty`, or
        confidence; the name of a baseline; predictions that are not finite.

    Cost: "catalog" O(U · I · (D + R)) for rows of D numbers on the device, in blocks of users of fixed shape, with one
    program per model for parts of about the same size; memory O(2^18) scores, on a CPU for each of its cores. "rated"
    O(n · D + n log n). Five times as much with the baselines.

    Reference: Manning, Raghavan and Schütze (2008), Introduction to information retrieval, chapter 8 (precision,
    recall, map). Järvelin and Kekäläinen (2002), Cumulated gain-based evaluation of IR techniques (ndcg). Voorhees
    (1999), The TREC-8 question answering track report (mrr). Rendle et al. (2009), BPR (auc). Zhou et al. (2010),
    Solving the apparent diversity-accuracy dilemma of recommender systems (novelty). Ge, Delgado-Battenfeld and Jannach
    (2010), Beyond accuracy (coverage). McSherry and Najork (2008), Computing information retrieval performance measures
    efficiently in the presence of tied scores. Liang et al. (2018), Variational autoencoders for collaborative
    filtering (capped_recall). Cañamares and Castells (2020), On target item sampling in offline
    recommender system evaluation (protocols).
    """
    check_confidence(confidence)
    name = _name(model, name, baselines)
    setting = Setting(protocol, k, threshold, empty)
    trial, seen, setting = trial_of(model, params, train, test, exclude, setting)
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
    threshold: float | None = None,
    empty: Empty = "skip",
    exclude: Part | None = None,
    baselines: bool = True,
    name: str | None = None,
) -> pd.DataFrame:
    """Return the measures of `ranking` for every user, the input of `summarize` and `compare`.

    Args:
      model, params, train, test, k, protocol, threshold, empty, exclude: as in `ranking`.
      baselines: whether to rank by the baselines too; pass False for further models in one table.
      name: name of the model in the table; None for `model.name`. Models in one table need different names.

    Returns:
      a table with one row per model and user: model, protocol, k, threshold, user_id (the user's index if `test` is
      Ratings), num_candidates, num_relevant, precision, recall, capped_recall, ndcg, map (the user's average
      precision), mrr (reciprocal rank), hit_rate (0 or 1, in between for ties), auc, novelty; NaN where a measure is
      undefined.

    Raises:
      ValueError: as `ranking`, or a `name` that is not a string or is the name of a baseline.

    Cost: that of `ranking` without the intervals.
    """
    name = _name(model, name, baselines)
    setting = Setting(protocol, k, threshold, empty)
    trial, seen, setting = trial_of(model, params, train, test, exclude, setting)
    ranked = _results(name, model, params, trial, seen, baselines)
    return pd.concat([_table(*result, trial, setting) for result in ranked], ignore_index=True)


def _name(model: Model, name: str | None, baselines: bool) -> str:
    """Return the model's name in the table, after checking it."""
    check_model(model)
    name = model.name if name is None else name
    expect(name, str, "name", "it names the model in the table")
    if baselines and name in NAMES:
        raise ValueError(f"the model has the name of a baseline, {name!r}: give it another name with name=")
    return name


def _results(
    name: str, model: Model, params: Params, trial: Trial, seen: Ratings, baselines: bool
) -> Iterator[tuple[str, Positions]]:
    """Yield the name and the positions of the model and, if asked for, of every baseline."""
    yield name, rank_positions(trial, model, params)
    if baselines:
        yield from ((baseline, rank_positions(trial, *fitted)) for baseline, fitted in all_baselines(seen))
        yield "oracle", oracle(trial)


def _columns(setting: Setting) -> dict[str, Any]:
    return {"protocol": setting.protocol, "k": setting.k, "threshold": setting.threshold}


def _table(name: str, ranked: Positions, trial: Trial, setting: Setting) -> pd.DataFrame:
    """Return the table of one model's measures, with one row per user."""
    counted = {"num_candidates": ranked.candidates, "num_relevant": ranked.relevant}
    columns = {"user_id": trial.user_id, **counted, **measures(ranked, trial.k, setting.empty)}
    table = pd.DataFrame(columns)
    for index, (column, value) in enumerate({"model": name, **_columns(setting)}.items()):
        table.insert(index, column, value)
    return table
