"""A store that fails on purpose, in front of a real one, and writes down every call.

    store = FaultyStore(PaperStore())
    store.rules.append(Rule("put", Fault.AFTER, "packs/", at=2))     # by script
    store.faults = seeded(7, chance=0.05)                            # by a seed
    store.die_at = (3, True)                                         # by the number of a change

`store.log` holds every call, so that a sweep knows its points. What one actor does goes through one
FaultyStore; several of them share what lies below.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from vault_scene import turned

from quiesce.model.failure import Evidence, StorageFailure
from quiesce.vault.stores.files import Buffer
from quiesce.vault.stores.store import ObjectInfo, Put, Store


class Fault(Enum):
    BEFORE = "fails, nothing happened"
    AFTER = "happened in full, but the answer is lost"
    PARTIAL = "a put fails halfway: a piece lies in tmp/, as a local folder leaves it"
    TWICE = "a change is delivered twice, and the second answer arrives"
    ECHO = "a change is delivered once more just before the next call"
    LATE = "a change fails, and happens in full just before the next call"
    WRONG_BYTES = "a read answers with one bit turned"
    SHORT = "a read answers with half of the bytes"
    BAD_SECTOR = "this read of the object fails, and so does every later one: storage.io-error"
    TOO_LONG = "the same with storage.object-too-large"
    SLOW = "takes `slow_seconds` of the fake clock"
    THROTTLED = "storage.rate-limit, retryable; nothing happened"
    FULL = "storage.full, nothing happened"
    READ_ONLY = "storage.read-only, nothing happened"
    EXPIRED = "storage.auth-failed: credentials no longer hold; nothing happened"
    LOCKED = "storage.locked: a retention lock; nothing happened"
    KILLED_BEFORE = "the process dies, nothing happened"
    KILLED_PARTIAL = "the process dies within a put: a piece lies in tmp/"
    KILLED_AFTER = "the process dies when it has happened"


DEATHS = (Fault.KILLED_BEFORE, Fault.KILLED_PARTIAL, Fault.KILLED_AFTER)
CHANGING = ("put", "delete")

_REFUSALS = {
    Fault.BEFORE: ("storage.io-error", True),
    Fault.THROTTLED: ("storage.rate-limit", True),
    Fault.FULL: ("storage.full", False),
    Fault.READ_ONLY: ("storage.read-only", False),
    Fault.EXPIRED: ("storage.auth-failed", False),
    Fault.LOCKED: ("storage.locked", False),
}
_UNREADABLE = {
    Fault.BAD_SECTOR: ("storage.io-error", True),
    Fault.TOO_LONG: ("storage.object-too-large", False),
}


class Killed(BaseException):
    """The process died here: no handler for ordinary errors sees it."""


@dataclass(frozen=True)
class Call:
    """The `number`-th call of this store, from 1; `change` counts puts and deletes alone, and is 0
    for other calls."""

    number: int
    change: int
    operation: str
    key: str

    def __str__(self) -> str:
        return f"{self.operation} {self.key}"


@dataclass
class Rule:
    """The fault of the `at`-th call of `operation` whose key starts with `prefix`, counted from
    1; 0 means of every one. An empty operation means any."""

    operation: str
    fault: Fault
    prefix: str = ""
    at: int = 1
    seen: int = 0

    def fits(self, call: Call) -> bool:
        if self.operation not in ("", call.operation) or not call.key.startswith(self.prefix):
            return False
        self.seen += 1
        return self.at in (0, self.seen)


Faults = Callable[[Call], Fault | None]


def seeded(seed: int, *, chance: float, faults: tuple[Fault, ...] = ()) -> Faults:
    """Faults that come by chance, the same for the same seed and calls."""
    dice = random.Random(seed)
    kinds = faults or (Fault.BEFORE, Fault.AFTER, Fault.PARTIAL, Fault.TWICE, Fault.THROTTLED)
    return lambda call: dice.choice(kinds) if dice.random() < chance else None


class FaultyStore:
    """`rules`, then `faults`, decide which calls fail. `die_at` kills at the n-th change, before
    or after its effect. Once dead, every call dies: a dead process does nothing more.

    `before` is called ahead of every call, and may do anything: let others work meanwhile, move
    the clock, raise."""

    def __init__(
        self,
        inner: Store,
        *,
        latency_seconds: float = 0.0,
        pass_time: Callable[[float], None] = time.sleep,
        slow_seconds: float = 60.0,
    ) -> None:
        self.inner = inner
        self.rules: list[Rule] = []
        self.faults: Faults = lambda call: None
        self.before: Callable[[Call], None] = lambda call: None
        self.on_put: Callable[[str], None] = lambda key: None
        self.die_at: tuple[int, bool] | None = None
        self.dead = False
        self.log: list[Call] = []
        self.shown: Counter[Fault] = Counter()
        """Faults that were really shown to the caller."""
        self.calls: Counter[str] = Counter()
        self.puts: list[str] = []
        self.deletes: list[str] = []
        self._changes = 0
        self._latency = latency_seconds
        self._pass_time = pass_time
        self._slow_seconds = slow_seconds
        self._echo: Callable[[], object] | None = None
        self._unreadable: dict[str, Fault] = {}
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        return self.inner.address

    @property
    def uploads_at_once(self) -> int:
        return self.inner.uploads_at_once

    @property
    def changes(self) -> int:
        return self._changes

    def kill(self) -> None:
        """From now on the process that calls is dead."""
        self.dead = True

    def deliver(self) -> None:
        """What is delivered late arrives now."""
        with self._lock:
            echo, self._echo = self._echo, None
        if echo is not None:
            echo()

    def put(self, key: str, data: Buffer) -> Put:
        fault = self._begin("put", key)
        self.on_put(key)
        if fault in (Fault.PARTIAL, Fault.KILLED_PARTIAL):
            self.inner.put(f"tmp/{secrets.token_hex(16)}", memoryview(data)[: len(data) // 2])
            self._end(fault, key)
            raise _refused("storage.io-error", key, retryable=True)
        kept = bytes(data) if fault in (Fault.ECHO, Fault.LATE) else b""
        if fault is Fault.LATE:
            self._echo = lambda: self.inner.put(key, kept)
            raise _refused("storage.io-error", key, retryable=True)
        result = self.inner.put(key, data)
        with self._lock:
            self.puts.append(key)
        if fault is Fault.TWICE:
            result = self.inner.put(key, data)
        if fault is Fault.ECHO:
            self._echo = lambda: self.inner.put(key, kept)
        self._end(fault, key)
        return result

    def delete(self, key: str) -> None:
        fault = self._begin("delete", key)
        if fault in (Fault.PARTIAL, Fault.KILLED_PARTIAL):  # a deletion has no half
            self._end(Fault.KILLED_BEFORE if fault is Fault.KILLED_PARTIAL else None, key)
            raise _refused("storage.io-error", key, retryable=True)
        if fault is Fault.LATE:
            self._echo = lambda: self.inner.delete(key)
            raise _refused("storage.io-error", key, retryable=True)
        self.inner.delete(key)
        with self._lock:
            self._unreadable.pop(key, None)
            self.deletes.append(key)
        if fault is Fault.TWICE:
            self.inner.delete(key)
        if fault is Fault.ECHO:
            self._echo = lambda: self.inner.delete(key)
        self._end(fault, key)

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        fault = self._begin("get", key)
        self._refuse_unreadable(fault, key)
        data = self.inner.get(key, limit_bytes=limit_bytes)
        self._end(fault, key)
        return _spoilt(fault, data)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        fault = self._begin("get_range", key)
        self._refuse_unreadable(fault, key)
        data = self.inner.get_range(key, offset, length)
        self._end(fault, key)
        return _spoilt(fault, data)

    def stat(self, key: str) -> ObjectInfo:
        fault = self._begin("stat", key)
        info = self.inner.stat(key)
        self._end(fault, key)
        return info

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        fault = self._begin("list", prefix)
        yield from self.inner.list(prefix)
        self._end(fault, prefix)

    def free_bytes(self) -> int | None:
        return self.inner.free_bytes()

    def keep_reserve(self, size_bytes: int) -> None:
        self._end(self._begin("keep_reserve", ""), "")
        self.inner.keep_reserve(size_bytes)

    def give_back_reserve(self) -> None:
        self._end(self._begin("give_back_reserve", ""), "")
        self.inner.give_back_reserve()

    def _begin(self, operation: str, key: str) -> Fault | None:
        """The fault that this call still has to show; those without an effect are raised."""
        if self._latency:
            self._pass_time(self._latency)
        with self._lock:
            self._die_if(self.dead)
            self.calls[operation] += 1
            self._changes += operation in CHANGING
            change = self._changes if operation in CHANGING else 0
            call = Call(len(self.log) + 1, change, operation, key)
            self.log.append(call)
        self.before(call)
        with self._lock:
            self._die_if(self.dead)
            fault = self._fault_of(call)
            if fault is not None:
                self.shown[fault] += 1
        self.deliver()
        if fault is Fault.SLOW:
            self._pass_time(self._slow_seconds)
        self._die_if(fault is Fault.KILLED_BEFORE)
        if fault in _REFUSALS:
            code, retryable = _REFUSALS[fault]
            raise _refused(code, key, retryable=retryable)
        return fault

    def _refuse_unreadable(self, fault: Fault | None, key: str) -> None:
        if fault in _UNREADABLE:
            self._unreadable[key] = fault
        if key in self._unreadable:
            code, retryable = _UNREADABLE[self._unreadable[key]]
            raise _refused(code, key, retryable=retryable)

    def _fault_of(self, call: Call) -> Fault | None:
        if self.die_at is not None and call.change == self.die_at[0] and call.change:
            return Fault.KILLED_AFTER if self.die_at[1] else Fault.KILLED_BEFORE
        for rule in self.rules:
            if rule.fits(call):
                return rule.fault
        return self.faults(call)

    def _end(self, fault: Fault | None, key: str) -> None:
        self._die_if(fault in DEATHS)
        if fault is Fault.AFTER:
            raise _refused("storage.io-error", key, retryable=True)

    def _die_if(self, dies: bool) -> None:
        if dies:
            self.dead = True
            raise Killed


def _spoilt(fault: Fault | None, data: bytes) -> bytes:
    middle = len(data) // 2
    if fault is Fault.SHORT:
        return data[:middle]
    if fault is Fault.WRONG_BYTES and data:
        return turned(data, middle)
    return data


def _refused(code: str, key: str, *, retryable: bool) -> StorageFailure:
    return StorageFailure(
        code, f"Could not reach {key}.", evidence=[Evidence("injected", key)], retryable=retryable
    )
