"""Status blobs: one per VM, where its agent uploads what it knows; kept across restarts.

`status/<container>.blob` is one line of JSON and then the blob's content:

    {"vm": …, "kind": …, "metadata": {…}, "content_type": …, "written": …, "modified_at": …,
     "etag": …}

Written whole or not at all, and not synced: the agent says it all again some minutes later.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import structlog

from quiesce.storage.blob import Blob, BlobType, Cell
from quiesce.storage.files import write_whole
from quiesce.storage.naming import container_of

log = structlog.get_logger(__name__)

STATUS_LIMIT_BYTES = 4 * 1024 * 1024
_HEAD_LIMIT_BYTES = 64 * 1024


class StatusCell(Cell):
    """One VM's status blob, in its file. An unreadable file reads as an empty blob."""

    def __init__(self, folder: Path, vm: str) -> None:
        super().__init__(STATUS_LIMIT_BYTES)
        self._vm = vm
        self._file = folder / f"{container_of(vm)}.blob"
        self._empty = Blob()

    def load(self) -> Blob:
        try:
            head, content = self._file.read_bytes().split(b"\n", 1)
            return _blob(json.loads(head), content)
        except FileNotFoundError:
            return self._empty
        except (OSError, ValueError, KeyError, TypeError) as unreadable:
            log.warning("status blob unreadable", file=str(self._file), error=str(unreadable))
            return self._empty

    def create(self) -> None:
        """Make the file, so that the VM is known after a restart.

        :raise OSError:
        """
        if not self._file.exists():
            self._store(self._empty)

    def remove(self) -> None:
        self._file.unlink(missing_ok=True)

    def _store(self, blob: Blob) -> None:
        head = {
            "vm": self._vm,
            "kind": blob.kind,
            "metadata": dict(blob.metadata),
            "content_type": blob.content_type,
            "written": blob.written,
            "modified_at": blob.modified_at.isoformat(),
            "etag": blob.etag,
        }
        write_whole(self._file, json.dumps(head).encode() + b"\n" + blob.content, durable=False)


def known_vms(folder: Path) -> Iterator[str]:
    """The VMs that have a status blob in this folder."""
    for file in folder.glob("*.blob"):
        try:
            with file.open("rb") as opened:
                vm = json.loads(opened.readline(_HEAD_LIMIT_BYTES))["vm"]
        except (OSError, ValueError, KeyError, TypeError) as unreadable:
            log.warning("status blob unreadable", file=str(file), error=str(unreadable))
            continue
        if isinstance(vm, str) and file.name == f"{container_of(vm)}.blob":
            yield vm


def _blob(head: dict[str, object], content: bytes) -> Blob:
    metadata = head["metadata"]
    if not isinstance(metadata, dict):
        raise TypeError("metadata is no object")
    return Blob(
        content=content,
        kind=BlobType(str(head["kind"])),
        metadata={str(name): str(value) for name, value in metadata.items()},
        content_type=str(head["content_type"]),
        written=head["written"] is True,
        modified_at=datetime.fromisoformat(str(head["modified_at"])),
        etag=str(head["etag"]),
    )
