"""The extension in a scripted guest, as its host side sees it."""

from __future__ import annotations

import json
from typing import Any

from scripted_agent import PACKAGE, ScriptedGuest

INSTALLED = f"/var/lib/quiesce/{PACKAGE.file_name}"
STATE = "/run/quiesce/t1/state.json"
CONTROL = "/run/quiesce/t1/control"
SCRIPT = {"path": "/pre", "exit_code": 0, "seconds": 0.1, "stderr": ""}
ROOT = {"mount": "/", "device": "/dev/vda", "file_system": "ext4", "action": "freeze"}
FROZE = {
    "mounts": [{"mount": "/", "file_system": "ext4", "freeze_ms": 3.0, "frozen_ms": 9.0}],
    "held": True,
    "hold_seconds": 10.0,
    "thawed_by": "request",
}


class Extension:
    """What the extension does in the scripted guest: states follow orders at once, except for
    those in `deaf_to`."""

    def __init__(self, guest: ScriptedGuest) -> None:
        self.guest = guest
        self.deaf_to: set[str] = set()
        self.first: dict[str, Any] = {"state": "ready"}
        self.after: dict[str, dict[str, Any]] = {
            "freeze": {"state": "frozen"},
            "thaw": {"state": "thawed", "freeze": FROZE},
            "finish": {"state": "done", "scripts": {"configured": True, "post": SCRIPT}},
            "abort": {"state": "failed"},
        }
        self.python_starts = 0
        self.state: dict[str, Any] = {}
        guest.run = self.run
        guest.ordered = self.obey

    def run(self, path: str, arguments: list[str], given: bytes) -> tuple[int, bytes, bytes]:
        if path == "sh" and given:
            self.guest.files[INSTALLED] = given
        elif path == "python3":
            self.python_starts += 1
            return self.command(arguments[arguments.index(INSTALLED) + 1])
        elif path == "rm":
            self.vanish()
        return 0, b"", b""

    def command(self, name: str) -> tuple[int, bytes, bytes]:
        if name == "session":
            self.guest.files[CONTROL] = b""
            self.state = {"task": "t1", "version": "1.0", "mounts": [ROOT]}
            self.say(self.first)
        return 0, b"{}", b""

    def obey(self, word: str) -> None:
        if word not in self.deaf_to:
            self.say(self.after[word])

    def say(self, changes: dict[str, Any]) -> None:
        self.state |= changes
        self.guest.files[STATE] = json.dumps(self.state).encode()

    def vanish(self) -> None:
        self.guest.files.pop(STATE, None)
        self.guest.files.pop(CONTROL, None)
