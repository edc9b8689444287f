"""A running VM whose change tracking misses a write: the next increment finds it out."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from bare_qemu import KIB, MIB, BareQemu

from quiesce.block.nbd import NbdSource
from quiesce.hypervisor.qemu import QemuVm
from quiesce.lab.faults import tracking
from quiesce.lab.faults.fault import Scene
from quiesce.model.failure import SnapshotFailure
from quiesce.model.point import RecoveryPoint
from quiesce.model.policy import SnapshotOptions
from quiesce.model.snapshot import Consistency, ConsistencyLabel, Snapshot
from quiesce.transfer.audit import Sample
from quiesce.transfer.backup import back_up
from quiesce.transfer.digest import digest
from quiesce.vault.format.keys import KeyFile
from quiesce.vault.stores.local import LocalStore
from quiesce.vault.vault import Vault

T1, T2, T3 = "000000000001", "000000000002", "000000000003"
CHUNKS = 512  # of 64 MiB, at 128 KiB
Bare = Callable[..., BareQemu]


class Chain:
    """Points of one VM in one vault."""

    def __init__(self, folder: Path, vm: QemuVm) -> None:
        self.vault = Vault.create(LocalStore.create(folder / "vault"), KeyFile(bytes(32)))
        self.failures: list[SnapshotFailure] = []
        self._vm = vm
        self._bases: dict[str, list[str]] = {}

    def point(self, task: str) -> RecoveryPoint:
        """A committed point, proven to be the disk of its instant bit for bit."""
        self._vm.prepare(task, bases=self._bases, options=SnapshotOptions())
        self._vm.take(task)
        session = self._vm.open(task)
        [disk] = session.disks
        made = back_up(
            Snapshot(session, ConsistencyLabel(Consistency.CRASH, "no agent here"), None),
            self.vault.writer("vm", task),
            NbdSource.of,
            on_mismatch=self.failures.append,
        )
        source = NbdSource.of(disk, whole=True)
        self.whole = digest(self.vault.reader(made.id, disk.name)) == digest(source)
        source.close()
        self._vm.release(task, committed=True)
        self._bases = {disk.name: [disk.generation]}
        return made


def past_qemu(qemu: BareQemu, offset: int) -> None:
    with qemu.disks["vda"][0].open("r+b") as image:
        os.pwrite(image.fileno(), b"behind your back", offset)


def while_switched_off(qemu: BareQemu, offset: int) -> None:
    [(node, [name])] = qemu.bitmaps().items()
    qemu.qmp("block-dirty-bitmap-disable", node=node, name=name)
    qemu.write("vda", offset, 4 * KIB, 0x55)
    qemu.qmp("block-dirty-bitmap-enable", node=node, name=name)


@pytest.mark.parametrize(
    ("kind", "miss"), [("raw", past_qemu), ("qcow2", while_switched_off)], ids=["image", "bitmap"]
)
def test_one_block_that_the_tracking_missed_makes_a_full_read_that_says_so(
    bare: Bare, tmp_path: Path, kind: str, miss: Callable[[BareQemu, int], None]
) -> None:
    qemu = bare({"vda": kind}).start()
    for at in range(0, 64, 8):
        qemu.write("vda", at * MIB, 8 * MIB, at + 1)
    chain = Chain(tmp_path, qemu.vm())
    chain.point(T1)
    qemu.write("vda", 0, 128 * KIB, 0x77)
    sample = Sample(f"{T2} vda")
    sample.add(1, CHUNKS - 1)  # all but the one that the guest changed
    place = random.Random(4).choice(sample.chosen()) * 128 * KIB
    miss(qemu, place + 64 * KIB)

    point = chain.point(T2)

    assert chain.whole
    [disk] = point.disks
    assert not disk.incremental
    assert disk.full_read_reason.startswith("bitmap.audit-mismatch: ")
    assert disk.read_bytes == 64 * MIB
    [failure] = chain.failures
    assert [found.fact for found in failure.evidence] == [
        f"bytes {place}–{place + 128 * KIB} differ"
    ]
    qemu.write("vda", 9 * MIB, 64 * KIB, 0x78)
    third = chain.point(T3)  # tracked anew from that point on
    assert chain.whole
    assert third.disks[0].incremental
    assert third.read_bytes == 128 * KIB
    assert len(chain.failures) == 1


def test_tracking_that_is_right_is_believed(bare: Bare, tmp_path: Path) -> None:
    qemu = bare().start()
    qemu.write("vda", 0, 32 * MIB, 0x11)
    chain = Chain(tmp_path, qemu.vm())
    chain.point(T1)
    qemu.write("vda", 4 * MIB, 64 * KIB, 0x22)
    qemu.io("vda", "discard 8M 1M")
    qemu.io("vda", "write -z 40M 1M")
    point = chain.point(T2)
    assert chain.whole
    assert point.disks[0].incremental
    assert point.read_bytes == 128 * KIB
    assert not chain.failures


def test_the_fault_that_the_lab_sets_in_is_found_by_every_sample(
    bare: Bare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lab's row on this VM, whose disk stands for the one that the lab would plug in."""
    qemu = bare({"vda": "raw"}).start()
    chain = Chain(tmp_path, qemu.vm())

    @contextmanager
    def raw_disk(_: object, content: bytes) -> Iterator[Path]:
        image = qemu.disks["vda"][0]
        with image.open("r+b") as file:
            file.write(content)
        yield image

    server = SimpleNamespace(
        begin=lambda vm: chain.point(T1).job_id, end_of=lambda job_id, *, seconds: None
    )
    monkeypatch.setattr(tracking, "_raw_disk", raw_disk)
    scene = SimpleNamespace(vm="vm", server=server)
    with tracking.tracking_lies.inject(cast("Scene", scene)):
        point = chain.point(T2)

    assert chain.whole
    assert not point.disks[0].incremental
    [failure] = chain.failures
    assert failure.code == tracking.tracking_lies.expected
    assert "in 32 of 32 places looked at" in failure.message
