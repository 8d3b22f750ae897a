"""The model, solver and numbers of a fit: what the user names, and what suits the data where the user does not.

Whatever loads JAX is imported inside the function that needs it, as in `names`.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxmf.shell.names import ALS_COMPONENTS, MODELS, OF_LIKES, OF_RATINGS, SOLVERS

if TYPE_CHECKING:
    from jaxmf.data import Dataset
    from jaxmf.models import Hyper, Model
    from jaxmf.shell.recipes import Family, Recipe

_LIKES = f"{', '.join(OF_LIKES[:-1])} or {OF_LIKES[-1]}"


class Asked(NamedTuple):
    """The options on the model and the solver; each field is the command-line option of the same name.

    The default of `model` and of `solver` depends on the data and on the model.
    """

    model: str | None = None
    rank: int = 16
    column: list[str] | None = None
    components: int | None = None
    solver: str | None = None
    devices: int = 1


class Choice(NamedTuple):
    """What is fitted, how, and what suits it.

    Attributes:
      name: the model's name after --model.
      model: the model; for content_mf, a function from the training data, whose items it reads.
      recipe: the solver and its learning rate.
      family: the defaults of such models.
      hyper: the default hyperparameters, with the recipe's learning rate.
      ranks: whether the model orders items, so that rankings are measured and not errors of ratings.
    """

    name: str
    model: "Model | Callable[[Dataset], Model]"
    recipe: "Recipe"
    family: "Family"
    hyper: "Hyper"
    ranks: bool


def rated_for(asked: Asked) -> str | None:
    """Return what needs ratings, for `names.dataset`: a model of ratings that the user named, or None.

    Raises:
      ValueError: the name of the model or of the solver is unknown.
    """
    if asked.solver is not None and asked.solver not in SOLVERS:
        raise ValueError(f"--solver must be one of {', '.join(SOLVERS)}, not {asked.solver!r}")
    if asked.model is None:
        return None
    of_ratings = asked.model == "content_mf" or _predicts(model(asked.model, asked.rank)) == "rating"
    return f"--model {asked.model}" if of_ratings else None


def are_likes(data: "Dataset") -> bool:
    """Return whether all ratings, more than one, are equal, so that they only say what users chose."""
    return len(data) > 1 and bool((data.rating == data.rating[0]).all())


def are_studied_as_likes(feedback: str | None, data: "Dataset") -> bool:
    """Return whether a study is of likes; raise ValueError if --feedback, unless None, is not that of the data."""
    likes = are_likes(data)
    if feedback == "implicit" and not likes:
        raise ValueError(
            f"the ratings of {data.name} range from {data.rating.min():g} to {data.rating.max():g}, and --feedback "
            "implicit takes every row as a like: keep the liked ones with --binarize THRESHOLD"
        )
    if feedback == "explicit" and likes:
        raise ValueError(
            f"all ratings of {data.name} are {data.rating[0]:g}, so that errors of ratings would mean nothing (an RMSE "
            "near 0): use --feedback implicit"
        )
    return likes


def choose(asked: Asked, data: "Dataset") -> tuple[Choice, str | None]:
    """Return what to fit to these data, and a sentence about what the user has not said but should know, or None.

    Raises:
      ValueError: the model is not for such data, or the solver not for this model.
    """
    likes = are_likes(data)
    name = asked.model or ("ials" if likes else "biased_mf")
    made = model(name, asked.rank, asked.column, asked.components, asked.solver or "")
    ranks = _predicts(made) == "preference"
    _check_data(name, ranks, likes, data)
    family = _family(name, made)
    solver = asked.solver or family.solvers[0]
    if solver not in family.solvers:
        others = f"{', '.join(family.solvers[:-1])} or {family.solvers[-1]}"
        raise ValueError(f"--solver {solver} cannot fit --model {name}: use --solver {others}")
    recipe = _recipe(solver, asked.devices)
    hyper = family.hyper._replace(learning_rate=recipe.learning_rate or 1.0)
    if getattr(made, "background", None) is None:
        hyper = hyper._replace(unobserved=None)
    note = None
    if likes and asked.model is None:
        note = f"all ratings of {data.name} are {data.rating[0]:g}: --model {name} by --solver {solver} ranks items"
    elif not likes and getattr(made, "background", None) is not None:
        note = (
            f"the ratings of {data.name} range from {data.rating.min():g} to {data.rating.max():g}, and --model {name} "
            "takes even the lowest as a choice: --binarize THRESHOLD keeps the liked ones"
        )
    return Choice(name, made, recipe, family, hyper, ranks), note


def with_numbers(choice: Choice, **numbers: float | None) -> "Hyper":
    """Return the hyperparameters of a choice, with those numbers that the user has given, not None, in their place.

    Raises:
      ValueError: a weight of unobserved cells is given for a model without a loss over them.
    """
    given: dict[str, Any] = {name: value for name, value in numbers.items() if value is not None}
    check_unobserved(choice.name, choice.model, given.get("unobserved"))
    return choice.hyper._replace(**given)


def grid(choice: Choice, tried: dict[str, Any], num_seeds: int) -> dict[str, Any]:
    """Return the grid of a sweep: the values to try by name, where the user gave none those that suit the model.

    Raises:
      ValueError: weights of unobserved cells are given for a model without a loss over them.
    """
    check_unobserved(choice.name, choice.model, tried["unobserved"])
    suitable = dict(choice.family.grid)
    if choice.hyper.unobserved is None:
        suitable.pop("unobserved", None)
    values = {name: given or list(suitable.get(name, ())) for name, given in tried.items()}
    seeds = {"seed": range(num_seeds)} if num_seeds > 1 else {}
    return {name: given for name, given in values.items() if given} | seeds


def check_unobserved(name: str, made: Any, unobserved: Any) -> None:
    """Raise ValueError if a weight of unobserved cells is given for a model without a loss over them."""
    if unobserved is not None and getattr(made, "background", None) is None:
        raise ValueError(
            f"--unobserved is for a model with a loss over all cells, such as ials, not for --model {name}: leave it "
            "out"
        )


def check_clip(clip: Any, ranks: bool, name: str) -> None:
    """Raise ValueError if predictions that are not ratings shall be clipped."""
    if clip is not None and ranks:
        raise ValueError(f"--clip is for predictions of ratings, but {name} only orders items: leave it out")


def model(
    name: str, rank: int, columns: list[str] | None = None, components: int | None = None, solver: str = ""
) -> Any:
    """Return the model of that name; for content_mf, a function from the training data, whose items it reads."""
    from jaxmf import content, models
    from jaxmf.shell import recipes

    def content_model(train: Any) -> Any:
        try:
            features = content.tfidf(train, columns, components=components)
        except ValueError as error:
            raise ValueError(f"{error}; on the command line: --items FILE, --column NAME") from error
        return models.content_mf(rank, features)

    if name != "content_mf" and (columns or components):
        raise ValueError(f"--column and --components are for --model content_mf, not {name}")
    if solver == "als":
        components = components or ALS_COMPONENTS
    if name == "content_mf":
        return content_model
    built_in = recipes.MODELS | recipes.PREFERENCES
    if name in built_in:
        return built_in[name](rank)
    if ":" not in name:
        raise ValueError(f"--model must be one of {', '.join(MODELS)} or module:attribute, not {name!r}")
    return own_model(name, rank)


def own_model(name: str, rank: int) -> Any:
    """Import a user's own model, `module:attribute`; a function there is called with the rank."""
    from jaxmf.models import Model

    module, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(f"--model must be module:attribute, not {name!r}")
    sys.path.insert(0, "")
    try:
        loaded = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--model {name}: {error}") from error
    if callable(loaded):
        loaded = loaded(rank)
    if not isinstance(loaded, Model):
        raise ValueError(f"--model {name}: expected a jaxmf.Model, found {type(loaded).__name__}")
    return loaded


def kept(path: Path, model: str | None, rank: int) -> Any:
    """Load a saved fit and its training data; `model` names a model of the user's own."""
    from jaxmf import load

    return load(path, own_model(model, rank) if model else None)


def check_new(fit: Any, train: "Dataset", new: "Dataset") -> None:
    """Raise ValueError if new ratings cannot be added to a fit: its rows are not solved for, or it is of likes."""
    if fit.model.design is None:
        raise ValueError(
            f"--new solves for users and items by least squares, which the fit of {fit.model.name} has not: add the "
            "rows to its --data, and fit again"
        )
    if are_likes(train) and (new.rating != train.rating[0]).any():
        raise ValueError(
            f"the fit is of likes (all ratings are {train.rating[0]:g}), but the ratings of --new range from "
            f"{new.rating.min():g} to {new.rating.max():g}: keep the liked ones with --binarize THRESHOLD"
        )


def rated_by(fit: Any) -> str | None:
    """Return what needs ratings, for `names.dataset`: a fit of a model of ratings, or None."""
    return f"The fit of {fit.model.name}" if fit.model.predicts == "rating" else None


def _predicts(made: Any) -> str:
    """Return what a model predicts; a function that makes one makes a model of ratings."""
    predicts: str = getattr(made, "predicts", "rating")
    return predicts


def _check_data(name: str, ranks: bool, likes: bool, data: "Dataset") -> None:
    """Raise ValueError if a model of ratings shall be fitted to likes."""
    if likes and not ranks:
        own = "" if name in OF_RATINGS else "; if it is for likes, give the Model predicts='preference'"
        raise ValueError(
            f"all ratings of {data.name} are {data.rating[0]:g}, so they only say what users chose, and errors of "
            f"--model {name} would mean nothing (an RMSE near 0): use --model {_LIKES}{own}"
        )


def _family(name: str, made: Any) -> "Family":
    """Return the defaults for a model; those of a user's own depend on what its loss reads."""
    from jaxmf.shell import recipes

    if _predicts(made) == "rating":
        return recipes.OF_RATINGS
    if made.draw is not None:
        return recipes.OF_DRAWN_ITEMS
    family = recipes.OF_ALL_CELLS
    if name == "ials":
        return family
    # A user's own model may be fitted by any solver, which itself refuses what it cannot do.
    return family._replace(solvers=("adam", "als", "sgd", "momentum", "minibatch"))


def _recipe(solver: str, devices: int) -> "Recipe":
    """Return the recipe of that name, with its solver on that many devices."""
    import jax

    from jaxmf import solvers
    from jaxmf.shell.recipes import RECIPES

    if devices == 1:
        return RECIPES[solver]
    if solver not in ("sgd", "als"):
        raise ValueError(f"--devices is for the solvers sgd and als, not {solver}")
    jax.config.update("jax_num_cpu_devices", devices)
    return RECIPES[solver]._replace(solver=getattr(solvers, solver)(devices=devices))
