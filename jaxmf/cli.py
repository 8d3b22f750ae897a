"""The command line: argument parsing and printing; the work is in the library."""

import importlib
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

# Names that a shell completes. Those of the library are in modules that load JAX, for which nobody waits at a TAB.
_MODELS = ("mf", "biased_mf", "content_mf")
_SOLVERS = ("sgd", "minibatch", "momentum", "adam", "als")
_DATA = ("synthetic", "ml-latest-small", "ml-100k", "ml-1m", "ml-20m")
_ALS_COMPONENTS = 64


def _teach(heading: str, *commands: str, codes: str) -> str:
    """The end of a help page: commands to copy, and exit codes. A line of \\b keeps the lines below as they are."""
    return "\n".join(["\b", heading, *(f"  {command}" for command in commands), "", f"Exit codes: {codes}."])


app = typer.Typer(
    name="jaxmf",
    help="Matrix factorization in JAX: verified gradients, every solver on one objective, honest test errors.",
    epilog=_teach(
        "With ratings of your own, a CSV file with columns user_id, item_id and rating:",
        "jaxmf fit --data my.csv",
        "jaxmf evaluate --data other.csv",
        "jaxmf predict --data pairs.csv --out predictions.csv",
        codes="0 fine; 1 the work failed: a fit diverged or a gradient is wrong; 2 bad input",
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_MODEL_HELP = "mf, biased_mf, content_mf, or module:attribute for your own: a Model, or a function from the rank to one"
Data = Annotated[
    str,
    typer.Option(
        help="'synthetic' (embedded), 'ml-latest-small' (found through the environment variable JAXMF_DATA), "
        "'ml-100k', 'ml-1m' or 'ml-20m' (found there too, else downloaded once), or the path of a CSV or Parquet file "
        "with columns user_id, item_id, rating and perhaps timestamp.",
        autocompletion=lambda: _DATA,
    ),
]
Rename = Annotated[
    list[str] | None,
    typer.Option(help="The file's name of a column and ours, as in --rename userId=user_id. May be repeated."),
]
Items = Annotated[
    Path | None,
    typer.Option(
        help="For content_mf and a --data file: a CSV or Parquet file with one row per item and a column item_id "
        "(--rename holds here too).",
        dir_okay=False,
    ),
]
Column = Annotated[
    list[str] | None,
    typer.Option(
        help="For content_mf: a column of the items whose words it weighs. May be repeated; default genres and tags."
    ),
]
Components = Annotated[
    int | None,
    typer.Option(
        help=f"For content_mf: reduce the words to so many features; als: {_ALS_COMPONENTS} if not given.", min=1
    ),
]
SolverName = Annotated[
    str, typer.Option(help="sgd, minibatch, momentum, adam or als.", autocompletion=lambda: _SOLVERS)
]
Out = Annotated[Path, typer.Option(help="Folder for the results.", file_okay=False)]
Rank = Annotated[int, typer.Option(help="Number of factors.", min=1)]
Exponent = Annotated[float, typer.Option(help="ν: 0 penalizes per row, 1 per observation.")]  # noqa: RUF001
Clip = Annotated[tuple[float, float] | None, typer.Option(help="Clip predictions, as in 1 5.")]
Seed = Annotated[int, typer.Option(help="Seed of the initial parameters, and of the split if there are no times.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars and no tables; errors are still shown.")]


class _Lists(typer.core.TyperCommand):
    """A command that takes `--rank 1 5 20` for `--rank 1 --rank 5 --rank 20`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the option before each further value of it."""
        lists = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        spelled: list[str] = []
        current, given = "", True
        for arg in args:
            if arg.startswith("-") and not arg[1:2].isdigit():
                name, equals, _ = arg.partition("=")
                current, given = name if name in lists else "", bool(equals)
            elif current and given:
                spelled.append(current)
            else:
                given = True
            spelled.append(arg)
        return super().parse_args(ctx, spelled)


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


@app.command(
    cls=_Lists,
    epilog=_teach(
        "Examples:",
        "jaxmf study",
        "jaxmf study --data my.csv --rename movieId=item_id --out results/mine",
        codes="0 fine; 1 a gradient is wrong; 2 bad input",
    ),
)
def study(
    data: Data = "synthetic",
    rename: Rename = None,
    out: Out = Path("results/study"),
    rank: Rank = 16,
    l2: Annotated[list[float], typer.Option(help="Values of λ to choose from.")] = [0.03, 0.1, 0.3],  # noqa: B006
    epochs: Annotated[int, typer.Option(help="Most epochs per fit.", min=1)] = 60,
    patience: Annotated[int, typer.Option(help="Epochs without improvement before a fit stops.", min=1)] = 10,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Fit every solver and two baselines; write tables and figures.

    Gradients are verified first, then plain and biased factorization are fitted by every solver.
    λ and the number of epochs are chosen on validation; test is read once per model and solver. A run that was cut off
    continues where it stopped. About a minute on the embedded data.
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


@app.command(
    epilog=_teach(
        "Examples:",
        "jaxmf fit --data my.csv --rename userId=user_id --rename movieId=item_id",
        "jaxmf fit --data my.csv --items items.csv --model content_mf --column genres",
        codes="0 fine; 1 the fit diverged; 2 bad input",
    )
)
def fit(
    data: Data = "synthetic",
    rename: Rename = None,
    items: Items = None,
    out: Out = Path("results/fit"),
    model: Annotated[str, typer.Option(help=f"{_MODEL_HELP}.", autocompletion=lambda: _MODELS)] = "biased_mf",
    column: Column = None,
    components: Components = None,
    rank: Rank = 16,
    solver: SolverName = "sgd",
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
    """Fit one model; write its errors, its history and the fit itself.

    Ratings are split 70/15/15 into train, validation and test: each user's by time where there are timestamps, else at
    random. The folder gets metrics.csv, history.csv, a figure, config.json, and fit.npz for `evaluate` and `predict`.
    """
    from jaxmf import jobs as job

    recipe, hyper = _recipe(solver, l2)
    hyper = hyper._replace(l2_bias=l2_bias, reg_exponent=reg_exponent)
    if learning_rate is not None:
        hyper = hyper._replace(learning_rate=learning_rate)
    chosen, loaded = _model(model, rank, column, components, solver), _load(data, rename, items)
    result, metrics = job.fit_one(
        loaded, out, chosen, recipe.solver, hyper, epochs, patience or None, seed, clip, progress=not quiet
    )
    if not quiet:
        typer.echo(metrics.to_string(index=False, float_format="{:.4f}".format))
        typer.echo(f"\n{result.status} after {len(result.to_frame())} epochs; results in {out}")
    if result.status == "diverged":
        typer.echo("jaxmf: diverged: try a smaller --learning-rate", err=True)
        raise typer.Exit(1)


@app.command(
    cls=_Lists,
    epilog=_teach(
        "Examples:",
        "jaxmf sweep --rank 1 5 20 50 --l2 1 2 4 6 --reg-exponent 0 --solver als",
        "jaxmf sweep --data my.csv --rank 4 16 --l2 0.03 0.1 --seeds 4 --folds 5",
        codes="0 fine; 1 every fit diverged; 2 bad input",
    ),
)
def sweep(
    data: Data = "synthetic",
    rename: Rename = None,
    items: Items = None,
    out: Out = Path("results/sweep"),
    model: Annotated[str, typer.Option(help=f"{_MODEL_HELP}.", autocompletion=lambda: _MODELS)] = "biased_mf",
    column: Column = None,
    components: Components = None,
    rank: Annotated[list[int], typer.Option(help="Numbers of factors.")] = [4, 8, 16],  # noqa: B006
    solver: SolverName = "sgd",
    l2: Annotated[list[float], typer.Option(help="Values of λ.")] = [0.03, 0.1, 0.3],  # noqa: B006
    learning_rate: Annotated[
        list[float] | None, typer.Option(help="Learning rates; the solver's own default if not given.")
    ] = None,
    l2_bias: Annotated[float | None, typer.Option(help="λ_b, the penalty on biases; λ if not given.")] = None,
    reg_exponent: Exponent = 1.0,
    seeds: Annotated[int, typer.Option(help="Fits of each setting, from other initial parameters.", min=1)] = 1,
    folds: Annotated[
        int, typer.Option(help="Validate on so many folds; 0: on the validation part of the split.", min=0)
    ] = 0,
    epochs: Annotated[int, typer.Option(help="Most epochs.", min=1)] = 60,
    patience: Annotated[
        int, typer.Option(help="Epochs without improvement before a fit stops; 0 runs all.", min=0)
    ] = 10,
    batch: Annotated[
        int | None, typer.Option(help="Fits at once under vmap; chosen by device if not given.", min=1)
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Fit every combination of ranks, λ and learning rates.

    One program fits them all, or one per rank where that costs less. The folder gets metrics.csv (a row per fit),
    summary.csv (mean and standard error per setting), history.csv, figures and config.json. A sweep that was cut off
    continues where it stopped. Test ratings are left alone.
    """
    from jaxmf import jobs as job

    recipe, hyper = _recipe(solver, l2[0])
    hyper = hyper._replace(l2_bias=l2_bias, reg_exponent=reg_exponent)
    grid: dict[str, Any] = {"rank": rank, "l2": l2}
    grid |= {"learning_rate": learning_rate} if learning_rate else {}
    grid |= {"seed": range(seeds)} if seeds > 1 else {}
    chosen, loaded = _model(model, max(rank), column, components, solver), _load(data, rename, items)
    runs, summary = job.sweep_grid(
        loaded,
        out,
        chosen,
        recipe.solver,
        grid,
        hyper,
        folds or None,
        epochs,
        patience or None,
        seed,
        batch,
        progress=not quiet,
    )
    if not quiet:
        swept = [name for name in grid if name != "seed"]
        columns = [*swept, "num_members", "num_diverged", "valid_rmse", "valid_rmse_se", "valid_mae"]
        typer.echo(summary[columns].head(10).to_string(index=False, na_rep="", float_format="{:.4f}".format))
        typer.echo(
            f"\n{len(runs.members)} fits by {runs.num_programs} program(s) in {runs.seconds:.1f} s, compilation "
            f"included ({runs.compile_seconds:.1f} s); results in {out}"
        )
    if summary["valid_rmse"].isna().all():
        typer.echo("jaxmf: every setting has a fit that diverged: try a smaller --learning-rate", err=True)
        raise typer.Exit(1)


@app.command(
    epilog=_teach(
        "Examples:",
        "jaxmf verify",
        "jaxmf verify --data my.csv --model mine:model",
        codes="0 fine; 1 a gradient is wrong; 2 bad input",
    )
)
def verify(
    data: Data = "synthetic",
    rename: Rename = None,
    items: Items = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{_MODEL_HELP}. May be repeated; default: mf and biased_mf.", autocompletion=lambda: _MODELS
        ),
    ] = None,
    rank: Rank = 8,
    l2: Annotated[float, typer.Option(help="λ, the penalty on factors.")] = 0.05,
    l2_bias: Annotated[float, typer.Option(help="λ_b, the penalty on biases.")] = 0.02,
    reg_exponent: Exponent = 0.5,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Check gradients leaf by leaf: autodiff, formula, differences.

    Of each leaf of the parameters, autodiff is compared with the hand-derived formula and with central differences, in
    float64.
    """
    import jax

    from jaxmf import verify as job
    from jaxmf.models import Hyper
    from jaxmf.training import check_hyper

    candidates = {name: _model(name, rank) for name in model or ["mf", "biased_mf"]}
    loaded, hyper, passed = _load(data, rename, items), Hyper(l2, l2_bias, reg_exponent), True
    check_hyper(hyper)
    for name, candidate in candidates.items():
        chosen = candidate(loaded) if callable(candidate) else candidate
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


@app.command(
    epilog=_teach(
        "Examples:",
        "jaxmf evaluate --data other.csv",
        "jaxmf evaluate --fit mine/fit.npz --data other.csv --rename movieId=item_id",
        codes="0 fine; 2 bad input, such as an id that the fit does not know",
    )
)
def evaluate(
    data: Annotated[str, typer.Option(help="A CSV or Parquet file of ratings, in the ids that the fit knows.")],
    fit: FitFile = Path("results/fit/fit.npz"),
    rename: Rename = None,
    model: OwnModel = None,
    rank: Rank = 16,
    clip: Clip = None,
    out: Annotated[Path | None, typer.Option(help="Also write the table to this CSV file.", dir_okay=False)] = None,
) -> None:
    """Errors of a fit on ratings in a file, beside two baselines.

    These are the global mean and the damped bias, of the ratings that the fit was trained on.
    """
    from jaxmf import evaluate as job
    from jaxmf import output

    fitted, train = _kept(fit, model, rank)
    table = job.against_baselines(fitted.model, fitted.params, train, train.align(_load(data, rename)), clip)
    typer.echo(table.to_string(index=False, float_format="{:.4f}".format))
    if out is not None:
        output.write_table(out, table)


@app.command(
    epilog=_teach(
        "Examples:",
        "jaxmf predict --data pairs.csv --out predictions.csv",
        "jaxmf predict --fit mine/fit.npz --data pairs.csv --out predictions.csv",
        codes="0 fine; 2 bad input, such as an id that the fit does not know",
    )
)
def predict(
    data: Annotated[Path, typer.Option(help="A CSV or Parquet file with columns user_id and item_id.", dir_okay=False)],
    out: Annotated[Path, typer.Option(help="CSV file for the table with a column prediction.", dir_okay=False)],
    fit: FitFile = Path("results/fit/fit.npz"),
    rename: Rename = None,
    model: OwnModel = None,
    rank: Rank = 16,
    clip: Clip = None,
) -> None:
    """Predict the ratings of the (user, item) pairs in a file.

    All columns of the file are kept, and a column prediction is added.
    """
    from jaxmf import output
    from jaxmf import predict as job
    from jaxmf.data.tables import read_table

    fitted, train = _kept(fit, model, rank)
    pairs = read_table(data)
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


def _load(name: str, rename: list[str] | None, items: Path | None = None) -> Any:
    from jaxmf.data import Dataset, datasets
    from jaxmf.data.movielens import RELEASES

    columns, path = _columns(rename), Path(name)
    if path.is_file() or {".csv", ".parquet"} & set(path.suffixes):
        if not path.exists():
            raise ValueError(f"--data {name}: no such file")
        read = Dataset.from_parquet if ".parquet" in path.suffixes else Dataset.from_csv
        known = None if items is None else _item_table(items, columns)
        try:
            data = read(path, columns, known)
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
    if items is not None:
        raise ValueError(f"--items is for CSV and Parquet files; {name} has its own items")
    if name == "synthetic":
        return datasets.synthetic()
    if name in RELEASES:
        return datasets.movielens(name)
    known_data = ", ".join(["synthetic", *RELEASES])
    raise ValueError(f"--data must be {known_data} or the path of a CSV or Parquet file, not {name!r}")


def _item_table(path: Path, columns: dict[str, str]) -> Any:
    from jaxmf.data.tables import read_table

    table = read_table(path)
    if "item_id" not in table.rename(columns=columns):
        raise ValueError(f"--items {path}: missing column item_id; found {list(table)}: --rename NAME=item_id")
    return table


def _kept(path: Path, model: str | None, rank: int) -> Any:
    """A fit and its training data."""
    from jaxmf import load

    return load(path, _own_model(model, rank) if model else None)


def _recipe(solver: str, l2: float) -> Any:
    """The recipe of that name, and the numbers that it starts from."""
    from jaxmf.recipes import RECIPES, starting_hyper

    if solver not in RECIPES:
        raise ValueError(f"--solver must be one of {', '.join(RECIPES)}, not {solver!r}")
    return RECIPES[solver], starting_hyper(RECIPES[solver], l2)


def _model(
    name: str, rank: int, columns: list[str] | None = None, components: int | None = None, solver: str = ""
) -> Any:
    """The model of that name; content_mf as a function from the training data, whose items it reads."""
    from jaxmf import content, models
    from jaxmf.recipes import MODELS

    def of_items(train: Any) -> Any:
        try:
            features = content.tfidf(train, columns, components=components)
        except ValueError as error:
            raise ValueError(f"{error}; on the command line: --items FILE, --column NAME") from error
        return models.content_mf(rank, features)

    if name != "content_mf" and (columns or components):
        raise ValueError(f"--column and --components are for --model content_mf, not {name}")
    if solver == "als":
        components = components or _ALS_COMPONENTS
    if name == "content_mf":
        return of_items
    if name in MODELS:
        return MODELS[name](rank)
    if ":" not in name:
        raise ValueError(f"--model must be one of {', '.join(_MODELS)} or module:attribute, not {name!r}")
    return _own_model(name, rank)


def _own_model(name: str, rank: int) -> Any:
    from jaxmf.models import Model

    module, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(f"--model must be module:attribute, not {name!r}")
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
