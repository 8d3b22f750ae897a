"""The commands that fit: `study`, `fit` and `sweep`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from jaxmf.files.locks import claimed
from jaxmf.shell import choices, names
from jaxmf.shell.choices import Asked
from jaxmf.shell.common import app, choose, dataset, taught
from jaxmf.shell.names import PLAIN, Reading
from jaxmf.shell.options import (
    L2,
    UNOBSERVED_HELP,
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
    Patience,
    Quiet,
    Rank,
    Seed,
    SolverName,
    StudyData,
    Unobserved,
    reads,
)


@app.command(
    cls=Lists,
    epilog=taught(
        "Examples:",
        "jaxmf study",
        "jaxmf study --data my.csv --rename movieId=item_id --out results/mine",
        "jaxmf study --feedback implicit --out results/study-implicit",
        "jaxmf study --feedback implicit --data ml-latest-small --binarize 4",
        codes="0 fine; 1 a gradient is wrong; 2 bad input",
    ),
)
@reads()
def study(
    data: StudyData = None,
    reading: Reading = PLAIN,
    feedback: Annotated[
        Literal["explicit", "implicit"] | None,
        typer.Option(
            help="What the data are: ratings (explicit) or likes (implicit); default: implicit if all ratings are "
            "equal or there are none."
        ),
    ] = None,
    out: Out = Path("results/study"),
    rank: Annotated[int | None, typer.Option(help="Number of factors; default: 16, for likes 32.", min=1)] = None,
    l2: Annotated[
        list[float] | None,
        typer.Option(help="Values of λ to choose from; default: 0.03 0.1 0.3, for likes 0.003 0.01 0.03 0.1."),
    ] = None,
    unobserved: Annotated[
        list[float] | None,
        typer.Option(help=f"{UNOBSERVED_HELP}: values to choose from; default: 0.03 0.1 0.3 1."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Maximum number of epochs per fit; default: 60, for likes 25.", min=1)
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(help="Epochs without improvement before a fit stops; default: 10, for likes 5.", min=1),
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Fit models by every solver, and two baselines; write tables and figures.

    Gradients are verified first, then every solver fits plain and biased factorization to ratings, or ials, bpr,
    sampled_softmax and logistic_mf are fitted to likes. λ, the number of epochs and α0 are chosen on the validation
    part; the test part is used once per model and solver. An interrupted run continues where it stopped. Takes a minute
    or two on the embedded data.
    """
    from jaxmf.shell.report import studied
    from jaxmf.shell.study_tables import WrongGradientError

    loaded = dataset(data or ("synthetic-implicit" if feedback == "implicit" else "synthetic"), reading)
    likes = choices.are_studied_as_likes(feedback, loaded)
    numbers = {"rank": rank, "l2": l2, "unobserved": unobserved, "epochs": epochs, "patience": patience}
    given = {name: value for name, value in numbers.items() if value is not None}
    try:
        with claimed(out, "--out"):
            metrics = _run_study(loaded, out, likes, given | {"seed": seed}, not quiet)
    except WrongGradientError as error:
        typer.echo(f"jaxmf: {error}", err=True)
        raise typer.Exit(1) from error
    if not quiet:
        typer.echo(f"{studied(metrics)}\n\nRead {out / 'summary.md'}")


def _run_study(data: Any, out: Path, likes: bool, numbers: dict[str, Any], progress: bool) -> Any:
    """Run the study of ratings or of likes with these numbers, and return its metrics."""
    from jaxmf.shell import implicit_study, study

    if likes:
        return implicit_study.run(data, out, implicit_study.Settings(**numbers), progress=progress)
    if "unobserved" in numbers:
        raise ValueError("--unobserved is for --feedback implicit, where ials has a loss over all cells: leave it out")
    return study.run(data, out, **numbers, progress=progress)


@app.command(
    cls=Lists,
    epilog=taught(
        "Examples:",
        "jaxmf fit --data my.csv --rename userId=user_id movieId=item_id",
        "jaxmf fit --data my.csv --items items.csv --model content_mf --column genres",
        "jaxmf fit --data likes.csv --model ials --unobserved 0.1 --l2 0.01",
        "jaxmf fit --data plays.csv --rename plays=weight --transform log1p",
        "jaxmf fit --data log.csv --duplicates sum --model bpr",
        codes="0 fine; 1 the fit diverged; 2 bad input",
    ),
)
@reads()
def fit(
    data: Data = "synthetic",
    reading: Reading = PLAIN,
    items: Items = None,
    out: Out = Path("results/fit"),
    model: ModelName = None,
    column: Column = None,
    components: Components = None,
    rank: Rank = 16,
    solver: SolverName = None,
    l2: L2 = None,
    l2_bias: L2Bias = None,
    reg_exponent: Exponent = 1.0,
    unobserved: Unobserved = None,
    learning_rate: Annotated[float | None, typer.Option(help="Learning rate; default: the solver's own.")] = None,
    epochs: Epochs = 60,
    patience: Patience = 10,
    clip: Clip = None,
    devices: Annotated[
        int, typer.Option(help="For sgd and als: number of devices to use at once; on a CPU, of its cores.", min=1)
    ] = 1,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Fit one model; write its errors or rankings, its history and the fit.

    Data are split 70/15/15 into train, validation and test: per user by time if there are timestamps, else at
    random. Models for ratings are measured by their errors and stop by the validation RMSE; models for likes by how
    they rank held-out items, beside popularity, and stop by the validation NDCG. The folder receives metrics.csv,
    leakage.csv, history.csv, a figure, config.json, and fit.npz for `evaluate`, `predict` and `recommend`.
    """
    from jaxmf.shell import jobs
    from jaxmf.shell.report import told

    asked = Asked(model, rank, column, components, solver, devices)
    loaded = dataset(data, reading, items, rated=choices.rated_for(asked))
    choice = choose(asked, loaded)
    choices.check_clip(clip, choice.ranks, f"--model {choice.name}")
    numbers = {"l2": l2, "l2_bias": l2_bias, "unobserved": unobserved, "learning_rate": learning_rate}
    hyper = choices.with_numbers(choice, **numbers, reg_exponent=reg_exponent)
    with claimed(out, "--out"):
        limits = {"epochs": epochs, "patience": patience or None, "progress": not quiet}
        result, tables = jobs.fit_one(loaded, out, choice.model, choice.recipe.solver, hyper, seed, clip, **limits)
    if not quiet:
        typer.echo(told(result, tables, out))
    if result.status == "diverged":
        typer.echo(f"jaxmf: diverged: try {names.advice(choice.recipe.solver.remedy)}", err=True)
        raise typer.Exit(1)


@app.command(
    cls=Lists,
    epilog=taught(
        "Examples:",
        "jaxmf sweep --rank 1 5 20 50 --l2 1 2 4 6 --reg-exponent 0 --solver als",
        "jaxmf sweep --data my.csv --rank 4 16 --l2 0.03 0.1 --seeds 4 --folds 5",
        "jaxmf sweep --data likes.csv --unobserved 0.03 0.1 0.3 --rank 16 64",
        codes="0 fine; 1 every setting has a fit that diverged; 2 bad input",
    ),
)
@reads()
def sweep(
    data: Data = "synthetic",
    reading: Reading = PLAIN,
    items: Items = None,
    out: Out = Path("results/sweep"),
    model: ModelName = None,
    column: Column = None,
    components: Components = None,
    rank: Annotated[
        list[int] | None, typer.Option(help="Numbers of factors to try; default: 4 8 16, or 16 for likes.")
    ] = None,
    solver: SolverName = None,
    l2: Annotated[
        list[float] | None,
        typer.Option(help="Values of λ to try; default: 0.03 0.1 0.3, or smaller ones for likes."),
    ] = None,
    learning_rate: Annotated[
        list[float] | None, typer.Option(help="Learning rates to try; default: the solver's own.")
    ] = None,
    l2_bias: L2Bias = None,
    reg_exponent: Exponent = 1.0,
    unobserved: Annotated[
        list[float] | None, typer.Option(help=f"{UNOBSERVED_HELP}: values to try; default: 0.03 0.1 0.3 1.")
    ] = None,
    seeds: Annotated[
        int, typer.Option(help="Number of fits per setting, from different initial parameters.", min=1)
    ] = 1,
    folds: Annotated[
        int,
        typer.Option(help="Number of cross-validation folds; 0: use the validation part of the split.", min=0),
    ] = 0,
    epochs: Epochs = 60,
    patience: Patience = 10,
    batch: Annotated[
        int | None, typer.Option(help="Number of fits at once under vmap; default: chosen by device.", min=1)
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Fit every combination of ranks, λ, learning rates and weights of unobserved cells.

    One program fits them all, or one per rank if that costs less. The folder receives metrics.csv (a row per fit),
    summary.csv (mean and standard error per setting, the best first: by the validation RMSE, or for likes by the
    NDCG), history.csv, figures and config.json. An interrupted sweep continues where it stopped. The test ratings are
    not used.
    """
    from jaxmf.shell import jobs
    from jaxmf.shell.report import swept

    asked = Asked(model, max(rank or [16]), column, components, solver)
    loaded = dataset(data, reading, items, rated=choices.rated_for(asked))
    choice = choose(asked, loaded)
    hyper = choices.with_numbers(choice, l2_bias=l2_bias, reg_exponent=reg_exponent)
    tried = {"rank": rank, "unobserved": unobserved, "l2": l2, "learning_rate": learning_rate}
    grid = choices.grid(choice, tried, seeds)
    with claimed(out, "--out") as folder:
        options = {"epochs": epochs, "patience": patience or None, "batch": batch, "progress": not quiet}
        runs, summary = jobs.sweep_grid(
            loaded, folder or out, choice.model, choice.recipe.solver, grid, hyper, folds or None, seed, **options
        )
    if not quiet:
        typer.echo(swept(runs, summary, out))
    if summary["valid_ndcg" if choice.ranks else "valid_rmse"].isna().all():
        advice = names.advice(choice.recipe.solver.remedy)
        typer.echo(f"jaxmf: every setting has a fit that diverged: try {advice}", err=True)
        raise typer.Exit(1)
