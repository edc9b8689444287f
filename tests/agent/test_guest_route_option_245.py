"""A host address that the agent can know from DHCP alone."""

from __future__ import annotations

from agent_site import new_site
from quiesce_server import told

from quiesce.lab.network import OTHER_HOST_ADDRESS, LabNetwork


def test_the_agent_finds_its_host_by_option_245_where_nothing_else_tells_it():
    with new_site(network=LabNetwork(host_address=OTHER_HOST_ADDRESS)) as site:
        assert site.agent.endpoint() == OTHER_HOST_ADDRESS
        assert "unknown-245" in site.guest.run("cat /var/lib/dhcp/*.leases")
        assert site.state()["endpoint"] == OTHER_HOST_ADDRESS
        job = site.server.backup()
        assert job["route"] == "guest", told(job)
