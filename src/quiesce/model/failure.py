"""The one failure tree of Quiesce.

A failure is a value that travels as an exception. Every layer raises a `Failure` of its own
family that carries facts; nothing but `quiesce.diagnosis` turns facts into causes.

    Failure
    ├── InputFailure          the request itself is wrong; nothing was changed
    ├── PolicyFailure         the request is understood and not allowed now
    ├── AuthFailure           who asks may not
    ├── AgentFailure          the VM's agent
    ├── ExtensionFailure      the backup extension inside the VM
    ├── ScriptFailure         the operator's own pre- and post-scripts
    ├── FreezeFailure         freezing or thawing file systems in the guest
    ├── SnapshotFailure       the hypervisor's point-in-time snapshot
    ├── VmFailure             the VM as a whole (gone, paused, shut down)
    ├── NetworkFailure        the guest's way to the storage endpoint
    ├── StorageFailure        storage endpoint, scratch space, vault's object store
    ├── VaultFailure          vault contents: keys, packs, manifests
    ├── RestoreFailure        writing a point back
    ├── JobFailure            the job around all of it (cancelled, interrupted)
    ├── LabFailure            the lab's own images and guests
    └── ServerFailure         the server process and the client's way to it

Codes are stable, dotted and lower-case; `quiesce.diagnosis.catalogue` explains every one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum


class ExitCode(IntEnum):
    """What the command line ends with; documented in docs/reference/exit-codes.md."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    JOB_FAILED = 3
    JOB_WARNING = 4
    NOT_FOUND = 5
    CONFLICT = 6
    UNREACHABLE = 7
    DENIED = 8
    DAMAGED = 9
    INTERRUPTED = 130


EXIT_BY_CODE = {
    "restore.point-incomplete": ExitCode.DAMAGED,
    "vault.base-missing": ExitCode.JOB_FAILED,
    "vault.clock-ahead": ExitCode.JOB_FAILED,
    "vault.collect-running": ExitCode.CONFLICT,
    "vault.copy-unseen": ExitCode.JOB_FAILED,
    "vault.exists": ExitCode.CONFLICT,
    "vault.job-conflict": ExitCode.CONFLICT,
    "vault.lease-locked": ExitCode.CONFLICT,
    "vault.locked": ExitCode.DENIED,
    "vault.manifest-unfit": ExitCode.JOB_FAILED,
    "vault.not-a-vault": ExitCode.NOT_FOUND,
    "vault.point-deleted": ExitCode.CONFLICT,
    "vault.session-expired": ExitCode.JOB_FAILED,
    "vault.version-unsupported": ExitCode.JOB_FAILED,
}
"""Codes that end a command otherwise than their family does: these vaults may well be sound, and a
restore has met damage where it is incomplete."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One observed fact: what, where, when (UTC), and the raw words if there were any."""

    fact: str
    source: str
    observed_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    raw: str = ""


@dataclass(frozen=True, slots=True)
class FailureReport:
    """A failure as plain data: what is stored with a job and sent over the API.

    `cause` is the inner failure, kept whole; an inner error that is no Failure is kept as
    evidence with its text in `raw`.
    """

    code: str
    message: str
    evidence: tuple[Evidence, ...] = ()
    remedy: str = ""
    retryable: bool = False
    cause: FailureReport | None = None


class Failure(Exception):  # noqa: N818 - the field's own word
    """Something did not work, said with its code, its facts and what to do next.

    `code`      stable dotted code, explained by `quiesce explain CODE`
    `message`   one sentence for a person; names the object concerned
    `evidence`  the facts, oldest first
    `remedy`    the next step as a sentence or exact commands; empty if the catalogue's will do
    `retryable` whether the same call may succeed later without anything being mended
    The inner error is Python's own `__cause__`: always `raise X(...) from inner`.
    """

    exit_code: ExitCode = ExitCode.INTERNAL

    def __init__(
        self,
        code: str,
        message: str,
        *,
        evidence: Sequence[Evidence] = (),
        remedy: str = "",
        retryable: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.exit_code = EXIT_BY_CODE.get(code, self.exit_code)
        self.message = message
        self.evidence = tuple(evidence)
        self.remedy = remedy
        self.retryable = retryable
        self._made_at = datetime.now(UTC)

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]"

    def __reduce__(self) -> tuple[object, ...]:
        """A failure crosses to another process whole, its inner errors with it."""
        return _blank, (type(self), *self.args), {**self.__dict__, "__cause__": self.__cause__}

    def report(self) -> FailureReport:
        """This failure as plain data, with the chain of inner errors kept whole. Two reports of
        one failure are equal: whoever has looked into the one has looked into the other."""
        inner = self.__cause__
        evidence = self.evidence
        cause: FailureReport | None = None
        if isinstance(inner, Failure):
            cause = inner.report()
        elif inner is not None and str(inner) not in {item.raw for item in evidence if item.raw}:
            evidence = (
                *evidence,
                Evidence(
                    fact=f"inner error {type(inner).__name__}",
                    source="quiesce",
                    observed_at=self._made_at,
                    raw=str(inner) or repr(inner),
                ),
            )
        return FailureReport(
            code=self.code,
            message=self.message,
            evidence=evidence,
            remedy=self.remedy,
            retryable=self.retryable,
            cause=cause,
        )


def _blank(kind: type[Failure], *args: object) -> Failure:
    return kind.__new__(kind, *args)


class InputFailure(Failure):
    exit_code = ExitCode.USAGE


class NotFoundFailure(InputFailure):
    exit_code = ExitCode.NOT_FOUND


class PolicyFailure(Failure):
    exit_code = ExitCode.CONFLICT


class AuthFailure(Failure):
    exit_code = ExitCode.DENIED


class AgentFailure(Failure):
    exit_code = ExitCode.JOB_FAILED


class ExtensionFailure(Failure):
    exit_code = ExitCode.JOB_FAILED


class ScriptFailure(Failure):
    exit_code = ExitCode.JOB_FAILED


class FreezeFailure(Failure):
    exit_code = ExitCode.JOB_FAILED


class SnapshotFailure(Failure):
    exit_code = ExitCode.JOB_FAILED


class VmFailure(Failure):
    exit_code = ExitCode.JOB_FAILED


class NetworkFailure(Failure):
    exit_code = ExitCode.JOB_FAILED


class StorageFailure(Failure):
    exit_code = ExitCode.JOB_FAILED


class VaultFailure(Failure):
    exit_code = ExitCode.DAMAGED


class RestoreFailure(Failure):
    exit_code = ExitCode.JOB_FAILED


class JobFailure(Failure):
    exit_code = ExitCode.JOB_FAILED


class LabFailure(Failure):
    exit_code = ExitCode.INTERNAL


class ServerFailure(Failure):
    exit_code = ExitCode.UNREACHABLE


def report_of(error: BaseException) -> FailureReport:
    """Any error as a report; one that is no `Failure` is a defect of ours and is coded so."""
    if isinstance(error, Failure):
        return error.report()
    return FailureReport(
        code="internal.defect",
        message=f"An unexpected {type(error).__name__} stopped the work.",
        evidence=(Evidence(fact="unexpected error", source="quiesce", raw=repr(error)),),
        remedy="This is a defect in Quiesce. Please report it with the job's log.",
    )
