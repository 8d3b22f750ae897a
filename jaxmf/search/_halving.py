"""Successive halving and Hyperband: run many settings for few epochs, and few settings for many epochs."""

import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Unpack

import jax
import numpy as np

from jaxmf.data.dataset import Dataset
from jaxmf.data.ratings import Ratings
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper
from jaxmf.search._rungs import check_validated, comparisons, keeping_best, rungs
from jaxmf.search.space import Space, check_space, draw
from jaxmf.solvers.solver import Solver
from jaxmf.sweeps._run import run
from jaxmf.sweeps.grid import Grid, members, setting
from jaxmf.sweeps.plan import Keywords, Rungs, Select
from jaxmf.sweeps.result import Sweep
from jaxmf.training.checks import check_key


def halving(
    key: jax.Array,
    model: Model,
    solver: Solver,
    train: Dataset | Ratings,
    valid: Dataset | Ratings | None = None,
    *,
    grid: Grid,
    epochs: int = 81,
    min_epochs: int | None = None,
    factor: int = 3,
    **choices: Unpack[Keywords],
) -> Sweep:
    """Successive halving: run all settings for few epochs, the best 1/factor for `factor` times as many, and so on.

    With η = factor and s + 1 rungs, rung i is at ⌈epochs · η^(i − s)⌉ epochs. Of m settings at a rung the best
    max(1, ⌊m/η⌋) continue from where they are, so a survivor ends with the bits of its own `fit`. Members that differ
    only in seed or fold are one setting, which is judged by their mean.

    Args:
      key, model, solver, train, valid, grid: as in `sweep`; there must be validation ratings, `valid` or `folds`.
      epochs: number of epochs for settings that reach the last rung.
      min_epochs: minimum number of epochs before the first comparison; default: as few as leave one setting at the end.
      factor: η, at least 2.
      choices: as in `sweep`. `patience` defaults to `epochs`, which stops no fit and keeps its best epoch.

    Returns:
      a Sweep. Settings that were dropped have the status "pruned", and `runs.rungs` says at which rung.

    Raises:
      ValueError: as `sweep`; there are no validation ratings, or `factor` or `min_epochs` is out of range.

    Cost: about (s + 1) · η^(−s) times that of the full sweep; with `batch` > 1 one more compilation for each width of
    the ladder that is used.

    Reference: Jamieson and Talwalkar (2016), Non-stochastic best arm identification and hyperparameter optimization.
    """
    folds = choices.get("folds")
    check_validated("halving", valid, folds)
    listed = members(grid, choices.get("hyper") or Hyper(), None if folds is None else len(folds))
    settings = [setting(member) for member in listed]
    steps = rungs("halving", epochs, min_epochs, factor)
    steps = steps[-comparisons(len(set(settings)), factor) - 1 :]
    select = _best_of(settings, [0] * len(listed), factor)
    kept = keeping_best(choices, epochs)
    return run(key, model, solver, train, valid, grid, Rungs(steps, select=select), kept)


def hyperband(
    key: jax.Array,
    model: Model,
    solver: Solver,
    train: Dataset | Ratings,
    valid: Dataset | Ratings | None = None,
    *,
    space: Space,
    epochs: int = 81,
    min_epochs: int = 1,
    factor: int = 3,
    **choices: Unpack[Keywords],
) -> Sweep:
    """Hyperband: run successive halving with several starting budgets at once, on settings drawn at random.

    With η = factor and s_max = ⌊log_η(epochs / min_epochs)⌋, bracket s = s_max, …, 0 has
    ⌈(s_max + 1) / (s + 1) · η^s⌉ settings, which are first compared after epochs · η^(−s) epochs. All brackets go
    through the same rungs in parallel; each of them selects among its own settings.

    Args:
      key: as in `sweep`; the settings are drawn with it too.
      model, solver, train, valid: as in `sweep`; there must be validation ratings, `valid` or `folds`.
      space: name -> (low, high), (low, high, "log") or a list of values; a range whose ends are integers contains only
        integers. The names are those of a sweep's grid.
      epochs: number of epochs for settings that reach the last rung.
      min_epochs: minimum number of epochs before the first comparison in the largest bracket.
      factor: η, at least 2.
      choices: as in `halving`.

    Returns:
      a Sweep, with one member per setting (and fold), as `halving` returns it.

    Raises:
      ValueError: as `halving`, or an invalid space.

    Cost: at most (s_max + 1)² · epochs epochs in total.

    Reference: Li et al. (2018), Hyperband: a novel bandit-based approach to hyperparameter optimization.
    """
    check_key(key)
    check_space(space, "hyperband")
    check_validated("hyperband", valid, choices.get("folds"))
    steps = rungs("hyperband", epochs, min_epochs, factor)
    top = len(steps) - 1
    sizes = [math.ceil((top + 1) / (top - rung + 1) * factor ** (top - rung)) for rung in range(top + 1)]
    entry = np.repeat(np.arange(top + 1), sizes).tolist()
    grid = draw(key, space, len(entry))
    folds = choices.get("folds")
    listed = members(grid, choices.get("hyper") or Hyper(), None if folds is None else len(folds))
    num_folds = len(listed) // len(entry)
    # Two points drawn from lists of values may be equal, but they remain two settings.
    settings = [member // num_folds for member in range(len(listed))]
    select = _best_of(settings, np.repeat(entry, num_folds).tolist(), factor)
    kept = keeping_best(choices, epochs)
    return run(key, model, solver, train, valid, grid, Rungs(steps, entry, select), kept)


def _best_of(settings: Sequence[Hashable], brackets: Sequence[int], factor: int) -> Select:
    """Return the function that selects the best 1/factor of each bracket's settings by their mean cost.

    Of settings with equal costs it selects the first ones.
    """

    def select(rung: int, costs: Mapping[int, float]) -> Collection[int]:
        groups: dict[int, dict[Hashable, list[int]]] = defaultdict(lambda: defaultdict(list))
        for member in costs:
            groups[brackets[member]][settings[member]].append(member)
        selected: list[int] = []
        for bracket in groups.values():
            ranked = sorted(bracket.values(), key=lambda group: np.mean([costs[member] for member in group]))
            selected += [member for group in ranked[: max(1, len(bracket) // factor)] for member in group]
        return selected

    return select
