"""The summary of experiments.implicit_feedback in words; every number in it is also in a table beside it."""

from typing import Any

import numpy as np
import pandas as pd

from experiments.implicit_measures import LIKED
from experiments.implicit_peer import NAME, is_installed
from experiments.setting import Setting
from jaxmf.files.output import markdown

BY_LOSS = "ials, chosen by loss"


def overview(measures: pd.DataFrame) -> pd.DataFrame:
    """Return one row per model, best first: NDCG@10 with its intervals and ratio to popularity, and other means."""
    table = measures.pivot_table("value", "model", "measure", sort=False).reset_index()
    first = measures[measures["measure"] == "NDCG@10"][["model", "low", "high", "least", "largest", "ratio"]]
    table = table.merge(first, on="model").sort_values("NDCG@10", ascending=False)
    return table[["model", "NDCG@10", "low", "high", "least", "largest", "ratio", "Recall@20", "Recall@50", "NDCG@100"]]


def differences(compared: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Return the differences of NDCG@10 from one reference, largest first."""
    rows = compared[(compared["measure"] == "NDCG@10") & (compared["reference"] == reference)]
    return rows.drop(columns="measure").sort_values("difference", ascending=False)


def costs(seconds: pd.DataFrame, tried: pd.DataFrame) -> pd.DataFrame:
    """Return what a fit of each chosen setting takes, medians over splits, and what the search took."""
    by_model = seconds.groupby("model", sort=False)
    table = by_model[["epochs", "seconds"]].median()
    table["seconds per epoch"] = table["seconds"] / table["epochs"]
    first = by_model.first()
    table["first call beyond that"] = first["wall_seconds"] - first["seconds"]
    searched = tried.groupby("model", sort=False)["seconds"].agg(["size", "sum"])
    table["fits of the search"] = searched["size"]
    table["seconds of the search"] = searched["sum"]
    return table.reset_index()


def trap_in_words(results: dict[str, Any]) -> str:
    """Say what the validation loss and the validation NDCG choose in the map's row with the highest NDCG."""
    cells = results["cells"]
    l2 = cells.loc[cells["valid_ndcg"].idxmax(), "l2"]
    row = cells[cells["l2"] == l2].sort_values("unobserved", ignore_index=True)
    least, best = row.loc[row["valid_loss"].idxmin()], row.loc[row["valid_ndcg"].idxmax()]
    steps = np.diff(row["valid_loss"])
    manner = "falls with every step of α0 downwards" if (steps > 0).all() else "is lowest at a small α0"
    value = results["measures"].query("measure == 'NDCG@10'").set_index("model")["value"]
    by_loss = results["ways"][BY_LOSS].hyper
    return (
        f"At λ = {best['l2']:g} the validation loss {manner}, from {row['valid_loss'].iloc[-1]:.3f} at α0 = "
        f"{row['unobserved'].iloc[-1]:g} to {row['valid_loss'].iloc[0]:.3f} at {row['unobserved'].iloc[0]:g}, and "
        f"prefers α0 = {least['unobserved']:g}, whose NDCG@10 on validation is {least['valid_ndcg']:.4f}. The NDCG@10 "
        f"is highest, {best['valid_ndcg']:.4f}, at α0 = {best['unobserved']:g}. The loss is that of held-out likes "
        "alone, whose ratings are all 1: the less the other cells weigh, the less it costs to predict 1 everywhere. Of "
        f"the whole map the loss chooses α0 = {by_loss.unobserved:g} and λ = {by_loss.l2:g}, with an NDCG@10 on test "
        f"of {value[BY_LOSS]:.4f} in place of {value['ials']:.4f}."
    )


def findings(results: dict[str, Any]) -> str:
    """Return the list of findings at the top of the summary."""
    table = overview(results["measures"]).set_index("model")
    models = results["chosen"]["model"].tolist()
    best = table["NDCG@10"].reindex(models).idxmax()
    against = differences(results["compared"], "popularity").set_index("model")
    to_ials = differences(results["compared"], "ials").set_index("model")
    first = results["splits"].query("measure == 'NDCG@10' and split == 0").set_index("model")["value"]
    lines = [
        f"- **Highest on test, of the settings chosen on validation: {best}, with an NDCG@10 of "
        f"{table['NDCG@10'][best]:.4f} ({table['low'][best]:.4f} to {table['high'][best]:.4f}), "
        f"{table['ratio'][best]:.2f} times popularity's "
        f"{table['NDCG@10']['popularity']:.4f}**; in the split whose validation part chose, {first[best]:.4f} and "
        f"{first['popularity']:.4f}."
    ]
    for name in models:
        row, other = against.loc[name], to_ials.loc[name] if name in to_ials.index else None
        text = f"- {name}: {table['ratio'][name]:.2f} times popularity, a difference of {row['difference']:+.4f} "
        text += f"({row['low']:+.4f} to {row['high']:+.4f}; p = {row['p_holm']:.1e}, corrected)"
        if other is not None:
            text += f"; from ials {other['difference']:+.4f} ({other['low']:+.4f} to {other['high']:+.4f})"
        lines.append(text + ".")
    if of_ratings := [name for name in results["ways"] if name not in (*models, BY_LOSS)]:
        parts = ", ".join(f"{name} {table['NDCG@10'][name]:.4f}" for name in of_ratings)
        verdict = "lose to popularity" if (table["ratio"][of_ratings] < 1).all() else "do not all lose to popularity"
        lines.append(f"- Models of ratings, fitted to all ratings but the test's, {verdict}: {parts}.")
    if not is_installed():
        lines.append("- The library implicit is not installed (extra `bench`), so that its ALS is not among these.")
    return "\n".join(lines)


def peer_in_words(results: dict[str, Any]) -> list[str]:
    """Say how the ALS of implicit was searched, if it was."""
    if NAME not in set(results["chosen"]["model"]):
        return []
    tried = results["tried"]["model"].value_counts()
    return [
        f"{NAME} minimizes the objective of ials with ν = 0, divided by α0, by three steps of conjugate gradient "  # noqa: RUF001
        f"per row; its λ is given times α0 here. It was tried with {tried[NAME]} settings, and ials with "
        f"{tried['ials']}."
    ]


def in_words(here: Setting, results: dict[str, Any]) -> list[str]:
    """Return the paragraphs of summary.md."""
    sizes = " / ".join(f"{size:,}" for size in results["sizes"])
    settings = ["model", "rank", "unobserved", "l2", "l2_bias", "reg_exponent", "learning_rate", "epoch", "valid_ndcg"]
    chosen = results["chosen"][settings].copy()
    chosen.loc[chosen["unobserved"].notna(), ["l2_bias", "learning_rate"]] = np.nan  # these have no such thing
    return [
        "# Lists of what users will like",
        f"{here.data.describe()['name']}; a like is a rating of at least {LIKED:g}, or any row of data "
        f"without ratings. Split at random within each user: train / valid / both / test of {sizes} likes. Settings "
        "are chosen by NDCG@10 on the validation part of the first split, and then fitted to train and valid together "
        f"in each of {results['num_splits']} splits. Candidates are all items that the user has not liked in these two "
        "parts. Recall@k divides by the smaller of k and the number of the user's test likes. Float32.",
        findings(results),
        "![Measures of all models](figures/measures.png)",
        "Dots are means over users of each user's mean over splits; bars are 95 % intervals over users.",
        "## 1. All models",
        "`low` and `high` are the interval over users, `least` and `largest` the range of the splits' means, `ratio` "
        "is to popularity, all of NDCG@10:",
        markdown(overview(results["measures"])),
        "Differences of NDCG@10 from popularity and from ials, user by user (Wilcoxon's test; Holm's correction over "
        "all measures and both references):",
        markdown(differences(results["compared"], "popularity")),
        markdown(differences(results["compared"], "ials")),
        "The settings chosen, of all in `tried.csv`:",
        markdown(chosen),
        *peer_in_words(results),
        "Seconds of one fit of these, on a machine that other work shared, compilation apart. The first call also "
        "compiles and prepares:",
        markdown(costs(results["seconds"], results["tried"])),
        "## 2. ials: α0, λ and rank",
        f"NDCG@10 of all validation users at rank {results['cells']['rank'].iloc[0]:g} and ν = 1; the highest "  # noqa: RUF001
        "is framed:",
        "![NDCG by α0 and λ](figures/map.png)",
        "A row's penalty is λ (n + α0 m)^ν, with m rows on the other side: the best λ falls as α0 grows. The "  # noqa: RUF001
        "three best settings were tried with ν = 0 and ½ too, at about the same penalty and twice as much, and "  # noqa: RUF001
        "the three best of all at other ranks:",
        "![NDCG by rank](figures/ranks.png)",
        "## 3. The trap: α0 by the validation loss",
        "![Validation loss and NDCG by α0](figures/trap.png)",
        trap_in_words(results),
    ]
