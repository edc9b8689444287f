"""The newest release of the Azure Linux agent that Debian has, from its unstable distribution."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from agent_site import Site, new_site, setback
from quiesce_server import VM, told

from quiesce.lab.cuts import Cut


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with new_site(newest=True) as site:
        yield site


def test_the_newest_agent_installs_the_extension_and_takes_an_application_consistent_point(
    site: Site,
):
    site.put_scripts(pre="true", post="true")
    job = site.server.backup()
    assert job["status"] == "Completed", told(job)
    assert job["route"] == "guest"
    assert job["consistency"]["level"] == "application", job["consistency"]
    major, minor = site.state()["version"].split(".")[:2]
    assert (int(major), int(minor)) > (2, 9)
    print(f"\n  agent {site.state()['version']}", end="")


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
