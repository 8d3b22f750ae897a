"""Search with Optuna's samplers and pruners, many trials at once, all of which run in one program."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Unpack

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
from jaxmf.sweeps.result import Sweep, concatenate
from jaxmf.training.checks import check_key
from jaxmf.training.options import Options, column_of, cost_sign, for_model
from jaxmf.training.program import progress_bar

if TYPE_CHECKING:
    from optuna import Study


class Trials(NamedTuple):
    """The result of `optuna`.

    Attributes:
      runs: all fits, one member per trial (and fold) in the order of the trials; `runs.best()`, `runs.params`, ...
      study: Optuna's study, for its tables, importances and plots.
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
    """Search with Optuna, `ask` trials at a time: each batch of trials is a sweep, pruned by its validation scores.

    The trials of a batch run in parallel, in the program of the largest rank of the space, so that later batches
    compile nothing new. At each rung (as in `halving`) the score of every trial is reported to the study, and then the
    trials that its pruner stops are dropped. The value of a trial is the score of its best epoch, averaged over folds.

    Args:
      key, model, solver, train, valid: as in `sweep`; there must be validation ratings, `valid` or `folds`.
      space: name -> (low, high), (low, high, "log") or a list of values; a range whose ends are integers contains only
        integers. The names are those of a sweep's grid.
      trials: number of trials.
      ask: number of trials in a batch. A sampler does not know the results of the other trials of a batch; TPE does
        take into account where they are.
      sampler: "tpe" or "random", seeded by `key`, or a sampler of Optuna. Ignored if there is a `study`, which has its
        own.
      study: a study to continue, of direction "minimize", or "maximize" if a ranking is monitored; default: a new one,
        which at each rung prunes a trial that is in the worst quarter of the trials before it. A study with persistent
        storage survives a run that is killed: pass it again, with the number of trials that are missing.
      epochs: number of epochs of a trial that is not pruned.
      min_epochs: minimum number of epochs before the first report; default: epochs / factor², which makes two reports
        before the last rung.
      factor: each rung has `factor` times as many epochs as the one before.
      choices: as in `sweep`, without `out` and `pad`. `patience` defaults to `epochs`, which stops no fit and keeps its
        best epoch.

    Returns:
      Trials(runs, study).

    Raises:
      ImportError: Optuna is not installed.
      ValueError: as `sweep`; an invalid space, no validation ratings, or a number out of range.

    Cost: that of the fits at the width of the largest rank; one compilation for each width of the ladder that is used.

    References: Akiba et al. (2019), Optuna: a next-generation hyperparameter optimization framework; Bergstra et al.
    (2011), Algorithms for hyper-parameter optimization (TPE).
    """
    try:
        import optuna as library
    except ImportError as error:
        raise ImportError("optuna is not installed; pip install 'jaxmf[search]' installs it") from error
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
    sign = cost_sign(column_of(for_model(Options(monitor=choices.get("monitor")), model).monitor))
    direction: Literal["minimize", "maximize"] = "minimize" if sign > 0 else "maximize"
    if study is None:
        pruner = library.pruners.PercentilePruner(75.0)
        study = library.create_study(sampler=_sampler(key, library, sampler), pruner=pruner, direction=direction)
    _check_direction(study, direction)
    distributions = {name: _distribution(library, values) for name, values in space.items()}

    num_folds = 1 if folds is None else len(folds)
    kept: Choices = keeping_best(choices, epochs)._replace(pad=program, progress=False)
    sweeps: list[Sweep] = []
    with progress_bar(trials, choices.get("progress", False), "trial") as bar:
        for begin in range(0, trials, ask):
            batch = [study.ask(distributions) for _ in range(min(ask, trials - begin))]
            grid = [dict(trial.params) for trial in batch]
            compared = Rungs(steps, select=_unpruned(batch, steps, num_folds, sign))
            try:
                runs = run(key, model, solver, train, valid, grid, compared, kept)
            except BaseException:
                for trial in batch:
                    study.tell(trial, state=library.trial.TrialState.FAIL)
                raise
            _tell(study, library.trial.TrialState, batch, runs, num_folds)
            sweeps.append(runs)
            bar.update(len(batch))
    return Trials(concatenate(sweeps, choices.get("keep", "best")), study)


def _check(trials: Any, ask: Any, choices: Keywords) -> None:
    for name, value in (("trials", trials), ("ask", ask)):
        if not is_positive_integer(value):
            raise ValueError(f"optuna: {name} must be a positive integer, not {value!r}")
    for name, reason in (("out", "a study with a storage keeps its trials"), ("pad", "all ranks run in one program")):
        if name in choices:
            raise ValueError(f"optuna: takes no {name}: {reason}")


def _check_direction(study: Study, direction: str) -> None:
    actual = study.direction.name.lower()
    if actual != direction:
        raise ValueError(
            f"optuna: the study has the direction {actual!r}, which does not fit the monitored score: create it with "
            f"direction={direction!r}"
        )


def _tell(study: Study, states: Any, batch: list[Any], runs: Sweep, num_folds: int) -> None:
    """Tell the study how each trial ended; the value of a trial is its mean score over the folds."""
    values = runs.table[runs.score].to_numpy(float).reshape(-1, num_folds).mean(axis=1)
    status = runs.table["status"].to_numpy().reshape(-1, num_folds)
    for trial, value, of_folds in zip(batch, values, status, strict=True):
        if (of_folds == "pruned").any():
            study.tell(trial, state=states.PRUNED)
        elif np.isfinite(value):
            study.tell(trial, value)
        else:
            study.tell(trial, state=states.FAIL)


def _unpruned(batch: list[Any], steps: list[int], num_folds: int, sign: int) -> Select:
    """Return the function that reports each trial's mean score at a rung, and selects those that are not pruned.

    The score is `sign` times the cost.
    """

    def select(rung: int, costs: Mapping[int, float]) -> Collection[int]:
        groups: dict[int, list[int]] = {member // num_folds: [] for member in costs}
        for member in costs:
            groups[member // num_folds].append(member)
        for trial, group in groups.items():
            batch[trial].report(float(np.mean([sign * costs[member] for member in group])), steps[rung])
        return [member for trial, group in groups.items() if not batch[trial].should_prune() for member in group]

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
