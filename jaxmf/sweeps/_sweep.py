"""Sweeps: many fits of one model by one solver, with one compiled program per width of the factors."""

from os import PathLike

import jax
import numpy as np

from jaxmf.data.dataset import Dataset
from jaxmf.data.ratings import Ratings
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper
from jaxmf.solvers.solver import Solver
from jaxmf.sweeps._run import run
from jaxmf.sweeps.grid import Grid
from jaxmf.sweeps.plan import Choices, Keep, Rungs
from jaxmf.sweeps.result import Sweep
from jaxmf.training.options import Monitor


def sweep(
    key: jax.Array,
    model: Model,
    solver: Solver,
    train: Dataset | Ratings,
    valid: Dataset | Ratings | None = None,
    *,
    grid: Grid,
    folds: jax.Array | np.ndarray | None = None,
    hyper: Hyper | None = None,
    epochs: int = 50,
    patience: int | None = None,
    min_delta: float = 0.0,
    monitor: Monitor | None = None,
    track: bool = True,
    keep: Keep = "best",
    out: str | PathLike[str] | None = None,
    batch: int | None = None,
    pad: bool | None = None,
    workers: int | None = None,
    max_memory: int | None = None,
    progress: bool = False,
) -> Sweep:
    """Fit every member of a grid. Each equals its own `fit`, and one program serves all members of one width.

    Args:
      key: from `jax.random.key`. A member with `seed` s has the key `fold_in(key, s)`; without seeds all have `key`.
      model: the model; the `rank` of a member overrides its width.
      solver: the solver.
      train: training ratings.
      valid: validation ratings over the same users and items; not together with `folds`.
      grid: name -> values, all combinations of which are fitted, or a list of points, name -> value. The names are
        `rank`, `seed`, `fold`, the other numbers of `Hyper`, and `extra.NAME`.
      folds: (k, n) numbers from 0 to 1, k folds of `train`, as `splits.k_fold` makes them. With w the weights of
        `train`, each member is fitted on w · fold and validated on w · (1 - fold); all folds are used if the grid does
        not name `fold`.
      hyper: the hyperparameters that the grid does not name; `Hyper()` if None.
      epochs, patience, min_delta, monitor, track: as in `fit`.
      keep: whose parameters to keep: those of the "best" member by the monitored score (without validation ratings, by
        the training loss), of "all", or of "none".
      out: folder on disk for finished members. A sweep that was killed continues from there, with the same bits, when
        it is called again with the same arguments. At the end, metrics.csv and history.csv are written there too. No
        other run can use the folder meanwhile.
      batch: number of members that run at once under `vmap`; it changes the last bits of their results. Default: 1 on a
        CPU, where a member then has the bits of its own `fit`; elsewhere as many as fit into memory.
        benchmarks/sweep.py measures it.
      pad: True fits all ranks at the largest width, in one program; False fits each rank at its own width; None does
        whichever costs less, judged by the solver and the number of ratings, epochs and members, and never pads a
        user's own model.
      workers: number of batches that run at once on each device. Default: one per core on a CPU, 1 elsewhere. All local
        accelerators are used; they do not communicate.
      max_memory: maximum number of bytes for the programs that run at once on a device, and for the parameters that are
        kept. If the programs need more, fewer workers or smaller batches run, with a warning. Default: no limit on a
        CPU, 80 % of the memory elsewhere.
      progress: show a progress bar on standard error.

    Returns:
      a Sweep. A member that diverges is a row with that status, and does not affect the others.

    Raises:
      ValueError: before anything compiles: an unknown name, an empty list or a value out of range in the grid, `folds`
        together with `valid`, a hyperparameter that the solver refuses, or an `out` that holds another sweep or is in
        use by another run (the message names it). Also one member, or the parameters to keep, that need more than
        `max_memory`, and a model to be padded whose `init` starts differently, or whose objective differs, in a wider
        table.

    Cost: that of the fits, divided among the cores or devices; one compilation per width and device.
    """
    choices = Choices(
        folds=folds,
        hyper=hyper,
        patience=patience,
        min_delta=min_delta,
        monitor=monitor,
        track=track,
        keep=keep,
        out=out,
        batch=batch,
        pad=pad,
        workers=workers,
        max_memory=max_memory,
        progress=progress,
    )
    return run(key, model, solver, train, valid, grid, Rungs((epochs,)), choices)
