"""Files of fits: what cannot be written, and what cannot be read."""

import io
import json
import zipfile
from dataclasses import replace
from datetime import timedelta, timezone
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from helpers import FEATURES, HYPER, KEY

from bad_input.builders import BIASED, DATA, FIT, MODEL, NINE, OWN, PARAMS, RATINGS
from jaxmf import Dataset, load, models, save

DAYS = pd.DatetimeIndex(pd.date_range("2024-01-01 12:30", periods=17).to_numpy())
NARROW = BIASED._replace(init=lambda *x: jax.tree.map(lambda leaf: leaf.astype(jnp.float32), BIASED.init(*x)))
FACTORS = "params.trained.user.factors"
CHANGED = r"^damaged\.npz: its header is not as jaxmf\.save writes it .*the file was changed"


def saved(fit=FIT, data=DATA):
    return save("new", fit, data)


def extra(value):
    return saved(FIT._replace(hyper=HYPER._replace(extra={"mine": value})))


def damaged(change):
    """Load a file of which `change` altered the members (name -> bytes)."""
    with zipfile.ZipFile("fit.npz") as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    change(members)
    with zipfile.ZipFile("damaged.npz", "w") as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return load("damaged.npz")


def header(**values):
    name = "header.json"
    return damaged(lambda members: members.update({name: json.dumps(json.loads(members[name]) | values).encode()}))


def array(name, content, **options):
    stream = io.BytesIO()
    np.save(stream, content, **options)
    return damaged(lambda members: members.update({f"{name}.npy": stream.getvalue()}))


def loaded(content):
    Path("other.npz").write_bytes(content)
    return load("other.npz")


CASES = {
    # Files: what cannot be written.
    "save-order": (
        lambda: save(FIT, "new", DATA),
        r"^save: fit must be a Fit, not str: .*as in save\(path, fit, data\)",
    ),
    "save-params": (lambda: saved(PARAMS), "^save: fit must be a Fit, not Params: pass the result of fit"),
    "save-ratings": (
        lambda: saved(data=RATINGS),
        "^save: data must be a Dataset, not Ratings: pass one that has the fit's ids, such as its training data",
    ),
    "save-weight-zero": (
        lambda: saved(data=replace(DATA, weight=np.zeros(len(DATA)))),
        r"^save: data\.weight has values of 0 or below, expected numbers above 0$",
    ),
    "save-weight-short": (
        lambda: saved(data=replace(DATA, weight=np.ones(3))),
        r"^save: data\.weight is float64\[3\], expected float64\[199\]$",
    ),
    "save-weight-nan": (
        lambda: saved(data=replace(DATA, weight=np.full(len(DATA), np.nan))),
        r"^save: data\.weight has NaN or infinite values$",
    ),
    "save-other-data": (
        lambda: saved(data=Dataset.from_frame(NINE[NINE["user_id"] < 15])),
        r"^save: params\.trained\.user\['bias'\] is float64\[17\], but the model has float64\[15\]\. Pass the data th",
    ),
    "save-object": (
        lambda: extra(object()),
        r"hyper\.extra\.mine holds a builtins\.object, which cannot be stored without pickle: convert it to numbers",
    ),
    "save-function": (lambda: extra([np.sin]), r"hyper\.extra\.mine holds a numpy\.ufunc, .*: convert it to numbers"),
    "save-objects": (
        lambda: extra(np.array([{}])),
        r"hyper\.extra\.mine is an array of object, which cannot be stored without pickle: use plain numbers",
    ),
    "save-key": (
        lambda: extra(KEY),
        r"hyper\.extra\.mine has dtype key<fry>, which no file can hold: keep jax\.random\.key_data of a key instead",
    ),
    "save-dict": (lambda: extra({1: 2}), r"hyper\.extra\.mine holds a builtins\.dict, .*: convert it"),
    "save-masked": (
        lambda: extra(np.ma.masked_array([1.0], [True])),
        r"mine holds a numpy\.ma\.MaskedArray, .*convert",
    ),
    "save-times": (
        lambda: saved(data=replace(DATA, user_ids=pd.Index([day.time() for day in DAYS]))),
        r"data\.user_ids holds a datetime\.time, which cannot be stored without pickle: convert it",
    ),
    "save-zone": (
        lambda: saved(data=replace(DATA, user_ids=DAYS.tz_localize(timezone(timedelta(hours=1), "mine")))),
        r"data\.user_ids has dtype datetime64\[.*mine\], whose time zone has no standard name: convert it",
    ),
    "save-periods": (
        lambda: saved(data=replace(DATA, user_ids=pd.period_range("2024-01", periods=17, freq="M"))),
        r"data\.user_ids holds a pandas\.\S*Period, .*: convert it",
    ),
    "save-levels": (
        lambda: saved(data=replace(DATA, user_ids=pd.MultiIndex.from_arrays([range(17), range(17)]))),
        r"data\.user_ids has 2 levels; expected one: use tuples, as in index\.to_flat_index\(\)",
    ),
    "save-surrogates": (
        lambda: saved(data=replace(DATA, user_ids=pd.Index([f"\ud800{n}" for n in range(17)], dtype=object))),
        r"data\.user_ids holds a string that is not valid Unicode: ",
    ),
    "save-categories": (
        lambda: saved(
            data=replace(DATA, user_ids=pd.CategoricalIndex(range(17), categories=range(16, -1, -1), ordered=True))
        ),
        r"data\.user_ids has dtype category, which cannot be stored exactly: convert it with astype\(object\)",
    ),
    "save-items": (
        lambda: saved(data=replace(DATA, items=pd.DataFrame({"poster": [object()] * 13}, DATA.item_ids))),
        r"data\.items\.poster holds a builtins\.object, which cannot be stored without pickle: convert it",
    ),
    "save-index": (
        lambda: saved(data=replace(DATA, item=DATA.item + 1)),
        r"^save: data\.item has an index outside 0 \.\. 12, the range of data\.item_ids",
    ),
    "save-infinite-rating": (
        lambda: saved(data=replace(DATA, rating=np.full(len(DATA), np.inf))),
        r"^save: data\.rating has NaN or infinite values",
    ),
    "save-infinite-parameters": (
        lambda: saved(FIT._replace(params=jax.tree.map(lambda leaf: leaf + np.inf, PARAMS))),
        r"^save: params\.trained\.user\['bias'\] has NaN or infinite values",
    ),
    "save-status": (
        lambda: saved(FIT._replace(status="fine")),
        r"^save: status is 'fine', expected one of completed, converged, stopped_early, diverged",
    ),
    # Files: what cannot be read.
    "load-absent": (lambda: load("absent.npz"), r"absent\.npz"),
    "load-empty": (lambda: loaded(b""), r"^other\.npz: it is not a zip file; expected one that jaxmf\.save wrote"),
    "load-text": (lambda: loaded(b"user_id,item_id\n"), r"^other\.npz: it is not a zip file; expected one that jaxmf"),
    "load-pickle": (lambda: loaded(b"\x80\x04."), r"^other\.npz: it is not a zip file; expected one that jaxmf\.save"),
    "load-truncated": (
        lambda: loaded(Path("fit.npz").read_bytes()[:-1]),
        r"^other\.npz: it begins as a zip file but has no end: it is truncated\. Copy it or save it again",
    ),
    "load-model-constructor": (lambda: load("fit.npz", model=models.biased_mf), MODEL.format("function")),
    "load-narrower": (
        lambda: load("fit.npz", model=models.biased_mf(2)),
        r"^fit\.npz: params\.trained\.item\['factors'\] is float64\[13, 3\], but the model has float64\[13, 2\]\. "
        r"Pass the model that was saved, as jaxmf\.load\(path, model=\.\.\.\)",
    ),
    "load-without-bias": (
        lambda: load("fit.npz", model=models.mf(3)),
        r"^fit\.npz: params\.trained\.item\['bias'\] is float64\[13\], but the model has no such leaf\. Pass the model",
    ),
    "load-more": (
        lambda: load("fit.npz", model=models.content_mf(3, FEATURES)),
        r"^fit\.npz: params\S* is missing, but the model has float64\[13, 5\]\. Pass the model",
    ),
    "load-dtype": (
        lambda: load("fit.npz", model=NARROW),
        r"^fit\.npz: params\S* is float64\S*, but the model has float32",
    ),
    "load-failing": (
        lambda: load("fit.npz", model=OWN._replace(init=lambda key, ratings, hyper: hyper.extra["mine"])),
        r"^fit\.npz: the model 'mine' cannot be initialized for these data: KeyError",
    ),
    "file-no-header": (
        lambda: damaged(lambda members: members.pop("header.json")),
        r"^damaged\.npz: it is a zip file without header\.json; expected one that jaxmf\.save wrote",
    ),
    "file-no-json": (
        lambda: damaged(lambda members: members.update({"header.json": b"{"})),
        r"^damaged\.npz: its header\.json names no format; expected a file that jaxmf\.save wrote",
    ),
    "file-list": (
        lambda: damaged(lambda members: members.update({"header.json": b"[]"})),
        r"^damaged\.npz: its header\.json names no format; expected a file that jaxmf\.save wrote",
    ),
    "file-format": (
        lambda: header(format="other"),
        r"^damaged\.npz: its header\.json names the format 'other'; expected 'jaxmf\.fit'$",
    ),
    "file-newer": (
        lambda: header(version=2, jaxmf="9.9", arrays=None),
        r"^damaged\.npz: it has format version 2, written by jaxmf 9\.9; this jaxmf .* reads up to 1: update jaxmf",
    ),
    "file-missing": (
        lambda: damaged(lambda members: members.pop(f"{FACTORS}.npy")),
        rf"^damaged\.npz: its member {FACTORS}\.npy is missing: the file was changed\. Copy it or save it again",
    ),
    "file-shape": (
        lambda: array(FACTORS, np.zeros((17, 2))),
        rf"^damaged\.npz: its member {FACTORS}\.npy is float64\[17, 2\], but its header says float64\[17, 3\]: the f",
    ),
    "file-dtype": (lambda: array(FACTORS, np.zeros((17, 3), np.float32)), r"is float32\[17, 3\], .* float64\[17, 3\]"),
    "file-order": (
        lambda: array("data.rating", np.zeros(len(DATA), ">f8")),
        r"data\.rating\.npy is >f8\[199\], .*float64",
    ),
    "file-pickle": (
        lambda: array(FACTORS, np.array([{}]), allow_pickle=True),
        r"npy is \|O\[1\], but its header says float64\[17, 3\]: the file was changed",
    ),
    "file-no-npy": (
        lambda: damaged(lambda members: members.update({f"{FACTORS}.npy": b"text"})),
        rf"^damaged\.npz: its member {FACTORS}\.npy is not an array as jaxmf\.save writes it\. Save it again",
    ),
    "file-no-arrays": (
        lambda: header(arrays=None),
        r"^damaged\.npz: its header\.json does not list its arrays: the file was changed",
    ),
    "file-no-params": (lambda: header(params=None), CHANGED),
    "file-no-state": (lambda: header(state={}), CHANGED),
    "file-no-leaf": (lambda: header(params={}), r"^damaged\.npz: params\S* is missing, but the model has float64"),
    "file-constructor": (
        lambda: header(model={"name": "x", "constructor": "objective", "arguments": {}}),
        r"a fit of models\.objective, which this jaxmf does not have: update jaxmf, or pass model=",
    ),
    "file-argument": (lambda: header(model={"name": "x", "constructor": "mf", "arguments": {"size": 3}}), CHANGED),
}
