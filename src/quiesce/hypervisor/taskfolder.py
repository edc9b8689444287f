"""The folder of one task on the hypervisor host: its record, its scratch files, its sockets.

    <scratch folder>/<task>/          0700, owned by the user that runs QEMU
        session.json                  the record, ours, replaced atomically (`_as_json`)
        scratch<i>.qcow2              blocks that the guest overwrote since the instant, disk <i>
        nbd.sock                      QEMU's NBD server (live session)
        nbd<i>.sock, nbd<i>.pid       one qemu-nbd per disk (offline session)

The record only spares a later process from asking what an earlier one decided. What QEMU holds is
asked of QEMU, so a lost folder loses no clean-up.

Once the folder is given to QEMU's user, whatever lies in it may be that user's making, links
included. So nothing of it is followed, and a record that is not ours is none.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from quiesce.model.failure import Evidence, InputFailure, StorageFailure
from quiesce.model.snapshot import Route

_RECORD = "session.json"
_RECORD_VERSION = 1
_SOCKET_PATH_LIMIT = 107
"""Bytes in sockaddr_un.sun_path on Linux, without the closing NUL (unix(7))."""


@dataclass(frozen=True, slots=True)
class RecordedDisk:
    """`node` and `device` are QEMU's, for a live session; `path` is the image, for an offline
    one. `generation` is empty when no bitmap is begun."""

    name: str
    size_bytes: int
    format: str
    node: str = ""
    device: str = ""
    path: str = ""
    base: str = ""
    full_read_reason: str = ""
    generation: str = ""
    persistent: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """What was decided in `prepare`, and the instant (UTC) once it was taken."""

    vm: str
    task_id: str
    route: Route
    disks: tuple[RecordedDisk, ...]
    taken_at: datetime | None = None


class TaskFolder:
    """Paths and record of one task. Nothing is made before `create`."""

    def __init__(self, scratch_folder: Path, task_id: str) -> None:
        self.path = scratch_folder / task_id

    @property
    def nbd_socket(self) -> Path:
        return self.path / "nbd.sock"

    def scratch_file(self, disk: int) -> Path:
        return self.path / f"scratch{disk}.qcow2"

    def disk_socket(self, disk: int) -> Path:
        return self.path / f"nbd{disk}.sock"

    def disk_pid_file(self, disk: int) -> Path:
        return self.path / f"nbd{disk}.pid"

    def create(self) -> None:
        """:raise InputFailure: storage.scratch-path-too-long
        :raise StorageFailure: storage.scratch-unusable"""
        longest = len(os.fsencode(self.disk_socket(9999)))
        if longest > _SOCKET_PATH_LIMIT:
            raise InputFailure(
                "storage.scratch-path-too-long",
                f"The scratch folder's path is {longest - _SOCKET_PATH_LIMIT} bytes too long for "
                "the sockets that lie in it.",
                evidence=[Evidence("scratch folder", str(self.path.parent))],
                remedy="Set a scratch folder with a shorter path.",
            )
        with self._usable():
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def give_to(self, uid: int) -> None:
        """Let QEMU's user in: it opens the scratch files and makes the socket. Only root can
        give, and only needs to when QEMU runs as somebody else."""
        if os.geteuid() != 0 or uid == 0:
            return
        with self._usable():
            for path in self.path.iterdir():
                if path.name != _RECORD:
                    os.chown(path, uid, -1, follow_symlinks=False)
            os.chown(self.path, uid, -1)

    def write(self, record: Record) -> None:
        """:raise StorageFailure: storage.scratch-unusable"""
        with self._usable():
            fresh = self.path / f"{_RECORD}.new"
            fresh.unlink(missing_ok=True)
            made = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(made, "w", encoding="utf-8") as file:
                file.write(_as_json(record))
            fresh.replace(self.path / _RECORD)

    def read(self) -> Record | None:
        """The record; None when there is none, or none that is ours and that this version
        understands."""
        try:
            # Not to wait for a writer either: somebody may have put a FIFO there.
            found = os.open(self.path / _RECORD, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if os.fstat(found).st_uid != os.geteuid():
                    return None
                with open(found, encoding="utf-8", closefd=False) as file:
                    return _from_json(file.read())
            finally:
                os.close(found)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError):
            return None
        except OSError as inner:
            if inner.errno == errno.ELOOP:  # a link, which we never make
                return None
            raise self._unusable(inner) from inner

    def remove(self) -> None:
        """Idempotent. :raise StorageFailure: storage.scratch-unusable"""
        with self._usable():
            if self.path.exists():
                shutil.rmtree(self.path)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as inner:
            raise self._unusable(inner) from inner

    def _unusable(self, inner: OSError) -> StorageFailure:
        return StorageFailure(
            "storage.scratch-unusable",
            f"The scratch folder {self.path.parent} cannot be used: {inner.strerror or inner}.",
            evidence=[Evidence("scratch folder refused", str(self.path), raw=str(inner))],
            remedy="Check that the folder exists, is writable for Quiesce and has free space.",
        )


def free_bytes(folder: Path) -> int:
    """Free space for the file system that holds `folder` (which exists)."""
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize


def _as_json(record: Record) -> str:
    """`{"version": 1, "vm", "task_id", "route", "taken_at": ISO 8601 | null, "disks": [fields of
    RecordedDisk]}`"""
    return json.dumps(
        {
            "version": _RECORD_VERSION,
            "vm": record.vm,
            "task_id": record.task_id,
            "route": record.route.value,
            "taken_at": record.taken_at.isoformat() if record.taken_at else None,
            "disks": [asdict(disk) for disk in record.disks],
        },
        indent=1,
    )


def _from_json(text: str) -> Record:
    """:raise ValueError, KeyError, TypeError: not a record of this version"""
    data = json.loads(text)
    if data["version"] != _RECORD_VERSION:
        raise ValueError(f"record version {data['version']}")
    taken_at = data["taken_at"]
    return Record(
        vm=data["vm"],
        task_id=data["task_id"],
        route=Route(data["route"]),
        disks=tuple(RecordedDisk(**disk) for disk in data["disks"]),
        taken_at=datetime.fromisoformat(taken_at) if taken_at else None,
    )
