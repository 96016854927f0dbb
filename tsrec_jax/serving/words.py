"""The meanings of SID tokens: the teacher's keywords and description for each, as an export carries them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from tsrec_jax.data.catalogue import TokenDescription


@dataclasses.dataclass(frozen=True)
class SidWords:
    """Looks up the descriptions of the tokens of a SID.

    Attributes:
      described: token, or path of tokens as one text -> its description, as in `Dataset.token_descriptions`.
    """

    described: Mapping[str, TokenDescription] = dataclasses.field(default_factory=dict)

    def of_sid(self, sid: Sequence[str]) -> list[TokenDescription | None]:
        """For each token the description of the path that ends in it, or else of the token anywhere; None: there is
        none.

        Args:
          sid: the tokens, first level first.
        """
        paths = ("".join(sid[: level + 1]) for level in range(len(sid)))
        return [self.described.get(path) or self.described.get(sid[level]) for level, path in enumerate(paths)]
