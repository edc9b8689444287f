"""The guest's way to the storage endpoint: from the failure where it tells, else by the probe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from paper_case import case, failure, seen, values

from quiesce.diagnosis.catalogue import catalogue
from quiesce.diagnosis.vocabulary import HOPS
from quiesce.model.failure import AgentFailure, Evidence
from quiesce.model.network import Hop, NetworkReport
from quiesce.model.vm import AgentKind, VmAddress
from quiesce.service.looks.network import _HOP_OF, NetworkLook
from quiesce.service.looks.panel import Found

REPORT = NetworkReport(
    "web",
    "qga",
    "https://192.0.2.1",
    (
        Hop("address", True, "eth0 10.0.0.2", 0.5),
        Hop("dns", None, "192.0.2.1 is an address"),
        Hop("route", True, "from eth0", 4.0),
        Hop("tcp", False, "no answer", 5000.0, "network.connect-timeout", "ETIMEDOUT"),
        Hop("tls", None, "not tried"),
        Hop("invented", False, "by a hostile guest", 1.0, "network.blocked"),
    ),
)
WORKING = seen(
    qga__answers=True, waagent__served=True, waagent__condition="ready", waagent__polls=True
)


class PaperNetwork:
    def __init__(self, answer: NetworkReport | AgentFailure = REPORT) -> None:
        self._answer = answer
        self.asked: list[tuple[str, ...]] = []

    def probe(
        self, address: VmAddress, *ways: str, before_each: Callable[[], None]
    ) -> NetworkReport:
        assert address.name == "web"
        before_each()
        self.asked.append(ways)
        if isinstance(self._answer, AgentFailure):
            raise self._answer
        return self._answer


def looked(
    network: PaperNetwork, before: Found = WORKING, *, decided: bool = False, **given: Any
) -> Found:
    look = NetworkLook(network, lambda _, __: decided)  # type: ignore[arg-type]
    return look(case(**given), before)


def test_every_hop_is_a_fact_with_the_guests_own_words() -> None:
    network = PaperNetwork()
    found = looked(network, deep=True)
    assert network.asked == [("qga", "waagent")]
    assert values(found) == {
        "hop.address": "ok",
        "hop.dns": "untried",
        "hop.route": "ok",
        "hop.tcp": "failed",
        "hop.tcp.code": "network.connect-timeout",
        "hop.tls": "untried",
        "hop.slowest-ms": 4.0,
    }
    [tcp] = [fact for fact in found.facts if fact.name == "hop.tcp"]
    assert (tcp.words, tcp.raw) == ("tcp: no answer", "ETIMEDOUT")
    assert found.channels == ("network probe (through qga)",)


def test_a_code_that_means_nothing_here_is_not_passed_on() -> None:
    odd = NetworkReport("web", "qga", "", (Hop("tcp", False, "x", 1.0, "evil.code"),))
    assert values(looked(PaperNetwork(odd), deep=True)) == {
        "hop.tcp": "failed",
        "hop.tcp.code": "network.probe-failed",
    }


def test_what_the_failure_met_on_its_way_is_used_and_nothing_is_probed() -> None:
    network = PaperNetwork()
    inner = failure("network.proxy-denied", Evidence("403 from the proxy", "guest", raw="403"))
    found = looked(network, failure=failure("extension.failed", cause=inner))
    assert network.asked == []
    assert values(found) == {"hop.proxy": "failed", "hop.proxy.code": "network.proxy-denied"}
    assert found.facts[0].raw == "403 from the proxy 403"


@pytest.mark.parametrize("code", sorted(_HOP_OF))
def test_every_code_that_tells_a_hop_is_known(code: str) -> None:
    assert code in catalogue().entries
    assert _HOP_OF[code] in HOPS


@pytest.mark.parametrize(
    ("code", "probed"),
    [
        ("network.slow", True),
        ("storage.no-answer", True),
        ("agent.silent", True),
        ("agent.stale", True),
        ("agent.never-seen", True),
        ("agent.hung", False),
        ("freeze.failed", False),
        ("storage.scratch-full", False),
        ("storage.full", False),
        ("extension.enable-failed", False),
    ],
)
def test_a_failure_that_the_way_may_have_caused_is_probed(code: str, probed: bool) -> None:
    network = PaperNetwork()
    looked(network, failure=failure(code))
    assert bool(network.asked) is probed


def test_what_is_decided_without_the_probe_is_not_probed() -> None:
    network = PaperNetwork()
    assert values(looked(network, failure=failure("agent.silent"), decided=True)) == {}
    assert network.asked == []


def test_nothing_is_probed_when_nothing_failed_unless_asked_for_all() -> None:
    network = PaperNetwork()
    looked(network)
    assert network.asked == []
    looked(network, deep=True, agent=AgentKind.QGA)
    assert network.asked == [], "its backups need no network"


def test_an_agent_that_may_start_nothing_runs_no_probe() -> None:
    network = PaperNetwork()
    before = seen(qga__answers=True, qga__exec=False)
    found = looked(network, before, deep=True)
    assert network.asked == []
    assert found.channels == ("network probe: no agent can run it in the guest",)


def test_a_probe_that_cannot_be_run_is_a_problem() -> None:
    found = looked(PaperNetwork(AgentFailure("agent.hung", "It hangs.")), deep=True)
    assert values(found) == {}
    assert [problem.code for problem in found.problems] == ["agent.hung"]


def test_a_guest_that_another_job_may_have_frozen_is_not_probed() -> None:
    network = PaperNetwork()
    found = looked(network, deep=True, taking="j9")
    assert network.asked == []
    assert [problem.code for problem in found.problems] == ["agent.channel-busy"]
