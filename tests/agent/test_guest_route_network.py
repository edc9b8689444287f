"""The guest's way out: blocked, by proxy only, and found by DHCP option 245."""

from __future__ import annotations

import pytest
from agent_site import Site, setback, warned
from quiesce_server import VM, told

from quiesce.lab.cuts import Cut
from quiesce.lab.daemons import ProxyRule


@pytest.fixture(autouse=True)
def healed(request: pytest.FixtureRequest):
    yield
    if "site" in request.fixturenames:
        site = request.getfixturevalue("site")
        site.network.heal()
        answer = site.server.call("PATCH", "vms", VM, body={"server_proxy": True})
        assert answer.is_success, answer.text


@pytest.mark.parametrize(
    ("cut", "code"),
    [
        (Cut.STORAGE_DROPPED, "network.connect-timeout"),
        pytest.param(Cut.STORAGE_REJECTED, "network.rejected", marks=pytest.mark.long),
        pytest.param(Cut.STORAGE_RESET, "network.connect-refused", marks=pytest.mark.long),
        pytest.param(Cut.NAMES, "network.dns-failed", marks=pytest.mark.long),
    ],
)
def test_with_egress_blocked_the_host_takes_the_point_and_the_warning_names_what_blocked(
    site: Site, cut: Cut, code: str
):
    site.network.cut(cut)
    job = site.server.backup()
    assert job["status"] == "Completed with warning", told(job)
    assert job["route"] == "host"
    assert job["point_id"]
    assert setback(job)["code"] == code, setback(job)
    assert code in warned(job)
    assert site.is_writable()


def test_with_the_proxy_as_the_only_way_out_the_snapshot_goes_through_it(site: Site):
    site.network.cut(Cut.PROXY_ONLY)
    set_proxy(site, site.network.proxy_url)
    before = len(site.network.proxy_requests())
    job = site.server.backup()
    assert job["route"] == "guest", told(job)
    assert job["status"] == "Completed", told(job)
    new = site.network.proxy_requests()[before:]
    assert any("CONNECT storage.quiesce.test:443" in line for line in new), new


@pytest.mark.long
def test_without_being_told_of_the_proxy_the_guest_cannot_get_out(site: Site):
    site.network.cut(Cut.PROXY_ONLY)
    job = site.server.backup()
    assert job["route"] == "host", told(job)
    assert setback(job)["code"] == "network.connect-timeout"


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (ProxyRule.PASSWORD, "network.proxy-auth-required"),
        pytest.param(ProxyRule.DENY, "network.proxy-denied", marks=pytest.mark.long),
    ],
)
def test_a_proxy_that_refuses_is_named_with_its_answer(site: Site, rule: ProxyRule, code: str):
    open_url = site.network.proxy_url
    site.network.set_proxy(rule)
    try:
        site.network.cut(Cut.PROXY_ONLY)
        set_proxy(site, open_url)
        job = site.server.backup()
    finally:
        site.network.set_proxy(ProxyRule.OPEN)
    assert job["route"] == "host", told(job)
    assert setback(job)["code"] == code, setback(job)


def test_a_proxy_with_a_password_lets_the_guest_through_and_nobody_sees_the_password(site: Site):
    site.network.set_proxy(ProxyRule.PASSWORD)
    try:
        site.network.cut(Cut.PROXY_ONLY)
        set_proxy(site, site.network.proxy_url)
        job = site.server.backup()
        assert job["route"] == "guest", told(job)
        shown = site.server.cli("vm", "show", VM, "--json").stdout
    finally:
        site.network.set_proxy(ProxyRule.OPEN)
    places = [shown, told(job), site.server.log.read_text(), site.agent.log()]
    places.append(site.guest.run("cat /var/log/quiesce/* /var/log/azure/*/* 2>/dev/null || true"))
    for place in places:
        assert "sesame" not in place


@pytest.mark.long
def test_a_dead_proxy_is_named(site: Site):
    site.network.cut(Cut.PROXY)
    set_proxy(site, site.network.proxy_url)
    job = site.server.backup()
    assert job["route"] == "host", told(job)
    assert setback(job)["code"] == "network.proxy-unreachable"


def test_the_network_test_prints_each_hop_and_names_the_first_that_fails(site: Site):
    good = site.server.cli("network", "test", VM, "--channel", "waagent")
    assert good.returncode == 0, good.stdout + good.stderr
    for hop in ("address", "DHCP option 245", "route", "wire server", "DNS", "TCP", "TLS", "HTTP"):
        assert hop in good.stdout
    site.network.cut(Cut.STORAGE_REJECTED)
    bad = site.server.cli("network", "test", VM, "--channel", "waagent")
    assert bad.returncode == 3
    assert "network.rejected" in bad.stdout + bad.stderr


def test_a_vm_with_both_agents_stays_file_system_consistent_when_its_network_is_blocked(site: Site):
    answer = site.server.call(
        "PATCH", "vms", VM, body={"agent": "both", "qga_socket": str(site.guest.qga_socket)}
    )
    assert answer.is_success, answer.text
    site.network.cut(Cut.STORAGE_DROPPED)
    job = site.server.backup()
    assert job["route"] == "host", told(job)
    assert job["consistency"]["level"] == "file-system"
    assert setback(job)["code"] == "network.connect-timeout"
    site.server.call("PATCH", "vms", VM, body={"agent": "waagent"})


def set_proxy(site: Site, url: str) -> None:
    answer = site.server.call(
        "PATCH", "vms", VM, body={"proxy": {"http": url, "https": url, "no_proxy": ""}}
    )
    assert answer.is_success, answer.text
