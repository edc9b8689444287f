"""The handler's settings, as docs/explanation/guest-route.md states them, and the JSON around them
that the agent writes to `config/<seq>.settings`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from quiesce.agent.waagent.certificates import VmIdentity
from quiesce.model.door import Door, Endpoint
from quiesce.model.network import Proxy

HANDLER = "Quiesce.VmBackup"


class Command(StrEnum):
    SNAPSHOT = "snapshot"
    PROBE = "probe"
    EXAMINE = "examine"
    MEND = "mend"
    IDLE = "idle"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the extension is asked to do. `door` and `proxy` are secrets and travel encrypted.
    `action` and `word` say what to mend."""

    command: Command
    task: str = ""
    attempt: str = ""
    hold_seconds: float = 0.0
    skip_mounts: tuple[str, ...] = ()
    action: str = ""
    word: str = ""
    deadline: datetime | None = None
    endpoint: Endpoint | None = None
    door: Door | None = field(default=None, repr=False)
    proxy: Proxy | None = field(default=None, repr=False)

    def runtime_settings(self, identity: VmIdentity) -> str:
        """The JSON of `RuntimeSettings`, in ASCII."""
        handler: dict[str, object] = {"publicSettings": self._public()}
        protected = self._protected()
        if protected:
            handler["protectedSettings"] = identity.sealed(json.dumps(protected).encode())
            handler["protectedSettingsCertThumbprint"] = identity.thumbprint
        return json.dumps({"runtimeSettings": [{"handlerSettings": handler}]})

    def _public(self) -> Mapping[str, object]:
        public: dict[str, object] = {
            "command": self.command.value,
            "task": self.task,
            "attempt": self.attempt,
        }
        if self.command is Command.SNAPSHOT:
            public["hold_seconds"] = self.hold_seconds
            public["skip_mounts"] = list(self.skip_mounts)
        if self.command is Command.MEND:
            public["action"] = self.action
            public["word"] = self.word
        if self.deadline is not None:
            public["deadline"] = f"{self.deadline:%Y-%m-%dT%H:%M:%SZ}"
        if self.endpoint is not None:
            public["endpoint"] = {"url": self.endpoint.url, "ca_pem": self.endpoint.ca_pem}
        return public

    def _protected(self) -> Mapping[str, object]:
        if self.door is None:
            return {}
        return {
            "snapshot_urls": dict(self.door.snapshot_urls),
            "report_url": self.door.report_url,
            "log_url": self.door.log_url,
            "proxy": {
                "http": self.proxy.http,
                "https": self.proxy.https,
                "no_proxy": self.proxy.no_proxy,
            }
            if self.proxy
            else None,
        }
