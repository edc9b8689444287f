"""Processes that use one vault, and go on call by call, in an order that a test decides.

A `Host` is a process: it has a vault open, and a clock of its own. An `Actor` is one thread of it
that does something with that vault. It stands still before every call to the store until it is
let go on, so that any two calls of any two actors can be put in any order, and a run can be had
again. A host that is killed never makes another call.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any
from unittest import mock

from faulty_store import Call, Fault, FaultyStore, Killed
from vault_scene import KEY, FakeClock, Scene

from quiesce.model.failure import Failure
from quiesce.vault import Vault
from quiesce.vault.stores.store import Store

_STUCK_SECONDS = 120
_current = threading.local()


class HereAndNow(ThreadPoolExecutor):
    """Runs what it is given in the thread that gives it: an actor has one course."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **named))
        except BaseException as error:  # noqa: BLE001 - handed over, as by the real one
            future.set_exception(error)
        return future


@contextmanager
def one_thread_each() -> Iterator[None]:
    with ExitStack() as stack:
        for name, module in sorted(sys.modules.items()):
            if name.startswith("quiesce.vault.") and hasattr(module, "ThreadPoolExecutor"):
                stack.enter_context(mock.patch.object(module, "ThreadPoolExecutor", HereAndNow))
        yield


class Actor:
    """One piece of work under way. `result` or `failure` is its end; neither when it was killed.

    :ivar error: what it died of that is neither a `Failure` nor death itself: a defect"""

    def __init__(self, host: Host, name: str, work: Callable[[Scene], object]) -> None:
        self.host = host
        self.name = name
        self.result: object = None
        self.failure: Failure | None = None
        self.error: BaseException | None = None
        self.done = False
        self.calls = 0
        self.at: Call | None = None
        """The call that it stands before, or has made last."""
        self._work = work
        self._allowed = 0
        self._still = False
        self._turn = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self._wait_until_still()

    def __str__(self) -> str:
        return f"{self.name} on {self.host.name}"

    def go(self, calls: int) -> None:
        """Let it make so many calls; returns when it has, when it has ended, or when it waits for
        another actor of its host."""
        with self._turn:
            self._allowed = calls
            self._still = False
            self._turn.notify_all()
        self._wait_until_still()

    def finish(self) -> None:
        """Let it come to its end, unless it waits for another actor."""
        self.go(1 << 30)

    def release(self) -> None:
        """Of a dead host: let the thread find that out."""
        self.finish()
        self._thread.join(_STUCK_SECONDS)

    def stand_still(self, *, counts: bool) -> None:
        """Called by its own thread."""
        with self._turn:
            while self._allowed <= 0 and not self.host.store.dead:
                self._park()
            if counts:
                self._allowed -= 1
                self.calls += 1

    def wait_for_another(self) -> None:
        with self._turn:
            self._allowed = 0
            if not self.host.store.dead:
                self._park()
        if self.host.store.dead:
            raise Killed

    def _park(self) -> None:
        self._still = True
        self._turn.notify_all()
        self._turn.wait_for(lambda: not self._still)

    def _wait_until_still(self) -> None:
        with self._turn:
            if not self._turn.wait_for(lambda: self._still or self.done, _STUCK_SECONDS):
                raise AssertionError(f"{self} is stuck")

    def _run(self) -> None:
        _current.actor = self
        try:
            self.stand_still(counts=False)
            self.result = self._work(self.host.scene)
        except Killed:
            pass
        except Failure as failure:
            self.failure = failure
        except BaseException as error:  # noqa: BLE001 - shown by who asks
            self.error = error
        with self._turn:
            self.done = True
            self._turn.notify_all()


class _ParkingLock:
    """A lock of a vault that an actor waits for standing still."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        actor: Actor | None = getattr(_current, "actor", None)
        while not self._lock.acquire(blocking=actor is None):
            assert actor is not None
            actor.wait_for_another()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._lock.release()


class Host:
    """A process with the vault open. Its clock is wrong by `wrong_by_minutes`."""

    def __init__(self, name: str, store: Store, clock: FakeClock) -> None:
        self.name = name
        self.wrong_by_minutes = 0.0
        self.actors: list[Actor] = []
        self._below = store
        self._true_clock = clock
        self.boot()

    def boot(self) -> None:
        """Start anew: whatever it was doing is dead, and it knows nothing."""
        self.store = FaultyStore(self._below, pass_time=self._pass_time)
        # The clock is read through the host, so that it can jump under way.
        clock = _HostClock(self, self._true_clock)
        self.scene = Scene(Vault.open(self.store, KEY, clock=clock), clock)
        self.scene.vault.contents._refreshing = _ParkingLock()  # type: ignore[assignment]
        self.scene.vault.contents._saving = _ParkingLock()  # type: ignore[assignment]
        self.next_fault: Fault | None = None
        self.store.before = self._before
        self.store.faults = self._take_fault

    def begin(self, name: str, work: Callable[[Scene], object]) -> Actor:
        actor = Actor(self, name, work)
        self.actors.append(actor)
        return actor

    def kill(self) -> None:
        """The process dies where all of its actors stand, and is started again."""
        self.store.kill()
        actors, self.actors = self.actors, []
        for actor in actors:
            actor.release()
        self.boot()

    def _before(self, call: Call) -> None:
        actor: Actor | None = getattr(_current, "actor", None)
        if actor is not None:
            actor.at = call
            actor.stand_still(counts=True)

    def _take_fault(self, call: Call) -> Fault | None:
        fault, self.next_fault = self.next_fault, None
        return fault

    def _pass_time(self, seconds: float) -> None:
        self._true_clock.advance(seconds=seconds)


class _HostClock(FakeClock):
    def __init__(self, host: Host, true: FakeClock) -> None:
        self._host = host
        self._true = true

    @property
    def now(self) -> Any:  # type: ignore[override]
        return self._true.seen_by(minutes=self._host.wrong_by_minutes)()

    @now.setter
    def now(self, value: Any) -> None:
        raise AssertionError("a host's clock is moved with the true one")

    def advance(self, **kind: float) -> None:
        self._true.advance(**kind)
