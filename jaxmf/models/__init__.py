"""Models: pure loss functions over parameter pytrees, and the objective composed from them."""

from jaxmf.models.bilinear import biased_mf, content_mf, damped_bias, global_mean, mf
from jaxmf.models.features import SparseRows
from jaxmf.models.model import ByHand, Hyper, Model, Params, Rows, mean_loss, objective, row_weights, scores

__all__ = [
    "ByHand",
    "Hyper",
    "Model",
    "Params",
    "Rows",
    "SparseRows",
    "biased_mf",
    "content_mf",
    "damped_bias",
    "global_mean",
    "mean_loss",
    "mf",
    "objective",
    "row_weights",
    "scores",
]
