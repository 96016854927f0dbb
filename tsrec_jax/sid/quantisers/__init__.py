"""The quantisers by name. A new one is a file, and a row in `QUANTISERS`."""

from __future__ import annotations

import dataclasses

from tsrec_jax.entry import Entry


@dataclasses.dataclass(frozen=True)
class Method(Entry):
    """A row of the table.

    Attributes:
      entry: entry of the class, a `protocol.Quantiser`.
      settings: fields of `IndexSettings` that shape its codes, in addition to those that shape every method's codes.
    """

    settings: tuple[str, ...] = ()


QUANTISERS: dict[str, Method] = {
    "rq_kmeans": Method("tsrec_jax.sid.quantisers.residual:ResidualQuantiser", ("iterations", "rows_per_code")),
    "rq_kmeans_balanced": Method("tsrec_jax.sid.quantisers.residual:BalancedQuantiser", ("iterations",)),
    "rq_vae": Method("tsrec_jax.sid.quantisers.rq_vae:RqVae", ("hidden", "latent", "epochs", "batch_size")),
}
