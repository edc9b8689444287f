"""The recipe decides an image's name, and what lands in the guest."""

from __future__ import annotations

import io
import re
import tarfile
from dataclasses import replace

import pytest

from quiesce.lab.image import load_order
from quiesce.lab.recipe import Recipe


def test_same_recipe_names_the_same_image() -> None:
    assert Recipe().content_hash() == Recipe().content_hash()
    assert re.fullmatch(r"[0-9a-f]{16}", Recipe().content_hash())


@pytest.mark.parametrize(
    "changed",
    [
        replace(Recipe(), packages=(*Recipe().packages, "vim")),
        replace(Recipe(), files=Recipe().files | {"etc/motd": "hello"}),
        replace(Recipe(), masked_units=Recipe().masked_units[1:]),
        replace(Recipe(), init=Recipe().init + "#"),
        replace(Recipe(), suite="trixie"),
        replace(Recipe(), revision=Recipe().revision + 1),
    ],
    ids=["package", "file", "mask", "init", "suite", "revision"],
)
def test_any_change_of_the_recipe_names_another_image(changed: Recipe) -> None:
    assert changed.content_hash() != Recipe().content_hash()


def test_files_and_masks_reach_the_guest_owned_by_root() -> None:
    recipe = Recipe(files={"etc/motd": "grüß"}, masked_units=("noise.timer",))
    with tarfile.open(fileobj=io.BytesIO(recipe.files_tar())) as tar:
        members = {member.name: member for member in tar.getmembers()}
        text = tar.extractfile("./etc/motd")
        assert text is not None
        assert text.read().decode() == "grüß"
    assert members["./etc/systemd/system/noise.timer"].linkname == "/dev/null"
    assert {(member.uid, member.gid) for member in members.values()} == {(0, 0)}


def test_waagent_and_guest_agent_are_in_the_guest_and_only_the_latter_runs() -> None:
    recipe = Recipe()
    assert {"waagent", "qemu-guest-agent", "kmod", "python3"} <= set(recipe.packages)
    assert "walinuxagent.service" in recipe.masked_units
    assert not any("qemu-guest-agent" in unit for unit in recipe.masked_units)


def test_modules_load_after_what_they_need() -> None:
    modules_dep = (
        "kernel/virtio/virtio_pci.ko: kernel/virtio/legacy.ko kernel/virtio/ring.ko\n"
        "kernel/virtio/legacy.ko: kernel/virtio/ring.ko\n"
        "kernel/virtio/ring.ko:\n"
        "kernel/block/virtio-blk.ko.xz: kernel/virtio/ring.ko\n"
    )
    assert load_order(modules_dep, ("virtio_pci", "virtio_blk")) == [
        "kernel/virtio/ring.ko",
        "kernel/virtio/legacy.ko",
        "kernel/virtio/virtio_pci.ko",
        "kernel/block/virtio-blk.ko.xz",
    ]


def test_modules_built_into_the_kernel_are_not_asked_for() -> None:
    assert load_order("kernel/a.ko:\n", ("a", "ext4")) == ["kernel/a.ko"]
