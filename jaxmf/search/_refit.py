"""Choose a setting on validation ratings or folds, fit it once more on all ratings but the test's, and test it once."""

from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxmf import evaluate
from jaxmf.data.dataset import Dataset
from jaxmf.data.ratings import Ratings
from jaxmf.files import output
from jaxmf.files.locks import claimed
from jaxmf.solvers.solver import Solver
from jaxmf.sweeps import Sweep
from jaxmf.sweeps.grid import setting
from jaxmf.training import Fit, fit
from jaxmf.training.options import cost_sign


class Chosen(NamedTuple):
    """The result of `refit`.

    Attributes:
      fit: the fit on all ratings, with the chosen setting.
      setting: that setting, by name.
      score: its mean validation score in the search, by which it was chosen.
      test: errors on the test ratings, as `evaluate.rating` returns them, or for a model of preferences the measures of
        `evaluate.ranking` by name.
      table: the settings of the search, best first: one row each, with mean and standard error over seeds and folds.
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

    The best setting has the best mean, over seeds and folds, of the score that the search monitored, among the
    settings that were not pruned. It is fitted without validation, with the key of its first member, for the mean of
    the numbers of epochs after which its members were best.

    Args:
      runs: a sweep, or the result of a search, with validation ratings or folds.
      solver: the solver of the search.
      train: all ratings that the search was allowed to see, including those that it validated on.
      test: ratings on which no choice was based, over the same users and items.
      epochs: number of epochs of the fit, instead of that mean.
      out: folder on disk, into which search.csv (the table) and chosen.json are written.
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
    """Return the result of `refit`, and the number of epochs."""
    if runs.score == "train_loss":
        raise ValueError("refit: the search had no validation ratings to choose by: give it valid= or folds=")
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, member in enumerate(runs.members):
        groups.setdefault(setting(member), []).append(index)
    frame = runs.to_frame()
    scores = {
        point: frame[runs.score].to_numpy(float)[group].mean()
        for point, group in groups.items()
        if not (frame["status"].iloc[group] == "pruned").any()
    }
    finite = {point: score for point, score in scores.items() if np.isfinite(score)}
    if not finite:
        raise ValueError("refit: no setting has a finite score; see the column status of runs.to_frame()")
    sign = cost_sign(runs.score)
    best, score = min(finite.items(), key=lambda pair: sign * pair[1])
    group = groups[best]
    if epochs is None:
        epochs = max(1, round(frame["epoch"].iloc[group].mean()))
    leader = group[0]
    fitted = fit(
        runs.key(leader), runs.model(leader), solver, train, hyper=runs.hyper(leader), epochs=epochs, progress=progress
    )
    errors = _tested(fitted, train, test)
    table = runs.summary().sort_values(runs.score, ascending=sign > 0, ignore_index=True, kind="stable")
    return Chosen(fitted, dict(best), float(score), errors, table), epochs


def _tested(fitted: Fit, train: Dataset | Ratings, test: Dataset | Ratings) -> dict[str, float]:
    """Return the errors of a fit on the test ratings, or its ranking of them."""
    if fitted.model.predicts == "rating":
        return evaluate.rating(fitted.model, fitted.params, test)
    measured = evaluate.ranking(fitted.model, fitted.params, train, test, baselines=False)
    return dict(zip(measured["metric"], measured["value"].astype(float), strict=True))
