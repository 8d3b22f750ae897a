"""The host world: data in the caller's ids, and the one door from there to the device."""

from jaxmf.data import content, datasets, splits
from jaxmf.data.dataset import Dataset
from jaxmf.data.ratings import Pairs, Ratings

__all__ = ["Dataset", "Pairs", "Ratings", "content", "datasets", "splits"]
