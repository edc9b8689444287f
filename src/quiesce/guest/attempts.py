"""Which attempt runs in this guest: one at a time, told by a lock that its driver's death releases.

    /run/quiesce/driver      locked by the driver: {"pid", "started", "attempt", "status_file",
                             "older": [[attempt, status file]…]}; what it says outlives the driver

So an attempt whose driver was killed is found and ended like one that runs, and so are older ones
that its driver had taken over and not ended yet.

That an attempt was *begun* is told by its status file, which outlives a reboot: a guest that was
reset in the middle must not answer for the point that it took in its former life.
"""

import json
import os
import signal
import time
from typing import List, NamedTuple, Optional, Tuple

from .failure import Fact, Failure
from .folder import (
    RUN_FOLDER,
    TASK,
    Folder,
    Lock,
    already_active,
    make_run_folder,
    start_time,
)
from .log import Log
from .recover import recover
from .report import ENDED, StatusFile

LOCK_PATH = os.path.join(RUN_FOLDER, "driver")
_DEATH_SECONDS = 10.0
_GLANCE_SECONDS = 0.5
_POLL_SECONDS = 0.02


class Note(NamedTuple):
    """A driver, its attempt, the status file that it reports to, and the attempts (each with its
    status file) that it has to end before its own."""

    pid: int
    started: str
    attempt: str
    status_file: str
    older: Tuple[Tuple[str, str], ...] = ()


class Left(NamedTuple):
    """An attempt without a driver whose session or status does not say the end yet."""

    attempt: str
    status_file: str
    why: Failure


def claim(attempt: str, status_file: str) -> Optional[Lock]:
    """Be the driver of this guest until this process ends; one that lives is killed, and what it
    leaves is for `end_older`. None when the attempt has a driver already.

    :raise Failure: session.folder-unsafe; session.active when the other driver does not die
    """
    make_run_folder()
    living = running()
    if living is not None:
        if living.attempt == attempt:
            return None
        _kill(living)
    lock = Lock(LOCK_PATH)
    until = time.monotonic() + _GLANCE_SECONDS
    while not lock.take():  # `running` holds it for an instant, to see whether anybody does
        if time.monotonic() >= until:
            lock.release()
            raise already_active()
        time.sleep(_POLL_SECONDS)
    left = _left_by(_parse(lock.read()), living is not None)
    older = tuple((one.attempt, one.status_file) for one in left if one.attempt != attempt)
    pid = os.getpid()
    _write(lock, Note(pid, start_time(pid), attempt, status_file, older))
    return lock


def end_older(lock: Lock, log: Log, patience_seconds: float) -> None:
    """End what the drivers before this one left. :raise Failure: as `close`"""
    mine = _parse(lock.read())
    if mine is None or not mine.older:
        return
    older = [one for one in _left_by(mine, True) if one.attempt != mine.attempt]
    close(older, log, patience_seconds)
    _write(lock, mine._replace(older=()))


def running() -> Optional[Note]:
    """The driver that lives, if any."""
    if not os.path.exists(LOCK_PATH):
        return None
    until = time.monotonic() + _GLANCE_SECONDS
    while True:
        lock = Lock(LOCK_PATH)
        try:
            if lock.take():
                return None
            found = _parse(lock.read())
        finally:
            lock.release()
        # One that has just taken the lock has not said yet who it is.
        if found is not None and start_time(found.pid) == found.started:
            return found
        if time.monotonic() >= until:
            return None
        time.sleep(_POLL_SECONDS)


def noted() -> Optional[Note]:
    """The driver that was the last since the guest was started, whether it lives or not."""
    if not os.path.exists(LOCK_PATH):
        return None
    lock = Lock(LOCK_PATH)
    try:
        return _parse(lock.read())
    finally:
        lock.release()


def stop() -> List[Left]:
    """Kill the driver that lives, if any; what is left to be closed, by it or by a dead one.

    The driver is killed, not asked: whatever it was doing, its session can be ended without it.
    :raise Failure: session.active when it does not die
    """
    living = running()
    if living is not None:
        _kill(living)
    return _left_by(living or noted(), living is not None)


def end(log: Log, patience_seconds: float) -> None:
    """End the attempt that runs, or whose driver has died, and its session: thaw, post-script,
    clean up, and say so in its status file. Nothing to do when all have ended.

    :raise Failure: as `stop` and `close`
    """
    close(stop(), log, patience_seconds)


def close(left: List[Left], log: Log, patience_seconds: float) -> None:
    """End the session of each, and let its status say how the attempt ended.

    :raise Failure: session.active when a post-script is still running after `patience_seconds`,
        and whatever else `recover` raises
    """
    if not left:
        return
    until = time.monotonic() + patience_seconds
    for one in left:
        while TASK.fullmatch(one.attempt):
            try:
                recover(Folder(one.attempt), log, max(0.0, until - time.monotonic()))
                break
            except Failure as failure:
                if failure.code != "session.active" or time.monotonic() >= until:
                    raise
        _say_how_it_ended(one, log)
    log.flush()


def _say_how_it_ended(left: Left, log: Log) -> None:
    status = StatusFile(left.status_file)
    report = status.read()
    if report is None or report.attempt != left.attempt or report.stage in ENDED:
        return
    report.fail(left.why)
    try:
        status.write(report)
    except OSError as error:  # the package may be removed already
        log.say("{}: {}".format(status.path, error))


def _left_by(note: Optional[Note], killed: bool) -> List[Left]:
    """The note's own attempt first: an older one has been superseded by it."""
    if note is None:
        return []
    why = superseded(note.attempt) if killed else driver_lost(note.attempt)
    left = [Left(note.attempt, note.status_file, why)]
    left += [Left(attempt, path, superseded(attempt)) for attempt, path in note.older]
    return [one for one in left if _is_open(one)]


def _is_open(left: Left) -> bool:
    if TASK.fullmatch(left.attempt) and Folder(left.attempt).exists():
        return True
    report = StatusFile(left.status_file).read()
    return report is not None and report.attempt == left.attempt and report.stage not in ENDED


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


def _kill(victim: Note) -> None:
    """With its group: the command that begins the session may just be starting.

    :raise Failure: session.active when it does not die
    """
    until = time.monotonic() + _DEATH_SECONDS
    while True:
        living = running()
        if living is None or (living.pid, living.started) != (victim.pid, victim.started):
            return
        try:
            if os.getpgid(victim.pid) == victim.pid:
                os.killpg(victim.pid, signal.SIGKILL)
            else:
                os.kill(victim.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has died; its lock goes with it
        if time.monotonic() >= until:
            raise already_active()
        time.sleep(_POLL_SECONDS)


def _parse(text: bytes) -> Optional[Note]:
    try:
        found = json.loads(text.decode("ascii"))
        older = tuple((str(attempt), str(path)) for attempt, path in found["older"])
        own = str(found["attempt"]), str(found["status_file"])
        return Note(int(found["pid"]), str(found["started"]), own[0], own[1], older)
    except (ValueError, LookupError, TypeError):
        return None  # nothing yet, or just being written


def _write(lock: Lock, note: Note) -> None:
    lock.write(json.dumps(note._asdict()).encode("ascii"))
