"""Steps of self-healing that end what no job owns, or wait until it is over."""

from __future__ import annotations

from dataclasses import replace

import pytest
from paper_healing import BOTH, HOST, QGA, CarryOut
from paper_looks import PaperLooks, seeing
from paper_machine import PaperMachine
from paper_vm import PaperGuest, PaperHypervisor

from quiesce.model.diagnosis import FactValue, MendAction, MendStatus
from quiesce.model.extension import ExtensionState, GuestSession
from quiesce.service.service import Service

FROZEN = ExtensionState(True, "1", "1", "3.11", "7.2", "paper", (GuestSession("0a", "frozen"),))


def test_a_session_that_no_job_owns_is_ended_and_thawed(
    mend: CarryOut, machine: PaperMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PaperGuest, "status", lambda self: FROZEN)
    (machine.folder / "frozen").touch()
    done = mend(MendAction.THAW, HOST, QGA)
    assert done.status is MendStatus.DONE
    assert "0a" in done.words
    assert machine.clean


def test_sessions_that_all_belong_to_backups_that_run_are_left_alone(
    open_service: Service,
    mend: CarryOut,
    machine: PaperMachine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(PaperGuest, "status", lambda self: FROZEN)
    monkeypatch.setattr(open_service._parts.book, "active_ids", lambda: ("0a",))
    failed = mend(MendAction.THAW, HOST, BOTH)
    assert failed.status is MendStatus.FAILED
    assert machine.mended == []


def test_another_servers_session_is_waited_for(
    mend: CarryOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = [FROZEN, FROZEN, replace(FROZEN, sessions=())]
    monkeypatch.setattr(PaperGuest, "status", lambda self: states.pop(0))
    done = mend(MendAction.WAIT, HOST, BOTH, "session.active")
    assert (done.status, states) == (MendStatus.DONE, [])


def test_snapshots_of_dead_jobs_are_released(mend: CarryOut, machine: PaperMachine) -> None:
    (machine.folder / "sessions" / "0123456789ab").mkdir(parents=True)
    done = mend(MendAction.CLEAN_STALE)
    assert done.status is MendStatus.DONE
    assert "1 backup" in done.words
    assert PaperHypervisor(machine.folder).leftovers() == ()


@pytest.mark.parametrize("still", [0, 2])
def test_a_load_is_waited_for_until_the_facts_do_not_show_it_any_more(
    open_service: Service, mend: CarryOut, still: int
) -> None:
    looks = PaperLooks({"guest.cpu-percent": 99.0})

    def fall() -> None:
        if len(looks.asked) > still:
            looks.values["guest.cpu-percent"] = 5.0

    looks.before = fall
    seeing(open_service, looks)
    done = mend(MendAction.WAIT, HOST, QGA, "guest.overloaded")
    assert done.status is MendStatus.DONE, done
    assert f"Waited for {15 * (still + 1)} s" in done.words


@pytest.mark.parametrize(
    ("because", "seen", "seconds"),
    [
        ("guest.overloaded", {"guest.cpu-percent": 99.0}, 300),
        ("freeze.busy", {"guest.frozen": True}, 60),
    ],
)
def test_what_stays_is_waited_for_some_minutes_at_most(
    open_service: Service,
    mend: CarryOut,
    because: str,
    seen: dict[str, FactValue],
    seconds: int,
) -> None:
    seeing(open_service, PaperLooks(seen))
    failed = mend(MendAction.WAIT, HOST, QGA, because)
    assert failed.status is MendStatus.FAILED
    assert failed.failure is not None
    assert failed.failure.code == because
    assert f"within {seconds} s" in failed.failure.message
