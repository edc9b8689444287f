"""Causes, evidence and mends of a job, on the command line."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import TypeAdapter
from told_diagnoses import OPEN, PROVEN, RESTARTED, SILENT, STOPPED, a_backup

from quiesce.cli.job_text import show_job, show_outcome
from quiesce.model.diagnosis import (
    Diagnosis,
    Verdict,
)
from quiesce.model.failure import FailureReport
from quiesce.model.job import Job, LogLine
from quiesce.model.snapshot import Route


def as_the_api_sends_it(job: Job) -> dict[str, Any]:
    sent: dict[str, Any] = TypeAdapter(Job).dump_python(job, mode="json")
    return sent


def test_who_waited_is_told_cause_remedy_what_was_done_and_where_the_evidence_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = a_backup(failure=SILENT, diagnoses=(PROVEN,), mends=(RESTARTED,))
    show_outcome(as_the_api_sends_it(job))
    said = capsys.readouterr().out
    for words in (
        "Cause: The agent's service is stopped in the guest.",
        "no answer within 5 s",
        "agent.not-running, proven",
        "GuestAgentSnapshotTaskStatusError",
        "agent.outdated",
        "`systemctl start qemu-guest-agent`",
        "Trying again does not help",
        "failed: Started qemu-guest-agent",
        "The other agent did not answer either.",
        "Evidence: `quiesce job show job1`",
    ):
        assert words in said
    assert said.index("Cause:") < said.index("systemctl") < said.index("Done by itself")
    for behind in ("ActiveState=<b>inactive", "Ruled out"):
        assert behind not in said


def test_job_show_has_the_evidence_what_is_ruled_out_and_the_failure_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen_twice = FailureReport(SILENT.code, SILENT.message, (*SILENT.evidence, STOPPED))
    show_job(as_the_api_sends_it(a_backup(failure=seen_twice, diagnoses=(PROVEN,))))
    said = capsys.readouterr().out
    for words in (
        "ActiveState=<b>inactive",
        "systemctl in the guest",
        "agent.disk-full: the guest has room",
        "no answer within 5 s",
    ):
        assert said.count(words) == 1
    assert "\x1b[2J" not in said
    assert "Evidence: `quiesce" not in said


def test_what_is_not_proven_is_said_so_with_the_look_that_would_decide(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_job(as_the_api_sends_it(a_backup(failure=SILENT, diagnoses=(OPEN,))))
    said = capsys.readouterr().out
    assert "Cause not proven:" in said
    assert "agent.silent, not proven" in said
    assert said.index("agent.hung") < said.index("agent.crash-loop")
    assert "not seen: its process" in said
    assert "`quiesce doctor web1` once more" in said
    assert "Trying again can help." in said


def test_each_diagnosis_stands_with_its_own_failure(capsys: pytest.CaptureFixture[str]) -> None:
    blocked = FailureReport("network.blocked", "The guest route is blocked.")
    why = Diagnosis("network.blocked", "network.blocked", Verdict.PROVEN, "A firewall drops it.")
    job = a_backup(route=Route.HOST, failure=SILENT, setbacks=(blocked,), diagnoses=(PROVEN, why))
    show_outcome(as_the_api_sends_it(job))
    said = capsys.readouterr().out
    order = ["guest route failed", "A firewall drops it.", "did not answer", "is stopped in the"]
    assert sorted(order, key=said.index) == order


def test_a_failure_without_a_diagnosis_is_told_whole(capsys: pytest.CaptureFixture[str]) -> None:
    show_outcome(as_the_api_sends_it(a_backup(failure=SILENT)))
    said = capsys.readouterr().out
    assert "no answer within 5 s" in said
    assert "More: quiesce explain agent.silent" in said


def test_a_long_command_stays_whole_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    command = "az network nsg rule create --name quiesce " + "--priority 100 " * 8
    told = Diagnosis("x", "x", Verdict.PROVEN, "c", remedy=(f"Allow it: `{command}`, then wait.",))
    show_outcome(as_the_api_sends_it(a_backup(diagnoses=(told,))))
    lines = capsys.readouterr().out.splitlines()
    assert any(f"`{command}`" in line for line in lines)


def test_what_a_job_failed_with_is_not_told_by_its_log_once_more(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = (f"{SILENT.message} [{SILENT.code}]", "Something else went wrong.")
    log = tuple(LogLine(datetime(2026, 3, 1, tzinfo=UTC), "error", line) for line in lines)
    show_job(as_the_api_sends_it(a_backup(failure=SILENT, log=log)))
    said = capsys.readouterr().out
    assert said.count(SILENT.message) == 1
    assert "Something else went wrong." in said
