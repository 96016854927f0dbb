"""What the tokens of semantic IDs mean: the teacher's keywords and description of each, as an export carries them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from tsrec_jax.data.catalogue import TokenDescription


@dataclasses.dataclass(frozen=True)
class SidWords:
    """Looks up what is said of the tokens of a SID.

    Attributes:
      described: token, or path of tokens as one text -> its description, as in `Dataset.token_descriptions`.
    """

    described: Mapping[str, TokenDescription] = dataclasses.field(default_factory=dict)

    def of_sid(self, sid: Sequence[str]) -> list[TokenDescription | None]:
        """For each token what is said of the path that ends in it, else of the token wherever it stands; None: nothing.

        Args:
          sid: the tokens, first level first.
        """
        paths = ("".join(sid[: level + 1]) for level in range(len(sid)))
        return [self.described.get(path) or self.described.get(sid[level]) for level, path in enumerate(paths)]
