"""TS-Rec in JAX and Flax: generative recommendation with semantic IDs that keep their words."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tsrec_jax.errors import UserError

if TYPE_CHECKING:
    from tsrec_jax.serving.recommender import Recommender

__version__ = "0.1.0"
IMPORTED = time.time()  # a source that is newer is not what runs
__all__ = ["Recommender", "UserError", "__version__"]


def __getattr__(name: str) -> Any:
    """Imports `Recommender` on first use, so that `import tsrec_jax` and the command line start without JAX."""
    if name == "Recommender":
        from tsrec_jax.serving.recommender import Recommender

        return Recommender
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
