"""Which mounts are frozen, in which order, and why the others are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiesce.guest.mounts import Mount, Storage
from quiesce.guest.plan import Decision, Wishes, plan

ROOT = Mount(1, 0, "8:1", "/", "/", "ext4", "/dev/sda1", False)


def _mount(number: int, point: str, kind: str = "ext4", **changes: object) -> Mount:
    made = Mount(number, 1, f"8:{number}", "/", point, kind, f"/dev/sd{number}", False)
    return made._replace(**changes)  # type: ignore[arg-type]


def _plan(*mounts: Mount, wishes: Wishes | None = None, **loops: str) -> list[Decision]:
    files = {point.replace("_", "/"): path for point, path in loops.items()}

    def storage(mount: Mount) -> Storage:
        path = files.get(mount.point)
        return Storage(frozenset([path] if path else []))

    return plan([ROOT, *mounts], storage, wishes or Wishes())


def _frozen(decisions: list[Decision]) -> list[str]:
    return [one.mount.point for one in decisions if one.freeze]


def _of(point: str, decisions: list[Decision]) -> Decision:
    return next(one for one in decisions if one.mount.point == point)


def test_the_innermost_mount_is_frozen_first_and_the_root_last() -> None:
    decisions = _plan(_mount(2, "/var"), _mount(3, "/var/lib/db", "xfs"), _mount(4, "/home"))
    assert _frozen(decisions) == ["/var/lib/db", "/home", "/var", "/"]


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuse"])
def test_remote_and_fuse_mounts_are_never_frozen_and_cost_no_consistency(kind: str) -> None:
    one = _of("/mnt", _plan(_mount(2, "/mnt", kind, device="0:50")))
    assert not one.freeze
    assert not one.downgrades


@pytest.mark.parametrize("kind", ["tmpfs", "proc", "overlay", "devtmpfs", "cgroup2"])
def test_what_is_not_on_a_disk_is_left_out_and_costs_no_consistency(kind: str) -> None:
    one = _of("/mnt", _plan(_mount(2, "/mnt", kind, device="0:50")))
    assert not one.freeze
    assert not one.downgrades


@pytest.mark.parametrize("kind", ["vfat", "exfat", "fuseblk", "zfs", "gfs2", "brandnewfs"])
def test_a_writable_local_file_system_that_cannot_be_frozen_costs_consistency(kind: str) -> None:
    one = _of("/mnt", _plan(_mount(2, "/mnt", kind)))
    assert not one.freeze
    assert one.downgrades


@pytest.mark.parametrize(
    ("kind", "device", "watched"),
    [
        ("vfat", "8:2", True),
        ("exfat", "8:2", True),
        ("brandnewfs", "8:2", True),
        ("fuseblk", "8:2", False),
        ("zfs", "0:50", False),
        ("gfs2", "8:2", False),
    ],
)
def test_one_that_cannot_be_frozen_is_watched_where_its_device_counts_all_writes(
    kind: str, device: str, watched: bool
) -> None:
    one = _of("/mnt", _plan(_mount(2, "/mnt", kind, device=device)))
    assert one.action == ("watch" if watched else "skip")
    assert one.downgrades


@pytest.mark.parametrize(
    "wishes", [Wishes(skip=("/mnt",)), Wishes(only=("/",)), Wishes(none="fsfreeze is False")]
)
def test_one_that_is_to_be_left_alone_is_not_even_flushed(wishes: Wishes) -> None:
    one = _of("/mnt", _plan(_mount(2, "/mnt", "vfat"), wishes=wishes))
    assert one.action == "skip"
    assert one.downgrades


def test_one_on_a_suspended_device_is_not_flushed_since_that_would_never_end() -> None:
    vfat = _mount(2, "/mnt", "vfat")
    decisions = plan([vfat], lambda mount: Storage(suspended="vg-lv"), Wishes())
    assert decisions[0].action == "skip"


@pytest.mark.parametrize("kind", ["ext4", "squashfs", "iso9660", "vfat"])
def test_a_read_only_file_system_is_left_out_and_costs_no_consistency(kind: str) -> None:
    one = _of("/mnt", _plan(_mount(2, "/mnt", kind, read_only=True)))
    assert not one.freeze
    assert not one.downgrades


def test_a_file_system_mounted_twice_is_frozen_once_and_the_twin_names_it() -> None:
    bind = _mount(3, "/srv/www", device="8:2", root="/www")
    decisions = _plan(_mount(2, "/data"), bind)
    assert _frozen(decisions) == ["/data", "/"]
    assert _of("/srv/www", decisions).reason == "the same file system as /data"
    assert not _of("/srv/www", decisions).downgrades


def test_two_subvolumes_of_one_btrfs_are_frozen_once() -> None:
    home = _mount(2, "/home", "btrfs", device="0:40", root="/@home")
    data = _mount(3, "/data", "btrfs", device="0:40", root="/@data")
    assert _frozen(_plan(home, data)) in (["/home", "/"], ["/data", "/"])


def test_a_loop_file_system_is_frozen_before_the_one_that_holds_its_file() -> None:
    """By depth alone, /srv/images would come first, and the loop's freeze would hang on it."""
    decisions = _plan(
        _mount(2, "/srv/images"), _mount(3, "/loop", "xfs"), _loop="/srv/images/disk.raw"
    )
    assert _frozen(decisions) == ["/loop", "/srv/images", "/"]


def test_file_systems_that_hold_each_others_loop_files_are_skipped() -> None:
    decisions = _plan(_mount(2, "/a"), _mount(3, "/b"), _a="/b/file", _b="/a/file")
    assert _frozen(decisions) == ["/"]
    assert _of("/a", decisions).downgrades


def test_a_wanted_skip_costs_consistency_by_any_of_its_names() -> None:
    bind = _mount(3, "/srv/www", device="8:2", root="/www")
    decisions = _plan(_mount(2, "/data"), bind, wishes=Wishes(skip=("/srv/www/",)))
    assert _frozen(decisions) == ["/"]
    assert _of("/data", decisions).reason == "skipped on request"
    assert _of("/data", decisions).downgrades


def test_only_freezes_nothing_else() -> None:
    decisions = _plan(_mount(2, "/data"), wishes=Wishes(only=("/data",)))
    assert _frozen(decisions) == ["/data"]
    assert _frozen(_plan(_mount(2, "/data"), wishes=Wishes(only=()))) == []


def test_a_suspended_device_is_not_frozen_since_that_would_never_end() -> None:
    decisions = plan([ROOT], lambda mount: Storage(suspended="vg-lv"), Wishes())
    assert _frozen(decisions) == []
    assert decisions[0].reason == "its device vg-lv is suspended"


def test_a_local_mount_below_a_remote_one_is_not_even_opened() -> None:
    remote = _mount(2, "/net", "nfs4", device="0:60")
    below = _mount(3, "/net/scratch", parent=2)
    one = _of("/net/scratch", _plan(remote, below))
    assert not one.freeze
    assert one.downgrades


def test_a_hidden_mount_is_reached_by_the_other_path_of_its_file_system() -> None:
    hidden = _mount(2, "/data")
    seen = _mount(3, "/bind", device="8:2", root="/sub")
    cover = _mount(4, "/data", "tmpfs", device="0:61", parent=2)
    assert _frozen(_plan(hidden, seen, cover)) == ["/bind", "/"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["/a", "/a/b", "/c", "/c/d/e", "/f g", "/\udcff"]),
            st.sampled_from(["ext4", "xfs", "btrfs", "nfs", "tmpfs", "vfat", "odd"]),
            st.integers(1, 4),
            st.booleans(),
            st.sampled_from(["", "/a/file", "/c/d/e/file", "/file"]),
        ),
        max_size=8,
    )
)
def test_whatever_is_mounted_no_file_system_is_frozen_twice_or_above_its_loop(
    found: list[tuple[str, str, int, bool, str]],
) -> None:
    mounts = [ROOT]
    files: dict[str, str] = {}
    for index, (point, kind, minor, read_only, file) in enumerate(found):
        mounts.append(Mount(index + 2, 1, f"9:{minor}", "/", point, kind, "x", read_only))
        files[f"9:{minor}"] = file

    def storage(mount: Mount) -> Storage:
        file = files.get(mount.device)
        return Storage(frozenset([file] if file else []))

    decisions = plan(mounts, storage, Wishes())
    devices = [one.mount.device for one in decisions if one.freeze]
    assert len(set(devices)) == len(devices)
    assert len(decisions) == len(mounts)
    assert all(one.mount.file_system in ("ext4", "xfs", "btrfs") for one in decisions if one.freeze)
    if "8:1" in devices:
        assert devices[-1] == "8:1" or files.get(devices[-1]) == ""
