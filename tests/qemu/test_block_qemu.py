"""block and transfer against QEMU's own servers and tools; no operating system needed."""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from block_servers import StorageDaemon, qemu_io, qemu_nbd, run

from quiesce.block.file import FileSource
from quiesce.block.image import open_target
from quiesce.block.nbd import NbdSource
from quiesce.block.qemu_nbd import Qcow2Server, create_qcow2
from quiesce.model.extent import Extent, ExtentKind
from quiesce.model.failure import Failure, RestoreFailure, StorageFailure, VmFailure
from quiesce.transfer.digest import digest
from quiesce.transfer.restore import data_bytes, restore_disk

DATA, ZERO, CLEAN = ExtentKind.DATA, ExtentKind.ZERO, ExtentKind.CLEAN
KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40


@pytest.fixture
def scattered(tmp_path):
    """A qcow2 image of 64 MiB and a bit, with scattered data, zeros and trims."""
    image, dice = tmp_path / "scattered.qcow2", random.Random(1)
    run("qemu-img", "create", "-q", "-f", "qcow2", image, 64 * MIB + 512)
    writes = [
        f"write -P {dice.randrange(1, 256)} {dice.randrange(63 * KIB) * 1024} "
        f"{dice.randrange(1, 300) * 512}"
        for _ in range(60)
    ]
    qemu_io(image, *writes, "write -z 8M 4M", "discard 20M 2M", "write -P 7 64M 512")
    return image


def open_source(tmp_path, bitmap=None):
    return NbdSource(tmp_path / "nbd", "disk", bitmap)


def whole(source):
    buffer = bytearray(source.size_bytes)
    source.read_into(0, memoryview(buffer))
    return bytes(buffer)


def test_a_disk_is_read_as_qemu_reads_it(tmp_path, scattered):
    run("qemu-img", "convert", "-O", "raw", scattered, tmp_path / "raw")
    with qemu_nbd(scattered, tmp_path / "nbd", image_format="qcow2"):
        source = open_source(tmp_path)
        assert whole(source) == (tmp_path / "raw").read_bytes()
        assert digest(source) == digest(FileSource(tmp_path / "raw"))
        source.close()


def test_extents_are_those_that_qemu_img_maps(tmp_path, scattered):
    told = json.loads(run("qemu-img", "map", "--output=json", "-f", "qcow2", scattered))
    expected: list[list[object]] = []
    for part in told:
        if expected and expected[-1][2] == part["zero"]:
            expected[-1][1] += part["length"]
        else:
            expected.append([part["start"], part["length"], part["zero"]])
    with qemu_nbd(scattered, tmp_path / "nbd", image_format="qcow2"):
        source = open_source(tmp_path)
        seen = [[e.offset_bytes, e.length_bytes, e.kind is ZERO] for e in source.extents()]
        source.close()
    assert seen == expected
    assert len(seen) > 20


def test_the_dirty_bitmap_holds_exactly_what_changed_and_trims_are_zeros(tmp_path, scattered):
    run("qemu-img", "bitmap", "--add", "-g", "65536", scattered, "job1")
    before = tmp_path / "before"
    run("qemu-img", "convert", "-O", "raw", scattered, before)
    qemu_io(scattered, "write -P 9 1M 64k", "write -P 9 30M 1k", "discard 40M 128k")
    after = tmp_path / "after"
    run("qemu-img", "convert", "-O", "raw", scattered, after)
    with qemu_nbd(scattered, tmp_path / "nbd", image_format="qcow2", bitmap="job1"):
        source = open_source(tmp_path, "job1")
        extents = list(source.extents())
        rebuilt = bytearray(before.read_bytes())
        for extent in extents:
            part = memoryview(rebuilt)[extent.offset_bytes : extent.end_bytes]
            if extent.kind is DATA:
                source.read_into(extent.offset_bytes, part)
            elif extent.kind is ZERO:
                part[:] = bytes(len(part))
        source.close()
    assert [e for e in extents if e.kind is not CLEAN] == [
        Extent(1 * MIB, 64 * KIB, DATA),
        Extent(30 * MIB, 64 * KIB, DATA),
        Extent(40 * MIB, 128 * KIB, ZERO),
    ]
    assert rebuilt == after.read_bytes()


def test_a_bitmap_that_is_not_exported_is_said_so(tmp_path, scattered):
    with (
        qemu_nbd(scattered, tmp_path / "nbd", image_format="qcow2"),
        pytest.raises(Failure) as caught,
    ):
        open_source(tmp_path, "other")
    assert caught.value.code == "bitmap.missing"


def test_an_export_that_does_not_exist_is_said_so(tmp_path, scattered):
    with (
        qemu_nbd(scattered, tmp_path / "nbd", image_format="qcow2"),
        pytest.raises(Failure) as caught,
    ):
        NbdSource(tmp_path / "nbd", "another disk")
    assert caught.value.code == "snapshot.gone"


def test_a_disk_of_no_bytes(tmp_path):
    (tmp_path / "empty").touch()
    with qemu_nbd(tmp_path / "empty", tmp_path / "nbd"):
        source = open_source(tmp_path)
        assert source.size_bytes == 0
        assert list(source.extents()) == []
        done = restore_disk(source, open_target(tmp_path / "out", 0, "raw", overwrite=False))
        source.close()
    assert done.size_bytes == (tmp_path / "out").stat().st_size == 0


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_a_sparse_disk_of_two_tebibytes_takes_a_moment(tmp_path, image_format):
    image = tmp_path / "huge"
    run("qemu-img", "create", "-q", "-f", image_format, image, 2 * TIB)
    qemu_io(image, f"write -P 5 {TIB + 64 * KIB} 64k", image_format=image_format)
    began = time.monotonic()
    with qemu_nbd(image, tmp_path / "nbd", image_format=image_format):
        source = open_source(tmp_path)
        target = open_target(tmp_path / "out", 2 * TIB, image_format, overwrite=False)
        done = restore_disk(source, target)
        source.close()
    assert time.monotonic() - began < 120
    assert done.size_bytes == 2 * TIB
    assert 64 * KIB <= done.written_bytes <= 128 * KIB
    run("qemu-img", "compare", "-f", image_format, "-F", image_format, image, tmp_path / "out")


@pytest.mark.parametrize("size", [1, 1000, 4097, 3 * MIB + 17])
def test_a_disk_of_odd_size_keeps_every_byte(tmp_path, size):
    """QEMU shows a raw file rounded up to whole sectors."""
    content = random.Random(size).randbytes(size)
    (tmp_path / "odd").write_bytes(content)
    with qemu_nbd(tmp_path / "odd", tmp_path / "nbd"):
        source = open_source(tmp_path)
        assert source.size_bytes == -(-size // 512) * 512
        assert whole(source) == content + bytes(source.size_bytes - size)
        source.close()


def test_many_threads_read_one_disk(tmp_path, scattered):
    run("qemu-img", "convert", "-O", "raw", scattered, tmp_path / "raw")
    expected = (tmp_path / "raw").read_bytes()
    wrong: list[object] = []

    def read(seed):
        dice = random.Random(seed)
        for _ in range(40):
            start = dice.randrange(len(expected))
            buffer = bytearray(min(dice.randrange(1, 5 * MIB), len(expected) - start))
            try:
                source.read_into(start, memoryview(buffer))
            except Failure as failure:
                wrong.append(failure)
            if buffer != expected[start : start + len(buffer)]:
                wrong.append(start)

    with qemu_nbd(scattered, tmp_path / "nbd", image_format="qcow2"):
        source = open_source(tmp_path)
        threads = [threading.Thread(target=read, args=(n,)) for n in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        source.close()
    assert wrong == []


def test_a_server_killed_in_the_middle_of_reading_is_a_vm_that_is_gone(tmp_path):
    (tmp_path / "disk").write_bytes(bytes(64 * MIB))
    failures: list[Failure] = []
    reading = threading.Event()

    def read_on():
        buffer = memoryview(bytearray(4 * MIB))
        try:
            while True:
                source.read_into(0, buffer)
                reading.set()
        except Failure as failure:
            failures.append(failure)

    with qemu_nbd(tmp_path / "disk", tmp_path / "nbd") as process:
        source = open_source(tmp_path)
        threads = [threading.Thread(target=read_on) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert reading.wait(20)
        process.kill()
        for thread in threads:
            thread.join(20)
        source.close()
    assert [failure.code for failure in failures] == ["vm.gone"] * 4
    assert all(isinstance(failure, VmFailure) for failure in failures)


def test_a_server_that_stops_answering_is_given_up_and_a_slow_one_waited_for(tmp_path):
    (tmp_path / "disk").write_bytes(b"x" * MIB)
    buffer = memoryview(bytearray(MIB))
    with qemu_nbd(tmp_path / "disk", tmp_path / "nbd") as process:
        patient = open_source(tmp_path)
        hasty = NbdSource(tmp_path / "nbd", "disk", silence_seconds=0.5)
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(StorageFailure) as caught:
            hasty.read_into(0, buffer)
        waker = threading.Timer(0.5, os.kill, (process.pid, signal.SIGCONT))
        waker.start()
        patient.read_into(0, buffer)
        waker.join()
        patient.close()
        hasty.close()
    assert caught.value.code == "storage.slow"
    assert buffer == b"x" * MIB


@pytest.fixture
def fleeced(tmp_path):
    """A snapshot by copy-before-write whose scratch takes one write and is full from then on."""
    disk, fleece = tmp_path / "disk", tmp_path / "fleece"
    disk.write_bytes(b"old!" * (2 * MIB))
    fleece.touch()
    os.truncate(fleece, 8 * MIB)
    daemon = StorageDaemon(tmp_path)
    rules = [
        {"event": "pwritev", "state": 1, "new_state": 2},
    ]
    full = [{"event": "pwritev", "state": 2, "errno": 28, "once": False, "iotype": "write"}]
    daemon("blockdev-add", node_name="disk", driver="file", filename=str(disk))
    daemon(
        "blockdev-add",
        node_name="fleece",
        driver="blkdebug",
        image={"driver": "file", "filename": str(fleece)},
        set_state=rules,
        inject_error=full,
    )
    daemon(
        "blockdev-add",
        node_name="cbw",
        driver="copy-before-write",
        file="disk",
        target="fleece",
        on_cbw_error="break-snapshot",
        cbw_timeout=45,
    )
    daemon("blockdev-add", node_name="acc", driver="snapshot-access", file="cbw")
    server = {"type": "unix", "path": str(tmp_path / "nbd")}
    daemon("nbd-server-start", addr={"type": "unix", "data": {"path": server["path"]}})
    daemon("block-export-add", type="nbd", id="a", node_name="acc", name="disk")
    daemon("block-export-add", type="nbd", id="g", node_name="cbw", name="guest", writable=True)
    yield tmp_path
    daemon.close()


def guest_writes(folder: Path, offset: int) -> None:
    uri = f"nbd+unix:///guest?socket={folder / 'nbd'}"
    run("qemu-io", "-f", "raw", "-c", f"write -P 1 {offset} 64k", uri)


def test_a_full_scratch_breaks_the_snapshot_by_name_and_spares_the_guest(fleeced):
    source = open_source(fleeced)
    buffer = memoryview(bytearray(64 * KIB))
    assert data_bytes(source) == 8 * MIB
    guest_writes(fleeced, 0)
    source.read_into(0, buffer)
    assert buffer == b"old!" * (16 * KIB), "the snapshot must show what was there before"
    guest_writes(fleeced, MIB)
    with pytest.raises(StorageFailure) as caught:
        source.read_into(2 * MIB, buffer)
    assert caught.value.code == "storage.scratch-full"
    with pytest.raises(StorageFailure) as described:
        list(source.extents())
    assert described.value.code == "storage.scratch-full"
    source.close()


def test_a_snapshot_that_broke_before_it_was_opened_is_named_too(fleeced):
    guest_writes(fleeced, 0)
    guest_writes(fleeced, MIB)
    source = open_source(fleeced)
    with pytest.raises(StorageFailure) as caught:
        list(source.extents())
    assert caught.value.code == "storage.scratch-full"
    source.close()


def test_a_qcow2_image_is_restored_whole_sound_and_sparse(tmp_path, scattered):
    out = tmp_path / "out.qcow2"
    with qemu_nbd(scattered, tmp_path / "nbd", image_format="qcow2"):
        source = open_source(tmp_path)
        target = open_target(out, source.size_bytes, "qcow2", overwrite=False)
        assert not out.exists()
        restore_disk(source, target)
        written = data_bytes(source)
        source.close()
    run("qemu-img", "check", "-f", "qcow2", out)
    run("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", scattered, out)
    assert out.stat().st_blocks * 512 < written + 2 * MIB
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.qcow2", "scattered.qcow2"]


def test_a_qcow2_target_whose_server_dies_leaves_nothing(tmp_path):
    target = open_target(tmp_path / "out.qcow2", 64 * MIB, "qcow2", overwrite=False)
    target.write(0, memoryview(b"x" * MIB))
    target._server._process.kill()
    with pytest.raises(RestoreFailure) as caught:
        target.write(MIB, memoryview(b"x" * 32 * MIB))
    assert caught.value.code == "restore.write-failed"
    target.abandon()
    target.abandon()
    assert list(tmp_path.iterdir()) == []


def test_names_that_qemu_could_take_for_options_are_only_names(tmp_path):
    out = tmp_path / "json:{a},b=c: ü.qcow2"
    target = open_target(out, MIB, "qcow2", overwrite=False)
    target.write(0, memoryview(b"y" * 512))
    target.finish()
    run("qemu-img", "check", "-f", "qcow2", out)


def test_a_process_that_is_killed_before_it_has_connected_takes_its_qemu_nbd_along(tmp_path):
    """Nothing else would end that: it waits for a first connection."""
    image = tmp_path / "disk"
    create_qcow2(image, MIB)
    killed = textwrap.dedent("""
        import sys
        from pathlib import Path
        from quiesce.block import qemu_nbd

        def killed(self, socket):
            while not socket.exists():
                pass
            print(self._process.pid, self._folder.name, flush=True)
            sys.stdin.read()

        qemu_nbd.Qcow2Server._connect = killed
        qemu_nbd.Qcow2Server(Path(sys.argv[1]))
    """)
    server = subprocess.Popen(
        [sys.executable, "-c", killed, str(image)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    pid, folder = server.stdout.readline().split()
    with open(os.pidfd_open(int(pid))) as qemu_nbd_process:
        assert Path(f"/proc/{pid}/comm").read_text().strip() == "qemu-nbd"
        server.kill()
        server.wait()
        ended, _, _ = select.select([qemu_nbd_process], [], [], 20)
        if not ended:
            os.kill(int(pid), signal.SIGKILL)
    shutil.rmtree(folder)
    server.stdin.close()
    server.stdout.close()
    assert ended


def test_zeroes_written_over_nbd_are_zeros_in_the_image(tmp_path):
    image = tmp_path / "disk"
    create_qcow2(image, 4 * MIB)
    server = Qcow2Server(image)
    server.disk.write(0, memoryview(b"x" * 4 * MIB))
    server.disk.write_zeroes(MIB, 2 * MIB)
    server.disk.flush()
    server.stop()
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, tmp_path / "raw")
    expected = b"x" * MIB + bytes(2 * MIB) + b"x" * MIB
    assert (tmp_path / "raw").read_bytes() == expected
