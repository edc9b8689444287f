"""What this machine knows of the locks in one store: until when each object is locked at least.

Seen or set by this machine itself, never told by another one: a host that was taken over cannot
make others believe that something is locked. A file in the folder of the index's copies keeps it
between commands: the first line is the BLAKE3, in hex, of the rest, a JSON object of names and
seconds since 1970, UTC. Where it is lost, damaged or written by two at once, objects are asked
anew, which costs requests and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
from datetime import UTC, datetime
from pathlib import Path

from blake3 import blake3


class LockLedger:
    """Thread-safe; about 150 bytes of memory an object. Entries of the past are dropped."""

    def __init__(self, path: Path | None = None) -> None:
        """`path` None: kept in memory alone."""
        self._path = path
        self._lock = threading.Lock()
        self._until: dict[str, int] | None = None
        self._changed = False

    def until(self, name: str) -> datetime | None:
        found = self._entries().get(name)
        return None if found is None else datetime.fromtimestamp(found, UTC)

    def note(self, name: str, until: datetime) -> None:
        entries = self._entries()
        with self._lock:
            seconds = int(until.timestamp())
            if entries.get(name, 0) < seconds:
                entries[name] = seconds
                self._changed = True

    def save(self, now: datetime) -> None:
        """Never raises for what the folder does: the next one to look asks the store."""
        if self._path is None or not self._changed:
            return
        temporary = self._path.with_name(f"new-{secrets.token_hex(8)}")
        past = int(now.timestamp())
        with self._lock:
            # Another process may have learned something meanwhile.
            kept = _read(self._path)
            for name, until in (self._until or {}).items():
                kept[name] = max(until, kept.get(name, 0))
            self._until = {name: until for name, until in kept.items() if until > past}
            body = json.dumps(self._until, separators=(",", ":")).encode()
            self._changed = False
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                temporary.write_bytes(blake3(body).hexdigest().encode() + b"\n" + body)
                os.replace(temporary, self._path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as refused:
            # Imported here: it takes 0.1 s of every process that opens a vault.
            import structlog

            structlog.get_logger(__name__).warning(
                "what is locked is not remembered: the next backup asks for it again",
                file=str(self._path),
                reason=str(refused),
            )

    def _entries(self) -> dict[str, int]:
        with self._lock:
            if self._until is None:
                self._until = {} if self._path is None else _read(self._path)
            return self._until


def _read(path: Path) -> dict[str, int]:
    """Empty when there is none, or none that is whole."""
    with contextlib.suppress(OSError, ValueError):
        proof, _, body = path.read_bytes().partition(b"\n")
        if blake3(body).hexdigest().encode() == proof:
            return {str(name): int(until) for name, until in json.loads(body).items()}
    return {}
