"""What an operator reads of a failure: look-alikes are told apart, and a guess is called one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from quiesce.diagnosis.checks import checks
from quiesce.diagnosis.engine import diagnose, standing
from quiesce.model.diagnosis import Diagnosis, Fact, FactValue, Light, Verdict
from quiesce.model.failure import Evidence, FailureReport

NOW = datetime(2026, 3, 1, 2, 30, tzinfo=UTC)


def fact(name: str, value: FactValue, words: str = "", *, at: datetime = NOW) -> Fact:
    return Fact(name, value, words or f"{name} is {value}", "a test", at)


def found(code: str, **facts: FactValue) -> Diagnosis:
    """What is made of a failure with this code and these facts, `_` for the dot and `__` for the
    hyphen of a fact's name."""
    report = FailureReport(code, "It failed.")
    return diagnose(report, [fact(_name(name), value) for name, value in facts.items()])


def _name(word: str) -> str:
    return word.replace("__", "-").replace("_", ".", 1)


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


def test_a_bundle_shows_what_is_wrong_though_nobody_tells_what_failed() -> None:
    facts = [fact("waagent.installed", True), fact("waagent.unit", "failed")]
    [cause] = standing([*facts, fact("guest.distribution", "ubuntu")])
    assert cause.code == "agent.not-running"
    assert "systemctl start walinuxagent" in " ".join(cause.remedy)


def test_a_guest_that_is_well_has_no_standing_trouble() -> None:
    facts = [
        fact("qga.configured", True), fact("qga.port", "open"), fact("qga.answers", True),
        fact("qga.unit", "active"), fact("qga.process", "running"), fact("qga.exec", True),
        fact("qga.blocked", ""), fact("qga.restarts", 0.0), fact("qga.installed", True),
        fact("waagent.configured", True), fact("waagent.unit", "active"),
        fact("waagent.process", "running"), fact("waagent.says", "nothing"),
        fact("waagent.extensions-enabled", True), fact("waagent.certificate", "good"),
        fact("waagent.polls", True), fact("waagent.served", True), fact("vm.power", "running"),
        fact("vm.device", "present"), fact("guest.disk-full", ""), fact("guest.cpu-percent", 12.0),
        fact("guest.memory-percent", 40.0), fact("guest.io-stall-percent", 0.0),
        fact("guest.clock-ahead-seconds", -0.4), fact("net.address", True),
        fact("net.option-245", ""), fact("hop.wire-server", "ok"), fact("disk.bitmap", "missing"),
        fact("extension.installed", False), fact("extension.config-error", ""),
    ]  # fmt: skip
    assert standing(facts) == ()


BOTH = {"waagent.installed": True, "qga.installed": True}
AZURE_WELL = {"waagent.unit": "active", "waagent.process": "running"}
QGA_WELL = {"qga.unit": "active", "qga.process": "running"}


@pytest.mark.parametrize(
    "facts",
    [
        {**AZURE_WELL, "qga.unit": "inactive", "qga.process": "absent"},
        {
            **AZURE_WELL,
            "qga.unit": "inactive",
            "qga.process": "absent",
            "qga.blocked": "guest-exec",
        },
        {**QGA_WELL, "waagent.unit": "disabled", "waagent.process": "absent"},
        {**QGA_WELL, "waagent.unit": "masked", "waagent.process": "absent"},
    ],
)
def test_a_second_agent_that_only_lies_there_is_no_trouble(facts: dict[str, FactValue]) -> None:
    assert standing([fact(name, value) for name, value in {**BOTH, **facts}.items()]) == ()


@pytest.mark.parametrize(
    ("facts", "cause"),
    [
        ({**QGA_WELL, "waagent.unit": "failed", "waagent.process": "absent"}, "agent.not-running"),
        ({**QGA_WELL, "waagent.unit": "active", "waagent.process": "stopped"}, "agent.hung"),
        ({**AZURE_WELL, "qga.unit": "active", "qga.process": "stopped"}, "agent.hung"),
        ({"waagent.unit": "disabled", "qga.unit": "inactive"}, "agent.not-running"),
    ],
)
def test_an_agent_that_was_to_run_and_does_not_is_trouble_beside_another_one(
    facts: dict[str, FactValue], cause: str
) -> None:
    found = standing([fact(name, value) for name, value in {**BOTH, **facts}.items()])
    assert [each.code for each in found] == [cause]


def test_what_the_agent_complained_of_long_ago_is_not_wrong_now() -> None:
    facts = [fact("waagent.configured", True), fact("waagent.log-age-seconds", 5.0)]
    for days, codes in ((8, []), (6, ["extension.enable-failed"])):
        says = fact("waagent.says", "enable-failed", at=NOW - timedelta(days=days))
        assert [each.code for each in standing([*facts, says])] == codes
    # What the agent said last before it fell silent is news, however long that is ago.
    says = fact("waagent.says", "enable-failed", at=NOW - timedelta(days=300))
    silent = fact("waagent.log-age-seconds", 300 * 86400.0 - 60)
    assert [each.code for each in standing([facts[0], says, silent])] == ["extension.enable-failed"]
    # Its log has the guest's clock.
    behind = fact("guest.clock-ahead-seconds", -300 * 86400.0)
    [skewed] = standing([*facts, says, behind])
    assert (skewed.code, skewed.also) == ("network.clock-skew", ("extension.enable-failed",))


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


def test_a_guest_that_nobody_reaches_by_its_network_may_be_without_an_address() -> None:
    alone = [fact("net.address", False), fact("qga.configured", True)]
    assert standing(alone) == ()
    [cause] = standing([*alone, fact("waagent.configured", True)])
    assert cause.code == "network.no-address"


SQL = {
    "guest.os": "windows", "windows.sql-writer": True, "windows.sql-backups": True,
    "windows.copy-backup": False,
}  # fmt: skip


def test_sql_servers_own_backups_make_a_freeze_slow_and_break_nothing() -> None:
    facts = [fact(name, value) for name, value in SQL.items()]
    assert diagnose(FailureReport("vss.freeze-timeout", "Slow."), facts).code == (
        "snapshot.sql-server-full"
    )
    # Of another failure it is no cause, and a real one goes before it.
    assert diagnose(FailureReport("vss.freeze-failed", "No."), facts).code == "vss.freeze-failed"
    failed = [*facts[:-1], fact("extension.process", "stopped")]
    stuck = diagnose(FailureReport("extension.timeout", "Late."), failed)
    assert stuck.code == "extension.stuck"
    [shown] = standing(facts)
    assert shown.code == "snapshot.sql-server-full"
    [line] = [each for each in checks(facts, [shown]) if shown.code in each.codes]
    assert line.light is Light.AMBER


def test_a_clock_that_the_endpoint_would_mind_is_named_beside_an_agent_that_does_not_run() -> None:
    skewed = {"hop_clock": "failed", "hop_clock.code": "network.clock-skew"}
    answer = found("agent.silent", waagent_unit="inactive", **skewed)
    assert (answer.code, answer.also) == ("agent.not-running", ("network.clock-skew",))
