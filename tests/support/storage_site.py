"""A storage endpoint on the loopback, with a client that trusts its authority."""

from __future__ import annotations

import contextlib
import random
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import httpx

from quiesce.model.door import Door
from quiesce.model.extent import Extent, ExtentKind
from quiesce.storage.endpoint import StorageEndpoint

TAKEN_AT = datetime(2026, 11, 22, 23, 1, 2, 123456, tzinfo=UTC)
TAKEN_TEXT = "2026-11-22T23:01:02.1234560Z"
MIB = 1024 * 1024


class PaperDisk:
    """A disk of an open snapshot in memory, of 64 KiB blocks: data, zeros, unchanged data."""

    BLOCK = 64 * 1024

    def __init__(self, kinds: Sequence[ExtentKind], *, seed: int = 1) -> None:
        noise = random.Random(seed)
        self.kinds = list(kinds)
        self.content = b"".join(
            bytes(self.BLOCK) if kind is ExtentKind.ZERO else noise.randbytes(self.BLOCK)
            for kind in kinds
        )
        self.closed = False
        self.failure: Exception | None = None
        self.before_read: Callable[[], None] = lambda: None

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    def extents(self) -> Iterator[Extent]:
        for number, kind in enumerate(self.kinds):
            yield Extent(number * self.BLOCK, self.BLOCK, kind)

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        self.before_read()
        if self.failure is not None:
            raise self.failure
        assert not self.closed
        buffer[:] = self.content[offset_bytes : offset_bytes + len(buffer)]

    def close(self) -> None:
        self.closed = True


class Takes:
    """What the endpoint is given to call: counts its calls, and can be made to wait or to fail."""

    def __init__(self) -> None:
        self.calls = 0
        self.began = threading.Event()
        self.may_end = threading.Event()
        self.may_end.set()
        self.failure: BaseException | None = None

    def __call__(self) -> datetime:
        self.calls += 1
        self.began.set()
        assert self.may_end.wait(20)
        if self.failure is not None:
            raise self.failure
        return TAKEN_AT


class Site:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.endpoint = StorageEndpoint(folder, address="127.0.0.1", port=0, host="localhost")
        self.endpoint.start()
        self.takes = Takes()
        self.reports: list[bytes] = []
        self.client = httpx.Client(verify=self.trusting(), timeout=20)

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.endpoint.endpoint.ca_pem)

    def open(
        self, attempt: str = "attempt-1", *, vm: str = "web", disks: Sequence[str] = ("vda", "vdb")
    ) -> Door:
        return self.endpoint.open(vm, attempt, disks, take=self.takes, reported=self.reports.append)

    def put(self, url: str, comp: str = "", content: bytes = b"", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        target = f"{url}&comp={comp}" if comp else url
        return self.client.put(target, content=content, headers=named)

    def upload(self, url: str, content: bytes, **headers: str) -> httpx.Response:
        return self.put(url, content=content, x_ms_blob_type="BlockBlob", **headers)

    def take(self, door: Door, disk: str = "vda") -> httpx.Response:
        return self.put(door.snapshot_urls[disk], "snapshot")

    def published(self, kinds: Sequence[ExtentKind], **publish: datetime) -> tuple[PaperDisk, str]:
        """A disk of a point that was taken, and the URL that reads it."""
        door = self.open(disks=["vda"])
        assert self.take(door).status_code == 201
        disk = PaperDisk(kinds)
        self.endpoint.publish("attempt-1", {"vda": disk}, **publish)
        return disk, self.endpoint.read_url("attempt-1", "vda")

    def close(self) -> None:
        self.client.close()
        self.endpoint.close()


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Site]:
    site = Site(folder)
    try:
        yield site
    finally:
        site.takes.may_end.set()
        site.close()


def refusal_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal, after checking that it has the form of Azure's."""
    assert answer.headers["content-type"].startswith("application/xml"), answer.text
    error = ElementTree.fromstring(answer.content)
    assert error.tag == "Error"
    code = error.findtext("Code")
    assert code == answer.headers["x-ms-error-code"]
    assert answer.headers["x-ms-request-id"] in (error.findtext("Message") or "")
    return answer.status_code, code or ""


def message_of(answer: httpx.Response) -> str:
    return ElementTree.fromstring(answer.content).findtext("Message") or ""


def detail_of(answer: httpx.Response) -> str:
    found = ElementTree.fromstring(answer.content).findtext("AuthenticationErrorDetail")
    return found or ""
