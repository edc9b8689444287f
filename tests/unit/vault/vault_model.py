"""What is known of a vault whose history is drawn by chance: its points, how work may fail, and
what was covered."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from faulty_store import Fault
from hypothesis import strategies as st

HOSTS = 3
WRONG_BY_MINUTES = 60
"""Each clock is wrong by at most this, so two of them differ by at most twice as much."""
LATE_SECONDS = 3600
MOST_POINTS = 5
CHUNKS = st.lists(st.integers(0, 12), min_size=1, max_size=9)
CALL_FAULTS = (
    Fault.BEFORE, Fault.AFTER, Fault.PARTIAL, Fault.TWICE, Fault.ECHO, Fault.THROTTLED, Fault.FULL,
    Fault.EXPIRED, Fault.WRONG_BYTES, Fault.SHORT, Fault.KILLED_BEFORE, Fault.KILLED_PARTIAL,
    Fault.KILLED_AFTER,
)  # fmt: skip


EXPECTED: dict[str, set[str]] = {
    "backup": {"vault.base-missing", "vault.session-expired"},
    "collection": {"vault.collect-running"},
    "deletion": {"vault.point-unknown"},
    "restore": set(),
    "verification": set(),
    "copy": {"vault.session-expired"},
    "rebuilding": {"vault.collect-running"},
    "arrival": {"vault.collect-running", "vault.copy-unseen", "vault.session-expired"},
}
"""How work may fail whose host met no fault, and whose point nobody deletes meanwhile."""
WHERE_LISTS_ARE_LATE = {"vault.pack-missing", "vault.collect-refused"}
"""Nobody can be told of a pack that no list shows yet, nor its segment; it is there later."""


class Told(Counter[str]):
    """What all runs have covered, over all machines of this process."""


TOLD = Told()


@dataclass
class Job:
    """`deleting`: somebody has begun to delete its point. `gone_at`: when it was seen gone."""

    disk: bytes
    vm: str
    point_id: str = ""
    deleting: bool = False
    gone_at: datetime | None = None
