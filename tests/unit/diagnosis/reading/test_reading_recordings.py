"""What stock agents have written in real trouble, in network namespaces of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from guest_papers import facts, paper, papers

from quiesce.diagnosis.examination import examine
from quiesce.model.diagnosis import Verdict

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


def test_the_host_is_the_one_that_the_lease_names() -> None:
    text = (RECORDINGS / "waagent-2.16-no-route-to-host.log").read_text()
    fact = facts(paper("/var/log/waagent.log", text), taken_at=None)["net.host-address"]
    assert fact.value == "168.63.129.16"
    assert "No route to host" in facts(paper("/var/log/waagent.log", text))["waagent.says"].raw
