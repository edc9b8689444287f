"""Disks over NBD on a unix socket: `NbdSource` reads a snapshot, `NbdTarget` writes an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from quiesce.block import nbd_wire as wire
from quiesce.block.nbd_connection import Connection, Runs
from quiesce.block.nbd_wire import (
    ConnectionLostError,
    NbdError,
    RefusedError,
    ServerSilentError,
    UnknownExportError,
)
from quiesce.model.extent import Extent, ExtentKind
from quiesce.model.failure import (
    Evidence,
    Failure,
    RestoreFailure,
    SnapshotFailure,
    StorageFailure,
    VmFailure,
)
from quiesce.model.snapshot import SessionDisk

STATUS_RANGE_BYTES = 2 * 1024 * 1024 * 1024
"""Block status is asked in ranges of this size; the protocol's length field ends at 4 GiB - 1."""

SILENCE_SECONDS = 120.0
"""More than twice the 45 s that copy-before-write may hold a request (protocols.md, 2)."""

HANDSHAKE_SECONDS = 20.0

ENOSPC = 28
EINVAL = 22
PROBE_BYTES = 512


class NbdSource:
    """A disk at one point in time, read over NBD; fulfils `transfer.ports.BlockSource`.

    With `dirty_bitmap`, ranges that the bitmap does not hold are CLEAN. Ranges that read as zeros
    are ZERO and need not travel: that takes in trimmed blocks, which are dirty and unallocated.
    `allocation_exports` and `read_unit_bytes` are as `model.snapshot.SessionDisk` has them.

    :raise VmFailure: vm.gone nobody listens or the connection ended; vm.unreachable the process
        that listens does not answer
    :raise SnapshotFailure: snapshot.gone no such export; bitmap.missing no such bitmap with it
    :raise StorageFailure: storage.nbd-protocol the server's answers make no sense
    """

    def __init__(
        self,
        socket: Path,
        export: str,
        dirty_bitmap: str | None = None,
        *,
        allocation_exports: Sequence[str] = (),
        read_unit_bytes: int = 0,
        silence_seconds: float = SILENCE_SECONDS,
        handshake_seconds: float = HANDSHAKE_SECONDS,
    ) -> None:
        self._where = f"NBD export {export!r} at {socket}"
        self._dirty = f"qemu:dirty-bitmap:{dirty_bitmap}" if dirty_bitmap is not None else None
        self._read_unit_bytes = read_unit_bytes
        contexts = (wire.BASE_ALLOCATION, *((self._dirty,) if self._dirty else ()))
        with ExitStack() as opened:

            def connect(name: str, contexts: tuple[str, ...]) -> Connection:
                connection = Connection.open(
                    socket,
                    name,
                    contexts=contexts,
                    silence_seconds=silence_seconds,
                    handshake_seconds=handshake_seconds,
                )
                opened.callback(connection.close)
                return connection

            try:
                self._connection = connect(export, contexts)
                self._maps = [connect(name, (wire.BASE_ALLOCATION,)) for name in allocation_exports]
            except NbdError as error:
                raise _opening_failure(error, self._where) from error
            opened.pop_all()
        self._answered: int | None = None
        offered = self._connection.export.contexts.values()
        if self._dirty is not None and self._dirty not in offered:
            self.close()
            raise SnapshotFailure(
                "bitmap.missing",
                f"The snapshot is not exported with the dirty bitmap {dirty_bitmap}.",
                evidence=[
                    Evidence(f"contexts offered: {', '.join(offered) or 'none'}", self._where)
                ],
            )

    @classmethod
    def of(cls, disk: SessionDisk, *, whole: bool = False) -> Self:
        """One disk of a snapshot session; `whole` leaves its dirty bitmap out.

        :raise Failure: as the class does
        """
        return cls(
            disk.nbd_socket,
            disk.export,
            None if whole else disk.dirty_bitmap,
            allocation_exports=disk.allocation_exports,
            read_unit_bytes=disk.read_unit_bytes,
        )

    @property
    def size_bytes(self) -> int:
        return self._connection.export.size_bytes

    def extents(self) -> Iterator[Extent]:
        """The whole disk in order, without gaps; no two neighbours are of one kind.

        :raise Failure: as `read_into`
        """
        pending: Extent | None = None
        for extent in self._described():
            if pending is not None and pending.kind is extent.kind:
                length = pending.length_bytes + extent.length_bytes
                pending = Extent(pending.offset_bytes, length, extent.kind)
                continue
            if pending is not None:
                yield pending
            pending = extent
        if pending is not None:
            yield pending

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset_bytes`; the range lies inside the disk.

        :raise StorageFailure: storage.io-error, storage.scratch-full (the snapshot broke),
            storage.slow (no answer in time), storage.nbd-protocol
        :raise VmFailure: vm.gone when the connection ended
        """
        try:
            self._connection.read(offset_bytes, buffer, unit_bytes=self._read_unit_bytes)
        except NbdError as error:
            raise self._failure(error, "read", offset_bytes, len(buffer)) from error
        self._answered = offset_bytes

    def close(self) -> None:
        """End the connection; reads under way in other threads fail. Idempotent."""
        for connection in (self._connection, *self._maps):
            connection.close()

    def _described(self) -> Iterator[Extent]:
        position = 0
        while position < self.size_bytes:
            length = min(STATUS_RANGE_BYTES, self.size_bytes - position)
            try:
                status = self._connection.block_status(position, length)
                # In their order: what the live disk lost since the point, the scratch holds by
                # the time that it is asked.
                maps = [each.block_status(position, length) for each in self._maps]
            except NbdError as error:
                raise self._failure(error, "block status", position, length) from error
            self._answered = position
            for extent in self._kinds(position, status, maps or [status]):
                yield extent
                position = extent.end_bytes

    def _kinds(
        self, position: int, status: dict[str, Runs], maps: list[dict[str, Runs]]
    ) -> Iterator[Extent]:
        """Allocation ∩ dirty from `position` on, as far as all are told, cut at the disk's end.

        A server without `base:allocation` leaves everything DATA.
        """
        everything: Runs = [(self.size_bytes - position, 0)]
        dirty = status[self._dirty] if self._dirty else [(1 << 64, wire.STATUS_DIRTY)]
        allocations = [each.get(wire.BASE_ALLOCATION, everything) for each in maps]
        for length, (dirty_flags, *flags) in _overlaid([dirty, *allocations]):
            length = min(length, self.size_bytes - position)
            if not length:
                return
            if not dirty_flags & wire.STATUS_DIRTY:
                kind = ExtentKind.CLEAN
            elif all(each & wire.STATUS_ZERO for each in flags):
                kind = ExtentKind.ZERO
            else:
                kind = ExtentKind.DATA
            yield Extent(position, length, kind)
            position += length

    def _failure(self, error: NbdError, what: str, offset: int, length: int) -> Failure:
        asked = f"{what} of {length} bytes at {offset}"
        if not isinstance(error, RefusedError):
            return _connection_failure(error, self._where, asked)
        evidence = [Evidence(f"{asked} was refused", self._where, raw=str(error))]
        if error.errno == EINVAL:
            # A broken snapshot and a read outside its range both say EINVAL. A broken one refuses
            # also what it answered before.
            before = self._answered if self._answered is not None else offset
            refusal = self._probe(before)
            if refusal is not None:
                evidence.append(
                    Evidence(
                        f"{PROBE_BYTES} bytes at {before}, "
                        + ("answered before, are" if before == self._answered else "are also")
                        + " refused now",
                        self._where,
                        raw=str(refusal),
                    )
                )
                return StorageFailure(
                    "storage.scratch-full",
                    "The snapshot broke while it was read: its scratch space is full.",
                    evidence=evidence,
                    retryable=True,
                )
            evidence.append(Evidence(f"{PROBE_BYTES} bytes at {before} are read well", self._where))
        return StorageFailure(
            "storage.io-error",
            f"The hypervisor could not read the disk at byte {offset}.",
            evidence=evidence,
        )

    def _probe(self, offset: int) -> NbdError | None:
        buffer = memoryview(bytearray(min(PROBE_BYTES, self.size_bytes - offset)))
        try:
            self._connection.read(offset, buffer)
        except NbdError as error:
            return error
        return None


class NbdTarget:
    """A writable disk over NBD. Thread-safe for ranges that do not overlap.

    :raise RestoreFailure: restore.no-space, restore.write-failed
    """

    def __init__(self, socket: Path, export: str = "") -> None:
        self._where = f"NBD export {export!r} at {socket}"
        try:
            self._connection = Connection.open(
                socket,
                export,
                silence_seconds=SILENCE_SECONDS,
                handshake_seconds=HANDSHAKE_SECONDS,
            )
        except NbdError as error:
            raise _writing_failure(error, self._where, "connecting") from error

    @property
    def size_bytes(self) -> int:
        return self._connection.export.size_bytes

    def write(self, offset_bytes: int, data: memoryview) -> None:
        self._run(
            f"write of {len(data)} bytes at {offset_bytes}",
            lambda: self._connection.write(offset_bytes, data),
        )

    def write_zeroes(self, offset_bytes: int, length_bytes: int) -> None:
        self._run(
            f"zeroing of {length_bytes} bytes at {offset_bytes}",
            lambda: self._connection.write_zeroes(offset_bytes, length_bytes),
        )

    def flush(self) -> None:
        """Everything written so far is on stable storage when this returns."""
        self._run("flush", self._connection.flush)

    def close(self) -> None:
        self._connection.close()

    def _run(self, what: str, call: Callable[[], None]) -> None:
        try:
            call()
        except NbdError as error:
            raise _writing_failure(error, self._where, what) from error


def _overlaid(maps: list[Runs]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Runs of the length for which no map changes its flags, with each map's flags, until the
    shortest map ends."""
    rest = [iter(runs) for runs in maps]
    left = [0] * len(maps)
    flags = [0] * len(maps)
    while True:
        for i, runs in enumerate(rest):
            if not left[i]:
                left[i], flags[i] = next(runs, (0, 0))
        length = min(left)
        if not length:
            return
        yield length, tuple(flags)
        left = [each - length for each in left]


def _writing_failure(error: NbdError, where: str, what: str) -> RestoreFailure:
    evidence = [Evidence(f"{what} failed", where, raw=str(error))]
    if isinstance(error, RefusedError) and error.errno == ENOSPC:
        return RestoreFailure(
            "restore.no-space", "The target's file system is full.", evidence=evidence
        )
    return RestoreFailure(
        "restore.write-failed", "The restored disk could not be written.", evidence=evidence
    )


def _opening_failure(error: NbdError, where: str) -> Failure:
    if isinstance(error, UnknownExportError):
        return SnapshotFailure(
            "snapshot.gone",
            "The hypervisor no longer exports the snapshot.",
            evidence=[Evidence("the export is unknown to the server", where, raw=str(error))],
            retryable=True,
        )
    if isinstance(error, ServerSilentError):
        return VmFailure(
            "vm.unreachable",
            "The VM's process does not answer at the snapshot's socket.",
            evidence=[Evidence("no answer to the NBD handshake in time", where, raw=str(error))],
            retryable=True,
        )
    return _connection_failure(error, where, "connecting")


def _connection_failure(error: NbdError, where: str, asked: str) -> Failure:
    evidence = [Evidence(f"{asked} was not answered", where, raw=str(error))]
    if isinstance(error, ConnectionLostError):
        return VmFailure(
            "vm.gone",
            "The connection to the VM's disk ended: its process is gone or closed the snapshot.",
            evidence=evidence,
            retryable=True,
        )
    if isinstance(error, ServerSilentError):
        return StorageFailure(
            "storage.slow",
            "The VM's disk gave no answer in time.",
            evidence=evidence,
            retryable=True,
        )
    return StorageFailure(
        "storage.nbd-protocol",
        "What listens at the snapshot's socket does not answer as an NBD server must.",
        evidence=evidence,
    )
