"""What is wrong with a guest though nobody tells what failed, and what is not."""

from __future__ import annotations

from datetime import timedelta

import pytest
from made_facts import NOW, fact

from quiesce.diagnosis.checks import checks
from quiesce.diagnosis.engine import diagnose, standing
from quiesce.model.diagnosis import FactValue, Light
from quiesce.model.failure import FailureReport


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
