"""The doctor's lines: lights with their evidence."""

from __future__ import annotations

import pytest
from guest_papers import (
    LOG_OF_GOOD_AGENT,
    NOW,
    PROCESSES,
    UNITS_OF_DEBIAN,
    command,
    missing,
    paper,
    papers,
)

from quiesce.diagnosis.check_lines import LINES
from quiesce.diagnosis.checks import checks
from quiesce.diagnosis.engine import standing
from quiesce.diagnosis.examination import examine
from quiesce.diagnosis.reading import facts_of
from quiesce.diagnosis.vocabulary import FACTS
from quiesce.model.diagnosis import Check, Fact, FactValue, Light, Verdict
from quiesce.model.papers import Paper

GOOD = (
    command("units", UNITS_OF_DEBIAN),
    command("processes", PROCESSES),
    command("python", "/usr/bin/python3 3.11\n"),
    command("space", "F 1024-blocks Used Available Capacity M\n/dev/a 9000000 1 8999999 1% /\n"),
    command("cpu", "cpu  0 0 0 100 0 0 0 0\ncpu  1 0 0 199 0 0 0 0\n"),
    paper("/proc/self/mountinfo", "22 1 254:1 / / rw - ext4 /dev/vda1 rw\n"),
    paper("/etc/waagent.conf", "Extensions.Enabled=y\n"),
    paper("/etc/os-release", "ID=debian\n"),
    paper("/var/log/waagent.log", LOG_OF_GOOD_AGENT),
)


def with_(*changed: Paper) -> tuple[Paper, ...]:
    paths = {each.path for each in changed}
    return (*(each for each in GOOD if each.path not in paths), *changed)


def lines_of(*shown: Paper) -> dict[str, Check]:
    facts = facts_of(papers(*shown))
    return {check.title: check for check in checks(facts, standing(facts))}


def fact(name: str, value: FactValue) -> Fact:
    return Fact(name, value, f"It is {value}.", "a test", NOW)


def test_the_table_names_facts_that_there_are() -> None:
    assert {name for line in LINES for name in line.facts} <= set(FACTS)
    assert len({(line.area, line.title) for line in LINES}) == len(LINES)


def test_a_good_guest_has_nothing_but_green_lines() -> None:
    lines = lines_of(*GOOD)
    assert {check.light for check in lines.values()} == {Light.GREEN}, lines
    assert lines["Azure Linux agent"].words == "The Azure Linux agent runs"
    assert lines["free on /"].evidence[0].source == "collected command “space”"


def test_lines_come_by_area() -> None:
    areas = [check.area for check in checks(facts_of(papers(*GOOD)))]
    assert areas == sorted(areas, key=areas.index)
    assert areas[0] == "agent"


def test_a_stopped_agent_is_red_and_says_what_to_do_on_this_distribution() -> None:
    units = UNITS_OF_DEBIAN.replace("ActiveState=active", "ActiveState=inactive", 1)
    processes = "\n".join(line for line in PROCESSES.splitlines() if "waagent" not in line)
    line = lines_of(*with_(command("units", units), command("processes", processes)))[
        "Azure Linux agent"
    ]
    assert line.light is Light.RED
    assert line.codes == ("agent.not-running",)
    assert "walinuxagent" in " ".join(line.remedy)


def test_an_agent_that_is_not_there_is_no_trouble_while_the_other_one_is() -> None:
    units = UNITS_OF_DEBIAN.replace("LoadState=loaded", "LoadState=not-found", 1)
    processes = "\n".join(line for line in PROCESSES.splitlines() if "waagent" not in line)
    shown = with_(
        command("units", units), command("processes", processes), missing("/etc/waagent.conf")
    )
    lines = lines_of(*shown)
    assert "Azure Linux agent" not in lines
    assert lines["QEMU guest agent"].light is Light.GREEN


@pytest.mark.parametrize(("agent", "sign"), [("waagent", "waagent.polls"), ("qga", "qga.answers")])
def test_an_agent_that_runs_and_does_not_answer_is_not_well(agent: str, sign: str) -> None:
    known = (fact(f"{agent}.process", "running"), fact(sign, False))
    title = "QEMU guest agent" if agent == "qga" else "Azure Linux agent"
    line = next(check for check in checks(known) if check.title == title)
    assert (line.light, line.words) == (Light.RED, "It is False")
    assert len(line.evidence) == 2


def test_of_several_facts_the_bad_one_is_told() -> None:
    known = (fact("waagent.polls", True), fact("waagent.process", "stopped"))
    line = next(check for check in checks(known) if check.title == "Azure Linux agent")
    assert (line.light, line.words) == (Light.RED, "It is stopped")
    assert line.codes == ("agent.hung",)


def test_an_agent_that_the_vm_is_not_reached_by_has_no_line() -> None:
    known = (fact("qga.configured", False), fact("qga.process", "absent"))
    assert checks(known) == tuple(check for check in checks(()) if check.light is Light.UNKNOWN)


def test_what_could_not_be_looked_at_is_not_said_to_be_well() -> None:
    unknown = {check.title for check in checks(())}
    assert {"Python", "dangerous to freeze", "processors of the guest"} <= unknown
    assert all(check.light is Light.UNKNOWN and check.remedy for check in checks(()))


def test_a_mount_that_is_dangerous_to_freeze_has_the_exact_skip_lines() -> None:
    loop = "40 22 7:0 / /srv/my\\040data rw - ext4 /dev/loop0 rw\n"
    line = lines_of(*with_(paper("/proc/self/mountinfo", loop)))["dangerous to freeze"]
    assert line.light is Light.AMBER
    assert "--skip-mount '/srv/my data'" in line.remedy[0]
    assert "MountsToSkip = /srv/my data" in line.remedy[1]


@pytest.mark.parametrize(
    ("name", "value", "title", "light"),
    [
        ("waagent.extensions-enabled", False, "extensions allowed", Light.RED),
        ("waagent.certificate", "expired", "its certificate", Light.AMBER),
        ("waagent.restarts", 9.0, "restarts of the Azure Linux agent", Light.RED),
        ("waagent.restarts", 1.0, "restarts of the Azure Linux agent", Light.AMBER),
        ("qga.blocked", "guest-exec", "its commands", Light.RED),
        ("qga.port", "busy", "its port", Light.AMBER),
        ("extension.runtime", False, "Python", Light.RED),
        ("extension.config-error", "line 1", "scripts' configuration", Light.RED),
        ("guest.disk-full", "/var", "file systems that the agents need", Light.RED),
        ("guest.frozen", True, "already frozen", Light.RED),
        ("guest.freezer", "veeam", "other backup products", Light.AMBER),
        ("guest.cpu-percent", 99.0, "processors of the guest", Light.AMBER),
        ("guest.clock-ahead-seconds", -4000.0, "the guest's clock", Light.RED),
        ("disk.bitmap", "missing", "change tracking", Light.AMBER),
        ("hop.tcp", "failed", "hop TCP", Light.RED),
        ("hop.proxy", "untried", "hop proxy", Light.UNKNOWN),
        ("vm.power", "paused", "the VM", Light.AMBER),
        ("windows.provider", "disabled", "VSS provider", Light.RED),
        ("schedule.same-time", 40.0, "jobs at the same time", Light.AMBER),
    ],
)
def test_lights(name: str, value: FactValue, title: str, light: Light) -> None:
    line = next(check for check in checks((fact(name, value),)) if check.title == title)
    assert line.light is light
    assert line.words.startswith("It is")
    assert line.evidence[0].source == "a test"


def test_a_cause_that_is_proven_has_a_red_line_with_its_remedy() -> None:
    known = (fact("waagent.configured", True), fact("net.address", False))
    proven = standing(known)
    assert [each.code for each in proven] == ["network.no-address"]
    (line,) = [check for check in checks(known, proven) if "network.no-address" in check.codes]
    assert line.light is Light.RED
    assert line.words == proven[0].cause.rstrip(".")
    assert line.remedy == proven[0].remedy


# ---------------------------------------------------------------- papers alone


def test_papers_without_a_failure_say_so() -> None:
    found = examine(papers(*GOOD))
    assert found.checks[0].title == "the newest backup"
    assert found.checks[0].light is Light.GREEN
    assert found.diagnoses == ()
    assert found.light is Light.GREEN


def test_of_a_bundle_only_what_it_holds_is_judged() -> None:
    log = paper("/var/log/waagent.log", LOG_OF_GOOD_AGENT)
    found = examine(papers(log, taken_at=None))
    assert {check.light for check in found.checks} == {Light.GREEN}
    collected = examine(papers(log))
    assert Light.UNKNOWN in {check.light for check in collected.checks}


def test_a_log_alone_gives_the_cause_of_what_failed() -> None:
    line = (
        "2026-11-23T02:20:00Z ERROR ExtHandler ExtHandler Failed to save handler status: "
        "[Errno 28] No space left on device: '/var/lib/waagent/x'\n"
    )
    found = examine(papers(paper("/var/log/waagent.log", LOG_OF_GOOD_AGENT + line), taken_at=None))
    first = found.diagnoses[0]
    assert (first.code, first.verdict) == ("agent.disk-full", Verdict.PROVEN)
    assert "No space left on device" in first.evidence[0].raw
    assert found.light is Light.RED


def test_a_log_alone_proves_nothing_that_it_does_not_say() -> None:
    line = "2026-11-23T02:20:00Z INFO Daemon Daemon WireServer is not responding.\n"
    found = examine(papers(paper("/var/log/waagent.log", LOG_OF_GOOD_AGENT + line), taken_at=None))
    first = found.diagnoses[0]
    assert (first.symptom, first.verdict) == ("agent.silent", Verdict.NOT_PROVEN)
    assert first.candidates


def test_a_cause_is_not_put_on_the_line_of_the_agent_that_nobody_looked_at() -> None:
    facts = (
        Fact("qga.configured", True, "it is set", "the VM's entry"),
        Fact("qga.answers", False, "it does not answer", "its channel"),
        Fact("qga.port", "closed", "its port is closed", "QEMU monitor"),
        Fact("vm.power", "running", "the VM is running", "QEMU monitor"),
    )
    lines = checks(facts, standing(facts))
    told = [line.title for line in lines if "agent.not-running" in line.codes]
    assert "QEMU guest agent" in told
    assert "Azure Linux agent" not in told
