"""/var/log/quiesce/extension.log: what happened before the freeze and after the thaw.

Lines are kept in memory until `flush`, which is called only while nothing is frozen.
"""

import os
import stat
import time
from typing import BinaryIO, List

from .mounts import printable

LOG_FOLDER = "/var/log/quiesce"
FILES = ("extension.log", "extension.log.1")
_PATH = LOG_FOLDER + "/extension.log"
_LARGEST_BYTES = 1 << 20
_TAIL_BYTES = 64 * 1024
_OTHERS_MAY_WRITE = 0o022


class Log:
    def __init__(self, task: str) -> None:
        self._task = task
        self._lines: List[str] = []

    def say(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._lines.append("{} {} {}\n".format(stamp, self._task, printable(text)))

    def of_task(self) -> bytes:
        """What the file's end says of this task, UTF-8, at most 64 KiB."""
        try:
            lines = tail(_PATH, _TAIL_BYTES).splitlines(True)
        except OSError as error:
            return str(error).encode("utf-8", "replace")
        mark = " {} ".format(self._task).encode("utf-8")
        return b"".join(line for line in lines if mark in line)

    def flush(self) -> str:
        """Write what was said; returns why it could not, or "". A full disk stops no backup."""
        lines, self._lines = self._lines, []
        try:
            os.makedirs(LOG_FOLDER, 0o700, exist_ok=True)
            _require_own_folder()
            if os.path.exists(_PATH) and os.path.getsize(_PATH) > _LARGEST_BYTES:
                os.replace(_PATH, _PATH + ".1")
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
            with _open_file(_PATH, flags) as file:
                file.write("".join(lines).encode("utf-8", "backslashreplace"))
        except OSError as error:
            return "The extension's log {} cannot be written: {}".format(_PATH, error)
        return ""


def tail(path: str, most_bytes: int) -> bytes:
    """The end of a log; of nothing but a file, and not of one that a symbolic link leads to: some
    distributions let others write in /var/log.

    :raise OSError:
    """
    if path.startswith(LOG_FOLDER + "/"):
        _require_own_folder()
    with _open_file(path, os.O_RDONLY | os.O_NONBLOCK) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - most_bytes))
        return file.read(most_bytes)


def _open_file(path: str, flags: int) -> BinaryIO:
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError("it is not a file")
    return os.fdopen(fd, "ab" if flags & os.O_WRONLY else "rb")


def _require_own_folder() -> None:
    """:raise OSError: when others could have put there what is written to or read"""
    found = os.lstat(LOG_FOLDER)
    own = found.st_uid == os.geteuid() and not found.st_mode & _OTHERS_MAY_WRITE
    if not own or not stat.S_ISDIR(found.st_mode):
        shown = "owner {}, mode {:o}".format(found.st_uid, found.st_mode)
        raise OSError("{} is not root's own folder ({})".format(LOG_FOLDER, shown))
