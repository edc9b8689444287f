"""Backup, increment, restore and verification beside restic, borg, qemu-img, zstd and cp.

    make bench-vault [QUICK=1]        or: bench_vault.py FOLDER [--mib 1024] [--rounds 3]

The data is real: an ext4 image filled with files of /usr, and a second version of it in which
2 % of the data, scattered, is replaced by other files. Every round runs every tool once, so that
whatever else the machine does hits all alike; the figure is the median. The image is in the page
cache for everyone, and every time ends when the result is on stable storage.

Quiesce runs in this process, as it does in its service; the others pay for their start and for
deriving their key, which the row "start alone" tells. FOLDER is emptied; it needs about eight
times the data's size.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import zstandard
from real_disk import MIB, Data, ListedSource, make_data, run

from quiesce.block.file import FileSource
from quiesce.block.image import open_target
from quiesce.model.extent import ExtentKind
from quiesce.model.snapshot import (
    Consistency,
    ConsistencyLabel,
    Route,
    SessionDisk,
    Snapshot,
    SnapshotSession,
)
from quiesce.transfer.backup import back_up
from quiesce.transfer.restore import restore_disk
from quiesce.vault import KeyFile, LocalStore, Vault

CORES = len(os.sched_getaffinity(0))
STEPS = (
    "full backup", "rescan, 2 % changed", "increment by change list", "restore",
    "verify every chunk", "verify without key", "start alone",
)  # fmt: skip
Sizes = dict[str, tuple[int, int]]
"""Bytes stored by tool: of the first version, and what the second one added."""


def timed(act: Callable[[], object]) -> float:
    os.sync()
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def occupied(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def quiesce(data: Data, folder: Path, sizes: Sizes) -> dict[str, float]:
    key = KeyFile.generate()
    vault = Vault.create(LocalStore.create(folder / "vault"), key)
    size = data.first.stat().st_size

    def save(into: Vault, image: Path, generation: str, base: str = "") -> str:
        disk = SessionDisk(
            "vda", size, image, "", generation=generation, base_generation=base,
            dirty_bitmap="listed" if base else None,
        )  # fmt: skip
        session = SnapshotSession(generation, datetime.now(UTC), Route.OFFLINE, (disk,))
        snapshot = Snapshot(session, ConsistencyLabel(Consistency.OFFLINE), None)
        source = ListedSource(image, data.changes) if base else FileSource(image)
        return back_up(snapshot, into.writer("vm", generation), lambda _: source).id

    took = {"full backup": timed(lambda: save(vault, data.first, "one"))}
    first = occupied(folder / "vault")
    shutil.copytree(folder / "vault", folder / "twin", copy_function=os.link)
    twin = Vault.open(LocalStore(folder / "twin"), key)
    took["rescan, 2 % changed"] = timed(lambda: save(vault, data.second, "two"))
    sizes["Quiesce"] = first, occupied(folder / "vault") - first
    took["increment by change list"] = timed(lambda: save(twin, data.second, "two", "one"))
    for part, image in ((vault, data.first), (twin, data.second)):
        target, point = folder / "restored", part.points()[0 if part is vault else -1]
        disk = open_target(target, size, "raw", overwrite=False)
        seconds = timed(lambda p=part, i=point.id, d=disk: restore_disk(p.reader(i, "vda"), d))  # type: ignore[misc]
        took.setdefault("restore", seconds)
        run("cmp", str(target), str(image))
        target.unlink()
    for step, mode in (("verify every chunk", "chunks"), ("verify without key", "packs")):
        took[step] = timed(lambda mode=mode: vault.verify(mode))  # type: ignore[misc]
    return took


def restic(data: Data, folder: Path, sizes: Sizes) -> dict[str, float]:
    env = {"RESTIC_PASSWORD": "p", "RESTIC_CACHE_DIR": str(folder / "cache")}

    def call(*words: str) -> Callable[[], None]:
        return lambda: run("restic", "-q", "-r", str(folder / "repo"), *words, **env)

    def restore() -> None:
        call("restore", "latest", "--target", str(folder / "out"))()
        os.sync()

    call("init")()
    took = {"full backup": timed(call("backup", str(data.first)))}
    first = occupied(folder / "repo")
    took["restore"] = timed(restore)
    took["verify every chunk"] = timed(call("check", "--read-data"))
    took["start alone"] = timed(call("snapshots"))
    took["rescan, 2 % changed"] = timed(call("backup", str(data.second)))
    sizes["restic"] = first, occupied(folder / "repo") - first
    return took


def borg(data: Data, folder: Path, sizes: Sizes) -> dict[str, float]:
    repo, out = str(folder / "repo"), folder / "out"
    out.mkdir(parents=True)
    env = {"BORG_PASSPHRASE": "p", "BORG_BASE_DIR": str(folder / "home")}

    def call(*words: str) -> Callable[[], None]:
        return lambda: run("borg", *words, **env)

    def extract() -> None:
        command = ["borg", "extract", "--sparse", f"{repo}::one"]
        subprocess.run(command, cwd=out, env=os.environ | env, check=True, capture_output=True)
        os.sync()

    def create(name: str, image: Path) -> Callable[[], None]:
        return call("create", "--compression", "zstd,1", f"{repo}::{name}", str(image))

    call("init", "--encryption", "repokey-blake2", repo)()
    took = {"full backup": timed(create("one", data.first))}
    first = occupied(Path(repo))
    took["restore"] = timed(extract)
    took["verify every chunk"] = timed(call("check", "--verify-data", repo))
    took["start alone"] = timed(call("list", repo))
    took["rescan, 2 % changed"] = timed(create("two", data.second))
    sizes["borg"] = first, occupied(Path(repo)) - first
    return took


def qemu_img(data: Data, folder: Path, sizes: Sizes) -> dict[str, float]:
    packed, out = str(folder / "packed"), str(folder / "out")
    convert = ("qemu-img", "convert", "-m", "16", "-W")
    zstd = ("-O", "qcow2", "-c", "-o", "compression_type=zstd")

    def full() -> None:
        run(*convert, "-f", "raw", *zstd, str(data.first), packed)
        run("sync", packed)

    def back() -> None:
        run(*convert, "-O", "raw", packed, out)
        run("sync", out)

    took = {"full backup": timed(full), "restore": timed(back)}
    sizes["qemu-img zstd"] = Path(packed).stat().st_size, 0
    return took


def zstd(data: Data, folder: Path, sizes: Sizes) -> dict[str, float]:
    packed, out = str(folder / "packed"), str(folder / "out")

    def full() -> None:
        run("zstd", "-q", "-1", f"-T{CORES}", str(data.first), "-o", packed)
        run("sync", packed)

    def back() -> None:
        run("zstd", "-q", "-d", "--sparse", packed, "-o", out)
        run("sync", out)

    took = {"full backup": timed(full), "restore": timed(back)}
    sizes["zstd -1"] = Path(packed).stat().st_size, 0
    return took


def cp(data: Data, folder: Path, sizes: Sizes) -> dict[str, float]:
    def full() -> None:
        run("cp", "--sparse=always", "--reflink=never", str(data.first), str(folder / "copy"))
        run("sync", str(folder / "copy"))

    sizes["cp"] = data.data_bytes, 0
    return {"full backup": timed(full)}


def limits(data: Data) -> dict[str, float]:
    """Seconds that nothing with our chunks and codec could beat: reading the data past the page
    cache, and compressing it in pieces of 128 KiB on all cores without doing anything else."""
    source = FileSource(data.first)
    parts = []
    for extent in source.extents():
        if extent.kind is ExtentKind.DATA:
            parts.append(bytearray(extent.length_bytes))
            source.read_into(extent.offset_bytes, memoryview(parts[-1]))
    views = [memoryview(p)[at : at + 131072] for p in parts for at in range(0, len(p), 131072)]

    def compress(mine: list[memoryview]) -> None:
        compressor = zstandard.ZstdCompressor(level=1)
        for view in mine:
            compressor.compress(view)

    def on_all_cores() -> None:
        with ThreadPoolExecutor(CORES) as pool:
            list(pool.map(compress, [views[n::CORES] for n in range(CORES)]))

    dd = ("dd", f"if={data.first}", "of=/dev/null", "bs=4M", "iflag=direct")
    count = f"count={data.data_bytes // (4 * MIB)}"
    return {"zstd-1": timed(on_all_cores), "O_DIRECT read": timed(lambda: run(*dd, count))}


TOOLS = {
    "Quiesce": quiesce, "restic": restic, "borg": borg, "qemu-img zstd": qemu_img,
    "zstd -1": zstd, "cp": cp,
}  # fmt: skip
Rounds = dict[str, dict[str, list[float]]]
Medians = dict[str, dict[str, float]]


def measure(data: Data, folder: Path, rounds: int) -> tuple[Rounds, Sizes]:
    """Seconds of every step of every tool, round by round; the limits as tool "limit"."""
    took: Rounds = {name: {} for name in (*TOOLS, "limit")}
    sizes: Sizes = {}
    for number in range(rounds):
        for name, tool in TOOLS.items():
            place = folder / "work"
            place.mkdir()
            run("sh", "-c", f"cat {data.first} {data.second} >/dev/null")
            print(f"round {number + 1} of {rounds}: {name}", flush=True)
            for step, seconds in tool(data, place, sizes).items():
                took[name].setdefault(step, []).append(seconds)
            shutil.rmtree(place)
        for step, seconds in limits(data).items():
            took["limit"].setdefault(step, []).append(seconds)
    return took, sizes


def table(data: Data, medians: Medians, sizes: Sizes) -> str:
    limit = medians["limit"]
    lines = [f"| seconds (peer's time ÷ ours) | {' | '.join(TOOLS)} |", "|---" * 7 + "|"]
    for step in STEPS:
        ours = medians["Quiesce"].get(step)
        cells = [f"**{ours:.2f}**" if ours else "–"]
        # Who knows no change list reads everything again.
        row = "rescan, 2 % changed" if step.startswith("increment") else step
        for name in list(TOOLS)[1:]:
            seconds = medians[name].get(row)
            ratio = f" ({seconds / ours:.1f}×)" if seconds and ours else ""
            cells.append(f"{seconds:.2f}{ratio}" if seconds else "–")
        lines.append(f"| {step} | {' | '.join(cells)} |")
    stored = [f"{sizes[name][0] / 1e6:.0f}" for name in TOOLS]
    grown = [f"+{sizes[name][1] / 1e6:.1f}" if sizes[name][1] else "–" for name in TOOLS]
    lines += [
        f"| stored, MB | {' | '.join(stored)} |",
        f"| … by 2 % changes | {' | '.join(grown)} |",
    ]
    full = medians["Quiesce"]["full backup"]
    lines += [
        "",
        f"{data.data_bytes / 1e6:.0f} MB of data; full backup {data.data_bytes / full / 1e6:.0f}"
        f" MB/s. Limits of the same run: zstd-1 on {CORES} cores {limit['zstd-1']:.2f} s,"
        f" O_DIRECT read {limit['O_DIRECT read']:.2f} s; full backup reaches"
        f" {max(limit.values()) / full:.0%} of the slower one.",
    ]
    return "\n".join(lines)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("folder", type=Path)
    words.add_argument("--mib", type=int, default=4096, help="data on the disk")
    words.add_argument("--rounds", type=int, default=3)
    chosen = words.parse_args()
    work = chosen.folder.absolute() / "vault"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        data = make_data(work, chosen.mib)
        took, sizes = measure(data, work, chosen.rounds)
    finally:
        shutil.rmtree(work)
    medians = {
        name: {step: statistics.median(each) for step, each in steps.items()}
        for name, steps in took.items()
    }
    print(table(data, medians, sizes))
    facts = {
        "at": datetime.now(UTC).isoformat(), "cores": CORES, "machine": platform.machine(),
        "python": platform.python_version(), "data_bytes": data.data_bytes,
        "seconds": took, "stored_bytes": sizes,
    }  # fmt: skip
    (chosen.folder / "vault.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
