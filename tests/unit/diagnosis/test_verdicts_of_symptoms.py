"""A symptom leads to its cause, and look-alikes are told apart."""

from __future__ import annotations

import pytest
from made_facts import found

from quiesce.model.diagnosis import FactValue, Verdict


@pytest.mark.parametrize(
    ("symptom", "facts", "cause"),
    [
        ("agent.silent", {"waagent_unit": "inactive"}, "agent.not-running"),
        ("agent.silent", {"waagent_unit": "masked"}, "agent.not-running"),
        ("agent.silent", {"waagent_process": "stopped"}, "agent.hung"),
        ("agent.silent", {"waagent_installed": False}, "agent.not-installed"),
        ("agent.stale", {"guest_disk__full": "/"}, "agent.disk-full"),
        ("agent.stale", {"vm_power": "paused"}, "vm.paused"),
        ("agent.silent", {"guest_cpu__percent": 98.0, "vm_cpu__percent": 97.0}, "guest.overloaded"),
        ("agent.hung", {"qga_process": "stopped"}, "agent.hung"),
        ("agent.hung", {"guest_frozen": True}, "freeze.busy"),
        (
            "agent.not-running",
            {"failed_route": "host", "qga_installed": False},
            "agent.not-installed",
        ),
        ("network.connect-timeout", {"net_endpoint__up": True}, "network.blocked"),
        ("extension.timeout", {"extension_process": "stopped"}, "extension.stuck"),
        (
            "extension.timeout",
            {"failed_stage": "freezing", "extension_process": "blocked"},
            "freeze.timeout",
        ),
        (
            "extension.timeout",
            {"failed_stage": "freezing", "extension_process": "stopped"},
            "extension.stuck",
        ),
        ("extension.enable-failed", {"extension_runtime": False}, "extension.runtime-missing"),
        (
            "agent.silent",
            {
                "failed_route": "guest",
                "waagent_unit": "failed",
                "waagent_result": "oom-kill",
                "guest_memory__percent": 99.0,
                "vm_cpu__percent": 97.0,
            },
            "agent.out-of-memory",
        ),
        (
            "agent.silent",
            {"failed_route": "guest", "waagent_unit": "failed", "extension_runtime": False},
            "extension.runtime-missing",
        ),
        (
            "agent.not-running",
            {
                "failed_route": "host",
                "qga_port": "closed",
                "vm_power": "running",
                "extension_runtime": False,
            },
            "agent.not-running",
        ),
        (
            "agent.no-extensions",
            {
                "waagent_extensions__enabled": True,
                "waagent_outdated": True,
                "failed_route": "guest",
            },
            "agent.outdated",
        ),
        (
            "extension.manifest-invalid",
            {"extension_installed": False},
            "extension.deleted-by-antivirus",
        ),
        (
            "agent.never-seen",
            {"hop_wire__server": "failed", "hop_wire__server.code": "network.not-recognised"},
            "network.not-recognised",
        ),
        (
            "agent.silent",
            {"waagent_proxy__for__host": True, "waagent_says": "proxy"},
            "network.proxy-hijacks-host",
        ),
        (
            "agent.silent",
            {
                "waagent_proxy__for__host": True,
                "waagent_process": "running",
                "hop_wire__server": "ok",
            },
            "network.proxy-hijacks-host",
        ),
        ("agent.certificate", {"guest_clock__ahead__seconds": -400.0}, "network.clock-skew"),
        ("agent.silent", {"net_address": False}, "network.no-address"),
        (
            "agent.silent",
            {"guest_clock__ahead__seconds": -400.0, "waagent_says": "certificate"},
            "network.clock-skew",
        ),
        ("agent.silent", {"waagent_says": "no-space"}, "agent.disk-full"),
        (
            "agent.silent",
            {"guest_memory__percent": 97.0, "guest_io__stall__percent": 30.0},
            "guest.overloaded",
        ),
        (
            "agent.silent",
            {"guest_memory__percent": 97.0, "vm_cpu__percent": 95.0},
            "guest.overloaded",
        ),
        (
            "freeze.failed",
            {"guest_os": "windows", "windows_writers__failed": "SqlServerWriter [7] Failed"},
            "vss.writer-failed",
        ),
    ],
)
def test_a_symptom_leads_to_its_cause(
    symptom: str, facts: dict[str, FactValue], cause: str
) -> None:
    answer = found(symptom, **facts)
    assert (answer.verdict, answer.code, answer.symptom) == (Verdict.PROVEN, cause, symptom)
    assert answer.evidence
    assert answer.remedy


@pytest.mark.parametrize(
    ("symptom", "facts", "wrong"),
    [
        # The other agent's trouble is none of this route's.
        ("agent.silent", {"qga_unit": "inactive", "qga_process": "absent"}, "agent.not-running"),
        ("agent.hung", {"waagent_process": "stopped"}, "agent.hung"),
        # A dropped connection is nobody's firewall while the endpoint is down for all.
        ("network.connect-timeout", {"net_endpoint__up": False}, "network.blocked"),
        ("network.connect-timeout", {}, "network.blocked"),
        # The way works by now, or the guest has no way of its own.
        ("network.rejected", {"net_endpoint__up": True, "hop_tcp": "ok"}, "network.blocked"),
        ("network.rejected", {"net_endpoint__up": True, "hop_route": "failed"}, "network.blocked"),
        # A VM whose monitor nobody finds looks like one that is off; its images are locked.
        ("vm.unreachable", {"vm_power": "off"}, "vm.gone"),
        ("vm.unreachable", {"vm_power": "missing"}, "vm.not-found"),
        # Missing change tracking of one disk is not explained by the format of another one.
        (
            "bitmap.missing",
            {"disk_unsupported": "vdb", "disk_bitmap": "missing"},
            "disk.unsupported",
        ),
        # A disk that is stuck makes everybody wait for it: that is no load.
        ("freeze.timeout", {"guest_io__stall__percent": 99.0}, "guest.overloaded"),
        # Looking keeps a small guest busy for a moment; the host saw it idle before.
        ("agent.silent", {"guest_cpu__percent": 99.0, "vm_cpu__percent": 7.0}, "guest.overloaded"),
        # Processes of a frozen guest wait: that is no load either.
        (
            "agent.hung",
            {"guest_io__stall__percent": 99.0, "guest_frozen": True},
            "guest.overloaded",
        ),
        (
            "agent.silent",
            {"waagent_unit": "inactive", "waagent_process": "running"},
            "agent.not-running",
        ),
        ("agent.silent", {"net_option__245": ""}, "network.dhcp-no-host-address"),
        ("agent.silent", {"waagent_proxy__for__host": True}, "network.proxy-hijacks-host"),
        # The agent polls its host past HttpProxy.Host; what the log says is the host's own doing.
        *(
            (code, {"waagent_proxy__for__host": True, **more}, "network.proxy-hijacks-host")
            for code in ("agent.never-seen", "agent.stale")
            for more in (
                {"waagent_says": "no-host"},
                {"waagent_says": "host-refused"},
                {"waagent_process": "running", "hop_wire__server": "ok"},
            )
        ),
        # Polling is plain HTTP: a clock that is behind keeps nobody from it.
        *(
            (code, {"guest_clock__ahead__seconds": -400.0}, "network.clock-skew")
            for code in ("agent.silent", "agent.stale", "extension.timeout", "freeze.failed")
        ),
        # The guest agent needs no address, nor does a container.
        ("agent.hung", {"net_address": False}, "network.no-address"),
        # df knows better than an old line of the log.
        ("agent.silent", {"waagent_says": "no-space", "guest_disk__full": ""}, "agent.disk-full"),
        # A database holds the memory that it was given.
        ("agent.silent", {"guest_memory__percent": 98.0}, "guest.overloaded"),
        ("agent.hung", {"guest_memory__percent": 98.0}, "guest.overloaded"),
    ],
)
def test_a_look_alike_is_not_taken_for_the_cause(
    symptom: str, facts: dict[str, FactValue], wrong: str
) -> None:
    answer = found(symptom, **facts)
    assert answer.verdict is Verdict.NOT_PROVEN or answer.code != wrong
    assert wrong not in answer.also


def test_load_is_named_beside_the_cause_and_not_instead() -> None:
    answer = found(
        "agent.silent", waagent_unit="inactive", guest_cpu__percent=99.0, vm_cpu__percent=99.0
    )
    assert answer.code == "agent.not-running"
    assert answer.also == ("guest.overloaded",)


def test_load_does_not_explain_what_is_proven_by_itself() -> None:
    busy = {"guest_cpu__percent": 99.0, "vm_cpu__percent": 99.0}
    assert found("agent.hung", **busy).code == "guest.overloaded"
    answer = found("agent.hung", qga_process="stopped", **busy)
    assert (answer.code, answer.also) == ("agent.hung", ("guest.overloaded",))


def test_the_deeper_cause_is_named_and_not_what_follows_from_it() -> None:
    answer = found(
        "agent.silent",
        net_address=False,
        hop_wire__server="failed",
        **{"hop_wire__server.code": "network.host-address-unreachable"},
    )
    assert answer.code == "network.no-address"
    assert answer.also == ()


def test_of_two_causes_that_are_as_well_proven_the_nearer_one_comes_first() -> None:
    # Both have one condition; by the alphabet it would be agent.disk-full.
    answer = found("agent.channel-lost", guest_disk__full="/var", vm_power="migrating")
    assert (answer.code, answer.also) == ("vm.migrating", ("agent.disk-full",))


def test_an_agent_that_hangs_behind_a_proxy_setting_is_still_found() -> None:
    answer = found(
        "agent.stale",
        waagent_proxy__for__host=True, waagent_process="running", waagent_unit="active",
        waagent_silent__seconds=90.0, waagent_says="nothing", waagent_restarts=0.0,
        hop_wire__server="ok", guest_cpu__percent=3.0,
    )  # fmt: skip
    assert (answer.verdict, answer.code) == (Verdict.PROVEN, "agent.hung")


def test_a_clock_that_is_wrong_since_nothing_is_reached_is_not_the_cause() -> None:
    answer = found(
        "agent.silent",
        net_address=False,
        guest_clock__ahead__seconds=-400.0,
        waagent_says="certificate",
    )
    assert (answer.code, answer.also) == ("network.no-address", ())


def test_a_disk_that_has_room_again_is_not_called_full() -> None:
    full = {"waagent_says": "no-space", "failed_route": "guest"}
    assert found("agent.disk-full", **full).verdict is Verdict.PROVEN
    answer = found("agent.disk-full", **full, guest_disk__full="")
    assert answer.verdict is Verdict.NOT_PROVEN


def test_a_clock_that_the_endpoint_would_mind_is_named_beside_an_agent_that_does_not_run() -> None:
    skewed = {"hop_clock": "failed", "hop_clock.code": "network.clock-skew"}
    answer = found("agent.silent", waagent_unit="inactive", **skewed)
    assert (answer.code, answer.also) == ("agent.not-running", ("network.clock-skew",))
