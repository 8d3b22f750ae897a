"""Use a fitted model: recommend items and say why, find neighbors, and add new users, items and ratings."""

from jaxmf.data.unknown import OnUnknown
from jaxmf.recommend._explain import Explanation, explain
from jaxmf.recommend.fold import fold_in, update
from jaxmf.recommend.similar import similar_items, similar_users
from jaxmf.recommend.top import top_n

__all__ = ["Explanation", "OnUnknown", "explain", "fold_in", "similar_items", "similar_users", "top_n", "update"]
