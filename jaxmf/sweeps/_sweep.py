"""Sweeps: many fits of one model by one solver, one compiled program per width of the factors."""

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
    monitor: Monitor = "loss",
    track: bool = True,
    keep: Keep = "best",
    out: str | PathLike[str] | None = None,
    batch: int | None = None,
    pad: bool | None = None,
    workers: int | None = None,
    max_memory: int | None = None,
    progress: bool = False,
) -> Sweep:
    """Fit every member of a grid: each equals its own `fit`, and one program serves all members of a width.

    Args:
      key: from `jax.random.key`. A member with `seed` s has the key `fold_in(key, s)`; without seeds all have `key`.
      model: the model; the `rank` of a member overrides its width.
      solver: the solver.
      train: training ratings.
      valid: validation ratings over the same users and items; not together with `folds`.
      grid: name -> values, of which all combinations are fitted, or a list of points: `rank`, `seed`, `fold`, any
        number of `Hyper`, and `extra.NAME`.
      folds: (k, n) training weights of k folds of `train`, as `splits.k_fold` makes them. Each member is fitted on the
        weights of its fold and validated on 1 - weight; all folds are taken if the grid does not name `fold`.
      hyper: the numbers that the grid does not name; `Hyper()` if None.
      epochs, patience, min_delta, monitor, track: as in `fit`.
      keep: whose parameters are kept: of the "best" member by the monitored score (without validation, by the training
        loss), of "all", or of "none".
      out: folder on disk for the members that are finished: a sweep that was killed goes on from there, to the same
        bits, when it is called again with the same arguments. It also gets metrics.csv and history.csv at the end.
        While a sweep runs, it has the folder for itself.
      batch: members at once under `vmap`; their number changes the last bits. Default: 1 on a CPU, where a member then
        has the bits of its own `fit`; all that fit into memory elsewhere. benchmarks/sweep.py measures it.
      pad: True fits all ranks at the largest width by one program, False each rank at its own; None does whichever
        costs less by the solver and the number of ratings, epochs and members, and never pads a user's own model.
      workers: batches that run at once on each device. Default: one per core on a CPU, 1 elsewhere. All local
        accelerators are used; they do not talk to each other.
      max_memory: most bytes that the programs running at once may take on a device, and that kept parameters may take;
        a batch that needs more is cut, with a warning. Default: no bound on a CPU, 80 % of the memory elsewhere.
      progress: show a progress bar on standard error.

    Returns:
      a Sweep. A member that diverges is a row with that status, and changes no other.

    Raises:
      ValueError: an unknown name, an empty list or a value out of range in the grid, `fold` together with `valid`,
        a number that the solver refuses, or an `out` that holds another sweep or is in use by another run, which is
        named; all before anything compiles. One member, or the parameters kept, that need more than `max_memory`; a
        model to be padded whose `init` starts otherwise in a wider table.

    Cost: that of the fits, less what a second core or device takes over; one compilation per width and device.
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
