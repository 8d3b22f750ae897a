"""The commands that check derivatives (`verify`) and predictions (`evaluate`)."""

import itertools
from pathlib import Path
from typing import Annotated, Literal

import typer

from jaxmf.files.locks import claimed
from jaxmf.shell import choices, names
from jaxmf.shell.common import app, dataset, spoken_in_options, taught
from jaxmf.shell.names import PLAIN, Reading
from jaxmf.shell.options import (
    MODEL_HELP,
    UNOBSERVED_HELP,
    Clip,
    Data,
    Exponent,
    FitFile,
    Items,
    Lists,
    OwnModel,
    OwnRank,
    Quiet,
    Rank,
    Seed,
    reads,
)


@app.command(
    cls=Lists,
    epilog=taught(
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
            help=f"{MODEL_HELP}. May be repeated; default: mf and biased_mf.", autocompletion=lambda: names.MODELS
        ),
    ] = None,
    rank: Rank = 8,
    l2: Annotated[float, typer.Option(help="λ, the penalty on the factors.")] = 0.05,
    l2_bias: Annotated[float, typer.Option(help="λ_b, the penalty on the biases.")] = 0.02,
    reg_exponent: Exponent = 0.5,
    unobserved: Annotated[float, typer.Option(help=f"{UNOBSERVED_HELP}.")] = 0.1,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the tables, and for figures of errors by step size.", file_okay=False),
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Verify gradients and Hessians of models, leaf by leaf.

    For each leaf of the parameters, in float64, autodiff in both modes is compared with the hand-derived formulas,
    central differences, Taylor polynomials, a complex step and the normal equations that als solves, where the model
    has them.
    """
    from jaxmf.models import Hyper
    from jaxmf.shell.jobs import verify_models

    candidates = {name: choices.model(name, rank) for name in model or ["mf", "biased_mf"]}
    hyper = Hyper(l2, l2_bias, reg_exponent, unobserved=unobserved)
    with claimed(out, "--out"):
        tables, refusals = verify_models(
            dataset(data, reading, items), candidates, hyper, seed, out, progress=not quiet
        )
    failures = []
    for name, (check, table) in itertools.product(candidates, tables.items()):
        checked = table[table["model"] == name].drop(columns="model")
        if len(checked) and not quiet:
            typer.echo(f"{name}, {check}: {'passed' if checked['passed'].all() else 'FAILED'}")
            typer.echo(checked.to_string(index=False, na_rep="", float_format="{:.3g}".format) + "\n")
        if not checked["passed"].all():
            leaves = checked.loc[~checked["passed"], "leaf" if "leaf" in checked else "place"]
            failures.append(f"jaxmf: {check} of {name}: wrong in {', '.join(dict.fromkeys(leaves))}")
    for refusal in () if quiet else refusals:
        typer.echo(refusal)
    if out is not None and not quiet:
        typer.echo(f"Tables and figures in {out}")
    if failures:
        typer.echo("\n".join(failures), err=True)
        raise typer.Exit(1)


@app.command(
    cls=Lists,
    epilog=taught(
        "Examples:",
        "jaxmf evaluate --data other.csv",
        "jaxmf evaluate --fit mine/fit.npz --data later.csv --on-unknown drop",
        codes="0 fine; 2 bad input, such as an id that the fit does not know",
    ),
)
@reads("ids")
def evaluate(
    data: Annotated[str, typer.Option(help="A CSV or Parquet file of ratings or likes, with ids that the fit knows.")],
    fit: FitFile = Path("results/fit/fit.npz"),
    reading: Reading = PLAIN,
    model: OwnModel = None,
    rank: OwnRank = 16,
    k: Annotated[int, typer.Option("-k", help="Number of top positions of a ranking that count.", min=1)] = 10,
    on_unknown: Annotated[
        Literal["error", "drop"],
        typer.Option(help="What to do about ratings with ids that the fit does not know: refuse them or drop them."),
    ] = "error",
    threshold: Annotated[
        float | None, typer.Option(help="Minimum rating counted as relevant; default: the median training rating.")
    ] = None,
    clip: Clip = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the tables, with all intervals.", file_okay=False)
    ] = None,
) -> None:
    """Evaluate a fit on the ratings or likes in a file, beside baselines.

    Baselines come from the fit's training ratings. Rankings are of all items except those in the user's training
    ratings ("catalog"), and of the user's items in the file ("rated", not of likes), with 95 % intervals. A fit of
    likes has rankings only, no errors. The file is audited for leakage from the training ratings.
    """
    from jaxmf.shell.answers import evaluate_fit
    from jaxmf.shell.report import audited, ranked

    fitted, train = choices.kept(fit, model, rank)
    choices.check_clip(clip, fitted.model.predicts == "preference", f"the fit of {fitted.model.name}")
    with spoken_in_options():
        known, rated = names.known_ids(train), choices.rated_by(fitted)
        test = train.align(names.dataset(data, reading, known=known, rated=rated), on_unknown)
    with claimed(out, "--out"):
        tables = evaluate_fit(fitted, train, test, k, threshold, clip, out)
    if "errors" in tables:
        typer.echo(tables["errors"].to_string(index=False, float_format="{:.4f}".format) + "\n")
    for protocol, table in ranked(tables["ranking"]).items():
        typer.echo(f"Ranking, {protocol}:")
        typer.echo(table.to_string(index=False, na_rep="", float_format="{:.4f}".format) + "\n")
    typer.echo("\n".join(audited(tables["leakage"])))
    if out is not None:
        typer.echo(f"\nTables in {out}")
