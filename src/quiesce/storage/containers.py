"""Which container is whose, and what lies in it: nothing else can be reached by a URL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from quiesce.model.failure import Evidence, StorageFailure
from quiesce.storage import refusal
from quiesce.storage.attempt import Attempt
from quiesce.storage.blob import Cell
from quiesce.storage.journal import Journal
from quiesce.storage.naming import STATUS_BLOB, container_of
from quiesce.storage.status import StatusCell, known_vms


@dataclass(frozen=True, slots=True)
class DiskBlob:
    """A disk of an attempt, as a blob."""

    attempt: Attempt
    disk: str


@dataclass(frozen=True, slots=True)
class Container:
    """One VM's."""

    vm: str
    blobs: dict[str, Cell | DiskBlob]
    journal: Journal = field(default_factory=Journal)


class Containers:
    """Thread-safe."""

    def __init__(self, folder: Path) -> None:
        """`folder` keeps the status blobs; those in it are there at once.

        :raise OSError:
        """
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._folder = folder
        self._lock = threading.Lock()
        self._containers: dict[str, Container] = {}
        self._attempts: dict[str, Attempt] = {}
        for vm in known_vms(folder):
            self.status(vm)

    def find(self, name: str) -> Container | None:
        return self._containers.get(name)

    def blob(self, container: str, name: str) -> Cell | DiskBlob:
        """:raise Refusal: ContainerNotFound, BlobNotFound"""
        found = self.find(container)
        if found is None:
            raise refusal.container_not_found()
        blob = found.blobs.get(name)
        if blob is None:
            raise refusal.blob_not_found()
        return blob

    def status(self, vm: str) -> StatusCell:
        """The VM's status blob, made empty if it is missing.

        :raise OSError: it cannot be written
        """
        with self._lock:
            blobs = self._of(vm).blobs
            cell = blobs.get(STATUS_BLOB)
            if not isinstance(cell, StatusCell):
                cell = StatusCell(self._folder, vm)
                cell.create()
                blobs[STATUS_BLOB] = cell
            return cell

    def open(
        self,
        vm: str,
        name: str,
        disks: Sequence[str],
        *,
        take: Callable[[], datetime],
        reported: Callable[[bytes], None],
    ) -> Attempt:
        """:raise StorageFailure: storage.door-taken"""
        attempt = Attempt(name, vm, disks, take=take, reported=reported)
        with self._lock:
            if name in self._attempts:
                raise StorageFailure(
                    "storage.door-taken",
                    f"The attempt {name} has been opened at the storage endpoint already.",
                    evidence=[Evidence(f"open for {self._attempts[name].vm}", "storage endpoint")],
                )
            self._attempts[name] = attempt
            blobs = self._of(vm).blobs
            blobs.update(attempt.cells)
            blobs.update({blob: DiskBlob(attempt, disk) for blob, disk in attempt.disks.items()})
        return attempt

    def attempt(self, name: str) -> Attempt | None:
        return self._attempts.get(name)

    def close(self, name: str) -> None:
        """Withdraw the attempt, and wait for what it still does. Idempotent."""
        with self._lock:
            attempt = self._attempts.get(name)
        if attempt is None:
            return
        attempt.close()
        with self._lock:
            self._attempts.pop(name, None)
            container = self.find(container_of(attempt.vm))
            if container is not None:
                for blob in (*attempt.cells, *attempt.disks):
                    container.blobs.pop(blob, None)

    def close_all(self) -> None:
        for name in list(self._attempts):
            self.close(name)

    def forget(self, vm: str) -> None:
        """Remove the VM's container with all that is in it."""
        with self._lock:
            container = self._containers.pop(container_of(vm), None)
        for blob in container.blobs.values() if container is not None else ():
            if isinstance(blob, DiskBlob):
                self.close(blob.attempt.name)
            elif isinstance(blob, StatusCell):
                blob.remove()

    def _of(self, vm: str) -> Container:
        return self._containers.setdefault(container_of(vm), Container(vm, {}))
