"""A guest with both agents: the one that has stopped is started again through the other one, by the
job that met it, and the next backup is whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from agent_site import Site, new_site, setback
from quiesce_server import told

from quiesce.lab.hand import Hand


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """One VM that has had its first backup."""
    with new_site(kind="both") as site:
        job = site.server.backup()
        assert job["route"] == "guest", told(job)
        yield site


def mends(job: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [(mend["action"], mend["because"], mend["status"]) for mend in job["mends"]]


@pytest.mark.long
def test_a_stopped_azure_agent_is_started_through_the_qemu_guest_agent(site: Site):
    site.agent.stop()

    job = site.server.backup()

    assert job["route"] == "host", told(job)
    assert job["consistency"]["level"] == "file-system", told(job)
    assert setback(job)["code"] in ("agent.silent", "agent.stale")
    [diagnosis] = job["diagnoses"]
    assert (diagnosis["code"], diagnosis["verdict"]) == ("agent.not-running", "proven"), told(job)
    assert diagnosis["evidence"]
    assert ("restart-agent", "agent.not-running", "done") in mends(job), told(job)
    again = site.server.backup()
    assert (again["status"], again["route"]) == ("Completed", "guest"), told(again)
    assert again["mends"] == []


@pytest.mark.long
def test_a_stopped_qemu_guest_agent_is_started_through_the_azure_agent(site: Site):
    hand = Hand(site.guest)
    site.server.protect(snapshot={"route": "host-then-guest"})
    hand.run("systemctl stop qemu-guest-agent")

    job = site.server.backup()

    assert job["route"] == "guest", told(job)
    [diagnosis] = job["diagnoses"]
    assert diagnosis["code"] == "agent.not-running", told(job)
    assert ("restart-agent", "agent.not-running", "done") in mends(job), told(job)
    again = site.server.backup()
    assert (again["status"], again["route"]) == ("Completed", "host"), told(again)
