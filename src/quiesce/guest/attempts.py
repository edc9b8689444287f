"""Which attempt runs in this guest: one at a time, told by a lock that its driver's death releases.

    /run/quiesce/driver      locked by the driver: {"pid", "attempt", "status_file"}

That an attempt was *begun* is told by its status file, which outlives a reboot: a guest that was
reset in the middle must not answer for the point that it took in its former life.
"""

import json
import os
import signal
import time
from typing import NamedTuple, Optional

from .failure import Fact, Failure
from .folder import RUN_FOLDER, TASK, Folder, Lock, make_run_folder
from .log import Log
from .recover import recover
from .report import ENDED, StatusFile

LOCK_PATH = os.path.join(RUN_FOLDER, "driver")
_DEATH_SECONDS = 10.0
_GLANCE_SECONDS = 0.5
_POLL_SECONDS = 0.02


class Running(NamedTuple):
    """The driver that lives, its attempt, and the status file that it reports to."""

    pid: int
    attempt: str
    status_file: str


def claim(attempt: str, status_file: str) -> Optional[Lock]:
    """Be the driver of this guest until this process ends; None when another one lives.

    :raise Failure: session.folder-unsafe
    """
    make_run_folder()
    lock = Lock(LOCK_PATH)
    until = time.monotonic() + _GLANCE_SECONDS
    while not lock.take():  # `running` holds it for an instant, to see whether anybody does
        if time.monotonic() >= until:
            lock.release()
            return None
        time.sleep(_POLL_SECONDS)
    os.ftruncate(lock.fd, 0)
    mine = Running(os.getpid(), attempt, status_file)
    os.write(lock.fd, json.dumps(mine._asdict()).encode("ascii"))
    return lock


def running() -> Optional[Running]:
    """The driver that lives, if any."""
    if not os.path.exists(LOCK_PATH):
        return None
    lock = Lock(LOCK_PATH)
    try:
        if lock.take():
            return None
        found = json.loads(os.read(lock.fd, 4096).decode("ascii") or "{}")
        return Running(int(found["pid"]), str(found["attempt"]), str(found["status_file"]))
    except (ValueError, KeyError):
        return None  # it has taken the lock and not yet said who it is
    finally:
        lock.release()


def end(log: Log, patience_seconds: float) -> None:
    """End the running attempt and its session: thaw, post-script, clean up, and say so in its
    status file. Nothing to do when none runs.

    The driver is killed, not asked: whatever it was doing, its session can be ended without it.
    :raise Failure: session.active when a post-script is still running after `patience_seconds`
    """
    found = running()
    if found is None:
        return
    _kill(found)
    status = StatusFile(found.status_file)
    close_books(status, log, patience_seconds, superseded(found.attempt))


def close_books(status: StatusFile, log: Log, patience_seconds: float, why: Failure) -> None:
    """Of an attempt whose driver is dead: end its session, and let its status say how it ended.

    :raise Failure: session.active, as above
    """
    report = status.read()
    if report is None:
        return
    until = time.monotonic() + patience_seconds
    while TASK.fullmatch(report.attempt):
        try:
            recover(Folder(report.attempt), log)
            break
        except Failure as failure:
            if failure.code != "session.active" or time.monotonic() >= until:
                raise
    if report.stage not in ENDED:
        report.fail(why)
        try:
            status.write(report)
        except OSError as error:  # the package may be removed already
            log.say("{}: {}".format(status.path, error))
    log.flush()


def superseded(attempt: str) -> Failure:
    return Failure(
        "job.superseded",
        "The attempt {} was ended, since the server asked for something else.".format(attempt),
        [Fact("ended before it had come to its own end", "the extension's handler")],
    )


def driver_lost(attempt: str) -> Failure:
    return Failure(
        "session.lost",
        "The extension's process in the guest ended before the attempt {} did.".format(attempt),
        [Fact("no driver runs for it any more", LOCK_PATH)],
        "See whether the guest was restarted, or what killed it: journalctl -k, journalctl -b.",
        retryable=True,
    )


def _kill(found: Running) -> None:
    """With its group: the command that begins the session may just be starting."""
    try:
        if os.getpgid(found.pid) == found.pid:
            os.killpg(found.pid, signal.SIGKILL)
        else:
            os.kill(found.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    until = time.monotonic() + _DEATH_SECONDS
    while running() == found and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
