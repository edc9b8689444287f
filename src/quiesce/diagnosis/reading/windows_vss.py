"""Facts of Windows' shadow copies: writers, SQL Server's share in them, their type.

Sources: vss.h (states of writers, types of backups), QEMU's qga/vss-win32/requester.cpp
(`VssOption`, read since QEMU 8.0), Microsoft's documentation of Azure Backup
(`USEVSSCOPYBACKUP`) and of SQL Server's events.
"""

from __future__ import annotations

from collections.abc import Iterator

from quiesce.diagnosis.reading.observed import observed
from quiesce.diagnosis.reading.windows_outputs import (
    Writer,
    dword,
    events,
    part_of,
    parts,
    registry,
    writers,
)
from quiesce.model.diagnosis import Fact
from quiesce.model.papers import Papers

_SQL_WRITER = "a65faa63-5ea8-4ebc-9dbd-a0c4db26912a"
_FIRST_FAILED, _LAST_FAILED = 6, 15
"""VSS_WS_FAILED_AT_IDENTIFY to VSS_WS_FAILED_AT_BACKUPSHUTDOWN of vss.h. Those between 1 (stable)
and these wait: a backup is at work, or one was left in the middle."""
_COPY = 5
"""VSS_BT_COPY of vss.h; QEMU takes VSS_BT_FULL (1) when its registry says nothing."""
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


def vss_facts(papers: Papers, *, of_qemu: bool, of_azure: bool) -> Iterator[Fact]:
    """`of_qemu`, `of_azure`: whose agent is installed, and therefore whose setting counts."""
    yield from _writers(papers)
    yield from _sql_backups(papers)
    if of_qemu:
        yield from _type_of_qemu(papers)
    elif of_azure:
        yield from _type_of_azure(papers)


def _writers(papers: Papers) -> Iterator[Fact]:
    paper = papers.command("writers")
    found = writers(paper)
    if paper is None or not found:
        return
    bad = [writer for writer in found if _FIRST_FAILED <= writer.state <= _LAST_FAILED]
    busy = [writer.name for writer in found if 1 < writer.state < _FIRST_FAILED]
    said = "; ".join(_said(writer) for writer in bad)
    words = f"VSS writers have failed: {said}" if bad else "No VSS writer has failed"
    if busy:
        words += f"; in the middle of a backup: {', '.join(busy)}"
    raw = "\n".join(writer.raw for writer in (bad or found))
    yield observed(papers, paper, "windows.writers-failed", said, f"{words}.", raw=raw)
    sql = next((writer for writer in found if writer.guid == _SQL_WRITER), None)
    words = "SQL Server's VSS writer is registered." if sql else "There is no SQL VSS writer."
    raw = sql.raw if sql else ""
    yield observed(papers, paper, "windows.sql-writer", sql is not None, words, raw=raw)


def _said(writer: Writer) -> str:
    service = _HOSTING_SERVICE.get(writer.guid)
    hosted = f", of the service {service}" if service else ""
    return f"{writer.name} ([{writer.state}] {writer.words}, {writer.error}{hosted})"


def _sql_backups(papers: Papers) -> Iterator[Fact]:
    """Through VSS the SQL writer backs data up, to a virtual device, and never logs."""
    paper = papers.command("sql-backups")
    if paper is None or any(part.status != 0 for part in parts(paper)):
        return
    own = [
        event
        for event in events(paper)
        if event.id == _LOG_BACKED_UP or "VIRTUAL_DEVICE" not in " ".join(event.data)
    ]
    what = f"event {own[0].id}: {' '.join(own[0].data)[:300]}" if own else ""
    words = f"SQL Server has backups of its own ({what})." if own else "Its log shows none."
    raw, at = (own[0].raw, own[0].at) if own else ("", None)
    yield observed(papers, paper, "windows.sql-backups", bool(own), words, raw=raw, at=at)


def _type_of_qemu(papers: Papers) -> Iterator[Fact]:
    paper = papers.command("registry-qga-vss")
    part = part_of(paper, "reg")
    if paper is None or part is None or part.status not in (0, 1):
        return
    value = registry(part).get("VSSOPTION")
    copy = dword(value) == _COPY
    said = f"VssOption is {value.kind} {value.data}" if value else "VssOption is not set"
    kind = "copy" if copy else "not copy"
    words = f"{said}: the type of QEMU's shadow copies is {kind if value else 'full'}."
    yield observed(papers, paper, "windows.copy-backup", copy, words, raw=part.text)


def _type_of_azure(papers: Papers) -> Iterator[Fact]:
    paper = papers.command("registry-bcdragent")
    part = part_of(paper, "reg")
    if paper is None or part is None or part.status not in (0, 1):
        return
    value = registry(part).get("USEVSSCOPYBACKUP")
    if value is not None and value.kind == "REG_SZ" and value.data.upper() == "TRUE":
        if value.data != "TRUE":
            return  # nobody has written down whether the extension takes "true" for TRUE
        words = "USEVSSCOPYBACKUP is TRUE: the type of Azure's shadow copies is copy."
    elif value is None:
        words = "USEVSSCOPYBACKUP is not set: the type of Azure's shadow copies is full."
    else:
        words = f"USEVSSCOPYBACKUP is {value.kind} {value.data!r} and not the text TRUE."
    copy = value is not None and (value.kind, value.data) == ("REG_SZ", "TRUE")
    yield observed(papers, paper, "windows.copy-backup", copy, words, raw=part.text)
