"""After a lost session: thaw, post-script, clean up. The same code for `recover`, `uninstall` and
the next session's start."""

import os
import signal
import time
from typing import Any, Dict, List, Optional, Tuple

from . import scripts
from .failure import Fact, Failure
from .folder import Folder
from .freeze import Thawer, open_mount
from .ledger import By, Ledger, Thaw
from .log import Log
from .mounts import Mount, printable, read_mounts

_PATIENCE_SECONDS = 15.0
_POLL_SECONDS = 0.05


def recover(folder: Folder, log: Log) -> Dict[str, Any]:
    """End the session whatever its state, and remove its files. Idempotent.

    :raise Failure: session.active when its post-script is still running after 15 s (it is left
        to its end: ask again), freeze.failed when a mount that is owed does not thaw
    """
    if not folder.exists():
        return {"task": folder.task, "found": False, "state": None, "thawed": [], "post": None}
    _end_living(folder)
    state = folder.read_state() or {}
    thawed = _thaw_owed(folder, state)
    warnings = []
    if scripts.end_running(folder.pre_script):
        warnings.append("The pre-script was still running; it was ended before the post-script.")
    post, failure = _post_script(folder, state)
    if failure:
        warnings.append("{} [{}]".format(failure.message, failure.code))
    folder.remove()
    log.say("recovered from {}; thawed {}; {}".format(state.get("state"), thawed, warnings))
    log.flush()
    return {
        "task": folder.task,
        "found": True,
        "state": state.get("state"),
        "thawed": thawed,
        "post": post._asdict() if post else None,
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
    if (folder.read_state() or {}).get("state") == "finishing":
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
        "Ask again in a moment: `recover --task {}`.".format(folder.task),
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
    folder: Folder, state: Dict[str, Any]
) -> Tuple[Optional[scripts.Run], Optional[Failure]]:
    if not state.get("scripts", {}).get("configured"):
        return None, None
    try:
        post = scripts.read_config().post
    except Failure as failure:
        return None, failure
    if post is None or not folder.claim_post_script():
        return None, None
    return scripts.run(post, "post")
