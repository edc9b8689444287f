"""The report and the status file: whole, small enough, and never greener than what happened."""

from __future__ import annotations

import base64
import json
import os
import stat
import zlib
from pathlib import Path
from typing import Any

import pytest

from quiesce.guest.failure import Fact, Failure
from quiesce.guest.handler_settings import Order
from quiesce.guest.papers import Collection
from quiesce.guest.report import Report, StatusFile

ORDER = Order("1", "snapshot", "task-1", "attempt-1", 10.0, (), 0.0, "https://x", "PEM")


def mount(number: int, *, action: str = "freeze", downgrades: bool = False) -> dict[str, Any]:
    return {
        "mount": f'/mnt/"{number}"',
        "device": "/dev/vda",
        "number": "1:2",
        "file_system": "ext4",
        "action": action,
        "reason": "x" * 300,
        "downgrades": downgrades,
    }


def frozen(number: int, *, downgrades: bool = False) -> dict[str, Any]:
    return {
        "mount": f"/mnt/{number}",
        "file_system": "ext4",
        "freeze_ms": 1.0,
        "frozen_ms": float(number),
        "skipped": "not frozen" if downgrades else "",
        "downgrades": downgrades,
    }


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """`status` and the report in it, both within the agent's and the contract's bounds."""
    assert path.stat().st_size <= 128 * 1024
    (found,) = json.loads(path.read_text())
    (inner,) = found["status"]["substatus"]
    text = inner["formattedMessage"]["message"]
    assert len(text) <= 64 * 1024
    return found["status"], json.loads(text)


@pytest.mark.parametrize(
    ("stage", "word"),
    [
        *(("preparing", "transitioning"), ("thawed", "transitioning")),
        *(("done", "success"), ("failed", "error")),
    ],
)
def test_the_agent_sees_how_it_stands(tmp_path: Path, stage: str, word: str) -> None:
    report = Report.begun(ORDER)
    report.document["stage"] = stage
    StatusFile(str(tmp_path / "1.status")).write(report)
    status, inner = read(tmp_path / "1.status")
    assert status["status"] == word
    assert inner == report.document
    assert [path.name for path in tmp_path.iterdir()] == ["1.status"]


def test_a_status_file_can_be_read_back_and_the_agents_own_placeholder_is_not_ours(
    tmp_path: Path,
) -> None:
    file = StatusFile(str(tmp_path / "1.status"))
    assert file.read() is None
    file.write(Report.begun(ORDER))
    found = file.read()
    assert found is not None
    assert found.attempt == "attempt-1"
    for text in ("", "[", "[]", "{}", '[{"status": {"status": "success"}}]', "[5]"):
        Path(file.path).write_text(text)
        assert file.read() is None


def test_a_failure_is_the_message_that_the_agent_shows(tmp_path: Path) -> None:
    report = Report.begun(ORDER)
    report.fail(Failure("storage.rate-limit", "Too often.", [Fact("a", "b", "c")]))
    StatusFile(str(tmp_path / "1.status")).write(report)
    status, inner = read(tmp_path / "1.status")
    assert status["formattedMessage"]["message"] == "Too often. [storage.rate-limit]"
    assert inner["failure"]["evidence"] == [{"fact": "a", "source": "b", "raw": "c"}]


def test_a_guest_with_hundreds_of_mounts_still_reports_and_its_losses_are_in_the_report(
    tmp_path: Path,
) -> None:
    report = Report.begun(ORDER)
    report.document["session"] = {
        "state": "done",
        "mounts": [mount(n, action="skip") for n in range(900)] + [mount(n) for n in range(300)],
        "freeze": {
            "held": True,
            "mounts": [*(frozen(n) for n in range(300)), frozen(300, downgrades=True)],
        },
        "warnings": ["w" * 5000] * 100,
    }
    StatusFile(str(tmp_path / "1.status")).write(report)
    _, inner = read(tmp_path / "1.status")
    assert len(report.as_blob()) <= 64 * 1024
    for shown in (inner, json.loads(report.as_blob())):
        freeze = shown["session"]["freeze"]
        assert any(one["downgrades"] for one in freeze["mounts"]), "a loss was left out"
        assert freeze["held"] is True


def test_harmless_mounts_are_left_out_before_anything_else(tmp_path: Path) -> None:
    report = Report.begun(ORDER)
    kept = [mount(1), mount(2, action="skip", downgrades=True)]
    report.document["session"] = {
        "mounts": kept + [mount(n, action="skip") for n in range(300)],
        "freeze": {"held": True, "mounts": [frozen(n) for n in range(80)]},
    }
    shown = json.loads(report.as_blob())
    assert shown["session"]["mounts"] == kept
    assert len(shown["session"]["freeze"]["mounts"]) == 80


def test_text_that_has_to_be_escaped_twice_still_fits_the_file(tmp_path: Path) -> None:
    report = Report.begun(ORDER)
    report.fail(Failure("storage.rate-limit", '\\"' * 20_000, [Fact("\x00" * 9000, "s")] * 30))
    StatusFile(str(tmp_path / "1.status")).write(report)
    _, inner = read(tmp_path / "1.status")
    assert inner["failure"]["code"] == "storage.rate-limit"


def test_papers_travel_in_the_blob_or_shorter_in_the_status_file(tmp_path: Path) -> None:
    token, noise = "a" * 32, os.urandom(400_000).hex().encode()
    mark = b"#" + token.encode()
    raw = mark + b" command date 0\n1700000000\n" + mark + b" file 800000 640 0 17 /var/log/x\n"
    raw += noise + b"THE END\n" + mark + b" end 1700000000\n"
    report = Report.begun(ORDER._replace(command="examine"))
    report.papers = Collection(token, raw)
    report.document["stage"] = "done"
    blob = report.as_blob()
    StatusFile(str(tmp_path / "1.status")).write(report)
    assert "papers" not in read(tmp_path / "1.status")[1]
    report.shorten_papers()
    StatusFile(str(tmp_path / "1.status")).write(report)
    in_file = read(tmp_path / "1.status")[1]
    assert len(blob) <= 128 * 1024
    for found in (json.loads(blob), in_file):
        papers = found["papers"]
        plain = zlib.decompress(base64.b64decode(papers["data"]))
        assert plain.startswith(mark + b" command date 0\n1700000000\n")
        assert plain.endswith(b"THE END\n" + mark + b" end 1700000000\n")
        assert papers["shortened"] == ["/var/log/x"]


def test_the_folder_is_on_the_disk_too_so_that_power_loss_undoes_no_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[tuple[bool, list[str]]] = []

    def fsync(fd: int) -> None:
        names = sorted(path.name for path in tmp_path.iterdir())
        flushed.append((stat.S_ISDIR(os.fstat(fd).st_mode), names))

    monkeypatch.setattr("quiesce.guest.report.os.fsync", fsync)
    StatusFile(str(tmp_path / "1.status")).write(Report.begun(ORDER))
    assert flushed == [(False, ["1.status.new"]), (True, ["1.status"])]
