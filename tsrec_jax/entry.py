"""A row of a table of parts: what it names is imported only when it is used, since it may be slow or need a package."""

from __future__ import annotations

import dataclasses
import pkgutil
from typing import Any


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of a table.

    Attributes:
      entry: "module:name" of the part; the table says what kind of part it must be.
    """

    entry: str

    def load(self) -> Any:
        """The part."""
        return pkgutil.resolve_name(self.entry)
