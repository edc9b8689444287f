"""The folder of one task on the hypervisor host: its record, its scratch files, its sockets.

    <scratch folder>/<task>/          0700, owned by the user that runs QEMU
        session.json                  the record, replaced atomically (layout: `_as_json`)
        scratch<i>.qcow2              blocks that the guest overwrote since the instant, disk <i>
        nbd.sock                      QEMU's NBD server (live session)
        nbd<i>.sock, nbd<i>.pid       one qemu-nbd per disk (offline session)

The record only spares a later process from asking what an earlier one decided. What QEMU holds is
asked of QEMU, so a lost folder loses no clean-up.
"""

from __future__ import annotations

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
            for path in (self.path, *self.path.iterdir()):
                os.chown(path, uid, -1)

    def write(self, record: Record) -> None:
        """:raise StorageFailure: storage.scratch-unusable"""
        with self._usable():
            fresh = self.path / "session.json.new"
            fresh.write_text(_as_json(record), encoding="utf-8")
            fresh.replace(self.path / "session.json")

    def read(self) -> Record | None:
        """The record; None when there is none, or none that this version understands."""
        try:
            return _from_json((self.path / "session.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError):
            return None
        except OSError as inner:
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
