"""mend.sh, carried out and refused in a guest of the shell."""

from __future__ import annotations

import subprocess
from pathlib import Path

from shell_guest import ShellGuest


def ran(
    guest: ShellGuest, words: tuple[str, ...], shell: str
) -> subprocess.CompletedProcess[bytes]:
    """Without a `sleep` of its own the guest's is short, whatever is waited for."""
    if not guest.path("bin/sleep").exists():
        guest.put("bin/sleep", "#!/bin/sh\nexec /bin/sleep 0.05\n", 0o755)
    return guest.run("services.sh mend.sh", *words, shell=shell)


def mended(guest: ShellGuest, *words: str, shell: str = "dash") -> str:
    done = ran(guest, words, shell)
    assert (done.returncode, done.stderr) == (0, b""), done
    (line,) = done.stdout.decode().splitlines()
    return line


def refused(guest: ShellGuest, *words: str, shell: str = "dash") -> str:
    done = ran(guest, words, shell)
    assert (done.returncode, done.stdout) == (1, b""), done
    (line,) = done.stderr.decode().splitlines()
    return line


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
