"""What stock agents have written in real trouble: in network namespaces of their own, and what the
collector has printed in a lab guest (Debian 12, WALinuxAgent 2.7.3) with a fault set in."""

from __future__ import annotations

from pathlib import Path

import pytest
from guest_papers import facts, paper, papers

from quiesce.diagnosis.bundle import read_bundle
from quiesce.diagnosis.examination import examine
from quiesce.diagnosis.reading import facts_of
from quiesce.model.diagnosis import Light, Verdict

RECORDINGS = Path(__file__).parents[1] / "recordings"


@pytest.mark.parametrize(
    ("name", "says", "version"),
    [
        ("waagent-2.7.3-no-route.log", "no-host", "2.7.3.0"),
        ("waagent-2.7.3-connection-refused.log", "no-host", "2.7.3.0"),
        ("waagent-2.16-no-route-to-host.log", "no-host", "2.16.0.2"),
        ("waagent-2.16-dhcp-silent.log", "no-host", "2.16.0.2"),
        ("waagent-2.7.3-another-server-answers.log", "host-refused", "2.7.3.0"),
        ("waagent-2.16-another-server-answers.log", "host-refused", "2.16.0.2"),
    ],
)
def test_the_trouble_is_told(name: str, says: str, version: str) -> None:
    text = (RECORDINGS / name).read_text()
    found = facts(paper("/var/log/waagent.log", text), taken_at=None)
    assert found["waagent.says"].value == says
    assert found["waagent.version"].value == version
    assert found["waagent.says"].raw.splitlines()[0] in text


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("waagent-2.7.3-no-route.log", "network.no-route"),
        ("waagent-2.7.3-connection-refused.log", "network.host-address-unreachable"),
        ("waagent-2.16-no-route-to-host.log", "network.host-address-unreachable"),
        ("waagent-2.16-dhcp-silent.log", ""),
        ("waagent-2.16-another-server-answers.log", ""),
    ],
)
def test_a_cause_is_named_only_where_the_log_proves_it(name: str, cause: str) -> None:
    text = (RECORDINGS / name).read_text()
    first = examine(papers(paper("/var/log/waagent.log", text), taken_at=None)).diagnoses[0]
    if cause:
        assert (first.code, first.verdict) == (cause, Verdict.PROVEN)
    else:
        assert (first.code, first.verdict) == ("agent.silent", Verdict.NOT_PROVEN)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("agent-stopped", {"waagent.unit": "inactive", "waagent.process": "absent"}),
        ("agent-hung", {"waagent.unit": "active", "waagent.process": "stopped"}),
        ("crash-loop", {"waagent.unit": "activating", "waagent.restarts": 24.0}),
        (
            "extensions-disabled",
            {"waagent.extensions-enabled": False, "waagent.says": "extensions-disabled"},
        ),
        (
            "disk-full",
            {"guest.disk-full": "/", "guest.root-free-bytes": 0.0, "waagent.says": "no-space"},
        ),
    ],
)
def test_a_real_guest_in_trouble(name: str, known: dict[str, object]) -> None:
    recorded = read_bundle(RECORDINGS / f"guest-{name}.txt")
    found = {fact.name: fact.value for fact in facts_of(recorded)}
    assert {name: found.get(name) for name in known} == known
    assert found["qga.process"] == "running"
    assert found["guest.distribution"] == "debian"
    assert found["guest.hazards"] == ""


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("agent-stopped", {"agent.not-running"}),
        ("agent-hung", {"agent.hung"}),
        ("extensions-disabled", {"agent.extensions-disabled"}),
        ("disk-full", {"agent.disk-full"}),
    ],
)
def test_nothing_else_is_proven_of_a_real_guest(name: str, codes: set[str]) -> None:
    found = examine(read_bundle(RECORDINGS / f"guest-{name}.txt"))
    proven = {each.code for each in found.diagnoses if each.verdict is Verdict.PROVEN}
    # The guest without its extension is the one whose disk was full, too.
    assert proven - {"extension.deleted-by-antivirus"} == codes
    assert found.light is Light.RED


def test_the_host_is_the_one_that_the_lease_names() -> None:
    text = (RECORDINGS / "waagent-2.16-no-route-to-host.log").read_text()
    fact = facts(paper("/var/log/waagent.log", text), taken_at=None)["net.host-address"]
    assert fact.value == "168.63.129.16"
    assert "No route to host" in facts(paper("/var/log/waagent.log", text))["waagent.says"].raw
