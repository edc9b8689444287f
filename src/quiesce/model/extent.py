"""Runs of bytes of a disk."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ExtentKind(StrEnum):
    DATA = "data"
    """Must be read."""
    ZERO = "zero"
    """Reads as zeros (hole, trimmed or written zeros); need not be read."""
    CLEAN = "clean"
    """Unchanged since the base generation; need not be read. Only in incremental maps."""


@dataclass(frozen=True, slots=True)
class Extent:
    """`length_bytes` bytes from `offset_bytes`; neighbours of one kind may still be separate."""

    offset_bytes: int
    length_bytes: int
    kind: ExtentKind

    @property
    def end_bytes(self) -> int:
        return self.offset_bytes + self.length_bytes
