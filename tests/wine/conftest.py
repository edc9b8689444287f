"""Windows' own commands as Wine has them: `reg` and `sc query` in full, others not at all. The
lines are those of the scripts' tables, letter by letter; PowerShell itself is not in Wine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pytest
from missing import missing

_MARK = "--ended--"
_SECONDS = 120.0
"""The first command makes the prefix, which takes seconds."""


@dataclass(frozen=True)
class Ran:
    """A line's status and output as `guest/collect.ps1` passes them on."""

    line: str
    status: int
    text: str


Run = Callable[..., list[Ran]]


def table(script: str, column: int) -> dict[str, list[list[str]]]:
    """Rows of the table in `guest/SCRIPT` by their first word; `column` of the last one."""
    text = (resources.files("quiesce") / "guest" / script).read_text()
    found: dict[str, list[list[str]]] = {}
    for row in re.findall(r"^[a-z-]+ \| .+$", text, re.MULTILINE):
        cells = row.split(" | ", column)
        found.setdefault(cells[0], []).append(cells[1:])
    return found


@pytest.fixture(scope="session")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if shutil.which("wine") is None:
        missing("wine is not installed: make system-wine")
    folder = tmp_path_factory.mktemp("wine")
    yield folder
    subprocess.run(
        ["wineserver", "--kill"] if shutil.which("wineserver") else ["true"],
        env=_environment(folder),
        check=False,
        timeout=_SECONDS,
    )


def _environment(folder: Path) -> dict[str, str]:
    own = {"WINEPREFIX": str(folder), "WINEDEBUG": "-all", "DISPLAY": "", "WINEARCH": "win64"}
    return {**os.environ, **own}


@pytest.fixture
def run(prefix: Path) -> Run:
    """Run lines by Wine's cmd.exe. They come from a batch file: on its way through a Unix command
    line their quotation marks would be escaped."""

    def run_lines(*lines: str) -> list[Ran]:
        (prefix / "drive_c").mkdir(exist_ok=True)
        body = "".join(f"{line} 2>&1\r\necho {_MARK}%errorlevel%\r\n" for line in lines)
        (prefix / "drive_c" / "lines.bat").write_bytes(f"@echo off\r\n{body}".encode("ascii"))
        ended = subprocess.run(
            ["wine", "cmd.exe", "/d", "/c", "C:\\lines.bat"],
            env=_environment(prefix),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
            check=False,
        )
        text = ended.stdout.decode("cp437").replace("\r", "")
        ran = re.findall(rf"(.*?){_MARK}(\d+)\n", text, re.DOTALL)
        return [
            Ran(line, int(status), printed)
            for line, (printed, status) in zip(lines, ran, strict=True)
        ]

    return run_lines
