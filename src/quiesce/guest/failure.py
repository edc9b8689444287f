"""A coded failure as the extension reports it: the same fields as the host's failure tree."""

import errno
from typing import Any, Dict, List, NamedTuple, Sequence

from .mounts import printable


class Fact(NamedTuple):
    """One observed fact: what, where, and the raw words if there were any."""

    fact: str
    source: str
    raw: str = ""


class Failure(Exception):  # noqa: N818 - the field's own word
    """Something did not work, said with its code, its facts and the next step."""

    def __init__(
        self,
        code: str,
        message: str,
        evidence: Sequence[Fact] = (),
        remedy: str = "",
        retryable: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.evidence = tuple(evidence)
        self.remedy = remedy
        self.retryable = retryable

    def as_json(self) -> Dict[str, Any]:
        facts: List[Fact] = list(self.evidence)
        inner = self.__cause__
        if inner is not None:
            facts.append(
                Fact("inner error " + type(inner).__name__, "guest", printable(str(inner)[:1000]))
            )
        return {
            "code": self.code,
            "message": self.message,
            "evidence": [fact._asdict() for fact in facts],
            "remedy": self.remedy,
            "retryable": self.retryable,
        }


def defect(error: BaseException) -> Failure:
    """An error nobody expected: a defect of the extension, and said so."""
    failure = Failure(
        "extension.defect",
        "An unexpected {} stopped the backup extension.".format(type(error).__name__),
        [Fact("unexpected error", "guest", repr(error))],
        "This is a defect in Quiesce. Please report it with the extension's log.",
    )
    failure.__cause__ = error
    return failure


def unexpected(error: Exception) -> Failure:
    """Nobody's `Failure`, in words: agent.disk-full, else extension.defect."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return defect(error)
    return Failure(
        "agent.disk-full",
        "The guest's disk is full, so the backup extension cannot note what it does.",
        [Fact(str(error), "guest")],
    )
