"""A file system that cannot be frozen is quiet only when its device's counters prove it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from quiesce.guest import unfreezable
from quiesce.guest.mounts import Mount
from quiesce.guest.unfreezable import Watch

EFI = Mount(2, 1, "8:1", "/", "/boot/efi", "vfat", "/dev/sda1", False)


class FakeDevice:
    """/sys/dev/block of one disk with one partition, as the kernel lays it out."""

    def __init__(self, sysfs: Path) -> None:
        self.sysfs = sysfs
        self.partition = sysfs / "devices/sda/sda1"
        self.queue = sysfs / "devices/sda/queue"
        self.partition.mkdir(parents=True)
        self.queue.mkdir()
        (sysfs / "dev/block").mkdir(parents=True)
        (sysfs / "dev/block/8:1").symlink_to(self.partition)
        (self.queue / "iostats").write_text("1\n")
        self.count()

    def count(self, *, written: int = 5120, discarded: int = 0, read: int = 7, writing: int = 0):  # type: ignore[no-untyped-def]
        fields = [9, 0, read, 3, 10, 0, written, 5, writing, 9, 9, 1, 0, discarded, 1, 4, 2]
        (self.partition / "stat").write_text(" ".join(f"{one:>8}" for one in fields) + "\n")
        (self.partition / "inflight").write_text(f"{3:>8} {writing:>8}\n")


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    monkeypatch.setattr(unfreezable, "open_mount", lambda mount: os.open(tmp_path, os.O_RDONLY))
    return FakeDevice(tmp_path / "sys")


def told(watch: Watch) -> dict[str, Any]:
    (entry,) = watch.report()
    assert (entry["mount"], entry["file_system"]) == ("/boot/efi", "vfat")
    return entry


def watched(device: FakeDevice) -> Watch:
    return Watch([EFI], str(device.sysfs))


def soon() -> float:
    return time.monotonic() + 60


def test_one_that_nobody_wrote_to_costs_nothing(device: FakeDevice) -> None:
    watch = watched(device)
    watch.flush(soon())
    device.count(read=4000)
    watch.look_again()
    assert told(watch)["skipped"] == "vfat cannot be frozen; it was flushed and nobody wrote to it"
    assert told(watch)["downgrades"] is False


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"written": 5168}, "48 sectors of 512 bytes were written to it"),
        ({"discarded": 8}, "8 sectors of 512 bytes were written to it"),
        ({"writing": 1}, "a write to it was under way"),
    ],
)
def test_one_that_was_written_to_costs_consistency(
    device: FakeDevice, change: dict[str, int], why: str
) -> None:
    watch = watched(device)
    watch.flush(soon())
    device.count(**change)
    watch.look_again()
    assert told(watch)["skipped"] == "vfat cannot be frozen, and " + why
    assert told(watch)["downgrades"] is True


def test_one_whose_device_has_no_counters_costs_consistency(device: FakeDevice) -> None:
    (device.partition / "inflight").unlink()
    watch = watched(device)
    watch.flush(soon())
    watch.look_again()
    assert "counters cannot be read" in told(watch)["skipped"]
    assert told(watch)["downgrades"] is True


def test_one_whose_device_does_not_count_costs_consistency(device: FakeDevice) -> None:
    (device.queue / "iostats").write_text("0\n")
    assert "queue/iostats is off" in told(watched(device))["skipped"]


def test_counters_that_become_strange_cost_consistency(device: FakeDevice) -> None:
    watch = watched(device)
    watch.flush(soon())
    (device.partition / "stat").write_text("9 0 7\n")
    watch.look_again()
    assert "counters cannot be read" in told(watch)["skipped"]


def test_one_that_is_written_to_all_the_time_costs_consistency(
    device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = iter(range(100_000, 200_000, 8))

    def flush_and_dirty_again(fd: int) -> str:
        device.count(written=next(written))
        return ""

    monkeypatch.setattr(unfreezable, "write_back", flush_and_dirty_again)
    watch = watched(device)
    watch.flush(soon())
    watch.look_again()
    assert "being written to when the others were to be frozen" in told(watch)["skipped"]


def test_one_that_cannot_be_flushed_costs_consistency(
    device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfreezable, "write_back", lambda fd: "Input/output error")
    watch = watched(device)
    watch.flush(soon())
    watch.look_again()
    assert "cannot be flushed: Input/output error" in told(watch)["skipped"]
    assert told(watch)["downgrades"] is True


def test_one_whose_flush_does_not_end_is_not_waited_for(
    device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    device_answers = threading.Event()

    def hang(fd: int) -> str:
        device_answers.wait(30)
        return ""

    monkeypatch.setattr(unfreezable, "write_back", hang)
    watch = watched(device)
    began = time.monotonic()
    watch.flush(began + 0.2)
    assert time.monotonic() - began < 20
    device_answers.set()  # a base line that comes too late proves nothing
    watch.look_again()
    assert "took too long" in told(watch)["skipped"]
    assert told(watch)["downgrades"] is True


def test_one_that_was_not_watched_to_the_end_costs_consistency(device: FakeDevice) -> None:
    watch = watched(device)
    assert told(watch)["downgrades"] is True
    watch.flush(soon())
    assert "not watched to the end" in told(watch)["skipped"]
