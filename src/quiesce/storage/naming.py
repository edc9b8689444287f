"""Names at the storage endpoint, and instants as it writes them.

A VM's container and the blobs in it are named after things that people have named, cut down to
what a container may be called (3 to 63 of `a-z 0-9 -`) and made unique by a hash of the whole name.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime

ACCOUNT = "quiesce"
STATUS_BLOB = "status"

_HASH_DIGITS = 16
_READABLE_CHARACTERS = 32


def container_of(vm: str) -> str:
    return f"vm-{_unique(vm)}"


def disk_blob(attempt: str, disk: str) -> str:
    return f"{_unique(attempt)}/disk-{_unique(disk)}.vhd"


def report_blob(attempt: str) -> str:
    return f"{_unique(attempt)}/report"


def log_blob(attempt: str) -> str:
    return f"{_unique(attempt)}/log"


def instant_text(at: datetime) -> str:
    """What `x-ms-snapshot` says: UTC in units of 100 ns."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f0Z")


def _unique(name: str) -> str:
    readable = re.sub("[^a-z0-9]+", "-", name.lower())[:_READABLE_CHARACTERS].strip("-")
    digits = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_DIGITS]
    return f"{readable}-{digits}" if readable else digits
