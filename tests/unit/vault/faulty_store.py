"""A store that fails on purpose, in front of a real one."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from quiesce.model.failure import Evidence, StorageFailure
from quiesce.vault.files import Buffer
from quiesce.vault.store import ObjectInfo, Put, Store


class Fault(Enum):
    BEFORE = "fails, nothing happened"
    AFTER = "happened in full, but the answer is lost"
    WRONG_BYTES = "a read answers with one bit turned"
    FULL = "storage.full"


class Killed(BaseException):
    """The process died here: no handler for ordinary errors sees it."""


@dataclass
class Rule:
    """The fault of the `at`-th call of `operation` whose key starts with `prefix`, counted from
    1; 0 means of every one."""

    operation: str
    fault: Fault
    prefix: str = ""
    at: int = 1
    seen: int = 0


class FaultyStore:
    """Counts all calls; `rules` decide which fail. `die_at` kills at the n-th changing call
    (put or delete), before or after its effect, and every call afterwards: a dead process does
    nothing more."""

    def __init__(self, inner: Store, *, latency_seconds: float = 0.0) -> None:
        self.inner = inner
        self.rules: list[Rule] = []
        self.calls: Counter[str] = Counter()
        self.puts: list[str] = []
        self.deletes: list[str] = []
        self.on_put: Callable[[str], None] = lambda key: None
        self.die_at: tuple[int, bool] | None = None
        self.dead = False
        self._changes = 0
        self._latency = latency_seconds
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        return self.inner.address

    @property
    def changes(self) -> int:
        return self._changes

    def _before(
        self, operation: str, key: str, *, changing: bool = False
    ) -> tuple[Fault | None, bool]:
        """The fault that this call still has to show, and whether death follows its effect."""
        if self._latency:
            time.sleep(self._latency)
        with self._lock:
            if self.dead:
                raise Killed
            self.calls[operation] += 1
            dies_after = False
            if changing:
                self._changes += 1
                if self.die_at is not None and self._changes == self.die_at[0]:
                    if not self.die_at[1]:
                        self.dead = True
                        raise Killed
                    dies_after = True
            for rule in self.rules:
                if rule.operation == operation and key.startswith(rule.prefix):
                    rule.seen += 1
                    if rule.at in (0, rule.seen):
                        if rule.fault is Fault.BEFORE:
                            raise _io_error(key)
                        if rule.fault is Fault.FULL:
                            raise StorageFailure("storage.full", f"No space for {key}.")
                        return rule.fault, dies_after
        return None, dies_after

    def _after(self, fault: Fault | None, key: str, dies: bool) -> None:
        if dies:
            self.dead = True
            raise Killed
        if fault is Fault.AFTER:
            raise _io_error(key)

    def put(self, key: str, data: Buffer) -> Put:
        fault, dies = self._before("put", key, changing=True)
        self.on_put(key)
        result = self.inner.put(key, data)
        with self._lock:
            self.puts.append(key)
        self._after(fault, key, dies)
        return result

    def delete(self, key: str) -> None:
        fault, dies = self._before("delete", key, changing=True)
        self.inner.delete(key)
        with self._lock:
            self.deletes.append(key)
        self._after(fault, key, dies)

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        fault, dies = self._before("get", key)
        data = self.inner.get(key, limit_bytes=limit_bytes)
        self._after(fault, key, dies)
        return _turned(data) if fault is Fault.WRONG_BYTES else data

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        fault, dies = self._before("get_range", key)
        data = self.inner.get_range(key, offset, length)
        self._after(fault, key, dies)
        return _turned(data) if fault is Fault.WRONG_BYTES else data

    def stat(self, key: str) -> ObjectInfo:
        self._before("stat", key)
        return self.inner.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._before("list", prefix)
        yield from self.inner.list(prefix)

    def free_bytes(self) -> int | None:
        return self.inner.free_bytes()

    def keep_reserve(self, size_bytes: int) -> None:
        self._before("keep_reserve", "")
        self.inner.keep_reserve(size_bytes)

    def give_back_reserve(self) -> None:
        self._before("give_back_reserve", "")
        self.inner.give_back_reserve()


def _turned(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def _io_error(key: str) -> StorageFailure:
    return StorageFailure(
        "storage.io-error",
        f"Could not reach {key}.",
        evidence=[Evidence("injected", key)],
        retryable=True,
    )
