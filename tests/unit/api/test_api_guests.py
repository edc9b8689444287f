"""Agents, extensions and networks of VMs over the REST API."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest
from ports import free_port
from starlette.testclient import TestClient

from quiesce.api.app import create_app
from quiesce.api.security import Trusted
from quiesce.service.service import Service
from quiesce.service.settings import Settings

API = "/api/v1"
PROXY = {"https": "http://web:hush@10.0.0.3:3128", "no_proxy": "10.0.0.0/8"}


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server that serves guests over their network, with the VMs `az` and `plain`."""
    folder: Path = tmp_path_factory.mktemp("guests")
    service = Service(
        Settings(
            data_folder=folder / "data",
            agent_address="127.0.0.1",
            agent_port=free_port(),
            host_plugin_port=free_port(),
            storage_port=free_port(),
        )
    )
    client = TestClient(Trusted(create_app(service)), raise_server_exceptions=False)
    az = {"name": "az", "qmp_socket": "/az.qmp", "agent": "waagent", "proxy": PROXY}
    assert client.post(f"{API}/vms", json=az).status_code == HTTPStatus.CREATED
    plain = {"name": "plain", "qmp_socket": "/plain.qmp", "qga_socket": "/nowhere/plain.qga"}
    assert client.post(f"{API}/vms", json=plain).json()["agent"] == "qga"
    yield client
    service.close()


def test_a_password_of_a_proxy_goes_in_and_never_comes_out(guests: httpx.Client) -> None:
    answers = [
        guests.get(f"{API}/vms"),
        guests.get(f"{API}/vms/az"),
        guests.patch(f"{API}/vms/az", json={"proxy": PROXY}),
        guests.patch(f"{API}/vms/az", json={"proxy": {"https": "https://web:hush@p"}}),
        guests.patch(f"{API}/vms/az", json={"proxy": "http://web:hush@10.0.0.3:3128"}),
        guests.patch(f"{API}/vms/az", json={"proxy": {"https": ["http://web:hush@p"]}}),
        guests.patch(f"{API}/vms/az", json={"proxies": PROXY}),
        guests.post(f"{API}/vms", json={"name": "x", "proxy": PROXY}),
        guests.patch(f"{API}/vms/az", json=[PROXY]),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200] + [422] * 6
    for answer in answers:
        assert "hush" not in answer.text
    assert answers[1].json()["proxy"]["https"] == "http://web:***@10.0.0.3:3128"


def test_what_a_patch_does_not_name_stays(guests: httpx.Client) -> None:
    changed = guests.patch(f"{API}/vms/az", json={"guest_address": "10.0.0.7"}).json()
    assert (changed["agent"], changed["guest_address"]) == ("waagent", "10.0.0.7")
    assert changed["proxy"]["no_proxy"] == "10.0.0.0/8"
    dropped = guests.patch(f"{API}/vms/az", json={"server_proxy": True, "guest_address": ""}).json()
    assert (dropped["proxy"], dropped["guest_address"]) == (None, "")
    guests.patch(f"{API}/vms/az", json={"proxy": PROXY})


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"agent": "azure"}, "input.invalid"),
        ({"guest_address": "nowhere"}, "input.address-invalid"),
        ({"qga_socket": "relative.sock"}, "input.path-invalid"),
        ({"proxy": {"https": "socks5://p:1"}}, "input.proxy-invalid"),
    ],
)
def test_a_change_that_is_not_valid_changes_nothing(
    guests: httpx.Client, change: dict[str, object], code: str
) -> None:
    before = guests.get(f"{API}/vms").json()
    answer = guests.patch(f"{API}/vms/az", json={"guest_address": "10.0.0.9"} | change)
    assert answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert answer.json()["code"] == code
    assert guests.get(f"{API}/vms").json() == before


def test_an_agent_that_never_came_is_shown_as_such(guests: httpx.Client) -> None:
    assert guests.get(f"{API}/vms/az").json()["agent_state"]["condition"] == "never seen"
    assert guests.get(f"{API}/vms/plain").json()["agent_state"] is None


def test_extensions_are_listed_by_channel_with_the_reason_where_one_cannot_be_asked(
    guests: httpx.Client,
) -> None:
    [by_waagent] = guests.get(f"{API}/vms/az/extensions").json()
    assert (by_waagent["channel"], by_waagent["installed"]) == ("waagent", False)
    [by_qga] = guests.get(f"{API}/vms/plain/extensions").json()
    assert by_qga["problem"]["code"] == "agent.channel-missing"


def test_an_extension_behind_an_agent_that_cannot_be_reached_stays(guests: httpx.Client) -> None:
    for method, path in (("DELETE", ""), ("POST", "/reinstall")):
        answer = guests.request(method, f"{API}/vms/plain/extensions{path}?channel=qga")
        assert answer.status_code == HTTPStatus.BAD_GATEWAY
        assert answer.json()["code"] == "agent.channel-missing"
        other = guests.request(method, f"{API}/vms/plain/extensions{path}?channel=waagent")
        assert other.json()["code"] == "input.channel-invalid"
        assert guests.request(method, f"{API}/vms/plain/extensions{path}?channel=ssh").is_error


def test_a_network_test_that_cannot_be_run_is_a_problem(guests: httpx.Client) -> None:
    answer = guests.post(f"{API}/vms/plain/network-test")
    assert answer.status_code == HTTPStatus.BAD_GATEWAY
    assert answer.json()["code"] == "agent.channel-missing"


def test_what_a_guest_needs_is_told_as_data_and_as_commands(guests: httpx.Client) -> None:
    needs = guests.get(f"{API}/vms/az/network-needs").json()
    assert len(needs) == 3
    assert {need["address"] for need in needs} == {"127.0.0.1"}
    assert guests.get(f"{API}/vms/plain/network-needs").json() == []
    for format_ in ("nft", "iptables", "firewalld", "nsg", "windows", "text"):
        answer = guests.get(f"{API}/vms/az/allowlist", params={"format": format_}).json()
        assert answer["format"] == format_
        for need in needs:
            assert str(need["port"]) in answer["text"]
    refused = guests.get(f"{API}/vms/az/allowlist", params={"format": "pf"})
    assert refused.json()["code"] == "input.invalid"


def test_a_policy_keeps_its_route(guests: httpx.Client) -> None:
    body = {"name": "r", "snapshot": {"route": "host-then-guest"}}
    assert guests.post(f"{API}/policies", json=body).json()["snapshot"]["route"] == (
        "host-then-guest"
    )
    assert guests.get(f"{API}/policies/daily").json()["snapshot"]["route"] == "guest-then-host"
    wrong = guests.put(f"{API}/policies/r", json={"snapshot": {"route": "best"}})
    assert wrong.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert guests.delete(f"{API}/policies/r").status_code == HTTPStatus.NO_CONTENT
