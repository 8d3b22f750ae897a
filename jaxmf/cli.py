"""The command line: argument parsing and printing; the work is in the library."""

import importlib
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="jaxmf",
    help="Matrix factorization in JAX: verified gradients, every solver on one objective, honest test errors.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_MODEL_HELP = "mf, biased_mf, or module:attribute for your own: a Model, or a function from the rank to one"
Data = Annotated[
    str,
    typer.Option(
        help="'synthetic' (embedded), 'ml-latest-small' (found through the environment variable JAXMF_DATA), "
        "'ml-100k', 'ml-1m' or 'ml-20m' (found there too, else downloaded once), or the path of a CSV or Parquet file "
        "with columns user_id, item_id, rating and perhaps timestamp."
    ),
]
Rename = Annotated[
    list[str] | None,
    typer.Option(help="The file's name of a column and ours, as in --rename userId=user_id. May be repeated."),
]
Out = Annotated[Path, typer.Option(help="Folder for the results.", file_okay=False)]
Rank = Annotated[int, typer.Option(help="Number of factors.", min=1)]
Exponent = Annotated[float, typer.Option(help="ν: 0 penalizes per row, 1 per observation.")]  # noqa: RUF001
Clip = Annotated[tuple[float, float] | None, typer.Option(help="Clip predictions, as in 1 5.")]
Seed = Annotated[int, typer.Option(help="Seed of the initial parameters, and of the split if there are no times.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars and no tables; errors are still shown.")]


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"jaxmf {version('jaxmf')}")
        raise typer.Exit


@app.callback()
def common(
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Options before the command."""


@app.command()
def study(
    data: Data = "synthetic",
    rename: Rename = None,
    out: Out = Path("results/study"),
    rank: Rank = 16,
    l2: Annotated[list[float], typer.Option(help="A value of λ to choose from. May be repeated.")] = [0.03, 0.1, 0.3],  # noqa: B006
    epochs: Annotated[int, typer.Option(help="Most epochs per fit.", min=1)] = 60,
    patience: Annotated[int, typer.Option(help="Epochs without improvement before a fit stops.", min=1)] = 10,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Verify gradients, fit baselines, then plain and biased factorization by every solver; write tables and figures.

    λ and the number of epochs are chosen on validation; test is read once per model and solver. A run that was cut off
    continues where it stopped. About a minute on the embedded data. Exit code 1 if a gradient is wrong.
    """
    from jaxmf import study as job

    try:
        metrics = job.run(_load(data, rename), out, rank, l2, epochs, patience, seed, progress=not quiet)
    except job.WrongGradientError as error:
        typer.echo(f"jaxmf: {error}", err=True)
        raise typer.Exit(1) from error
    if not quiet:
        columns = ["model", "solver", "l2", "best_epoch", "valid_rmse", "test_rmse", "seconds_per_epoch"]
        typer.echo(metrics[columns].to_string(index=False, na_rep="", float_format="{:.4f}".format))
        typer.echo(f"\nRead {out / 'summary.md'}")


@app.command()
def fit(
    data: Data = "synthetic",
    rename: Rename = None,
    out: Out = Path("results/fit"),
    model: Annotated[str, typer.Option(help=f"{_MODEL_HELP}.")] = "biased_mf",
    rank: Rank = 16,
    solver: Annotated[str, typer.Option(help="sgd, minibatch, momentum, adam or als.")] = "sgd",
    l2: Annotated[float, typer.Option(help="λ, the penalty on factors.")] = 0.03,
    l2_bias: Annotated[float | None, typer.Option(help="λ_b, the penalty on biases; λ if not given.")] = None,
    reg_exponent: Exponent = 1.0,
    learning_rate: Annotated[float | None, typer.Option(help="The solver's own default if not given.")] = None,
    epochs: Annotated[int, typer.Option(help="Most epochs.", min=1)] = 60,
    patience: Annotated[int, typer.Option(help="Epochs without improvement before it stops; 0 runs all.", min=0)] = 10,
    clip: Clip = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Fit one model; write its errors on train, validation and test, its history, a figure and the fit itself."""
    from jaxmf import study as job
    from jaxmf.recipes import RECIPES, starting_hyper

    if solver not in RECIPES:
        raise ValueError(f"--solver must be one of {', '.join(RECIPES)}, not {solver!r}")
    recipe = RECIPES[solver]
    hyper = starting_hyper(recipe, l2)._replace(l2_bias=l2_bias, reg_exponent=reg_exponent)
    if learning_rate is not None:
        hyper = hyper._replace(learning_rate=learning_rate)
    chosen, loaded = _model(model, rank), _load(data, rename)
    result, metrics = job.fit_one(
        loaded, out, chosen, recipe.solver, hyper, epochs, patience or None, seed, clip, progress=not quiet
    )
    if not quiet:
        typer.echo(metrics.to_string(index=False, float_format="{:.4f}".format))
        typer.echo(f"\n{result.status} after {len(result.to_frame())} epochs; results in {out}")
    if result.status == "diverged":
        typer.echo("jaxmf: diverged: try a smaller --learning-rate", err=True)
        raise typer.Exit(1)


@app.command()
def verify(
    data: Data = "synthetic",
    rename: Rename = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help=f"{_MODEL_HELP}. May be repeated; default: mf and biased_mf."),
    ] = None,
    rank: Rank = 8,
    l2: Annotated[float, typer.Option(help="λ, the penalty on factors.")] = 0.05,
    l2_bias: Annotated[float, typer.Option(help="λ_b, the penalty on biases.")] = 0.02,
    reg_exponent: Exponent = 0.5,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Check gradients leaf by leaf: autodiff, hand-derived formula, central differences. Exit code 1 on a failure."""
    import jax

    from jaxmf import verify as job
    from jaxmf.models import Hyper
    from jaxmf.training import check_hyper

    candidates = {name: _model(name, rank) for name in model or ["mf", "biased_mf"]}
    loaded, hyper, passed = _load(data, rename), Hyper(l2, l2_bias, reg_exponent), True
    check_hyper(hyper)
    for name, chosen in candidates.items():
        params = chosen.init(jax.random.key(seed), loaded.ratings, hyper)
        report = job.gradients(chosen, params, loaded, hyper, seed=seed)
        passed &= report.passed
        if not quiet:
            typer.echo(f"{name}: {'passed' if report.passed else 'FAILED'}")
            typer.echo(report.to_frame().to_string(index=False, na_rep="", float_format="{:.1e}".format) + "\n")
        if not report.passed:
            wrong = ", ".join(report.table.loc[~report.table["passed"], "leaf"])
            typer.echo(f"jaxmf: the gradient of {name} is wrong in {wrong}", err=True)
    if not passed:
        raise typer.Exit(1)


FitFile = Annotated[Path, typer.Option("--fit", help="What `jaxmf fit` wrote: its fit.npz.", dir_okay=False)]
OwnModel = Annotated[str | None, typer.Option(help="module:attribute, for a fit of a model of your own.")]


@app.command()
def evaluate(
    data: Annotated[str, typer.Option(help="A CSV or Parquet file of ratings, in the ids that the fit knows.")],
    fit: FitFile = Path("results/fit/fit.npz"),
    rename: Rename = None,
    model: OwnModel = None,
    rank: Rank = 16,
    clip: Clip = None,
    out: Annotated[Path | None, typer.Option(help="Also write the table to this CSV file.", dir_okay=False)] = None,
) -> None:
    """Errors of a fit on ratings in a file, beside those of the global mean and the damped bias."""
    from jaxmf import evaluate as job
    from jaxmf import load, output

    fitted, train = load(fit, _model(model, rank) if model else None)
    table = job.against_baselines(fitted.model, fitted.params, train, train.align(_load(data, rename)), clip)
    typer.echo(table.to_string(index=False, float_format="{:.4f}".format))
    if out is not None:
        output.write_table(out, table)


@app.command()
def predict(
    data: Annotated[Path, typer.Option(help="A CSV file with columns user_id and item_id.", dir_okay=False)],
    out: Annotated[Path, typer.Option(help="CSV file for the table with a column prediction.", dir_okay=False)],
    fit: FitFile = Path("results/fit/fit.npz"),
    rename: Rename = None,
    model: OwnModel = None,
    rank: Rank = 16,
    clip: Clip = None,
) -> None:
    """Predict the ratings of the (user, item) pairs in a file; all its columns are kept."""
    import pandas as pd

    from jaxmf import load, output
    from jaxmf import predict as job

    fitted, train = load(fit, _model(model, rank) if model else None)
    pairs = pd.read_csv(data)
    named = pairs.rename(columns=_columns(rename))
    output.write_table(out, pairs.assign(prediction=job(fitted.model, fitted.params, train, named, clip)))


def main() -> None:
    """Run the command line; what the library refuses is one line on standard error and exit code 2."""
    try:
        app()
    except (ValueError, OSError) as error:
        typer.echo(f"jaxmf: {' '.join(str(error).split())}", err=True)
        sys.exit(2)


def _columns(rename: list[str] | None) -> dict[str, str]:
    columns = dict(pair.split("=", 1) for pair in rename or [] if "=" in pair)
    known = ("user_id", "item_id", "rating", "timestamp")
    if len(columns) < len(rename or []) or not set(columns.values()) <= set(known):
        raise ValueError(
            f"--rename must be NAME=OURS with OURS one of {', '.join(known)}, not {' '.join(rename or [])}"
        )
    return columns


def _load(name: str, rename: list[str] | None) -> Any:
    from jaxmf.data import Dataset, datasets
    from jaxmf.data.movielens import RELEASES

    columns, path = _columns(rename), Path(name)
    if path.is_file() or {".csv", ".parquet"} & set(path.suffixes):
        if not path.exists():
            raise ValueError(f"--data {name}: no such file")
        read = Dataset.from_parquet if ".parquet" in path.suffixes else Dataset.from_csv
        try:
            data = read(path, columns)
        except ImportError as error:
            raise ValueError(str(error)) from error
        except ValueError as error:
            hint = "; on the command line: --rename NAME=OURS" if "missing column" in str(error) else ""
            raise ValueError(f"{error}{hint}") from error
        if "timestamp" in columns.values() and data.timestamp is None:
            raise ValueError(f"--rename {' '.join(rename or [])}: {name} has no such column for timestamp")
        return data
    if columns:
        raise ValueError(f"--rename is for CSV and Parquet files; {name} has its own names")
    if name == "synthetic":
        return datasets.synthetic()
    if name in RELEASES:
        return datasets.movielens(name)
    known_data = ", ".join(["synthetic", *RELEASES])
    raise ValueError(f"--data must be {known_data} or the path of a CSV or Parquet file, not {name!r}")


def _model(name: str, rank: int) -> Any:
    from jaxmf.models import Model
    from jaxmf.recipes import MODELS

    if name in MODELS:
        return MODELS[name](rank)
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(f"--model must be one of {', '.join(MODELS)} or module:attribute, not {name!r}")
    sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--model {name}: {error}") from error
    if callable(found):
        found = found(rank)
    if not isinstance(found, Model):
        raise ValueError(f"--model {name}: expected a jaxmf.Model, found {type(found).__name__}")
    return found
