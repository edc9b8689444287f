"""A copy of the index on this machine, for vaults that are far away.

Sealed index segments are kept exactly as they are stored: encrypted, each in a file that has its
checksum for a name, and checked by it whenever it is read. So a damaged copy is worth as much as
none and is fetched anew; copies of several vaults may lie side by side; nobody without a vault's
key can read them. The folder holds at most `limit_bytes`: what was used longest ago goes first. A
folder that cannot be used costs time and nothing else, and is told of once in the log.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from pathlib import Path

import structlog

from quiesce.vault.format.sealed import SealError, check, content_name
from quiesce.vault.stores.files import Buffer
from quiesce.vault.stores.in_front import InFront
from quiesce.vault.stores.store import Put, Store

log = structlog.get_logger(__name__)

_INDEX = "index/"
LIMIT_BYTES = 4 * 1024**3
"""About 10⁸ chunks."""


def default_cache_folder() -> Path:
    if os.geteuid() == 0:
        return Path("/var/cache/quiesce/index")
    given = os.environ.get("XDG_CACHE_HOME")
    return Path(given or Path.home() / ".cache") / "quiesce" / "index"


class IndexCache:
    """Thread-safe; many processes may use one folder. No call raises for what the folder does."""

    def __init__(self, folder: Path, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self.problem = ""
        """Why copies are not kept, if they are not."""

    def get(self, name: str) -> bytes | None:
        """The segment of this name, whole, or None."""
        path = self._folder / name
        try:
            stored = path.read_bytes()
            check(stored)
            if content_name(stored) != name:
                raise SealError("has another name")
            os.utime(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, SealError) as damaged:
            log.info("index copy not used", file=str(path), reason=str(damaged))
            self.drop(name)
            return None
        return stored

    def keep(self, name: str, stored: Buffer) -> None:
        if len(stored) > self._limit:
            return
        temporary = self._folder / f"new-{secrets.token_hex(8)}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._lock:
                self._make_room(len(stored))
            try:
                # Not synced: a copy that a crash cuts short is found damaged and fetched anew.
                temporary.write_bytes(stored)
                os.replace(temporary, self._folder / name)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as refused:
            self._report(str(refused))
        else:
            self.problem = ""

    def drop(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self._folder / name).unlink(missing_ok=True)

    def _make_room(self, wanted: int) -> None:
        kept = []
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                seen = path.stat()
                kept.append((seen.st_mtime_ns, seen.st_size, path))
        total = sum(size for _, size, _ in kept)
        for _, size, path in sorted(kept):
            if total + wanted <= self._limit:
                return
            path.unlink(missing_ok=True)
            total -= size

    def _report(self, reason: str) -> None:
        if not self.problem:
            log.warning(
                "no copy of the index is kept: opening the vault takes longer",
                folder=str(self._folder),
                reason=reason,
            )
        self.problem = reason


class CachingStore(InFront):
    """Reads index segments from a cache when they are there."""

    tells_copies = True

    def __init__(self, origin: Store, cache: IndexCache) -> None:
        super().__init__(origin)
        self.cache = cache

    def put(self, key: str, data: Buffer) -> Put:
        result = self.origin.put(key, data)
        if key.startswith(_INDEX):
            self.cache.keep(key.removeprefix(_INDEX), data)
        return result

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        if not key.startswith(_INDEX):
            return self.origin.get(key, limit_bytes=limit_bytes)
        name = key.removeprefix(_INDEX)
        kept = self.cache.get(name)
        if kept is not None and len(kept) <= limit_bytes:
            return kept
        stored = self.origin.get(key, limit_bytes=limit_bytes)
        with contextlib.suppress(SealError):
            check(stored)
            self.cache.keep(name, stored)
        return stored

    def delete(self, key: str) -> None:
        self.origin.delete(key)
        if key.startswith(_INDEX):
            self.cache.drop(key.removeprefix(_INDEX))
