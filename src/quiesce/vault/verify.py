"""Checking a vault, and naming which points are hurt and which are not.

What is found damaged is recorded in the store: from then on no writer deduplicates against it,
so that the next full read of a disk that still holds the data heals every point that needs it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from quiesce.model.failure import JobFailure, StorageFailure, VaultFailure
from quiesce.model.job import Progress
from quiesce.vault.contents import Contents
from quiesce.vault.health import PointHealth, examine_points
from quiesce.vault.manifest import Manifest
from quiesce.vault.pack import (
    HEAD_BYTES,
    PACK_BYTES,
    Entry,
    Kind,
    PackError,
    blob_id,
    blob_in,
    head_cipher,
    open_range,
    pack_key,
    whole_footer,
)
from quiesce.vault.sealed import SealError
from quiesce.vault.segment import SegmentError, entries_in_segment
from quiesce.vault.store import ObjectMissing, Store

_PACKS_AT_ONCE = 2
_PIECE_BYTES = 4 * 1024 * 1024


class _Room(threading.local):
    """A pack's memory, one for each thread for its whole life: what is given back to the
    allocator for every pack is not given back to the system, and adds up."""

    def __init__(self) -> None:
        self.pack = memoryview(mmap.mmap(-1, PACK_BYTES + _PIECE_BYTES))


_room = _Room()


class VerifyMode(StrEnum):
    STRUCTURE = "structure"
    """Manifests, maps and index: every chunk of every point has a place in a pack that exists
    in full. Reads no chunk."""
    PACKS = "packs"
    """And every pack has the BLAKE3 that its name says. Reads everything, opens nothing."""
    CHUNKS = "chunks"
    """And every blob opens, unpacks, and has the id that its pack says."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One damaged object. `healed`: it has been rebuilt, or no point needs what it lost."""

    code: str
    object: str
    detail: str
    healed: bool = False


@dataclass(frozen=True, slots=True)
class VerifyReport:
    mode: VerifyMode
    points: tuple[PointHealth, ...]
    findings: tuple[Finding, ...]
    packs: int
    blobs_opened: int
    bytes_read: int

    @property
    def intact(self) -> bool:
        """Nothing is damaged, or what was has been healed."""
        return not self.hurt and all(finding.healed for finding in self.findings)

    @property
    def hurt(self) -> tuple[PointHealth, ...]:
        return tuple(point for point in self.points if not point.intact)


@dataclass(frozen=True, slots=True)
class _PackCheck:
    name: bytes
    findings: tuple[Finding, ...]
    bad: tuple[bytes, ...]
    opened: int
    read: int


def verify_vault(
    contents: Contents,
    manifests: tuple[Manifest, ...],
    damaged: dict[str, VaultFailure],
    mode: VerifyMode,
    *,
    on_progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
) -> VerifyReport:
    """:raise JobFailure: job.cancelled"""
    findings = [
        Finding("vault.corrupt-manifest", f"points/{point_id}", failure.message)
        for point_id, failure in damaged.items()
    ]
    refresh = contents.refresh(scan_unindexed=True)
    contents.save_index()
    findings += [
        Finding("vault.corrupt-index", key, "rebuilt from the packs", healed=True)
        for key in refresh.damaged_segments
    ]
    findings += [
        Finding("vault.corrupt-chunk", key, "its list of chunks cannot be read")
        for key in refresh.unreadable_packs
    ]
    sizes = contents.pack_sizes()
    findings += [
        Finding(
            "vault.pack-missing",
            pack_key(name),
            "truncated or of another length" if name in sizes else "missing",
        )
        for name in contents.index.missing_packs()
    ]
    opened = read = 0
    if mode is not VerifyMode.STRUCTURE:
        total = sum(sizes.values())
        for check in _check_packs(contents, sizes, mode, cancelled):
            opened += check.opened
            read += check.read
            findings += check.findings
            _record(contents, check)
            on_progress(Progress(done_bytes=read, total_bytes=total, phase="packs"))
    contents.refresh()
    points = examine_points(contents, manifests, damaged, cancelled)
    if all(point.intact for point in points):
        # A damaged pack stays where it is until it is collected, but what it lost has been
        # stored anew, or nobody needs it: that must not count as damage at every later look.
        findings = [replace(finding, healed=True) for finding in findings]
    return VerifyReport(mode, points, tuple(findings), len(sizes), opened, read)


def _stop_if(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise JobFailure("job.cancelled", "The job was cancelled.")


def _check_packs(
    contents: Contents, sizes: dict[bytes, int], mode: VerifyMode, cancelled: Callable[[], bool]
) -> Iterator[_PackCheck]:
    """Packs in parallel, a few at a time: each takes its 32 MiB of memory."""
    workers = min(_PACKS_AT_ONCE, os.cpu_count() or 1)
    waiting: deque[Future[_PackCheck]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="vault-verify") as pool:
        try:
            for name in sorted(sizes):
                _stop_if(cancelled)
                waiting.append(pool.submit(_check_pack, contents, name, mode))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                _stop_if(cancelled)
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _check_pack(contents: Contents, name: bytes, mode: VerifyMode) -> _PackCheck:
    key = pack_key(name)
    try:
        data = _read_pack(contents.store, key)
    except ObjectMissing:
        return _PackCheck(name, (), (), 0, 0)
    except StorageFailure as failure:
        if failure.code != "storage.io-error":
            raise
        # A bad sector: as damaged as a flipped bit, and the other packs are still to be looked at.
        bad = tuple(entry.id for entry in _indexed(contents, name))
        return _PackCheck(name, (_damaged(key, f"cannot be read: {failure}"),), bad, 0, 0)
    if blake3(data).digest() == name and mode is VerifyMode.PACKS:
        return _PackCheck(name, (), (), 0, len(data))
    # Only with the key can it be said which blobs of a damaged pack are still good.
    problem = "" if blake3(data).digest() == name else "its BLAKE3 is not its name"
    entries = _entries(contents, name, data)
    try:
        cipher = head_cipher(contents.keys, bytes(data[:HEAD_BYTES]))
    except PackError as inner:
        bad = tuple(entry.id for entry in entries)
        return _PackCheck(name, (_damaged(key, str(inner)),), bad, 0, len(data))
    bad = tuple(_bad_blobs(contents, cipher, entries, data))
    if bad:
        problem = f"{len(bad)} of its {len(entries)} blobs are damaged"
    elif problem:
        problem += f"; all of its {len(entries)} known blobs are good"
    found = (_damaged(key, problem),) if problem else ()
    return _PackCheck(name, found, bad, len(entries), len(data))


def _read_pack(store: Store, key: str) -> memoryview:
    """The whole object, in this thread's memory; more than a pack may hold is not read."""
    length = 0
    while length <= PACK_BYTES:
        piece = store.get_range(key, length, _PIECE_BYTES)
        _room.pack[length : length + len(piece)] = piece
        length += len(piece)
        if len(piece) < _PIECE_BYTES:
            break
    return _room.pack[:length]


def _damaged(key: str, detail: str) -> Finding:
    return Finding("vault.corrupt-chunk", key, detail)


def _entries(contents: Contents, name: bytes, data: memoryview) -> list[Entry]:
    """What lies in a pack: by its own footer, else by an index segment."""
    try:
        return whole_footer(contents.keys, data)
    except PackError:
        return _indexed(contents, name)


def _indexed(contents: Contents, name: bytes) -> list[Entry]:
    for key, packs in contents.segments().items():
        if name in packs:
            try:
                return entries_in_segment(contents.open_segment(key), name)
            except (ObjectMissing, SealError, SegmentError):
                continue
    return []


def _bad_blobs(
    contents: Contents, cipher: AESGCM, entries: list[Entry], data: memoryview
) -> Iterator[bytes]:
    """Ids of blobs that do not open. Chunks of one frame share a range, which is opened once."""
    entries.sort(key=_range)
    for (offset, length), sharing in groupby(entries, key=_range):
        group = list(sharing)
        good = _good_blobs(contents, cipher, group, data[offset : offset + length])
        yield from (entry.id for entry in group if entry.id not in good)


def _range(entry: Entry) -> tuple[int, int]:
    return entry.offset, entry.length


def _good_blobs(
    contents: Contents, cipher: AESGCM, group: list[Entry], stored: memoryview
) -> set[bytes]:
    good: set[bytes] = set()
    # A segment does not keep a blob's kind, so the other one is tried too.
    for kind in (group[0].kind, Kind.MAP, Kind.CHUNK):
        try:
            plain = open_range(cipher, replace(group[0], kind=kind), stored)
        except PackError:
            continue
        for entry in group:
            with contextlib.suppress(PackError):
                blob = blob_in(entry, plain, contents.chunk_bytes)
                if blob_id(contents.keys, kind, blob) == entry.id:
                    good.add(entry.id)
        break
    return good


def _record(contents: Contents, check: _PackCheck) -> None:
    known = contents.records.damage().get(check.name, frozenset())
    if known and check.read and not check.findings:
        for key, pack in contents.records.damaged_packs():
            if pack == check.name:
                contents.store.delete(key)  # mended from a copy
        return
    if known.issuperset(check.bad):
        return
    values = {"pack": check.name.hex(), "chunks": [blob.hex() for blob in check.bad]}
    values["at"] = contents.clock().isoformat()
    contents.records.put(f"damage/{secrets.token_hex(16)}", "damage", values)
