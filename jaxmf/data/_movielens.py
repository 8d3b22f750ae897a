"""Read MovieLens releases, from disk or downloaded once, into one common set of columns."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from zipfile import ZipFile

import numpy as np
import pandas as pd

from jaxmf.data.dataset import Dataset

URL = "https://files.grouplens.org/datasets/movielens/{name}.zip"
_RATING_COLUMNS = ["user_id", "item_id", "rating", "timestamp"]
_GENRES_100K = (  # the last columns of u.item, as the release's u.genre names them
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)


def movielens(name: str = "ml-latest-small", root: str | Path | None = None) -> Dataset:
    """Return MovieLens ratings, with title, genres and tags of every rated movie.

    The data are read from `root`, else from the folder named by the environment variable JAXMF_DATA, else from the
    user's cache, into which a fixed release is downloaded once and its SHA-256 checked. The data belong to GroupLens
    and are not part of this library: the README beside the data asks for research use, citation and no redistribution.

    Args:
      name: a fixed release, "ml-100k" (100,000 ratings), "ml-1m" (1,000,209) or "ml-20m" (20,000,263), or
        "ml-latest-small", which changes over time and is therefore never downloaded.
      root: the folder that contains the folder `name`, or the folder `name` itself. If given, nothing is downloaded.

    Returns:
      A Dataset whose items have the columns title, genres (joined by "|", in the release's own words) and tags (in
      lower case, joined by a space; "" where a movie or the release has none).

    Raises:
      FileNotFoundError: the data are not there; the message says where it looked and how to get them.
      OSError: the download failed or has a wrong checksum; nothing of it is kept.
      ValueError: the name is unknown, or the files hold a different number of ratings than the release.

    Cost: time O(n log n), memory O(n).

    Reference: F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 2015.
    """
    if name not in RELEASES:
        raise ValueError(f"unknown MovieLens data {name!r}; known: {', '.join(RELEASES)}")
    release = RELEASES[name]
    folder = _find_folder(name, root)
    ratings, movies = release.read(folder)
    if release.num_ratings is not None and len(ratings) != release.num_ratings:
        raise ValueError(
            f"{name} has {release.num_ratings:,} ratings, but {folder / release.files[0]} has {len(ratings):,}: "
            f"another release or a damaged file; unpack {name}.zip again"
        )
    return Dataset.from_frame(ratings, items=movies, name=name)


def _find_folder(name: str, root: str | Path | None) -> Path:
    """Return the folder that holds the release's files, downloading them if need be."""
    parent = os.environ.get("JAXMF_DATA") if root is None else root
    searched = [Path(parent) / name, Path(parent)] if parent else []
    for folder in searched:
        # Other releases have files of the same names, so a folder named after another release does not count.
        if _is_complete(name, folder) and (folder.name == name or folder.name not in RELEASES):
            return folder
    if root is None and RELEASES[name].sha256:
        return _from_cache(name)
    *files, last_file = RELEASES[name].files
    where = ", ".join(map(str, searched)) or "nowhere: neither root= nor JAXMF_DATA is set"
    raise FileNotFoundError(
        f"{name}: no {', '.join(files)} and {last_file} (looked in {where}). Download {name}.zip from the MovieLens "
        "page of grouplens.org, unpack it, and give the folder as root= or in the environment variable JAXMF_DATA; "
        + ("without root= it is downloaded" if RELEASES[name].sha256 else "datasets.synthetic() needs no download")
    )


def _is_complete(name: str, folder: Path) -> bool:
    return all((folder / file).is_file() for file in RELEASES[name].files)


def _from_cache(name: str) -> Path:
    """Return the release's folder in the user's cache, downloading and unpacking it if it is not there."""
    import pooch

    cache = Path(pooch.os_cache("jaxmf"))
    folder, url = cache / name, URL.format(name=name)
    if _is_complete(name, folder):
        return folder
    remedy = (
        f"Or download it by hand, unpack it, and give the folder as root= or in the environment variable JAXMF_DATA; "
        f"if unpacked as {folder}, it is found without either. datasets.synthetic() needs no download"
    )
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Complete files are moved out of the scratch folder; if anything fails, it is deleted with all partial files.
        with TemporaryDirectory(dir=cache) as scratch:
            archive = pooch.retrieve(url, f"sha256:{RELEASES[name].sha256}", f"{name}.zip", scratch)
            unpacked = _unpack(Path(archive), name)
            folder.mkdir(exist_ok=True)
            for file in unpacked:
                os.replace(file, folder / file.name)
    except OSError as error:  # the errors of requests are OSErrors too
        raise OSError(f"{name}: could not download {url} to {cache}: {error}. Try again. {remedy}") from error
    except ValueError as error:
        raise OSError(
            f"{name}: the file from {url} is not the registered release and was deleted ({error}). Try again: the "
            f"transfer may have been cut off, or a proxy may have answered. {remedy}"
        ) from error
    return folder


def _unpack(archive: Path, name: str) -> list[Path]:
    """Unpack beside the archive the README, which has the terms of use, then the release's files; return the paths."""
    target = archive.parent / "files"
    target.mkdir()
    with ZipFile(archive) as packed:
        readme = [member for member in packed.namelist() if member.startswith(f"{name}/README")]
        members = [*readme, *(f"{name}/{file}" for file in RELEASES[name].files)]
        for member in members:
            with packed.open(member) as source, open(target / Path(member).name, "wb") as unpacked:
                shutil.copyfileobj(source, unpacked)
    return [target / Path(member).name for member in members]


def _read_csvs(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read ml-20m or ml-latest-small, three CSV files in UTF-8; return ratings and movies."""
    names = {"userId": "user_id", "movieId": "item_id"}
    ratings = pd.read_csv(folder / "ratings.csv").rename(columns=names)
    # Titles and tags such as "NA" and "None" are text, not missing values.
    movies = pd.read_csv(folder / "movies.csv", index_col="movieId", keep_default_na=False)
    tags = pd.read_csv(folder / "tags.csv", keep_default_na=False, dtype={"tag": str})
    joined = tags["tag"].str.lower().groupby(tags["movieId"]).agg(" ".join)
    movies["tags"] = joined.reindex(movies.index, fill_value="")
    return ratings, movies


def _read_100k(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read ml-100k; return ratings and movies.

    u.data is separated by tabs; u.item has "|" between number, title, two dates, address and a 0 or 1 per genre.
    """
    ratings = pd.read_csv(folder / "u.data", sep="\t", names=_RATING_COLUMNS)
    rows = [line.split("|") for line in _lines(folder / "u.item")]
    flags = np.array([row[-len(_GENRES_100K) :] for row in rows]) == "1"
    genres = ["|".join(np.array(_GENRES_100K)[row_flags]) for row_flags in flags]
    return ratings, _movies([(row[0], row[1]) for row in rows], genres)


def _read_1m(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read ml-1m; return ratings and movies.

    ratings.dat and movies.dat have "::" between their columns; a title may contain a ":" too.
    """
    # Ratings contain only numbers: split at each ":", every second column is empty, and pandas' fast parser works.
    ratings = pd.read_csv(folder / "ratings.dat", sep=":", header=None, usecols=[0, 2, 4, 6])
    rows = [line.split("::") for line in _lines(folder / "movies.dat")]
    return ratings.set_axis(_RATING_COLUMNS, axis=1), _movies(
        [(row[0], row[1]) for row in rows], [row[2] for row in rows]
    )


def _lines(path: Path) -> list[str]:
    """Return the non-blank lines of a Latin-1 file. Not `str.splitlines`, which also splits at \\x85 and others."""
    with open(path, encoding="latin-1") as file:
        return [line.rstrip("\n") for line in file if line.strip()]


def _movies(numbers_and_titles: list[tuple[str, str]], genres: list[str]) -> pd.DataFrame:
    """Return the table of items of a release without tags."""
    index = pd.Index([int(number) for number, _ in numbers_and_titles], name="item_id")
    titles = [title for _, title in numbers_and_titles]
    return pd.DataFrame({"title": titles, "genres": genres, "tags": ""}, index=index)


class _Release(NamedTuple):
    """A release's files and how to read them; sha256 and num_ratings are None for a release that changes over time."""

    files: tuple[str, ...]
    read: Callable[[Path], tuple[pd.DataFrame, pd.DataFrame]]
    num_ratings: int | None = None
    sha256: str | None = None


_CSVS = ("ratings.csv", "movies.csv", "tags.csv")
# The SHA-256 of each archive is the one that TensorFlow Datasets registers (url_checksums/movielens.txt).
RELEASES = {
    "ml-latest-small": _Release(_CSVS, _read_csvs),
    "ml-100k": _Release(
        ("u.data", "u.item"), _read_100k, 100_000, "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"
    ),
    "ml-1m": _Release(
        ("ratings.dat", "movies.dat"),
        _read_1m,
        1_000_209,
        "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
    ),
    "ml-20m": _Release(
        _CSVS, _read_csvs, 20_000_263, "96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3"
    ),
}
