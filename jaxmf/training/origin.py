"""Where a fit starts if not at what the model's `init` makes: an earlier fit, or parameters that are given."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.checks import expect
from jaxmf.models.checks import check_finite
from jaxmf.models.leaves import width
from jaxmf.models.params import Hyper, Params, leaf_shapes
from jaxmf.solvers.solver import Solver
from jaxmf.training.state import STATUS, FitState, Saved, result

if TYPE_CHECKING:
    from jaxmf.training._fit import Fit


def given(params: Params, needed: Params) -> Params:
    """Parameters to start from, as arrays of the device; ValueError unless they are like those `needed`, and finite."""
    expect(params, Params, "params", "take the fit.params of a fit, or what update, fold_in or model.init returns")
    found, expected = leaf_shapes(params), leaf_shapes(needed)
    for path in sorted(found.keys() | expected.keys()):
        if found.get(path) != expected.get(path):
            raise ValueError(
                f"params: {path} is {found.get(path, 'missing')}, for these ratings the model makes it "
                f"{expected.get(path, 'not at all')}. Pass parameters of this model over the users and items of these "
                "ratings (train.align brings ratings to the ids of others), with numbers of their dtype"
            )
    structure, other = _structures(params, needed)
    if structure != other:
        raise ValueError(f"params: their structure is {structure}; for these ratings the model makes it {other}")
    check_finite(params, "fit")
    return jax.tree.map(jnp.asarray, params)


def resumed(fit: "Fit", solver: Solver, hyper: Hyper, needed: FitState) -> FitState:
    """The state to go on from, a loaded solver state in its structure again, if all is as this fit needs it."""
    state = fit.state
    if (state.best is None) != (needed.best is None):
        raise ValueError("resume: patience must be None in both calls or in neither: give it as to the earlier fit")
    if isinstance(state.solver, Saved):
        state = state._replace(solver=_restored(state.solver, needed.solver))
    parts = (("parameters", state.params, needed.params), ("solver state", state.solver, needed.solver))
    for name, found, expected in parts:
        structure, other = _structures(found, expected)
        if structure != other or leaf_shapes(found) != leaf_shapes(expected):
            raise ValueError(
                f"resume: the earlier fit has {name} {_text(found)}, this model, solver and data need "
                f"{_text(expected)}. Resume with the model, solver and data of the earlier fit, or start anew without "
                "resume="
            )
    _check_unedited(fit, result(solver, state))
    before, now = (_active_rank(numbers, state.params) for numbers in (fit.hyper, hyper))
    if before != now:
        raise ValueError(
            f"resume: the earlier fit has the active rank {before}, this one {now}, and a fit keeps the rank that it "
            "starts with: give the same, or start a new fit with params="
        )
    return state


def _check_unedited(fit: "Fit", held: Params) -> None:
    """ValueError if the fit says other things than its state, which holds these parameters, and is what goes on."""
    status = STATUS[int(fit.state.status)]
    pairs = zip(jax.tree.leaves(fit.params), jax.tree.leaves(held), strict=False)
    structure, other = _structures(fit.params, held)
    same = structure == other and all(_same(*pair) for pair in pairs)
    wrong = ["params" if not same else "", "status" if fit.status != status else ""]
    if any(wrong):
        raise ValueError(
            f"resume: of this fit, {' and '.join(filter(None, wrong))} has been edited, and a fit goes on from its "
            "state, with the solver's memory of how it came there. Start a new fit with params=fit.params in place of "
            "resume=, or pass the fit as it was"
        )


def _structures(*trees: Any) -> list[Any]:
    return [jax.tree.structure(tree) for tree in trees]


def _text(tree: Any) -> str:
    return ", ".join(f"{path} {shape}".strip() for path, shape in leaf_shapes(tree).items()) or "without arrays"


def _same(one: Any, other: Any) -> bool:
    return one is other or np.array_equal(np.asarray(one), np.asarray(other), equal_nan=True)


def _active_rank(hyper: Hyper, params: Params) -> int | None:
    return width(params.trained) if hyper.rank is None else int(hyper.rank)


def _restored(saved: Saved, like: Any) -> Any:
    """The saved leaves in the structure of `like`, or `saved` itself where the paths are others."""
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(like)]
    if saved.leaves.keys() != set(paths):
        return saved
    return jax.tree.unflatten(jax.tree.structure(like), [saved.leaves[path] for path in paths])
