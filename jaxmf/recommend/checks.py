"""Checks shared by the tools of this package, on the host and before anything else."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.checks import expect, is_positive_integer
from jaxmf.data.dataset import Dataset
from jaxmf.models.checks import check_finite, check_hyper, check_predicts, check_unobserved
from jaxmf.models.least_squares import check_least_squares
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params
from jaxmf.models.promises import LEAST_SQUARES, OWN_DESIGN, OWN_PAIRS, OWN_PENALTY, OWN_USERS
from jaxmf.models.trial import check_promises


def check_fitted(who: str, model: Model, params: Params, data: Dataset, name: str = "train") -> None:
    """Raise ValueError unless these are a Model, its finite Params, and a Dataset over as many users and items."""
    expect(data, Dataset, f"{who}: {name}", "pass the one whose ids the model was fitted with")
    check_predicts(model, params, data, who)
    check_finite(params, who)


def check_sizes(who: str, n: Any, max_memory: Any) -> None:
    """Raise ValueError unless `n` is a positive integer, and `max_memory` a positive integer or None."""
    if not is_positive_integer(n):
        raise ValueError(f"{who}: n must be a positive integer, not {n!r}")
    if max_memory is not None and not is_positive_integer(max_memory):
        raise ValueError(f"{who}: max_memory must be a positive integer of bytes or None, not {max_memory!r}")


def check_precision(who: str, params: Params) -> None:
    """Raise ValueError unless the rows are in float32 or float64, which are precise enough for sums of many numbers."""
    leaves = jax.tree.leaves(params.trained)
    if leaves and (dtype := jnp.result_type(*leaves)) not in (np.float32, np.float64):
        raise ValueError(
            f"{who}: params are in {dtype}; expected float32 or float64, as fit returns them, to solve for rows"
        )


def check_solvable(who: str, model: Model, params: Params, hyper: Hyper) -> None:
    """Raise ValueError unless the normal equations of the model's rows exist and have one solution."""
    check_hyper(hyper)
    check_unobserved(model, hyper)
    check_precision(who, params)
    if model.design is None:
        raise ValueError(
            f"{who}: the model {model.name!r} has no `design`, so its rows are not the solution of least squares. Give "
            "the model a `design`, as the built-in ones have, or fit it again to data.extend(new_frame)"
        )
    try:
        check_least_squares(model, params, hyper, {})
    except ValueError as error:
        raise ValueError(f"{who}: {error}") from None


def check_foldable(who: str, model: Model, params: Params, hyper: Hyper, data: Dataset) -> None:
    """Raise ValueError if a user-defined model breaks a promise needed to solve for single rows; call it last."""
    _check_reads(who, model, "fit the model again to data.extend(new_frame)")
    promises = (*LEAST_SQUARES, OWN_DESIGN, OWN_PENALTY)
    instead = "fit the model again to data.extend(new_frame) (in the shell: jaxmf fit)"
    check_promises(who, promises, model, params, hyper, data, instead)


def check_rankable(model: Model, params: Params, train: Dataset, chosen: bool) -> None:
    """Raise ValueError if a user-defined model predicts differently on gathered rows, also of items if `chosen`.

    Call this check last.
    """
    if chosen:
        promise, instead = OWN_PAIRS, "omit candidates= and select these items from the table that top_n then returns"
        _check_reads("top_n", model, instead)
    else:
        promise, instead = OWN_USERS, "rank what jaxmf.predict returns (in the shell: jaxmf predict)"
    check_promises("top_n", (promise,), model, params, Hyper(), train, instead)


def _check_reads(who: str, model: Model, instead: str) -> None:
    """Raise ValueError if the model reads whole tables, since only gathered rows are at hand."""
    if model.reads == "tables":
        raise ValueError(f"{who}: the model {model.name!r} reads whole tables (its `reads` is 'tables'): {instead}")


def check_sweeps(who: str, sweeps: Any) -> None:
    """Raise ValueError unless `sweeps` is 0 or a positive integer."""
    if not (is_positive_integer(sweeps) or (isinstance(sweeps, int) and sweeps == 0 and sweeps is not False)):
        raise ValueError(f"{who}: sweeps must be 0 or a positive integer, not {sweeps!r}")
