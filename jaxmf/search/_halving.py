"""Successive halving and Hyperband: many settings for few epochs, few settings for many."""

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
    """Successive halving: all settings run for few epochs, the best 1/factor of them for `factor` times as many, ...

    With η = factor and s + 1 rungs, rung i is at ⌈epochs · η^(i − s)⌉ epochs, and of m settings there the best
    max(1, ⌊m/η⌋) go on, from where they are: a survivor ends with the bits of its own `fit`. Members that differ in
    seed or fold only are one setting, judged by their mean.

    Args:
      key, model, solver, train, valid, grid: as in `sweep`; there must be validation ratings, `valid` or `folds`.
      epochs: of those that get to the last rung.
      min_epochs: epochs before the first comparison, at least; default: as few as leave one setting at the end.
      factor: η, at least 2.
      choices: as in `sweep`. `patience` defaults to `epochs`, which stops nobody and keeps the best epoch.

    Returns:
      a Sweep; settings that were dropped have the status "pruned", and `runs.rungs` says when.

    Raises:
      ValueError: as `sweep`; no validation ratings, or `factor` or `min_epochs` out of range.

    Cost: about (s + 1) · η^(−s) of that of the full sweep; with `batch` > 1 one more compilation for each width of
    the ladder that is visited.

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
    """Hyperband: successive halving from several starting budgets at once, on settings drawn at random.

    With η = factor and s_max = ⌊log_η(epochs / min_epochs)⌋, bracket s = s_max, …, 0 has
    ⌈(s_max + 1) / (s + 1) · η^s⌉ settings, which are first compared after epochs · η^(−s) epochs. All brackets climb
    the same rungs beside each other; each halves its own settings.

    Args:
      key: as in `sweep`; the settings are drawn from it, too.
      model, solver, train, valid: as in `sweep`; there must be validation ratings, `valid` or `folds`.
      space: name -> (low, high), (low, high, "log") or a list of values; a range between integers has integers only.
        Names are those of a sweep's grid.
      epochs: of those that get to the last rung.
      min_epochs: epochs before the first comparison of the largest bracket, at least.
      factor: η, at least 2.
      choices: as in `halving`.

    Returns:
      a Sweep, one member per setting (and fold), as `halving` returns it.

    Raises:
      ValueError: as `halving`, or a space that is none.

    Cost: at most (s_max + 1)² · epochs epochs in all.

    Reference: Li et al. (2018), Hyperband: a novel bandit-based approach to hyperparameter optimization.
    """
    check_key(key)
    check_space(space, "hyperband")
    check_validated("hyperband", valid, choices.get("folds"))
    steps = rungs("hyperband", epochs, min_epochs, factor)
    top = len(steps) - 1
    sizes = [math.ceil((top + 1) / (top - first + 1) * factor ** (top - first)) for first in range(top + 1)]
    entry = np.repeat(np.arange(top + 1), sizes).tolist()
    grid = draw(key, space, len(entry))
    folds = choices.get("folds")
    listed = members(grid, choices.get("hyper") or Hyper(), None if folds is None else len(folds))
    each = len(listed) // len(entry)
    # Two points of a space of lists may be equal; they are settings of their own.
    settings = [number // each for number in range(len(listed))]
    select = _best_of(settings, np.repeat(entry, each).tolist(), factor)
    kept = keeping_best(choices, epochs)
    return run(key, model, solver, train, valid, grid, Rungs(steps, entry, select), kept)


def _best_of(settings: Sequence[Hashable], brackets: Sequence[int], factor: int) -> Select:
    """The best 1/factor of each bracket's settings, by the mean over their members; the first of equals."""

    def select(rung: int, scores: Mapping[int, float]) -> Collection[int]:
        groups: dict[int, dict[Hashable, list[int]]] = defaultdict(lambda: defaultdict(list))
        for number in scores:
            groups[brackets[number]][settings[number]].append(number)
        chosen: list[int] = []
        for own in groups.values():
            ranked = sorted(own.values(), key=lambda numbers: np.mean([scores[number] for number in numbers]))
            chosen += [number for numbers in ranked[: max(1, len(own) // factor)] for number in numbers]
        return chosen

    return select
