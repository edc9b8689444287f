"""Images as targets of a restore."""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat

import pytest

from quiesce.block import past_cache
from quiesce.block.file import FileSource
from quiesce.block.image import open_target
from quiesce.model.extent import ExtentKind
from quiesce.model.failure import InputFailure, RestoreFailure, StorageFailure

MIB = 1 << 20


def test_an_image_has_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "disk.raw"
    target = open_target(path, 3 * MIB + 5, "raw", overwrite=False)
    target.write(MIB, memoryview(b"a" * MIB))
    assert not path.exists()
    target.finish()
    assert path.read_bytes() == bytes(MIB) + b"a" * MIB + bytes(MIB + 5)
    assert list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_was_not_written_takes_no_space(tmp_path):
    path = tmp_path / "disk.raw"
    target = open_target(path, 1 << 41, "raw", overwrite=False)
    target.write(1 << 40, memoryview(b"x" * 4096))
    target.finish()
    assert path.stat().st_size == 1 << 41
    assert path.stat().st_blocks * 512 < MIB


def test_an_abandoned_image_leaves_nothing_and_may_be_abandoned_again(tmp_path):
    target = open_target(tmp_path / "disk.raw", MIB, "raw", overwrite=False)
    target.abandon()
    target.abandon()
    assert list(tmp_path.iterdir()) == []


def test_what_an_abandoned_image_leaves_behind_is_told_and_not_raised(tmp_path, monkeypatch):
    target = open_target(tmp_path / "disk.raw", MIB, "raw", overwrite=False)
    (partial,) = tmp_path.iterdir()

    def read_only(path):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", read_only)
        (left,) = target.abandon()
    assert (left.source, "stays behind" in left.fact) == (str(partial), True)
    assert "Read-only file system" in left.raw
    assert target.abandon() == ()
    assert list(tmp_path.iterdir()) == []


def test_an_image_whose_last_bytes_do_not_arrive_at_its_closing_has_failed(tmp_path, monkeypatch):
    target = open_target(tmp_path / "disk.raw", MIB, "raw", overwrite=False)
    close = past_cache.Output.close

    def late(output):
        close(output)
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with monkeypatch.context() as patched:
        patched.setattr(past_cache.Output, "close", late)
        with pytest.raises(RestoreFailure) as caught:
            target.finish()
        target.abandon()
    assert caught.value.code == "restore.no-space"
    assert list(tmp_path.iterdir()) == []


def test_an_existing_image_is_never_overwritten_by_accident(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(b"precious")
    with pytest.raises(RestoreFailure) as caught:
        open_target(path, MIB, "raw", overwrite=False)
    assert caught.value.code == "restore.target-exists"
    assert path.read_bytes() == b"precious"


def test_an_image_that_appeared_meanwhile_is_not_overwritten_either(tmp_path):
    path = tmp_path / "disk.raw"
    target = open_target(path, MIB, "raw", overwrite=False)
    path.write_bytes(b"precious")
    with pytest.raises(RestoreFailure) as caught:
        target.finish()
    assert caught.value.code == "restore.target-exists"
    target.abandon()
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_an_overwritten_image_stays_whole_until_the_new_one_is(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(b"precious")
    target = open_target(path, 10, "raw", overwrite=True)
    assert path.read_bytes() == b"precious"
    target.finish()
    assert path.read_bytes() == bytes(10)


@pytest.mark.parametrize("name", ["mit leer", "ünïcode 日本", "a:b,c=d", "x" * 250, "-dash"])
def test_names_of_any_kind(tmp_path, name):
    open_target(tmp_path / name, 7, "raw", overwrite=False).finish()
    assert (tmp_path / name).read_bytes() == bytes(7)


def test_a_name_too_long_for_the_file_system_is_refused_and_nothing_left(tmp_path):
    with pytest.raises(RestoreFailure) as caught:
        open_target(tmp_path / ("x" * 300), 7, "raw", overwrite=False)
    assert caught.value.code == "restore.target-not-writable"
    assert "too long" in caught.value.evidence[0].raw
    assert list(tmp_path.iterdir()) == []


def test_data_that_cannot_fit_are_refused_before_anything_is_written(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(RestoreFailure) as caught:
        open_target(tmp_path / "d", free * 4, "raw", overwrite=False, data_bytes=free * 2)
    assert caught.value.code == "restore.no-space"
    assert "bytes free" in caught.value.evidence[0].fact
    assert list(tmp_path.iterdir()) == []


def test_a_link_that_leads_nowhere_takes_its_name_and_is_replaced_if_that_is_allowed(tmp_path):
    path = tmp_path / "disk"
    path.symlink_to(tmp_path / "nowhere" / "disk")
    with pytest.raises(RestoreFailure) as caught:
        open_target(path, 7, "raw", overwrite=False)
    assert caught.value.code == "restore.target-exists"
    assert list(tmp_path.iterdir()) == [path]
    open_target(path, 7, "raw", overwrite=True).finish()
    assert (path.is_symlink(), path.read_bytes()) == (False, bytes(7))


@pytest.mark.parametrize("parts", [("missing", "disk"), ("file", "disk"), ("folder",)])
def test_a_target_that_cannot_be_there_is_refused(tmp_path, parts):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(RestoreFailure) as caught:
        open_target(tmp_path.joinpath(*parts), MIB, "raw", overwrite=True)
    assert caught.value.code == "restore.target-not-writable"


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(InputFailure) as caught:
        open_target(tmp_path / "d", MIB, "vmdk", overwrite=False)
    assert caught.value.code == "input.unknown-format"


def test_missing_qemu_tools_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RestoreFailure) as caught:
        open_target(tmp_path / "d", MIB, "qcow2", overwrite=False)
    assert caught.value.code == "restore.tool-missing"
    assert list(tmp_path.iterdir()) == []


def test_a_file_source_tells_its_holes_and_reads_its_bytes(tmp_path):
    path = tmp_path / "disk.raw"
    content = random.Random(1).randbytes(MIB)
    with path.open("wb") as file:
        file.truncate(5 * MIB + 3)
        file.seek(2 * MIB)
        file.write(content)
    source = FileSource(path)
    extents = list(source.extents())
    kinds = [(e.offset_bytes, e.length_bytes, e.kind) for e in extents]
    assert kinds == [
        (0, 2 * MIB, ExtentKind.ZERO),
        (2 * MIB, MIB, ExtentKind.DATA),
        (3 * MIB, 2 * MIB + 3, ExtentKind.ZERO),
    ]
    buffer = bytearray(MIB + 2)
    source.read_into(2 * MIB - 1, memoryview(buffer))
    assert bytes(buffer) == b"\0" + content + b"\0"
    source.close()
    source.close()


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(b"x" * 100)
    source = FileSource(path)
    os.truncate(path, 10)
    with pytest.raises(StorageFailure) as caught:
        source.read_into(50, memoryview(bytearray(10)))
    assert caught.value.code == "storage.io-error"
    source.close()
