"""The stock Azure Linux agent in a lab guest, as the guest route's tests find it."""

from __future__ import annotations

import pytest
from lab_network_site import attempt, new, serving, wait_for

from quiesce.lab import faults
from quiesce.lab.network import HOST_ADDRESS, OTHER_HOST_ADDRESS, LabNetwork
from quiesce.lab.waagent import Waagent

pytestmark = [pytest.mark.guest, pytest.mark.long]


def test_stock_agent_finds_its_host_by_option_245_where_the_known_address_leads_nowhere() -> None:
    with (
        LabNetwork(host_address=OTHER_HOST_ADDRESS) as network,
        serving(network, OTHER_HOST_ADDRESS, 80),
        new(network) as guest,
    ):
        assert attempt(guest, HOST_ADDRESS, 80) != "connected"
        agent = Waagent(guest)
        agent.start()
        wait_for(lambda: "Wire protocol version:2012-11-30" in agent.log(), 60.0)
        log = agent.log()
        assert f"No route exists to {HOST_ADDRESS}" in log
        assert f"cached endpoint found [{OTHER_HOST_ADDRESS}]" in log
        assert f"Wire server endpoint:{OTHER_HOST_ADDRESS}" in log
        assert agent.version().startswith("2.")
        changed = guest.run("dpkg --verify waagent | grep -v /usr/share/doc || true").splitlines()
        assert [line.split()[-1] for line in changed] == ["/etc/waagent.conf"]


def test_killed_agent_stays_away_and_the_newest_release_takes_its_place() -> None:
    with LabNetwork() as network, serving(network, HOST_ADDRESS, 80), new(network) as guest:
        agent = Waagent(guest)
        debians = agent.version()
        agent.start()
        wait_for(lambda: "Wire protocol version:2012-11-30" in agent.log(), 60.0)
        faults.kill_waagent(guest)
        assert guest.run("pgrep -f [w]aagent.-daemon || echo gone").strip() == "gone"
        newest = agent.install_newest()
        assert [int(part) for part in newest.split(".")] > [
            int(part) for part in debians.split(".")
        ]
        agent.start()
        wait_for(lambda: f"Version: {newest}" in agent.log(), 60.0)
