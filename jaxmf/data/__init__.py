"""Data on the host, in the caller's ids; `Dataset.ratings` is the only way from there to the device."""

from jaxmf.data import content, datasets, splits
from jaxmf.data.dataset import Dataset
from jaxmf.data.ratings import Pairs, Ratings

__all__ = ["Dataset", "Pairs", "Ratings", "content", "datasets", "splits"]
