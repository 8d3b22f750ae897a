"""The commands that fit: `study`, `fit` and `sweep`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from jaxmf.files.locks import claimed
from jaxmf.shell import names
from jaxmf.shell.common import app, dataset, taught
from jaxmf.shell.names import PLAIN, Reading
from jaxmf.shell.options import (
    L2,
    Clip,
    Column,
    Components,
    Data,
    Epochs,
    Exponent,
    Items,
    L2Bias,
    Lists,
    ModelName,
    Out,
    Quiet,
    Rank,
    Seed,
    SolverName,
    reads,
)


@app.command(
    cls=Lists,
    epilog=taught(
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
    epochs: Annotated[int, typer.Option(help="Maximum number of epochs per fit.", min=1)] = 60,
    patience: Annotated[int, typer.Option(help="Epochs without improvement before a fit stops.", min=1)] = 10,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Fit models by every solver, and two baselines; write tables and figures.

    Gradients are verified first, then every solver fits plain and biased factorization. λ and the number of epochs are
    chosen on the validation ratings; the test ratings are used once per model and solver. An interrupted run continues
    where it stopped. Takes a minute or two on the embedded data.
    """
    from jaxmf.shell.study import WrongGradientError
    from jaxmf.shell.study import run as run_study

    try:
        with claimed(out, "--out"):
            metrics = run_study(dataset(data, reading), out, rank, l2, epochs, patience, seed, progress=not quiet)
    except WrongGradientError as error:
        typer.echo(f"jaxmf: {error}", err=True)
        raise typer.Exit(1) from error
    if not quiet:
        columns = ["model", "solver", "l2", "best_epoch", "valid_rmse", "test_rmse", "seconds_per_epoch"]
        typer.echo(metrics[columns].to_string(index=False, na_rep="", float_format="{:.4f}".format))
        typer.echo(f"\nRead {out / 'summary.md'}")


@app.command(
    cls=Lists,
    epilog=taught(
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
    model: ModelName = "biased_mf",
    column: Column = None,
    components: Components = None,
    rank: Rank = 16,
    solver: SolverName = "sgd",
    l2: L2 = 0.03,
    l2_bias: L2Bias = None,
    reg_exponent: Exponent = 1.0,
    learning_rate: Annotated[float | None, typer.Option(help="Learning rate; default: the solver's own.")] = None,
    epochs: Epochs = 60,
    patience: Annotated[
        int, typer.Option(help="Epochs without improvement before the fit stops; 0: never stop early.", min=0)
    ] = 10,
    clip: Clip = None,
    devices: Annotated[
        int, typer.Option(help="For sgd and als: number of devices to use at once; on a CPU, of its cores.", min=1)
    ] = 1,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Fit one model; write its errors, its history and the fit.

    Ratings are split 70/15/15 into train, validation and test: per user by time if there are timestamps, else at
    random. The folder receives metrics.csv, leakage.csv, history.csv, a figure, config.json, and fit.npz for
    `evaluate`, `predict` and `recommend`.
    """
    from jaxmf.shell import jobs
    from jaxmf.shell.report import audited

    recipe, hyper = names.recipe(solver, l2, devices)
    hyper = hyper._replace(l2_bias=l2_bias, reg_exponent=reg_exponent)
    if learning_rate is not None:
        hyper = hyper._replace(learning_rate=learning_rate)
    chosen, loaded = names.model(model, rank, column, components, solver), dataset(data, reading, items)
    with claimed(out, "--out"):
        limits = {"epochs": epochs, "patience": patience or None, "progress": not quiet}
        result, tables = jobs.fit_one(loaded, out, chosen, recipe.solver, hyper, seed, clip, **limits)
    if not quiet:
        typer.echo(tables["metrics"].to_string(index=False, float_format="{:.4f}".format))
        typer.echo("\n" + "\n".join(audited(tables["leakage"])))
        typer.echo(f"\n{result.status} after {len(result.to_frame())} epochs; results in {out}")
    if result.status == "diverged":
        typer.echo(f"jaxmf: diverged: try {names.advice(recipe.solver.remedy)}", err=True)
        raise typer.Exit(1)


@app.command(
    cls=Lists,
    epilog=taught(
        "Examples:",
        "jaxmf sweep --rank 1 5 20 50 --l2 1 2 4 6 --reg-exponent 0 --solver als",
        "jaxmf sweep --data my.csv --rank 4 16 --l2 0.03 0.1 --seeds 4 --folds 5",
        codes="0 fine; 1 every setting has a fit that diverged; 2 bad input",
    ),
)
@reads()
def sweep(
    data: Data = "synthetic",
    reading: Reading = PLAIN,
    items: Items = None,
    out: Out = Path("results/sweep"),
    model: ModelName = "biased_mf",
    column: Column = None,
    components: Components = None,
    rank: Annotated[list[int], typer.Option(help="Numbers of factors to try.")] = [4, 8, 16],  # noqa: B006
    solver: SolverName = "sgd",
    l2: Annotated[list[float], typer.Option(help="Values of λ to try.")] = [0.03, 0.1, 0.3],  # noqa: B006
    learning_rate: Annotated[
        list[float] | None, typer.Option(help="Learning rates to try; default: the solver's own.")
    ] = None,
    l2_bias: L2Bias = None,
    reg_exponent: Exponent = 1.0,
    seeds: Annotated[
        int, typer.Option(help="Number of fits per setting, from different initial parameters.", min=1)
    ] = 1,
    folds: Annotated[
        int,
        typer.Option(help="Number of cross-validation folds; 0: use the validation part of the split.", min=0),
    ] = 0,
    epochs: Epochs = 60,
    patience: Annotated[
        int, typer.Option(help="Epochs without improvement before a fit stops; 0: never stop early.", min=0)
    ] = 10,
    batch: Annotated[
        int | None, typer.Option(help="Number of fits at once under vmap; default: chosen by device.", min=1)
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Fit every combination of ranks, λ and learning rates.

    One program fits them all, or one per rank if that costs less. The folder receives metrics.csv (a row per fit),
    summary.csv (mean and standard error per setting), history.csv, figures and config.json. An interrupted sweep
    continues where it stopped. The test ratings are not used.
    """
    from jaxmf.shell import jobs

    recipe, hyper = names.recipe(solver, l2[0])
    hyper = hyper._replace(l2_bias=l2_bias, reg_exponent=reg_exponent)
    grid: dict[str, Any] = {"rank": rank, "l2": l2}
    grid |= {"learning_rate": learning_rate} if learning_rate else {}
    grid |= {"seed": range(seeds)} if seeds > 1 else {}
    chosen, loaded = names.model(model, max(rank), column, components, solver), dataset(data, reading, items)
    with claimed(out, "--out") as folder:
        options = {"epochs": epochs, "patience": patience or None, "batch": batch, "progress": not quiet}
        runs, summary = jobs.sweep_grid(
            loaded, folder or out, chosen, recipe.solver, grid, hyper, folds or None, seed, **options
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
        advice = names.advice(recipe.solver.remedy)
        typer.echo(f"jaxmf: every setting has a fit that diverged: try {advice}", err=True)
        raise typer.Exit(1)
