"""Coupled validation: choose on validation ratings or folds, fit once more on all of them, test once."""

from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxmf import evaluate, output
from jaxmf.data.dataset import Dataset
from jaxmf.data.ratings import Ratings
from jaxmf.locks import claimed
from jaxmf.solvers.solver import Solver
from jaxmf.sweeps import Sweep
from jaxmf.sweeps.grid import setting
from jaxmf.training import Fit, fit


class Chosen(NamedTuple):
    """What `refit` found.

    Attributes:
      fit: the fit on all ratings, with the setting that was chosen.
      setting: that setting, by name.
      score: its mean validation score in the search, the number that it was chosen by.
      test: errors on the test ratings, as `evaluate.rating` returns them.
      table: the search, one row per setting, mean and standard error over seeds and folds, best first.
    """

    fit: Fit
    setting: dict[str, Any]
    score: float
    test: dict[str, float]
    table: pd.DataFrame


def refit(
    runs: Sweep,
    solver: Solver,
    train: Dataset | Ratings,
    test: Dataset | Ratings,
    *,
    epochs: int | None = None,
    out: str | PathLike[str] | None = None,
    progress: bool = False,
) -> Chosen:
    """Fit the best setting of a search on all ratings, and evaluate that one fit on the test ratings.

    The setting is the one with the lowest mean over seeds and folds of the score that the search monitored, among those
    that were not pruned. It is fitted without validation, for the mean number of epochs after which its members were
    best, under the key of the first of them.

    Args:
      runs: a sweep, or what a search returned, with validation ratings or folds.
      solver: the solver of the search.
      train: all ratings that the search was allowed to see, those it validated on included.
      test: ratings that no choice was made on, over the same users and items.
      epochs: of the fit, instead of that mean.
      out: folder on disk for search.csv, the table, and chosen.json.
      progress: show a progress bar on standard error.

    Returns:
      a Chosen.

    Raises:
      ValueError: as `fit`; the search had no validation ratings, or no setting has a finite score.

    Reference: Cawley and Talbot (2010), On over-fitting in model selection and subsequent selection bias in performance
    evaluation.
    """
    with claimed(out) as folder:
        chosen, num_epochs = _fit_best(runs, solver, train, test, epochs, progress)
        if folder is not None:
            output.write_table(Path(folder) / "search.csv", chosen.table)
            facts = {"setting": chosen.setting, "epochs": num_epochs, "score": chosen.score, "monitor": runs.score}
            facts |= {"status": chosen.fit.status, "test": chosen.test}
            output.write_json(Path(folder) / "chosen.json", facts)
    return chosen


def _fit_best(
    runs: Sweep,
    solver: Solver,
    train: Dataset | Ratings,
    test: Dataset | Ratings,
    epochs: int | None,
    progress: bool,
) -> tuple[Chosen, int]:
    """What `refit` returns, and the number of epochs."""
    if runs.score == "train_loss":
        raise ValueError("refit: the search had no validation ratings to choose by: give it valid= or folds=")
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, member in enumerate(runs.members):
        groups.setdefault(setting(member), []).append(number)
    frame = runs.to_frame()
    scores = {
        point: frame[runs.score].to_numpy(float)[own].mean()
        for point, own in groups.items()
        if not (frame["status"].iloc[own] == "pruned").any()
    }
    finite = {point: score for point, score in scores.items() if np.isfinite(score)}
    if not finite:
        raise ValueError("refit: no setting has a finite score; see the column status of runs.to_frame()")
    best, score = min(finite.items(), key=lambda pair: pair[1])
    own = groups[best]
    if epochs is None:
        epochs = max(1, round(frame["epoch"].iloc[own].mean()))
    first = own[0]
    fitted = fit(
        runs.key(first), runs.model(first), solver, train, hyper=runs.hyper(first), epochs=epochs, progress=progress
    )
    errors = evaluate.rating(fitted.model, fitted.params, test)
    table = runs.summary().sort_values(runs.score, ignore_index=True, kind="stable")
    return Chosen(fitted, dict(best), float(score), errors, table), epochs
