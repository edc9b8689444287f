"""Load, space, clock, certificate, mounts, network: the guest as a system."""

from __future__ import annotations

from datetime import timedelta

import pytest
from guest_papers import (
    NOW,
    ROOTS_VIEW,
    USERS_VIEW,
    command,
    facts,
    missing,
    paper,
    papers,
    value,
)

from quiesce.diagnosis.reading import facts_of

DF = (
    "Filesystem     1024-blocks    Used Available Capacity Mounted on\n"
    "/dev/vda1          5000000 4000000    750000      85% /\n"
    "/dev/vdb1          1000000 {used} {available}     100% {point}\n"
)


def test_space_for_root_counts_the_reserve() -> None:
    found = facts(command("space", DF.format(used=999999, available=0, point="/srv/my data")))
    assert found["guest.root-free-bytes"].value == 1000000 * 1024
    # /srv is no file system that an agent needs.
    assert found["guest.disk-full"].value == ""


@pytest.mark.parametrize("used", [999500, 984000])
def test_a_full_var_is_named_though_ext4_still_counts_16_mib_that_nobody_gets(used: int) -> None:
    shown = command("space", DF.format(used=used, available=0, point="/var"))
    fact = facts(shown)["guest.disk-full"]
    assert fact.value == "/var"
    assert "/dev/vdb1" in fact.raw


@pytest.mark.parametrize(("used", "available"), [(950000, 0), (990000, 9000)])
def test_what_root_can_still_write_is_not_full(used: int, available: int) -> None:
    shown = command("space", DF.format(used=used, available=available, point="/var"))
    assert value("guest.disk-full", shown) == ""


def test_without_inodes_nothing_can_be_written_either() -> None:
    inodes = "Filesystem Inodes IUsed IFree IUse% Mounted on\n/dev/vda1 1000 1000 0 100% /\n"
    space = command("space", DF.format(used=0, available=9, point="/srv"))
    assert value("guest.disk-full", space, command("inodes", inodes)) == "/ (no inode is free)"


def test_df_that_could_not_run_proves_nothing() -> None:
    assert value("guest.disk-full", command("space", "df: not found\n", 127)) is None


COREOS_DF = (
    "Filesystem 1024-blocks Used Available Capacity Mounted on\n"
    "composefs 6336 6336 0 100% /\n"
    "/dev/vda4 10000000 2000000 8000000 20% /etc\n"
    "/dev/vda4 10000000 {used} {available} 20% /var\n"
)
COREOS_MOUNTS = (
    "22 1 0:40 / / ro,relatime - overlay composefs ro,lowerdir+=/run/ostree\n"
    "23 22 254:4 /ostree /etc rw,relatime - xfs /dev/vda4 rw\n"
    "24 22 254:4 /ostree /var rw,relatime - xfs /dev/vda4 rw\n"
)


@pytest.mark.parametrize("source", ["composefs", "overlay"])
def test_a_root_that_is_an_image_is_not_full(source: str) -> None:
    text = COREOS_DF.format(used=2000000, available=8000000).replace("composefs", source)
    mounts = paper("/proc/self/mountinfo", COREOS_MOUNTS)
    found = facts(command("space", text), mounts)
    assert found["guest.disk-full"].value == ""
    assert found["guest.root-free-bytes"].value == 8000000 * 1024
    assert found["guest.root-free-bytes"].words == "7.6 GiB are free on /var for root."
    full = command("space", COREOS_DF.format(used=10000000, available=0))
    assert value("guest.disk-full", full, mounts) == "/var"


def test_load_is_that_of_the_moment() -> None:
    cpu = "cpu  1000 0 1000 8000 0 0 0 0 0 0\ncpu  1090 0 1005 8005 0 0 0 0 0 0\n"
    memory = "MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    50 kB\n"
    stall = "some avg10=90.00 avg60=1.00 avg300=0.00 total=1\nfull avg10=61.50 avg60=0.00 total=2\n"
    found = facts(
        command("cpu", cpu), paper("/proc/meminfo", memory), paper("/proc/pressure/io", stall)
    )
    assert found["guest.cpu-percent"].value == 95.0
    assert found["guest.memory-percent"].value == 95.0
    assert found["guest.io-stall-percent"].value == 61.5


@pytest.mark.parametrize(
    "text", ["", "cpu 1 2 3 4 5\n", "cpu 1 2 3 4 5\ncpu 1 2 3 4 5\n", "x\ny\n"]
)
def test_counters_that_do_not_move_tell_no_load(text: str) -> None:
    assert value("guest.cpu-percent", command("cpu", text)) is None


@pytest.mark.parametrize("ahead", [7200.0, -7200.0])
def test_the_guests_clock_against_ours(ahead: float) -> None:
    found = facts_of(papers(command("date", "1"), clock_ahead=ahead))
    (fact,) = found
    assert (fact.name, fact.value) == ("guest.clock-ahead-seconds", ahead)
    # Seen by our clock, or it would be older or newer than all other facts.
    assert fact.observed_at == NOW - timedelta(seconds=ahead)


CERTIFICATE = "notBefore={}\nnotAfter={}\nSHA1 Fingerprint=AA:BB\n"


@pytest.mark.parametrize(
    ("begins", "ends", "state"),
    [
        ("Nov 22 02:00:00 2026 GMT", "Nov 22 02:00:00 2028 GMT", "good"),
        ("Nov 22 02:00:00 2022 GMT", "Nov  2 02:00:00 2024 GMT", "expired"),
        ("Nov 24 02:00:00 2026 GMT", "Nov 22 02:00:00 2028 GMT", "not yet valid"),
        ("garbage", "Nov 22 02:00:00 2028 GMT", None),
    ],
)
def test_the_transport_certificates_dates(begins: str, ends: str, state: str | None) -> None:
    log = paper("/var/log/waagent.log", "2026-11-23T02:00:00Z INFO Daemon x\n")
    shown = command("certificate", CERTIFICATE.format(begins, ends))
    assert value("waagent.certificate", shown, log) == state


def test_a_certificate_is_missed_only_of_an_agent_that_has_run() -> None:
    gone = command(
        "certificate", "/var/lib/waagent/TransportCert.pem: No such file or directory", 1
    )
    log = paper("/var/log/waagent.log", "2026-11-23T02:00:00Z INFO Daemon x\n")
    assert value("waagent.certificate", gone, log, ROOTS_VIEW) == "missing"
    assert value("waagent.certificate", gone, missing("/var/log/waagent.log"), ROOTS_VIEW) is None
    assert value("waagent.certificate", gone, log, USERS_VIEW) is None
    assert value("waagent.certificate", gone, log) is None


def test_the_distribution_is_that_of_os_release() -> None:
    text = 'PRETTY_NAME="SUSE Linux Enterprise Server 15 SP5"\nID="sles"\nID_LIKE="suse"\n'
    found = facts(paper("/etc/os-release", text))
    assert found["guest.distribution"].value == "sles"
    assert found["guest.os"].value == "linux"


MOUNTS = (
    "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro\n"
    "30 22 0:40 / /mnt/share rw - nfs4 server:/export rw,vers=4.2\n"
)


@pytest.mark.parametrize(
    ("line", "mount", "why"),
    [
        ("40 22 7:0 / /srv rw - ext4 /dev/loop0 rw", "/srv", "loop file"),
        ("40 22 254:9 / /gfs rw - gfs2 /dev/vdc rw", "/gfs", "cluster"),
        ("40 30 254:9 / /mnt/share/in rw - xfs /dev/vdc rw", "/mnt/share/in", "remote mount"),
        ("40 22 254:9 / /win rw - fuseblk /dev/vdc rw", "/win", "process"),
    ],
)
def test_mounts_that_are_dangerous_to_freeze(line: str, mount: str, why: str) -> None:
    fact = facts(paper("/proc/self/mountinfo", MOUNTS + line + "\n"))["guest.hazards"]
    assert str(fact.value).startswith(f"{mount}: ")
    assert why in str(fact.value)
    assert fact.raw == line


@pytest.mark.parametrize(
    "line",
    ["40 22 7:0 / /snap/core ro - squashfs /dev/loop0 ro", "40 22 7:1 / /x rw - iso9660 a ro"],
)
def test_what_is_read_only_is_no_danger(line: str) -> None:
    assert value("guest.hazards", paper("/proc/self/mountinfo", MOUNTS + line + "\n")) == ""


def test_a_file_system_that_the_kernel_made_read_only_has_errors() -> None:
    broken = MOUNTS.replace("rw,errors=remount-ro", "ro,errors=remount-ro")
    fact = facts(paper("/proc/self/mountinfo", broken))["guest.mount-errors"]
    assert str(fact.value).startswith("/: read-only, though it was mounted writable")
    on_purpose = MOUNTS.replace(
        "rw,relatime shared:1 - ext4 /dev/vda1 rw", "ro - ext4 /dev/vda1 ro"
    )
    assert value("guest.mount-errors", paper("/proc/self/mountinfo", on_purpose)) == ""


def test_another_backup_product_is_named() -> None:
    shown = command("freezers", "veeam /opt/veeam\nveeam /usr/sbin/veeamservice\n")
    assert value("guest.freezer", shown) == "veeam"
    assert value("guest.freezer", command("freezers", "")) == ""


ADDRESSES = (
    "1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever preferred_lft forever\n"
    "2: eth0    inet {}/24 brd 10.0.0.255 scope global eth0\\       valid_lft forever\n"
)


@pytest.mark.parametrize(
    ("address", "has"),
    [
        ("inet 10.0.0.7", True),
        ("inet 169.254.3.4", False),
        ("inet6 2001:db8::7", True),
        ("inet6 fe80::5054:ff:fe12:3456", False),
    ],
)
def test_an_address_is_one_that_others_can_reach(address: str, has: bool) -> None:
    shown = ADDRESSES.replace("inet {}", address)
    assert value("net.address", command("addresses", shown)) is has


@pytest.mark.parametrize(
    ("routes", "has"),
    [
        ("default via 10.0.0.1 dev eth0 proto dhcp \n10.0.0.0/24 dev eth0\n", True),
        ("10.0.0.0/24 dev eth0 scope link\ndefault via fd00::1 dev eth0 metric 1024\n", False),
        ("Iface\tDestination\tGateway\neth0\t00000000\t0100000A\t0003\n", True),
        ("", False),
    ],
)
def test_a_default_route_is_one_for_ipv4(routes: str, has: bool) -> None:
    assert value("net.default-route", command("routes", routes)) is has


def test_resolvers() -> None:
    text = "# nameserver 9.9.9.9\nnameserver 10.0.0.53\nnameserver fd00::53\n"
    assert value("net.resolvers", paper("/etc/resolv.conf", text)) == "10.0.0.53, fd00::53"
    assert value("net.resolvers", paper("/etc/resolv.conf", "search x\n")) == ""


LEASE = (
    "lease {{\n  fixed-address 10.0.0.7;\n  option routers 10.0.0.1;\n{}  renew 1 2026/11/23;\n}}\n"
)
OPTION = "  option unknown-245 a8:3f:81:10;\n"


def test_option_245_is_that_of_the_last_lease() -> None:
    path = "/var/lib/dhcp/dhclient.eth0.leases"
    with_it, without = LEASE.format(OPTION), LEASE.format("")
    found = facts(paper(path, without + with_it))
    assert found["net.option-245"].value == "168.63.129.16"
    assert found["net.dhcp"].value is True
    assert value("net.option-245", paper(path, with_it + without)) == ""


def test_option_245_of_networkd_and_of_the_newest_of_several_lease_files() -> None:
    old = paper("/run/systemd/netif/leases/2", "OPTION_245=a83f8110\n", modified_at=NOW)
    new = paper("/var/lib/dhcp/a.leases", LEASE.format(""), modified_at=NOW + timedelta(minutes=1))
    assert value("net.option-245", old) == "168.63.129.16"
    assert value("net.option-245", old, new) == ""


@pytest.mark.parametrize(
    "path",
    ["/var/lib/NetworkManager/internal-1b2c-eth0.lease", "/run/systemd/netif/leases/2"],
)
def test_a_lease_that_keeps_no_options_tells_nothing_of_one(path: str) -> None:
    found = facts(paper(path, "# This is private data. Do not parse.\nADDRESS=10.0.0.7\n"))
    assert found["net.dhcp"].value is True
    assert "net.option-245" not in found


def test_without_a_lease_file_nothing_is_known_of_dhcp() -> None:
    assert facts(paper("/var/lib/dhcp/x.leases", "")) == {}
