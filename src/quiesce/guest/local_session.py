"""The session as its driver in the same guest sees it: state.json, the control FIFO, the ledger.

All three lie in memory, so that looking and speaking work while every disk is frozen.
"""

import json
import os
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List, Optional

from .failure import Fact, Failure
from .folder import Folder
from .ledger import Ledger

PROGRAM = os.path.dirname(os.path.abspath(__file__))
"""The package: a zip or a folder, either of which Python runs."""
_BEGIN_SECONDS = 120.0
"""Ending what a dead session left, its post-script included, comes before a new one begins."""
_FIRST_POLL_SECONDS, _FROZEN_POLL_SECONDS, _LAST_POLL_SECONDS = 0.002, 0.005, 0.05
_OVER = ("done", "failed")


class LocalSession:
    def __init__(self, task: str) -> None:
        self._folder = Folder(task)
        self._control: Optional[int] = None
        self._ledger: Optional[Ledger] = None

    def begin(self, hold: float, wait: float, skip: List[str]) -> None:
        """Returns when the session lives. :raise Failure: session.* and what `session` says"""
        command = [sys.executable, "-I", "-B", PROGRAM, "session", "--task", self._folder.task]
        command += ["--hold={:g}".format(hold), "--wait={:g}".format(wait)]
        command += ["--skip=" + one for one in skip]
        try:
            ran = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                timeout=_BEGIN_SECONDS,
            )
            answer = json.loads(ran.stdout.decode("utf-8", "replace"))
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            raise _lost("the session could not be started", str(error)) from error
        said = answer.get("failure")
        if said is not None:
            facts = [Fact(**one) for one in said["evidence"]]
            raise Failure(said["code"], said["message"], facts, said["remedy"], said["retryable"])

    def state(self) -> Dict[str, Any]:
        """:raise Failure: session.lost"""
        found = self._folder.read_state()
        if found is None:
            raise _lost("it has no state any more", self._folder.state)
        return found

    def wait(self, until: float, reached: Callable[[str], bool]) -> Dict[str, Any]:
        """The first state for which `reached` holds, or in which the session is over.

        :raise Failure: session.lost at `until`, or when nobody is left to end the session
        """
        pause = _FIRST_POLL_SECONDS
        while True:
            # Looked at before the state: one who ends in between has written its last word.
            lives = self._lives()
            found = self.state()
            if reached(found["state"]) or found["state"] in _OVER:
                return found
            if not lives:
                raise _lost("its processes are gone", "state {}".format(found["state"]))
            if time.monotonic() >= until:
                raise _lost("it does not go on", "state {}".format(found["state"]))
            time.sleep(pause)
            frozen = found["state"] in ("freezing", "frozen")  # writers wait for what is seen here
            pause = min(pause * 1.1, _FROZEN_POLL_SECONDS if frozen else _LAST_POLL_SECONDS)

    def _lives(self) -> bool:
        """The watchdog's lock is not touched while the session lives, which takes it once."""
        folder = self._folder
        return bool(folder.holder(folder.session) or folder.holder(folder.watchdog))

    def open_control(self) -> None:
        """Before the freeze, so that the thaw is one write. :raise Failure: session.lost"""
        try:
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
            self._control = os.open(self._folder.control, flags)
            self._ledger = Ledger(self._folder.ledger, Ledger.count_in(self._folder.ledger))
        except (OSError, ValueError) as error:
            raise _lost("it takes no orders", str(error)) from error

    def say(self, word: str) -> None:
        """:raise Failure: session.lost"""
        if self._control is None:
            self.open_control()
        assert self._control is not None
        try:
            os.write(self._control, word.encode("ascii") + b"\n")
        except OSError as error:
            raise _lost("it takes no orders", str(error)) from error

    @property
    def thaw_deadline(self) -> float:
        """When the watchdog thaws (monotonic seconds)."""
        assert self._ledger is not None
        return self._ledger.deadline


def _lost(why: str, raw: str) -> Failure:
    return Failure(
        "session.lost",
        "The session in the guest was lost: {}.".format(why),
        [Fact(why, "driver", raw)],
        "Look for what killed it: journalctl -k (out of memory), journalctl -b.",
        retryable=True,
    )
