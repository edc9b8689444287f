"""The process that thaws whatever happens.

Forked by the session with everything imported and every mount open; locks its memory; never
reads or writes a disk, needs no network. It alone thaws, so "who thawed" has one answer; only
when it is dead does the session thaw in its place.

    session → watchdog   F  arm: the hold begins now     T A S  thaw, by request, abort, signal
                         B  the session ends by itself
    watchdog → session   R  ready (and why its memory is not locked)   F  armed
                         T  thawed as asked   D  thawed at the deadline   S  thawed on a signal

End of file means that every thread of the session is gone, so that no freeze call can be under
way any more: what is thawed then stays thawed.
"""

import os
import select
import signal
import socket
import time
from typing import Callable, NamedTuple, Optional, Sequence

from .failure import Fact, Failure
from .freeze import Thawer
from .ledger import By, Ledger
from .libc import lock_memory

ARM, THAW, ABORT, SIGNAL, BYE = b"F", b"T", b"A", b"S", b"B"
READY, ARMED, THAWED, DEADLINE, SIGNALLED = b"R", b"F", b"T", b"D", b"S"
_ASKED_BY = {THAW: By.REQUEST, ABORT: By.ABORT, SIGNAL: By.SIGNAL}
_RETRY_SECONDS = 0.05
_EARLY_SECONDS = 0.1
"""How much before the hold's end it wakes, at most a tenth of it: waking up and the thaw calls take
milliseconds of their own, and the hold is what writers are promised."""


class Link(NamedTuple):
    """The session's end: its socket and the watchdog's process id."""

    socket: socket.socket
    pid: int


def start(
    fds: Sequence[int],
    ledger: Ledger,
    hold_seconds: float,
    keep_fds: Sequence[int],
    orphaned: Callable[[], None],
) -> Link:
    """Fork the watchdog. It is not ready until it has sent READY.

    `keep_fds` are closed in the watchdog (locks that must die with the session). `orphaned` is
    called in the watchdog, everything thawed, when the session has died before its end.
    """
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid:
        its.close()
        return Link(mine, pid)
    code = 70
    try:
        mine.close()
        for fd in keep_fds:
            os.close(fd)
        _Watchdog(its, fds, ledger, hold_seconds, orphaned).run()
        code = 0
    finally:
        os._exit(code)


class _Watchdog:
    def __init__(
        self,
        link: socket.socket,
        fds: Sequence[int],
        ledger: Ledger,
        hold_seconds: float,
        orphaned: Callable[[], None],
    ) -> None:
        self._link = link
        self._ledger = ledger
        self._hold_seconds = hold_seconds
        self._orphaned = orphaned
        self._wake, wake = socket.socketpair()
        for end in (self._wake, wake):
            end.setblocking(False)
        signal.set_wakeup_fd(wake.fileno())
        self._keep = wake
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _note)
        os.setsid()
        set_oom_score(-1000)
        self._thawer = Thawer(fds, ledger)
        self._unlocked = lock_memory()
        self._leaving = False

    def run(self) -> None:
        self._tell(READY + self._unlocked.encode("utf-8", "replace"))
        while True:
            word = self._next()
            if word == b"":
                return self._outlive_session()
            if word == ARM:
                early = min(_EARLY_SECONDS, self._hold_seconds / 10)
                self._ledger.arm(time.monotonic() + self._hold_seconds - early)
                self._tell(ARMED)
            elif word in _ASKED_BY:
                self._thawer.thaw(_ASKED_BY[word])
                self._tell(THAWED)
            elif word == BYE:
                self._leaving = True
            self._look_around()
            if self._leaving and not self._ledger.owed():
                return None

    def _look_around(self) -> None:
        closed_by = self._ledger.closed_by
        if self._signalled():
            self._thawer.thaw(By.SIGNAL)
            self._tell(SIGNALLED)
            self._leaving = True
        elif closed_by is By.NOBODY and 0 < self._ledger.deadline <= time.monotonic():
            self._thawer.thaw(By.WATCHDOG)
            self._tell(DEADLINE)
        elif closed_by is not By.NOBODY and self._ledger.owed():
            self._thawer.thaw(closed_by)  # a freeze that succeeded late, or a thaw that failed

    def _outlive_session(self) -> None:
        while self._thawer.thaw(By.WATCHDOG, freezer_gone=True):
            time.sleep(_RETRY_SECONDS)
        if not self._leaving:
            self._orphaned()

    def _next(self) -> Optional[bytes]:
        """The session's next word, b"" at its death, None when it is time to look around."""
        ready, _, _ = select.select([self._link, self._wake], [], [], self._pause())
        if self._link not in ready:
            return None
        try:
            return self._link.recv(16)
        except ConnectionError:
            return b""

    def _pause(self) -> Optional[float]:
        if self._ledger.closed_by is not By.NOBODY:
            return _RETRY_SECONDS if self._ledger.owed() else 1.0
        if self._ledger.deadline:
            return max(0.0, self._ledger.deadline - time.monotonic())
        return None

    def _signalled(self) -> bool:
        try:
            return bool(self._wake.recv(64))
        except BlockingIOError:
            return False

    def _tell(self, word: bytes) -> None:
        try:
            self._link.send(word, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        except OSError:
            return  # the session is gone or stopped; thawing does not depend on it


def lost(raw: str) -> Failure:
    """The session cannot reach its watchdog."""
    return Failure(
        "freeze.watchdog-lost",
        "The watchdog that guarantees the thaw died, so nothing is kept frozen.",
        [Fact("the watchdog process does not answer", "session", raw)],
        "Look for what killed it (journalctl -k, journalctl -b), then back up again.",
        retryable=True,
    )


def _note(number: int, frame: object) -> None:
    """The signal is seen through the wake-up socket; only its default must not happen."""


def set_oom_score(score: int) -> None:
    """How much the kernel's out-of-memory killer likes this process; -1000 is never."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(score))
    except OSError:
        return  # in a container it may be forbidden; the watchdog works all the same
