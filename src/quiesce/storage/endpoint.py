"""The storage endpoint: what guests send their snapshot command and their reports to.

It speaks the part of Azure's Blob REST protocol that snapshot clients use, over HTTPS with a
certificate of its own authority, and lets in nobody but by service SAS. One container per VM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from quiesce.model.door import Door, Endpoint
from quiesce.model.failure import Evidence, StorageFailure
from quiesce.storage.attempt import Attempt, Withdrawn
from quiesce.storage.authority import Authority
from quiesce.storage.blob import BlobType, Cell
from quiesce.storage.blob_service import BlobService
from quiesce.storage.containers import Containers
from quiesce.storage.journal import Seen
from quiesce.storage.listener import Listener
from quiesce.storage.naming import ACCOUNT, STATUS_BLOB, container_of, log_blob, report_blob
from quiesce.storage.ports import SnapshotDisk
from quiesce.storage.sas import sas_query

_DOOR_LIFE = timedelta(days=1)
_STATUS_LIFE = timedelta(hours=48)
_STATUS_URL_STAYS = timedelta(hours=12)
_READ_LIFE = timedelta(days=2)
_THREADS = 8


class StorageEndpoint:
    """Thread-safe. Fulfils `Doors` of the Azure Linux agent's room."""

    def __init__(self, folder: Path, *, address: str, port: int, host: str) -> None:
        """`folder` is the endpoint's own: keys and status blobs, made when missing. It listens on
        `address` (an IP address); `host` is the name or address that guests are told. `port` 0
        takes any free one.

        :raise StorageFailure: storage.endpoint-keys-unusable
        """
        self._folder = folder
        self._address = address
        self._host = host
        self._wanted_port = port
        self._authority = Authority(folder, _names(host, address))
        try:
            self._containers = Containers(folder / "status")
        except OSError as unusable:
            raise _folder_unusable(folder, unusable) from unusable
        self._listener: Listener | None = None
        self._workers: tuple[ThreadPoolExecutor, ...] = ()

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Listen; requests are answered from now on.

        :raise StorageFailure: storage.endpoint-bind-failed
        """
        if self._listener is not None:
            return
        writers = ThreadPoolExecutor(_THREADS, "storage-blobs")
        readers = ThreadPoolExecutor(_THREADS, "storage-reads")
        service = BlobService(
            self._containers, self._authority.account_key, writers=writers, readers=readers
        )
        listener = Listener(service, self._authority, self._address, self._wanted_port)
        listener.start()
        self._listener, self._workers = listener, (writers, readers)

    def close(self, attempt: str | None = None) -> None:
        """Withdraw the attempt: from the return on its `take` is not called any more, not even by
        a request that is being served, and its disks are closed. Waits for what runs; not to be
        called from within `take`. Without an attempt: withdraw all and end the endpoint itself.
        Idempotent."""
        if attempt is not None:
            self._containers.close(attempt)
            return
        self._containers.close_all()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for workers in self._workers:
            workers.shutdown()
        self._workers = ()

    @property
    def endpoint(self) -> Endpoint:
        port = self._wanted_port if self._listener is None else self._listener.port
        host = f"[{self._host}]" if ":" in self._host else self._host
        return Endpoint(url=f"https://{host}:{port}", ca_pem=self._authority.ca_pem)

    # ------------------------------------------------------------------ doors

    def open(
        self,
        vm: str,
        attempt: str,
        disks: Sequence[str],
        *,
        take: Callable[[], datetime],
        reported: Callable[[bytes], None],
    ) -> Door:
        """Let the guest of `vm` take one point of these disks.

        `take` is called at most once, from a thread of its own; every PUT of any of the disks gets
        its outcome. `reported` gets each content of the report blob (at most 128 KiB), one after
        the other, before its writer is answered. The URLs hold for a day.

        :raise StorageFailure: storage.door-taken
        """
        opened = self._containers.open(vm, attempt, disks, take=take, reported=reported)
        until = datetime.now(UTC) + _DOOR_LIFE
        return Door(
            snapshot_urls={
                disk: self._url(vm, blob, permissions="c", until=until)
                for blob, disk in opened.disks.items()
            },
            report_url=self._url(vm, report_blob(attempt), permissions="rw", until=until),
            log_url=self._url(vm, log_blob(attempt), permissions="rw", until=until),
        )

    def log_of(self, attempt: str) -> bytes | None:
        """What was last written to the attempt's log blob; None when nothing was, or it ended."""
        opened = self._containers.attempt(attempt)
        if opened is None or not opened.log.load().written:
            return None
        return opened.log.load().content

    # ------------------------------------------------------------------ status

    def status_url(self, vm: str) -> str:
        """Where the agent of `vm` uploads its status: the same for twelve hours, valid for at
        least 36.

        :raise StorageFailure: storage.endpoint-keys-unusable
        """
        try:
            self._containers.status(vm)
        except OSError as unusable:
            raise _folder_unusable(self._folder, unusable) from unusable
        period = _STATUS_URL_STAYS.total_seconds()
        since = datetime.fromtimestamp(datetime.now(UTC).timestamp() // period * period, UTC)
        return self._url(vm, STATUS_BLOB, permissions="rw", until=since + _STATUS_LIFE)

    def status_of(self, vm: str) -> tuple[bytes, datetime] | None:
        """What was last written there and when (UTC), None when nothing was."""
        container = self._containers.find(container_of(vm))
        cell = container.blobs.get(STATUS_BLOB) if container is not None else None
        if not isinstance(cell, Cell):
            return None
        blob = cell.load()
        content = blob.content.rstrip(b"\0") if blob.kind is BlobType.PAGE else blob.content
        return (content, blob.modified_at) if blob.written else None

    def forget(self, vm: str) -> None:
        """Remove all that is kept of this VM; its attempts are withdrawn."""
        self._containers.forget(vm)

    # ------------------------------------------------------------------ reads

    def publish(
        self,
        attempt: str,
        disks: Mapping[str, SnapshotDisk],
        *,
        previous: datetime | None = None,
    ) -> None:
        """Let the attempt's snapshot be read until the attempt is closed. The disks are the
        endpoint's from now on and closed by it. `previous` is the point that CLEAN extents have
        not changed since.

        :raise StorageFailure: storage.door-closed
        """
        try:
            self._taken(attempt).publish(disks, previous=previous)
        except Withdrawn as gone:
            raise _door_closed(attempt) from gone

    def read_url(self, attempt: str, disk: str) -> str:
        """A URL that reads this disk of the attempt's snapshot, for two days at most.

        :raise StorageFailure: storage.door-closed
        """
        opened = self._taken(attempt)
        blob = next((blob for blob, name in opened.disks.items() if name == disk), None)
        if blob is None:
            raise _door_closed(attempt)
        until = datetime.now(UTC) + _READ_LIFE
        return self._url(opened.vm, blob, permissions="r", until=until, snapshot=opened.snapshot)

    # ------------------------------------------------------------------ evidence

    def recent(self, vm: str) -> tuple[Seen, ...]:
        """The last requests for this VM's container, oldest first; lost with a restart."""
        container = self._containers.find(container_of(vm))
        return container.journal.recent() if container is not None else ()

    def _taken(self, attempt: str) -> Attempt:
        opened = self._containers.attempt(attempt)
        if opened is None or opened.taken_at is None:
            raise _door_closed(attempt)
        return opened

    def _url(
        self, vm: str, blob: str, *, permissions: str, until: datetime, snapshot: str = ""
    ) -> str:
        container = container_of(vm)
        query = sas_query(
            self._authority.account_key,
            container,
            blob,
            permissions=permissions,
            expires_at=until,
            snapshot=snapshot,
        )
        return f"{self.endpoint.url}/{ACCOUNT}/{container}/{quote(blob)}?{query}"


def _names(host: str, address: str) -> tuple[str, ...]:
    """What the certificate is to name: never an address that stands for all addresses."""
    unspecified = address in ("0.0.0.0", "::")
    return tuple(dict.fromkeys([host] if unspecified else [host, address]))


def _door_closed(attempt: str) -> StorageFailure:
    return StorageFailure(
        "storage.door-closed",
        f"The attempt {attempt} has no snapshot at the storage endpoint.",
        evidence=[Evidence("not taken, no such disk, or withdrawn", "storage endpoint")],
    )


def _folder_unusable(folder: Path, error: OSError) -> StorageFailure:
    return StorageFailure(
        "storage.endpoint-keys-unusable",
        f"The folder of the storage endpoint, {folder}, cannot be used: {error.strerror}.",
        evidence=[Evidence("not usable", str(error.filename or folder), raw=str(error))],
        remedy="Make it writable for the server's user, and free space there.",
    )
