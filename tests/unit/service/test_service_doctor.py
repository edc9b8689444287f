"""The doctor and log bundles, on a VM of paper."""

from __future__ import annotations

import io
import json
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from paper_machine import PaperMachine, ended, eventually

from quiesce.model.diagnosis import Fact, Light, MendAction, MendStatus
from quiesce.model.failure import Failure, NotFoundFailure, PolicyFailure
from quiesce.service.doctor import Findings
from quiesce.service.log_bundle import LogBundle
from quiesce.service.looks import Seen
from quiesce.service.service import Service


def test_a_mount_that_is_left_out_is_amber_with_the_line_that_skips_it(service: Service) -> None:
    service.vms.protect("web", "daily")
    found = service.doctor.examine("web")
    assert found.subject == "web"
    mounts = {check.title: check for check in found.checks if check.area == "mounts"}
    assert mounts["freeze plan"].words == "will be frozen: /"
    loop = mounts["/mnt/loop"]
    assert loop.light is Light.AMBER
    assert "a loop on /" in loop.words
    assert "`quiesce policy update daily --skip-mount /mnt/loop`" in loop.remedy[0]
    assert "`MountsToSkip = /mnt/loop`" in loop.remedy[1]
    assert found.light in (Light.AMBER, Light.RED)


def test_what_this_vms_agent_does_not_need_is_not_wrong_with_it(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = service.looks.facts

    def without_network(vm: str, *, deep: bool = False) -> Seen:
        seen = real(vm, deep=deep)
        bad = (
            Fact("net.address", False, "No interface has an address.", "the guest"),
            Fact("waagent.unit", "inactive", "its service is inactive", "the guest"),
        )
        return replace(seen, facts=(*seen.facts, *bad))

    monkeypatch.setattr(service.looks, "facts", without_network)
    found = service.doctor.examine("web")
    assert "network.no-address" not in {each.code for each in found.diagnoses}
    (network,) = [check for check in found.checks if check.area == "network"]
    assert network.light is Light.GREEN
    assert "not needed" in network.words
    assert not any("service" in check.words for check in found.checks if check.area == "agent")


def test_an_examination_changes_nothing_in_the_guest(
    service: Service, machine: PaperMachine
) -> None:
    before = sorted(machine.folder.rglob("*"))
    service.doctor.examine("web")
    assert sorted(machine.folder.rglob("*")) == before


def test_nothing_is_examined_mended_or_collected_while_a_backup_runs(
    service: Service, machine: PaperMachine
) -> None:
    (machine.folder / "hold-read").touch()
    service.jobs.start_backup("web")
    eventually(lambda: (machine.folder / "at-read").exists(), "read")
    for call in (
        lambda: service.doctor.examine("web"),
        lambda: service.doctor.fix("web", {MendAction.RESTART_AGENT}),
        lambda: service.guest_logs.collect("web"),
        lambda: service.guest_logs.collect("web", verbose=True),
    ):
        with pytest.raises(PolicyFailure) as refused:
            call()
        assert refused.value.code == "policy.in-progress"
    assert machine.mended == []


def test_what_is_not_in_the_plan_is_not_done(service: Service, machine: PaperMachine) -> None:
    with pytest.raises(PolicyFailure) as refused:
        service.doctor.fix("web", {MendAction.AUTO_RESTART})
    assert refused.value.code == "policy.mend-not-planned"
    assert "auto-restart" in refused.value.message
    assert machine.mended == []


def test_what_is_planned_is_done_and_the_answer_begins_with_it(
    service: Service, machine: PaperMachine
) -> None:
    left = machine.folder / "sessions" / "0123456789ab"
    left.mkdir(parents=True)
    before = service.doctor.examine("web")
    assert [mend.action for mend in before.plan] == [MendAction.CLEAN_STALE]
    assert left.is_dir(), "nothing is changed by looking"
    after = service.doctor.fix("web", [MendAction.CLEAN_STALE])
    assert not left.exists()
    assert [(mend.action, mend.status) for mend in after.plan] == [
        (MendAction.CLEAN_STALE, MendStatus.DONE)
    ]
    assert {each.code for each in after.diagnoses} < {each.code for each in before.diagnoses}


def test_what_the_policy_switches_off_is_shown_and_not_done(
    service: Service, machine: PaperMachine
) -> None:
    left = machine.folder / "sessions" / "0123456789ab"
    left.mkdir(parents=True)
    daily = service.policies.show("daily")
    service.policies.change(replace(daily, mends_off=(MendAction.CLEAN_STALE,)))
    service.vms.protect("web", "daily")
    (mend,) = service.doctor.examine("web").plan
    assert mend.status is MendStatus.SWITCHED_OFF
    with pytest.raises(PolicyFailure):
        service.doctor.fix("web", [MendAction.CLEAN_STALE])
    assert left.is_dir()


def test_an_unknown_vm_cannot_be_examined(service: Service) -> None:
    with pytest.raises(NotFoundFailure):
        service.doctor.examine("nobody")


def test_verbose_logging_is_switched_back_when_the_logs_are_there(
    service: Service, machine: PaperMachine
) -> None:
    bundle = service.guest_logs.collect("web", verbose=True)
    assert machine.mended == ["verbose-on", "verbose-off"]
    assert "logged verbosely" in member(bundle, "README")
    assert json.loads(member(bundle, "examination.json"))["subject"] == "web"


def test_verbose_logging_is_switched_back_after_any_failure(
    service: Service, machine: PaperMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(service.doctor, "findings", interrupted)
    with pytest.raises(KeyboardInterrupt):
        service.guest_logs.collect("web", verbose=True)
    assert machine.mended == ["verbose-on", "verbose-off"]


def test_what_a_killed_server_left_verbose_is_switched_back_at_the_next_start(
    service: Service, machine: PaperMachine
) -> None:
    notes = service.settings.data_folder / "verbose"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service.doctor, "findings", killed)
        patch.setattr("paper_vm.PaperGuest.mend", refuse)
        with pytest.raises(Failure):
            service.guest_logs.collect("web", verbose=True)
    assert [note.name for note in notes.iterdir()] == ["web"]
    (notes / "removed%20VM").touch()
    service.guest_logs.recover()
    assert machine.mended == ["verbose-off"]
    assert list(notes.iterdir()) == []


def test_logs_are_not_verbose_unless_asked_for(service: Service, machine: PaperMachine) -> None:
    bundle = service.guest_logs.collect("web")
    assert machine.mended == []
    assert "verbosely" not in member(bundle, "README")


def test_a_vm_without_an_agent_that_can_be_told_says_so(service: Service) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("paper_vm.PaperGuest.mend", refuse)
        with pytest.raises(Failure) as refused:
            service.guest_logs.collect("web", verbose=True)
    assert refused.value.code == "agent.mend-failed"
    assert "verbose-on" in refused.value.message
    assert "no shell" in refused.value.evidence[0].fact


def test_no_backup_begins_while_the_doctor_mends(service: Service, machine: PaperMachine) -> None:
    (machine.folder / "sessions" / "0123456789ab").mkdir(parents=True)
    machine.hold("release")
    with ThreadPoolExecutor() as pool:
        fixing = pool.submit(service.doctor.fix, "web", [MendAction.CLEAN_STALE])
        machine.reached("release")
        with pytest.raises(PolicyFailure) as refused:
            service.jobs.start_backup("web")
        assert refused.value.code == "policy.in-progress"
        assert "quiesce doctor --fix" in refused.value.message
        assert service.jobs.newest() == ()
        with pytest.raises(PolicyFailure):
            service.doctor.fix("web", [MendAction.CLEAN_STALE])
        machine.let_go("release")
        assert [mend.status for mend in fixing.result().plan] == [MendStatus.DONE]
    ended(service, service.jobs.start_backup("web"))


def test_no_backup_begins_while_a_guest_logs_verbosely(
    service: Service, machine: PaperMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = service.doctor.findings

    def findings(name: str) -> Findings:
        with pytest.raises(PolicyFailure) as refused:
            service.jobs.start_backup(name)
        assert refused.value.code == "policy.in-progress"
        return real(name)

    monkeypatch.setattr(service.doctor, "findings", findings)
    service.guest_logs.collect("web", verbose=True)
    assert machine.mended == ["verbose-on", "verbose-off"]
    ended(service, service.jobs.start_backup("web"))


def test_what_was_left_verbose_is_not_switched_back_in_the_middle_of_a_backup(
    service: Service, machine: PaperMachine
) -> None:
    notes = service.settings.data_folder / "verbose"
    notes.mkdir()
    (notes / "web").touch()
    machine.hold("read")
    job = service.jobs.start_backup("web")
    machine.reached("read")
    service.guest_logs.recover()
    assert machine.mended == []
    machine.let_go("read")
    ended(service, job)
    service.guest_logs.recover_soon()
    eventually(lambda: not list(notes.iterdir()), "switching back")
    assert machine.mended == ["verbose-off"]


def test_an_agent_that_does_not_answer_is_not_asked_at_every_tick(service: Service) -> None:
    notes = service.settings.data_folder / "verbose"
    notes.mkdir()
    (notes / "web").touch()
    asked: list[object] = []

    def mute(*words: object) -> str:
        asked.append(words)
        return refuse()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("paper_vm.PaperGuest.mend", mute)
        service.guest_logs.recover()
        service.guest_logs.recover()
    assert len(asked) == 1
    assert (notes / "web").exists()


def killed(_: str) -> None:
    raise KeyboardInterrupt


def refuse(*_: object) -> str:
    raise Failure("agent.exec-timeout", "no shell in the paper guest")


def member(bundle: LogBundle, name: str) -> str:
    with tarfile.open(fileobj=io.BytesIO(bundle.content)) as archive:
        file = archive.extractfile(f"{bundle.name.removesuffix('.tar.gz')}/{name}")
        assert file is not None
        return file.read().decode()
