"""A guest whose agent polls over HTTP as the stock agent does, and whose extension says what a
test wants it to say."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from waagent_scene import (
    WEB,
    Caller,
    Scene,
    between,
    element,
    handler_status,
    runtime_settings,
    status,
)

from quiesce.agent.waagent.host import AgentHost

MOUNT = {
    "mount": "/",
    "device": "/dev/vda1",
    "number": "254:1",
    "file_system": "ext4",
    "action": "freeze",
    "reason": "",
    "downgrades": True,
}

OWN_TASK = "that of the attempt"


def session(state: str = "done", **changes: Any) -> dict[str, Any]:
    """A state document as docs/explanation/guest-extension.md states it."""
    frozen = {
        "mounts": [
            {
                "mount": "/",
                "file_system": "ext4",
                "freeze_ms": 1.5,
                "frozen_ms": 40.0,
                "skipped": "",
                "downgrades": True,
            }
        ],
        "held": True,
        "hold_seconds": 10.0,
        "thawed_by": "request",
    }
    found: dict[str, Any] = {
        "task": OWN_TASK,
        "state": state,
        "version": "1.2.3",
        "pid": 4711,
        "mounts": [MOUNT],
        "scripts": {"configured": False, "pre": None, "post": None},
        "freeze": frozen,
        "warnings": ["a warning"],
        "failure": None,
    }
    return found | changes


class PaperGuest:
    """Polls in a thread of its own until it is ended. What it does with a goal state is
    `on_goal(guest, plugin state, public settings)`; what it reports is `handler`."""

    def __init__(
        self,
        scene: Scene,
        host: AgentHost,
        address: str = WEB,
        *,
        on_goal: Callable[[PaperGuest], None] = lambda guest: None,
        period: float = 0.05,
    ) -> None:
        self.scene, self.caller = scene, Caller(host, address)
        self._on_goal, self._period = on_goal, period
        self.incarnation = 0
        self.acknowledges = True
        self.plugin = ""
        self.public: dict[str, Any] = {}
        self.taken_at: str | None = None
        self.commands: list[str] = []
        self.handler: dict[str, Any] | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)

    def __enter__(self) -> PaperGuest:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    @property
    def attempt(self) -> str:
        return str(self.public["attempt"])

    @property
    def door(self) -> Any:
        return self.scene.doors.opened[self.attempt]

    def take(self) -> None:
        """Ask the storage endpoint for the point; what it answers goes into reports."""
        self.taken_at = f"{self.door.take():%Y-%m-%dT%H:%M:%S.%f0Z}"

    def says(self, stage: str, *, by: str = "blob", **fields: Any) -> None:
        """A report of our extension, by the report blob or through the agent."""
        import json

        told = fields.get("session")
        if told is not None and told["task"] == OWN_TASK:
            fields["session"] = told | {"task": self.attempt}
        report = {
            "attempt": self.attempt,
            "task": self.public["task"],
            "command": self.public["command"],
            "version": "1.2.3",
            "stage": stage,
            "taken_at": self.taken_at,
            "session": None,
            "hops": [],
            "failure": None,
        } | fields
        if by == "blob":
            self.door.reported(json.dumps(report).encode())
            return
        settings = {"done": "success", "failed": "error"}.get(stage, "transitioning")
        self.handler = handler_status(
            sequence=self.incarnation, settings=settings, words=stage, report=report
        )

    def _live(self) -> None:
        while not self._ending.wait(self._period):
            goal = self.caller.goal_state()
            number = int(element(goal, "Incarnation"))
            if number != self.incarnation:
                answer = self.caller.get(element(goal, "ExtensionsConfig"))
                if answer.status_code != 200:
                    continue
                self.incarnation = number
                self._take(answer.text)
            acknowledged = self.incarnation if self.acknowledges else None
            self.caller.put_status(status(acknowledged=acknowledged, handler=self.handler))

    def _take(self, config: str) -> None:
        self.plugin = between(config, 'state="', '"')
        self.public = runtime_settings(config)["publicSettings"] if "seqNo" in config else {}
        self.commands.append(self.public.get("command", self.plugin))
        if self.plugin == "uninstall":
            self.handler = None
        elif self.plugin == "enabled":
            self.handler = handler_status()
        self._on_goal(self)


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.01)
