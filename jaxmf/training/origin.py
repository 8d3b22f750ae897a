"""Starting points of a fit other than the model's `init`: an earlier fit, or given parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.checks import expect
from jaxmf.models.checks import check_finite
from jaxmf.models.leaves import width
from jaxmf.models.params import Hyper, Params, leaf_shapes
from jaxmf.solvers.solver import Solver
from jaxmf.training.fitted import Fit
from jaxmf.training.state import STATUS, FitState, Saved, result


def given(params: Params, needed: Params) -> Params:
    """Return the parameters to start from, as device arrays.

    Raises ValueError unless they are finite and have the structure, shapes and dtypes of `needed`.
    """
    expect(params, Params, "params", "take the fit.params of a fit, or what update, fold_in or model.init returns")
    actual, expected = leaf_shapes(params), leaf_shapes(needed)
    for path in sorted(actual.keys() | expected.keys()):
        if actual.get(path) != expected.get(path):
            raise ValueError(
                f"params: {path} is {actual.get(path, 'missing')}, but for these ratings the model makes "
                f"{expected.get(path, 'no such leaf')}. Pass parameters of this model, in the dtype of these ratings "
                "and over their users and items (train.align(other) brings other ratings to the ids of train)"
            )
    structure, expected_structure = _structures(params, needed)
    if structure != expected_structure:
        raise ValueError(
            f"params: their structure is {structure}, but for these ratings the model makes {expected_structure}"
        )
    check_finite(params, "fit")
    arrays: Params = jax.tree.map(jnp.asarray, params)
    return arrays


def resumed(fit: Fit, solver: Solver, hyper: Hyper, needed: FitState) -> FitState:
    """Return the state to continue from, with a loaded solver state back in its structure.

    Raises ValueError unless the state has the structure, shapes and dtypes of `needed`, the active rank of `hyper`, and
    the fit was not edited.
    """
    state = fit.state
    if (state.best is None) != (needed.best is None):
        raise ValueError("resume: patience must be None in both calls or in neither: pass it as in the earlier fit")
    if isinstance(state.solver, Saved):
        state = state._replace(solver=_restored(state.solver, needed.solver))
    parts = (("parameters", state.params, needed.params), ("solver state", state.solver, needed.solver))
    for name, actual, expected in parts:
        structure, expected_structure = _structures(actual, expected)
        if structure != expected_structure or leaf_shapes(actual) != leaf_shapes(expected):
            raise ValueError(
                f"resume: the earlier fit has {name} {_text(actual)}, but this model, solver and data need "
                f"{_text(expected)}. Resume with the model, solver and data of the earlier fit, or start a new fit "
                "without resume="
            )
    _check_unedited(fit, result(solver, state))
    before, now = (_active_rank(numbers, state.params) for numbers in (fit.hyper, hyper))
    if before != now:
        raise ValueError(
            f"resume: the earlier fit has the active rank {before}, but this one has {now}, and a fit keeps the rank "
            "that it starts with: pass the same rank, or start a new fit with params="
        )
    return state


def _check_unedited(fit: Fit, held: Params) -> None:
    """Raise ValueError unless the fit has the status of its state, and the parameters `held` by it."""
    status = STATUS[int(fit.state.status)]
    pairs = zip(jax.tree.leaves(fit.params), jax.tree.leaves(held), strict=False)
    structure, held_structure = _structures(fit.params, held)
    same = structure == held_structure and all(_same(*pair) for pair in pairs)
    edited = ["params" if not same else "", "status" if fit.status != status else ""]
    if any(edited):
        raise ValueError(
            f"resume: this fit was edited ({' and '.join(filter(None, edited))}), but resuming continues from its "
            "state, which also holds the state of the solver. Start a new fit with params=fit.params instead of "
            "resume=, or pass the fit unedited"
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
    """Return the saved leaves in the structure of `like`, or `saved` itself if their paths differ."""
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(like)]
    if saved.leaves.keys() != set(paths):
        return saved
    return jax.tree.unflatten(jax.tree.structure(like), [saved.leaves[path] for path in paths])
