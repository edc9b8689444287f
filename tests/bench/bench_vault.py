"""Vault throughput beside zstd, qemu-img and cp on the same data, in the same run.

bench_vault.py FOLDER [MIB]        needs twice MIB of free space; the figures are ratios
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from quiesce.model.point import PointDisk
from quiesce.model.snapshot import Consistency, ConsistencyLabel, Route
from quiesce.vault import KeyFile, LocalStore, Vault

SEGMENT = 4 * 1024 * 1024


def mixed_image(path: Path, size: int) -> None:
    """Real files of this machine one after another, then an eighth of random bytes and holes."""
    with path.open("wb") as out:
        for folder in ("/usr/lib", "/usr/share", "/usr/bin"):
            for root, _, names in os.walk(folder):
                for name in names:
                    if out.tell() > size * 3 // 4:
                        break
                    file = Path(root, name)
                    if file.is_file() and not file.is_symlink():
                        out.write(file.read_bytes())
        for _ in range(size // 8 // SEGMENT):
            out.write(os.urandom(SEGMENT))
        out.truncate(size)
    os.sync()


def backup(vault: Vault, image: Path, job: str, workers: int) -> None:
    size = image.stat().st_size
    writer = vault.writer("bench", job)
    disk = writer.disk("sda", size)
    chunk = disk.chunk_bytes
    descriptor = os.open(image, os.O_RDONLY)

    def segment(start: int) -> None:
        data = memoryview(os.pread(descriptor, min(SEGMENT, size - start), start))
        for at in range(0, len(data), chunk):
            disk.put((start + at) // chunk, data[at : at + chunk])

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(segment, range(0, size, SEGMENT)))
    os.close(descriptor)
    writer.commit(
        taken_at=datetime.now(UTC),
        route=Route.OFFLINE,
        consistency=ConsistencyLabel(Consistency.OFFLINE),
        freeze=None,
        disks=(PointDisk("sda", size, "raw", job, False),),
    )


def restore(vault: Vault, target: Path, workers: int) -> None:
    reader = vault.reader(vault.points()[0].id, "sda")
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT)
    os.truncate(descriptor, reader.size_bytes)

    def segment(start: int) -> None:
        buffer = bytearray(min(SEGMENT, reader.size_bytes - start))
        reader.read_into(start, memoryview(buffer))
        os.pwrite(descriptor, buffer, start)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(segment, range(0, reader.size_bytes, SEGMENT)))
    os.fsync(descriptor)
    os.close(descriptor)


def main() -> None:
    folder, size = Path(sys.argv[1]), int((sys.argv[2:] or ["1024"])[0]) * 1024 * 1024
    image = folder / "image"
    mixed_image(image, size)

    def run(label: str, act: Callable[[], object]) -> None:
        shell("cat", str(image))()  # the page cache is warm for everyone
        started = time.perf_counter()
        act()
        seconds = time.perf_counter() - started
        print(f"{label:28} {seconds:7.2f} s {size / seconds / 1e6:8.0f} MB/s", flush=True)

    def shell(*command: str) -> Callable[[], object]:
        return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    vault = Vault.create(LocalStore.create(folder / "vault"), KeyFile.generate())
    run("vault full, 3 workers", lambda: backup(vault, image, "one", 3))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    stored = vault.status().stored_bytes
    run("vault rescan, unchanged", lambda: backup(vault, image, "two", 3))
    run("vault restore, 2 workers", lambda: restore(vault, folder / "restored", 2))
    subprocess.run(["cmp", str(folder / "restored"), str(image)], check=True)
    (folder / "restored").unlink()
    for mode in ("packs", "chunks"):
        run(f"vault verify {mode}", lambda mode=mode: vault.verify(mode))  # type: ignore[misc]
    packed = str(folder / "packed")
    run("zstd -1 -T2", shell("zstd", "-q", "-f", "-1", "-T2", str(image), "-o", packed))
    zstd = Path(packed).stat().st_size
    convert = ("qemu-img", "convert", "-O", "qcow2", "-c", "-o", "compression_type=zstd")
    run("qemu-img convert zstd", shell(*convert, str(image), str(folder / "qcow2")))
    run("cp + sync", shell("sh", "-c", f"cp {image} {packed} && sync {packed}"))
    print(f"stored {stored / 1e6:.0f} MB, zstd -1 {zstd / 1e6:.0f} MB of {size / 1e6:.0f} MB")
    print(f"peak memory after the full backup {peak} MB")
    shutil.rmtree(folder / "vault")


if __name__ == "__main__":
    main()
