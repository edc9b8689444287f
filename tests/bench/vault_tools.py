"""Quiesce and its peers: the steps that each can do, as commands.

A tool gets a `Lap`: an empty folder, the disks, and `step`, which measures one command.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vault_data import Disks
from vault_measure import Cost, evict, measure, occupied

HERE = Path(__file__).parent
CORES = len(os.sched_getaffinity(0))
SIBLINGS = ("cloned", "reinstalled")


@dataclass
class Lap:
    """One tool in one round. Before each step its inputs are taken out of the page cache, so that
    all tools read from the disk."""

    disks: Disks
    folder: Path
    siblings: bool
    """Whether to back up the sibling VMs, too: once is enough, what counts is their size."""
    costs: dict[str, Cost] = field(default_factory=dict)
    stored: dict[str, int] = field(default_factory=dict)
    """Bytes occupied after each image, by image."""

    def step(
        self, name: str, *command: str | Path, results: Sequence[Path] = (),
        env: dict[str, str] | None = None, cwd: Path | None = None,
    ) -> None:  # fmt: skip
        evict([*self.disks.images.values(), self.folder])
        self.costs[name] = measure(command, results=results, env=env, cwd=cwd)

    def same(self, restored: Path, image: str) -> None:
        """The restored raw file has the bytes of that image; then it is removed.

        :raise subprocess.CalledProcessError: it has not
        """
        subprocess.run(["cmp", restored, self.disks.images[image]], check=True)
        restored.unlink()

    def same_qcow2(self, restored: Path, image: str) -> None:
        command = ("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw")
        subprocess.run([*command, restored, self.disks.images[image]], check=True)
        restored.unlink()

    def images_after_first(self) -> tuple[str, ...]:
        return ("v2", "v3", *(SIBLINGS if self.siblings else ()))


def quiesce(lap: Lap) -> None:
    vault, twin, out = lap.folder / "vault", lap.folder / "twin", lap.folder / "out"
    key_file = {"QUIESCE_BENCH_KEY_FILE": str(lap.folder / "key")}
    passphrase = key_file | {"QUIESCE_BENCH_PASSPHRASE": "p"}

    def step(
        name: str, *words: str | Path, results: Sequence[Path] = (), env: dict[str, str] = key_file
    ) -> None:
        lap.step(name, sys.executable, HERE / "quiesce_once.py", *words, results=results, env=env)

    def backup(name: str, image: str, *more: str | Path, into: Path = vault) -> None:
        # A sibling is another VM of the same vault.
        vm = image if image in SIBLINGS else "vm"
        step(name, "backup", into, lap.disks.images[image], vm, image, *more, results=[into])

    step("create", "create", vault, env=passphrase)
    backup("full", "v1")
    lap.stored["v1"] = occupied(vault) - reserve(vault)
    shutil.copytree(vault, twin, copy_function=os.link)
    step("restore", "restore", vault, "v1", out)
    lap.same(out, "v1")
    step("restore qcow2", "restore", vault, "v1", out, "--format", "qcow2")
    lap.same_qcow2(out, "v1")
    for image in lap.images_after_first():
        backup(f"rescan {image}", image)
        lap.stored[image] = occupied(vault) - reserve(vault)
        if image == "v2":
            step("verify", "verify", vault, "chunks")
            step("verify without key", "verify", vault, "no-key")
            step("start", "list", vault)
            step("start by passphrase", "list", vault, env=passphrase)
    for base, image in (("v1", "v2"), ("v2", "v3")):
        changes = lap.disks.changes[image]
        backup(f"list {image}", image, "--changes", changes, "--base", base, into=twin)
    for image, part in (("v2", vault), ("v3", twin)):
        step(f"restore {image}", "restore", part, image, out)
        lap.same(out, image)


def reserve(vault: Path) -> int:
    """Empty space that a vault keeps back is not what a point takes."""
    kept = vault / "reserve"
    return kept.stat().st_size if kept.exists() else 0


def restic(lap: Lap) -> None:
    repo, out = lap.folder / "repo", lap.folder / "out"
    env = {"RESTIC_PASSWORD": "p", "RESTIC_CACHE_DIR": str(lap.folder / "cache")}

    def step(name: str, *words: str | Path, results: Sequence[Path] = ()) -> None:
        lap.step(name, "restic", "-q", "-r", repo, *words, results=results, env=env)

    step("create", "init")
    step("full", "backup", lap.disks.images["v1"], results=[repo])
    lap.stored["v1"] = occupied(repo)
    step("restore", "restore", "latest", "--target", out, results=[out])
    lap.same(out / str(lap.disks.images["v1"])[1:], "v1")
    for image in lap.images_after_first():
        step(f"rescan {image}", "backup", lap.disks.images[image], results=[repo])
        lap.stored[image] = occupied(repo)
        if image == "v2":
            step("verify", "check", "--read-data")
            step("start", "snapshots")


def borg(lap: Lap, *chunker: str) -> None:
    repo, out = lap.folder / "repo", lap.folder / "out"
    out.mkdir()
    env = {"BORG_PASSPHRASE": "p", "BORG_BASE_DIR": str(lap.folder / "home")}

    def step(name: str, *words: str | Path, results: Sequence[Path] = ()) -> None:
        lap.step(name, "borg", *words, results=results, env=env, cwd=out)

    def backup(name: str, image: str) -> None:
        words = ("create", "--compression", "zstd,1", *chunker, f"{repo}::{image}")
        step(name, *words, lap.disks.images[image], results=[repo])
        lap.stored[image] = occupied(repo)

    step("create", "init", "--encryption", "repokey-blake2", repo)
    backup("full", "v1")
    step("restore", "extract", "--sparse", f"{repo}::v1", results=[out])
    lap.same(out / str(lap.disks.images["v1"])[1:], "v1")
    for image in lap.images_after_first():
        backup(f"rescan {image}", image)
        if image == "v2":
            step("verify", "check", "--verify-data", repo)
            step("verify without key", "check", "--repository-only", repo)
            step("start", "list", repo)


def borg_fixed(lap: Lap) -> None:
    borg(lap, "--chunker-params", "fixed,4194304", "--sparse")


def casync(lap: Lap) -> None:
    store, out = lap.folder / "store.castr", lap.folder / "out.raw"

    def backup(name: str, image: str) -> None:
        index = lap.folder / f"{image}.caibx"
        words = ("make", f"--store={store}", "--compression=zstd", index)
        lap.step(name, "casync", *words, lap.disks.images[image], results=[store, index])
        lap.stored[image] = occupied(store) + index.stat().st_size

    backup("full", "v1")
    words = ("extract", f"--store={store}", lap.folder / "v1.caibx", out)
    lap.step("restore", "casync", *words, results=[out])
    lap.same(out, "v1")
    for image in lap.images_after_first():
        backup(f"rescan {image}", image)


def qemu_img(lap: Lap) -> None:
    packed, out = lap.folder / "packed", lap.folder / "out"
    convert = ("qemu-img", "convert", "-m", "16", "-W")
    zstd = ("-f", "raw", "-O", "qcow2", "-c", "-o", "compression_type=zstd")
    lap.step("full", *convert, *zstd, lap.disks.images["v1"], packed, results=[packed])
    lap.stored["v1"] = occupied(packed)
    lap.step("restore", *convert, "-O", "raw", packed, out, results=[out])
    lap.same(out, "v1")
    lap.step("restore qcow2", *convert, "-O", "qcow2", packed, out, results=[out])
    lap.same_qcow2(out, "v1")


def zstd(lap: Lap) -> None:
    packed, out = lap.folder / "packed", lap.folder / "out"
    words = ("-q", "-1", f"-T{CORES}", lap.disks.images["v1"], "-o", packed)
    lap.step("full", "zstd", *words, results=[packed])
    lap.stored["v1"] = occupied(packed)
    lap.step("restore", "zstd", "-q", "-d", "--sparse", packed, "-o", out, results=[out])
    lap.same(out, "v1")


def cp(lap: Lap) -> None:
    out = lap.folder / "copy"
    words = ("--sparse=always", "--reflink=never", lap.disks.images["v1"], out)
    lap.step("full", "cp", *words, results=[out])
    lap.stored["v1"] = lap.disks.data_bytes


def limits(lap: Lap) -> None:
    image, out = lap.disks.images["v1"], lap.folder / "out"
    for name in ("read", "zstd"):
        lap.step(name, sys.executable, HERE / "raw_limits.py", name, image)
    for name in ("write", "move"):
        lap.step(name, sys.executable, HERE / "raw_limits.py", name, image, out)
        out.unlink()


def work_seconds(cost: Cost) -> float:
    """Of a script that says how long its own work took, without the start of Python."""
    return float(json.loads(cost.said.splitlines()[-1])["work_seconds"])


TOOLS: dict[str, Callable[[Lap], None]] = {
    "Quiesce": quiesce,
    "restic": restic,
    "borg": borg,
    "borg fixed": borg_fixed,
    "casync": casync,
    "qemu-img zstd": qemu_img,
    "zstd -1": zstd,
    "cp": cp,
    "limit": limits,
}
