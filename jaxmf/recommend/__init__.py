"""What people do with a fitted model: the best items for a user, neighbors, new users, items and ratings."""

from jaxmf.recommend.fold import fold_in, update
from jaxmf.recommend.similar import similar_items, similar_users
from jaxmf.recommend.top import OnUnknown, top_n

__all__ = ["OnUnknown", "fold_in", "similar_items", "similar_users", "top_n", "update"]
