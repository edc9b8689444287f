"""/run/quiesce: one folder per session, and the locks that say who is alive.

    /run/quiesce/active            locked by the one session of this guest, and its watchdog
    /run/quiesce/driver            see attempts.py
    /run/quiesce/<task>/           0700
        state.json                 replaced atomically
        control                    FIFO, read by the session
        session, watchdog          process ids; each locked while that process lives
        ledger                     see ledger.py
        pre-script                 process id and start time of the running pre-script
        post-script                made when the post-script is started: it starts once, whoever
                                   (session, watchdog, `recover`) comes first

It must lie in memory: a state written to a frozen file system would hang the session. Other
things may lie in /run/quiesce; a folder is a session's if it holds the FIFO.
"""

import errno
import fcntl
import json
import os
import re
import stat
from typing import Any, Dict, List, Optional

from .failure import Fact, Failure
from .mounts import mount_of_path, printable, read_mounts

RUN_FOLDER = "/run/quiesce"
TASK = re.compile(r"[A-Za-z0-9-]{1,64}")


def require_task(task: str) -> str:
    """:raise Failure: session.task-invalid"""
    if not TASK.fullmatch(task):
        raise Failure(
            "session.task-invalid",
            "A task id is 1 to 64 letters, digits and hyphens.",
            [Fact("task id", "command line", printable(task[:200]))],
        )
    return task


def make_run_folder() -> None:
    """:raise Failure: session.folder-unsafe"""
    try:
        os.mkdir(RUN_FOLDER, 0o700)
    except FileExistsError:
        pass  # looked at below, like one made just now
    except OSError as error:
        raise _unsafe(RUN_FOLDER, str(error)) from error
    _require_own_folder(RUN_FOLDER)
    mount = mount_of_path(os.path.realpath(RUN_FOLDER), read_mounts())
    if mount is None or mount.file_system not in ("tmpfs", "ramfs"):
        kind = mount.file_system if mount else "nothing known"
        raise _unsafe(RUN_FOLDER, "it lies on {}, not in memory (tmpfs)".format(kind))


def _require_own_folder(path: str) -> None:
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode):
        raise _unsafe(path, "it is not a folder")
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        shown = "owner {}, mode {:o}".format(status.st_uid, stat.S_IMODE(status.st_mode))
        raise _unsafe(path, shown)


def _unsafe(path: str, why: str) -> Failure:
    return Failure(
        "session.folder-unsafe",
        "The session's folder {} cannot be trusted: {}.".format(path, why),
        [Fact(path, "guest", why)],
        "Look at what lies there (ls -la '{0}'), then put it aside: mv '{0}' '{0}.aside'. /run "
        "must be a tmpfs.".format(RUN_FOLDER),
    )


class Lock:
    """An advisory lock that its holder's death releases."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def take(self) -> bool:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            raise
        return True

    def hold_for(self, pid: int) -> None:
        """Say in the file who holds the lock."""
        self.write(str(pid).encode("ascii"))

    def write(self, text: bytes) -> None:
        """Shortened only after it was written: a full /run must not lose what stood there."""
        try:
            os.pwrite(self.fd, text, 0)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._path) from error
        os.ftruncate(self.fd, len(text))

    def read(self) -> bytes:
        return os.pread(self.fd, 65536, 0)

    def release(self) -> None:
        """Close this process's handle; a copy inherited by another process keeps the lock."""
        os.close(self.fd)


def active_lock() -> Lock:
    return Lock(os.path.join(RUN_FOLDER, "active"))


def tasks() -> List[str]:
    """The sessions that have a folder, living or not."""
    names = os.listdir(RUN_FOLDER) if os.path.isdir(RUN_FOLDER) else []
    return sorted(name for name in names if TASK.fullmatch(name) and Folder(name).exists())


def remove_if_empty(path: str) -> bool:
    """Whether the folder was there and is gone now."""
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EBUSY):
            return False  # EBUSY: something is mounted there
        raise
    return True


class Folder:
    """The files of one session."""

    def __init__(self, task: str) -> None:
        self.task = require_task(task)
        self.path = os.path.join(RUN_FOLDER, task)
        self.state = os.path.join(self.path, "state.json")
        self.control = os.path.join(self.path, "control")
        self.session = os.path.join(self.path, "session")
        self.watchdog = os.path.join(self.path, "watchdog")
        self.ledger = os.path.join(self.path, "ledger")
        self.pre_mark = os.path.join(self.path, "pre-script")
        self.post_mark = os.path.join(self.path, "post-script")

    def make(self) -> None:
        """:raise Failure: session.active, when the task's folder exists"""
        remove_if_empty(self.path)  # of a session that died before its FIFO
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError as error:
            raise already_active() from error
        os.mkfifo(self.control, 0o600)

    def exists(self) -> bool:
        """Whether this is a session's folder."""
        try:
            modes = os.lstat(self.path).st_mode, os.lstat(self.control).st_mode
        except OSError:
            return False
        return stat.S_ISDIR(modes[0]) and stat.S_ISFIFO(modes[1])

    def write_state(self, document: Dict[str, Any]) -> None:
        new = self.state + ".new"
        with open(new, "w", encoding="ascii") as file:
            json.dump(document, file, ensure_ascii=True)
        os.rename(new, self.state)

    def read_state(self) -> Optional[Dict[str, Any]]:
        try:
            with open(self.state, encoding="ascii") as file:
                found = json.load(file)
        except (OSError, ValueError):
            return None  # the session died before its first word
        return found if isinstance(found, dict) else None

    def claim_post_script(self) -> bool:
        """True for exactly one caller, ever: the one that is to start the post-script."""
        try:
            os.close(os.open(self.post_mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        return True

    def note_pre_script(self) -> None:
        """Called in the script's own process before it becomes the script. Until then it holds
        the session's lock too, so that whoever finds the session dead finds this note."""
        pid = os.getpid()
        with open(self.pre_mark, "w") as file:
            file.write("{} {}".format(pid, start_time(pid)))

    def forget_pre_script(self) -> None:
        if os.path.exists(self.pre_mark):
            os.unlink(self.pre_mark)

    def pre_script(self) -> int:
        """The process id, and process group, of a pre-script that is still running, else 0."""
        try:
            with open(self.pre_mark) as file:
                pid, _, started = file.read().partition(" ")
        except OSError:
            return 0
        # The number alone may belong to a later process.
        return int(pid) if pid.isdigit() and started and start_time(int(pid)) == started else 0

    def holder(self, lock_path: str) -> int:
        """The process id in a lock file while that process lives, else 0."""
        if not os.path.exists(lock_path):
            return 0
        lock = Lock(lock_path)
        try:
            if lock.take():
                return 0
            text = lock.read()
            return int(text) if text.isdigit() else 0
        finally:
            lock.release()

    def remove(self) -> None:
        """The FIFO goes last: until then the folder is known as a session's."""
        for path in (
            self.state,
            self.state + ".new",
            self.session,
            self.watchdog,
            self.ledger,
            self.pre_mark,
            self.post_mark,
            self.control,
        ):
            if os.path.lexists(path):
                os.unlink(path)
        remove_if_empty(self.path)


def start_time(pid: int) -> str:
    """When a process began, in clock ticks since the boot; "" for one that has ended.

    Source: proc(5), /proc/pid/stat, fields 3 (state) and 22.
    """
    try:
        with open("/proc/{}/stat".format(pid), "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode("ascii")


def already_active() -> Failure:
    return Failure(
        "session.active",
        "A backup session is already active in this guest.",
        [Fact("sessions: " + (", ".join(tasks()) or "none"), RUN_FOLDER)],
        retryable=True,
    )
