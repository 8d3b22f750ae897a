"""The command line: argument parsing and printing; the work is in the library."""

import atexit
import gc
import itertools
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import typer.core

from jaxmf import named, programs
from jaxmf.locks import claimed
from jaxmf.named import PLAIN, Reading
from jaxmf.options import (
    MODEL_HELP,
    Clip,
    Column,
    Components,
    Data,
    Exponent,
    FitFile,
    Items,
    Lists,
    OnUnknown,
    Out,
    OwnModel,
    Quiet,
    Rank,
    Seed,
    SolverName,
    reads,
)


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
        "jaxmf recommend --user 1 --n 10",
        codes="0 fine; 1 the work failed: a fit diverged or a gradient is wrong; 2 bad input",
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@contextmanager
def _spoken_in_options() -> Iterator[None]:
    """What the library warns of, with options for arguments, is a line on standard error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        typer.echo(f"jaxmf: {named.in_options(str(warning.message))}", err=True)


def _dataset(*arguments: Any, **options: Any) -> Any:
    """`named.dataset`; what it warns of is a line on standard error."""
    with _spoken_in_options():
        return named.dataset(*arguments, **options)


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
    cls=Lists,
    epilog=_teach(
        "Examples:",
        "jaxmf study",
        "jaxmf study --data my.csv --rename movieId=item_id --out results/mine",
        codes="0 fine; 1 a gradient is wrong; 2 bad input",
    ),
)
@reads()
def study(
    data: Data = "synthetic",
    reading: Reading = PLAIN,
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
    continues where it stopped. A minute or two on the embedded data.
    """
    from jaxmf import study as job

    try:
        with claimed(out, "--out"):
            metrics = job.run(_dataset(data, reading), out, rank, l2, epochs, patience, seed, progress=not quiet)
    except job.WrongGradientError as error:
        typer.echo(f"jaxmf: {error}", err=True)
        raise typer.Exit(1) from error
    if not quiet:
        columns = ["model", "solver", "l2", "best_epoch", "valid_rmse", "test_rmse", "seconds_per_epoch"]
        typer.echo(metrics[columns].to_string(index=False, na_rep="", float_format="{:.4f}".format))
        typer.echo(f"\nRead {out / 'summary.md'}")


@app.command(
    cls=Lists,
    epilog=_teach(
        "Examples:",
        "jaxmf fit --data my.csv --rename userId=user_id movieId=item_id",
        "jaxmf fit --data my.csv --items items.csv --model content_mf --column genres",
        codes="0 fine; 1 the fit diverged; 2 bad input",
    ),
)
@reads()
def fit(
    data: Data = "synthetic",
    reading: Reading = PLAIN,
    items: Items = None,
    out: Out = Path("results/fit"),
    model: Annotated[str, typer.Option(help=f"{MODEL_HELP}.", autocompletion=lambda: named.MODELS)] = "biased_mf",
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
    devices: Annotated[
        int, typer.Option(help="For sgd and als: devices that work at once, on a CPU its cores.", min=1)
    ] = 1,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Fit one model; write its errors, its history and the fit itself.

    Ratings are split 70/15/15 into train, validation and test: each user's by time where there are timestamps, else at
    random. The folder gets metrics.csv, leakage.csv, history.csv, a figure, config.json, and fit.npz, for `evaluate`,
    `predict` and `recommend`.
    """
    from jaxmf import jobs as job
    from jaxmf.report import audited

    recipe, hyper = named.recipe(solver, l2, devices)
    hyper = hyper._replace(l2_bias=l2_bias, reg_exponent=reg_exponent)
    if learning_rate is not None:
        hyper = hyper._replace(learning_rate=learning_rate)
    chosen, loaded = named.model(model, rank, column, components, solver), _dataset(data, reading, items)
    with claimed(out, "--out"):
        result, tables = job.fit_one(
            loaded, out, chosen, recipe.solver, hyper, epochs, patience or None, seed, clip, progress=not quiet
        )
    if not quiet:
        typer.echo(tables["metrics"].to_string(index=False, float_format="{:.4f}".format))
        typer.echo("\n" + "\n".join(audited(tables["leakage"])))
        typer.echo(f"\n{result.status} after {len(result.to_frame())} epochs; results in {out}")
    if result.status == "diverged":
        typer.echo(f"jaxmf: diverged: try {named.advice(recipe.solver.remedy)}", err=True)
        raise typer.Exit(1)


@app.command(
    cls=Lists,
    epilog=_teach(
        "Examples:",
        "jaxmf sweep --rank 1 5 20 50 --l2 1 2 4 6 --reg-exponent 0 --solver als",
        "jaxmf sweep --data my.csv --rank 4 16 --l2 0.03 0.1 --seeds 4 --folds 5",
        codes="0 fine; 1 every fit diverged; 2 bad input",
    ),
)
@reads()
def sweep(
    data: Data = "synthetic",
    reading: Reading = PLAIN,
    items: Items = None,
    out: Out = Path("results/sweep"),
    model: Annotated[str, typer.Option(help=f"{MODEL_HELP}.", autocompletion=lambda: named.MODELS)] = "biased_mf",
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

    recipe, hyper = named.recipe(solver, l2[0])
    hyper = hyper._replace(l2_bias=l2_bias, reg_exponent=reg_exponent)
    grid: dict[str, Any] = {"rank": rank, "l2": l2}
    grid |= {"learning_rate": learning_rate} if learning_rate else {}
    grid |= {"seed": range(seeds)} if seeds > 1 else {}
    chosen, loaded = named.model(model, max(rank), column, components, solver), _dataset(data, reading, items)
    with claimed(out, "--out") as folder:
        runs, summary = job.sweep_grid(
            loaded,
            folder or out,
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
        advice = named.advice(recipe.solver.remedy)
        typer.echo(f"jaxmf: every setting has a fit that diverged: try {advice}", err=True)
        raise typer.Exit(1)


@app.command(
    cls=Lists,
    epilog=_teach(
        "Examples:",
        "jaxmf verify",
        "jaxmf verify --data my.csv --model my_module:my_model --out results/verify",
        codes="0 fine; 1 a derivative is wrong; 2 bad input",
    ),
)
@reads()
def verify(
    data: Data = "synthetic",
    reading: Reading = PLAIN,
    items: Items = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{MODEL_HELP}. May be repeated; default: mf and biased_mf.", autocompletion=lambda: named.MODELS
        ),
    ] = None,
    rank: Rank = 8,
    l2: Annotated[float, typer.Option(help="λ, the penalty on factors.")] = 0.05,
    l2_bias: Annotated[float, typer.Option(help="λ_b, the penalty on biases.")] = 0.02,
    reg_exponent: Exponent = 0.5,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the tables, and figures of errors by step.", file_okay=False)
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Check gradients and curvature leaf by leaf: autodiff, formulas, differences.

    Of each leaf of the parameters, in float64, autodiff in both modes is compared with the hand-derived formulas and
    with central differences, with Taylor polynomials, with a complex step and with the normal equations that als
    solves, each where the model has them.
    """
    from jaxmf.jobs import verify_models
    from jaxmf.models import Hyper

    candidates = {name: named.model(name, rank) for name in model or ["mf", "biased_mf"]}
    hyper = Hyper(l2, l2_bias, reg_exponent)
    with claimed(out, "--out"):
        tables, refusals = verify_models(
            _dataset(data, reading, items), candidates, hyper, seed, out, progress=not quiet
        )
    wrong = []
    for name, (check, table) in itertools.product(candidates, tables.items()):
        own = table[table["model"] == name].drop(columns="model")
        if len(own) and not quiet:
            typer.echo(f"{name}, {check}: {'passed' if own['passed'].all() else 'FAILED'}")
            typer.echo(own.to_string(index=False, na_rep="", float_format="{:.3g}".format) + "\n")
        if not own["passed"].all():
            places = own.loc[~own["passed"], "leaf" if "leaf" in own else "place"]
            wrong.append(f"jaxmf: {check} of {name}: wrong in {', '.join(dict.fromkeys(places))}")
    for refusal in () if quiet else refusals:
        typer.echo(refusal)
    if out is not None and not quiet:
        typer.echo(f"Tables and figures in {out}")
    if wrong:
        typer.echo("\n".join(wrong), err=True)
        raise typer.Exit(1)


@app.command(
    cls=Lists,
    epilog=_teach(
        "Examples:",
        "jaxmf evaluate --data other.csv",
        "jaxmf evaluate --fit mine/fit.npz --data later.csv --on-unknown drop",
        codes="0 fine; 2 bad input, such as an id that the fit does not know",
    ),
)
@reads("ids")
def evaluate(
    data: Annotated[str, typer.Option(help="A CSV or Parquet file of ratings, in the ids that the fit knows.")],
    fit: FitFile = Path("results/fit/fit.npz"),
    reading: Reading = PLAIN,
    model: OwnModel = None,
    rank: Rank = 16,
    k: Annotated[int, typer.Option("-k", help="Positions of a ranking that count.", min=1)] = 10,
    on_unknown: Annotated[
        Literal["error", "drop"], typer.Option(help="What to do about ratings of ids that the fit does not know.")
    ] = "error",
    threshold: Annotated[
        float | None, typer.Option(help="The least rating that is relevant; the median training rating if not given.")
    ] = None,
    clip: Clip = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the tables, with every interval.", file_okay=False)
    ] = None,
) -> None:
    """Errors and rankings of a fit on ratings in a file, beside baselines.

    Baselines come from the ratings that the fit was trained on. Rankings are of all items but those that a user rated
    there ("catalog"), and of each user's items in the file ("rated"), with 95 % intervals; the file is
    audited against the training ratings for leakage.
    """
    from jaxmf.jobs import evaluate_fit
    from jaxmf.report import audited, ranked

    fitted, train = named.kept(fit, model, rank)
    with _spoken_in_options():
        test = train.align(named.dataset(data, reading, known=named.known_ids(train)), on_unknown)
    with claimed(out, "--out"):
        tables = evaluate_fit(fitted, train, test, k, threshold, clip, out)
    typer.echo(tables["errors"].to_string(index=False, float_format="{:.4f}".format))
    for protocol, table in ranked(tables["ranking"]).items():
        typer.echo(f"\nRanking, {protocol}:")
        typer.echo(table.to_string(index=False, na_rep="", float_format="{:.4f}".format))
    typer.echo("\n" + "\n".join(audited(tables["leakage"])))
    if out is not None:
        typer.echo(f"\nTables in {out}")


@app.command(
    cls=Lists,
    epilog=_teach(
        "Examples:",
        "jaxmf recommend --user 1 2 3",
        "jaxmf recommend --new since.csv --user 7001 --column title",
        "jaxmf recommend --n 20 --out recommendations.csv",
        codes="0 fine; 2 bad input, such as an id that the fit does not know",
    ),
)
@reads("ids")
def recommend(
    user: Annotated[list[str] | None, typer.Option(help="Ids of the users; all if not given.")] = None,
    n: Annotated[int, typer.Option("--n", "-n", help="Items for each user.", min=1)] = 10,
    fit: FitFile = Path("results/fit/fit.npz"),
    new: Annotated[
        Path | None,
        typer.Option(
            help="A CSV or Parquet file of further ratings, of new users and items too: the rows of those are solved "
            "first, without a new fit.",
            dir_okay=False,
        ),
    ] = None,
    reading: Reading = PLAIN,
    candidate: Annotated[
        list[str] | None, typer.Option(help="Ids of the items to choose from; all if not given.")
    ] = None,
    seen: Annotated[bool, typer.Option("--seen", help="Also recommend what a user has rated.")] = False,
    on_unknown: OnUnknown = "error",
    column: Annotated[
        list[str] | None, typer.Option(help="A column of the fit's items to show, such as title. May be repeated.")
    ] = None,
    model: OwnModel = None,
    rank: Rank = 16,
    out: Annotated[Path | None, typer.Option(help="Write the table to this CSV file.", dir_okay=False)] = None,
) -> None:
    """The items with the highest predicted ratings for each user.

    Items that the user has rated, in the ratings of the fit or in --new, are left out.
    """
    from jaxmf import output
    from jaxmf.jobs import recommend_items

    if out is not None:
        named.check_out(out, new=new, fit=fit)
    fitted, train = named.kept(fit, model, rank)
    if new is None and (given := named.said(reading)):
        raise ValueError(f"{given} for a --new file")
    frame = None if new is None else _dataset(new, reading, known=named.known_ids(train), option="new").to_frame()
    users, candidates = named.ids(user, train.user_ids), named.ids(candidate, train.item_ids)
    with _spoken_in_options():
        table = recommend_items(fitted, train, users, n, candidates, not seen, on_unknown, frame, column or [])
    if out is None:
        typer.echo(table.to_string(index=False, na_rep="", float_format="{:.4f}".format))
    else:
        output.write_table(out, table)


@app.command(
    cls=Lists,
    epilog=_teach(
        "Examples:",
        "jaxmf predict --data pairs.csv --out predictions.csv",
        "jaxmf predict --data pairs.csv --out new.csv --on-unknown bias",
        codes="0 fine; 2 bad input, such as an id that the fit does not know",
    ),
)
@reads("ids", "duplicates", "missing")
def predict(
    data: Annotated[Path, typer.Option(help="A CSV or Parquet file with columns user_id and item_id.")],
    out: Annotated[Path, typer.Option(help="CSV file for the table with a column prediction.", dir_okay=False)],
    fit: FitFile = Path("results/fit/fit.npz"),
    reading: Reading = PLAIN,
    model: OwnModel = None,
    rank: Rank = 16,
    clip: Clip = None,
    on_unknown: OnUnknown = "error",
) -> None:
    """Predict the ratings of the (user, item) pairs in a file.

    All columns of the file are kept as they are, and a column prediction is added.
    """
    from jaxmf import output
    from jaxmf import predict as job

    named.check_out(out, data=data, fit=fit)
    fitted, train = named.kept(fit, model, rank)
    columns = named.columns_of(reading)
    pairs = named.table(data, "pairs", reading, named.known_ids(train)).reset_index(drop=True)
    if "prediction" in pairs:
        raise ValueError(f"--data {data} has a column prediction already, which would be lost: rename it in the file")
    with _spoken_in_options():
        prediction = job(fitted.model, fitted.params, train, pairs.rename(columns=columns), clip, on_unknown)
    output.write_table(out, pairs.iloc[prediction.index].assign(prediction=prediction.to_numpy()))


def main() -> None:
    """Run the command line; what the library refuses is one line on standard error and exit code 2."""
    programs.keep()
    # Python's collections need not look at what was imported, nor its last ones at what is left.
    gc.freeze()
    atexit.register(gc.freeze)
    try:
        app()
    except (ValueError, OSError) as error:
        typer.echo(f"jaxmf: {' '.join(named.in_options(str(error)).split())}", err=True)
        sys.exit(2)
