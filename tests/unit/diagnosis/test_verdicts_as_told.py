"""What an operator reads of a failure: a guess is called one, and words are the failure's own."""

from __future__ import annotations

from datetime import timedelta

import pytest
from made_facts import NOW, fact, found

from quiesce.diagnosis.engine import diagnose
from quiesce.model.diagnosis import FactValue, Verdict
from quiesce.model.failure import Evidence, FailureReport


def test_without_evidence_the_answer_names_candidates_and_the_look_that_would_decide() -> None:
    answer = found("agent.silent", qga_answers=True)
    assert (answer.verdict, answer.code) == (Verdict.NOT_PROVEN, "agent.silent")
    assert 0 < len(answer.candidates) <= 5
    for candidate in answer.candidates:
        assert candidate.missing
        assert "`" in candidate.probe
    assert answer.remedy


def test_the_candidate_of_which_most_is_known_comes_first() -> None:
    answer = found("agent.hung", qga_port="open", qga_answers=False, vm_power="running")
    assert answer.verdict is Verdict.NOT_PROVEN
    assert answer.candidates[0].code in ("agent.hung", "agent.not-running", "guest.overloaded")
    assert answer.candidates[0].missing


def test_what_is_ruled_out_says_by_which_fact() -> None:
    answer = found("agent.silent", waagent_unit="active", vm_power="running")
    ruled_out = {each.code: each for each in answer.ruled_out}
    assert ruled_out["vm.paused"].evidence.fact == "vm.power is running"
    assert ruled_out["vm.paused"].why == "The VM is paused? No. Vm.power is running."


def test_a_failure_that_tells_its_cause_is_proven_by_its_own_evidence() -> None:
    raw = Evidence("FIFREEZE on /data", "guest", NOW, "EIO")
    report = FailureReport("freeze.failed", "It failed.", (raw,), remedy="Run fsck.")
    answer = diagnose(report, [])
    assert (answer.verdict, answer.code) == (Verdict.PROVEN, "freeze.failed")
    assert answer.evidence == (raw,)
    assert answer.remedy == ("Run fsck.",)


def test_the_innermost_code_that_is_known_is_the_symptom() -> None:
    inner = FailureReport("network.dns-failed", "No name.")
    unknown = FailureReport("newer.code", "From a newer guest.", cause=None)
    chain = FailureReport("agent.silent", "Silent.", cause=inner)
    assert diagnose(chain, []).symptom == "network.dns-failed"
    chain = FailureReport("extension.stuck", "Stuck.", cause=unknown)
    assert diagnose(chain, []).symptom == "extension.stuck"
    answer = diagnose(unknown, [])
    assert (answer.verdict, answer.cause) == (Verdict.NOT_PROVEN, "From a newer guest.")


def test_what_is_around_a_symptom_is_asked_for_its_cause_too() -> None:
    refused = FailureReport("hypervisor.command-refused", "QEMU says no.")
    busy = FailureReport("hypervisor.nbd-server-busy", "In use.", cause=refused)
    answer = diagnose(busy, [])
    assert (answer.verdict, answer.code) == (Verdict.PROVEN, "hypervisor.nbd-server-busy")
    tool = FailureReport("hypervisor.tool-failed", "qemu-nbd says no.")
    gone = FailureReport("vm.unreachable", "The monitor is gone.", cause=tool)
    assert diagnose(gone, [fact("vm.power", "off")]).code == "vm.unreachable"
    taking = FailureReport("snapshot.take-failed", "Not taken.", cause=refused)
    assert diagnose(taking, []).verdict is Verdict.NOT_PROVEN
    assert diagnose(taking, [fact("vm.power", "migrating")]).code == "vm.migrating"


def test_what_is_around_a_code_that_tells_its_cause_is_not_asked() -> None:
    inner = FailureReport("freeze.mount-unavailable", "No.")
    outer = FailureReport("agent.silent", "Silent.", cause=inner)
    assert diagnose(outer, [fact("waagent.unit", "failed")]).code == "freeze.mount-unavailable"


def test_the_raw_words_of_the_whole_chain_are_kept() -> None:
    inner = FailureReport("agent.channel-lost", "Lost.", (Evidence("broken", "s", NOW, "EPIPE"),))
    outer = FailureReport("freeze.failed", "No.", (Evidence("outer", "s", NOW),), cause=inner)
    assert {each.raw or each.fact for each in diagnose(outer, []).evidence} == {"EPIPE", "outer"}


def test_a_newer_look_counts_and_two_that_contradict_each_other_do_not() -> None:
    report = FailureReport("agent.silent", "Silent.")
    old = fact("waagent.unit", "inactive", at=NOW - timedelta(minutes=1))
    new = fact("waagent.unit", "active")
    assert diagnose(report, [new, old]).verdict is Verdict.NOT_PROVEN
    assert diagnose(report, [fact("waagent.unit", "inactive"), new]).verdict is Verdict.NOT_PROVEN


@pytest.mark.parametrize("value", [7, True, "sleeping", float("nan")])
def test_a_fact_of_another_type_or_word_proves_nothing(value: FactValue) -> None:
    for name in ("waagent.unit", "guest.cpu-percent", "no.such-fact"):
        wrong = value if name != "guest.cpu-percent" or value != 7 else "7"
        answer = diagnose(FailureReport("agent.silent", "Silent."), [fact(name, wrong)])
        assert answer.verdict is Verdict.NOT_PROVEN


def test_the_remedy_is_for_the_distribution_of_this_guest() -> None:
    facts = [fact("waagent.installed", False)]
    report = FailureReport("agent.never-seen", "Never.")
    alma = diagnose(report, [*facts, fact("guest.distribution", "almalinux")])
    assert "dnf install WALinuxAgent" in " ".join(alma.remedy)
    assert "apt-get" not in " ".join(alma.remedy)
    anywhere = " ".join(diagnose(report, facts).remedy)
    assert "dnf install WALinuxAgent" in anywhere
    assert "apt-get install" in anywhere
