"""The summary of experiments.implicit_feedback in words; every number in it is also in a table beside it."""

from typing import Any

import numpy as np
import pandas as pd

from experiments.setting import Setting
from jaxmf.files.output import markdown


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
    table = by_model[["epochs", "seconds", "seconds_per_epoch"]].median()
    first = by_model.first()
    table["first call beyond that"] = first["wall_seconds"] - first["seconds"]
    searched = tried.groupby("model", sort=False)["seconds"].agg(["size", "sum"])
    table["fits of the search"] = searched["size"].astype("Int64")
    table["seconds of the search"] = searched["sum"]
    return table.reset_index()


def trap_in_words(results: dict[str, Any]) -> str:
    """Say what the validation loss and the validation NDCG choose in the row of the chosen λ."""
    tried = results["tried"].query("model == 'ials'")
    cells = tried[tried["rank"] == tried["rank"].iloc[0]]
    row = cells[cells["l2"] == results["chosen"].query("model == 'ials'")["l2"].iloc[0]].sort_values("unobserved")
    least, best = row.loc[row["valid_loss"].idxmin()], row.loc[row["valid_ndcg"].idxmax()]
    steps = np.diff(row["valid_loss"])
    manner = "falls with every step of α0 downwards" if (steps > 0).all() else "is lowest at a small α0"
    value = results["measures"].query("measure == 'NDCG@10'").set_index("model")["value"]
    by_loss = results["ways"]["ials, chosen by loss"].hyper
    return (
        f"At λ = {best['l2']:g} the validation loss {manner}, from {row['valid_loss'].iloc[-1]:.3f} at α0 = "
        f"{row['unobserved'].iloc[-1]:g} to {row['valid_loss'].iloc[0]:.3f} at {row['unobserved'].iloc[0]:g}, and "
        f"prefers α0 = {least['unobserved']:g}, whose NDCG@10 on validation is {least['valid_ndcg']:.4f}. The NDCG@10 "
        f"is highest, {best['valid_ndcg']:.4f}, at α0 = {best['unobserved']:g}. The loss is that of held-out likes "
        "alone, which are all 1: the less the other cells weigh, the nearer to 1 may everything be predicted. Of the "
        f"whole map the loss chooses α0 = {by_loss.unobserved:g} and λ = {by_loss.l2:g}, with an NDCG@10 on test of "
        f"{value['ials, chosen by loss']:.4f} in place of {value['ials']:.4f}."
    )


def findings(results: dict[str, Any]) -> str:
    """Return the list of findings at the top of the summary."""
    table = overview(results["measures"]).set_index("model")
    models = [name for name in results["ways"] if name in set(results["tried"]["model"])]
    best = table["NDCG@10"].reindex(models).idxmax()
    against = differences(results["compared"], "popularity").set_index("model")
    to_ials = differences(results["compared"], "ials").set_index("model")
    first = results["splits"].query("measure == 'NDCG@10' and split == 0").set_index("model")["value"]
    lines = [
        f"- **Best of those chosen on validation: {best}, with an NDCG@10 of {table['NDCG@10'][best]:.4f} "
        f"({table['low'][best]:.4f} to {table['high'][best]:.4f}), {table['ratio'][best]:.2f} times popularity's "
        f"{table['NDCG@10']['popularity']:.4f}**; in the split whose validation part chose, {first[best]:.4f} and "
        f"{first['popularity']:.4f}."
    ]
    for name in models:
        row, other = against.loc[name], to_ials.loc[name] if name in to_ials.index else None
        text = f"- {name}: {table['ratio'][name]:.2f} times popularity ({row['low']:+.4f} to {row['high']:+.4f}; "
        text += f"p = {row['p_holm']:.1e}, corrected)"
        if other is not None:
            text += f", and {other['difference']:+.4f} from ials ({other['low']:+.4f} to {other['high']:+.4f})"
        lines.append(text + ".")
    of_ratings = [name for name in results["ways"] if name not in models and not name.startswith("ials")]
    if of_ratings:
        parts = [f"{name} {table['NDCG@10'][name]:.4f}" for name in of_ratings]
        lines.append(
            f"- Models of ratings lose to popularity: {', '.join(parts)}. Who predicts ratings well need not list well."
        )
    return "\n".join(lines)


def in_words(here: Setting, results: dict[str, Any]) -> list[str]:
    """Return the paragraphs of summary.md."""
    sizes = " / ".join(f"{size:,}" for size in results["sizes"])
    chosen = results["chosen"][["model", "rank", "unobserved", "l2", "learning_rate", "epoch", "valid_ndcg"]]
    chosen.loc[chosen["model"] == "ials", "learning_rate"] = np.nan
    return [
        "# Lists of what users will like",
        f"{here.data.describe()['name']}; a like is a rating of at least {results['liked']:g}, or any row of data "
        f"without ratings. Split at random within each user: train / valid / both / test of {sizes} likes. Settings "
        "are chosen by NDCG@10 on the validation part of the first split, and then fitted to train and valid together in "
        f"each of {results['splits_tested']} splits. Candidates are all items that the user has not liked in these two "
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
        "The settings chosen:",
        markdown(chosen),
        "Seconds of one fit of these, on a machine that other work shared, compilation apart. The first call also "
        "compiles and prepares:",
        markdown(costs(results["seconds"], results["tried"])),
        "## 2. ials: α0, λ and rank",
        "NDCG@10 on validation, of 200 users that every fit watches; the highest is framed:",
        "![NDCG by α0 and λ](figures/map.png)",
        "What one row's penalty weighs grows with α0 · |I|, so the best λ falls as α0 grows. The three best settings "
        "at other ranks:",
        "![NDCG by rank](figures/ranks.png)",
        "## 3. The trap: α0 by the validation loss",
        "![Validation loss and NDCG by α0](figures/trap.png)",
        trap_in_words(results),
    ]
