"""The probe tells, hop by hop, what stands between the guest and the storage endpoint."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import (
    Authority,
    Proxy,
    Reply,
    Request,
    Server,
    refusal,
    silent_listener,
    snapshot_taken,
)
from ports import free_port
from test_guest_zip import INTERPRETERS

from quiesce.guest import addresses, probe
from quiesce.guest.dial import Way
from quiesce.guest.failure import Failure
from quiesce.guest.probe import SHOWN, Question, run
from quiesce.guest.proxy import ProxyServer, origin_of

VERSIONS = b"<Versions><Preferred><Version>2015-04-05</Version></Preferred></Versions>"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def storage(authority: Authority) -> Iterator[Server]:
    server = Server(snapshot_taken, authority.context_for("127.0.0.1"))
    yield server
    server.close()


def way_to(server: Server, authority: Authority, proxy: Proxy | None = None) -> Way:
    through = ProxyServer("127.0.0.1", proxy.port) if proxy else None
    return Way(origin_of(f"https://127.0.0.1:{server.port}"), authority.pem, through)


def hops_of(way: Way | None, host: str = "", **ports: int) -> dict[str, dict[str, Any]]:
    found = run(Question(way, host, **ports))
    assert [one["name"] for one in found] == list(SHOWN)
    return {one["name"]: one for one in found}


def first_failure(hops: dict[str, dict[str, Any]]) -> tuple[str, str]:
    return next((name, hop["code"]) for name, hop in hops.items() if hop["ok"] is False)


def test_a_way_that_is_open_is_shown_as_open(storage: Server, authority: Authority) -> None:
    hops = hops_of(way_to(storage, authority))
    assert [name for name in ("tcp", "tls", "http", "clock") if hops[name]["ok"] is not True] == []
    assert not any(hop["ok"] is False for hop in hops.values())
    assert hops["tcp"]["milliseconds"] > 0
    assert (hops["proxy"]["ok"], hops["wire-server"]["ok"]) == (None, None)


def test_after_a_hop_that_failed_the_next_are_not_tried(authority: Authority) -> None:
    hops = hops_of(Way(origin_of(f"https://127.0.0.1:{free_port()}"), authority.pem))
    assert first_failure(hops) == ("tcp", "network.connect-refused")
    assert [hops[name]["ok"] for name in ("tls", "http", "clock")] == [None] * 3


def test_a_proxy_that_opens_tls_is_named_by_its_issuer(
    authority: Authority, tmp_path: Path
) -> None:
    inspecting = Authority(tmp_path, "Corporate Inspection CA")
    server = Server(snapshot_taken, inspecting.context_for("127.0.0.1"))
    hops = hops_of(way_to(server, authority))
    assert first_failure(hops) == ("tls", "network.tls-untrusted")
    assert "Corporate Inspection CA" in hops["tls"]["detail"]
    server.close()


def test_a_captive_portal_is_not_taken_for_a_storage_endpoint() -> None:
    server = Server(lambda request: Reply(200, body=b"<html>Please log in</html>"))
    hops = hops_of(Way(origin_of(f"http://127.0.0.1:{server.port}")))
    assert first_failure(hops) == ("http", "network.http-intercepted")
    assert "Please log in" in hops["http"]["raw"]
    server.close()


def test_a_clock_that_is_off_is_measured(authority: Authority) -> None:
    def an_hour_ago(request: Request) -> Reply:
        reply = refusal(400, "InvalidUri", "No.")
        stamp = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() - 3600))
        return Reply(reply.status, {**reply.headers, "Date": stamp}, reply.body)

    server = Server(an_hour_ago, authority.context_for("127.0.0.1"))
    hops = hops_of(way_to(server, authority))
    server.close()
    assert hops["http"]["ok"] is True
    assert hops["clock"]["code"] == "network.clock-skew"
    assert re.search(r"360\d s ahead of", hops["clock"]["detail"])


@pytest.mark.parametrize(
    ("status", "code"), [(403, "network.proxy-denied"), (502, "network.proxy-failed")]
)
def test_a_proxy_that_refuses_is_the_hop_that_failed(
    storage: Server, authority: Authority, status: int, code: str
) -> None:
    proxy = Proxy(status=status)
    hops = hops_of(way_to(storage, authority, proxy))
    assert first_failure(hops) == ("proxy", code)
    assert hops["tcp"]["ok"] is None
    proxy.close()


def test_through_a_proxy_everything_behind_it_is_probed_too(
    storage: Server, authority: Authority
) -> None:
    proxy = Proxy()
    hops = hops_of(way_to(storage, authority, proxy))
    assert [hops[name]["ok"] for name in ("proxy", "tls", "http")] == [True] * 3
    proxy.close()


@pytest.fixture
def host() -> Iterator[dict[str, int]]:
    def answer(request: Request) -> Reply:
        return Reply(200, body=VERSIONS if "comp=versions" in request.target else b'["2015-09-01"]')

    servers = [Server(answer), Server(answer)]
    yield {"wire_port": servers[0].port, "plugin_port": servers[1].port}
    for one in servers:
        one.close()


def test_the_hosts_two_services_are_told_apart(host: dict[str, int]) -> None:
    hops = hops_of(None, "127.0.0.1", **host)
    assert (hops["wire-server"]["ok"], hops["host-plugin"]["ok"]) == (True, True)
    hops = hops_of(None, "127.0.0.1", **{**host, "plugin_port": free_port()})
    assert (hops["wire-server"]["ok"], hops["host-plugin"]["ok"]) == (True, False)
    assert hops["host-plugin"]["code"] == "network.host-address-unreachable"


def test_no_option_245_is_a_note_while_the_host_answers(host: dict[str, int]) -> None:
    assert hops_of(None, "127.0.0.1", **host)["dhcp-245"]["ok"] is None


def test_no_option_245_and_no_host_is_a_failure() -> None:
    port = free_port()
    hops = hops_of(None, "127.0.0.1", wire_port=port, plugin_port=port)
    assert hops["dhcp-245"]["code"] == "network.dhcp-no-host-address"


@pytest.mark.parametrize(
    ("status", "code"), [(404, "network.not-recognised"), (200, "network.host-address-hijacked")]
)
def test_an_answer_that_is_no_wire_servers_is_told(status: int, code: str) -> None:
    server = Server(lambda request: Reply(status, body=b"nginx"))
    hops = hops_of(None, "127.0.0.1", wire_port=server.port, plugin_port=server.port)
    assert hops["wire-server"]["code"] == code
    server.close()


def test_hops_that_all_hang_end_each_at_its_own_deadline(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "SECONDS", dict.fromkeys(probe.SECONDS, 0.4))
    with silent_listener() as port:
        way = Way(origin_of(f"https://127.0.0.1:{port}"), authority.pem)
        began = time.monotonic()
        hops = hops_of(way, "127.0.0.1", wire_port=port, plugin_port=port)
    assert 1.0 < time.monotonic() - began < 20
    assert hops["wire-server"]["code"] == "network.host-address-unreachable"
    assert hops["tls"]["code"] == "network.tls-failed"


def test_all_deadlines_together_are_what_the_probe_promises() -> None:
    allowed = probe.SECONDS
    both_host_services = 2 * allowed["host"]
    longest_way_in = max(allowed["proxy"], allowed["tcp"])
    rest = allowed["dns"] + allowed["tls"] + allowed["certificate"] + allowed["http"]
    assert both_host_services + longest_way_in + rest <= 25


@pytest.mark.parametrize("python", INTERPRETERS)
def test_every_python_tells_a_right_certificate_from_a_wrong_one(
    storage: Server, authority: Authority, extension_zip: Path, tmp_path: Path, python: str
) -> None:
    url = f"https://127.0.0.1:{storage.port}"
    misnamed = Server(snapshot_taken, authority.context_for("other.example"))
    cases = [
        (url, authority.pem, ""),
        (url, Authority(tmp_path, "another").pem, "network.tls-untrusted"),
        (f"https://127.0.0.1:{misnamed.port}", authority.pem, "network.tls-failed"),
    ]
    for endpoint, ca_pem, code in cases:
        settings = {"endpoint": {"url": endpoint, "ca_pem": ca_pem}, "proxy": None}
        ran = subprocess.run(
            [python, "-I", str(extension_zip), "probe", "--settings", "-"],
            input=json.dumps(settings),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        hops = {one["name"]: one for one in json.loads(ran.stdout)["hops"]}
        assert hops["tls"]["code"] == code
        assert hops["http"]["ok"] is (None if code else True)
    misnamed.close()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"endpoint": "x"}', '{"endpoint": {"url": 5}}'])
def test_settings_that_are_no_settings_are_a_coded_failure(
    extension_zip: Path, text: str, tmp_path: Path
) -> None:
    (tmp_path / "settings").write_text(text)
    ran = subprocess.run(
        [sys.executable, "-I", extension_zip, "probe", "--settings", tmp_path / "settings"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 1
    assert json.loads(ran.stdout)["failure"]["code"] == "extension.settings-invalid"


def test_an_address_without_a_route_is_said() -> None:
    with pytest.raises(Failure) as caught:
        addresses.source_for("255.255.255.255")
    assert caught.value.code == "network.no-route"
