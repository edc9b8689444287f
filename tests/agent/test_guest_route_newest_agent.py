"""The newest release of the Azure Linux agent that Debian has, from its unstable distribution, with
a host address that it can know from DHCP option 245 alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_site import Site, new_site, restart_with_extension, setback
from guest_scripts import put_scripts
from quiesce_server import VM, told

from quiesce.lab.cuts import Cut
from quiesce.lab.network import OTHER_HOST_ADDRESS, LabNetwork


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    network = LabNetwork(host_address=OTHER_HOST_ADDRESS)
    with new_site(newest=True, network=network) as site:
        yield site


def test_the_newest_agent_installs_the_extension_and_takes_an_application_consistent_point(
    site: Site,
):
    put_scripts(site.guest, pre="true", post="true")
    job = site.server.backup()
    assert job["status"] == "Completed", told(job)
    assert job["route"] == "guest"
    assert job["consistency"]["level"] == "application", job["consistency"]
    major, minor = site.state()["version"].split(".")[:2]
    assert (int(major), int(minor)) > (2, 9)
    assert site.agent.endpoint() == OTHER_HOST_ADDRESS
    print(f"\n  agent {site.state()['version']}", end="")


@pytest.mark.long
def test_with_the_newest_agent_the_proxy_may_be_the_only_way_out(site: Site):
    site.network.cut(Cut.PROXY_ONLY)
    url = site.network.proxy_url
    proxy = {"http": url, "https": url, "no_proxy": ""}
    try:
        assert site.server.call("PATCH", "vms", VM, body={"proxy": proxy}).is_success
        before = len(site.network.proxy_requests())
        job = site.server.backup()
    finally:
        site.network.heal()
        site.server.call("PATCH", "vms", VM, body={"server_proxy": True})
    assert job["route"] == "guest", told(job)
    assert any("CONNECT storage" in line for line in site.network.proxy_requests()[before:])


@pytest.mark.long
def test_the_newest_agent_takes_an_upgrade_of_the_extension(site: Site, tmp_path: Path):
    restart_with_extension(site, "1.0.0", tmp_path)
    job = site.server.backup()
    assert job["route"] == "guest", told(job)
    assert site.extension()["version"].startswith("1.0.0.")
    assert [folder[-7:-1] for folder in site.handler_folders()] == ["1.0.0."]


@pytest.mark.long
def test_the_newest_agent_uninstalls_and_brings_the_extension_back(site: Site):
    done = site.server.cli("extension", "uninstall", VM)
    assert done.returncode == 0, done.stdout + done.stderr
    assert site.handler_folders() == []
    job = site.server.backup()
    assert job["route"] == "guest", told(job)


@pytest.mark.long
def test_with_the_newest_agent_a_blocked_endpoint_is_named_too(site: Site):
    site.network.cut(Cut.STORAGE_DROPPED)
    try:
        job = site.server.backup()
    finally:
        site.network.heal()
    assert job["route"] == "host", told(job)
    assert setback(job)["code"] == "network.connect-timeout"
