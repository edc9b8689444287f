"""What jobs and the doctor do about a Windows guest, on a VM of paper."""

from __future__ import annotations

import pytest
from paper_looks import PaperLooks, seeing
from paper_machine import PaperMachine, backed_up

from quiesce.diagnosis.engine import standing
from quiesce.model.diagnosis import Fact, FactValue, MendAction, MendStatus
from quiesce.service.console import Console
from quiesce.service.healing import JobMender
from quiesce.service.mending import Mending
from quiesce.service.service import Service

SQL: dict[str, FactValue] = {
    "guest.os": "windows",
    "windows.sql-writer": True,
    "windows.sql-backups": True,
    "windows.copy-backup": False,
}


@pytest.mark.parametrize("state", ["disabled", "absent"])
def test_a_provider_that_cannot_be_started_is_named_and_started_again(
    service: Service, machine: PaperMachine, state: str
) -> None:
    seeing(service, PaperLooks({"guest.os": "windows", "windows.provider": state}))
    machine.fail("freeze", "/")

    job = backed_up(service)

    assert "extension.provider-disabled" in {each.code for each in job.diagnoses}
    assert (MendAction.START_PROVIDER, MendStatus.DONE) in {
        (mend.action, mend.status) for mend in job.mends
    }
    assert "start-provider" in machine.mended


def test_a_provider_that_waits_to_be_started_is_no_cause(
    service: Service, machine: PaperMachine
) -> None:
    seeing(service, PaperLooks({"guest.os": "windows", "windows.provider": "manual"}))
    machine.fail("freeze", "/")

    job = backed_up(service)

    assert "extension.provider-disabled" not in {each.code for each in job.diagnoses}
    assert "start-provider" not in machine.mended


def test_no_job_changes_the_type_of_shadow_copies_by_itself(
    service: Service, machine: PaperMachine
) -> None:
    seeing(service, PaperLooks())
    job = backed_up(service)
    facts = tuple(Fact(name, value, f"{name}: {value}", "paper") for name, value in SQL.items())
    [diagnosis] = [each for each in standing(facts) if each.code == "snapshot.sql-server-full"]
    planned = {mend.action for mend in Mending(service._parts).plan("web", diagnosis, ())}
    assert planned == {MendAction.VSS_COPY}, "whoever asks the doctor is offered it"
    console: Console = service._parts.console(job.id, job.tasks[0].name)
    assert JobMender(service._parts, job, None, console)._plan(diagnosis) == ()
    assert machine.mended == []


def test_the_type_of_shadow_copies_is_changed_when_asked_for(
    service: Service, machine: PaperMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = tuple(Fact(name, value, f"{name}: {value}", "paper") for name, value in SQL.items())
    monkeypatch.setattr("quiesce.service.doctor.standing", lambda _: standing(facts))
    service.doctor.fix("web", {MendAction.VSS_COPY})
    assert machine.mended == ["vss-copy"]


@pytest.mark.parametrize("missing", ["windows.sql-writer", "windows.sql-backups"])
def test_without_sql_backups_of_its_own_a_full_shadow_copy_harms_nothing(missing: str) -> None:
    facts = tuple(
        Fact(name, value, f"{name}: {value}", "paper")
        for name, value in (SQL | {missing: False}).items()
    )
    assert "snapshot.sql-server-full" not in {each.code for each in standing(facts)}
