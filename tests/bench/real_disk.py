"""A disk of real files in two versions, as benchmarks need it."""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quiesce.block.file import FileSource
from quiesce.model.extent import Extent, ExtentKind

MIB = 1 << 20
CHANGED = 0.02
GRANULE = 64 * 1024
"""What a dirty bitmap tells apart."""


@dataclass(frozen=True, slots=True)
class Data:
    """Two versions of a disk and what the second one changed."""

    first: Path
    second: Path
    data_bytes: int
    changes: tuple[tuple[int, int], ...]


def make_data(folder: Path, mib: int) -> Data:
    """A disk of twice `mib`, half full."""
    files = sorted(_files(Path("/usr")))
    random.Random(1).shuffle(files)
    stage, filled, taken = folder / "stage", 0, 0
    for path, size in files:
        if filled + size > mib * MIB:
            break
        target = stage / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)
        filled, taken = filled + size, taken + 1
    first, second = folder / "first" / "disk.raw", folder / "second" / "disk.raw"
    first.parent.mkdir()
    second.parent.mkdir()
    with first.open("wb") as image:
        image.truncate(2 * mib * MIB)
    run("mke2fs", "-q", "-t", "ext4", "-d", str(stage), str(first))
    shutil.rmtree(stage)
    run("cp", "--sparse=always", str(first), str(second))
    source = FileSource(first)
    extents = [e for e in source.extents() if e.kind is ExtentKind.DATA]
    source.close()
    data_bytes = sum(e.length_bytes for e in extents)
    return Data(first, second, data_bytes, tuple(_change(second, extents, files[taken:])))


def _files(root: Path) -> Iterator[tuple[Path, int]]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            found = path.lstat()
            if stat.S_ISREG(found.st_mode) and 0 < found.st_size <= 100 * MIB:
                yield path, found.st_size


def _change(
    image: Path, extents: list[Extent], others: list[tuple[Path, int]]
) -> Iterator[tuple[int, int]]:
    """Replace runs of one to eight granules by what other files hold."""
    dice = random.Random(2)
    granules = [
        at
        for e in extents
        for at in range(-(-e.offset_bytes // GRANULE) * GRANULE, e.end_bytes - GRANULE, GRANULE)
    ]
    budget, found = int(len(granules) * CHANGED), set()
    while len(found) < budget:
        start = dice.randrange(len(granules))
        found.update(granules[start : start + dice.randint(1, 8)])
    fresh = iter(others)
    stock = b""
    with image.open("r+b") as file:
        for at in sorted(found):
            while len(stock) < GRANULE:
                stock += next(fresh)[0].read_bytes()
            file.seek(at)
            file.write(stock[:GRANULE])
            stock = stock[GRANULE:]
            yield at, GRANULE


class ListedSource(FileSource):
    """A raw image of which only listed ranges changed."""

    def __init__(self, path: Path, changes: tuple[tuple[int, int], ...]) -> None:
        super().__init__(path)
        self._changes = changes

    def extents(self) -> Iterator[Extent]:
        position = 0
        for start, length in self._changes:
            if start > position:
                yield Extent(position, start - position, ExtentKind.CLEAN)
            yield Extent(start, length, ExtentKind.DATA)
            position = start + length
        if position < self.size_bytes:
            yield Extent(position, self.size_bytes - position, ExtentKind.CLEAN)


def run(*command: str, **env: str) -> None:
    """:raise RuntimeError: with what the tool said"""
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | env)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
