"""The names with which annotations say shapes, as in `Float[Array, "m D"]`.

They are jaxtyping's for type checkers, and where it is imported already, as by the tests, which check these shapes at
every call. Nothing else needs that package, so that a module which uses them has to leave its annotations unevaluated:
`from __future__ import annotations`.
"""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Array, Bool, Float, Int
else:
    Array = Bool = Float = Int = Any

__all__ = ["Array", "Bool", "Float", "Int"]
