"""Models: pure loss functions over parameter pytrees, and the objective composed from them."""

from jaxmf.models._objective import drawn, mean_loss, objective, row_weights
from jaxmf.models._scores import scores
from jaxmf.models.baselines import damped_bias, global_mean
from jaxmf.models.bilinear import biased_mf, content_mf, mf
from jaxmf.models.features import SparseRows
from jaxmf.models.model import ByHand, Model
from jaxmf.models.params import Hyper, Params, Rows
from jaxmf.models.sampled import bpr, logistic_mf, sampled_softmax
from jaxmf.models.seen import draw_unseen, is_seen, seen_of
from jaxmf.models.whole_matrix import ials

__all__ = [
    "ByHand",
    "Hyper",
    "Model",
    "Params",
    "Rows",
    "SparseRows",
    "biased_mf",
    "bpr",
    "content_mf",
    "damped_bias",
    "draw_unseen",
    "drawn",
    "global_mean",
    "ials",
    "is_seen",
    "logistic_mf",
    "mean_loss",
    "mf",
    "objective",
    "row_weights",
    "sampled_softmax",
    "scores",
    "seen_of",
]
