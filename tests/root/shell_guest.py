"""A guest as the shell scripts see one: its /etc, /var and /run are folders made here, its systemd
is a script that notes what it is asked for, and its shell may be any of three."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import quiesce.guest

SHELLS = {
    "dash": ("dash",),
    "bash": ("bash", "--posix"),
    "busybox": ("busybox", "sh"),
}
_SCRIPTS = Path(quiesce.guest.__file__).parent
_SHOWN = 'for part in etc var run; do mount --rbind "$0/$part" "/$part"; done; exec "$@"'

_SYSTEMCTL = """#!/bin/sh
echo "$*" >> {root}/calls
for unit in "$@"; do :; done
state={root}/units/$unit
case $1 in
    show) sed -n "s/^$3=/$3=/p" "$state" 2>/dev/null || echo "$3=" ;;
    restart | start)
        [ "$1" = restart ] && [ -e {root}/restart-is-killed ] && exit 137
        grep -v ^ActiveState "$state" > "$state.new"
        echo "ActiveState=$(cat "{root}/after-start" 2>/dev/null || echo active)" >> "$state.new"
        mv "$state.new" "$state" ;;
    unmask) sed -i "s/^LoadState=.*/LoadState=loaded/" "$state" ;;
esac
exit 0
"""


class ShellGuest:
    def __init__(self, root: Path) -> None:
        self.root = root
        for part in ("etc", "var/log", "var/lib", "run", "units", "bin"):
            (root / part).mkdir(parents=True)

    def path(self, inside: str) -> Path:
        return self.root / inside.lstrip("/")

    def put(self, inside: str, content: str | bytes, mode: int = 0o644) -> Path:
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return path

    def with_systemd(self, **units: dict[str, str]) -> None:
        """`units`: properties of each; underscores in names stand for hyphens."""
        self.path("run/systemd/system").mkdir(parents=True)
        self.put("bin/systemctl", _SYSTEMCTL.format(root=self.root), 0o755)
        for name, properties in units.items():
            lines = {"LoadState": "loaded", "ActiveState": "inactive", "MainPID": "0"} | properties
            text = "".join(f"{key}={value}\n" for key, value in lines.items())
            self.put(f"units/{name.replace('_', '-')}.service", text)

    @property
    def orders(self) -> list[str]:
        """What systemd was asked for, but for its state."""
        calls = self.root / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        return [line for line in lines if not line.startswith("show")]

    def run(
        self, scripts: str, *words: str, shell: str = "dash", timeout: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _SHOWN]
        command += [str(self.root), *SHELLS[shell], "-s", *words]
        environment = {**os.environ, "PATH": f"{self.root}/bin:{os.environ['PATH']}"}
        return subprocess.run(
            command,
            input=b"".join((_SCRIPTS / name).read_bytes() for name in scripts.split()),
            capture_output=True,
            timeout=timeout,
            env=environment,
            check=False,
        )
