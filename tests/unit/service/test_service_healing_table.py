"""The job's mender beneath real snapshots of recorded parts: whatever fails, whatever the policy
switches off and however each step ends."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from paper_looks import PaperLooks
from recorded_parts import RecordedGuest, RecordedHypervisor, RecordedRoute, Stage

from quiesce.diagnosis.catalogue import catalogue
from quiesce.model.diagnosis import Mend, MendAction, MendStatus
from quiesce.model.failure import (
    AgentFailure,
    Evidence,
    ExtensionFailure,
    Failure,
    FreezeFailure,
    NetworkFailure,
    PolicyFailure,
    StorageFailure,
)
from quiesce.model.job import Job, JobKind, JobStatus
from quiesce.model.policy import RoutePreference, SnapshotOptions
from quiesce.model.snapshot import Consistency, Route, Snapshot
from quiesce.service.diagnosing import Diagnosing
from quiesce.service.healing import JobMender
from quiesce.service.mending import IN_THE_SNAPSHOT, ON_CONFIRMATION, Mending
from quiesce.service.patience import Patience
from quiesce.snapshot.take import Routes, take_snapshot

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FAMILIES = {
    "agent": AgentFailure,
    "extension": ExtensionFailure,
    "freeze": FreezeFailure,
    "network": NetworkFailure,
    "storage": StorageFailure,
}
CODES = sorted(code for code in catalogue().entries if code.partition(".")[0] in FAMILIES)
MENDABLE = ["agent.hung", "extension.crashed", "extension.stuck", "freeze.busy", "freeze.failed"]
"""Some of which something may be done about, so that both routes often need the same step."""


class OneJob:
    """A book with one job in it."""

    def __init__(self) -> None:
        self.job = Job("0123456789ab", JobKind.BACKUP, "web", JobStatus.IN_PROGRESS, NOW, ())

    def get(self, job_id: str) -> Job:
        return self.job

    def update(self, job_id: str, change: Any) -> Job:
        self.job = change(self.job)
        return self.job

    def log(self, job_id: str, level: str, text: str) -> None:
        return


class Steps(Mending):
    """Real plans; each step ends as it is told to."""

    def __init__(self, ends: list[MendStatus]) -> None:
        self.ends = ends
        self.carried_out: list[MendAction] = []
        self.routes: list[Route | None] = []

    def carry_out(self, vm: str, mend: Mend, **_: Any) -> Mend:
        self.carried_out.append(mend.action)
        self.routes.append(mend.route)
        end = self.ends[len(self.carried_out) % len(self.ends)]
        failure = AgentFailure("agent.mend-failed", "no").report()
        return replace(mend, status=end, failure=failure if end is MendStatus.FAILED else None)


@st.composite
def failures(draw: st.DrawFn) -> Failure:
    code = draw(st.sampled_from(CODES) | st.sampled_from(MENDABLE))
    family = FAMILIES[code.partition(".")[0]]
    mount = draw(st.sampled_from(["/", "/data", ""]))
    evidence = [Evidence(f"FIFREEZE on {mount}", "guest")] if mount else []
    return family(code, "It failed.", evidence=evidence, retryable=draw(st.booleans()))


@settings(max_examples=300, deadline=None)
@given(
    preference=st.sampled_from(RoutePreference),
    host_fails=st.lists(st.none() | failures(), min_size=1, max_size=3),
    guest_fails=st.lists(st.none() | failures(), min_size=1, max_size=3),
    mount=st.sampled_from(["/", "/data", ""]),
    off=st.sets(st.sampled_from(MendAction)),
    ends=st.lists(st.sampled_from([MendStatus.DONE, MendStatus.FAILED]), min_size=1, max_size=4),
)
def test_steps_are_taken_once_never_against_the_policy_and_routes_at_most_twice(
    preference: RoutePreference,
    host_fails: list[Failure | None],
    guest_fails: list[Failure | None],
    mount: str,
    off: set[MendAction],
    ends: list[MendStatus],
) -> None:
    stage, book, steps = Stage(), OneJob(), Steps(ends)
    stage.failing = {"guest.prepare": list(host_fails), "route.snapshot": list(guest_fails)}
    looks = PaperLooks({"failed.mount": mount} if mount else {})
    parts: Any = SimpleNamespace(
        book=book,
        clock=SimpleNamespace(now=lambda: NOW),
        patience=Patience(sleep=lambda _: None),
        diagnosing=Diagnosing(book, looks),  # type: ignore[arg-type]
    )
    console: Any = SimpleNamespace(
        log=lambda level, text: None,
        note=lambda level, text: None,
        progress=lambda progress: None,
    )
    policy: Any = SimpleNamespace(mends_off=tuple(off))
    mender = JobMender(parts, book.job, policy, console)
    mender._mending = steps
    outcome: Snapshot | Failure
    try:
        outcome = take_snapshot(
            RecordedHypervisor(stage),
            Routes(host=RecordedGuest(stage), guest=RecordedRoute(stage)),
            "0123456789ab",
            bases={},
            options=SnapshotOptions(route=preference),
            log=lambda level, text: None,
            mender=mender,
            mends_off=off,
        )
        mender.settled(outcome)
    except Failure as failure:
        outcome = failure

    done = steps.carried_out
    each = list(zip(done, steps.routes, strict=True))
    assert len(each) == len(set(each)), "once per job for each agent"
    assert not set(done) & (off | IN_THE_SNAPSHOT | ON_CONFIRMATION)
    switched_off = {m.action for m in book.job.mends if m.status is MendStatus.SWITCHED_OFF}
    assert switched_off <= off
    assert not {m.action for m in book.job.mends if m.status is MendStatus.DONE} & off
    for call in ("guest.prepare", "route.snapshot"):
        assert stage.tape.count(call) <= 2
        if stage.tape.count(call) == 2:
            mended = MendStatus.DONE in {mend.status for mend in book.job.mends}
            first = host_fails[0] if call == "guest.prepare" else guest_fails[0]
            assert mended or (first is not None and first.retryable), "not blindly"
    if any("/" in options.skip_mounts for options in stage.options):
        raise AssertionError("the root is never left out")
    if isinstance(outcome, Snapshot):
        assert stage.tape[-1] == "hypervisor.open"
        assert outcome.freeze is not None or outcome.consistency.level is Consistency.CRASH
        symptoms = {each.symptom for each in book.job.diagnoses}
        assert {each.code for each in outcome.setbacks} <= symptoms
    else:
        assert preference is RoutePreference.GUEST or isinstance(outcome, PolicyFailure)
        assert stage.tape[-1] == "hypervisor.release committed=False"
