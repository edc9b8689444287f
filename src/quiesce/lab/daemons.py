"""The lab network's own servers, Debian's dnsmasq and squid, as processes in its namespace."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from quiesce.lab.namespace import Namespace
from quiesce.lab.tool import run_tool, tool_missing
from quiesce.model.failure import Evidence, LabFailure

START_SECONDS = 30.0
PROXY_PORT = 3128
SQUID_USER = "proxy"
"""As Debian's package makes it."""

_OWN_SHARED_MEMORY = [
    "unshare",
    "--mount",
    "sh",
    "-c",
    'mount -t tmpfs shm /dev/shm && exec "$@"',
    "sh",
]
"""squid keeps files of fixed names there: one of two that start at once finds the other's and ends,
and both leave theirs behind."""


@dataclass
class Daemon:
    """One server in a namespace. `log` says `ready` once it serves. Not thread-safe.

    `user`: run as that user from the start, since a server that changes its user by itself
    would undo the tie to the thread that started it.
    """

    space: Namespace
    argv: Sequence[str]
    configuration: Path
    log_file: Path
    ready: str
    tied: bool
    user: str = ""
    _process: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        """Where everything of it lies."""
        return self.configuration.parent

    @property
    def log(self) -> str:
        """All that it has logged."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def configure(self, text: str) -> None:
        """What it reads at its next start."""
        self.configuration.write_text(text)

    def start(self) -> None:
        """Start it, anew if it runs, and return when it serves.

        Raises LabFailure `lab.tool-missing`, `lab.daemon-failed`.
        """
        self.stop()
        program = self.argv[0]
        if shutil.which(program) is None:
            raise tool_missing(program)
        heard = len(self.log)
        user = ["--reuid", self.user, "--regid", self.user, "--clear-groups"] if self.user else []
        tie = ["--pdeathsig", "KILL"] if self.tied else []
        self._process = subprocess.Popen(
            self.space.enter(
                [*_OWN_SHARED_MEMORY, "setpriv", "--no-new-privs", *user, *tie, *self.argv]
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_SECONDS
        while self.ready not in self.log[heard:]:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise LabFailure(
                    "lab.daemon-failed",
                    f"{program} did not start in the lab's network.",
                    evidence=[
                        Evidence("its log", str(self.log_file), raw=self.log[heard:][-2000:])
                    ],
                )
            time.sleep(0.02)

    def stop(self) -> None:
        """As by SIGKILL. Nothing if it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def dnsmasq(space: Namespace, *, tied: bool) -> Daemon:
    """DHCP and DNS, not yet configured."""
    folder = space.folder / "dnsmasq"
    folder.mkdir()
    configuration = folder / "dnsmasq.conf"
    return Daemon(
        space,
        ["dnsmasq", f"--conf-file={configuration}"],
        configuration,
        folder / "dnsmasq.log",
        "DHCP, static leases only",
        tied,
    )


def squid(space: Namespace, *, tied: bool) -> Daemon:
    """The proxy, not yet configured."""
    folder = space.folder / "squid"
    folder.mkdir(mode=0o750)
    shutil.chown(folder, SQUID_USER, SQUID_USER)
    configuration = folder / "squid.conf"
    return Daemon(
        space,
        ["squid", "-N", "-f", str(configuration)],
        configuration,
        folder / "cache.log",
        "Accepting HTTP Socket connections",
        tied,
        SQUID_USER,
    )


class ProxyRule(StrEnum):
    """Whom the proxy lets out, and never further than to the storage endpoint."""

    OPEN = "open"
    PASSWORD = "password"
    """Basic authentication."""
    DENY = "deny"
    """403 to everybody."""


def dnsmasq_configuration(
    folder: Path,
    *,
    bridge: str,
    gateway: str,
    leases: Mapping[str, str],
    names: Mapping[str, str],
    announced: str | None,
) -> str:
    """DHCP for the cards in `leases` (hardware address → address) and nobody else, DNS for
    `names` (name → address) and no other. `announced`: the host address in option 245."""
    network = gateway.rpartition(".")[0] + ".0"
    lines = [
        "keep-in-foreground",
        "user=root",
        f"pid-file={folder}/dnsmasq.pid",
        f"log-facility={folder}/dnsmasq.log",
        "log-dhcp",
        "log-queries",
        "no-hosts",
        "no-resolv",
        "local-ttl=1",
        f"interface={bridge}",
        "except-interface=lo",
        "bind-interfaces",
        "no-ping",  # it would cost each new lease three seconds
        "dhcp-authoritative",
        f"dhcp-leasefile={folder}/dnsmasq.leases",
        f"dhcp-range={network},static,255.255.255.0,1h",
        *(f"dhcp-host={card},{address}" for card, address in leases.items()),
        *(f"host-record={name},{address}" for name, address in names.items()),
        "local=/#/",
    ]
    if announced:
        octets = ":".join(f"{int(octet):02x}" for octet in announced.split("."))
        lines.append(f"dhcp-option-force=245,{octets}")
    return "".join(f"{line}\n" for line in lines)


def squid_configuration(folder: Path, *, gateway: str, storage: str, rule: ProxyRule) -> str:
    """A forward proxy at port 3128 of the gateway, without a cache and without an outside."""
    lines = [
        f"http_port {gateway}:{PROXY_PORT}",
        "visible_hostname proxy.quiesce.test",
        f"pid_filename {folder}/squid.pid",
        f"cache_log {folder}/cache.log",
        f"access_log stdio:{folder}/access.log",
        f"coredump_dir {folder}",
        "cache deny all",
        "cache_mem 8 MB",
        "netdb_filename none",
        "hosts_file none",
        f"dns_nameservers {gateway}",
        "dns_timeout 5 seconds",
        "connect_timeout 10 seconds",
        "shutdown_lifetime 0 seconds",
        f"acl storage dst {storage}",
    ]
    if rule is ProxyRule.PASSWORD:
        lines += [
            f"auth_param basic program /usr/lib/squid/basic_ncsa_auth {folder}/passwords",
            "auth_param basic children 1 startup=1",
            "auth_param basic realm quiesce lab",
            "acl known proxy_auth REQUIRED",
            "http_access allow known storage",
        ]
    if rule is ProxyRule.OPEN:
        lines.append("http_access allow storage")
    lines.append("http_access deny all")
    return "".join(f"{line}\n" for line in lines)


def squid_password_file(user: str, password: str) -> str:
    """A line that basic_ncsa_auth understands."""
    return f"{user}:{run_tool(['openssl', 'passwd', '-apr1', password]).strip()}\n"
