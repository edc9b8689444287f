"""What else ran when the job did."""

from __future__ import annotations

from paper_case import backup, case, failure, values

from quiesce.model.job import Job, JobKind
from quiesce.service.looks.history import HistoryLook
from quiesce.service.looks.panel import Found


class PaperBook:
    def __init__(self, *jobs: Job) -> None:
        self._jobs = jobs

    def newest(self, *, limit: int) -> tuple[Job, ...]:
        return self._jobs[:limit]


def looked(job: Job | None, *others: Job, code: str = "") -> Found:
    book = PaperBook(*((job,) if job else ()), *others)
    failed = failure(code) if code else None
    return HistoryLook(book)(case(job=job, failure=failed), Found())  # type: ignore[arg-type]


def test_a_job_that_ran_alone() -> None:
    assert values(looked(backup(created=-100, started=-90))) == {
        "schedule.wait-seconds": 10.0,
        "schedule.same-time": 0.0,
    }


def test_without_a_job_there_is_no_history() -> None:
    assert values(looked(None, backup())) == {}


def test_jobs_that_overlap_are_counted_whether_they_ran_or_waited() -> None:
    job = backup(created=-100, started=-90, ended=-50)
    others = (
        backup("long", vm="b", created=-500, started=-500, ended=-95),
        backup("inside", vm="c", created=-80, started=-70, ended=-60),
        backup("waits", vm="d", created=-60, started=None),
        backup("before", vm="e", created=-500, started=-500, ended=-101),
        backup("after", vm="f", created=-49, started=-49),
    )
    found = looked(job, *others)
    [fact] = [fact for fact in found.facts if fact.name == "schedule.same-time"]
    assert fact.value == 3.0
    assert [line.split()[0] for line in fact.raw.splitlines()] == ["long", "inside", "waits"]


def test_those_that_failed_alike_are_counted_by_any_code_of_the_chain() -> None:
    job = backup(created=-100, started=-90, ended=0)
    inner = failure("job.failed", cause=failure("storage.scratch-full"))
    others = (
        backup("alike", vm="b", created=-80, started=-80, ended=-50, failed=inner),
        backup("other", vm="c", created=-80, started=-80, ended=-50, failed=failure("vm.gone")),
        backup("good", vm="d", created=-80, started=-80, ended=-50),
        backup(
            "then", vm="e", created=-900, started=-900, ended=-800,
            failed=failure("storage.scratch-full"),
        ),
    )  # fmt: skip
    assert values(looked(job, *others, code="storage.scratch-full"))["schedule.failed-alike"] == 1.0
    assert "schedule.failed-alike" not in values(looked(job, *others))


def test_the_usual_wait_is_that_of_the_vms_own_runs_of_the_same_kind() -> None:
    job = backup(created=-700, started=-100)
    others = (
        backup("a", created=-9000, started=-8990, ended=-8900),
        backup("b", created=-8000, started=-7980, ended=-7900),
        backup("c", vm="other", created=-8000, started=-1000, ended=-900),
        backup("d", created=-8000, started=-1000, ended=-900, kind=JobKind.RESTORE),
        backup("e", created=-800, started=None),
    )
    facts = values(looked(job, *others))
    assert (facts["schedule.wait-seconds"], facts["schedule.mean-wait-seconds"]) == (600.0, 15.0)


def test_a_job_that_still_waits_has_waited_until_now() -> None:
    facts = values(looked(backup(created=-40, started=None)))
    assert facts["schedule.wait-seconds"] == 40.0


def test_a_clock_that_was_set_back_makes_no_negative_wait() -> None:
    assert values(looked(backup(created=50, started=10)))["schedule.wait-seconds"] == 0.0
