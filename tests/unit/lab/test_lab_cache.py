"""What is costly to make is made once, whole or not at all."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from quiesce.lab import image
from quiesce.lab.cache import cache_folder, made_once
from quiesce.lab.tool import run_tool
from quiesce.model.failure import LabFailure


def test_cache_lies_where_the_user_wants_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "quiesce" / "lab"
    assert cache_folder().is_dir()


def test_half_made_thing_is_never_seen(tmp_path: Path) -> None:
    def breaks(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise LabFailure("lab.tool-failed", "no luck")

    with pytest.raises(LabFailure):
        made_once(tmp_path / "thing", breaks)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_two_makers_at_a_time_make_one_thing(tmp_path: Path) -> None:
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        time.sleep(0.2)  # long enough for the other to find it unfinished
        (folder / "content").write_text("whole")

    makers = [threading.Thread(target=made_once, args=(tmp_path / "thing", make)) for _ in range(2)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert len(made) == 1
    assert (tmp_path / "thing" / "content").read_text() == "whole"


def test_missing_tool_is_named_with_the_packages_to_install() -> None:
    with pytest.raises(LabFailure) as missing:
        run_tool(["no-such-program-of-the-lab"])
    assert missing.value.code == "lab.tool-missing"
    assert "no-such-program-of-the-lab" in missing.value.message
    assert "mmdebstrap" in missing.value.remedy


def test_failed_tool_is_quoted() -> None:
    with pytest.raises(LabFailure) as failed:
        run_tool(["sh", "-c", "echo it is the disk >&2; exit 3"])
    assert failed.value.code == "lab.tool-failed"
    assert "it is the disk" in failed.value.evidence[0].raw
    assert "3" in failed.value.message


def apt_says(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(image, "run_tool", lambda _argv: "".join(f"{line}\n" for line in lines))


def test_machine_s_own_mirror_is_used_without_other_vendors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    apt_says(
        monkeypatch,
        "http://mirror.example/debian/ bookworm main",
        "http://mirror.example/debian/ bookworm contrib",
        "http://mirror.example/debian/ bookworm-updates main",
        "http://mirror.example/security/ bookworm-security main",
        "https://vendor.example/apt/ bookworm stable",
        "https://vendor.example/apt/ bookworm-pgdg main",
        "http://mirror.example/debian/ bookworm main",
    )
    assert image.apt_sources("bookworm") == [
        "deb http://mirror.example/debian/ bookworm main",
        "deb http://mirror.example/debian/ bookworm-updates main",
        "deb http://mirror.example/security/ bookworm-security main",
    ]


def test_machine_of_another_distribution_leaves_the_mirror_to_mmdebstrap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    apt_says(monkeypatch, "http://mirror.example/ubuntu/ noble main")
    assert image.apt_sources("bookworm") == []
