"""Failures as they come over the wire, raised again on this side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from quiesce.model.failure import EXIT_BY_CODE, Evidence, ExitCode, Failure, FailureReport

_EXIT_BY_STATUS = {
    400: ExitCode.USAGE,
    401: ExitCode.DENIED,
    403: ExitCode.DENIED,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.CONFLICT,
    413: ExitCode.USAGE,
    422: ExitCode.USAGE,
}
# Where the status says nothing more than "it did not work", the family decides.
_EXIT_BY_FAMILY = {
    "vault": ExitCode.DAMAGED,
    "server": ExitCode.UNREACHABLE,
    "internal": ExitCode.INTERNAL,
}


class RemoteFailure(Failure):
    """A failure that the server raised, with its evidence and inner causes as they were there."""

    def __init__(self, told: FailureReport, exit_code: ExitCode) -> None:
        super().__init__(
            told.code,
            told.message,
            evidence=told.evidence,
            remedy=told.remedy,
            retryable=told.retryable,
        )
        self.exit_code = exit_code
        self._told = told

    def report(self) -> FailureReport:
        return self._told


def from_problem(problem: Mapping[str, Any]) -> RemoteFailure:
    """An `application/problem+json` body as the failure it stands for."""
    told = report_from_json({**problem, "message": problem.get("detail", "")})
    by_family = _EXIT_BY_FAMILY.get(told.code.partition(".")[0], ExitCode.JOB_FAILED)
    by_status = _EXIT_BY_STATUS.get(int(problem.get("status", 500)), by_family)
    return RemoteFailure(told, EXIT_BY_CODE.get(told.code, by_status))


def report_from_json(value: Mapping[str, Any]) -> FailureReport:
    """A `FailureReport` from its JSON; a field that an older server does not send is empty."""
    return FailureReport(
        code=str(value.get("code", "")),
        message=str(value.get("message", "")),
        evidence=evidence_from_json(value.get("evidence") or ()),
        remedy=str(value.get("remedy", "")),
        retryable=bool(value.get("retryable", False)),
        cause=report_from_json(value["cause"]) if value.get("cause") else None,
    )


def evidence_from_json(items: Iterable[Mapping[str, Any]]) -> tuple[Evidence, ...]:
    return tuple(
        Evidence(
            fact=str(item.get("fact", "")),
            source=str(item.get("source", "")),
            observed_at=_time(item.get("observed_at")),
            raw=str(item.get("raw", "")),
        )
        for item in items
    )


def _time(text: str | None) -> datetime:
    return datetime.fromisoformat(text) if text else datetime.now(UTC)
