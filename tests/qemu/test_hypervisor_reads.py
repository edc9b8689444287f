"""What QEMU 7.2 gets wrong about a point that is read while the guest writes, and Quiesce does not.

Its snapshot-access driver answers a read that begins in an overwritten cluster and ends in an
untouched one with the new content, and tells such ranges' allocation from the live disk.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from bare_qemu import KIB, MIB, data_ranges, make_image, read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_hypervisor_snapshot import T1, Bare, point

CLUSTER = 64 * KIB


def test_a_long_read_over_overwritten_and_untouched_clusters_is_all_of_the_point(
    bare: Bare,
) -> None:
    qemu = bare().start()
    qemu.write("vda", 0, 4 * MIB, 0x11)
    [disk] = point(qemu.vm(), T1).disks
    for cluster in (0, 1, 5, 16, 40):
        qemu.write("vda", cluster * CLUSTER, CLUSTER, 0x22)
    assert read(disk, 0, 4 * MIB) == b"\x11" * (4 * MIB)
    assert read(disk, 8 * KIB, 2 * MIB) == b"\x11" * (2 * MIB)


def test_what_the_guest_trims_after_the_point_is_still_read(bare: Bare) -> None:
    qemu = bare().start()
    qemu.write("vda", 0, 4 * MIB, 0x11)
    [disk] = point(qemu.vm(), T1).disks
    qemu.io("vda", "discard 0 1M")
    qemu.io("vda", "write -z -u 2M 512k")
    assert data_ranges(disk) == [(0, 4 * MIB)]
    assert read(disk, 0, 4 * MIB) == b"\x11" * (4 * MIB)


def test_holes_of_an_image_over_a_backing_file_do_not_travel(bare: Bare, tmp_path: Path) -> None:
    backing = make_image(tmp_path / "backing.qcow2", 64 * MIB)
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write -P 5 0 1M", str(backing)],
        check=True,
        capture_output=True,
    )
    qemu = bare(options=f"backing_file={backing},backing_fmt=qcow2").start()
    qemu.write("vda", 8 * MIB, MIB, 0x11)
    [disk] = point(qemu.vm(), T1).disks
    assert data_ranges(disk) == [(0, MIB), (8 * MIB, MIB)]  # the backing file's, and its own


def test_any_mix_of_writes_and_trims_leaves_the_point_as_it_was(bare: Bare) -> None:
    qemu = bare().start()
    qemu.write("vda", 0, 2 * MIB, 0x11)
    [disk] = point(qemu.vm(), T1).disks

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["write -P 7", "discard", "write -z -u"]),
                st.integers(0, 63),
                st.integers(1, 8),
            ),
            max_size=4,
        ),
        st.integers(0, 31),
        st.integers(1, 32),
    )
    def holds(deeds: list[tuple[str, int, int]], first: int, count: int) -> None:
        for deed, cluster, clusters in deeds:
            qemu.io("vda", f"{deed} {cluster * CLUSTER} {clusters * CLUSTER}")
        assert (
            read(disk, first * CLUSTER, count * CLUSTER)
            == (b"\x11" * 2 * MIB + bytes(2 * MIB))[first * CLUSTER : (first + count) * CLUSTER]
        )
        assert sum(length for _, length in data_ranges(disk)) >= 2 * MIB

    holds()
