"""The extension's log: what is said in it, and that nobody else chooses where it is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quiesce.guest import log
from quiesce.guest.log import Log


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "quiesce"
    monkeypatch.setattr(log, "LOG_FOLDER", str(found))
    monkeypatch.setattr(log, "_PATH", str(found / "extension.log"))
    return found


def written(text: str = "hello") -> str:
    """What `flush` complains of, after this was said."""
    mine = Log("task-1")
    mine.say(text)
    return mine.flush()


def test_what_is_said_stands_in_the_file_and_is_told_as_the_tasks(folder: Path) -> None:
    assert written() == ""
    assert (folder / "extension.log").read_text().endswith(" task-1 hello\n")
    assert b"hello" in Log("task-1").of_task()
    assert Log("task-2").of_task() == b""


def test_one_saying_is_one_line_of_printable_characters(folder: Path) -> None:
    assert written("a\r\x1b[31mb\nc\u2028d é") == ""
    (line,) = (folder / "extension.log").read_bytes().decode().splitlines()
    assert line.endswith(" task-1 a\\r\\x1b[31mb\\nc\\u2028d é")


def test_a_folder_that_others_can_write_to_is_not_written_to(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o775)
    assert "not root's own folder" in written()
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_folder_of_somebody_elses_is_neither_written_to_nor_read(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    (folder / "extension.log").write_text("theirs task-1 secret\n")
    os.chown(folder, 1, 1)
    assert "not root's own folder" in written()
    assert (folder / "extension.log").read_text() == "theirs task-1 secret\n"
    assert b"secret" not in Log("task-1").of_task()


def test_a_link_in_the_folders_place_is_not_followed(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)
    assert "not root's own folder" in written()
    assert list(elsewhere.iterdir()) == []


def test_a_link_in_the_files_place_is_not_followed(folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("task-1 root's own\n")
    folder.mkdir(mode=0o700)
    (folder / "extension.log").symlink_to(victim)
    assert written() != ""
    assert victim.read_text() == "task-1 root's own\n"
    assert b"root's own" not in Log("task-1").of_task()


def test_a_pipe_in_the_files_place_stops_nobody(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    os.mkfifo(folder / "extension.log", 0o600)
    assert written() != ""
    assert Log("task-1").of_task() != b""
