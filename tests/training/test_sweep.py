"""Sweeps: every member is its own fit, whatever runs beside it; nothing is lost or compiled twice."""

import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from helpers import HYPER, KEY, MODELS, SOLVERS, assert_close, assert_same_bits, random_ratings, slow

from jaxmf import Dataset, Params, Rows, evaluate, fit, models, prepare, solvers, splits, sweep
from jaxmf.files import archive, members
from jaxmf.models.params import cast_hyper
from jaxmf.sweeps import batches
from jaxmf.training.options import Options
from jaxmf.training.program import LastConstants, set_up

BIASED, ADAM, ALS = MODELS["biased"], SOLVERS["adam"], SOLVERS["als"]
GRID: dict[str, list[Any]] = {"rank": [1, 3], "l2": [0.05, 0.2], "seed": [0, 7]}
OPTIONS: dict[str, Any] = {"hyper": HYPER, "epochs": 6, "patience": 2}


def solo(point, solver, train, valid, model=models.biased_mf, **options):
    """The fit that a point of the grid means, put together without the sweep: its key, its model and its numbers."""
    key = jax.random.fold_in(KEY, point["seed"]) if "seed" in point else KEY
    hyper = HYPER._replace(**{name: value for name, value in point.items() if name not in ("rank", "seed", "fold")})
    return fit(key, model(point.get("rank", 3)), solver, train, valid, hyper=hyper, **options)


def history(runs, member, name):
    return runs.history.loc[runs.history["member"] == member, name].to_numpy()


def assert_equals_solo(runs, member, alone, exact=False):
    same = assert_same_bits if exact else lambda a, b: assert_close(a, b, rtol=1e-9, atol=1e-12)
    same(runs.params(member), alone.params)
    row = runs.to_frame().loc[member]
    assert (row["status"], row["epochs"]) == (alone.status, len(alone.to_frame()))
    assert row["epoch"] == int(alone.state.epoch if alone.state.best is None else alone.state.best.epoch)
    for name in alone.history.keys() - {"seconds"}:
        np.testing.assert_allclose(history(runs, member, name), alone.history[name], rtol=0 if exact else 1e-9)
        assert row.get(name) == history(runs, member, name)[row["epoch"] - 1]


@pytest.mark.parametrize("solver", [slow(SOLVERS["sgd"]), ALS], ids=["sgd", "als"])
def test_each_member_is_its_own_fit(ratings, valid, solver):
    """To the bit one by one, at its own width; to rounding padded and side by side, in any order. Seeds differ."""
    options: dict[str, Any] = {"keep": "all", "grid": GRID, **OPTIONS}
    runs = sweep(KEY, BIASED, solver, ratings, valid, pad=False, **options)
    assert (runs.num_programs, runs.batch) == (2, 1)
    points = runs.to_frame()[["rank", "l2", "seed"]].to_dict("records")
    assert [member.point for member in runs.members] == points
    alone = [solo(point, solver, ratings, valid, epochs=6, patience=2) for point in points]
    for member in range(8):
        assert_equals_solo(runs, member, alone[member], exact=True)
        assert_same_bits(*map(jax.random.key_data, (runs.key(member), jax.random.fold_in(KEY, [0, 7][member % 2]))))
        assert runs.model(member) is models.biased_mf(points[member]["rank"])
        assert runs.hyper(member) == HYPER._replace(l2=points[member]["l2"])
    starts = {one.history["train_loss"][0] for one in alone}
    assert len(starts) == 8
    together = sweep(KEY, BIASED, solver, ratings, valid, pad=True, batch=3, **options)
    assert (together.num_programs, together.batch) == (1, 3)
    backwards = sweep(KEY, BIASED, solver, ratings, valid, pad=True, batch=3, **options | {"grid": points[::-1]})
    for member in range(8):
        assert_equals_solo(together, member, alone[member])
        assert_equals_solo(backwards, 7 - member, alone[member])


@pytest.mark.parametrize("solver", [SOLVERS["sgd"], ALS], ids=["sgd", "als"])
def test_ratings_are_set_up_once_for_members_that_read_the_same_numbers(ratings, solver):
    """The shares of a penalty are of ν and of the weights, whatever λ and the learning rate are."""
    last, batch = LastConstants(), prepare(solver, ratings)
    weights = jnp.flip(batch.train.weight)
    other = batch._replace(train=replace(batch.train, weight=weights))

    def found(own, **numbers):
        hyper = cast_hyper(HYPER._replace(**numbers), ratings.value.dtype)
        return set_up(KEY, BIASED, solver, own, hyper, Options(), last=last)[1].constants

    one = found(batch)
    assert found(batch, l2=0.5, learning_rate=0.3, init_scale=0.2) is one
    for own, exponent in ((batch, 0.9), (other, 0.9), (batch, 0.5)):
        expected = set_up(KEY, BIASED, solver, own, HYPER._replace(reg_exponent=exponent), Options())[1].constants
        another = found(own, reg_exponent=exponent)
        assert another is not one
        assert_same_bits(another, expected)


@pytest.mark.parametrize("batch", [slow(1), 4])
def test_folds_are_weights(ratings, batch):
    """A member of a fold: the same ratings under the fold's weights, validated on what it holds out."""
    folds = np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]])[:, np.arange(len(ratings.value)) % 3]
    runs = sweep(KEY, BIASED, ALS, ratings, grid={"l2": [0.05, 0.2]}, folds=folds, batch=batch, keep="all", **OPTIONS)
    assert runs.to_frame()["fold"].tolist() == [0, 1, 2, 0, 1, 2]
    for member in range(6):
        weight = jnp.asarray(folds[member % 3])
        train = replace(ratings, weight=ratings.weight * weight)
        held_out = replace(ratings, weight=ratings.weight * (1 - weight))
        alone = solo({"l2": [0.05, 0.2][member // 3]}, ALS, train, held_out, epochs=6, patience=2)
        assert_equals_solo(runs, member, alone, exact=batch == 1)
        assert evaluate.rating(runs.model(member), runs.params(member), held_out)["rmse"] == pytest.approx(
            runs.to_frame()["valid_rmse"][member]
        )


def test_k_fold_weights_of_a_dataset():
    data = Dataset.from_arrays(np.arange(40) % 8, np.arange(40) // 8, np.arange(40) % 5 + 1.0)
    runs = sweep(KEY, models.mf(1), ALS, data, grid={"fold": [1, 3]}, folds=splits.k_fold(data, 4), epochs=2)
    assert runs.to_frame()["fold"].tolist() == [1, 3]
    assert runs.to_frame()["valid_rmse"].notna().all()


@pytest.mark.parametrize("batch", [1, slow(2)])
def test_folds_multiply_the_weights_of_a_dataset(batch):
    """Both in training and in validation; a sweep that replaced the weights by the fold's would equal other fits."""
    pair = np.arange(40)
    data = Dataset.from_arrays(pair % 8, pair // 8, pair % 5 + 1.0, weight=1 + pair % 3)
    folds = splits.k_fold(data, 2)
    runs = sweep(
        KEY, models.mf(1), ALS, data, grid={"fold": [0, 1]}, folds=folds, batch=batch, hyper=HYPER, epochs=2, keep="all"
    )
    for member, fold in enumerate(folds):
        train, valid = (replace(data.ratings, weight=jnp.asarray(data.weight) * part) for part in (fold, 1 - fold))
        alone = fit(KEY, models.mf(1), ALS, train, valid, hyper=HYPER, epochs=2)
        assert_equals_solo(runs, member, alone, exact=batch == 1)
    unweighted = replace(data, weight=None)
    other = sweep(
        KEY, models.mf(1), ALS, unweighted, grid={"fold": [0, 1]}, folds=folds, batch=batch, hyper=HYPER, epochs=2
    )
    assert not np.isclose(other.to_frame()["valid_rmse"], runs.to_frame()["valid_rmse"], rtol=1e-3).any()


@pytest.mark.parametrize("batch", [1, slow(3)])
def test_a_divergence_changes_no_bit_of_the_others(ratings, valid, batch):
    grids = [{"learning_rate": [0.02, rate, 0.05]} for rate in (0.03, 1e6)]
    tame, wild = (
        sweep(KEY, BIASED, SOLVERS["sgd"], ratings, valid, grid=grid, batch=batch, keep="all", **OPTIONS)
        for grid in grids
    )
    assert wild.to_frame()["status"][1] == "diverged"
    assert "diverged" not in tame.to_frame()["status"].tolist()
    for member in (0, 2):
        assert_same_bits(wild.params(member), tame.params(member))
        pd.testing.assert_frame_equal(
            wild.history[wild.history["member"] == member].drop(columns="seconds").reset_index(drop=True),
            tame.history[tame.history["member"] == member].drop(columns="seconds").reset_index(drop=True),
        )
    assert np.isfinite(jax.tree.leaves(wild.params(1))[0]).all()
    assert wild.best() != 1


def test_a_member_that_stops_stays_as_it_was(ratings, valid):
    """More epochs for the others change nothing in it."""
    options: dict[str, Any] = {"grid": {"learning_rate": [0.3, 0.001]}, "keep": "all", "batch": 2, "patience": 2}
    options["hyper"] = HYPER._replace(learning_rate_bias=None)
    short, long = (sweep(KEY, BIASED, SOLVERS["sgd"], ratings, valid, epochs=n, **options) for n in (8, 40))
    assert short.to_frame()["epochs"][0] == long.to_frame()["epochs"][0] < 8
    assert long.to_frame()["epochs"][1] > 8
    assert_same_bits(short.params(0), long.params(0))


def test_values_never_recompile(ratings, valid):
    traces = []

    def loss(params, batch):
        traces.append(batch)
        return BIASED.loss(params, batch)

    own = BIASED._replace(loss=loss, by_hand=None)
    for batch in (1, 2):
        sweep(KEY, own, ADAM, ratings, valid, grid={"l2": [0.1, 0.2, 0.3]}, batch=batch, **OPTIONS)
        before = len(traces)
        grid = {"l2": [0.4, 0.5], "learning_rate": [1e-3, 2e-3], "seed": range(2)}
        sweep(KEY, own, ADAM, ratings, valid, grid=grid, batch=batch, **OPTIONS)
        assert len(traces) == before > 0


def test_every_number_of_hyper_may_be_swept(ratings, valid):
    """`extra` too, which only a user's own function reads."""

    def optimizer(h):
        return optax.sgd(h.learning_rate * h.extra["factor"], momentum=h.momentum)

    grid = {"momentum": [0.0, 0.5], "extra.factor": [1.0, 2.0], "reg_exponent": [0.0, 1.0], "init_scale": [0.1]}
    grid |= {"l2_bias": [0.01], "learning_rate_bias": [0.01]}
    runs = sweep(KEY, BIASED, solvers.minibatch(optimizer, 32), ratings, valid, grid=grid, hyper=HYPER, epochs=2)
    table = runs.to_frame()
    assert len(table) == 8
    for name, values in grid.items():
        assert sorted(table[name].unique()) == sorted(values)
    assert runs.hyper(2).extra == {"factor": 2.0}
    assert table["valid_rmse"].nunique() == 8


def test_the_table(ratings, valid):
    runs = sweep(KEY, BIASED, ALS, ratings, valid, grid={"l2": [0.1, 0.3], "seed": [0, 1, 2]}, **OPTIONS)
    plain = sweep(KEY, MODELS["mf"], ADAM, ratings, grid={"rank": [2]}, hyper=HYPER, epochs=2)
    table = pd.concat([runs.to_frame(), plain.to_frame()], ignore_index=True)
    assert table["model"].tolist() == ["biased_mf"] * 6 + ["mf"]
    assert table["rank"].tolist() == [3] * 6 + [2]
    assert table["seed"].isna().tolist() == [False] * 6 + [True]
    assert set(table["dtype"]) == {"float64"}
    assert (table["l2_bias"] == HYPER.l2_bias).all()
    assert {"solver", "status", "epochs", "epoch", "train_loss", "objective", "valid_mae", "seconds"} <= set(table)
    best = runs.best()
    assert table["valid_loss"][best] == table["valid_loss"].min()
    assert runs.best("mae") == table["valid_mae"].argmin()
    assert runs.best("objective") == table["objective"].argmin()
    point = {"l2": table["l2"][best], "seed": int(table["seed"][best])}
    assert_same_bits(runs.params(best), solo(point, ALS, ratings, valid, epochs=6, patience=2).params)

    summary = runs.summary()
    assert summary["l2"].tolist() == [0.1, 0.3]
    assert summary["num_members"].tolist() == [3, 3]
    own = table["valid_rmse"][:3].to_numpy(float)
    assert summary["valid_rmse"][0] == pytest.approx(own.mean())
    assert summary["valid_rmse_se"][0] == pytest.approx(own.std(ddof=1) / np.sqrt(3))
    assert len(runs.summary(by=[])) == 1
    assert runs.summary("seed")["seed"].tolist() == [0, 1, 2]


def test_what_is_kept(ratings, valid):
    arguments = (KEY, BIASED, ALS, ratings, valid)
    none, best, all_ = (
        sweep(*arguments, grid={"l2": [0.1, 0.3, 0.2]}, keep=keep, **OPTIONS) for keep in ("none", "best", "all")
    )
    assert (list(none.kept), list(best.kept), sorted(all_.kept)) == ([], [best.best()], [0, 1, 2])
    assert_same_bits(best.params(best.best()), all_.params(best.best()))
    with pytest.raises(
        ValueError, match=r"member 0 were not kept, nor were any others\. Sweep with keep='all', or fit it"
    ):
        none.params(0)
    with pytest.raises(ValueError, match=r"no member 3; members are numbered from 0 to 2"):
        all_.params(3)
    with pytest.raises(ValueError, match=r"best: no metric 'ndcg'; expected one of .*valid_rmse"):
        all_.best("ndcg")
    with pytest.raises(ValueError, match=r"summary: no column lambda; expected some of .*l2"):
        all_.summary("lambda")


def test_a_summary_shows_divergence(ratings, valid):
    grid: dict[str, list[Any]] = {"learning_rate": [0.02, 1e6], "seed": [0, 1]}
    summary = sweep(KEY, BIASED, SOLVERS["sgd"], ratings, valid, grid=grid, hyper=HYPER, epochs=3).summary()
    assert summary["num_diverged"].tolist() == [0, 2]
    assert summary["valid_rmse"].isna().tolist() == [False, True]


@pytest.mark.parametrize(("batch", "keep"), [(1, "best"), slow(2, "all")])
def test_a_sweep_that_was_cut_off_goes_on_to_the_same_bits(ratings, valid, tmp_path, monkeypatch, batch, keep):
    """No member is lost, and none that is on disk is fitted again."""
    arguments = (KEY, BIASED, ADAM, ratings, valid)
    options: dict[str, Any] = {"grid": GRID, "batch": batch, "keep": keep, "workers": 1, "pad": True, **OPTIONS}
    whole = sweep(*arguments, **options)
    fitted, left = [], 3

    def fit_batch(shared, batch, data, earlier, begun):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        fitted.extend(batch.members)
        return batches.fit_batch(shared, batch, data, earlier, begun)

    monkeypatch.setattr("jaxmf.sweeps._run.fit_batch", fit_batch)
    while True:
        try:
            resumed = sweep(*arguments, **options, out=tmp_path)
            break
        except KeyboardInterrupt:
            left = 3
    assert fitted == list(range(8))
    assert resumed.kept.keys() == whole.kept.keys()
    for member in whole.kept:
        assert_same_bits(resumed.params(member), whole.params(member))
    for found, expected in ((resumed.to_frame(), whole.to_frame()), (resumed.history, whole.history)):
        pd.testing.assert_frame_equal(found.drop(columns="seconds"), expected.drop(columns="seconds"))
    again = sweep(*arguments, **options, out=tmp_path)
    assert len(fitted) == 8
    pd.testing.assert_frame_equal(again.to_frame(), resumed.to_frame())
    on_disk = pd.read_csv(tmp_path / "metrics.csv")
    np.testing.assert_allclose(on_disk["valid_rmse"], resumed.to_frame()["valid_rmse"], rtol=1e-8)
    assert len(pd.read_csv(tmp_path / "history.csv")) == len(resumed.history)


@pytest.fixture(scope="module")
def finished(ratings, valid, tmp_path_factory):
    """The folder of a finished sweep."""
    folder = tmp_path_factory.mktemp("finished")
    sweep(KEY, BIASED, ADAM, ratings, valid, grid={"l2": [0.1, 0.2]}, out=folder, **OPTIONS)
    return folder


def other_data(ratings):
    return replace(ratings, value=ratings.value + 0.5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"grid": {"l2": [0.1, 0.3]}}, r"differs in configuration\.grid.*Give another out=, or delete the folder"),
        ({"hyper": HYPER._replace(l2_bias=0.5)}, r"configuration\.hyper\.l2_bias, which is 0\.03 there and 0\.5 here"),
        ({"epochs": 7}, r"configuration\.epochs, which is 6 there and 7 here"),
        ({"batch": 2}, r"configuration\.batches"),
        ({"key": jax.random.key(5)}, r"configuration\.key"),
        ({"train": other_data}, r"data\.fingerprint"),
        ({"solver": solvers.minibatch(optax.adam, 16)}, r"differs in program,"),
    ],
    ids=["grid", "hyper", "epochs", "batch", "key", "data", "solver"],
)
def test_another_sweep_does_not_go_on_from_it(ratings, valid, finished, changed, message):
    given: dict[str, Any] = {
        "key": KEY,
        "model": BIASED,
        "solver": ADAM,
        "train": ratings,
        "valid": valid,
        "grid": {"l2": [0.1, 0.2]},
    }
    if "train" in changed:
        changed = {"train": changed["train"](ratings)}
    with pytest.raises(ValueError, match=message):
        sweep(**given | {"out": finished, **OPTIONS} | changed)


@pytest.mark.slow
def test_damaged_files_are_named(ratings, valid, tmp_path):
    given: dict[str, Any] = {"grid": {"l2": [0.1, 0.2]}, "out": tmp_path, **OPTIONS}
    sweep(KEY, BIASED, ADAM, ratings, valid, **given)
    file = tmp_path / "members" / "batch-00001.npz"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(
        ValueError, match=r"batch-00001\.npz: .* truncated.* Delete this file, and its members are fitted"
    ):
        sweep(KEY, BIASED, ADAM, ratings, valid, **given)
    file.unlink()
    sweep(KEY, BIASED, ADAM, ratings, valid, **given)
    header, arrays = members.read(file, "jaxmf.sweep")
    factors = next(name for name in arrays if name.endswith("factors_"))
    wide, infinite = np.zeros((2, 2)), np.full_like(arrays[factors], np.inf)
    changed = {"members": header["members"] | {"1": header["members"]["1"] | {"status": 9}}}
    for head, change, message in (
        (header, {factors: wide}, "a leaf .*factors.* that is not float64"),
        (header, {factors: infinite}, "parameters that are NaN or infinite"),
        (changed, {}, "a member of status 9"),
        ({"members": {"1": {}}}, {}, "its header is not as a sweep writes it"),
    ):
        archive.write(file, {"members": head["members"]}, arrays | change, "jaxmf.sweep")
        with pytest.raises(ValueError, match=rf"batch-00001\.npz: .*{message}.*Delete this file"):
            sweep(KEY, BIASED, ADAM, ratings, valid, **given)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json is not the manifest of a sweep"):
        sweep(KEY, BIASED, ADAM, ratings, valid, **given)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"holds members of a sweep but no config\.json"):
        sweep(KEY, BIASED, ADAM, ratings, valid, **given)


@pytest.mark.slow
def test_memory_is_bounded(ratings, valid):
    """A bound that is too small for the batch cuts it, and says so; one that is too small for a member is an error."""
    arguments = (KEY, BIASED, ADAM, ratings, valid)
    options: dict[str, Any] = {"grid": {"l2": [0.1, 0.2, 0.3, 0.4]}, **OPTIONS}
    free = sweep(*arguments, **options, batch=4, workers=1)
    message = r"to stay below 195\.3 KiB, [1-3] of 4 members run at once in 1 worker\(s\), not 4 in 2"
    with pytest.warns(UserWarning, match=message):
        bound = sweep(*arguments, **options, batch=4, workers=2, max_memory=200_000)
    assert bound.batch < 4
    assert_close(bound.params(bound.best()), free.params(free.best()), rtol=1e-9)
    with pytest.raises(
        ValueError, match=r"one member takes .* KiB, more than max_memory 1000 bytes: use a smaller rank"
    ):
        sweep(*arguments, **options, max_memory=1000)
    with pytest.raises(ValueError, match=r"parameters of all 4 members take 3\.8 KiB, more than .*: use keep='best'"):
        sweep(*arguments, **options, keep="all", max_memory=1000)


def test_host_devices_change_nothing():
    """Batched solves in two threads: the same bits by one program, and no deadlock (the timeout is the watchdog)."""
    script = """
        import sys; sys.path[:0] = ["tests"]
        import jax; jax.config.update("jax_num_cpu_devices", 2)
        import conftest, test_sweep
        runs = test_sweep.spread()
        print(runs.num_programs, runs.to_frame()["objective"].map(float.hex).tolist())
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240, env=environment)
    alone = spread()
    assert alone.num_programs == 1
    assert done.stdout.split(maxsplit=1) == ["1", f"{alone.to_frame()['objective'].map(float.hex).tolist()}\n"]


def spread():
    grid = {"l2": [0.1, 0.2, 0.3, 0.4], "seed": range(8)}
    return sweep(KEY, BIASED, ALS, random_ratings(), grid=grid, hyper=HYPER, epochs=40, workers=2)


def test_a_users_model_is_padded_if_asked(ratings, valid):
    """Its columns start alike in a wider table, and its objective does not depend on columns of 0."""

    def own(rank):
        model = models.biased_mf(rank)
        return model._replace(init=lambda *given: model.init(*given), with_rank=own)

    runs = sweep(KEY, own(3), ALS, ratings, valid, grid={"rank": [1, 3]}, keep="all", pad=True, **OPTIONS)
    assert runs.num_programs == 1
    for member, rank in enumerate((1, 3)):
        alone = solo({"rank": rank}, ALS, ratings, valid, own, epochs=6, patience=2)
        assert_equals_solo(runs, member, alone, exact=False)


@pytest.mark.slow
def test_a_model_whose_init_knows_no_rank_is_not_padded_and_masked(ratings, valid):
    """A user's init draws a whole table at once, whatever the rank; each member is its own fit all the same."""

    def drawn(rank):
        def init(key, ratings, hyper):
            users, items = jax.random.split(key)
            own = lambda key, n: {"factors": jax.random.uniform(key, (n, rank), ratings.value.dtype)}  # noqa: E731
            return Params(Rows(own(users, ratings.num_users), own(items, ratings.num_items)))

        return models.mf(rank, None)._replace(init=init, with_rank=drawn)

    def averaged(rank):
        """A mean over the columns where others have a sum."""
        model = models.mf(rank, None)
        predict = lambda *given: model.predict(*given) / rank  # noqa: E731
        loss = lambda params, r: (r.value - predict(params, r)) ** 2  # noqa: E731
        return model._replace(predict=predict, loss=loss, with_rank=averaged)

    options: dict[str, Any] = {"grid": {"rank": [1, 3]}, "keep": "all", **OPTIONS}
    runs = sweep(KEY, drawn(3), ALS, ratings, valid, **options)
    assert runs.num_programs == 2
    for member in range(2):
        alone = solo({"rank": [1, 3][member]}, ALS, ratings, valid, drawn, epochs=6, patience=2)
        assert_equals_solo(runs, member, alone, exact=True)
    with pytest.raises(ValueError, match=r"rank 1 starts differently in a wider table.*fold_in.*pad=False"):
        sweep(KEY, drawn(3), ALS, ratings, valid, pad=True, **options)
    with pytest.raises(
        ValueError, match=r"rank 1 has another objective in a wider table .* number of columns, or use pad"
    ):
        sweep(KEY, averaged(3), ALS, ratings, valid, pad=True, **options)
    masked = fit(KEY, drawn(3), ALS, ratings, hyper=HYPER._replace(rank=2), epochs=2)
    for rows in masked.params.trained[:2]:
        assert np.any(rows["factors"][:, 1])
        np.testing.assert_array_equal(rows["factors"][:, 2], 0)
