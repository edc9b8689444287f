"""What the extension says about itself, read as data that nobody vouches for.

Layout of state.json and of the failure object: docs/explanation/guest-extension.md. The guest may
be hostile: every field is checked, every text is bounded and stripped of control characters.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeGuard

from quiesce.agent.framing import printable, quoted
from quiesce.model.extension import ScriptRun
from quiesce.model.failure import (
    AgentFailure,
    Evidence,
    ExtensionFailure,
    Failure,
    FreezeFailure,
    NetworkFailure,
    ScriptFailure,
    StorageFailure,
)
from quiesce.model.snapshot import FreezeReport, MountFreeze

_CODE = re.compile(r"[a-z][a-z0-9-]{0,40}(\.[a-z0-9-]{1,60})+")
_SCRIPT_CODE = re.compile(r"script\.[a-z-]{1,40}")
_FAMILIES: Mapping[str, type[Failure]] = {
    "agent": AgentFailure,
    "extension": ExtensionFailure,
    "freeze": FreezeFailure,
    "network": NetworkFailure,
    "script": ScriptFailure,
    "session": ExtensionFailure,
    "storage": StorageFailure,
}
"""What a guest may speak of. Codes of other families are this server's own words: by
job.cancelled, say, a job ends as its operator's wish."""
_OTHER_CODES = frozenset({"job.stale-command", "job.superseded"})
"""The driver's, about an attempt that it does not begin or does not end."""
_MAX_ENTRIES = 10_000


class Phase(StrEnum):
    """Where a session in the guest stands; the order of the members is the order of events."""

    PREPARING = "preparing"
    READY = "ready"
    FREEZING = "freezing"
    FROZEN = "frozen"
    THAWED = "thawed"
    FINISHING = "finishing"
    DONE = "done"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        return self in (Phase.DONE, Phase.FAILED)

    @property
    def thawed(self) -> bool:
        return self in (Phase.THAWED, Phase.FINISHING) or self.ended


@dataclass(frozen=True, slots=True)
class SessionState:
    """One reading of state.json. `mounts` is the plan; `freeze` follows it with its times."""

    task_id: str
    phase: Phase
    version: str
    pid: int
    mounts: tuple[MountFreeze, ...]
    scripts_configured: bool
    pre_script: ScriptRun | None
    post_script: ScriptRun | None
    freeze: FreezeReport | None
    thawed_by: str
    warnings: tuple[str, ...]
    failure: Failure | None


def session_state(raw: bytes) -> SessionState:
    """:raise ExtensionFailure: extension.output-invalid"""
    return session_of(json_object(raw, "state.json"), "state.json")


def session_of(document: dict[str, object], source: str) -> SessionState:
    """The same of a document that `source` holds. :raise ExtensionFailure: as `session_state`"""
    try:
        return _state(document)
    except (KeyError, TypeError, ValueError, OverflowError) as inner:
        raise _invalid(source, ", ".join(document).encode("utf-8", "replace")) from inner


def json_object(raw: bytes, source: str) -> dict[str, object]:
    """:raise ExtensionFailure: extension.output-invalid"""
    try:
        document: object = json.loads(raw)
    except (ValueError, RecursionError) as inner:
        raise _invalid(source, raw) from inner
    if not isinstance(document, dict):
        raise _invalid(source, raw)
    return document


def failure_of(document: object) -> Failure:
    """A failure object of the extension as a `Failure` of the family its code names. Its remedy is
    left out: what an operator is told to do is not for a guest to say."""
    if not isinstance(document, dict):
        document = {"evidence": [{"fact": "a failure that is no object", "raw": repr(document)}]}
    evidence = document.get("evidence")
    entries = evidence if isinstance(evidence, list) else []
    code, said = "extension.output-invalid", document.get("code")
    if _speakable(said):
        code = said
    elif said is not None:
        entries = [{"fact": "a code that no guest may speak of", "raw": said}, *entries]
    return _FAMILIES.get(code.partition(".")[0], ExtensionFailure)(
        code,
        _words(document.get("message")) or "The extension failed and did not say why.",
        evidence=[
            Evidence(
                fact=_words(entry.get("fact")),
                source=_words(entry.get("source")) or "extension",
                raw=_words(entry.get("raw")),
            )
            for entry in entries[:100]
            if isinstance(entry, dict)
        ],
        retryable=document.get("retryable") is True,
    )


def _speakable(code: object) -> TypeGuard[str]:
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        return False
    return code.partition(".")[0] in _FAMILIES or code in _OTHER_CODES


def mount_plan(document: object) -> tuple[MountFreeze, ...]:
    """`mounts` of state.json or of preflight. :raise KeyError, TypeError: not a plan"""
    return tuple(
        MountFreeze(
            mount=_text(entry["mount"]),
            file_system=_text(entry["file_system"]),
            skipped=""
            if entry["action"] == "freeze"
            else _text(entry.get("reason")) or "skipped without a reason",
            downgrades=entry.get("downgrades") is True,
        )
        for entry in _entries(document)
    )


def _state(document: dict[str, object]) -> SessionState:
    scripts = _mapping(document.get("scripts") or {})
    plan = mount_plan(document.get("mounts") or [])
    frozen = document.get("freeze")
    failure = document.get("failure")
    warnings = document.get("warnings") or []
    pid = document.get("pid")
    if not isinstance(warnings, list):
        raise TypeError("warnings")
    return SessionState(
        task_id=_text(document["task"]),
        phase=Phase(str(document["state"])),
        version=_text(document.get("version")),
        pid=pid if type(pid) is int and pid > 0 else 0,
        mounts=plan,
        scripts_configured=scripts.get("configured") is True,
        pre_script=_script(scripts.get("pre")),
        post_script=_script(scripts.get("post")),
        freeze=None if frozen is None else _freeze(_mapping(frozen), plan),
        thawed_by="" if frozen is None else _text(_mapping(frozen).get("thawed_by")),
        warnings=tuple(_text(warning) for warning in warnings[:1000]),
        failure=None if failure is None else failure_of(failure),
    )


def _freeze(document: Mapping[str, object], plan: tuple[MountFreeze, ...]) -> FreezeReport:
    """Mounts of the plan that the freeze does not speak of were left out of it."""
    reported = {
        _text(entry["mount"]): MountFreeze(
            mount=_text(entry["mount"]),
            file_system=_text(entry["file_system"]),
            freeze_ms=_number(entry.get("freeze_ms")),
            frozen_ms=_number(entry.get("frozen_ms")),
            skipped=_text(entry.get("skipped")),
            downgrades=entry.get("downgrades") is True,
        )
        for entry in _entries(document["mounts"])
    }
    mounts = []
    for planned in plan:
        told = reported.pop(planned.mount, None)
        if told is None:
            skipped = planned.skipped or "the extension did not report a freeze of it"
            told = MountFreeze(
                planned.mount,
                planned.file_system,
                skipped=skipped,
                downgrades=planned.downgrades or not planned.skipped,
            )
        elif told.skipped and not planned.skipped:
            # Planned to be frozen and then left out costs consistency, whatever the reason. One
            # that cannot be frozen may have proven to be quiet: the report knows better.
            told = replace(told, downgrades=True)
        mounts.append(told)
    return FreezeReport(
        mounts=(*mounts, *reported.values()),
        held=document.get("held") is True,
        hold_seconds=_number(document.get("hold_seconds")),
    )


def _script(document: object) -> ScriptRun | None:
    if document is None:
        return None
    run = _mapping(document)
    code = run.get("exit_code")
    failure = _text(run.get("code"))
    return ScriptRun(
        path=_text(run.get("path")),
        exit_code=code if type(code) is int else None,
        seconds=_number(run.get("seconds")),
        stderr=_text(run.get("stderr")),
        code=failure if _SCRIPT_CODE.fullmatch(failure) else "",
    )


def _entries(document: object) -> list[Mapping[str, object]]:
    if not isinstance(document, list) or len(document) > _MAX_ENTRIES:
        raise TypeError("not a list of mounts")
    return [_mapping(entry) for entry in document]


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return value


def _number(value: object) -> float:
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError("not a number")
    return max(0.0, float(value))


def _text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError("not a text")
    return printable(value)


def _words(value: object) -> str:
    """A text of a failure: whatever stands there instead of one is better kept than refused."""
    return "" if value is None else printable(value if isinstance(value, str) else repr(value))


def _invalid(source: str, raw: bytes) -> ExtensionFailure:
    return ExtensionFailure(
        "extension.output-invalid",
        f"The extension's {source} is not what its contract says.",
        evidence=[Evidence(fact=f"{len(raw)} bytes", source=source, raw=quoted(raw))],
        retryable=True,
    )
