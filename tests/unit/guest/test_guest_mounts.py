"""What the extension makes of /proc/self/mountinfo and of the storage below a mount."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from quiesce.guest.mounts import (
    mount_of_path,
    parse_mountinfo,
    printable,
    read_mounts,
    storage_of,
)

_LINE = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"


def _escape(name: bytes) -> bytes:
    """As the kernel does (fs/proc_namespace.c, mangle)."""
    for char in (b"\\", b" ", b"\t", b"\n", b"#"):
        name = name.replace(char, b"\\%03o" % char[0])
    return name


def test_the_example_of_the_kernels_documentation_is_understood() -> None:
    (mount,) = parse_mountinfo(_LINE)
    assert (mount.id, mount.parent, mount.device) == (36, 35, "98:0")
    assert (mount.root, mount.point) == ("/mnt1", "/mnt2")
    assert (mount.file_system, mount.source, mount.read_only) == ("ext3", "/dev/root", False)


def test_a_read_only_bind_mount_of_a_writable_file_system_counts_as_writable() -> None:
    bind = b"36 35 8:1 / /ro ro - ext4 /dev/sda1 rw\n"
    file_system = b"37 35 8:2 / /all-ro rw - ext4 /dev/sda2 ro\n"
    assert [m.read_only for m in parse_mountinfo(bind + file_system)] == [False, True]


@given(st.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name))
def test_every_name_that_the_kernel_can_show_comes_back_unchanged(name: bytes) -> None:
    line = b"1 0 8:1 / /" + _escape(name) + b" rw - ext4 " + _escape(name) + b" rw\n"
    (mount,) = parse_mountinfo(line)
    assert os.fsencode(mount.point) == b"/" + name
    assert os.fsencode(mount.source) == name


@given(st.binary(max_size=2000))
def test_no_text_breaks_the_parser_or_its_names(text: bytes) -> None:
    for mount in parse_mountinfo(text + b"\n" + _LINE + text):
        printable(mount.point).encode("utf-8")
        assert printable(mount.point).isprintable()


def test_the_mounts_of_this_machine_hold_a_root() -> None:
    assert any(mount.point == "/" for mount in read_mounts())


def test_a_path_lies_on_the_innermost_and_latest_mount() -> None:
    mounts = parse_mountinfo(
        b"1 0 8:1 / / rw - ext4 a rw\n2 1 8:2 / /data rw - ext4 b rw\n"
        b"3 2 8:3 / /data rw - ext4 c rw\n4 1 8:4 / /database rw - ext4 d rw\n"
    )

    def device_of(path: str) -> str:
        found = mount_of_path(path, mounts)
        assert found is not None
        return found.device

    assert device_of("/data/x") == "8:3"
    assert device_of("/database") == "8:4"
    assert device_of("/dat") == "8:1"


def _device(sysfs: Path, number: str, folder: str) -> Path:
    device = sysfs / "devices" / folder
    device.mkdir(parents=True, exist_ok=True)
    link = sysfs / "dev/block" / number
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(device)
    return device


def test_a_loop_file_is_found_below_a_partition_and_a_device_mapper_device(tmp_path: Path) -> None:
    loop = _device(tmp_path, "7:0", "loop0")
    (loop / "loop").mkdir()
    (loop / "loop/backing_file").write_text("/srv/disk image.raw\n")
    part = _device(tmp_path, "259:0", "loop0/loop0p1")
    (part / "partition").write_text("1\n")
    mapper = _device(tmp_path, "253:0", "dm-0")
    (mapper / "slaves").mkdir()
    (mapper / "slaves/loop0p1").symlink_to(part)
    (mapper / "dm").mkdir()
    (mapper / "dm/suspended").write_text("1\n")
    (mapper / "dm/name").write_text("vg-lv\n")
    (mount,) = parse_mountinfo(b"1 0 253:0 / /x rw - ext4 /dev/mapper/vg-lv rw\n")
    storage = storage_of(mount, str(tmp_path))
    assert storage.loop_files == {"/srv/disk image.raw"}
    assert storage.suspended == "vg-lv"
