"""Embedded data: MovieLens-like ratings of any size, drawn from planted factors, without a download."""

from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import ndtri

from jaxmf.data.checks import generator, is_positive_integer, short
from jaxmf.data.dataset import Dataset

GENRES = (
    *("Action", "Adventure", "Animation", "Children", "Comedy", "Crime", "Documentary", "Drama", "Fantasy"),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
TAGS = (
    *("atmospheric", "aliens", "animated", "artistic", "based-on-book", "bittersweet", "bleak", "boxing", "campy"),
    *("chase", "classic", "clever", "coming-of-age", "court", "cult", "dark", "dialogue", "disturbing", "dreamlike"),
    *("dystopia", "epic", "espionage", "family", "feel-good", "friendship", "funny", "ghosts", "gritty", "heist"),
    *(
        "high-school",
        "historical",
        "hilarious",
        "imaginative",
        "journey",
        "loneliness",
        "love",
        "magic",
        "martial-arts",
    ),
    *("melancholy", "music", "nostalgic", "offbeat", "politics", "psychology", "quirky", "revenge", "robots", "satire"),
    *("slow", "small-town", "space", "sports", "stylized", "superhero", "surreal", "suspense", "time-travel"),
    *("touching", "twist-ending", "violence", "visually-appealing", "whimsical", "wizards", "zombies"),
)
_MIN_PER_USER = 20
_CHUNK_CELLS = 4_000_000  # users x items per chunk while drawing pairs: bounds the memory, not the size of the data
_MEAN, _USER_SD, _ITEM_SD, _POPULARITY_SLOPE, _FACTOR_SD, _NOISE_SD = 3.53, 0.40, 0.30, 0.16, 0.55, 0.77
_TASTE_SD, _PLAYS_SLOPE, _PLAYS_SD = 1.5, 0.35, 0.6  # of implicit feedback
_FIRST_SECOND, _SPAN_SECONDS = 828_000_000, 20 * 365 * 86_400


class Picks(NamedTuple):
    """Implicit feedback and what it was drawn from.

    Attributes:
      counts: (num_users,) number of items that each user picks.
      popularity_rank: (num_items,) 1 for the most popular item.
      user_factors, item_factors: (num_users, rank) and (num_items, rank), the planted tastes.
      user, item: (n,) the pairs, sorted.
      plays: (n,) how often each user played the item, positive integers as float64.
    """

    counts: np.ndarray
    popularity_rank: np.ndarray
    user_factors: np.ndarray
    item_factors: np.ndarray
    user: np.ndarray
    item: np.ndarray
    plays: np.ndarray


def synthetic(
    num_users: int = 610,
    num_items: int = 9724,
    num_ratings: int = 100_000,
    rank: int = 8,
    seed: int = 0,
    feedback: Literal["explicit", "implicit"] = "explicit",
) -> Dataset:
    """Draw MovieLens-like ratings with planted factors, biases, content and times: the library's embedded data.

        explicit:  r_ui = round_half(mu + b_u + c_i + p_u . q_i + noise), clipped to 0.5 .. 5
        implicit:  r_ui = 1, with weight w_ui = ceil(exp(0.35 p_u . q_i + noise)), a number of plays

    Every user rates at least min(20, num_ratings // num_users) items (or all items, if there are fewer), with
    lognormal counts; an item's probability of being picked falls with its popularity rank s as s^-b (s + q)^-a, and
    popular items are rated somewhat better. In implicit feedback, what a user picks depends on taste too: the
    probability is multiplied by exp(p_u . q_i). An item's genres and tags follow from its factors q_i. All items are in
    `item_ids`, rated or not.

    Args:
      num_users: number of users; their ids are 1 .. num_users.
      num_items: number of items; their ids are 1 .. num_items.
      num_ratings: number of distinct (user, item) pairs, at most num_users * num_items.
      rank: number of planted factors, at least 1; later factors matter less.
      seed: the same seed gives the same data.
      feedback: "explicit" for half-star ratings, "implicit" for plays. For plays without weights use
        `dataclasses.replace(data, weight=None)`.

    Returns:
      A Dataset with ratings, timestamps (seconds, distinct within each user), items (title, genres, tags) and, if
      implicit, weights, ordered by user, then item.

    Raises:
      ValueError: a size is not a positive integer, there are more ratings than pairs, or feedback is something else.

    Cost: time O(num_users * num_items), because each user's items are a weighted sample without replacement, or that
    times the rank if implicit; memory O(num_ratings). About 1 s at the default size.

    >>> data = synthetic(num_users=5, num_items=4, num_ratings=20)
    >>> len(data), float(data.rating.min()) >= 0.5
    (20, True)
    >>> float(synthetic(num_users=5, num_items=4, num_ratings=10, feedback="implicit").weight.min()) >= 1
    True
    """
    sizes = {"num_users": num_users, "num_items": num_items, "num_ratings": num_ratings, "rank": rank}
    for name, size in sizes.items():
        if not is_positive_integer(size):
            raise ValueError(f"synthetic: {name} must be an integer of at least 1, got {size!r}")
    if num_ratings > num_users * num_items:
        raise ValueError(
            f"synthetic: num_ratings = {num_ratings} is more than num_users * num_items = {num_users * num_items} "
            "distinct pairs; ask for fewer ratings or more users and items"
        )
    if feedback not in ("explicit", "implicit"):
        raise ValueError(f"synthetic: feedback must be 'explicit' or 'implicit', not {short(feedback)}")
    rng, plays = generator(seed), None
    if feedback == "implicit":
        counts, popularity_rank, _, item_factors, user, item, plays = picks(rng, **sizes)
        rating = np.ones(num_ratings)
    else:
        popularity_rank = rng.permutation(num_items) + 1
        counts = _user_counts(rng, num_users, num_items, num_ratings)
        user, item = _pairs(rng, counts, _popularity(popularity_rank))
        item_factors = rng.normal(size=(num_items, rank))
        rating = _ratings(rng, user, item, num_users, popularity_rank, item_factors)
    return Dataset(
        user_ids=pd.RangeIndex(1, num_users + 1, name="user_id"),
        item_ids=pd.RangeIndex(1, num_items + 1, name="item_id"),
        user=user,
        item=item,
        rating=rating,
        timestamp=_timestamps(rng, user, counts),
        weight=plays,
        items=_items(rng, item_factors, popularity_rank),
        name="synthetic" if feedback == "explicit" else "synthetic-implicit",
    )


def picks(rng: np.random.Generator, num_users: int, num_items: int, num_ratings: int, rank: int) -> Picks:
    """Draw what users pick by popularity and taste, and how often they play it; see `synthetic`."""
    popularity_rank = rng.permutation(num_items) + 1
    counts = _user_counts(rng, num_users, num_items, num_ratings)
    item_factors = rng.normal(size=(num_items, rank))
    user_factors = _user_factors(rng, num_users, rank, _TASTE_SD)
    user, item = _pairs(rng, counts, _popularity(popularity_rank), (user_factors, item_factors))
    log_plays = rng.normal(0, _PLAYS_SD, num_ratings)
    for p, q in zip(user_factors.T, item_factors.T, strict=True):
        log_plays += _PLAYS_SLOPE * p[user] * q[item]
    return Picks(counts, popularity_rank, user_factors, item_factors, user, item, np.ceil(np.exp(log_plays)))


def _user_counts(rng: np.random.Generator, num_users: int, num_items: int, num_ratings: int) -> np.ndarray:
    """Return the ratings per user: a floor plus saturating lognormal counts, scaled to sum to num_ratings exactly."""
    floor = min(_MIN_PER_USER, num_ratings // num_users, num_items)
    room = num_items - floor
    # Quantiles in random order rather than draws: the most active user then has the same count for every seed.
    activity = np.exp(1.2 * ndtri((rng.permutation(num_users) + 0.5) / num_users))

    def counts_at(log_scale: float) -> np.ndarray:
        scaled = np.exp(log_scale) * activity
        counts: np.ndarray = floor + room * (scaled / (1 + scaled))
        return counts

    low, high = -60.0, 60.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if counts_at(middle).sum() < num_ratings else (low, middle)
    exact = counts_at(low)
    counts: np.ndarray = np.minimum(np.floor(exact).astype(np.int64), num_items)
    while (missing := num_ratings - counts.sum()) > 0:
        open_users = np.flatnonzero(counts < num_items)
        counts[open_users[np.argsort(counts[open_users] - exact[open_users], kind="stable")[:missing]]] += 1
    return counts


def _popularity(popularity_rank: np.ndarray) -> np.ndarray:
    """Return each item's relative probability of being picked, Zipf-Mandelbrot with a heavier head."""
    weights: np.ndarray = popularity_rank**-0.3 * (popularity_rank / len(popularity_rank) + 0.1) ** -2.0
    return weights


def _pairs(
    rng: np.random.Generator,
    counts: np.ndarray,
    popularity: np.ndarray,
    factors: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw distinct (user, item) pairs, sorted: counts[u] items for user u, without replacement.

    The probability of an item is its popularity, times exp(p_u . q_i) with the factors of users and items, if any.
    """
    num_users, num_items = len(counts), len(popularity)
    starts = np.cumsum(counts) - counts
    pairs = np.empty(counts.sum(), np.int64)
    by_count = np.argsort(counts, kind="stable")  # so that the users of a chunk need about the same number of items
    chunk = max(1, _CHUNK_CELLS // num_items)
    for begin in range(0, num_users, chunk):
        users = by_count[begin : begin + chunk]
        max_count = counts[users[-1]]
        # The n smallest of the independent exponentials E_i / p_i are n draws without replacement, of probability p_i.
        arrival = rng.standard_exponential((len(users), num_items)) / popularity
        if factors is not None:
            taste = np.zeros_like(arrival)
            for p, q in zip(factors[0][users].T, factors[1].T, strict=True):  # no `@`, whose last bits vary
                taste += p[:, None] * q
            arrival *= np.exp(-taste)
        items = np.argpartition(arrival, max_count - 1, axis=1)[:, :max_count]
        items = np.take_along_axis(items, np.argsort(np.take_along_axis(arrival, items, 1), axis=1), 1)
        kept = np.arange(max_count) < counts[users, None]
        pairs[(starts[users, None] + np.arange(max_count))[kept]] = (users[:, None] * num_items + items)[kept]
    pairs.sort()
    return (pairs // num_items).astype(np.int32), (pairs % num_items).astype(np.int32)


def _ratings(
    rng: np.random.Generator,
    user: np.ndarray,
    item: np.ndarray,
    num_users: int,
    popularity_rank: np.ndarray,
    item_factors: np.ndarray,
) -> np.ndarray:
    """Draw half-star ratings from biases, factors and noise."""
    num_items, rank = item_factors.shape
    user_factors = _user_factors(rng, num_users, rank, _FACTOR_SD)
    log_popularity = -np.log(popularity_rank)
    item_bias = rng.normal(0, _ITEM_SD, num_items) + _POPULARITY_SLOPE * log_popularity
    score = rng.normal(0, _NOISE_SD, len(user))
    score += rng.normal(0, _USER_SD, num_users)[user] + item_bias[item]
    for p, q in zip(user_factors.T, item_factors.T, strict=True):
        score += p[user] * q[item]
    score += _MEAN - score.mean()
    ratings: np.ndarray = np.clip(np.round(2 * score) / 2, 0.5, 5.0)
    return ratings


def _user_factors(rng: np.random.Generator, num_users: int, rank: int, sd: float) -> np.ndarray:
    """Draw factors whose products with standard normal item factors have this standard deviation."""
    spectrum = 0.75 ** np.arange(rank)
    factors: np.ndarray = rng.normal(size=(num_users, rank)) * spectrum * (sd / np.linalg.norm(spectrum))
    return factors


def _timestamps(rng: np.random.Generator, user: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Draw seconds since 1970: each user starts within a span of twenty years and rates in sessions, item by item."""
    num_ratings = len(user)
    gaps = 1 + rng.exponential(25, num_ratings).astype(np.int64)
    pause = rng.random(num_ratings) < 1 / 60
    gaps[pause] += rng.exponential(30 * 86_400, int(pause.sum())).astype(np.int64)
    first_row = (np.cumsum(counts) - counts)[user]
    elapsed = np.cumsum(gaps)
    joined = _FIRST_SECOND + rng.integers(0, _SPAN_SECONDS, len(counts))
    in_order: np.ndarray = joined[user] + elapsed - elapsed[first_row]
    # The rows of a user are sorted by item; shuffling their times keeps time and item independent.
    times = np.empty_like(in_order)
    times[np.argsort(user + rng.random(num_ratings))] = in_order
    return times


def _items(rng: np.random.Generator, item_factors: np.ndarray, popularity_rank: np.ndarray) -> pd.DataFrame:
    """Return titles, genres and tags; an item gets the genres and tags whose directions lie closest to its factors."""
    num_items = len(item_factors)
    num_genres = rng.choice([1, 2, 3, 4], size=num_items, p=[0.3, 0.35, 0.25, 0.1])
    num_tags = rng.poisson(5 / (1 + 6 * popularity_rank / num_items))
    genres = _closest(rng, item_factors, GENRES, num_genres)
    tags = _closest(rng, item_factors, TAGS, num_tags)
    return pd.DataFrame(
        {
            "title": [f"Item {i}" for i in range(1, num_items + 1)],
            "genres": ["|".join(words) for words in genres],
            "tags": [" ".join(words) for words in tags],
        },
        index=pd.RangeIndex(1, num_items + 1, name="item_id"),
    )


def _closest(
    rng: np.random.Generator, item_factors: np.ndarray, words: tuple[str, ...], counts: np.ndarray
) -> list[list[str]]:
    """Return the counts[i] best matching words of each item i, in the order of the vocabulary."""
    rank = item_factors.shape[1]
    directions = rng.normal(size=(rank, len(words))) * 0.75 ** np.arange(rank)[:, None]
    directions /= np.linalg.norm(directions, axis=0)
    score = item_factors @ directions + rng.gumbel(0, 0.3, (len(item_factors), len(words)))
    position = np.argsort(np.argsort(-score, axis=1), axis=1)
    return [[words[j] for j in np.flatnonzero(row)] for row in position < counts[:, None]]
