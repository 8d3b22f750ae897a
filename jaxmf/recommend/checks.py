"""What every tool of this room checks first, on the host."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.checks import expect, is_positive_integer
from jaxmf.data.dataset import Dataset
from jaxmf.models.checks import check_finite, check_hyper, check_predicts
from jaxmf.models.least_squares import check_least_squares
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params
from jaxmf.models.promises import LEAST_SQUARES, OWN_DESIGN, OWN_PAIRS, OWN_PENALTY, OWN_USERS
from jaxmf.models.trial import check_promises


def check_fitted(who: str, model: Model, params: Params, data: Dataset, name: str = "train") -> None:
    """ValueError unless these are a Model, its finite Params, and a Dataset over as many users and items."""
    expect(data, Dataset, f"{who}: {name}", "pass the one whose ids the model was fitted with")
    check_predicts(model, params, data, who)
    check_finite(params, who)


def check_sizes(who: str, n: Any, max_memory: Any) -> None:
    """ValueError unless `n` is a positive integer, and `max_memory` one or None."""
    if not is_positive_integer(n):
        raise ValueError(f"{who}: n must be a positive integer, not {n!r}")
    if max_memory is not None and not is_positive_integer(max_memory):
        raise ValueError(f"{who}: max_memory must be a positive integer of bytes or None, not {max_memory!r}")


def check_precision(who: str, params: Params) -> None:
    """ValueError unless the rows are in float32 or float64, in which sums of many numbers keep their digits."""
    leaves = jax.tree.leaves(params.trained)
    if leaves and (dtype := jnp.result_type(*leaves)) not in (np.float32, np.float64):
        raise ValueError(
            f"{who}: params are in {dtype}; expected float32 or float64, as fit makes them, since their rows are solved"
        )


def check_solvable(who: str, model: Model, params: Params, hyper: Hyper) -> None:
    """ValueError unless the rows of the model have normal equations with one solution."""
    check_hyper(hyper)
    check_precision(who, params)
    if model.design is None:
        raise ValueError(
            f"{who}: the model {model.name!r} has no `design`, so its rows have no least squares to solve. Give the "
            "model a `design`, as the built-in ones have, or fit it anew to data.extend(new_frame)"
        )
    if model.background is not None:
        raise ValueError(
            f"{who}: the model {model.name!r} has a `background`, a loss over all rows of the other side, of which "
            "there are parts alone: fit the model anew to data.extend(new_frame)"
        )
    try:
        check_least_squares(model, params, hyper, {})
    except ValueError as error:
        raise ValueError(f"{who}: {error}") from None


def check_foldable(who: str, model: Model, params: Params, hyper: Hyper, data: Dataset) -> None:
    """ValueError if a user's model breaks what rows that are solved alone rely on; the last check, see `trial`."""
    _check_reads(who, model, "fit the model anew to data.extend(new_frame)")
    promises = (*LEAST_SQUARES, OWN_DESIGN, OWN_PENALTY)
    instead = "fit the model anew to data.extend(new_frame) (in the shell: jaxmf fit)"
    check_promises(who, promises, model, params, hyper, data, instead)


def check_rankable(model: Model, params: Params, train: Dataset, chosen: bool) -> None:
    """ValueError if a user's model predicts otherwise for gathered users, and for `chosen` items; the last check."""
    if chosen:
        _check_reads("top_n", model, "leave candidates= out and take these items from what top_n then returns")
        promise, instead = OWN_PAIRS, "leave candidates= out and take these items from what top_n then returns"
    else:
        promise, instead = OWN_USERS, "rank what jaxmf.predict returns (in the shell: jaxmf predict)"
    check_promises("top_n", (promise,), model, params, Hyper(), train, instead)


def _check_reads(who: str, model: Model, instead: str) -> None:
    """ValueError if the model says that it reads whole tables, of which there are parts alone."""
    if model.reads == "tables":
        raise ValueError(f"{who}: the model {model.name!r} reads whole tables (its `reads` is 'tables'): {instead}")


def check_sweeps(who: str, sweeps: Any) -> None:
    """ValueError unless `sweeps` is 0 or a positive integer."""
    if not (is_positive_integer(sweeps) or (isinstance(sweeps, int) and sweeps == 0 and sweeps is not False)):
        raise ValueError(f"{who}: sweeps must be 0 or a positive integer, not {sweeps!r}")
