"""What a person who looks for a cause wants to read: the ends of the logs that matter."""

import glob
import subprocess
from typing import Dict, List, Tuple

from .folder import RUN_FOLDER
from .log import LOG_FOLDER, tail

_TAIL_BYTES = 64 * 1024
_COMMAND_SECONDS = 10
_FILES = (
    "{log}/extension.log",
    "/var/log/waagent.log",
    "/var/log/azure/*/*.log",
    "/etc/azure/vmbackup.conf",
    "{run}/*/state.json",
)
_COMMANDS = (
    ("journalctl", "--no-pager", "-n", "300", "-u", "qemu-guest-agent"),
    ("journalctl", "--no-pager", "-n", "200", "-k"),
)


def logs() -> List[Dict[str, str]]:
    """`{path, text}` each; what cannot be read says why in its text."""
    found = []
    for pattern in _FILES:
        for path in sorted(glob.glob(pattern.format(log=LOG_FOLDER, run=RUN_FOLDER)))[:50]:
            found.append({"path": path, "text": _tail(path)})
    return found + [{"path": " ".join(one), "text": _output(one)} for one in _COMMANDS]


def _tail(path: str) -> str:
    try:
        return tail(path, _TAIL_BYTES).decode("utf-8", "replace")
    except OSError as error:
        return "cannot be read: {}".format(error)


def _output(command: Tuple[str, ...]) -> str:
    try:
        ran = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_COMMAND_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "cannot be run: {}".format(error)
    return ran.stdout[-_TAIL_BYTES:].decode("utf-8", "replace")
