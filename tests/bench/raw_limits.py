"""What nothing could beat on this machine, each as one line of JSON: {"work_seconds": …}.

raw_limits.py read IMAGE          its data, past the page cache, 4 MiB at a time, 4 at once
raw_limits.py write IMAGE OUT     as much, at the same places of a new file, until it is durable
raw_limits.py move IMAGE OUT      the same while two fifths as much, as packs are, is read, too
raw_limits.py zstd IMAGE          compressing at level 1 on all cores, in pieces of 128 KiB,
                                  each different piece once, from memory to memory
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import zstandard
from blake3 import blake3
from vault_data import data_extents

CORES = len(os.sched_getaffinity(0))
AT_ONCE_BYTES = 4 << 20
BLOCK_BYTES = 4096
PIECE_BYTES = 128 << 10
ZERO_PIECE = bytes(PIECE_BYTES)
STORED_SHARE = 0.4
"""Of a disk's data, what a vault stores, by this bench's own images."""
SAMPLE_BYTES = 768 << 20
"""Different pieces kept in memory for the zstd limit; the time is scaled to all of them."""


def pieces(image: Path) -> list[tuple[int, int]]:
    return [
        (at, min(AT_ONCE_BYTES, start + length - at))
        for start, length in data_extents(image)
        for at in range(start, start + length, AT_ONCE_BYTES)
    ]


def in_turns(count: int, work: list[tuple[int, int]], do: Callable[..., object]) -> float:
    """Seconds that `count` threads with a buffer each take to do all of `work`."""
    left, taking = iter(work), threading.Lock()

    def labour() -> None:
        buffer = memoryview(mmap.mmap(-1, AT_ONCE_BYTES))
        while True:
            with taking:
                piece = next(left, None)
            if piece is None:
                return
            do(piece[0], buffer[: piece[1]])

    began = time.perf_counter()
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(labour) for _ in range(count)]:
            done.result()
    return time.perf_counter() - began


def read(image: Path) -> float:
    descriptor = os.open(image, os.O_RDONLY | os.O_DIRECT)
    return in_turns(4, pieces(image), lambda at, part: os.preadv(descriptor, [part], at))


def write(image: Path, out: Path) -> float:
    return _written(image, out, lambda at, part: None)


def move(image: Path, out: Path) -> float:
    """What restoring would take if nothing had to be unpacked."""
    descriptor = os.open(image, os.O_RDONLY | os.O_DIRECT)

    def stored(at: int, part: memoryview) -> None:
        share = int(len(part) * STORED_SHARE) // BLOCK_BYTES * BLOCK_BYTES
        if share:
            os.preadv(descriptor, [part[:share]], at)

    return _written(image, out, stored)


def _written(image: Path, out: Path, before: Callable[[int, memoryview], None]) -> float:
    began = time.perf_counter()
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_DIRECT, 0o600)
    os.ftruncate(descriptor, image.stat().st_size)

    def do(at: int, part: memoryview) -> None:
        before(at, part)
        os.pwritev(descriptor, [part], at)

    for start, length in data_extents(image):
        os.posix_fallocate(descriptor, start, length)
    in_turns(4, pieces(image), do)
    os.fsync(descriptor)
    return time.perf_counter() - began


def zstd(image: Path) -> float:
    seen: set[bytes] = set()
    kept: list[bytes] = []
    extents = list(data_extents(image))
    every = -(-sum(length for _, length in extents) // SAMPLE_BYTES)
    with image.open("rb", buffering=0) as file:
        for start, length in extents:
            for at in range(start, start + length, PIECE_BYTES):
                piece = os.pread(file.fileno(), PIECE_BYTES, at)
                name = blake3(piece).digest()
                if name in seen or piece == ZERO_PIECE:
                    continue
                if len(seen) % every == 0:
                    kept.append(piece)
                seen.add(name)

    def compress(mine: list[bytes]) -> None:
        compressor = zstandard.ZstdCompressor(level=1)
        for piece in mine:
            compressor.compress(piece)

    began = time.perf_counter()
    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(compress, [kept[n::CORES] for n in range(CORES)]))
    return (time.perf_counter() - began) * len(seen) / len(kept)


def main() -> None:
    what, *paths = sys.argv[1:]
    limits: dict[str, Callable[..., float]] = {
        "read": read, "write": write, "move": move, "zstd": zstd,
    }  # fmt: skip
    print(json.dumps({"work_seconds": round(limits[what](*map(Path, paths)), 4)}))


if __name__ == "__main__":
    main()
