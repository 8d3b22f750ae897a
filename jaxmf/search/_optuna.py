"""Optuna's samplers and pruners, asked for many trials at once, all of which run in one program."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import jax
import numpy as np

from jaxmf.data.checks import is_positive_integer
from jaxmf.data.dataset import Dataset
from jaxmf.data.ratings import Ratings
from jaxmf.models.checks import check_model
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper
from jaxmf.search._rungs import check_validated, keeping_best, rungs
from jaxmf.search.space import Space, check_space, corners, is_whole
from jaxmf.solvers.solver import Solver
from jaxmf.sweeps._run import run
from jaxmf.sweeps.grid import members
from jaxmf.sweeps.plan import Choices, Keywords, Rungs, Select
from jaxmf.sweeps.result import Sweep, joined
from jaxmf.training.checks import check_key
from jaxmf.training.program import progress_bar

if TYPE_CHECKING:
    from optuna import Study


class Trials(NamedTuple):
    """What `optuna` found.

    Attributes:
      runs: all fits, one member per trial (and fold) in the order of the trials; `runs.best()`, `runs.params`, ...
      study: Optuna's own object, for its tables, importances and plots.
    """

    runs: Sweep
    study: Study


def optuna(
    key: jax.Array,
    model: Model,
    solver: Solver,
    train: Dataset | Ratings,
    valid: Dataset | Ratings | None = None,
    *,
    space: Space,
    trials: int = 32,
    ask: int = 8,
    sampler: Any = "tpe",
    study: Study | None = None,
    epochs: int = 50,
    min_epochs: int | None = None,
    factor: int = 3,
    **choices: Unpack[Keywords],
) -> Trials:
    """Search by Optuna, `ask` trials at a time: each batch is a sweep, pruned by its validation score.

    The trials of a batch run beside each other, in the program of the largest rank of the space, so that no batch
    compiles anything new. At each rung (as of `halving`) the score of every trial is reported, and then those that the
    study's pruner gives up are pruned. The value of a trial is the score of its best epoch, the mean over its folds.

    Args:
      key, model, solver, train, valid: as in `sweep`; there must be validation ratings, `valid` or `folds`.
      space: name -> (low, high), (low, high, "log") or a list of values; a range between integers has integers only.
        Names are those of a sweep's grid.
      trials: number of trials.
      ask: trials that are asked for at once. A sampler knows nothing of the others of a batch, except, as TPE does,
        where they are.
      sampler: "tpe", "random", or an Optuna sampler; unless a `study` brings its own. It is seeded by `key`.
      study: a study to go on with, of direction "minimize"; default: a new one that at each rung gives up a trial in
        the worst quarter of those before it. A study with a storage of its own survives a run that dies: give it
        again, with the trials missing.
      epochs: of a trial that is not pruned.
      min_epochs: epochs before the first report, at least; default: epochs / factor², so that there are two.
      factor: each rung has `factor` times the epochs of the one before.
      choices: as in `sweep`, without `out` and `pad`. `patience` defaults to `epochs`, which stops nobody and keeps the
        best epoch.

    Returns:
      Trials(runs, study).

    Raises:
      ImportError: Optuna is not installed.
      ValueError: as `sweep`; a space that is none, no validation ratings, or a number out of range.

    Cost: that of the fits at the width of the largest rank; one compilation for each width of the ladder that is
    visited.

    References: Akiba et al. (2019), Optuna: a next-generation hyperparameter optimization framework; Bergstra et al.
    (2011), Algorithms for hyper-parameter optimization (TPE).
    """
    try:
        import optuna as library
    except ImportError as error:
        raise ImportError("optuna: is not installed; pip install 'jaxmf[search]' installs it") from error
    check_key(key)
    check_model(model)
    check_space(space, "optuna")
    _check(trials, ask, choices)
    folds = choices.get("folds")
    check_validated("optuna", valid, folds)
    steps = rungs("optuna", epochs, min_epochs, factor, 2 if min_epochs is None else None)
    largest = corners(space)
    members(largest, choices.get("hyper") or Hyper(), None if folds is None else len(folds))
    program = None
    if "rank" in space and model.with_rank is not None:
        program = model.with_rank(largest[1]["rank"])
    if study is None:
        study = library.create_study(
            sampler=_sampler(key, library, sampler), pruner=library.pruners.PercentilePruner(75.0)
        )
    distributions = {name: _distribution(library, values) for name, values in space.items()}

    folded = 1 if folds is None else len(folds)
    kept: Choices = keeping_best(choices, epochs)._replace(pad=program, progress=False)
    found: list[Sweep] = []
    with progress_bar(trials, choices.get("progress", False), "trial") as bar:
        for first in range(0, trials, ask):
            asked = [study.ask(distributions) for _ in range(min(ask, trials - first))]
            grid = [dict(trial.params) for trial in asked]
            compared = Rungs(steps, select=_pruned(asked, steps, folded))
            try:
                runs = run(key, model, solver, train, valid, grid, compared, kept)
            except BaseException:
                for trial in asked:
                    study.tell(trial, state=library.trial.TrialState.FAIL)
                raise
            _tell(study, library.trial.TrialState, asked, runs, folded)
            found.append(runs)
            bar.update(len(asked))
    return Trials(joined(found, choices.get("keep", "best")), study)


def _check(trials: Any, ask: Any, choices: Keywords) -> None:
    for name, value in (("trials", trials), ("ask", ask)):
        if not is_positive_integer(value):
            raise ValueError(f"optuna: {name} must be a positive integer, not {value!r}")
    for name, remedy in (("out", "a study with a storage keeps its trials"), ("pad", "all ranks run in one program")):
        if name in choices:
            raise ValueError(f"optuna: takes no {name}: {remedy}")


def _tell(study: Study, states: Any, asked: list[Any], runs: Sweep, folded: int) -> None:
    """Tell the study how each trial ended, whose value is its mean score over the folds."""
    values = runs.table[runs.score].to_numpy(float).reshape(-1, folded).mean(axis=1)
    status = runs.table["status"].to_numpy().reshape(-1, folded)
    for trial, value, ended in zip(asked, values, status, strict=True):
        if (ended == "pruned").any():
            study.tell(trial, state=states.PRUNED)
        elif np.isfinite(value):
            study.tell(trial, value)
        else:
            study.tell(trial, state=states.FAIL)


def _pruned(asked: list[Any], steps: list[int], folded: int) -> Select:
    """Report the mean score of every trial at each rung, then keep those that the study's pruner does not give up."""

    def select(rung: int, scores: Mapping[int, float]) -> Collection[int]:
        own: dict[int, list[int]] = {number // folded: [] for number in scores}
        for number in scores:
            own[number // folded].append(number)
        for each, numbers in own.items():
            asked[each].report(float(np.mean([scores[number] for number in numbers])), steps[rung])
        return [number for each, numbers in own.items() if not asked[each].should_prune() for number in numbers]

    return select


def _sampler(key: jax.Array, library: Any, sampler: Any) -> Any:
    seed = int(np.asarray(jax.random.key_data(key)).ravel()[-1])
    if sampler == "tpe":
        return library.samplers.TPESampler(seed=seed)
    if sampler == "random":
        return library.samplers.RandomSampler(seed=seed)
    if not isinstance(sampler, library.samplers.BaseSampler):
        raise ValueError(f"optuna: sampler must be 'tpe', 'random' or one of optuna.samplers, not {sampler!r}")
    return sampler


def _distribution(library: Any, values: tuple[Any, ...] | list[Any]) -> Any:
    if isinstance(values, list):
        return library.distributions.CategoricalDistribution(values)
    kind = library.distributions.IntDistribution if is_whole(values) else library.distributions.FloatDistribution
    return kind(values[0], values[1], log=values[2:] == ("log",))
