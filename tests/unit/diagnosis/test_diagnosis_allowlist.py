"""The commands of an allow-list, run by the shells and firewalls that they are meant for."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from quiesce.diagnosis.allowlist import AllowlistFormat, allowlist
from quiesce.model.failure import InputFailure


@dataclass(frozen=True)
class Need:
    address: str
    port: int
    protocol: str = "tcp"
    why: str = "storage endpoint"


NASTY = 'it\'s "here"; $(touch /tmp/x) `id` \\ {x}\n# Ü'
NEEDS = (
    Need("168.63.129.16", 80, why="goal state for the agent"),
    Need("168.63.129.16", 32526, why="status of the agent"),
    Need("fd00::1", 443),
    Need("192.0.2.7", 3128, why=NASTY),
)


def inside_a_network_of_its_own(script: str, folder: Path) -> str:
    """What a shell prints that may change its own network, and nobody else's."""
    done = subprocess.run(
        ["unshare", "-rn", "sh", "-eu", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        # `-u`, so that a variable which nobody has set is told; iptables wants to lock a file.
        env={**os.environ, "XTABLES_LOCKFILE": str(folder / "lock"), "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stderr + script
    assert done.stderr == ""
    return done.stdout


def allowed(*tools: str) -> pytest.MarkDecorator:
    missing = [tool for tool in tools if not shutil.which(tool)]
    apart = shutil.which("unshare") and not subprocess.run(["unshare", "-rn", "true"]).returncode
    return pytest.mark.skipif(
        bool(missing) or not apart, reason=f"needs {tools} and user namespaces"
    )


@allowed("nft")
def test_nft_takes_the_rules_and_puts_them_before_a_drop(tmp_path: Path) -> None:
    chain = (
        "nft 'table inet filter { chain output { type filter hook output priority 0; drop; }; }'"
    )
    rules = inside_a_network_of_its_own(
        f"{chain}\n{allowlist(NEEDS, AllowlistFormat.NFT)}nft list chain inet filter output",
        tmp_path,
    )
    for rule in (
        'ip daddr 168.63.129.16 tcp dport 80 accept comment "Quiesce: goal state for the agent"',
        "ip daddr 168.63.129.16 tcp dport 32526 accept",
        "ip6 daddr fd00::1 tcp dport 443 accept",
        "ip daddr 192.0.2.7 tcp dport 3128 accept",
    ):
        assert rule in rules
        assert rules.index(rule) < rules.index("\t\tdrop")


@allowed("nft")
def test_nft_lets_the_guest_out_by_these_rules_and_by_nothing_else(tmp_path: Path) -> None:
    """Connections to the loopback are answered with a reset where the rule lets them out."""
    said = inside_a_network_of_its_own(
        "ip link set lo up\n"
        "nft 'table inet filter { chain output { type filter hook output priority 0; "
        "ct state established accept; drop; }; }'\n"
        + allowlist([Need("127.0.0.1", 443)], AllowlistFormat.NFT)
        + 'for port in 443 444; do timeout 1 bash -c "echo > /dev/tcp/127.0.0.1/$port" '
        "2>/dev/null && echo open || echo $port $?; done",
        tmp_path,
    )
    assert said.split() == ["443", "1", "444", "124"], "1: refused at once, 124: nothing came back"


@allowed("iptables", "ip6tables")
def test_iptables_takes_the_rules_and_puts_them_first(tmp_path: Path) -> None:
    said = inside_a_network_of_its_own(
        "iptables -P OUTPUT DROP; iptables -A OUTPUT -j DROP\n"
        f"{allowlist(NEEDS, AllowlistFormat.IPTABLES)}iptables -S OUTPUT; ip6tables -S OUTPUT",
        tmp_path,
    )
    assert (
        "-A OUTPUT -d 168.63.129.16/32 -p tcp -m tcp --dport 32526 -m comment --comment "
        '"Quiesce: status of the agent" -j ACCEPT'
    ) in said
    assert re.search(r"-A OUTPUT -d fd00::1/128 -p tcp -m tcp --dport 443 .*-j ACCEPT", said)
    assert said.index("192.0.2.7/32") < said.index("-A OUTPUT -j DROP")


def commands(text: str) -> list[list[str]]:
    """The words of every command as a POSIX shell splits them; comments left out."""
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def test_firewalld_gets_iptables_rules_of_the_right_family_and_a_reload() -> None:
    first, *_, sixth, proxy, last = commands(allowlist(NEEDS, AllowlistFormat.FIREWALLD))
    add = ["firewall-cmd", "--permanent", "--direct", "--add-rule"]
    assert first[:4] == sixth[:4] == add
    assert first[4:14] == [
        "ipv4", "filter", "OUTPUT", "0", "-p", "tcp", "-d", "168.63.129.16", "--dport", "80"
    ]  # fmt: skip
    assert sixth[4] == "ipv6"
    assert proxy[-2:] == ["-j", "ACCEPT"]
    assert last == ["firewall-cmd", "--reload"]


def test_a_network_security_group_gets_one_rule_each_with_priorities_of_their_own() -> None:
    group, nsg, *rules = commands(allowlist(NEEDS, AllowlistFormat.NSG))
    assert group[0].startswith("RESOURCE_GROUP=")
    assert nsg[0].startswith("NSG=")
    options = [dict(zip(rule[5::2], rule[6::2], strict=True)) for rule in rules]
    assert all(rule[:5] == ["az", "network", "nsg", "rule", "create"] for rule in rules)
    assert len({each["--priority"] for each in options}) == len({e["--name"] for e in options}) == 4
    assert options[0]["--direction"] == "Outbound"
    assert options[0]["--access"] == "Allow"
    assert options[0]["--protocol"] == "Tcp"
    assert options[2]["--destination-address-prefixes"] == "fd00::1"
    assert options[3]["--destination-port-ranges"] == "3128"
    assert len(options[3]["--description"]) <= 140


def test_windows_gets_rules_whose_words_powershell_cannot_take_for_code() -> None:
    typographic = Need("192.0.2.7", 443, why="a ’quoted‘ 'why' $(calc)")
    *_, rule = allowlist([typographic], AllowlistFormat.WINDOWS).splitlines()
    assert rule == (
        "New-NetFirewallRule -DisplayName 'Quiesce: a ’’quoted‘‘ ''why'' $(calc)' "
        "-Direction Outbound -Action Allow -Protocol TCP "
        "-RemoteAddress 192.0.2.7 -RemotePort 443"
    )


def test_in_words_it_is_a_list_with_its_reasons() -> None:
    assert allowlist(NEEDS[:3], AllowlistFormat.TEXT) == (
        "The guest must be able to open these connections:\n"
        "  tcp  168.63.129.16:80     goal state for the agent\n"
        "  tcp  168.63.129.16:32526  status of the agent\n"
        "  tcp  [fd00::1]:443        storage endpoint\n"
    )


@pytest.mark.parametrize("format", AllowlistFormat)
def test_what_is_needed_twice_is_opened_once(format: AllowlistFormat) -> None:  # noqa: A002
    assert allowlist(NEEDS[:1] * 3, format) == allowlist(NEEDS[:1], format)


@pytest.mark.parametrize(
    "format", [AllowlistFormat.NFT, AllowlistFormat.IPTABLES, AllowlistFormat.FIREWALLD]
)
def test_a_name_is_looked_up_where_the_commands_run(
    format: AllowlistFormat,  # noqa: A002
    tmp_path: Path,
) -> None:
    """`localhost` stands for the name; the firewall is a shell function that says its words."""
    text = allowlist([Need("localhost", 443)], format)
    tool = {"firewalld": "firewall-cmd"}.get(format, str(format))
    (tmp_path / tool).write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / tool).chmod(0o755)
    done = subprocess.run(
        ["sh", "-eu", "-c", text],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(r"(daddr|-d) 127\.0\.0\.1 ", done.stdout)


def test_a_name_is_looked_up_by_powershell_before_it_is_used() -> None:
    lookup, rule = allowlist([Need("store.example", 443)], AllowlistFormat.WINDOWS).splitlines()[
        -2:
    ]
    assert lookup.startswith("$ADDRESS_OF_STORE_EXAMPLE = (Resolve-DnsName -Name 'store.example' ")
    assert "-RemoteAddress $ADDRESS_OF_STORE_EXAMPLE " in rule


@pytest.mark.parametrize(
    "need",
    [
        Need("$(reboot)", 443),
        Need("a b", 443),
        Need("-j", 443),
        Need("", 443),
        Need("192.0.2.7", 0),
        Need("192.0.2.7", 70000),
        Need("192.0.2.7", 443, "tcp; drop"),
    ],
)
@pytest.mark.parametrize("format", AllowlistFormat)
def test_what_cannot_be_a_rule_is_refused(need: Need, format: AllowlistFormat) -> None:  # noqa: A002
    with pytest.raises(InputFailure) as refused:
        allowlist([need], format)
    assert refused.value.code == "input.address-invalid"


SHELLS = [AllowlistFormat.NFT, AllowlistFormat.IPTABLES, AllowlistFormat.FIREWALLD]


def run_with_names(text: str, folder: Path, **addresses: str) -> subprocess.CompletedProcess[str]:
    """By a shell whose firewalls say their words, and whose `getent` knows these names."""
    for tool in ("nft", "iptables", "ip6tables", "firewall-cmd"):
        (folder / tool).write_text('#!/bin/sh\necho "$@"\n')
    known = "".join(f"{name}) echo {address} STREAM;;" for name, address in addresses.items())
    (folder / "getent").write_text(f'#!/bin/sh\ncase "$2" in {known} *) exit 2;; esac\n')
    for tool in folder.iterdir():
        tool.chmod(0o755)
    return subprocess.run(
        ["sh", "-eu", "-c", text],
        env={"PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("format", SHELLS)
def test_names_that_look_alike_get_their_own_addresses(
    format: AllowlistFormat,  # noqa: A002
    tmp_path: Path,
) -> None:
    text = allowlist([Need("a-b.c", 443), Need("a.b-c.", 444)], format)
    done = run_with_names(text, tmp_path, **{"a-b.c": "192.0.2.1", "a.b-c": "192.0.2.2"})
    assert re.search(r"(daddr|-d) 192\.0\.2\.1 .*dport 443", done.stdout)
    assert re.search(r"(daddr|-d) 192\.0\.2\.2 .*dport 444", done.stdout)


@pytest.mark.parametrize("format", SHELLS)
def test_a_name_without_an_ipv4_address_is_said_and_opens_nothing(
    format: AllowlistFormat,  # noqa: A002
    tmp_path: Path,
) -> None:
    done = run_with_names(allowlist([Need("six.example", 443)], format), tmp_path)
    assert done.returncode
    assert "six.example has no IPv4 address" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("format", [*SHELLS, AllowlistFormat.NSG, AllowlistFormat.WINDOWS])
def test_the_guests_dns_server_is_to_be_filled_in(format: AllowlistFormat) -> None:  # noqa: A002
    text = allowlist([Need("", 53, "udp"), Need("", 53, "tcp")], format)
    assert (
        text.count("DNS_SERVER = 'your-dns-server'") + text.count("DNS_SERVER='your-dns-server'")
        == 1
    )
    assert text.count("$DNS_SERVER") >= 2


def test_an_address_zone_is_left_out() -> None:
    assert "[fe80::1]:443" in allowlist([Need("fe80::1%eth0", 443)], AllowlistFormat.TEXT)


@pytest.mark.parametrize("format", AllowlistFormat)
def test_a_guest_that_needs_no_network_is_told_so(format: AllowlistFormat) -> None:  # noqa: A002
    assert allowlist([], format) == (
        "# Nothing is to be opened: this guest's agent needs no network.\n"
    )
