"""What a fit returns."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params
from jaxmf.training._fingerprints import Fingerprints
from jaxmf.training.options import cost_sign
from jaxmf.training.state import FitState


def watched_columns(history: Iterable[str]) -> list[str]:
    """Return the columns to show of a history: the validation RMSE, and a ranking."""
    return [name for name in history if name == "valid_rmse" or cost_sign(name) < 0]


class Fit(NamedTuple):
    """A fitted model. It can be copied, and pickled if its model is of `jaxmf.models` or of module-level functions.

    Attributes:
      model: the model.
      params: the parameters: with `patience` those of the best epoch on the validation ratings, otherwise those of the
        last epoch.
      hyper: the hyperparameters that it was fitted with.
      state: the state after the last epoch (before it, if it diverged), from which `resume` continues.
      history: name -> (epochs,) array: `epoch` (from 1), `seconds` since the start (without `compile_seconds`),
        `train_loss` (weighted mean of the model's loss), `objective` (the regularized sum), and with validation ratings
        `valid_loss`, `valid_rmse`, `valid_mae` (not for a model of preferences), and the ranking or function that was
        monitored, as `valid_ndcg` or `monitor`. After a divergence the last row is the epoch that diverged.
      status: "completed" (all epochs ran), "converged" (the solver's own rule), "stopped_early" (no improvement for
        `patience` epochs) or "diverged" (a number was no longer finite; no exception is raised).
      compile_seconds: time spent before the first epoch on tracing, compiling, `init` and laying the ratings out on the
        device; short if the programs were compiled before.
      fingerprints: fingerprints of the training and validation ratings, which `resume` compares.
    """

    model: Model
    params: Params
    hyper: Hyper
    state: FitState
    history: dict[str, np.ndarray]
    status: str
    compile_seconds: float = 0.0
    fingerprints: Fingerprints | None = None

    def to_frame(self) -> pd.DataFrame:
        """Return the history as a table, one row per epoch."""
        return pd.DataFrame(self.history)

    def __repr__(self) -> str:
        names = [*(["train_loss"] if "train_loss" in self.history else []), *watched_columns(self.history)]
        scores = [f"{name} {self.history[name][-1]:.4g}" for name in names]
        outcome = ", ".join([self.status, *scores]) if len(self.history["epoch"]) else self.status
        return f"<Fit of {self.model!r}, {len(self.history['epoch'])} epochs: {outcome}>"
