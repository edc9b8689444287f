"""Facts of a Windows guest, from what `guest/collect.ps1` printed.

Sources of what is looked for: QEMU's qga/vss-win32 (the provider's service and its registry key,
`VssOption`, in QEMU since 8.0), vss.h (states of writers), Microsoft's documentation of Azure
Backup (`IaasVmProvider`, `USEVSSCOPYBACKUP`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from quiesce.diagnosis.reading.windows_outputs import (
    Part,
    RegistryValue,
    Service,
    Writer,
    events,
    parts,
    properties,
    registry,
    services,
    writers,
)
from quiesce.model.diagnosis import Fact, FactValue
from quiesce.model.papers import Paper, Papers

QGA, QGA_PROVIDER = "QEMU-GA", "QEMU Guest Agent VSS Provider"
AZURE, AZURE_PROVIDER = "WindowsAzureGuestAgent", "IaasVmProvider"
_SQL_WRITER = "a65faa63-5ea8-4ebc-9dbd-a0c4db26912a"
_STOPPED, _START_PENDING, _STOP_PENDING, _RUNNING = 1, 2, 3, 4
_AUTO, _DEMAND, _DISABLED = 2, 3, 4
_FIRST_FAILED, _LAST_FAILED = 6, 15
"""VSS_WS_FAILED_AT_IDENTIFY to VSS_WS_FAILED_AT_BACKUPSHUTDOWN of vss.h. Those between 1 (stable)
and these wait: a backup is at work, or one was left in the middle."""
_COPY = 5
"""VSS_BT_COPY of vss.h; QEMU takes VSS_BT_FULL (1) when its registry says nothing."""
_MOST_EVENTS = 5
_LOG_BACKED_UP = 18265
"""SQL Server's event; 18264 and 18270 are a full and a differential backup of a database."""
_HOSTING_SERVICE = {
    "e8132975-6f93-4464-a53e-1050253ae220": "CryptSvc",
    _SQL_WRITER: "SQLWriter",
    "a6ad56c2-b509-4e6c-bb19-49d8f43532f0": "Winmgmt",
    "afbab4a2-367d-4d15-a586-71dbb18f8485": "VSS",
    "542da469-d3e1-473c-9f4f-7847f01fc64f": "VSS",
    "4dc3bdd4-ab48-4d07-adb0-3bee2926fd7f": "VSS",
    "be000cbe-11fe-4426-9c58-531aa6355fc4": "VSS",
    "75dfb225-e2e4-4d39-9ac9-ffaff65ddf06": "VSS",
    "4969d978-be47-48b0-b100-f328f07ac1e0": "BITS",
    "2a40fd15-dfca-4aa8-a654-1f8c654603f6": "AppHostSvc",
    "59b1f0cf-90ef-465f-9609-6ca8b2938366": "IISADMIN",
    "66841cd4-6ded-4f4b-8f17-fd23f8ddc3de": "vmms",
    "cd3f2362-8bef-46c7-9181-d62844cdc0b2": "WSearch",
}
"""Which service to restart for a writer that has failed, by the writer's id (Microsoft's "In-Box
VSS Writers" for the ids)."""


def is_windows(papers: Papers) -> bool:
    """Whether they were collected by `collect.ps1`."""
    return papers.command("services") is not None


def windows_facts(papers: Papers) -> Iterator[Fact]:
    """What the papers of a Windows guest show; nothing when they are from another system."""
    if is_windows(papers):
        reader = _Reader(papers)
        yield from reader.system()
        yield from reader.agents()
        yield from reader.shadow_copies()
        yield from reader.proxy()
        yield from reader.log()


class _Reader:
    def __init__(self, papers: Papers) -> None:
        self._papers = papers
        self._services = services(papers.command("services"))
        self._copy_facts_of = {QGA: self._qga_copy, AZURE: self._azure_copy}

    def _fact(
        self,
        name: str,
        value: FactValue,
        words: str,
        where: str,
        raw: str = "",
        at: datetime | None = None,
    ) -> Fact:
        source = f"{self._papers.source}: {where}"
        at = at or self._papers.taken_at
        return (
            Fact(name, value, words, source, raw=raw)
            if at is None
            else Fact(name, value, words, source, at, raw)
        )

    def _part(self, command: str, word: str) -> Part | None:
        found = parts(self._papers.command(command))
        return next((part for part in found if word in part.line), None)

    def _service(self, name: str) -> Service | None:
        return self._services.get(name.lower())

    def system(self) -> Iterator[Fact]:
        """The kind of system, its space, its load."""
        known = dict(_properties(self._papers.command("os")))
        caption = " ".join((known.get("Caption", "Windows"), known.get("Version", ""))).strip()
        yield self._fact("guest.os", "windows", f"the guest runs {caption}", "wmic os")
        drive, free = known.get("SystemDrive", "C:"), None
        for name, value in _properties(self._papers.command("space")):
            if name == "DeviceID":
                free = value.upper() == drive.upper()
            elif name == "FreeSpace" and free and value.isdigit():
                words = f"{int(value):,} bytes are free on {drive}"
                yield self._fact(
                    "guest.root-free-bytes",
                    float(value),
                    words,
                    "wmic logicaldisk",
                    f"{drive} {value}",
                )
        load = _properties(self._papers.command("load"))
        used = [
            float(value) for name, value in load if name == "LoadPercentage" and _is_number(value)
        ]
        if used:
            mean = sum(used) / len(used)
            yield self._fact(
                "guest.cpu-percent", mean, f"{mean:.0f} % of the processors are in use", "wmic cpu"
            )
        sizes = {name: float(value) for name, value in load if _is_number(value)}
        total, left = sizes.get("TotalVisibleMemorySize", 0.0), sizes.get("FreePhysicalMemory")
        if total > 0 and left is not None:
            percent = 100.0 * (1.0 - min(left, total) / total)
            words = f"{percent:.0f} % of the memory is in use"
            yield self._fact("guest.memory-percent", percent, words, "wmic os")

    def agents(self) -> Iterator[Fact]:
        """QEMU's guest agent and the provider of shadow copies of whichever agent there is."""
        agent = self._service(QGA)
        if agent is not None:
            word = _unit(agent)
            yield self._fact(
                "qga.installed", agent.present, _about(agent, word), "sc query", agent.raw
            )
            yield self._fact("qga.unit", word, _about(agent, word), "sc query", agent.raw)
        for owner, name in ((QGA, QGA_PROVIDER), (AZURE, AZURE_PROVIDER)):
            holder, provider = self._service(owner), self._service(name)
            if holder is None or provider is None or not holder.present:
                continue
            provider = self._with_start(provider)
            word = _provider(provider)
            if not word or (word == "absent" and owner == AZURE):
                continue  # Azure's extension brings it with the first backup
            yield self._fact(
                "windows.provider", word, _about(provider, word), "sc query, sc qc", provider.raw
            )
            return

    def _with_start(self, provider: Service) -> Service:
        """Its start type from the registry when `sc qc` did not say it."""
        part = self._part("registry-qga-vss", provider.name)
        if provider.start is not None or part is None:
            return provider
        start = _dword(registry(part).get("START"))
        return replace(provider, start=start, raw=f"{provider.raw}\n{part.text}")

    def shadow_copies(self) -> Iterator[Fact]:
        """VSS writers, and the type of the shadow copies."""
        paper = self._papers.command("writers")
        found = writers(paper)
        if found and paper is not None:
            bad = [writer for writer in found if _FIRST_FAILED <= writer.state <= _LAST_FAILED]
            busy = [writer.name for writer in found if 1 < writer.state < _FIRST_FAILED]
            said = "; ".join(_writer(writer) for writer in bad)
            words = f"VSS writers have failed: {said}" if bad else "no VSS writer has failed"
            if busy:
                words += f"; in the middle of a backup: {', '.join(busy)}"
            yield self._fact(
                "windows.writers-failed", said, words, "vssadmin list writers", paper.text[:8000]
            )
            sql = [writer for writer in found if writer.guid == _SQL_WRITER]
            words = "SQL Server's VSS writer is registered" if sql else "there is no SQL VSS writer"
            raw = _writer(sql[0]) if sql else ""
            yield self._fact("windows.sql-writer", bool(sql), words, "vssadmin list writers", raw)
        yield from self._sql_backups()
        for owner in (QGA, AZURE):
            holder = self._service(owner)
            if holder is not None and holder.present:
                yield from self._copy_facts_of[owner]()
                return

    def _sql_backups(self) -> Iterator[Fact]:
        """Through VSS the SQL writer backs data up, to a virtual device, and never logs."""
        paper = self._papers.command("sql-backups")
        if paper is None or any(part.status != 0 for part in parts(paper)):
            return
        own = [
            event
            for event in events(paper)
            if event.id == _LOG_BACKED_UP or "VIRTUAL_DEVICE" not in " ".join(event.data)
        ]
        what = f"event {own[0].id}: {' '.join(own[0].data)[:300]}" if own else ""
        words = f"SQL Server has backups of its own ({what})" if own else "it has none in its log"
        raw, at = (own[0].raw, own[0].at) if own else ("", None)
        yield self._fact("windows.sql-backups", bool(own), words, "event log", raw, at)

    def _qga_copy(self) -> Iterator[Fact]:
        part = self._part("registry-qga-vss", "reg")
        if part is None or part.status not in (0, 1):
            return
        value = registry(part).get("VSSOPTION", RegistryValue("", ""))
        kind = _dword(value)
        copy = kind == _COPY
        said = f"VssOption is {value.kind} {value.data}" if value.data else "VssOption is not set"
        meaning = "copy" if copy else "full, or whatever that number means"
        words = f"{said}: QEMU's shadow copies are of the type {meaning}"
        if not value.data:
            words = f"{said}: QEMU's shadow copies are of the type full"
        yield self._fact("windows.copy-backup", copy, words, part.line, part.text)

    def _azure_copy(self) -> Iterator[Fact]:
        part = self._part("registry-bcdragent", "reg")
        if part is None or part.status not in (0, 1):
            return
        value = registry(part).get("USEVSSCOPYBACKUP")
        if value is None:
            words = "USEVSSCOPYBACKUP is not set: Azure's shadow copies are of the type full"
            yield self._fact("windows.copy-backup", False, words, part.line, part.text)
        elif (value.kind, value.data) == ("REG_SZ", "TRUE"):
            words = "USEVSSCOPYBACKUP is TRUE: Azure's shadow copies are of the type copy"
            yield self._fact("windows.copy-backup", True, words, part.line, part.text)
        elif value.kind != "REG_SZ" or value.data.upper() != "TRUE":
            words = f"USEVSSCOPYBACKUP is {value.kind} {value.data!r} and not the text TRUE"
            yield self._fact("windows.copy-backup", False, words, part.line, part.text)
        # "true" or "True": nobody has written down whether the extension takes that for TRUE.

    def proxy(self) -> Iterator[Fact]:
        """The proxy of services: WinHTTP's first, else that of the account SYSTEM."""
        set_for_services = self._part("winhttp-proxy", "netsh")
        if set_for_services is not None and not (
            set_for_services.status == 0 and set_for_services.text.strip()
        ):
            set_for_services = None
        if set_for_services is not None:
            address = _winhttp(set_for_services.text)
            if address:
                words = f"WinHTTP, which services use, goes through {address}"
                yield self._fact(
                    "windows.system-proxy", address, words, "netsh winhttp", set_for_services.text
                )
                return
        part = self._part("system-proxy", "reg")
        if part is None or part.status not in (0, 1):
            return
        values = registry(part)
        server = values.get("PROXYSERVER", RegistryValue("", "")).data
        script = values.get("AUTOCONFIGURL", RegistryValue("", "")).data
        on = _dword(values.get("PROXYENABLE")) == 1
        if on and server:
            words = f"the account SYSTEM goes through {server}"
            yield self._fact("windows.system-proxy", server, words, part.line, part.text)
        elif script:
            words = f"the account SYSTEM asks {script} which proxy to use"
            yield self._fact("windows.system-proxy", script, words, part.line, part.text)
        elif set_for_services is not None:
            yield self._fact(
                "windows.system-proxy", "", "neither WinHTTP nor SYSTEM has a proxy", part.line
            )

    def log(self) -> Iterator[Fact]:
        """Errors of the event log, and what an antivirus program says of the agents' files."""
        paper = self._papers.command("events")
        if paper is not None and all(part.status == 0 for part in parts(paper)):
            seen = events(paper)
            lines = [
                f"{event.provider} {event.id}: {(event.message or ' '.join(event.data))[:300]}"
                for event in seen[:_MOST_EVENTS]
            ]
            words = f"{len(seen)} errors about shadow copies and disks in the last day"
            raw = "\n".join(event.raw for event in seen[:_MOST_EVENTS])
            at = seen[0].at if seen else None
            yield self._fact("windows.events", "; ".join(lines), words, "event log", raw, at)
        for event in events(self._papers.command("antivirus")):
            about = [text for text in event.data if _is_ours(text)]
            if about:
                words = f"{event.provider} {event.id}: {about[0][:300]}"
                yield self._fact(
                    "extension.antivirus", about[0][:300], words, "event log", event.raw, event.at
                )
                return


def _unit(service: Service) -> str:
    """A Windows service in the words of a systemd unit."""
    if not service.present:
        return "absent"
    if service.state == _RUNNING:
        return "active"
    if service.state in (_START_PENDING, _STOP_PENDING):
        return "activating" if service.state == _START_PENDING else "inactive"
    return "disabled" if service.start == _DISABLED else "inactive"


def _provider(service: Service) -> str:
    """A provider that is started on demand and not running is as it should be: "manual"."""
    if not service.present:
        return "absent"
    if service.start == _DISABLED:
        return "disabled"
    if service.state == _RUNNING:
        return "running"
    if service.start is None:
        return ""
    return "manual" if service.start == _DEMAND else "stopped"


def _about(service: Service, word: str) -> str:
    kinds = {_AUTO: "automatic", _DEMAND: "on demand", _DISABLED: "disabled"}
    kind = kinds.get(service.start or 0, "")
    return f"the service “{service.name}” is {word}" + (f" (start: {kind})" if kind else "")


def _writer(writer: Writer) -> str:
    service = _HOSTING_SERVICE.get(writer.guid)
    hosted = f", of the service {service}" if service else ""
    return f"{writer.name} ([{writer.state}] {writer.words}, {writer.error}{hosted})"


def _winhttp(text: str) -> str:
    """The proxy that `netsh winhttp show proxy` names: the first line of the form "words : host",
    where direct access has no such line. The list of exceptions comes after it."""
    for line in text.splitlines():
        label, colon, value = line.partition(":")
        if colon and label.strip() and value.strip() and " " not in value.strip():
            return value.strip()
    return ""


def _dword(value: RegistryValue | None) -> int | None:
    if value is None or value.kind != "REG_DWORD":
        return None
    try:
        return int(value.data, 16)
    except ValueError:
        return None


def _is_ours(text: str) -> bool:
    lower = text.lower()
    return "\\packages\\plugins\\" in lower or "\\qemu-ga" in lower or "\\windowsazure\\" in lower


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 16


def _properties(paper: Paper | None) -> list[tuple[str, str]]:
    return [pair for part in parts(paper) for pair in properties(part.text)]
