"""The shipped zip on every interpreter that can be had here, the oldest ones included."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import quiesce.guest
from quiesce.guest.version import VERSION

_SOURCE = Path(quiesce.guest.__file__).parent


def _interpreters() -> list[str]:
    names = ["python3", *(f"python3.{minor}" for minor in range(6, 20))]
    found = {shutil.which(name) for name in names} | {sys.executable}
    found |= {str(p) for p in (Path.home() / ".pyenv/versions").glob("3.*/bin/python3")}
    return sorted(path for path in found if path and _starts(path))


def _starts(python: str) -> bool:
    """A version manager puts names on PATH that lead to no interpreter."""
    return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0


def _run(python: str, package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [python, "-I", str(package), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


INTERPRETERS = _interpreters()


@pytest.mark.parametrize("python", INTERPRETERS)
def test_the_zip_runs_and_plans_on(python: str, extension_zip: Path) -> None:
    version = _run(python, extension_zip, "version")
    assert (version.returncode, version.stderr) == (0, "")
    assert json.loads(version.stdout)["version"] == VERSION
    preflight = _run(python, extension_zip, "preflight")
    assert (preflight.returncode, preflight.stderr) == (0, "")
    assert any(one["mount"] == "/" for one in json.loads(preflight.stdout)["mounts"])


@pytest.mark.parametrize("python", INTERPRETERS)
def test_a_wrong_command_is_a_coded_failure_on(python: str, extension_zip: Path) -> None:
    ran = _run(python, extension_zip, "recover", "--task", "../../etc")
    assert ran.returncode == 1
    assert json.loads(ran.stdout)["failure"]["code"] == "session.task-invalid"


@pytest.mark.parametrize("python", INTERPRETERS)
def test_the_zip_examines_its_guest_by_the_script_in_it_on(
    python: str, extension_zip: Path
) -> None:
    ran = _run(python, extension_zip, "examine")
    assert (ran.returncode, ran.stderr) == (0, "")
    papers = json.loads(ran.stdout)["papers"]
    assert papers["shortened"] == []
    plain = zlib.decompress(base64.b64decode(papers["data"])).decode("utf-8", "replace")
    assert f"#{papers['token']} command uname 0\n" in plain
    assert f"\n#{papers['token']} end " in plain


@pytest.mark.parametrize("words", [("reboot",), ("restart-qga", "$(reboot)"), ("-s", "x")])
def test_nothing_but_what_is_known_is_mended(extension_zip: Path, words: tuple[str, ...]) -> None:
    ran = _run(sys.executable, extension_zip, "mend", "--", *words)
    assert ran.returncode == 1
    assert json.loads(ran.stdout)["failure"]["code"] == "extension.usage"


@pytest.mark.skipif(
    not list((Path.home() / ".pyenv/versions").glob("2.7*")), reason="no Python 2.7 here"
)
def test_a_python_that_is_too_old_says_so(extension_zip: Path) -> None:
    (python,) = list((Path.home() / ".pyenv/versions").glob("2.7*/bin/python2.7"))[:1]
    ran = subprocess.run(
        [str(python), str(extension_zip), "version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 1
    assert json.loads(ran.stdout)["failure"]["code"] == "extension.runtime-missing"


def test_the_sources_need_no_more_than_python_3_6() -> None:
    vermin = shutil.which("vermin", path=str(Path(sys.executable).parent)) or shutil.which("vermin")
    assert vermin is not None, "vermin is among the development dependencies"
    ran = subprocess.run(
        [vermin, "--no-tips", "--target=3.6-", "--violations", str(_SOURCE)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout


def test_the_version_can_be_read_as_text() -> None:
    text = (_SOURCE / "version.py").read_text()
    assert re.search(r'^VERSION = "([0-9.]+)"$', text, re.MULTILINE)


def test_usage_errors_are_json_too(extension_zip: Path) -> None:
    ran = _run(sys.executable, extension_zip, "dance")
    assert ran.returncode == 1
    assert json.loads(ran.stdout)["failure"]["code"] == "extension.usage"
