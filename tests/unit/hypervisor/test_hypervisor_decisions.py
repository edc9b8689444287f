"""What is decided about names, bases and scratch space before QEMU is touched."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiesce.hypervisor import bitmaps, names, scratch
from quiesce.hypervisor.inventory import Attachment, Bitmap
from quiesce.hypervisor.qemu import QemuVm
from quiesce.hypervisor.taskfolder import Record, RecordedDisk, TaskFolder
from quiesce.model.failure import Failure
from quiesce.model.policy import SnapshotOptions
from quiesce.model.snapshot import Route
from quiesce.model.vm import Disk, VmAddress

TASK = "0123456789ab"
SIZE = 64 * 1024 * 1024
MIB = 1024 * 1024
OLD, NEW = names.generation("aaaaaaaaaaaa", SIZE), names.generation("bbbbbbbbbbbb", SIZE)


def bitmap(name: str, **flags: bool) -> Bitmap:
    usual = {"persistent": True, "recording": True, "busy": False, "inconsistent": False}
    return Bitmap(name, **(usual | flags))


def disk_with(*found: Bitmap, size_bytes: int = SIZE) -> Attachment:
    return Attachment(Disk("vda", size_bytes, None, "qcow2", "node0"), "/machine/vda", found)


@given(st.integers(0, 9999), st.sampled_from("acsdefl"))
def test_names_fit_qemu_and_lead_back_to_the_task(index: int, kind: str) -> None:
    name = names.node(TASK, kind, index)
    assert len(name) <= 31
    assert names.owner(name) == TASK
    assert names.owner(names.stopped_marker(TASK)) == TASK
    assert names.owner(names.generation(TASK, SIZE)) is None


@given(st.integers(0, 2**63))
def test_a_generation_carries_its_task_and_the_disks_size(size_bytes: int) -> None:
    generation = names.generation(TASK, size_bytes)
    assert generation.startswith(f"quiesce-{TASK}")
    assert names.generation_task(generation) == TASK
    assert names.generation_size(generation) == size_bytes


@pytest.mark.parametrize("task_id", ["", "0123456789AB", "0123456789abc", "../../../etc", "é" * 12])
def test_other_task_ids_are_refused(task_id: str) -> None:
    with pytest.raises(Failure) as refused:
        names.checked_task_id(task_id)
    assert refused.value.code == "snapshot.bad-task-id"


@pytest.mark.parametrize(
    ("found", "bases", "base", "reason"),
    [
        ([], [], "", "first point"),
        ([], [NEW], "", "bitmap.missing"),
        ([bitmap(OLD), bitmap(NEW)], [NEW, OLD], NEW, ""),
        ([bitmap(OLD)], [NEW, OLD], OLD, ""),
        ([bitmap(NEW, inconsistent=True), bitmap(OLD)], [NEW, OLD], OLD, ""),
        ([bitmap(NEW, inconsistent=True)], [NEW, OLD], "", "bitmap.inconsistent"),
        ([bitmap(NEW, recording=False)], [NEW], "", "bitmap.inconsistent"),
        ([bitmap(NEW, busy=True)], [NEW], "", "bitmap.busy"),
        ([bitmap(names.generation("bbbbbbbbbbbb", 1))], [NEW], "", "bitmap.missing"),
        ([bitmap(OLD)], [], "", "first point"),
    ],
)
def test_the_base_is_the_newest_bitmap_that_can_be_trusted(
    found: list[Bitmap], bases: list[str], base: str, reason: str
) -> None:
    chosen = bitmaps.choose_base(disk_with(*found), bases)
    assert chosen.generation == base
    assert chosen.full_read_reason.startswith(reason)
    assert bool(chosen.full_read_reason) is not bool(base)


def test_a_disk_of_another_size_than_its_generation_is_read_in_full() -> None:
    chosen = bitmaps.choose_base(disk_with(bitmap(NEW), size_bytes=2 * SIZE), [NEW])
    assert chosen.full_read_reason.startswith("bitmap.resized")


@given(st.integers(0, 2**45), st.lists(st.integers(0, 2**41), min_size=1, max_size=8))
def test_scratch_shares_stay_within_the_budget(budget: int, sizes: list[int]) -> None:
    shares = scratch.shares(budget, sizes)
    assert len(shares) == len(sizes)
    assert all(share >= 0 for share in shares)
    assert sum(shares) <= budget


def test_a_large_disk_gets_what_small_ones_cannot_use() -> None:
    small, large = scratch.shares(1000 * MIB, [10 * MIB, 10_000 * MIB])
    assert 10 * MIB < small < 14 * MIB
    assert large == 1000 * MIB - small


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = TaskFolder(tmp_path, TASK)
    disk = RecordedDisk("vda", SIZE, "qcow2", "node0", "/machine/vda", base=OLD, generation=NEW)
    record = Record("näme / x", TASK, Route.HOST, (disk,), datetime.now(UTC))
    assert folder.read() is None
    folder.create()
    folder.write(record)
    assert folder.read() == record
    assert folder.path.stat().st_mode & 0o777 == 0o700
    folder.remove()
    folder.remove()
    assert folder.read() is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 99}', '{"version": 1}'])
def test_a_record_that_is_not_one_is_none(tmp_path: Path, text: str) -> None:
    folder = TaskFolder(tmp_path, TASK)
    folder.create()
    (folder.path / "session.json").write_text(text)
    assert folder.read() is None


@pytest.fixture
def qemu_6_2(tmp_path: Path) -> Iterator[Path]:
    """A monitor that greets as QEMU 6.2 and has one disk: that version cannot be installed here."""
    address = tmp_path / "qmp.sock"
    image = {"virtual-size": SIZE}
    node = {"node-name": "n0", "drv": "raw", "file": "/x", "image": image}
    inserted = {"node-name": "n0", "ro": False}
    answers = {
        "query-named-block-nodes": [node],
        "query-block": [{"qdev": "vda", "device": "", "removable": False, "inserted": inserted}],
        "query-status": {"status": "running", "running": True},
    }

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            version = {"qemu": {"major": 6, "minor": 2, "micro": 0}, "package": ""}
            greeting = {"QMP": {"version": version, "capabilities": []}}
            client.sendall(json.dumps(greeting).encode() + b"\r\n")
            # One command at a time, not ended by a line break.
            while command := client.recv(65536):
                asked = json.loads(command)
                empty: object = [] if asked["execute"] == "query-block-exports" else {}
                answer = answers.get(asked["execute"], empty)
                echoed = {"id": asked["id"]} if "id" in asked else {}
                client.sendall(json.dumps({"return": answer} | echoed).encode() + b"\r\n")

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(address))
        listener.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield address
    thread.join(5)


def test_a_qemu_that_could_harm_the_guest_is_refused(qemu_6_2: Path, tmp_path: Path) -> None:
    vm = QemuVm(VmAddress("old", qemu_6_2), tmp_path / "scratch")
    with pytest.raises(Failure) as refused:
        vm.prepare(TASK, bases={}, options=SnapshotOptions())
    assert refused.value.code == "hypervisor.too-old"
    assert "6.2.0" in refused.value.message
    assert not (tmp_path / "scratch").exists()


def test_writing_a_record_follows_no_link_that_lies_in_its_way(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    folder = TaskFolder(tmp_path / "scratch", "000000000001")
    folder.create()
    (folder.path / "session.json.new").symlink_to(precious)
    record = Record("vm", "000000000001", Route.HOST, ())
    folder.write(record)
    assert precious.read_text() == "keep me"
    assert folder.read() == record


def test_a_record_behind_a_link_is_none(tmp_path: Path) -> None:
    folder = TaskFolder(tmp_path, "000000000001")
    folder.create()
    folder.write(Record("vm", "000000000001", Route.HOST, ()))
    (folder.path / "session.json").rename(tmp_path / "elsewhere")
    (folder.path / "session.json").symlink_to(tmp_path / "elsewhere")
    assert folder.read() is None


@pytest.mark.root
def test_qemus_user_gets_the_folder_but_neither_the_record_nor_what_links_point_to(
    tmp_path: Path,
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    folder = TaskFolder(tmp_path, "000000000001")
    folder.create()
    folder.write(Record("vm", "000000000001", Route.HOST, ()))
    folder.scratch_file(0).touch()
    folder.scratch_file(1).symlink_to(precious)
    folder.give_to(65534)
    assert folder.path.stat().st_uid == 65534
    assert folder.scratch_file(0).stat().st_uid == 65534
    assert precious.stat().st_uid == 0
    assert folder.read() is not None
    os.chown(folder.path / "session.json", 65534, -1)
    assert folder.read() is None, "a record that QEMU's user could have written"
