"""What the hypervisor shows becomes facts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from paper_case import case, values

from quiesce.model.failure import SnapshotFailure, VaultFailure, VmFailure
from quiesce.model.survey import DiskSurvey, PortState, Tracking, VmSurvey
from quiesce.model.vm import AgentKind, PowerState
from quiesce.service.looks.hypervisor import HypervisorLook
from quiesce.service.looks.panel import Found

HEALTHY = VmSurvey(
    PowerState.RUNNING,
    "running",
    "QEMU 7.2",
    (DiskSurvey("vda", Tracking.GOOD), DiskSurvey("vdb", Tracking.FIRST)),
    device=True,
    port=PortState.OPEN,
    process=4711,
    processors=2,
)


class PaperQemu:
    """Composition, points and book in one: what a HypervisorLook asks."""

    def __init__(self, seen: VmSurvey | Exception, percent: float | None = 12.0) -> None:
        self.seen, self.percent = seen, percent
        self.vault_is_broken = False
        self.asked: list[dict[str, Any]] = []

    def hypervisor(self, _: object) -> PaperQemu:
        return self

    def survey(self, **given: Any) -> VmSurvey:
        self.asked.append(given)
        if isinstance(self.seen, Exception):
            raise self.seen
        return self.seen

    def processor_percent(self, _: VmSurvey) -> float | None:
        return self.percent

    def generations(self, vm: str) -> dict[str, list[str]]:
        if self.vault_is_broken:
            raise VaultFailure("vault.corrupt-chunk", "The vault cannot be read.")
        return {f"disk of {vm}": ["quiesce-1"]}

    def active_ids(self) -> tuple[str, ...]:
        return ("active1",)


def looked(qemu: PaperQemu, agent: AgentKind = AgentKind.QGA) -> Found:
    return HypervisorLook(qemu, qemu, qemu)(case(agent), Found())  # type: ignore[arg-type]


def survey(**changes: Any) -> VmSurvey:
    return replace(HEALTHY, **changes)


def test_a_healthy_vm_is_shown_so() -> None:
    qemu = PaperQemu(HEALTHY)
    found = looked(qemu)
    assert values(found) == {
        "vm.power": "running",
        "vm.shut-down-inside": False,
        "vm.device": "present",
        "qga.port": "open",
        "vm.cpu-percent": 12.0,
        "disk.bitmap": "good",
        "disk.unsupported": "",
        "disk.stale-bitmaps": 0.0,
        "session.left-over": 0.0,
    }
    assert qemu.asked == [{"bases": {"disk of web": ["quiesce-1"]}, "active": {"active1"}}]
    assert (found.channels, found.problems) == (("hypervisor",), ())


def test_a_vm_without_the_guest_agent_needs_no_port_for_it() -> None:
    facts = values(looked(PaperQemu(survey(device=False)), AgentKind.WAAGENT))
    assert "vm.device" not in facts
    assert "qga.port" not in facts


@pytest.mark.parametrize("port", list(PortState))
def test_the_port_is_told(port: PortState) -> None:
    facts = values(looked(PaperQemu(survey(port=port, device=False))))
    assert (facts["qga.port"], facts["vm.device"]) == (port.value, "missing")


@pytest.mark.parametrize("power", list(PowerState))
def test_every_power_state_has_its_word(power: PowerState) -> None:
    facts = values(looked(PaperQemu(survey(power=power))))
    assert facts["vm.power"] == power.value
    assert facts.get("vm.shut-down-inside") is {
        PowerState.RUNNING: False,
        PowerState.SHUT_DOWN: True,
    }.get(power)
    assert ("vm.cpu-percent" in facts) is (power is PowerState.RUNNING)


def test_the_reason_for_a_pause_is_in_qemus_words() -> None:
    found = looked(PaperQemu(survey(power=PowerState.PAUSED, status="io-error")))
    [power] = [fact for fact in found.facts if fact.name == "vm.power"]
    assert "io-error" in power.words
    assert power.raw == "io-error"


@pytest.mark.parametrize(
    ("code", "word"),
    [("vm.not-found", "missing"), ("vm.unreachable", "unreachable"), ("vm.gone", "off")],
)
def test_a_vm_that_cannot_be_asked_is_a_fact_and_a_problem(code: str, word: str) -> None:
    found = looked(PaperQemu(VmFailure(code, "It cannot be asked.")))
    assert values(found) == {"vm.power": word}
    assert [problem.code for problem in found.problems] == [code]
    assert found.channels == (f"hypervisor: It cannot be asked. [{code}]",)


def test_what_qemu_refuses_is_raised() -> None:
    with pytest.raises(SnapshotFailure):
        looked(PaperQemu(SnapshotFailure("hypervisor.command-refused", "No.")))


def test_the_worst_disk_decides_about_the_tracking() -> None:
    disks = (
        DiskSurvey("vda", Tracking.MISSING, "bitmap.missing: gone"),
        DiskSurvey("vdb", Tracking.INCONSISTENT, "bitmap.inconsistent: killed"),
        DiskSurvey("vdc", Tracking.GOOD),
    )
    found = looked(PaperQemu(survey(disks=disks)))
    [fact] = [fact for fact in found.facts if fact.name == "disk.bitmap"]
    assert (fact.value, fact.raw) == ("inconsistent", "bitmap.inconsistent: killed")
    assert "vdb" in fact.words
    assert "vda" not in fact.words


def test_a_disk_that_can_keep_no_tracking_is_not_said_to_have_lost_it() -> None:
    raw = DiskSurvey("vda", Tracking.MISSING, "bitmap.missing", unsupported="a raw disk")
    facts = values(looked(PaperQemu(survey(disks=(raw,)))))
    assert "disk.bitmap" not in facts
    assert facts["disk.unsupported"] == "vda"


def test_disks_without_a_point_or_with_a_passing_reason_say_nothing_of_tracking() -> None:
    disks = (DiskSurvey("vda", Tracking.FIRST), DiskSurvey("vdb", Tracking.UNUSABLE, "busy"))
    assert "disk.bitmap" not in values(looked(PaperQemu(survey(disks=disks))))


def test_a_vm_that_is_off_says_nothing_of_its_disks() -> None:
    off = VmSurvey(PowerState.OFF, sessions=("lost1", "active1"))
    assert values(looked(PaperQemu(off))) == {"vm.power": "off", "session.left-over": 1.0}


def test_stale_bitmaps_and_left_over_sessions_are_counted_and_named() -> None:
    disks = (
        DiskSurvey("vda", Tracking.GOOD, stale=("quiesce-a", "quiesce-b")),
        DiskSurvey("vdb", Tracking.GOOD, stale=("quiesce-c",)),
    )
    found = looked(PaperQemu(survey(disks=disks, sessions=("active1", "lost1", "lost2"))))
    facts = {fact.name: fact for fact in found.facts}
    assert facts["disk.stale-bitmaps"].value == 3.0
    assert facts["disk.stale-bitmaps"].raw == "quiesce-a\nquiesce-b\nquiesce-c"
    assert facts["session.left-over"].value == 2.0
    assert facts["session.left-over"].raw == "lost1\nlost2"


def test_a_process_that_may_not_be_looked_at_takes_no_figure() -> None:
    assert "vm.cpu-percent" not in values(looked(PaperQemu(HEALTHY, percent=None)))


def test_without_the_vault_nothing_is_said_of_bitmaps_and_all_else_is() -> None:
    qemu = PaperQemu(survey(disks=(DiskSurvey("vda", Tracking.FIRST, stale=("quiesce-a",)),)))
    qemu.vault_is_broken = True
    found = looked(qemu)
    facts = values(found)
    assert facts["vm.power"] == "running"
    assert not {"disk.bitmap", "disk.stale-bitmaps"} & set(facts)
    assert [problem.code for problem in found.problems] == ["vault.corrupt-chunk"]
