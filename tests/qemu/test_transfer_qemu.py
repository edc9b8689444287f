"""A disk's whole way: QEMU's NBD server, the pipeline, a real vault, and back to an image."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import pytest
from block_servers import qemu_io, qemu_nbd, run

from quiesce.block.image import open_target
from quiesce.block.nbd import NbdSource
from quiesce.model.failure import JobFailure
from quiesce.model.snapshot import (
    Consistency,
    ConsistencyLabel,
    Route,
    SessionDisk,
    Snapshot,
    SnapshotSession,
)
from quiesce.transfer.backup import back_up
from quiesce.transfer.digest import digest
from quiesce.transfer.restore import restore_disk
from quiesce.transfer.throttle import Throttle
from quiesce.vault.format.keys import KeyFile
from quiesce.vault.stores.local import LocalStore
from quiesce.vault.vault import Vault

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@pytest.fixture
def vault(tmp_path):
    return Vault.create(LocalStore.create(tmp_path / "vault"), KeyFile(bytes(32)))


def snapshot_of(sock: Path, size: int, **more: str) -> Snapshot:
    disk = SessionDisk("vda", size, sock, "disk", format="qcow2", **more)
    session = SnapshotSession("task", datetime.now(UTC), Route.HOST, (disk,))
    return Snapshot(session, ConsistencyLabel(Consistency.CRASH, "no agent here"), None)


def open_nbd(disk: SessionDisk) -> NbdSource:
    return NbdSource.of(disk)


def test_a_full_and_an_incremental_point_come_back_bit_for_bit(tmp_path, vault):
    image, sock, size = tmp_path / "vm.qcow2", tmp_path / "nbd", 256 * MIB + 1536
    run("qemu-img", "create", "-q", "-f", "qcow2", image, size)
    noise = tmp_path / "noise"
    noise.write_bytes(random.Random(1).randbytes(60 * MIB))
    qemu_io(
        image, f"write -s {noise} 10M 60M", "write -P 3 200M 5M", f"write -P 1 {size - 512} 512"
    )
    run("qemu-img", "bitmap", "--add", image, "b1")
    with qemu_nbd(image, sock, image_format="qcow2"):
        snapshot = snapshot_of(sock, size, generation="g1")
        first = back_up(snapshot, vault.writer("vm", "job1"), open_nbd)
        source = open_nbd(snapshot.session.disks[0])
        assert digest(vault.reader(first.id, "vda")) == digest(source)
        source.close()
    assert 65 * MIB <= first.read_bytes <= 66 * MIB

    qemu_io(
        image, "write -P 9 20M 100k", "write -P 8 100M 64k", "discard 30M 1M", "write -z 203M 1M"
    )
    with qemu_nbd(image, sock, image_format="qcow2", bitmap="b1"):
        incremental = snapshot_of(
            sock, size, dirty_bitmap="b1", base_generation="g1", generation="g2"
        )
        second = back_up(incremental, vault.writer("vm", "job2"), open_nbd)
    assert second.disks[0].incremental
    assert second.read_bytes <= 512 * KIB
    assert second.stored_bytes < 64 * KIB

    restored = tmp_path / "restored.qcow2"
    restore_disk(
        vault.reader(second.id, "vda"), open_target(restored, size, "qcow2", overwrite=False)
    )
    run("qemu-img", "check", "-q", "-f", "qcow2", restored)
    run("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", image, restored)


class Told(Throttle):
    """No limit; tells of every read."""

    def __init__(self, tell):
        super().__init__()
        self.take = tell


def test_a_transfer_that_was_interrupted_sends_only_the_rest(tmp_path, vault):
    """The same job runs again after its first try ended halfway."""
    image, sock = tmp_path / "disk", tmp_path / "nbd"
    image.write_bytes(random.Random(2).randbytes(160 * MIB))
    seen: list[int] = []
    with qemu_nbd(image, sock):
        snapshot = snapshot_of(sock, 160 * MIB, generation="g1")
        with pytest.raises(JobFailure):
            back_up(
                snapshot,
                vault.writer("vm", "job"),
                open_nbd,
                throttle=Told(seen.append),
                cancelled=lambda: len(seen) > 25,
            )
        kept = vault.status().stored_bytes
        again = back_up(snapshot, vault.writer("vm", "job"), open_nbd)
        source = open_nbd(snapshot.session.disks[0])
        assert digest(vault.reader(again.id, "vda")) == digest(source)
        source.close()
    assert len(vault.points()) == 1
    assert kept > 0, "no pack was finished before the interruption"
    assert again.stored_bytes <= 161 * MIB - kept


MEASURE = """
    import os, sys
    task, sock, folder, size, here, level = sys.argv[1:]
    sys.path.insert(0, here)
    from pathlib import Path
    from test_transfer_qemu import *
    def peak():
        # Not ru_maxrss, which a new process takes over from the one that started it.
        text = Path("/proc/self/status").read_text()
        return int(text.split("VmHWM:")[1].split()[0]) * 1024
    vault = Vault.open(LocalStore(Path(folder)), KeyFile(bytes(32)))
    before = peak()
    if task == "back up":
        writer = vault.writer("vm", "job", compression_level=int(level))
        back_up(snapshot_of(Path(sock), int(size)), writer, open_nbd, workers=64)
    elif task == "verify":
        os.cpu_count = lambda: 64
        vault.verify("chunks")
    else:
        reader = vault.reader(vault.points()[0].id, "vda")
        image = Path(folder).parent / "restored"
        restore_disk(reader, open_target(image, int(size), "raw", overwrite=False), workers=64)
    print(peak() - before)
"""


def grown_by(task: str, sock: Path, vault: Path, size: int, *, level: int = 1) -> int:
    """Bytes by which a process grows that does `task`, as on 64 cores."""
    script = [sys.executable, "-c", textwrap.dedent(MEASURE), task]
    where = [sock, vault, str(size), Path(__file__).parent, str(level)]
    done = subprocess.run([*script, *where], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_memory_stays_bounded_whatever_the_disk_holds_on_any_number_of_cores(tmp_path, vault):
    """2 GiB, of which half holds data; each task in a process of its own."""
    image, sock = tmp_path / "disk", tmp_path / "nbd"
    dice = random.Random(3)
    with image.open("wb") as file:
        file.truncate(2 * GIB)
        for start in range(0, 2 * GIB, 32 * MIB):
            file.seek(start)
            file.write(dice.randbytes(4 * MIB) + b"text" * (3 * MIB))
    with qemu_nbd(image, sock):
        tasks = ("back up", "restore", "verify")
        grown = {task: grown_by(task, sock, tmp_path / "vault", 2 * GIB) for task in tasks}
    print({task: f"{grew / 1e6:.0f} MB" for task, grew in grown.items()})
    assert max(grown.values()) <= 128e6, grown


@pytest.mark.parametrize(("level", "most_bytes"), [(6, 128e6), (12, 192e6), (19, 256e6)])
def test_higher_compression_needs_no_more_memory_than_is_said_of_it(
    tmp_path, vault, level, most_bytes
):
    """Half of the disk hardly compresses, so that packs fill up; eight threads."""
    image, sock = tmp_path / "disk", tmp_path / "nbd"
    dice = random.Random(4)
    with image.open("wb") as file:
        for number in range(96 * MIB // (256 * KIB)):
            file.write(dice.randbytes(128 * KIB))
            file.write(number.to_bytes(4, "big") * 4096 + b"text" * (28 * KIB))
    with qemu_nbd(image, sock):
        grown = grown_by("back up", sock, tmp_path / "vault", 96 * MIB, level=level)
    print(f"level {level}: {grown / 1e6:.0f} MB")
    assert grown <= most_bytes
