"""What a session waits for: the host's words, the watchdog's, the freezer's end, a signal."""

import enum
import os
import select
import signal
import socket
import time
from typing import Any, List, NamedTuple, Optional

_LONGEST_LINE_BYTES = 4096
COMMANDS = ("freeze", "thaw", "finish", "abort")


class Kind(enum.Enum):
    CONTROL = "control"
    WATCHDOG = "watchdog"
    FREEZER = "freezer"
    SIGNAL = "signal"
    TIMEOUT = "timeout"


class Event(NamedTuple):
    kind: Kind
    word: str = ""


class Events:
    """Waits on everything at once. Made in the session before it has any thread."""

    def __init__(self, control_path: str) -> None:
        # Opened for writing too, so that a host closing its end is not an end of file here.
        self._control = os.open(control_path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._text = b""
        self._lines: List[str] = []
        self._freezer, self._freezer_done = socket.socketpair()
        self._signals, wake = socket.socketpair()
        self._signals.setblocking(False)
        wake.setblocking(False)
        self._wake = wake
        self._watchdog: Optional[socket.socket] = None
        signal.set_wakeup_fd(wake.fileno())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _note)

    def listen_to(self, link: socket.socket) -> None:
        self._watchdog = link

    def freezer_done(self) -> None:
        """Called on the freezer's thread."""
        self._freezer_done.send(b".")

    def next(self, until: float) -> Event:
        """The next event, or TIMEOUT at `until` (monotonic seconds). The watchdog's death is its
        empty word, told once."""
        while not self._lines:
            sources: List[Any] = [self._control, self._freezer, self._signals]
            if self._watchdog is not None:
                sources.append(self._watchdog)
            pause = max(0.0, until - time.monotonic())
            ready = select.select(sources, [], [], pause)[0]
            if self._signals in ready:
                self._signals.recv(64)
                return Event(Kind.SIGNAL)
            if self._watchdog in ready:
                return Event(Kind.WATCHDOG, self._hear_watchdog())
            if self._freezer in ready:
                self._freezer.recv(1)
                return Event(Kind.FREEZER)
            if self._control in ready:
                self._read_control()
            elif not ready:
                return Event(Kind.TIMEOUT)
        return Event(Kind.CONTROL, self._lines.pop(0))

    def hear(self, word: str, until: float) -> Optional[str]:
        """Wait for what the watchdog answers, beginning with `word`; None when it does not.
        What the others say meanwhile stays for `next`."""
        while self._watchdog is not None:
            pause = max(0.0, until - time.monotonic())
            if not select.select([self._watchdog], [], [], pause)[0]:
                return None
            heard = self._hear_watchdog()
            if heard.startswith(word):
                return heard
        return None

    def _hear_watchdog(self) -> str:
        assert self._watchdog is not None
        try:
            word = self._watchdog.recv(512)
        except ConnectionError:
            word = b""
        if not word:
            self._watchdog = None
        return word.decode("utf-8", "replace")

    def _read_control(self) -> None:
        """Whole lines only: a word may arrive in pieces. Unknown words are passed over."""
        self._text += os.read(self._control, _LONGEST_LINE_BYTES)
        *lines, rest = self._text.split(b"\n")
        self._text = rest[-_LONGEST_LINE_BYTES:]
        words = [line.strip().decode("ascii", "replace") for line in lines]
        self._lines += [word for word in words if word in COMMANDS]


def _note(number: int, frame: object) -> None:
    """The signal is seen through the wake-up socket; only its default must not happen."""
