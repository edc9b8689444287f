"""Running the system's own tools, with a failure that says what they said."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from quiesce.model.failure import Evidence, LabFailure

REQUIRED_PACKAGES = (
    "ca-certificates",
    "debian-archive-keyring",  # Ubuntu has it not by itself
    "e2fsprogs",
    "fakeroot",  # as an ordinary user
    "mmdebstrap",
    "qemu-system-x86",
    "qemu-utils",
    "uidmap",  # as an ordinary user
    "util-linux",
    "zstd",
)
"""What building and running a guest needs, by the names of Debian's and Ubuntu's packages."""

DATA_DISK_PACKAGES = ("btrfs-progs", "xfsprogs")
"""What guests with data disks need besides."""

NETWORK_PACKAGES = ("dnsmasq-base", "iproute2", "nftables", "openssl", "procps", "squid")
"""What guests with a network need besides."""


def run_tool(
    argv: Sequence[str],
    *,
    timeout_seconds: float = 600.0,
    folder: Path | None = None,
    stdin: str = "",
) -> str:
    """Run a tool to its end and return its standard output.

    Raises LabFailure `lab.tool-missing` or `lab.tool-failed`, the latter with the last lines of
    standard error.
    """
    try:
        done = subprocess.run(
            argv,
            cwd=folder,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            check=True,
        )
    except FileNotFoundError as inner:
        raise tool_missing(argv[0]) from inner
    except subprocess.CalledProcessError as inner:
        raise _tool_failed(argv, f"exit status {inner.returncode}", inner.stderr) from inner
    except subprocess.TimeoutExpired as inner:
        raise _tool_failed(argv, f"no end within {timeout_seconds:.0f} s", "") from inner
    return done.stdout


def tool_missing(program: str) -> LabFailure:
    """That a program is not installed, with the packages to install."""
    return LabFailure(
        "lab.tool-missing",
        f"The lab needs the program {program}, which is not installed.",
        remedy="apt-get install --no-install-recommends "
        + " ".join(REQUIRED_PACKAGES + DATA_DISK_PACKAGES + NETWORK_PACKAGES),
    )


def _tool_failed(argv: Sequence[str], fact: str, stderr: str) -> LabFailure:
    tail = "\n".join(stderr.splitlines()[-15:])
    return LabFailure(
        "lab.tool-failed",
        f"{argv[0]} failed: {fact}.",
        evidence=[Evidence(fact=fact, source=" ".join(argv)[:1000], raw=tail)],
    )
