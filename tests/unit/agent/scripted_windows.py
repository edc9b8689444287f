"""A Windows guest behind the QEMU guest agent, by what such an agent answers. No real Windows: the
answers are those of qga/commands-win32.c and qga/vss-win32/requester.cpp."""

from __future__ import annotations

import threading
from typing import Any

from scripted_agent import RefusalError, ScriptedGuest

VOLUMES = [
    {"name": "\\\\?\\Volume{1}\\", "mountpoint": "C:\\", "type": "NTFS", "disk": []},
    {"name": "\\\\?\\Volume{2}\\", "mountpoint": "E:\\", "type": "NTFS", "disk": []},
    {"name": "\\\\?\\Volume{3}\\", "mountpoint": "System Reserved", "type": "NTFS", "disk": []},
]


class Windows:
    """What VSS does behind the agent. `refuses_to_freeze`, `refuses_to_thaw`: its own words."""

    def __init__(self, guest: ScriptedGuest) -> None:
        self.frozen = False
        self.thaws = 0
        self.thawed = threading.Event()
        self.refuses_to_freeze = ""
        self.refuses_to_thaw = ""
        self.volumes = 3
        guest.handlers |= {
            "guest-get-osinfo": self._spared(
                lambda _: {"id": "mswindows", "pretty-name": "Windows Server 2022 Standard"}
            ),
            "guest-info": lambda _: {
                "version": "108.0.2",
                "supported_commands": [{"name": "guest-get-devices", "enabled": False}],
            },
            "guest-get-fsinfo": self._spared(lambda _: VOLUMES),
            "guest-fsfreeze-status": lambda _: "frozen" if self.frozen else "thawed",
            "guest-fsfreeze-freeze": self._freeze,
            "guest-fsfreeze-thaw": self._thaw,
        }

    def _spared(self, handler: Any) -> Any:
        def answered(order: dict[str, Any]) -> Any:
            if self.frozen:
                raise RefusalError("the command is not allowed while frozen", "CommandNotFound")
            return handler(order)

        return answered

    def _freeze(self, _: object) -> int:
        if self.refuses_to_freeze:
            raise RefusalError(self.refuses_to_freeze)
        self.frozen = self.volumes > 0
        return self.volumes

    def _thaw(self, _: object) -> int:
        was, self.frozen = self.frozen, False
        self.thaws += 1
        self.thawed.set()
        if self.refuses_to_thaw:
            raise RefusalError(self.refuses_to_thaw)
        return self.volumes if was else 0
