"""The releases of MovieLens in each one's own format, on disk and through pooch from a folder of this machine."""

import hashlib
import io
import os
import shutil
from zipfile import ZipFile, ZipInfo

import pytest
import requests

from jaxmf.data import Dataset, _movielens, datasets

FIXED = ("ml-100k", "ml-1m", "ml-20m")


def flags(*genres):
    return "|".join("1" if genre in genres else "0" for genre in _movielens._GENRES_100K)


CSVS = {
    "ratings.csv": "userId,movieId,rating,timestamp\n1,30,4.0,100\n2,10,0.5,50\n",
    "movies.csv": 'movieId,title,genres\n10,Ten (1995),Drama\n20,"Unrated, The",Action\n30,NA,Action|Drama\n',
    "tags.csv": "userId,movieId,tag,timestamp\n2,30,Funny,1\n1,30,NA,2\n2,20,dull,3\n",
    "README.txt": "terms",
}
FILES = {
    "ml-latest-small": CSVS,
    "ml-20m": CSVS | {"genome-scores.csv": "movieId,tagId,relevance\n"},
    "ml-100k": {
        "u.data": "196\t242\t3\t881250949\n22\t377\t1\t878887116\n22\t242\t5\t878887117\n",
        "u.item": f"242|Kolya \x85 été (1996)|24-Jan-1997||http://us.imdb.com/Kolya|{flags('Comedy', 'War')}\n"
        f'300|"Unrated" (1997)|01-Jan-1997|||{flags("Drama")}\n'
        f"377|unknown||||{flags('unknown')}\n",
        "u.genre": "unknown|0\n",
        "README": "terms",
    },
    "ml-1m": {
        "ratings.dat": "1::1193::5::978300760\n1::661::3::978302109\n2::1193::4::978298413\n",
        "movies.dat": "661::Misérables: \x85 Les: Two (1995)::Animation|Children's|Musical\n"
        "914::Unrated (1964)::Musical\n1193::None::Drama\n",
        "users.dat": "1::F::1::10::48067\n",
        "README": "terms",
    },
}
CONTENTS = {  # user ids, item ids, ratings, times, titles, genres, tags
    "ml-20m": (
        [1, 2],
        [10, 30],
        [4.0, 0.5],
        [100, 50],
        ["Ten (1995)", "NA"],
        ["Drama", "Action|Drama"],
        ["", "funny na"],
    ),
    "ml-100k": (
        [22, 196],
        [242, 377],
        [3.0, 1.0, 5.0],
        [881250949, 878887116, 878887117],
        ["Kolya \x85 été (1996)", "unknown"],
        ["Comedy|War", "unknown"],
        ["", ""],
    ),
    "ml-1m": (
        [1, 2],
        [661, 1193],
        [5.0, 3.0, 4.0],
        [978300760, 978302109, 978298413],
        ["Misérables: \x85 Les: Two (1995)", "None"],
        ["Animation|Children's|Musical", "Drama"],
        ["", ""],
    ),
}
CONTENTS["ml-latest-small"] = CONTENTS["ml-20m"]


def encoded(name, text):
    return text.encode("latin-1" if name in ("ml-100k", "ml-1m") else "utf-8")


def unpack(name, folder):
    folder.mkdir(parents=True)
    for file, text in FILES[name].items():
        (folder / file).write_bytes(encoded(name, text))
    return folder


def archive(name):
    """The release as its zip: the files in a folder of its name; the same bytes whenever it is called."""
    packed = io.BytesIO()
    with ZipFile(packed, "w") as target:
        target.writestr(ZipInfo(f"{name}/"), "")
        for file, text in FILES[name].items():
            target.writestr(ZipInfo(f"{name}/{file}"), encoded(name, text))
    return packed.getvalue()


def check(data, name):
    users, items, ratings, times, titles, genres, tags = CONTENTS[name]
    assert data.user_ids.tolist() == users
    assert data.item_ids.tolist() == data.items.index.tolist() == items
    assert (data.user_ids.name, data.item_ids.name, data.items.index.name) == ("user_id", "item_id", "item_id")
    assert data.rating.tolist() == ratings
    assert data.timestamp.tolist() == times
    assert data.items.columns.tolist() == ["title", "genres", "tags"]
    assert data.items["title"].tolist() == titles
    assert data.items["genres"].tolist() == genres
    assert data.items["tags"].tolist() == tags
    assert data.name == name


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """No data of the machine's own, and a cache and releases of this test's."""
    monkeypatch.delenv("JAXMF_DATA", raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache" / project)
    for name in FIXED:
        release = _movielens.RELEASES[name]._replace(
            num_ratings=len(CONTENTS[name][2]), sha256=hashlib.sha256(archive(name)).hexdigest()
        )
        monkeypatch.setitem(_movielens.RELEASES, name, release)


@pytest.fixture
def server(monkeypatch, tmp_path):
    """GroupLens as a folder with the archives, read by pooch; and the addresses it was asked for."""
    folder, asked = tmp_path / "served", []
    folder.mkdir()
    for name in FIXED:
        (folder / f"{name}.zip").write_bytes(archive(name))

    def download(url, target, registry):
        asked.append(url)
        place, name = url.rsplit("/", 1)
        assert place == "https://files.grouplens.org/datasets/movielens"
        if not (folder / name).exists():
            raise requests.exceptions.HTTPError(f"404 Client Error: Not Found for url: {url}")
        shutil.copy(folder / name, target)

    monkeypatch.setattr("pooch.core.choose_downloader", lambda url, progressbar: download)
    return folder, asked


@pytest.fixture
def no_download(monkeypatch):
    monkeypatch.setattr("pooch.retrieve", lambda *args: pytest.fail("downloaded"))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("by_environment", [False, True])
@pytest.mark.usefixtures("no_download")
def test_every_release_is_read_from_disk(name, tmp_path, monkeypatch, inside, by_environment):
    folder = unpack(name, tmp_path / "mine" / name)
    place = folder if inside else folder.parent
    monkeypatch.setenv("JAXMF_DATA", str(place) if by_environment else "/nowhere")
    check(datasets.movielens(name, root=None if by_environment else place), name)


def test_the_default_is_latest_small_with_either_line_end(tmp_path):
    folder = unpack("ml-latest-small", tmp_path / "any")
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    check(datasets.movielens(root=folder), "ml-latest-small")


@pytest.mark.parametrize("name", FIXED)
def test_a_fixed_release_is_downloaded_once(name, server, tmp_path, monkeypatch):
    asked = server[1]
    monkeypatch.setenv("JAXMF_DATA", str(tmp_path))  # holds other data
    check(datasets.movielens(name), name)
    check(datasets.movielens(name), name)
    assert asked == [f"https://files.grouplens.org/datasets/movielens/{name}.zip"]
    readme = next(file for file in FILES[name] if file.startswith("README"))
    folder = tmp_path / "cache" / "jaxmf" / name
    assert sorted(os.listdir(folder)) == sorted([*_movielens.RELEASES[name].files, readme])
    assert os.listdir(folder.parent) == [name]


def test_a_file_missing_from_the_cache_is_downloaded_again(server, tmp_path):
    datasets.movielens("ml-1m")
    (tmp_path / "cache" / "jaxmf" / "ml-1m" / "movies.dat").unlink()
    check(datasets.movielens("ml-1m"), "ml-1m")
    assert len(server[1]) == 2


def test_another_checksum_is_refused_and_nothing_is_kept(server, tmp_path):
    folder, _ = server
    with open(folder / "ml-100k.zip", "ab") as file:
        file.write(b"\0")
    with pytest.raises(OSError, match="not the registered release and was deleted") as error:
        datasets.movielens("ml-100k")
    digest = hashlib.sha256((folder / "ml-100k.zip").read_bytes()).hexdigest()
    for words in (f"{_movielens.URL.format(name='ml-100k')} ", digest, "SHA256", "Try again", "by hand", "JAXMF_DATA"):
        assert words in str(error.value)
    assert os.listdir(tmp_path / "cache" / "jaxmf") == []


def test_a_failed_download_says_what_to_do_by_hand(server, tmp_path):
    (server[0] / "ml-20m.zip").unlink()
    with pytest.raises(OSError, match=r"^ml-20m: could not download https://.*/ml-20m\.zip to /") as error:
        datasets.movielens("ml-20m")
    cache = tmp_path / "cache" / "jaxmf"
    for words in ("404", "by hand", "root=", "JAXMF_DATA", str(cache / "ml-20m"), "datasets.synthetic()"):
        assert words in str(error.value)
    assert os.listdir(cache) == []
    unpack("ml-20m", cache / "ml-20m")  # what the message says
    check(datasets.movielens("ml-20m"), "ml-20m")


def test_a_disk_that_fails_while_unpacking_leaves_nothing(server, tmp_path, monkeypatch):
    copy = shutil.copyfileobj

    def full(source, target):
        if target.name.endswith("movies.dat"):
            target.write(b"half")
            raise OSError(28, "No space left on device")
        copy(source, target)

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(OSError, match=r"could not download .* No space left on device"):
        datasets.movielens("ml-1m")
    assert os.listdir(tmp_path / "cache" / "jaxmf") == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OSError, match=r"could not download https://files\.grouplens\.org/.*/ml-1m\.zip to .*cache"):
        datasets.movielens("ml-1m")


@pytest.mark.usefixtures("no_download")
def test_latest_small_that_is_not_there_says_where_it_looked(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"neither root= nor JAXMF_DATA is set.*grouplens\.org"):
        datasets.movielens()
    monkeypatch.setenv("JAXMF_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"elsewhere.*JAXMF_DATA; datasets\.synthetic\(\) needs no download"):
        datasets.movielens(root=tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        datasets.movielens()


@pytest.mark.usefixtures("no_download")
def test_a_root_without_the_release_downloads_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no ratings\.dat and movies\.dat") as error:
        datasets.movielens("ml-1m", root=tmp_path)
    for words in (
        f"looked in {tmp_path / 'ml-1m'}, {tmp_path}",
        "Download ml-1m.zip",
        "without root= it is downloaded",
    ):
        assert words in str(error.value)


@pytest.mark.usefixtures("no_download")
def test_one_release_is_not_taken_for_another(tmp_path):
    folder = unpack("ml-20m", tmp_path / "ml-20m")
    with pytest.raises(FileNotFoundError, match=r"ml-latest-small: no ratings\.csv, movies\.csv and tags\.csv"):
        datasets.movielens("ml-latest-small", root=folder)
    other = folder.rename(tmp_path / "any")
    with open(other / "ratings.csv", "a") as file:
        file.write("3,10,1.0,60\n")
    with pytest.raises(
        ValueError, match=r"ml-20m has 2 ratings, but .*any/ratings\.csv has 3: another release or a dam"
    ):
        datasets.movielens("ml-20m", root=other)


def test_registered_checksums(monkeypatch):
    """Those of TensorFlow Datasets' url_checksums/movielens.txt: a change here must be meant."""
    monkeypatch.undo()
    assert {name: release.sha256 for name, release in _movielens.RELEASES.items()} == {
        "ml-latest-small": None,
        "ml-100k": "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        "ml-1m": "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        "ml-20m": "96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3",
    }


@pytest.mark.realdata
def test_latest_small(latest_small: Dataset):
    assert (len(latest_small), latest_small.num_users, latest_small.num_items) == (100_836, 610, 9724)
    assert round(100 * (1 - len(latest_small) / (610 * 9724)), 4) == 98.3000
    assert latest_small.items["title"].iloc[latest_small.item_index([1])[0]] == "Toy Story (1995)"
    assert latest_small.items.loc[1, "genres"] == "Adventure|Animation|Children|Comedy|Fantasy"
    assert latest_small.items.loc[1, "tags"] == "pixar pixar fun"
    assert (latest_small.items["tags"] != "").sum() == 1554
    assert not latest_small.items.isna().any(axis=None)
