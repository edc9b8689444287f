"""What a look at a vault may cost, and what it has cost: seconds, bytes read, requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from quiesce.vault.stores.files import Buffer
from quiesce.vault.stores.in_front import InFront
from quiesce.vault.stores.store import ObjectInfo, Put, Store

LISTED_AT_ONCE = 1000
"""Objects that one request of an object store lists: S3, Azure Blob and GCS give at most 1000
(Azure 5000)."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits; None is none. They end the reading of stored data: no pack is begun that would exceed
    one, nor a batch of parts of maps, but a few batches (128 parts each) are under way at once. The
    lists and records that every look begins with are counted, and always read."""

    seconds: float | None = None
    bytes: int | None = None
    requests: int | None = None


UNLIMITED = Budget()


class Meter:
    """What has been spent of a budget. Thread-safe."""

    def __init__(self, budget: Budget, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._budget = budget
        self._monotonic = monotonic
        self._began = monotonic()
        self._lock = threading.Lock()
        self.bytes = 0
        self.requests = 0

    def spend(self, requests: int, size_bytes: int = 0) -> None:
        with self._lock:
            self.requests += requests
            self.bytes += size_bytes

    @property
    def seconds(self) -> float:
        return self._monotonic() - self._began

    def reserve(self, requests: int, size_bytes: int) -> str:
        """Spend it ahead, unless a limit refuses: then which, and nothing is spent."""
        refused = self.refuses(requests, size_bytes)
        if not refused:
            self.spend(requests, size_bytes)
        return refused

    def never_reads(self, size_bytes: int) -> bool:
        """Whether no run with this budget could read so much at once."""
        return self._budget.bytes is not None and size_bytes > self._budget.bytes

    def refuses(self, requests: int = 0, size_bytes: int = 0) -> str:
        """Which limit a step of this cost would exceed: "time", "bytes", "requests", or ""."""
        budget = self._budget
        if budget.seconds is not None and self.seconds >= budget.seconds:
            return "time"
        if budget.bytes is not None and self.bytes + size_bytes > budget.bytes:
            return "bytes"
        if budget.requests is not None and self.requests + requests > budget.requests:
            return "requests"
        return ""


class MeteredStore(InFront):
    """Counts what is asked and read, by a meter."""

    def __init__(self, origin: Store, meter: Meter) -> None:
        super().__init__(origin)
        self._meter = meter

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        self._meter.spend(1)
        data = super().get(key, limit_bytes=limit_bytes)
        self._meter.spend(0, len(data))
        return data

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        self._meter.spend(1)
        data = super().get_range(key, offset, length)
        self._meter.spend(0, len(data))
        return data

    def stat(self, key: str) -> ObjectInfo:
        self._meter.spend(1)
        return super().stat(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._meter.spend(1)
        for number, info in enumerate(super().list(prefix)):
            if number and number % LISTED_AT_ONCE == 0:
                self._meter.spend(1)
            yield info

    def put(self, key: str, data: Buffer) -> Put:
        self._meter.spend(1)
        return super().put(key, data)

    def delete(self, key: str) -> None:
        self._meter.spend(1)
        super().delete(key)
