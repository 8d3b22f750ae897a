"""Ranking measures of each user from the positions of relevant candidates, with ties at their expected value."""

from typing import Literal

import numpy as np

from jaxmf.evaluate._positions import Positions, runs

METRICS = ("precision", "recall", "ndcg", "map", "mrr", "hit_rate", "auc", "novelty")
Empty = Literal["skip", "zero"]


def measures(positions: Positions, k: int, empty: Empty = "skip") -> dict[str, np.ndarray]:
    """The measures of each user.

    With a relevant candidate that has `above` candidates before it and shares its score with `tied` ones, itself
    included, its position is any of above + 1 .. above + tied, each with chance 1 / tied. Sums over the positions of a
    tie become differences of two cumulative sums; what depends on two relevant candidates of one tie, average
    precision, also needs how many of the tie are relevant.

    Args:
      positions: where the relevant candidates stand.
      k: positions that count.
      empty: recall, ndcg and map of a user without a relevant candidate: NaN, or 0.

    Returns:
      name -> (num_users,) float64, for the names in METRICS; `rankings.ranking` has the formulas.

    Cost: O(p log p + k · num_users) for p relevant candidates.

    Reference: McSherry and Najork (2008), Computing information retrieval performance measures efficiently in the
    presence of tied scores.
    """
    row, above, tied = positions.row, positions.above, positions.tied
    order = np.lexsort((above, row))
    row, above, tied = row[order], above[order], tied[order]
    R, n = positions.relevant, positions.candidates
    first_of_user, _ = runs(row)
    first_of_tie, relevant_tied = runs(row, above)
    relevant_above = first_of_tie - first_of_user

    def total(x: np.ndarray) -> np.ndarray:
        return np.bincount(row, x, len(R))

    place = np.arange(1, k + 1)
    discount, harmonic = (np.append(0, np.cumsum(x)) for x in (1 / np.log2(1 + place), 1 / place))
    low, high = np.minimum(above, k), np.minimum(above + tied, k)
    hits = total((high - low) / tied)
    reciprocal = harmonic[high] - harmonic[low]
    others = (relevant_tied - 1) / np.maximum(tied - 1, 1)
    precisions = (relevant_above + 1) * reciprocal + others * (high - low - (above + 1) * reciprocal)
    worse = total((above - relevant_above) + (tied - relevant_tied) / 2)
    hit, mrr = _first(positions, row, above, tied, relevant_tied, k)

    def ratio(x: np.ndarray, best: np.ndarray, undefined: float) -> np.ndarray:
        return np.where(best > 0, x / np.where(best > 0, best, 1), undefined)

    nothing = 0.0 if empty == "zero" else np.nan
    return {
        "precision": hits / k,
        "recall": ratio(hits, R, nothing),
        "ndcg": ratio(total((discount[high] - discount[low]) / tied), discount[np.minimum(R, k)], nothing),
        "map": ratio(total(precisions / tied), np.minimum(R, k), nothing),
        "mrr": mrr,
        "hit_rate": hit,
        "auc": 1 - ratio(worse, R * (n - R), np.nan),
        "novelty": positions.novelty,
    }


def _first(
    positions: Positions, row: np.ndarray, above: np.ndarray, tied: np.ndarray, relevant_tied: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Chance of a hit, and expected reciprocal rank of the first one, from the best tie with a relevant candidate."""
    users, best = np.unique(row, return_index=True)
    b, t, r = above[best], tied[best], relevant_tied[best]
    none, reciprocal = np.ones(len(users)), np.zeros(len(users))
    for x in range(1, min(k, int(tied.max(initial=0))) + 1):
        # Chance that none of the first x of the tie is relevant: a draw without replacement.
        still = none * np.maximum(t - r - (x - 1), 0) / np.maximum(t - (x - 1), 1)
        still = np.where(b + x <= k, still, none)
        reciprocal += (none - still) / (b + x)
        none = still
    hit, mrr = np.zeros(len(positions.relevant)), np.zeros(len(positions.relevant))
    hit[users], mrr[users] = 1 - none, reciprocal
    return hit, mrr
