"""Every case of the catalogue is refused before anything compiles, saying what, where and what to do."""

from collections import Counter
from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import COMPILED, HYPER, KEY, RANK, SOLVERS

from bad_input import promises
from bad_input.builders import ADAM, ALS, BIASED, DATA, FIT, NINE, OWN, PARAMS, RATINGS, SGD
from bad_input.solvers import FREE
from jaxmf import Hyper, make_fit, models, prepare, save, solvers
from jaxmf.training.checks import check_key

ROOMS = sorted({path.stem for path in Path(__file__).parent.glob("[a-z]*.py")} - {"builders", "test_catalogue"})
CASES = [(name, *case) for room in ROOMS for name, case in import_module(f"bad_input.{room}").CASES.items()]
NUMBER = jnp.array(1.0)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with a fit, good and bad tables, and a module."""
    folder = tmp_path_factory.mktemp("files")
    save(folder / "fit.npz", FIT, DATA)
    NINE.to_csv(folder / "good.csv", index=False)
    NINE.drop(columns="rating").to_csv(folder / "short.csv", index=False)
    NINE.assign(rating=NINE["rating"].where(NINE.index != 1)).to_csv(folder / "nan.csv", index=False)
    NINE[:0].to_csv(folder / "empty.csv", index=False)
    NINE[:2].drop(columns="timestamp").to_csv(folder / "tiny.csv", index=False)
    (folder / "ragged.csv").write_text("user_id,item_id,rating\n1,2,3\n1,2,3,4\n")
    (folder / "good.parquet").touch()
    (folder / "bad.parquet").write_text("not Parquet at all")
    (folder / "strange.py").write_text("number = 3\n")
    # What no shape tells of a user's model, small programs find out, once: here they have.
    ALS.check(BIASED._replace(with_rank=None), PARAMS, HYPER._replace(rank=2), {})
    ALS.check(OWN, PARAMS, HYPER, {})
    for broken, message in promises.CASES.values():
        with pytest.raises(ValueError, match=message):
            broken()
    with pytest.raises(ValueError, match=r"leaves user\.bias free"):
        ALS.check(FREE, PARAMS, Hyper(), {})
    return folder


@pytest.mark.parametrize(("bad", "message"), [case for _, *case in CASES], ids=[name for name, *_ in CASES])
def test_refused(bad, message, files, no_compile, monkeypatch):
    monkeypatch.chdir(files)
    monkeypatch.delenv("JAXMF_DATA", raising=False)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        bad()
    assert not Path("new").exists()


def test_every_case_has_a_name_of_its_own():
    """Within a room the linter sees to it."""
    assert [name for name, count in Counter(name for name, *_ in CASES).items() if count > 1] == []


def test_a_compilation_is_noticed():
    """Else the guard of these tests, `no_compile`, would guard nothing."""
    before = len(COMPILED)
    jax.jit(lambda x: x + 1)(NUMBER)
    assert len(COMPILED) > before


def test_what_is_nearly_bad_is_accepted():
    """Keys of either kind, NumPy's integers, and layouts of a solver that differs in other arguments."""
    for key in (KEY, jax.random.PRNGKey(0), np.array([0, 1], np.uint32)):
        check_key(key)
    assert models.mf(np.int64(RANK)) is models.mf(RANK)
    assert solvers.sgd(np.int32(8)) is solvers.sgd(8)
    clipped = solvers.sgd(8, clip_value=5.0)
    run = make_fit(BIASED, clipped, np.int64(2))
    state, _ = jax.eval_shape(run, KEY, prepare(SGD, RATINGS), HYPER)
    assert state.params.trained.user["bias"].shape == (17,)
    jax.eval_shape(make_fit(BIASED, SOLVERS["adamw"], 2), KEY, prepare(ADAM, RATINGS), HYPER)
