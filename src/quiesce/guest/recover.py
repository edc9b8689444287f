"""After a lost session: thaw, post-script, clean up. The same code for `recover`, `uninstall` and
the next session's start."""

import contextlib
import json
import os
import select
import signal
import time
from typing import Any, Dict, List, Optional, Tuple

from . import scripts
from .detach import detach, leave_control_group
from .failure import Fact, Failure
from .folder import Folder, Lock
from .freeze import Thawer, open_mount
from .ledger import By, Ledger, Thaw
from .log import Log
from .mounts import Mount, printable, read_mounts

_PATIENCE_SECONDS = 15.0
_POLL_SECONDS = 0.05


def recover(folder: Folder, log: Log, patience_seconds: Optional[float] = None) -> Dict[str, Any]:
    """End the session whatever its state, and remove its files. Idempotent.

    :raise Failure: session.active when its post-script is still running after 15 s, or, begun
        here, after `patience_seconds`; None is as long as it takes. It is left to its end: ask
        again. freeze.failed when a mount that is owed does not thaw
    """
    if not folder.exists():
        return {"task": folder.task, "found": False, "state": None, "thawed": [], "post": None}
    _end_living(folder)
    state = folder.read_state() or {}
    thawed = _thaw_owed(folder, state)
    warnings = []
    if scripts.end_running(folder.pre_script):
        warnings.append("The pre-script was still running; it was ended before the post-script.")
    post, problem = _post_script(folder, state, patience_seconds)
    if problem:
        warnings.append(problem)
    folder.remove()
    log.say("recovered from {}; thawed {}; {}".format(state.get("state"), thawed, warnings))
    log.flush()
    return {
        "task": folder.task,
        "found": True,
        "state": state.get("state"),
        "thawed": thawed,
        "post": post,
        "warnings": warnings,
    }


def _end_living(folder: Folder) -> None:
    """Ask the session to end; one that does not listen is killed, and its watchdog thaws, runs
    the post-script and goes. A watchdog that does not go is killed in turn."""
    if folder.holder(folder.session):
        _say_abort(folder)
        _await_end(folder, folder.session)
    _await_end(folder, folder.watchdog)


def _await_end(folder: Folder, lock: str) -> None:
    if _ended(folder, lock):
        return
    finishing = (folder.read_state() or {}).get("state") == "finishing"
    if finishing or os.path.exists(folder.post_mark):
        raise _busy(folder, "its post-script is still running")
    pid = folder.holder(lock)
    if pid:
        os.kill(pid, signal.SIGKILL)
    if not _ended(folder, lock):
        raise _busy(folder, "process {} cannot be ended; its disk does not answer".format(pid))


def _ended(folder: Folder, lock: str) -> bool:
    until = time.monotonic() + _PATIENCE_SECONDS
    while folder.holder(lock):
        if time.monotonic() >= until:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _say_abort(folder: Folder) -> None:
    try:
        control = os.open(folder.control, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return  # it is gone already, or about to be
    try:
        os.write(control, b"abort\n")
    finally:
        os.close(control)


def _busy(folder: Folder, why: str) -> Failure:
    return Failure(
        "session.active",
        "The session {} cannot be ended yet: {}.".format(folder.task, why),
        [Fact(why, folder.path)],
        retryable=True,
    )


def _thaw_owed(folder: Folder, state: Dict[str, Any]) -> List[str]:
    """Session and watchdog are both dead: the ledger says what they left frozen."""
    planned = [one for one in state.get("mounts", []) if one.get("action") == "freeze"]
    if not os.path.exists(folder.ledger):
        return []
    ledger = Ledger(folder.ledger, Ledger.count_in(folder.ledger))
    owed = ledger.owed()
    if not owed:
        return []
    mounts = read_mounts()
    fds = []
    for one in planned[: ledger.count]:
        mount = _find(one, mounts)
        fds.append(open_mount(mount) if mount is not None else -1)
    left = Thawer(fds, ledger).thaw(By.WATCHDOG, freezer_gone=True)
    gone = [index for index in left if fds[index] < 0]
    for fd in fds:
        if fd >= 0:
            os.close(fd)
    if set(left) - set(gone):
        points = ", ".join(planned[index]["mount"] for index in left)
        raise Failure(
            "freeze.failed",
            "The file systems at {} could not be thawed.".format(points),
            [Fact("FITHAW errno {}".format(ledger.thaw_error(left[0])), "guest")],
            "fsfreeze --unfreeze '{}'".format(planned[left[0]]["mount"]),
            retryable=True,
        )
    return [planned[index]["mount"] for index in owed if ledger.thaw(index) is Thaw.DONE]


def _find(planned: Dict[str, Any], mounts: List[Mount]) -> Optional[Mount]:
    same = [one for one in mounts if one.device == planned["number"]]
    by_name = [one for one in same if printable(one.point) == planned["mount"]]
    found = by_name or same
    return found[-1] if found else None


def _post_script(
    folder: Folder, state: Dict[str, Any], patience_seconds: Optional[float]
) -> Tuple[Optional[Dict[str, Any]], str]:
    """The script's run and what went wrong with it, by a process of its own: the agent ends
    commands that take long, and a post-script that was begun is never begun again.

    :raise Failure: session.active
    """
    if not state.get("scripts", {}).get("configured") or os.path.exists(folder.post_mark):
        return None, ""
    try:
        post = scripts.read_config().post
    except Failure as failure:
        return None, "{} [{}]".format(failure.message, failure.code)
    if post is None:
        return None, ""
    lock = Lock(folder.session)  # whoever recovers meanwhile sees that somebody lives
    if not lock.take():
        lock.release()
        raise _busy(folder, "somebody else is ending it")
    lock.hold_for(os.getpid())
    reader, writer = os.pipe()
    if detach():
        code = 70  # EX_SOFTWARE; nobody waits for it
        try:
            _close_all_but(lock.fd, writer)  # the locks of who recovers are not this process's
            lock.hold_for(os.getpid())
            leave_control_group()
            if folder.claim_post_script():
                os.write(writer, _ran(post, folder.task))
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    lock.release()
    try:
        answer = _read_to_end(reader, patience_seconds)
    finally:
        os.close(reader)
    if answer is None:
        raise _busy(folder, "its post-script is still running")
    if not answer:
        return None, "The post-script's process ended before the script did."
    said = json.loads(answer.decode("ascii"))
    return said["run"], said["problem"]


def _close_all_but(*kept: int) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            with contextlib.suppress(OSError):  # the one that this list was read with
                os.close(int(name))


def _ran(post: scripts.Script, task: str) -> bytes:
    log = Log(task)
    ran, failure = scripts.run(post, "post")
    log.say("post-script {} ended with {}".format(ran.path, ran.exit_code))
    log.flush()
    problem = "{} [{}]".format(failure.message, failure.code) if failure else ""
    return json.dumps({"run": ran._asdict(), "problem": problem}).encode("ascii")


def _read_to_end(pipe: int, patience_seconds: Optional[float]) -> Optional[bytes]:
    """None when nothing came within the patience."""
    found = b""
    while select.select([pipe], [], [], patience_seconds)[0]:
        chunk = os.read(pipe, 65536)
        if not chunk:
            return found
        found += chunk
    return None
