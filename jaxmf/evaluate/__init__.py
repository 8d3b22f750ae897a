"""Evaluation: prediction errors, rankings beside baselines, intervals, paired comparisons, and leakage of a split."""

from jaxmf.evaluate.audit import leakage
from jaxmf.evaluate.errors import Clip, against_baselines, predict, rating
from jaxmf.evaluate.groups import ranking_by_group
from jaxmf.evaluate.intervals import compare, summarize
from jaxmf.evaluate.rankings import ranking, ranking_by_user

__all__ = [
    "Clip",
    "against_baselines",
    "compare",
    "leakage",
    "predict",
    "ranking",
    "ranking_by_group",
    "ranking_by_user",
    "rating",
    "summarize",
]
