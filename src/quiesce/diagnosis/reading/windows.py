"""Facts of a Windows guest, from what `guest/collect.ps1` printed: the system, its agents'
services, the proxy of services, the event log. Its shadow copies are read by `windows_vss`.

Sources of what is looked for: QEMU's qga/vss-win32 (the provider's service), Microsoft's
documentation of Azure Backup (`IaasVmProvider`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from quiesce.diagnosis.reading.machine import FULL_BYTES, clock_facts
from quiesce.diagnosis.reading.observed import observed
from quiesce.diagnosis.reading.windows_outputs import (
    Part,
    RegistryValue,
    Service,
    dword,
    events,
    part_of,
    parts,
    properties,
    registry,
    services,
)
from quiesce.diagnosis.reading.windows_vss import vss_facts
from quiesce.model.diagnosis import Fact
from quiesce.model.papers import Paper, Papers

QGA, QGA_PROVIDER = "QEMU-GA", "QEMU Guest Agent VSS Provider"
AZURE, AZURE_PROVIDER = "WindowsAzureGuestAgent", "IaasVmProvider"
_START_PENDING, _RUNNING = 2, 4
_AUTO, _DEMAND, _DISABLED = 2, 3, 4
"""SERVICE_STATUS.dwCurrentState and QUERY_SERVICE_CONFIG.dwStartType (winsvc.h)."""
_MOST_EVENTS = 5


def is_windows(papers: Papers) -> bool:
    """Whether they were collected by `collect.ps1`."""
    return papers.command("services") is not None


def windows_facts(papers: Papers) -> Iterator[Fact]:
    """What the papers of a Windows guest show; nothing when they are from another system."""
    paper = papers.command("services")
    if paper is None:
        return
    known = services(paper)
    agents = [name for name in (QGA, AZURE) if (found := _of(known, name)) and found.present]
    yield from _system(papers, paper)
    yield from clock_facts(papers)
    yield from _load(papers)
    yield from _agent(papers, paper, known)
    yield from _provider(papers, paper, known)
    yield from vss_facts(papers, of_qemu=QGA in agents, of_azure=AZURE in agents)
    yield from _proxy(papers)
    yield from _log(papers)


def _system(papers: Papers, services_paper: Paper) -> Iterator[Fact]:
    paper = papers.command("os")
    known = dict(_properties(paper))
    caption = " ".join((known.get("Caption", "Windows"), known.get("Version", ""))).strip()
    words = f"The guest runs {caption}."
    yield observed(papers, paper or services_paper, "guest.os", "windows", words, raw=caption)
    space = papers.command("space")
    drive, here = known.get("SystemDrive", "C:"), False
    for name, value in _properties(space):
        if name == "DeviceID":
            here = value.upper() == drive.upper()
        elif name == "FreeSpace" and here and _is_number(value) and space is not None:
            left, raw = int(value), f"{drive} {value}"
            words = f"{left / (1 << 20):,.0f} MiB are free on {drive}."
            yield observed(papers, space, "guest.root-free-bytes", float(left), words, raw=raw)
            full = drive if left < FULL_BYTES else ""
            words = f"Full: {drive}." if full else f"{drive}, which the agents need, is not full."
            yield observed(papers, space, "guest.disk-full", full, words, raw=raw)


def _load(papers: Papers) -> Iterator[Fact]:
    paper = papers.command("load")
    if paper is None:
        return
    found = [(name, float(value)) for name, value in _properties(paper) if _is_number(value)]
    used = [value for name, value in found if name == "LoadPercentage"]
    if used:
        mean = sum(used) / len(used)
        words = f"{mean:.0f} % of the processors' time is used."
        yield observed(papers, paper, "guest.cpu-percent", mean, words, raw=paper.text)
    sizes = dict(found)
    total, left = sizes.get("TotalVisibleMemorySize", 0.0), sizes.get("FreePhysicalMemory")
    if total > 0 and left is not None:
        percent = 100.0 * (1.0 - min(left, total) / total)
        words = f"{percent:.0f} % of the memory is used."
        yield observed(papers, paper, "guest.memory-percent", percent, words, raw=paper.text)


def _of(known: dict[str, Service], name: str) -> Service | None:
    return known.get(name.lower())


def _agent(papers: Papers, paper: Paper, known: dict[str, Service]) -> Iterator[Fact]:
    agent = _of(known, QGA)
    if agent is None:
        return
    word = _unit_word(agent)
    words = _about(agent, word)
    yield observed(papers, paper, "qga.installed", agent.present, words, raw=agent.raw)
    yield observed(papers, paper, "qga.unit", word, words, raw=agent.raw)


def _provider(papers: Papers, paper: Paper, known: dict[str, Service]) -> Iterator[Fact]:
    """The provider of shadow copies of whichever agent there is."""
    for owner, name in ((QGA, QGA_PROVIDER), (AZURE, AZURE_PROVIDER)):
        holder, provider = _of(known, owner), _of(known, name)
        if holder is None or provider is None or not holder.present:
            continue
        provider = _with_start(provider, part_of(papers.command("registry-qga-vss"), name))
        word = _provider_word(provider)
        if not word or (word == "absent" and owner == AZURE):
            continue  # Azure's extension brings it with the first backup
        words = _about(provider, word)
        yield observed(papers, paper, "windows.provider", word, words, raw=provider.raw)
        return


def _with_start(provider: Service, part: Part | None) -> Service:
    """With its start type from the registry when `sc qc` did not say it."""
    if provider.start is not None or part is None:
        return provider
    start = dword(registry(part).get("START"))
    return replace(provider, start=start, raw=f"{provider.raw}\n{part.text}")


def _proxy(papers: Papers) -> Iterator[Fact]:
    """The proxy of services: WinHTTP's first, else that of the account SYSTEM."""
    name = "windows.system-proxy"
    paper = papers.command("winhttp-proxy")
    direct = False
    for part in parts(paper):
        if paper is None or part.status != 0 or not part.text.strip():
            continue
        direct = True
        address = _without_credentials(_winhttp(part.text))
        if address:
            words = f"WinHTTP, which services use, goes through {address}."
            yield observed(papers, paper, name, address, words, raw=address)
            return
    own = papers.command("system-proxy")
    key = part_of(own, "reg")
    if own is None or key is None or key.status not in (0, 1):
        return
    values = registry(key)
    server = _without_credentials(values.get("PROXYSERVER", RegistryValue("", "")).data)
    script = _without_credentials(values.get("AUTOCONFIGURL", RegistryValue("", "")).data)
    on = dword(values.get("PROXYENABLE")) == 1
    if on and server:
        words = f"The account SYSTEM goes through {server}."
        yield observed(papers, own, name, server, words, raw=f"ProxyServer {server}")
    elif script:
        words = f"The account SYSTEM asks {script} which proxy to use."
        yield observed(papers, own, name, script, words, raw=f"AutoConfigURL {script}")
    elif direct:
        words = "Neither WinHTTP nor the account SYSTEM has a proxy."
        yield observed(papers, own, name, "", words, raw=key.text)


def _log(papers: Papers) -> Iterator[Fact]:
    """Errors of the event log, and what an antivirus program says of the agents' files."""
    paper = papers.command("events")
    if paper is not None and all(part.status == 0 for part in parts(paper)):
        seen = events(paper)
        lines = [
            f"{event.provider} {event.id}: {(event.message or ' '.join(event.data))[:300]}"
            for event in seen[:_MOST_EVENTS]
        ]
        words = f"{len(seen)} errors about shadow copies and disks in the last day."
        raw, at = (seen[0].raw, seen[0].at) if seen else ("", None)
        yield observed(papers, paper, "windows.events", "; ".join(lines), words, raw=raw, at=at)
    antivirus = papers.command("antivirus")
    for event in events(antivirus):
        about = [text[:300] for text in event.data if _is_ours(text)]
        if about and antivirus is not None:
            name, words = "extension.antivirus", f"{event.provider} {event.id}: {about[0]}"
            yield observed(papers, antivirus, name, about[0], words, raw=event.raw, at=event.at)
            return


def _unit_word(service: Service) -> str:
    """A Windows service in the words of a systemd unit."""
    if not service.present:
        return "absent"
    if service.state == _RUNNING:
        return "active"
    if service.state == _START_PENDING:
        return "activating"
    return "disabled" if service.start == _DISABLED else "inactive"


def _provider_word(service: Service) -> str:
    """One that is started on demand and does not run now is as it should be: "manual"."""
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
    return f"The service “{service.name}” is {word}" + (f" (start: {kind})." if kind else ".")


def _winhttp(text: str) -> str:
    """The proxy that `netsh winhttp show proxy` names: the first line of the form "words : host",
    where direct access has no such line. The list of exceptions comes after it."""
    for line in text.splitlines():
        label, colon, value = line.partition(":")
        if colon and label.strip() and value.strip() and " " not in value.strip():
            return value.strip()
    return ""


def _without_credentials(proxy: str) -> str:
    return proxy.rpartition("@")[2]


def _is_ours(text: str) -> bool:
    lower = text.lower()
    return "\\packages\\plugins\\" in lower or "\\qemu-ga" in lower or "\\windowsazure\\" in lower


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 16


def _properties(paper: Paper | None) -> list[tuple[str, str]]:
    return [pair for part in parts(paper) for pair in properties(part.text)]
