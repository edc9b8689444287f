"""Chunk size, frame size and level against each other: bytes and processor time.

    bench_frames.py FOLDER [--mib 1024]

Compresses the new chunks of a real disk and of its second version (2 % changed) in every
combination. All combinations take turns every 32 MiB, so that whatever else the machine does
hits all alike, and only the processor time of this thread counts. The disks are made in FOLDER
by `vault_data`, if they are not there.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import zstandard
from blake3 import blake3
from vault_data import MIB, data_extents, load, make

KIB = 1024
RUN = 4 * MIB
"""What a thread of a backup puts at once."""
TURN = 32 * MIB
ROW_BYTES = 48 + 44
"""What each chunk costs besides: a row in the footer, and one in the index."""
ZERO = bytes(MIB)


@dataclass
class Way:
    """One combination, and what it has cost."""

    chunk: int
    frame: int
    level: int
    seen: set[bytes] = field(default_factory=set)
    stored: int = 0
    seconds: float = 0.0
    plain: int = 0
    unpacking: float = 0.0
    unpacked: int = 0

    def __post_init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=self.level)
        self.decompressor = zstandard.ZstdDecompressor()

    def put(self, run: memoryview) -> None:
        new = []
        for at in range(0, len(run), self.chunk):
            part = run[at : at + self.chunk]
            name = blake3(part).digest()
            if name not in self.seen and part != ZERO[: len(part)]:
                self.seen.add(name)
                new.append(part)
        per_frame = max(1, self.frame // self.chunk)
        frames = [new[at : at + per_frame] for at in range(0, len(new), per_frame)]
        began = time.thread_time()
        packed = [self.compressor.compress(b"".join(frame)) for frame in frames]
        self.seconds += time.thread_time() - began
        for frame, data in zip(frames, packed, strict=True):
            plain = sum(map(len, frame))
            self.plain += plain
            whole = len(data) < plain
            self.stored += min(len(data), plain) + 16 * (1 if whole else len(frame))
            self.stored += ROW_BYTES * len(frame)
        began = time.thread_time()
        self.unpacked += sum(len(self.decompressor.decompress(data)) for data in packed)
        self.unpacking += time.thread_time() - began


def runs(image: Path) -> Iterator[memoryview]:
    """The data in pieces that end at multiples of RUN, as a backup cuts it."""
    with image.open("rb", buffering=0) as file:
        for start, length in data_extents(image):
            at, end = start, start + length
            while at < end:
                stop = min(end, (at // RUN + 1) * RUN)
                file.seek(at)
                yield memoryview(file.read(stop - at))
                at = stop


def store(image: Path, ways: list[Way]) -> None:
    runs_left = runs(image)
    while turn := list(itertools.islice(runs_left, TURN // RUN)):
        for way in ways:
            for run in turn:
                way.put(run)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("folder", type=Path)
    words.add_argument("--mib", type=int, default=1024, help="data on the disk")
    chosen = words.parse_args()
    if not (chosen.folder / "data.json").exists():
        make(chosen.folder, chosen.mib)
    images = load(chosen.folder).images
    ways = [
        Way(chunk * KIB, frame * KIB, level)
        for chunk in (64, 128, 256)
        for frame in (0, 512, 1024)
        for level in (1, 2, 3)
    ]
    store(images["v1"], ways)
    first = [(way.stored, way.plain / way.seconds, way.unpacked / way.unpacking) for way in ways]
    store(images["v2"], ways)
    print("| chunk | frame | level | first MB | growth MB | compress MB/s | unpack MB/s |")
    print("|---" * 7 + "|")
    for way, (stored, speed, unpacking) in zip(ways, first, strict=True):
        frame = f"{way.frame // KIB} K" if way.frame else "single"
        print(
            f"| {way.chunk // KIB} K | {frame} | {way.level} | {stored / 1e6:.1f} "
            f"| {(way.stored - stored) / 1e6:.2f} | {speed / 1e6:.0f} | {unpacking / 1e6:.0f} |"
        )


if __name__ == "__main__":
    main()
