"""Likes and counts on the command line: what is chosen for them, what is measured, and what is said."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import Ended, shell
from matplotlib.image import imread
from typer.testing import CliRunner

from jaxmf import Dataset, Hyper, datasets, evaluate, load, models, predict, recommend, solvers
from jaxmf.shell import implicit_study
from jaxmf.shell.choices import check_new
from jaxmf.shell.common import app
from jaxmf.shell.jobs import split_three, sweep_grid
from jaxmf.shell.recipes import OF_ALL_CELLS, OF_DRAWN_ITEMS, OF_RATINGS, RECIPES

QUICK = ("--rank", 2, "--epochs", 2)
CHOSEN = "jaxmf: all ratings of likes are 1: --model ials by --solver als ranks items\n"


@pytest.fixture(scope="module")
def plays() -> pd.DataFrame:
    """Plays of 14 users and 12 items, with times."""
    data = datasets.synthetic(num_users=14, num_items=12, num_ratings=90, feedback="implicit")
    return data.to_frame().drop(columns="rating").rename(columns={"weight": "plays"})


@pytest.fixture(scope="module")
def folder(plays, tmp_path_factory) -> Path:
    """A folder with likes, and a fit of them by default."""
    folder = tmp_path_factory.mktemp("likes")
    plays[["user_id", "item_id"]].to_csv(folder / "likes.csv", index=False)
    ended = shell("fit", "--data", folder / "likes.csv", "--out", folder / "fit", *QUICK)
    (folder / "out.txt").write_text(ended.out)
    (folder / "err.txt").write_text(ended.err)
    assert ended.code == 0, ended.err
    return folder


@pytest.fixture
def calls(monkeypatch) -> list[tuple]:
    """What the jobs are given: the fits end before they begin."""
    seen = []

    def stop(*arguments, **options):
        seen.append(arguments)
        raise ValueError("enough")

    for job in ("fit_one", "sweep_grid"):
        monkeypatch.setattr(f"jaxmf.shell.jobs.{job}", stop)
    return seen


def test_a_fit_of_likes_is_measured_by_rankings(folder):
    printed, said = (folder / "out.txt").read_text(), (folder / "err.txt").read_text()
    assert "likes.csv has no column rating; found ['user_id', 'item_id']: each row counts as a like.\n" in said
    assert CHOSEN in said
    assert "rmse" not in printed.lower()
    config = json.loads((folder / "fit" / "config.json").read_text())["configuration"]
    assert (config["solver"], config["model"]) == ("als", "ials")
    assert {name: config["hyper"][name] for name in ("l2", "unobserved")} == {"l2": 0.01, "unobserved": 0.1}
    fit, train = load(folder / "fit" / "fit.npz")
    own_train, valid, test, _ = split_three(Dataset.from_csv(folder / "likes.csv"), 0)
    np.testing.assert_array_equal(train.item, own_train.item)
    metrics, ranking = (pd.read_csv(folder / "fit" / f"{name}.csv") for name in ("metrics", "ranking"))
    parts = {"valid": (valid, None), "test": (test, valid)}
    assert list(zip(metrics["part"], metrics["model"], strict=True)) == [
        (part, model) for part in parts for model in ("ials", "popularity")
    ]
    for part, (held_out, exclude) in parts.items():
        expected = evaluate.ranking(fit.model, fit.params, train, held_out, exclude=exclude).set_index(
            ["model", "metric"]
        )
        for model in ("ials", "popularity"):
            row = metrics[(metrics["part"] == part) & (metrics["model"] == model)].iloc[0]
            for metric in ("ndcg", "recall", "capped_recall", "map", "auc", "coverage", "novelty"):
                assert row[metric] == pytest.approx(expected.loc[(model, metric), "value"], rel=1e-6)
            assert f"{row['ndcg']:.4f}" in printed
        rows = ranking[(ranking["part"] == part) & (ranking["model"] == "ials")].set_index("metric")
        for column in ("value", "low", "high"):
            assert rows.loc["ndcg", column] == pytest.approx(expected.loc[("ials", "ndcg"), column], rel=1e-6)
    own, popular = metrics[metrics["part"] == "test"]["ndcg"]
    assert re.search(rf"NDCG@10 on test: ials {own:.4f} \[0\.\d+, [01]\.\d+\], popularity {popular:.4f}", printed)
    history = pd.read_csv(folder / "fit" / "history.csv")
    assert {"valid_ndcg", "valid_loss"} <= set(history)
    assert not {"valid_rmse", "valid_mae"} & set(history)
    best = history["valid_ndcg"].idxmax() + 1
    assert metrics.loc[metrics["model"] == "ials", "best_epoch"].tolist() == [best, best]
    assert imread(folder / "fit" / "figures" / "convergence.png").shape[0] > 200


def test_what_a_fit_of_likes_answers(folder, plays, tmp_path):
    kept = ("--fit", folder / "fit" / "fit.npz")
    fit, train = load(kept[1])
    seen = set(zip(plays["user_id"], plays["item_id"], strict=True))
    unseen = [(user, item) for user in range(1, 9) for item in range(1, 13) if (user, item) not in seen]
    later = pd.DataFrame(unseen[::3], columns=["user_id", "item_id"])
    later.to_csv(tmp_path / "later.csv", index=False)
    ended = shell("evaluate", "--data", tmp_path / "later.csv", *kept, "-k", 3, "--out", tmp_path / "judged")
    assert ended.code == 0, ended.err
    assert "each row counts as a like" in ended.err
    assert "Ranking, catalog, k = 3, relevant from 1:" in ended.out
    assert "rated" not in ended.out
    assert {path.name for path in (tmp_path / "judged").glob("*.csv")} == {"ranking.csv", "leakage.csv"}
    found = pd.read_csv(tmp_path / "judged" / "ranking.csv")
    expected = evaluate.ranking(fit.model, fit.params, train, train.align(Dataset.from_frame(later)), k=3)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-6)

    pairs = ("--data", tmp_path / "later.csv", "--out", tmp_path / "answer.csv")
    assert shell("predict", *kept, *pairs) == Ended(0, "", "")
    answer = pd.read_csv(tmp_path / "answer.csv")["prediction"]
    assert answer.to_numpy() == pytest.approx(predict(fit.model, fit.params, train, later).to_numpy(), rel=1e-6)

    new = pd.DataFrame({"user_id": [900, 900], "item_id": train.item_ids[:2]})
    new.to_csv(tmp_path / "new.csv", index=False)
    ended = shell("recommend", *kept, "--new", tmp_path / "new.csv", "--n", 3, "--out", tmp_path / "answer.csv")
    assert (ended.code, "each row counts as a like" in ended.err) == (0, True)
    params, data = recommend.update(fit.model, fit.params, fit.hyper, train, new)
    expected = recommend.top_n(fit.model, params, data, [900], 3)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "answer.csv"), expected, check_dtype=False, rtol=1e-5)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ("recommend", "--new"),
            "the fit is of likes (all ratings are 1), but the ratings of --new range from 2 to 5: ",
        ),
        (
            ("evaluate", "--clip", 0, 1, "--data"),
            "--clip is for predictions of ratings, but the fit of ials only orders",
        ),
        (
            ("predict", "--clip", 0, 1, "--out", "new", "--data"),
            "--clip is for predictions of ratings, but the fit of ials only orders",
        ),
    ],
)
def test_what_a_fit_of_likes_refuses(folder, tmp_path, command, message):
    (tmp_path / "stars.csv").write_text(STARS)
    ended = shell(*command, tmp_path / "stars.csv", "--fit", folder / "fit" / "fit.npz")
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err


def test_a_model_of_drawn_items_is_not_solved_for_new_users(folder):
    fit, train = load(folder / "fit" / "fit.npz")
    with pytest.raises(ValueError, match=r"by least squares, which the fit of bpr has not: add the rows to its --data"):
        check_new(fit._replace(model=models.bpr(2)), train, train)


def test_a_fit_of_likes_has_nothing_to_rank_in_its_training_data(folder, tmp_path):
    _, train = load(folder / "fit" / "fit.npz")
    train.to_frame()[["user_id", "item_id"]].to_csv(tmp_path / "same.csv", index=False)
    ended = shell("evaluate", "--data", tmp_path / "same.csv", "--fit", folder / "fit" / "fit.npz")
    assert (ended.code, ended.out) == (2, "")
    assert f"all {len(train)} pairs of same are in the fit's training data" in ended.err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bpr", "sampled_softmax", "logistic_mf"])
def test_models_that_draw(folder, name, tmp_path):
    """A whole fit of plays, and what is evaluated of it."""
    ended = shell("fit", "--data", folder / "likes.csv", "--model", name, *QUICK, "--out", tmp_path / "fit")
    assert ended.code == 0, ended.err
    assert "ranks items" not in ended.err  # the user chose
    assert json.loads((tmp_path / "fit" / "config.json").read_text())["configuration"]["solver"] == "minibatch(adam)"
    fit, _ = load(tmp_path / "fit" / "fit.npz")
    assert fit.model is getattr(models, name)(2)
    metrics = pd.read_csv(tmp_path / "fit" / "metrics.csv")
    assert metrics["model"].tolist() == [name, "popularity"] * 2
    assert np.isfinite(metrics["ndcg"]).all()


@pytest.mark.parametrize(
    ("options", "solver", "hyper"),
    [
        ((), "als", {"l2": 0.01, "unobserved": 0.1, "init_scale": 0.1}),
        (("--model", "ials", "--l2", 0.5, "--unobserved", 0.3), "als", {"l2": 0.5, "unobserved": 0.3}),
        (("--model", "ials", "--solver", "adam"), "adam", {"learning_rate": 0.005, "unobserved": 0.1}),
        (("--model", "ials", "--solver", "adam", "--learning-rate", 0.1), "adam", {"learning_rate": 0.1}),
        (("--model", "bpr"), "adam", {"l2": 0.003, "learning_rate": 0.005, "unobserved": None}),
        (("--model", "sampled_softmax", "--l2", 0.0), "adam", {"l2": 0.0, "unobserved": None}),
        (("--model", "logistic_mf", "--solver", "minibatch"), "minibatch", {"l2": 0.003}),
        (("--l2-bias", 0.2, "--reg-exponent", 0.5), "als", {"l2_bias": 0.2, "reg_exponent": 0.5, "l2": 0.01}),
    ],
)
def test_what_suits_a_model_of_likes(folder, calls, options, solver, hyper):
    """Where the user says nothing; what the user says wins."""
    ended = shell("fit", "--data", folder / "likes.csv", *options)
    assert ended.err.endswith("jaxmf: enough\n")
    _, _, model, chosen, numbers, *_ = calls[0]
    assert chosen is RECIPES[solver].solver
    name = options[1] if options[:1] == ("--model",) else "ials"
    assert model is getattr(models, name)(16)
    for field, value in hyper.items():
        assert getattr(numbers, field) == value


def test_what_suits_a_model_of_ratings(calls):
    assert shell("fit") == Ended(2, "", "jaxmf: enough\n")
    _, _, model, solver, hyper, *_ = calls[0]
    assert (model, solver) == (models.biased_mf(16), RECIPES["sgd"].solver)
    assert hyper == Hyper(l2=0.03, learning_rate=0.005, init_scale=0.01)


@pytest.mark.parametrize(
    ("command", "options", "grid"),
    [
        ("likes.csv", (), {"rank": [16], "unobserved": [0.03, 0.1, 0.3, 1.0], "l2": [0.003, 0.01, 0.03]}),
        (
            "likes.csv",
            ("--unobserved", 0.2, 0.4, "--rank", 2, 4, "--l2", 1, "--seeds", 2),
            {"rank": [2, 4], "unobserved": [0.2, 0.4], "l2": [1.0], "seed": range(2)},
        ),
        ("likes.csv", ("--model", "bpr"), {"rank": [16], "l2": [0.001, 0.003, 0.01]}),
        ("stars.csv", (), {"rank": [4, 8, 16], "l2": [0.03, 0.1, 0.3]}),
    ],
)
def test_what_a_sweep_tries(folder, plays, calls, command, options, grid):
    plays.assign(rating=np.arange(len(plays)) % 5).to_csv(folder / "stars.csv", index=False)
    shell("sweep", "--data", folder / command, *options)
    tried, hyper = calls[0][4:6]
    assert tried == grid
    assert list(tried) == list(grid)
    assert (hyper.unobserved is None) == ("unobserved" not in grid)


def test_the_help_says_the_numbers_of_the_recipes():
    helped = {name: " ".join(CliRunner().invoke(app, [name, "-h"]).output.split()) for name in ("fit", "study")}
    ratings, cells, drawn = (family.hyper for family in (OF_RATINGS, OF_ALL_CELLS, OF_DRAWN_ITEMS))
    assert f"{ratings.l2:g} for ratings, {cells.l2:g} for ials, {drawn.l2:g} for the others" in helped["fit"]
    assert f"default: {cells.unobserved:g}." in helped["fit"]
    settings = implicit_study.Settings()
    for values in (settings.l2, settings.unobserved):
        assert " ".join(f"{value:g}" for value in values) in helped["study"]
    assert f"for likes {settings.rank}" in helped["study"]
    assert f"for likes {settings.epochs}" in helped["study"]
    assert f"for likes {settings.patience}" in helped["study"]


LOG = "user_id,item_id\n1,7\n1,7\n1,8\n2,7\n"
STARS = "user_id,item_id,rating\n1,7,5\n1,8,2\n2,7,4\n"
PLAYS = "user_id,item_id,plays\n1,7,3\n2,8,1\n"


@pytest.mark.parametrize(
    ("text", "options", "weight", "said"),
    [
        (PLAYS, ("--rename", "plays=weight"), [3, 1], ""),
        (PLAYS, ("--rename", "plays=weight", "--transform", "linear:40"), [121, 41], ""),
        (PLAYS, ("--rename", "plays=weight", "--transform", "log1p"), [np.log(4), np.log(2)], ""),
        (LOG, ("--duplicates", "sum"), [2, 1, 1], "rows repeat a (user, item) pair"),
        (LOG, ("--duplicates", "sum", "--transform", "linear:0.5"), [2, 1.5, 1.5], "rows repeat a (user, item) pair"),
        (LOG, ("--duplicates", "last"), None, "the last row is kept"),
        (STARS, ("--binarize", 4), None, "all ratings of mine are 1: --model ials by --solver als"),
        ("7,1,3\n7,2,9\n", ("--no-header", "--rename", "0=user_id", "1=item_id", "2=weight"), [3, 9], ""),
    ],
)
def test_weights_counts_and_likes_are_read(calls, tmp_path, text, options, weight, said):
    (tmp_path / "mine.csv").write_text(text)
    ended = shell("fit", "--data", tmp_path / "mine.csv", *options)
    assert ended.err.endswith("jaxmf: enough\n"), ended.err
    assert said in ended.err
    data = calls[0][0]
    assert set(data.rating) == {1}
    if weight is None:
        assert data.weight is None
    else:
        assert data.weight == pytest.approx(weight)


@pytest.mark.parametrize(
    ("columns", "found", "remedy"),
    [
        ("stars", "'user_id', 'item_id', 'stars'", " If not, name the column of ratings, as in --rename stars=rating"),
        ("timestamp", "'user_id', 'item_id', 'timestamp'", ""),
    ],
)
def test_a_table_without_ratings_says_which_columns_it_has(calls, tmp_path, columns, found, remedy):
    path = tmp_path / "mine.csv"
    path.write_text(f"user_id,item_id,{columns}\n1,7,5\n2,8,4\n")
    chosen = "jaxmf: all ratings of mine are 1: --model ials by --solver als ranks items\n"
    said = f"jaxmf: {path} has no column rating; found [{found}]: each row counts as a like.{remedy}\n"
    assert shell("fit", "--data", path) == Ended(2, "", f"{said}{chosen}jaxmf: enough\n")


def test_a_parquet_table_without_ratings_says_which_columns_it_has(calls, tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    path = tmp_path / "mine.parquet"
    pd.DataFrame({"user_id": [1, 2], "item_id": [7, 8], "note": "x"}).to_parquet(path)
    ended = shell("fit", "--data", path)
    assert "found ['user_id', 'item_id', 'note']: each row counts as a like. If not, name" in ended.err


def test_a_model_of_one_s_own(calls, folder, tmp_path, monkeypatch):
    """One of ratings is refused for likes; one of preferences has the defaults that its parts ask for."""
    (tmp_path / "own_likes.py").write_text(
        "from jaxmf import models\n"
        "rating = models.mf(2)._replace(name='own')\n"
        "preference = rating._replace(predicts='preference')\n"
        "drawing = models.bpr(2)._replace(name='own')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    ended = shell("fit", "--data", folder / "likes.csv", "--model", "own_likes:rating")
    assert "likes.csv has no column rating; " in ended.err
    (tmp_path / "same.csv").write_text("user_id,item_id,rating\n1,7,3\n2,8,3\n")
    ended = shell("fit", "--data", tmp_path / "same.csv", "--model", "own_likes:rating")
    assert ended.err.endswith("; if it is for likes, give the Model predicts='preference'\n")
    for name, solver in (("preference", "adam"), ("drawing", "adam")):
        calls.clear()
        shell("fit", "--data", folder / "likes.csv", "--model", f"own_likes:{name}")
        assert calls[0][3] is RECIPES[solver].solver
        assert calls[0][4].unobserved is None


def test_stars_as_they_are_given_to_ials_are_remarked_upon(calls, tmp_path):
    (tmp_path / "mine.csv").write_text(STARS)
    ended = shell("fit", "--data", tmp_path / "mine.csv", "--model", "ials")
    words = "the ratings of mine range from 2 to 5, and --model ials takes even the lowest as a choice: --binarize"
    assert ended.err.startswith(f"jaxmf: {words}")
    assert ended.err.endswith("jaxmf: enough\n")


def test_a_sweep_of_likes(folder, tmp_path):
    """Best NDCG first, with a map and curves of it; and as `jaxmf.sweep` has it."""
    tried = ("--unobserved", 0.01, 0.5, "--l2", 0.01, 5, "--rank", 2)
    ended = shell("sweep", "--data", folder / "likes.csv", *tried, "--epochs", 2, "--out", tmp_path)
    assert ended.code == 0, ended.err
    summary, metrics = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("summary", "metrics"))
    assert len(summary) == 4
    assert summary["valid_ndcg"].is_monotonic_decreasing
    assert summary["valid_ndcg"].max() == metrics["valid_ndcg"].max()
    assert re.search(rf"^ *2 +{summary['unobserved'][0]:.4f} +{summary['l2'][0]:.4f} ", ended.out, flags=re.M)
    assert "rmse" not in ended.out
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"heat_map", "panel", "curves"}


@pytest.mark.slow
@pytest.mark.parametrize("folds", [None, 2])
def test_a_map_of_a_sweep_over_more_than_two_numbers(plays, tmp_path, monkeypatch, folds):
    """It shows α0 and λ where all else is best."""
    drawn = []
    monkeypatch.setattr("jaxmf.plot.heat_map", lambda table, *names: drawn.append((table, names)))
    monkeypatch.setattr("jaxmf.plot.save", lambda *_: None)
    data = Dataset.from_frame(plays, weight="plays")
    grid: dict[str, Any] = {"rank": [1, 2], "unobserved": [0.1, 0.3], "l2": [0.01, 0.1]}
    options: dict[str, Any] = {"folds": folds, "epochs": 2}
    _, summary = sweep_grid(data, tmp_path, models.ials(2), solvers.als(), grid, Hyper(unobserved=0.1), **options)
    (table, names), *others = drawn
    assert (names, others) == (("valid_ndcg", "unobserved", "l2"), [])
    assert set(table["rank"]) == {summary["rank"][0]}
    assert len(table) == 4 * (folds or 1)


@pytest.mark.slow
def test_verify_of_models_that_draw(folder):
    ended = shell("verify", "--data", folder / "likes.csv", "--model", "bpr", "--rank", 2)
    assert ended.code == 0, ended.err
    assert "bpr, gradients: passed" in ended.out


@pytest.mark.slow
def test_verify_of_ials(folder):
    ended = shell("verify", "--data", folder / "likes.csv", "--model", "ials", "mf", "--rank", 2, "--unobserved", 0.3)
    assert ended.code == 0, ended.err
    assert "ials, hessian: passed" in ended.out
    assert "mf, hessian: passed" in ended.out


def test_the_study_of_likes_is_chosen_by_the_data(folder, monkeypatch, tmp_path):
    """What is passed on and printed; the study itself has tests of its own."""
    given = []
    metrics = pd.DataFrame([["ials", "als", 0.1, 0.01, 3, 0.25, 0.4321]])
    metrics.columns = ["model", "solver", "unobserved", "l2", "best_epoch", "valid_ndcg", "test_ndcg"]

    def run(data, out, settings, progress):
        given.append((len(data), settings, progress))
        return metrics

    monkeypatch.setattr(implicit_study, "run", run)
    data = ("--data", folder / "likes.csv", "--out", tmp_path)
    ended = shell("study", *data, "--unobserved", 0.1, 0.2, "--rank", 3, "--epochs", 4)
    assert ended.code == 0, ended.err
    assert "0.4321" in ended.out
    assert shell("study", *data, "--feedback", "implicit", "-q").out == ""
    settings = implicit_study.Settings()
    assert given[0] == (90, settings._replace(unobserved=[0.1, 0.2], rank=3, epochs=4), True)
    assert given[1] == (90, settings, False)
    small = datasets.synthetic(num_users=5, num_items=9, num_ratings=30, feedback="implicit")
    monkeypatch.setattr(datasets, "synthetic", lambda feedback: small)
    assert shell("study", "--feedback", "implicit", "--out", tmp_path, "-q") == Ended(0, "", "")
    assert given[2] == (30, settings, False)
