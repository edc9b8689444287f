"""A host with paper doors and a paper book around it, and real servers on the loopback."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from quiesce.agent.package import ExtensionPackage
from quiesce.agent.waagent.deadlines import Deadlines
from quiesce.agent.waagent.host import AgentHost
from quiesce.agent.waagent.ports import AgentRecord
from quiesce.model.door import Door, Endpoint
from quiesce.model.network import Proxy

PACKAGE = ExtensionPackage("1.2.3", "ab" * 32, b"the package")
WEB, MAIL = "127.0.0.11", "127.0.0.12"
HANDLER = "Quiesce.VmBackup"
CA_PEM = "-----BEGIN CERTIFICATE-----\nnot read here\n-----END CERTIFICATE-----\n"


class PaperBook:
    def __init__(self) -> None:
        self.records: dict[str, AgentRecord] = {}
        self.saves = 0
        self.builds: list[str] = []

    def load(self, vm: str) -> AgentRecord | None:
        return self.records.get(vm)

    def save(self, record: AgentRecord) -> None:
        self.saves += 1
        self.records[record.vm] = record

    def forget(self, vm: str) -> None:
        self.records.pop(vm, None)

    def package_build(self, digest: str) -> int:
        if digest not in self.builds:
            self.builds.append(digest)
        return self.builds.index(digest) + 1


@dataclass
class OpenDoor:
    vm: str
    disks: tuple[str, ...]
    take: Callable[[], datetime]
    reported: Callable[[bytes], None]


class PaperDoors:
    endpoint = Endpoint("https://storage.test:443", CA_PEM)

    def __init__(self) -> None:
        self.opened: dict[str, OpenDoor] = {}
        self.closed: list[str] = []
        self.blobs: dict[str, bytes] = {}
        self.written_at: datetime | None = None
        self.urls = 0

    def open(
        self,
        vm: str,
        attempt: str,
        disks: Sequence[str],
        *,
        take: Callable[[], datetime],
        reported: Callable[[bytes], None],
    ) -> Door:
        self.opened[attempt] = OpenDoor(vm, tuple(disks), take, reported)
        url = f"{self.endpoint.url}/{vm}"
        return Door(
            {disk: f"{url}/{disk}?sig=s" for disk in disks},
            f"{url}/{attempt}.report?sig=r",
            f"{url}/{attempt}.log?sig=l",
        )

    def close(self, attempt: str) -> None:
        self.closed.append(attempt)
        self.opened.pop(attempt, None)

    def status_url(self, vm: str) -> str:
        self.urls += 1
        return f"{self.endpoint.url}/{vm}.status?sig=x&n={self.urls}"

    def status_of(self, vm: str) -> tuple[bytes, datetime] | None:
        content = self.blobs.get(vm)
        return None if content is None else (content, self.written_at or datetime.now(UTC))


class Neighbours:
    """The VM at the other end of a connection, by its loopback address."""

    def __init__(self, **vms: str) -> None:
        self.vms = {address: name for name, address in vms.items()}

    def vm_at(self, address: str, port: int) -> str | None:
        return self.vms.get(address)


@dataclass
class Scene:
    book: PaperBook = field(default_factory=PaperBook)
    doors: PaperDoors = field(default_factory=PaperDoors)
    neighbours: Neighbours = field(default_factory=lambda: Neighbours(web=WEB))
    proxies: dict[str, Proxy] = field(default_factory=dict)
    package: ExtensionPackage = PACKAGE
    now: datetime | None = None
    address: str = "127.0.0.1"
    wire_port: int = 0
    plugin_port: int = 0

    def clock(self) -> datetime:
        return self.now or datetime.now(UTC)

    @contextmanager
    def running(self, **deadlines: float) -> Iterator[AgentHost]:
        host = self.host(**deadlines)
        host.start()
        try:
            yield host
        finally:
            host.close()

    def host(self, **deadlines: float) -> AgentHost:
        return AgentHost(
            self.book,
            self.doors,
            self.neighbours,
            lambda vm: self.proxies.get(vm, Proxy()),
            address=self.address,
            wire_port=self.wire_port,
            plugin_port=self.plugin_port,
            package=self.package,
            deadlines=Deadlines(**deadlines),
            now=self.clock,
        )


class Caller:
    """Somebody at a loopback address who asks both servers."""

    def __init__(self, host: AgentHost, address: str) -> None:
        wire, plugin = host.ports
        transport = httpx.HTTPTransport(local_address=address)
        self.http = httpx.Client(transport=transport, timeout=10)
        self.wire, self.plugin = f"http://127.0.0.1:{wire}", f"http://127.0.0.1:{plugin}"

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.http.get(self.wire + path if path.startswith("/") else path, headers=headers)

    def goal_state(self) -> str:
        return self.get("/machine/?comp=goalstate").raise_for_status().text

    def put_status(self, status: object) -> httpx.Response:
        content = base64.b64encode(json.dumps(status).encode()).decode()
        body = {"requestUri": "x", "headers": [], "content": content}
        return self.http.put(self.plugin + "/status", json=body)


def between(text: str, start: str, end: str) -> str:
    return text.partition(start)[2].partition(end)[0]


def element(xml: str, name: str) -> str:
    return between(xml, f"<{name}>", f"</{name}>").replace("&amp;", "&")


def runtime_settings(extensions_config: str) -> dict[str, Any]:
    found = between(extensions_config, "<RuntimeSettings", "</RuntimeSettings>").partition(">")[2]
    settings = json.loads(found.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
    handler = settings["runtimeSettings"][0]["handlerSettings"]
    assert isinstance(handler, dict)
    return handler


def status(
    *,
    acknowledged: int | None = None,
    handler: dict[str, Any] | None = None,
    agent: str = "Ready",
    message: str = "Guest Agent is running",
) -> dict[str, Any]:
    """As WALinuxAgent 2.7.3 writes it (vm_status_to_v1)."""
    aggregate: dict[str, Any] = {
        "guestAgentStatus": {
            "version": "2.7.3.0",
            "status": agent,
            "formattedMessage": {"lang": "en-US", "message": message},
        },
        "handlerAggregateStatus": [handler] if handler else [],
    }
    if acknowledged is not None:
        aggregate["vmArtifactsAggregateStatus"] = {
            "goalStateAggregateStatus": {
                "formattedMessage": {"lang": "en-US", "message": "GoalState executed successfully"},
                "timestampUTC": "2026-01-01T00:00:00Z",
                "inSvdSeqNo": str(acknowledged),
                "status": "Success",
                "code": 0,
            }
        }
    return {
        "version": "1.1",
        "timestampUTC": "2026-01-01T00:00:00Z",
        "aggregateStatus": aggregate,
        "guestOSInfo": {
            "computerName": "web",
            "osName": "debian",
            "osVersion": "12.5",
            "version": "2.7.3.0",
        },
    }


def handler_status(
    version: str = "1.2.3.1",
    *,
    handler: str = "Ready",
    code: int = 0,
    message: str = "Plugin enabled",
    sequence: int | None = None,
    settings: str = "transitioning",
    words: str = "working",
    report: object = None,
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "handlerVersion": version,
        "handlerName": HANDLER,
        "status": handler,
        "code": code,
        "useExactVersion": True,
        "formattedMessage": {"lang": "en-US", "message": message},
    }
    if sequence is not None:
        said: dict[str, Any] = {
            "name": HANDLER,
            "operation": "Enable",
            "status": settings,
            "code": 0,
            "formattedMessage": {"lang": "en-US", "message": words},
        }
        if report is not None:
            said["substatus"] = [
                {
                    "name": "quiesce",
                    "status": settings,
                    "code": 0,
                    "formattedMessage": {"lang": "en-US", "message": json.dumps(report)},
                }
            ]
        found["runtimeSettingsStatus"] = {
            "settingsStatus": {"status": said, "version": 1.0, "timestampUTC": "x"},
            "sequenceNumber": sequence,
        }
    return found


class Later:
    """Runs something in a thread and hands over what came of it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], Any]) -> None:
        try:
            self._result = work()
        except BaseException as error:  # noqa: BLE001 - handed over
            self._error = error

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def result(self, seconds: float = 20) -> Any:
        self._thread.join(seconds)
        assert self.ended, "it has not ended"
        if self._error is not None:
            raise self._error
        return self._result
