"""What a firewall must let out so that a guest reaches its host and the storage endpoint, as the
commands of that firewall.

Everything is for outgoing connections: a firewall that lets answers of its own connections back in
needs nothing else. Whatever comes from settings is checked or quoted for the shell that will read
it.

Sources: nft(8), iptables(8) and iptables-extensions(8), firewall-cmd(1), `az network nsg rule
create`, PowerShell's New-NetFirewallRule.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Address, ip_address
from typing import Protocol

from quiesce.model.failure import InputFailure

# Shorter than what each of them allows: 128 bytes, 256 bytes, 140 characters.
_NFT_COMMENT = 120
_IPTABLES_COMMENT = 240
_NSG_DESCRIPTION = 140
_NSG_FIRST_PRIORITY = 200
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?")


class AllowlistFormat(StrEnum):
    NFT = "nft"
    IPTABLES = "iptables"
    FIREWALLD = "firewalld"
    NSG = "nsg"
    """A network security group of Azure."""
    WINDOWS = "windows"
    """Windows Defender Firewall, by PowerShell."""
    TEXT = "text"


class Need(Protocol):
    """One thing to be reached: `address` is an IP address or a name, or empty at port 53 for the
    guest's own DNS server; `protocol` tcp or udp, `why` a few words for a person."""

    @property
    def address(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def protocol(self) -> str: ...
    @property
    def why(self) -> str: ...


def allowlist(needs: Iterable[Need], format: AllowlistFormat) -> str:  # noqa: A002
    """The commands that open `needs`, with comments that say where they are to be run. A name is
    put in as a variable to be filled in where the firewall knows addresses only.

    Ends with a line end, and is the same for the same needs.

    :raise InputFailure: input.address-invalid, when a need cannot be put into a rule
    """
    rules = tuple(dict.fromkeys(_rule(need) for need in needs))
    if not rules:
        return "# Nothing is to be opened: this guest's agent needs no network.\n"
    return "\n".join((*_HEADS[format](rules), *_LINES[format](rules))) + "\n"


@dataclass(frozen=True, slots=True)
class _Rule:
    """A need that has been checked: its fields may stand in a command as they are, `why` quoted."""

    address: str
    port: int
    protocol: str
    why: str
    version: int
    """4 or 6 of IP; 0 for a name, and for the DNS server, whose address is empty."""


def _rule(need: Need) -> _Rule:
    try:
        address = ip_address(need.address.strip("[]"))
    except ValueError:
        text, version = need.address.removesuffix(".").lower(), 0
    else:
        # A zone (fe80::1%eth0) means nothing to a firewall.
        bare = IPv6Address(int(address)) if isinstance(address, IPv6Address) else address
        text, version = str(bare), address.version
    known = version or _NAME.fullmatch(text) or (need.address == "" and need.port == 53)
    if not known or need.protocol not in ("tcp", "udp") or not 0 < need.port < 65536:
        raise InputFailure(
            "input.address-invalid",
            f"No firewall rule can be written for {need.protocol} to {need.address!r}, "
            f"port {need.port}.",
            remedy="Give `agent_address`, `storage_host` and the proxies, the VM's own too, as IP "
            "addresses or DNS names.",
        )
    # Control characters would end the line, and with it the comment or the command.
    why = " ".join("".join(c if c.isprintable() else " " for c in need.why).split())
    return _Rule(text, need.port, need.protocol, why, version)


Rules = tuple[_Rule, ...]


def _nft_head(rules: Rules) -> Iterable[str]:
    yield "# In the guest, as root. `inet filter output` is Debian's; what yours is called:"
    yield "#   nft list chains"
    yield "# To keep it over a reboot, put these rules into /etc/nftables.conf too."
    yield from _resolving(rules)


def _nft(rules: Rules) -> Iterable[str]:
    variables = _variables(rules)
    for rule in rules:
        # insert and not add: behind a drop that is there already it would never be reached.
        yield (
            f"nft insert rule inet filter output {'ip6' if rule.version == 6 else 'ip'} daddr "
            f"{_shell_address(rule, variables)} {rule.protocol} dport {rule.port} accept comment "
            + shlex.quote(f'"{_comment(rule, _NFT_COMMENT)}"')
        )


def _iptables_head(rules: Rules) -> Iterable[str]:
    yield "# In the guest, as root."
    yield "# To keep it over a reboot: netfilter-persistent save (Debian, Ubuntu),"
    yield "# service iptables save (RHEL and its relatives)."
    yield from _resolving(rules)


def _iptables(rules: Rules) -> Iterable[str]:
    variables = _variables(rules)
    for rule in rules:
        yield (
            f"{'ip6tables' if rule.version == 6 else 'iptables'} -I OUTPUT 1 "
            f"{_iptables_match(rule, variables)} -j ACCEPT"
        )


def _iptables_match(rule: _Rule, variables: Mapping[str, str]) -> str:
    """The packets of a rule as iptables says it, and firewalld's direct rules after it."""
    return (
        f"-p {rule.protocol} -d {_shell_address(rule, variables)} --dport {rule.port} "
        f"-m comment --comment {shlex.quote(_comment(rule, _IPTABLES_COMMENT))}"
    )


def _firewalld_head(rules: Rules) -> Iterable[str]:
    yield "# In the guest, as root. firewalld cuts outgoing connections off only by rules of this"
    yield "# kind (see them: firewall-cmd --direct --get-all-rules) or by policies."
    yield from _resolving(rules)


def _firewalld(rules: Rules) -> Iterable[str]:
    variables = _variables(rules)
    for rule in rules:
        yield (
            f"firewall-cmd --permanent --direct --add-rule "
            f"{'ipv6' if rule.version == 6 else 'ipv4'} filter OUTPUT 0 "
            f"{_iptables_match(rule, variables)} -j ACCEPT"
        )
    yield "firewall-cmd --reload"


def _nsg_head(rules: Rules) -> Iterable[str]:
    yield "# Anywhere with the Azure command line. Say first which group it is, and choose"
    yield "# priorities that are free and smaller than those of your rules that deny:"
    yield "RESOURCE_GROUP='my-resource-group'"
    yield "NSG='my-network-security-group'"
    yield from _resolving(rules)


def _nsg(rules: Rules) -> Iterable[str]:
    variables = _variables(rules)
    for number, rule in enumerate(rules):
        yield (
            'az network nsg rule create --resource-group "$RESOURCE_GROUP" --nsg-name "$NSG" '
            f"--name quiesce-{number + 1} --priority {_NSG_FIRST_PRIORITY + number} "
            f"--direction Outbound --access Allow --protocol {rule.protocol.capitalize()} "
            "--source-address-prefixes '*' --source-port-ranges '*' "
            f"--destination-address-prefixes {_shell_address(rule, variables)} "
            f"--destination-port-ranges {rule.port} "
            f"--description {shlex.quote(_comment(rule, _NSG_DESCRIPTION))}"
        )


def _windows_head(rules: Rules) -> Iterable[str]:
    yield "# In the guest, in a PowerShell of an administrator. A rule that blocks wins over these:"
    yield "#   Get-NetFirewallRule -Direction Outbound -Action Block -Enabled True"
    for name, variable in _variables(rules).items():
        if name:
            lookup = f"Resolve-DnsName -Name {_powershell(name)} -Type A_AAAA"
            yield f"${variable} = ({lookup} | Where-Object IPAddress).IPAddress"
        else:
            yield "# The guest's DNS server is here: Get-DnsClientServerAddress"
            yield f"${variable} = 'your-dns-server'"


def _windows(rules: Rules) -> Iterable[str]:
    variables = _variables(rules)
    for rule in rules:
        address = rule.address if rule.version else f"${variables[rule.address]}"
        yield (
            f"New-NetFirewallRule -DisplayName {_powershell(_comment(rule, _NSG_DESCRIPTION))} "
            f"-Direction Outbound -Action Allow -Protocol {rule.protocol.upper()} "
            f"-RemoteAddress {address} -RemotePort {rule.port}"
        )


def _text_head(rules: Rules) -> Iterable[str]:
    yield "The guest must be able to open these connections:"


def _text(rules: Rules) -> Iterable[str]:
    width = max((len(_place(rule)) for rule in rules), default=0)
    for rule in rules:
        yield f"  {rule.protocol}  {_place(rule):<{width}}  {rule.why}".rstrip()


_HEADS: Mapping[AllowlistFormat, Callable[[Rules], Iterable[str]]] = {
    AllowlistFormat.NFT: _nft_head,
    AllowlistFormat.IPTABLES: _iptables_head,
    AllowlistFormat.FIREWALLD: _firewalld_head,
    AllowlistFormat.NSG: _nsg_head,
    AllowlistFormat.WINDOWS: _windows_head,
    AllowlistFormat.TEXT: _text_head,
}
_LINES: Mapping[AllowlistFormat, Callable[[Rules], Iterable[str]]] = {
    AllowlistFormat.NFT: _nft,
    AllowlistFormat.IPTABLES: _iptables,
    AllowlistFormat.FIREWALLD: _firewalld,
    AllowlistFormat.NSG: _nsg,
    AllowlistFormat.WINDOWS: _windows,
    AllowlistFormat.TEXT: _text,
}


def _comment(rule: _Rule, length: int) -> str:
    # nft has no way to write a quotation mark inside a comment.
    words = (f"Quiesce: {rule.why}" if rule.why else "Quiesce").replace('"', "'")
    return words.replace("\\", "/").encode()[:length].decode(errors="ignore")


def _place(rule: _Rule) -> str:
    if not rule.address:
        return f"your DNS server:{rule.port}"
    return f"[{rule.address}]:{rule.port}" if rule.version == 6 else f"{rule.address}:{rule.port}"


def _variables(rules: Rules) -> Mapping[str, str]:
    """Per name, and per "" for the DNS server, the variable that holds its address; no two names
    have the same."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(rule.address for rule in rules if not rule.version):
        plain = "ADDRESS_OF_" + re.sub(r"[^A-Za-z0-9]", "_", name).upper() if name else "DNS_SERVER"
        variable, number = plain, 1
        while variable in found.values():
            number += 1
            variable = f"{plain}_{number}"
        found[name] = variable
    return found


def _resolving(rules: Rules) -> Iterable[str]:
    """Firewalls know addresses only: a name is looked up where the commands are run."""
    for name, variable in _variables(rules).items():
        if not name:
            yield "# The guest's DNS server is in its /etc/resolv.conf, or ask: resolvectl dns"
            yield f"{variable}='your-dns-server'"
            continue
        yield f"{variable}=$(getent ahostsv4 {shlex.quote(name)} | awk 'NR==1 {{print $1}}')"
        # Said here, since what the firewalls say of an empty address helps nobody.
        yield f': "${{{variable}:?{name} has no IPv4 address; put its address into the rule}}"'


def _shell_address(rule: _Rule, variables: Mapping[str, str]) -> str:
    return rule.address if rule.version else f'"${variables[rule.address]}"'


def _powershell(text: str) -> str:
    # PowerShell takes typographic quotes for its own too.
    return "'" + re.sub("(['‘’‚‛])", r"\1\1", text) + "'"
