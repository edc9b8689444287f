"""What the failure itself says: its route, the errno and the mount of a freeze."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from quiesce.diagnosis.vocabulary import FACTS
from quiesce.model.diagnosis import Fact
from quiesce.model.failure import Evidence, FailureReport
from quiesce.model.snapshot import Route
from quiesce.service.looks.panel import Case, Found

_SOURCE = "the failure"
_ERRNO = re.compile(r"\berrno \d+ \((E[A-Z0-9]+)\)")
"""As the extension writes it (guest/freeze.py); elsewhere the bare name stands for itself."""
_PYTHONS = re.compile(r"\[Errno (\d{1,3})\]")
"""In the words of an OSError. The numbers of Linux are the same here and there."""
_NAME = re.compile(r"\bE[A-Z]{3,14}\b")
_MOUNTS = (
    re.compile(r"FIFREEZE on (/.*)", re.DOTALL),
    re.compile(r"the freeze call on (/.*) was under way", re.DOTALL),
    re.compile(r"mount (/.*) \(id -?\d+, [^()]*\)", re.DOTALL),
)
"""The same, of the mount."""


_STAGE = re.compile(r"the extension's last report: ([a-z]+)")
_STAGES = FACTS["failed.stage"].words


def look_at_failure(case: Case, _: Found) -> Found:
    return Found(tuple(_facts(case)))


def _facts(case: Case) -> Iterator[Fact]:
    if case.route in (Route.HOST, Route.GUEST):
        yield Fact("failed.route", case.route.value, f"the {case.route} route failed", _SOURCE)
    innermost_first = tuple(reversed(case.failures))
    if innermost_first:
        yield from _stage(innermost_first[0])
    found = next(filter(None, map(_errno, innermost_first)), None)
    if found is not None:
        name, evidence = found
        words = f"the guest's kernel answered {name}"
        yield Fact("failed.errno", name, words, evidence.source, evidence.observed_at, evidence.raw)
    found = next(filter(None, map(_mount, innermost_first)), None)
    if found is not None:
        mount, evidence = found
        words = f"the mount {mount} could not be frozen"
        yield Fact(
            "failed.mount", mount, words, evidence.source, evidence.observed_at, evidence.raw
        )


def _stage(failure: FailureReport) -> Iterator[Fact]:
    """How far an extension had come that was waited for in vain."""
    for evidence in failure.evidence:
        found = _STAGE.fullmatch(evidence.fact)
        if found and found[1] in _STAGES:
            words = f"the extension's last report was of the stage {found[1]}"
            yield Fact(
                "failed.stage", found[1], words, evidence.source, evidence.observed_at, evidence.raw
            )
            return


def _errno(failure: FailureReport) -> tuple[str, Evidence] | None:
    for evidence in failure.evidence:
        found = _ERRNO.search(evidence.raw) or _ERRNO.search(evidence.fact)
        if found:
            return found[1], evidence
    for evidence in failure.evidence:
        number = _PYTHONS.search(evidence.raw)
        name = errno.errorcode.get(int(number[1])) if number else None
        if name:
            return name, evidence
        bare = _NAME.fullmatch(evidence.raw.strip())
        if bare:
            return bare[0], evidence
    return None


def _mount(failure: FailureReport) -> tuple[str, Evidence] | None:
    if not failure.code.startswith("freeze."):
        return None
    for evidence in failure.evidence:
        for pattern in _MOUNTS:
            found = pattern.fullmatch(evidence.fact)
            if found:
                return found[1], evidence
    return None
