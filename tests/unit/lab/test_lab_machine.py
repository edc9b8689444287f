"""A guest's hardware as QEMU is told of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from quiesce.lab.machine import DiskFile, GuestFiles, Hardware, Machine, state_key
from quiesce.model.failure import LabFailure

TWO_DISKS = Machine(
    hardware=Hardware(),
    kernel=Path("/image/vmlinuz"),
    initrd=Path("/image/initrd"),
    files=GuestFiles(Path("/run/one")),
    disks={
        "vda": DiskFile(Path("/run/one/vda.qcow2")),
        "vdb": DiskFile(Path("/run/one/b, with comma.img"), "raw"),
    },
)


def values(command: list[str], option: str) -> list[str]:
    return [command[i + 1] for i, word in enumerate(command) if word == option]


def test_each_disk_has_its_name_as_device_id_and_in_its_nodes() -> None:
    command = TWO_DISKS.command()
    nodes = [json.loads(text) for text in values(command, "-blockdev")]
    assert [node["node-name"] for node in nodes] == [
        "file-vda",
        "disk-vda",
        "file-vdb",
        "disk-vdb",
    ]
    assert [node["driver"] for node in nodes] == ["file", "qcow2", "file", "raw"]
    assert nodes[2]["filename"] == "/run/one/b, with comma.img"
    devices = [text for text in values(command, "-device") if text.startswith("virtio-blk")]
    assert devices == [
        "virtio-blk-pci,id=vda,drive=disk-vda,serial=lab-vda",
        "virtio-blk-pci,id=vdb,drive=disk-vdb,serial=lab-vdb",
    ]


def test_quiesce_and_the_lab_have_a_monitor_each() -> None:
    command = TWO_DISKS.command()
    assert values(command, "-mon") == ["chardev=qmp,mode=control", "chardev=monitor,mode=control"]
    sockets = [text for text in values(command, "-chardev") if text.startswith("socket")]
    assert [text.split("path=")[1].split(",")[0] for text in sockets] == [
        "/run/one/qmp.sock",
        "/run/one/monitor.sock",
        "/run/one/qga.sock",
    ]


def test_guest_has_no_network_and_nothing_it_was_not_given() -> None:
    command = TWO_DISKS.command()
    assert {"-nodefaults", "-no-user-config"} <= set(command)
    assert not {"-netdev", "-net", "-nic"} & set(command)


def test_only_a_resumed_guest_has_an_incoming_state() -> None:
    assert "-incoming" not in TWO_DISKS.command()
    resumed = replace(TWO_DISKS, saved_state=Path("/cache/state.zst"))
    assert values(resumed.command(), "-incoming") == ["exec:zstd -qdc /cache/state.zst"]


def test_saved_state_with_a_blank_in_its_path_is_quoted_for_the_shell() -> None:
    resumed = replace(TWO_DISKS, saved_state=Path("/my cache/state.zst"))
    assert values(resumed.command(), "-incoming") == ["exec:zstd -qdc '/my cache/state.zst'"]


def test_processor_follows_the_accelerator() -> None:
    assert values(TWO_DISKS.command(), "-cpu") == ["max"]
    on_kvm = replace(TWO_DISKS, hardware=Hardware(accelerator="kvm"))
    assert values(on_kvm.command(), "-cpu") == ["host"]


def test_folder_too_deep_for_unix_sockets_is_refused_by_name() -> None:
    deep = Path("/tmp") / ("d" * 90)
    with pytest.raises(LabFailure) as refused:
        GuestFiles(deep).check()
    assert refused.value.code == "lab.path-too-long"
    assert str(deep) in refused.value.message


def test_state_is_saved_anew_for_everything_it_depends_on() -> None:
    hardware = Hardware()
    keys = {
        state_key("image", "one-disk", hardware, "7.2"),
        state_key("other", "one-disk", hardware, "7.2"),
        state_key("image", "three-disks", hardware, "7.2"),
        state_key("image", "one-disk", replace(hardware, memory_mib=1024), "7.2"),
        state_key("image", "one-disk", replace(hardware, cpus=2), "7.2"),
        state_key("image", "one-disk", replace(hardware, accelerator="kvm"), "7.2"),
        state_key("image", "one-disk", hardware, "8.0"),
    }
    assert len(keys) == 7
