"""How far something that takes long is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a task is. `total_bytes` 0 means not known yet; `rate` is bytes per second."""

    done_bytes: int = 0
    total_bytes: int = 0
    stored_bytes: int = 0
    rate: float = 0.0
    phase: str = ""

    @property
    def eta_seconds(self) -> float | None:
        if self.rate <= 0 or self.total_bytes <= 0:
            return None
        return max(0.0, (self.total_bytes - self.done_bytes) / self.rate)
