"""The stock Azure Linux agent in a lab guest: Debian's package as it is, and the newest release.

Of the package only its configuration file is edited, as an administrator would; that the guest
is no Hyper-V machine is told to systemd by a drop-in, since Debian's unit starts on those alone.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from quiesce.lab.agent_socket import agent_at
from quiesce.lab.cache import cache_folder, made_once
from quiesce.lab.guest import LabGuest
from quiesce.lab.tool import run_tool

UNIT = "walinuxagent.service"
LOG = "/var/log/waagent.log"
FOLDER = "/var/lib/waagent"
CONFIGURATION = "/etc/waagent.conf"

_SETTINGS = {
    "AutoUpdate.Enabled": "n",
    "Logs.Collect": "n",
    "OS.EnableFirewall": "n",
    "Provisioning.Agent": "disabled",
    "ResourceDisk.Format": "n",
}
_DROP_IN = f"/etc/systemd/system/{UNIT}.d/lab.conf"
_SOURCE = (
    "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    " http://deb.debian.org/debian sid main\n"
)


class Waagent:
    """The agent of one running guest, ordered about through the guest's other agent."""

    def __init__(self, guest: LabGuest) -> None:
        self._guest = guest

    def start(self, *, period_seconds: int = 2, settings: Mapping[str, str] | None = None) -> None:
        """Start it, and at each boot from now on. It asks for its goal state every
        `period_seconds`; `settings` are further lines of waagent.conf, key → value."""
        wanted = {
            **_SETTINGS,
            "Extensions.GoalStatePeriod": str(period_seconds),
            **(settings or {}),
        }
        old = " ".join(f"-e '/^{key}=/d'" for key in wanted)
        new = " ".join(shlex.quote(f"{key}={value}") for key, value in wanted.items())
        self._guest.run(
            "set -e\n"
            f"sed -i {old} {CONFIGURATION}\n"
            f"printf '%s\\n' {new} >> {CONFIGURATION}\n"
            f"mkdir -p {_DROP_IN.rpartition('/')[0]}\n"
            f"printf '[Unit]\\nConditionVirtualization=\\n' > {_DROP_IN}\n"
            # The package's own links enable it; `systemctl enable` would take seconds over them.
            f"rm -f /etc/systemd/system/{UNIT}\n"
            "systemctl daemon-reload\n"
            f"systemctl restart {UNIT}\n"
        )

    def stop(self) -> None:
        """As `systemctl stop` does; a reboot starts it again."""
        self._guest.run(f"systemctl stop {UNIT}")

    def install_newest(self) -> str:
        """Upgrade to the newest release that Debian has (`newest_package`), not started.

        Returns the version that `waagent --version` then tells.
        """
        package = newest_package()
        target = f"/var/tmp/{package.name}"
        with agent_at(self._guest.qga_socket) as agent:
            agent.write_file(target, package.read_bytes())
        # Its dependency crypt-r replaces a part of Python that the guest's Python still has.
        self._guest.run(
            f"systemctl stop {UNIT}; "
            f"dpkg --force-depends --force-confnew --install {target} 2>&1 && rm {target}"
        )
        return self.version()

    def version(self) -> str:
        """What it says it is, such as `2.7.3.0`."""
        text = self._guest.run("waagent --version")
        return text.split()[0].removeprefix("WALinuxAgent-")

    def log(self) -> str:
        """Its log file as it stands; empty when there is none."""
        return self._guest.run(f"cat {LOG} 2>/dev/null || true")

    def endpoint(self) -> str:
        """The host address that it settled on; empty before."""
        return self._guest.run(f"cat {FOLDER}/WireServerEndpoint 2>/dev/null || true").strip()


def newest_package() -> Path:
    """The newest `waagent_<version>_all.deb`, from Debian's unstable distribution.

    It is fetched once and kept in the lab's cache, in the folder `waagent-newest`: remove that to
    fetch a newer one. The machine's own package lists stay as they are.

    Raises LabFailure `lab.tool-missing`, `lab.tool-failed`.
    """
    folder = made_once(cache_folder() / "waagent-newest", _fetch)
    return next(folder.glob("waagent_*.deb"))


def _fetch(folder: Path) -> None:
    work = folder / "apt"
    for name in ("lists/partial", "cache/archives/partial"):
        (work / name).mkdir(parents=True)
    (work / "sources.list").write_text(_SOURCE)
    apt_get = [
        "apt-get",
        "--quiet",
        *("--option", f"Dir::Etc::SourceList={work}/sources.list"),
        *("--option", "Dir::Etc::SourceParts=/dev/null"),
        *("--option", f"Dir::State::Lists={work}/lists"),
        *("--option", f"Dir::Cache={work}/cache"),
        *("--option", "APT::Sandbox::User="),
        *("--option", "Acquire::Languages=none"),
    ]
    run_tool([*apt_get, "update"])
    run_tool([*apt_get, "download", "waagent"], folder=folder)
    run_tool(["rm", "-r", str(work)])
