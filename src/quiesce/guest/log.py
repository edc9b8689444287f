"""/var/log/quiesce/extension.log: what happened before the freeze and after the thaw.

Lines are kept in memory until `flush`, which is called only while nothing is frozen.
"""

import os
import time
from typing import List

LOG_FOLDER = "/var/log/quiesce"
FILES = ("extension.log", "extension.log.1")
_PATH = LOG_FOLDER + "/extension.log"
_LARGEST_BYTES = 1 << 20
_TAIL_BYTES = 64 * 1024


class Log:
    def __init__(self, task: str) -> None:
        self._task = task
        self._lines: List[str] = []

    def say(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._lines.append("{} {} {}\n".format(stamp, self._task, text.replace("\n", " ")))

    def of_task(self) -> bytes:
        """What the file's end says of this task, UTF-8, at most 64 KiB."""
        try:
            with open(_PATH, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
                lines = file.read(_TAIL_BYTES).splitlines(True)
        except OSError as error:
            return str(error).encode("utf-8", "replace")
        mark = " {} ".format(self._task).encode("utf-8")
        return b"".join(line for line in lines if mark in line)

    def flush(self) -> str:
        """Write what was said; returns why it could not, or "". A full disk stops no backup."""
        lines, self._lines = self._lines, []
        try:
            os.makedirs(LOG_FOLDER, 0o700, exist_ok=True)
            if os.path.exists(_PATH) and os.path.getsize(_PATH) > _LARGEST_BYTES:
                os.replace(_PATH, _PATH + ".1")
            with open(_PATH, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(lines)
        except OSError as error:
            return "The extension's log {} cannot be written: {}".format(_PATH, error)
        return ""
