"""Where the host is: option 245 in the leases of every DHCP client that guests have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quiesce.guest.hosts import KNOWN_ADDRESS, host_address, leases, noted_address


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("var/lib/dhcp/dhclient.eth0.leases", "lease {\n  option unknown-245 a8:3f:81:10;\n}\n"),
        ("var/lib/dhclient/dhclient.leases", 'option unknown-245 "168.63.129.16";'),
        ("run/systemd/netif/leases/2", "ADDRESS=10.0.0.5\nOPTION_245=a83f8110\n"),
        ("var/lib/NetworkManager/internal-x-eth0.lease", "ADDRESS=1.2.3.4\nOPTION_245=a83f8110\n"),
        ("run/NetworkManager/devices/2", "[dhcp4]\nprivate_245=a8:3f:81:10\n"),
        ("var/lib/NetworkManager/dhclient-x-eth0.lease", "option private-245 a8:3f:81:10;\n"),
    ],
)
def test_option_245_is_found(tmp_path: Path, path: str, text: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(text)
    (lease,) = leases(str(tmp_path))
    assert lease.host == "168.63.129.16"


def test_the_newest_lease_in_a_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "var/lib/dhcp/dhclient.leases"
    path.parent.mkdir(parents=True)
    path.write_text("option unknown-245 1:2:3:4;\noption unknown-245 a:0:0:1;\n")
    assert [one.host for one in leases(str(tmp_path))] == ["10.0.0.1"]


@pytest.mark.parametrize("text", ["", "option unknown-245 zz;", "OPTION_245=999.1.1.1", "\x00\xff"])
def test_a_lease_without_it_says_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "var/lib/dhcp/dhclient.leases"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert [one.host for one in leases(str(tmp_path))] == [""]


def test_the_agents_own_note_is_what_it_uses(tmp_path: Path) -> None:
    assert noted_address(str(tmp_path)) == ""
    assert host_address(str(tmp_path)) == KNOWN_ADDRESS
    (tmp_path / "WireServerEndpoint").write_text("10.20.0.1\n")
    assert host_address(str(tmp_path)) == "10.20.0.1"


def test_the_lease_that_was_written_last_is_the_last_whoever_wrote_it(tmp_path: Path) -> None:
    for path, text, written in (
        ("var/lib/dhcp/dhclient.leases", "option unknown-245 a:0:0:2;", 2000),
        ("run/systemd/netif/leases/2", "OPTION_245=0a000001", 1000),
    ):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
        os.utime(tmp_path / path, (written, written))
    assert [one.host for one in leases(str(tmp_path))] == ["10.0.0.1", "10.0.0.2"]
