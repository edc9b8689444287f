"""The shell script that the agent calls, in guests with and without a Python that fits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from waagent_folder import HandlerFolder

TOOLS = ("sh", "dirname", "sed", "head", "date", "mv", "cat")


@pytest.fixture
def folder(tmp_path: Path) -> HandlerFolder:
    made = HandlerFolder(tmp_path)
    # A guest whose Python lies nowhere else: the script looks for it at fixed places too.
    script = made.base / "handler.sh"
    text = script.read_text()
    for place in ("/usr/bin/", "/usr/libexec/", "/usr/local/bin/"):
        text = text.replace(place, f"{tmp_path}{place}")
    script.write_text(text)
    return made


def path_with(folder: HandlerFolder, **programs: str) -> str:
    """A PATH with a few tools and these programs (name: shell text)."""
    place = folder.agent_folder / "bin"
    place.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (place / tool).symlink_to(found)
    for name, text in programs.items():
        (place / name).write_text(f"#!/bin/sh\n{text}\n")
        (place / name).chmod(0o755)
    return str(place)


def call(folder: HandlerFolder, action: str, path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [folder.base / "handler.sh", action],
        env={"PATH": path, "ConfigSequenceNumber": "7"},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_guest_without_python_says_so_in_the_status_file_and_to_the_agent(
    folder: HandlerFolder,
) -> None:
    public = {"command": "snapshot", "task": "task-1", "attempt": "attempt-1"}
    folder.settings(7, public, {"a": 1})
    done = call(folder, "enable", path_with(folder))
    assert done.returncode == 52
    assert "needs Python 3.6" in done.stderr
    status = folder.file(7)
    assert status["status"] == "error"
    report = folder.report(7)
    assert (report["attempt"], report["task"]) == ("attempt-1", "task-1")
    assert (report["stage"], report["session"]) == ("failed", None)
    assert report["failure"]["code"] == "extension.runtime-missing"
    assert "python3" in report["failure"]["remedy"]


def test_install_in_a_guest_without_python_ends_with_the_code_for_a_missing_dependency(
    folder: HandlerFolder,
) -> None:
    done = call(folder, "install", path_with(folder))
    assert (done.returncode, list(folder.status.iterdir())) == (52, [])


def test_a_python_that_is_too_old_is_passed_over(folder: HandlerFolder) -> None:
    path = path_with(folder, python3="exit 1", python=f'exec {sys.executable} "$@"')
    done = call(folder, "dance", path)
    assert json.loads(done.stdout)["failure"]["code"] == "extension.usage"


def test_the_settings_cannot_put_anything_into_the_status_file(folder: HandlerFolder) -> None:
    hostile = {"command": "snapshot", "task": 't"$(id)`id`\\', "attempt": "a-1"}
    folder.settings(7, hostile, {"a": 1})
    assert call(folder, "enable", path_with(folder)).returncode == 52
    assert folder.report(7)["attempt"] == "a-1"
    assert folder.report(7)["task"] == ""


def test_the_handlers_own_folder_may_have_a_space_in_its_path(tmp_path: Path) -> None:
    (tmp_path / "a folder").mkdir()
    folder = HandlerFolder(tmp_path / "a folder")
    done = call(folder, "dance", os.environ["PATH"])
    assert json.loads(done.stdout)["failure"]["code"] == "extension.usage"
