"""Builds the guest's image: root disk, data disks, kernel and a small initrd, cached by content.

Needs no network but the machine's own apt sources, no loop device, and as an ordinary user only
what `mmdebstrap` needs to unshare. The folder of an image holds

    vmlinuz  initrd  root.qcow2  image.json  [data-xfs/disk.qcow2]  [data-btrfs/disk.qcow2]
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from quiesce.lab.cache import cache_folder, made_once
from quiesce.lab.recipe import Recipe
from quiesce.lab.tool import run_tool

DATA_DISK_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class Image:
    """A built image. Its files are shared by all guests and written by none."""

    folder: Path

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd"

    @property
    def root_disk(self) -> Path:
        return self.folder / "root.qcow2"

    def data_disk(self, file_system: str) -> Path:
        """An empty data disk of a file system, `xfs` or `btrfs`; made at the first call, since
        only guests with data disks need the machine to have that file system's tools."""
        folder = self.folder / f"data-{file_system}"
        return (
            made_once(folder, lambda temporary: _data_disk(file_system, temporary)) / "disk.qcow2"
        )

    @property
    def name(self) -> str:
        return self.folder.name


def built_image(recipe: Recipe | None = None) -> Image:
    """The image of a recipe (the lab's own by default), built now if it is not in the cache.

    Takes about half a minute the first time. Raises LabFailure `lab.tool-missing`,
    `lab.tool-failed`.
    """
    recipe = recipe or Recipe()
    folder = cache_folder() / recipe.content_hash()
    return Image(made_once(folder, lambda temporary: _build(recipe, temporary)))


def _build(recipe: Recipe, folder: Path) -> None:
    started = time.monotonic()
    work = folder / "work"
    root = work / "root"
    root.mkdir(parents=True)
    _bootstrap(recipe, work)
    root_raw = work / "root.raw"
    with root_raw.open("wb") as file:
        file.truncate(recipe.root_bytes)
    unpack_and_format = (
        "tar -xpf root.tar -C root --exclude='./boot/initrd*' && "
        "mke2fs -q -t ext4 -L lab-root -E lazy_itable_init=0,nodiscard -d root root.raw"
    )
    # fakeroot lets an ordinary user keep the files' owners between tar and mke2fs.
    as_root = [] if os.geteuid() == 0 else ["fakeroot"]
    run_tool([*as_root, "sh", "-c", unpack_and_format], folder=work)
    kernel = next((root / "boot").glob("vmlinuz-*"))
    shutil.copyfile(kernel, folder / "vmlinuz")
    release = kernel.name.removeprefix("vmlinuz-")
    _write_initrd(recipe, root, release, work / "initrd", folder / "initrd")
    _to_qcow2(root_raw, folder / "root.qcow2")
    (folder / "image.json").write_text(
        json.dumps(
            {
                "recipe": recipe.content_hash(),
                "suite": recipe.suite,
                "kernel": release,
                "build_seconds": round(time.monotonic() - started, 1),
            },
            indent=2,
        )
        + "\n"
    )
    # Owned by root with odd modes here and there; an ordinary user owns it all the same.
    run_tool(["sh", "-c", "chmod -R u+rwX work && rm -rf work"], folder=folder)


def _bootstrap(recipe: Recipe, work: Path) -> None:
    files = work / "files.tar"
    files.write_bytes(recipe.files_tar())
    argv = [
        "mmdebstrap",
        "--quiet",
        "--variant=essential",
        f"--architectures={recipe.architecture}",
        f"--include={','.join(recipe.packages)}",
        '--aptopt=Apt::Install-Recommends "false"',
        *(f"--dpkgopt=path-exclude={path}" for path in recipe.left_out),
        f"--customize-hook=tar-in {shlex.quote(str(files))} /",
        recipe.suite,
        str(work / "root.tar"),
    ]
    sources = apt_sources(recipe.suite)
    if sources:
        list_file = work / "sources.list"
        list_file.write_text("".join(f"{line}\n" for line in sources))
        argv.append(str(list_file))
    run_tool(argv, timeout_seconds=1800.0)


def apt_sources(suite: str) -> list[str]:
    """The machine's own apt sources that hold `suite`, as lines for sources.list.

    apt itself is asked, so `.list` and `.sources` files, mirrors and `Enabled: no` are honoured.
    Other vendors' repositories are left out. Empty where the machine has none for that suite (an
    Ubuntu machine, say); mmdebstrap then uses its built-in one.
    """
    wanted = {suite, f"{suite}-updates", f"{suite}-security"}
    listed = run_tool(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE) $(COMPONENT)",
            "Created-By: Packages",
        ]
    )
    sources = []
    for line in listed.splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[1] in wanted and fields[2] == "main":
            sources.append(f"deb {line}")
    has_base = any(line.split()[2] == suite for line in sources)
    return list(dict.fromkeys(sources)) if has_base else []


def _write_initrd(recipe: Recipe, root: Path, release: str, tree: Path, target: Path) -> None:
    """An initrd that holds busybox and the few modules needed to mount the root disk."""
    modules_folder = root / "usr/lib/modules" / release
    for name in ("bin", "dev", "proc", "root", "modules"):
        (tree / name).mkdir(parents=True)
    shutil.copyfile(root / "usr/bin/busybox", tree / "bin/busybox")
    (tree / "bin/busybox").chmod(0o755)
    order = load_order((modules_folder / "modules.dep").read_text(), recipe.initrd_modules)
    for path in order:
        shutil.copyfile(modules_folder / path, tree / "modules" / Path(path).name)
    (tree / "modules/order").write_text("".join(f"{Path(path).name}\n" for path in order))
    (tree / "init").write_text(recipe.init)
    (tree / "init").chmod(0o755)
    # The guest's own static busybox does it, so the machine needs no cpio.
    pack = f"find . | bin/busybox cpio -o -H newc -R 0:0 > {shlex.quote(str(target))}"
    run_tool(["sh", "-c", pack], folder=tree)


def load_order(modules_dep: str, wanted: tuple[str, ...]) -> list[str]:
    """Paths of the wanted modules and what they need, in the order to load them in.

    `modules_dep` is the text of depmod's file; each line names a module and all that it needs,
    nearest first. Names that it does not list are built into the kernel and left out.
    """
    needs: dict[str, list[str]] = {}
    path_of: dict[str, str] = {}
    for line in modules_dep.splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
        path_of[Path(path).name.split(".")[0].replace("-", "_")] = path
    ordered: dict[str, None] = {}
    for name in wanted:
        if name in path_of:
            for path in [*reversed(needs[path_of[name]]), path_of[name]]:
                ordered.setdefault(path)
    return list(ordered)


def _data_disk(file_system: str, folder: Path) -> None:
    raw = folder / "disk.raw"
    with raw.open("wb") as file:
        file.truncate(DATA_DISK_BYTES)
    run_tool([f"mkfs.{file_system}", "-q", "-L", f"lab-{file_system}", str(raw)])
    _to_qcow2(raw, folder / "disk.qcow2")


def _to_qcow2(raw: Path, target: Path) -> None:
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", "compat=1.1"]
    run_tool([*convert, str(raw), str(target)])
    raw.unlink()
    target.chmod(0o444)
