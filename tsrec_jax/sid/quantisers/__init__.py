"""The quantisers by name. A new one is a file, and a row in `QUANTISERS`."""

from __future__ import annotations

import dataclasses
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tsrec_jax.sid.quantisers.protocol import Quantiser


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
      entry: "module:name" of the class, a `protocol.Quantiser`; imported only when it is used, since it brings JAX.
      settings: the fields of `IndexSettings` that shape its codes, beside those that shape the codes of every method.
    """

    entry: str
    settings: tuple[str, ...] = ()

    def load(self) -> type[Quantiser]:
        """What `entry` names."""
        return pkgutil.resolve_name(self.entry)


QUANTISERS: dict[str, Method] = {
    "rq_kmeans": Method("tsrec_jax.sid.quantisers.residual:ResidualQuantiser", ("iterations", "rows_per_code")),
    "rq_kmeans_balanced": Method("tsrec_jax.sid.quantisers.residual:BalancedQuantiser", ("iterations",)),
    "rq_vae": Method("tsrec_jax.sid.quantisers.rq_vae:RqVae", ("hidden", "latent", "epochs", "batch_size")),
}
