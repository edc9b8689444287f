"""Bodies of answers that are no dataclass of `quiesce.model` or `service.views`."""

from __future__ import annotations

from pydantic import BaseModel

from quiesce.diagnosis.allowlist import AllowlistFormat
from quiesce.model.diagnosis import Check, Diagnosis, Examination, Light, Mend
from quiesce.model.failure import FailureReport


class Health(BaseModel):
    status: str
    version: str


class Allowlist(BaseModel):
    format: AllowlistFormat
    text: str


class Examined(BaseModel):
    """What the doctor found. `light` is the worst of all checks'; `plan` is what Quiesce would
    mend by itself, and begins with what was mended just now, if anything was."""

    subject: str
    light: Light
    checks: tuple[Check, ...]
    diagnoses: tuple[Diagnosis, ...]
    plan: tuple[Mend, ...]
    channels: tuple[str, ...]
    problems: tuple[FailureReport, ...]
    seconds: float

    @classmethod
    def of(cls, examination: Examination) -> Examined:
        return cls(
            subject=examination.subject,
            light=examination.light,
            checks=examination.checks,
            diagnoses=examination.diagnoses,
            plan=examination.plan,
            channels=examination.channels,
            problems=examination.problems,
            seconds=examination.seconds,
        )
