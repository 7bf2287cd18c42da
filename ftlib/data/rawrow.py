"""One row as it lies in a file, before it is a record."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RawRow:
    """One row. Exactly one of `values` and `error` is set."""

    position: int
    content: bytes
    """Its bytes in the file (for Parquet its JSON), or the first of them where it is too long."""
    values: dict[str, Any] | None = None
    error: str | None = None
    digest: bytes | None = None
    """Hash of the whole content where `content` is not all of it."""
