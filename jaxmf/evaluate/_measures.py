"""Compute each user's ranking measures from the positions of relevant candidates; ties count with their expectation."""

from typing import Literal

import numpy as np

from jaxmf.evaluate._positions import Positions, runs

METRICS = ("precision", "recall", "capped_recall", "ndcg", "map", "mrr", "hit_rate", "auc", "novelty")
Empty = Literal["skip", "zero"]


def measures(positions: Positions, k: int, empty: Empty = "skip") -> dict[str, np.ndarray]:
    """Return the measures of each user.

    If a relevant candidate has `above` candidates before it and shares its score with `tied` ones, itself included, its
    position is any of above + 1 .. above + tied, each with probability 1 / tied. Sums over the positions of a tie are
    then differences of two cumulative sums. Average precision depends on pairs of relevant candidates in one tie, so it
    also needs the number of relevant ones in the tie.

    Args:
      positions: the positions of the relevant candidates.
      k: number of positions that count.
      empty: recall, capped recall, ndcg and map of a user without a relevant candidate: NaN for "skip", 0 for "zero".

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

    position = np.arange(1, k + 1)
    discount, harmonic = (np.append(0, np.cumsum(x)) for x in (1 / np.log2(1 + position), 1 / position))
    low, high = np.minimum(above, k), np.minimum(above + tied, k)
    hits = total((high - low) / tied)
    reciprocal = harmonic[high] - harmonic[low]
    tied_share = (relevant_tied - 1) / np.maximum(tied - 1, 1)  # of relevant ones among the others of the tie
    precisions = (relevant_above + 1) * reciprocal + tied_share * (high - low - (above + 1) * reciprocal)
    misordered = total((above - relevant_above) + (tied - relevant_tied) / 2)
    hit, mrr = _first_hit(positions, row, above, tied, relevant_tied, k)

    def ratio(x: np.ndarray, best: np.ndarray, fallback: float) -> np.ndarray:
        return np.where(best > 0, x / np.where(best > 0, best, 1), fallback)

    undefined = 0.0 if empty == "zero" else np.nan
    return {
        "precision": hits / k,
        "recall": ratio(hits, R, undefined),
        "capped_recall": ratio(hits, np.minimum(R, k), undefined),
        "ndcg": ratio(total((discount[high] - discount[low]) / tied), discount[np.minimum(R, k)], undefined),
        "map": ratio(total(precisions / tied), np.minimum(R, k), undefined),
        "mrr": mrr,
        "hit_rate": hit,
        "auc": 1 - ratio(misordered, R * (n - R), np.nan),
        "novelty": positions.novelty,
    }


def _first_hit(
    positions: Positions, row: np.ndarray, above: np.ndarray, tied: np.ndarray, relevant_tied: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return each user's chance of a hit and expected reciprocal rank of the first one.

    Both depend only on the best tie that contains a relevant candidate.
    """
    users, best = np.unique(row, return_index=True)
    b, t, r = above[best], tied[best], relevant_tied[best]
    miss, reciprocal = np.ones(len(users)), np.zeros(len(users))
    for x in range(1, min(k, int(tied.max(initial=0))) + 1):
        # The chance that none of the first x of the tie is relevant, drawing without replacement.
        next_miss = miss * np.maximum(t - r - (x - 1), 0) / np.maximum(t - (x - 1), 1)
        next_miss = np.where(b + x <= k, next_miss, miss)
        reciprocal += (miss - next_miss) / (b + x)
        miss = next_miss
    hit, mrr = np.zeros(len(positions.relevant)), np.zeros(len(positions.relevant))
    hit[users], mrr[users] = 1 - miss, reciprocal
    return hit, mrr
