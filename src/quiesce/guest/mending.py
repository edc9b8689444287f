"""Mending this guest by `mend.sh`, for a server that reaches it through the Azure Linux agent."""

import re

from . import shell
from .failure import Fact, Failure
from .mounts import printable

ACTIONS = (
    "restart-waagent",
    "restart-qga",
    "auto-restart-waagent",
    "auto-restart-qga",
    "enable-extensions",
    "allow-qga",
    "exempt-host",
    "end-extension",
    "verbose-on",
    "verbose-off",
)
_WORD = re.compile(r"[A-Za-z0-9.:_-]{0,64}")
_SECONDS = 110.0


def mend(action: str, word: str) -> str:
    """What was done, in one sentence. :raise Failure: extension.usage, agent.mend-failed"""
    if action not in ACTIONS or not _WORD.fullmatch(word):
        raise Failure("extension.usage", "What can be mended is {}.".format(", ".join(ACTIONS)))
    ran = shell.run("services.sh mend.sh", [action, word], _SECONDS)
    said, why = _words(ran.stdout), _words(ran.stderr)
    if ran.returncode != 0 or not said:
        raise Failure(
            "agent.mend-failed",
            "The guest could not be mended by {}: {}".format(action, why or "it said nothing"),
            [Fact("mend.sh ended with status {}".format(ran.returncode), "guest", why)],
        )
    return said


def _words(raw: bytes) -> str:
    return printable(raw.decode("utf-8", "replace").strip()[:1000])
