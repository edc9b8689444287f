"""The failure that papers themselves tell of: what a bundle without a job is about.

Our own extension's status holds its failure as it is. Azure's backup extension
(Microsoft.Azure.RecoveryServices.VMSnapshotLinux) writes a number: `vmHealthStatusCode` inside the
status that it keeps as JSON in a substatus' name, and `StatusCode.NAME` in its log (Azure's
azure-linux-extensions, VMBackup/main/Utils/HandlerUtil.py and ExtensionErrorCodeHelper.py). Else
the agent's log is asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from quiesce.diagnosis.reading.azure_codes import CODES, number_named
from quiesce.diagnosis.reading.extension import status_of
from quiesce.diagnosis.reading.log_lines import LogLine, log_lines
from quiesce.diagnosis.reading.observed import observed, shown
from quiesce.model.diagnosis import Fact
from quiesce.model.failure import Evidence, FailureReport
from quiesce.model.papers import Paper, Papers

_FOREIGN = "Azure's backup extension"
_UNREACHABLE = "network.host-address-unreachable"
_BY_AGENT: Mapping[str, str] = {
    **dict.fromkeys(("no-host", "no-option-245", "host-refused", "proxy", "crash"), "agent.silent"),
    "no-space": "agent.disk-full",
    "certificate": "agent.certificate",
    "extensions-disabled": "agent.extensions-disabled",
    "extension-timeout": "extension.timeout",
    **{
        name: f"extension.{name}"
        for name in ("download-failed", "package-corrupt", "manifest-invalid", "install-failed")
    },
    **{name: f"extension.{name}" for name in ("enable-failed", "update-failed")},
}
_IN_WORDS = (
    # What the kernel told the agent is more than its silence.
    (re.compile(r"\[HTTP Failed\] GET http://[\d.]+(?::80)?/.* -- IOError "), _UNREACHABLE),
    (re.compile(r"/proc/net/route contains no routes"), "network.no-route"),
)
_STATUS = re.compile(
    r"/var/lib/waagent/(?:(?P<handler>[A-Za-z0-9_.]+)-[\d.]+|unknown)/status/(?P<seq>[0-9]{1,9})\.status"
)
_MOUNT = re.compile(r"(?:Failed to FIFREEZE|Failed to open|failed to freeze)[: ]+(/[^\s,]*)")
_ERRNO = re.compile(
    r"\b(EIO|ENOSPC|EDQUOT|EBUSY|EROFS|EOPNOTSUPP|ENOENT|EACCES|EINVAL|ETIMEDOUT)\b"
)
_GOOD_END = re.compile(r"\bEnable,success,[01]\b|StatusCode\.success|snapshot result: success")
_MS_DATE = re.compile(r"\\?/Date\(([0-9]{1,15})\)\\?/")


@dataclass(frozen=True, slots=True)
class _Told:
    """One end of a backup as a paper tells it. `failure` None: a good one."""

    at: datetime
    paper: Paper
    failure: FailureReport | None


def failure_in(papers: Papers) -> FailureReport | None:
    """The failure of the newest backup that the papers tell of; None when it went well, or when
    they tell of none."""
    told = [*_statuses(papers), *_logs(papers)]
    if not told:
        return None
    return max(told, key=lambda each: each.at).failure


def failure_by_agent(facts: tuple[Fact, ...]) -> FailureReport | None:
    """What the agent's log complains of, when no extension has told anything of a backup."""
    says = next((fact for fact in facts if fact.name == "waagent.says"), None)
    code = _BY_AGENT.get(str(says.value)) if says is not None else None
    if says is None or code is None:
        return None
    code = next((more for pattern, more in _IN_WORDS if pattern.search(says.raw)), code)
    return FailureReport(code, says.words, (says.evidence(),))


def failed_facts(papers: Papers, failure: FailureReport | None) -> Iterator[Fact]:
    """What the failed backup's own log says about it."""
    if failure is None:
        return
    raw = " ".join(item.raw for item in failure.evidence)
    told = {item.source for item in failure.evidence}
    source = next((each for each in papers.papers if each.path in told), papers.papers[0])
    words = "It failed on the way through the Azure Linux agent."
    yield observed(papers, source, "failed.route", "guest", words, raw=raw)
    paper = next((each for each in papers.papers if _is_foreign_log(each)), None)
    if paper is not None:
        mounts = _MOUNT.findall(paper.text)
        if mounts and failure.code.startswith("freeze."):
            words = f"{mounts[-1]} could not be frozen."
            line = next(ln for ln in reversed(paper.text.splitlines()) if mounts[-1] in ln)
            yield observed(papers, paper, "failed.mount", mounts[-1], words, raw=line)
    if found := _ERRNO.search(raw):
        words = f"The kernel answered {found[1]}."
        yield observed(papers, source, "failed.errno", found[1], words, raw=raw)


def _statuses(papers: Papers) -> Iterator[_Told]:
    newest: dict[str, tuple[int, Paper]] = {}
    for paper in papers.under("/var/lib/waagent/"):
        match = _STATUS.fullmatch(paper.path)
        if match and not paper.problem and _of_backup(match["handler"], paper.text):
            handler, sequence = match["handler"] or "", int(match["seq"])
            if sequence >= newest.get(handler, (-1, paper))[0]:
                newest[handler] = (sequence, paper)
    for handler, (_, paper) in newest.items():
        status = status_of(paper.text)
        if status is None:
            continue
        read = _ours if "Quiesce" in (handler or str(status.get("name", ""))) else _azures
        told = read(paper, status)
        if told is not None:
            yield told


def _of_backup(handler: str | None, text: str) -> bool:
    return bool(re.search(r"Quiesce\.VmBackup|VMSnapshot", handler or text))


def _ours(paper: Paper, status: Mapping[str, Any]) -> _Told | None:
    at = _written(paper)
    substatus = status.get("substatus")
    for each in substatus if isinstance(substatus, list) else ():
        message = each.get("formattedMessage") if isinstance(each, dict) else None
        report = _json(message.get("message") if isinstance(message, dict) else None)
        if isinstance(report, dict):
            failure = report.get("failure")
            if isinstance(failure, dict) and isinstance(failure.get("code"), str):
                return _Told(at, paper, _report(paper, at, failure))
            return _Told(at, paper, None)
    return None


def _report(paper: Paper, at: datetime, failure: Mapping[str, Any]) -> FailureReport:
    evidence = failure.get("evidence")
    return FailureReport(
        code=str(failure["code"])[:100],
        message=shown(str(failure.get("message", ""))),
        evidence=tuple(
            Evidence(
                shown(str(item.get("fact", ""))),
                shown(str(item.get("source", paper.path))),
                at,
                shown(str(item.get("raw", ""))),
            )
            for item in (evidence if isinstance(evidence, list) else ())[:20]
            if isinstance(item, dict)
        ),
        remedy=shown(str(failure.get("remedy") or "")),
        retryable=failure.get("retryable") is True,
    )


def _azures(paper: Paper, status: Mapping[str, Any]) -> _Told | None:
    """The inner status, if there is one: the outer one says "success" of every end."""
    inner: Mapping[str, Any] = status
    at = _written(paper)
    substatus = status.get("substatus")
    for each in substatus if isinstance(substatus, list) else ():
        document = _json(each.get("name") if isinstance(each, dict) else None)
        document = document[0] if isinstance(document, list) and document else document
        if isinstance(document, dict) and isinstance(document.get("status"), dict):
            inner = document["status"]
            at = _ms_date(document.get("timestampUTC")) or at
    word = str(inner.get("status", "")).lower()
    message = inner.get("formattedMessage")
    said = str(message.get("message", "")) if isinstance(message, dict) else ""
    health = inner.get("vmHealthInfo")
    number = _number(health.get("vmHealthStatusCode") if isinstance(health, dict) else None)
    number = number or number_named(said) or _number(inner.get("code"))
    if word == "error":
        return _Told(at, paper, _azure_failure(paper, at, number, said))
    return _Told(at, paper, None) if word == "success" else None


def _logs(papers: Papers) -> Iterator[_Told]:
    for paper in papers.papers:
        if not _is_foreign_log(paper):
            continue
        last: tuple[LogLine, int | None] | None = None
        mount: LogLine | None = None
        for line in log_lines(paper.text):
            number = number_named(line.words)
            if number is not None and number in CODES:
                last = (line, number)
            elif _GOOD_END.search(line.words):
                last = (line, None)
            elif _MOUNT.search(line.words):
                mount = line
        if last is not None:
            line, number = last
            failure = _azure_failure(paper, line.at, number, line.raw) if number else None
            if failure is not None and mount is not None and failure.code.startswith("freeze."):
                point = _MOUNT.findall(mount.words)[-1]
                refused = Evidence(f"{point} was not frozen", paper.path, mount.at, mount.raw)
                failure = replace(failure, evidence=(refused, *failure.evidence))
            yield _Told(line.at, paper, failure)


def _is_foreign_log(paper: Paper) -> bool:
    return (
        paper.path.startswith("/var/log/azure/")
        and not paper.problem
        and ("VMSnapshot" in paper.path or "VMSnapshot" in paper.text[-4000:])
    )


def _azure_failure(paper: Paper, at: datetime, number: int | None, said: str) -> FailureReport:
    code = CODES.get(number or 0, "snapshot.failed")
    called = f" with its code {number}" if number else ""
    return FailureReport(
        code,
        f"{_FOREIGN} ended{called}.",
        (Evidence(f"{_FOREIGN} reported an error{called}", paper.path, at, shown(said)),),
        retryable=number in (76, 121, 122, 123, 173, 761),
    )


def _number(value: object) -> int | None:
    text = str(value)
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text) and int(text) > 1 else None


def _json(text: object) -> Any:
    if not isinstance(text, str):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _ms_date(text: object) -> datetime | None:
    found = _MS_DATE.fullmatch(str(text))
    if not found:
        return None
    try:
        return datetime.fromtimestamp(int(found[1]) / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def _written(paper: Paper) -> datetime:
    """`timestampUTC` of the file, else when it was written."""
    found = re.search(r'"timestampUTC": ?"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)', paper.text)
    if found:
        try:
            return datetime.fromisoformat(found[1]).replace(tzinfo=UTC)
        except ValueError:
            pass
    return paper.modified_at or datetime.min.replace(tzinfo=UTC)
