"""The commands that use a saved fit: `recommend` and `predict`."""

from pathlib import Path
from typing import Annotated

import typer

from jaxmf.shell import choices, names
from jaxmf.shell.common import app, dataset, spoken_in_options, taught
from jaxmf.shell.names import PLAIN, Reading
from jaxmf.shell.options import (
    Clip,
    FitFile,
    Lists,
    OnUnknown,
    OwnModel,
    OwnRank,
    reads,
)


@app.command(
    cls=Lists,
    epilog=taught(
        "Examples:",
        "jaxmf recommend --user 1 2 3",
        "jaxmf recommend --new since.csv --user 7001 --column title",
        "jaxmf recommend --n 20 --out recommendations.csv",
        codes="0 fine; 2 bad input, such as an id that the fit does not know",
    ),
)
@reads("ids")
def recommend(
    user: Annotated[list[str] | None, typer.Option(help="Ids of the users; default: all.")] = None,
    n: Annotated[int, typer.Option("--n", "-n", help="Number of items for each user.", min=1)] = 10,
    fit: FitFile = Path("results/fit/fit.npz"),
    new: Annotated[
        Path | None,
        typer.Option(
            help="A CSV or Parquet file of further ratings or likes, also of new users and items; the parameters of "
            "all users and items in it are solved first, without a new fit.",
            dir_okay=False,
        ),
    ] = None,
    reading: Reading = PLAIN,
    candidate: Annotated[list[str] | None, typer.Option(help="Ids of the items to choose from; default: all.")] = None,
    seen: Annotated[
        bool, typer.Option("--seen", help="Also recommend items that the user has rated or chosen.")
    ] = False,
    on_unknown: OnUnknown = "error",
    column: Annotated[
        list[str] | None, typer.Option(help="A column of the fit's items to show, such as title. May be repeated.")
    ] = None,
    model: OwnModel = None,
    rank: OwnRank = 16,
    out: Annotated[
        Path | None, typer.Option(help="Write the table to this CSV file instead of printing it.", dir_okay=False)
    ] = None,
) -> None:
    """Recommend to each user the items with the highest predicted ratings or scores.

    Items that the user has rated or chosen, in the training data or in --new, are left out unless --seen is given.
    """
    from jaxmf.files import output
    from jaxmf.shell.answers import recommend_items

    if out is not None:
        names.check_out(out, new=new, fit=fit)
    fitted, train = choices.kept(fit, model, rank)
    if new is None and (given := names.said(reading)):
        raise ValueError(f"{given} for a --new file")
    frame = None
    if new is not None:
        known, rated = names.known_ids(train), choices.rated_by(fitted)
        added = dataset(new, reading, known=known, option="new", rated=rated)
        choices.check_new(fitted, train, added)
        frame = added.to_frame()
    users, candidates = names.ids(user, train.user_ids), names.ids(candidate, train.item_ids)
    with spoken_in_options():
        table = recommend_items(
            fitted,
            train,
            users,
            n,
            frame,
            column or [],
            candidates=candidates,
            filter_seen=not seen,
            on_unknown=on_unknown,
        )
    if out is None:
        typer.echo(table.to_string(index=False, na_rep="", float_format="{:.4f}".format))
    else:
        output.write_table(out, table)


@app.command(
    cls=Lists,
    epilog=taught(
        "Examples:",
        "jaxmf predict --data pairs.csv --out predictions.csv",
        "jaxmf predict --data pairs.csv --out new.csv --on-unknown bias",
        codes="0 fine; 2 bad input, such as an id that the fit does not know",
    ),
)
@reads("ids", "duplicates", "missing", "transform", "binarize")
def predict(
    data: Annotated[Path, typer.Option(help="A CSV or Parquet file with columns user_id and item_id.")],
    out: Annotated[Path, typer.Option(help="CSV file to write: the table with a column prediction.", dir_okay=False)],
    fit: FitFile = Path("results/fit/fit.npz"),
    reading: Reading = PLAIN,
    model: OwnModel = None,
    rank: OwnRank = 16,
    clip: Clip = None,
    on_unknown: OnUnknown = "error",
) -> None:
    """Predict the ratings of the (user, item) pairs in a file, or their scores by a fit of likes.

    All columns of the file are kept unchanged, and a column prediction is added.
    """
    from jaxmf.evaluate import predict as predict_ratings
    from jaxmf.files import output

    names.check_out(out, data=data, fit=fit)
    fitted, train = choices.kept(fit, model, rank)
    choices.check_clip(clip, fitted.model.predicts == "preference", f"the fit of {fitted.model.name}")
    columns = names.columns_of(reading)
    pairs = names.table(data, "pairs", reading, names.known_ids(train)).reset_index(drop=True)
    if "prediction" in pairs:
        raise ValueError(f"--data {data} has a column prediction already, which would be lost: rename it in the file")
    with spoken_in_options():
        prediction = predict_ratings(
            fitted.model, fitted.params, train, pairs.rename(columns=columns), clip, on_unknown
        )
    output.write_table(out, pairs.iloc[prediction.index].assign(prediction=prediction.to_numpy()))
