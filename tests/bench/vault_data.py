"""The disks that `make bench-vault` backs up: real files of Debian packages, random data and logs.

    python tests/bench/vault_data.py FOLDER --mib 4096

makes in FOLDER five sparse ext4 images of twice `--mib`, half full, and `data.json` about them:

    v1           90 % files of Debian packages, 5 % random bytes, 5 % log lines
    v2, v3       2 % of the data, scattered in runs of 64 to 512 KiB, replaced by bytes of other
                 files; each on top of the one before
    cloned       a sibling that began as the same template: 30 % of v1 is replaced, in runs of
                 1 to 32 MiB
    reinstalled  a sibling of the same distribution made anew: three of four files are v1's, all at
                 other places of the disk

Files of installed packages are taken first. Where they do not suffice, packages are downloaded
(not installed) into FOLDER/debs with apt-get and unpacked. One machine makes the same disks every
time, but for the file systems' ids.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
GRANULE = 64 * 1024
"""What a dirty bitmap tells apart."""
CHANGED = 0.02
REPLACED_IN_CLONE = 0.30
LARGEST_FILE = 100 * MIB
MORE_PACKAGES = (
    "libreoffice-core", "firefox-esr", "openjdk-17-jre-headless", "golang-1.19-src", "gcc-12",
    "linux-source-6.1", "libllvm14", "thunderbird", "mariadb-server-core", "postgresql-15",
    "libwebkit2gtk-4.1-0", "texlive-latex-extra-doc", "chromium", "qemu-system-x86", "ghc",
    "rustc", "libstd-rust-dev", "mono-devel", "wine64", "libboost1.74-dev", "openjdk-17-jdk",
)  # fmt: skip
"""Large and of different kinds; asked for only where the installed ones do not suffice."""

File = tuple[Path, int]


@dataclass(frozen=True, slots=True)
class Disks:
    """The images by name, what each version changed, and the bytes of data in v1."""

    images: dict[str, Path]
    changes: dict[str, Path]
    """v2, v3: a JSON list of (offset, length), in bytes"""
    data_bytes: int

    @property
    def size_bytes(self) -> int:
        return self.images["v1"].stat().st_size


def load(folder: Path) -> Disks:
    facts = json.loads((folder / "data.json").read_text())
    return Disks(
        {name: folder / name / "disk.raw" for name in facts["images"]},
        {name: folder / f"{name}.changes" for name in facts["changed"]},
        facts["data_bytes"],
    )


def make(folder: Path, mib: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # All of v1, a quarter more for the sibling, and what replaces parts of the others.
    files = _enough_files(folder, int(mib * 1.75) * MIB)
    random.Random(1).shuffle(files)
    own, others = _split(files, mib * 9 // 10 * MIB)
    _install(folder, "v1", own, mib, seed=1)
    stock = _Stock(others, seed=2)
    _derive(folder, "v2", "v1", stock, CHANGED, longest=8)
    _derive(folder, "v3", "v2", stock, CHANGED, longest=8)
    _derive(folder, "cloned", "v1", stock, REPLACED_IN_CLONE, longest=512, shortest=16)
    kept, _ = _split(own, mib * 9 // 10 * 3 // 4 * MIB)
    added, _ = _split(others[::-1], mib * 9 // 10 // 4 * MIB)
    _install(folder, "reinstalled", kept + added, mib, seed=3)
    facts = {
        "images": ["v1", "v2", "v3", "cloned", "reinstalled"],
        "changed": ["v2", "v3"],
        "mib": mib,
        "data_bytes": sum(length for _, length in data_extents(folder / "v1" / "disk.raw")),
    }
    (folder / "data.json").write_text(json.dumps(facts) + "\n")


def data_extents(image: Path) -> Iterator[tuple[int, int]]:
    """(offset, length) of what is allocated, in bytes."""
    with image.open("rb") as file:
        size, position = os.fstat(file.fileno()).st_size, 0
        while position < size:
            try:
                data = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole is left
                return
            position = os.lseek(file.fileno(), data, os.SEEK_HOLE)
            yield data, position - data


# ── files ────────────────────────────────────────────────────────────────────────────────────────


def _enough_files(folder: Path, wanted_bytes: int) -> list[File]:
    files = sorted(_installed())
    have = sum(size for _, size in files)
    unpacked = folder / "unpacked"
    for package in MORE_PACKAGES:
        if have >= wanted_bytes:
            break
        _unpack(package, folder / "debs", unpacked / package)
        more = sorted(_regular(p for p in (unpacked / package).rglob("*")))
        have += sum(size for _, size in more)
        files += more
    if have < wanted_bytes:
        raise SystemExit(f"{have >> 20} MiB of package files; {wanted_bytes >> 20} are needed")
    return files


def _installed() -> Iterator[File]:
    """Files of installed packages, as dpkg's lists name them."""
    named = set()
    for part in Path("/var/lib/dpkg/info").glob("*.list"):
        named.update(part.read_text(errors="surrogateescape").splitlines())
    return _regular(Path(name) for name in named if name.startswith(("/usr", "/lib", "/opt")))


def _regular(paths: Iterator[Path]) -> Iterator[File]:
    for path in paths:
        try:
            found = path.lstat()
        except OSError:
            continue
        if stat.S_ISREG(found.st_mode) and 0 < found.st_size <= LARGEST_FILE:
            yield path, found.st_size


def _unpack(package: str, debs: Path, target: Path) -> None:
    debs.mkdir(parents=True, exist_ok=True)
    target.mkdir(parents=True, exist_ok=True)
    if not list(debs.glob(f"{package}_*.deb")):
        subprocess.run(["apt-get", "download", "-qq", package], cwd=debs, check=False)
    for deb in debs.glob(f"{package}_*.deb"):
        run("dpkg-deb", "-x", str(deb), str(target))


def _split(files: list[File], limit_bytes: int) -> tuple[list[File], list[File]]:
    """As many from the front as stay below the limit, and the rest."""
    total = 0
    for number, (_, size) in enumerate(files):
        total += size
        if total > limit_bytes:
            return files[:number], files[number:]
    return files, []


# ── images ───────────────────────────────────────────────────────────────────────────────────────


def _install(folder: Path, name: str, files: list[File], mib: int, *, seed: int) -> None:
    """A new file system with these files, and random data and logs of its own."""
    stage, image = folder / "stage", folder / name / "disk.raw"
    for path, _ in files:
        target = stage / str(path).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)
    dice = random.Random(seed)
    (stage / "var" / "log").mkdir(parents=True)
    (stage / "srv").mkdir()
    for number in range(4):
        _write(stage / "srv" / f"random-{number}", (dice.randbytes(MIB) for _ in range(mib // 80)))
        _write(stage / "var" / "log" / f"access-{number}.log", _log_lines(dice, mib // 80 * MIB))
    image.parent.mkdir()
    with image.open("wb") as file:
        file.truncate(2 * mib * MIB)
    run("mke2fs", "-q", "-t", "ext4", "-d", str(stage), str(image))
    shutil.rmtree(stage)


def _write(path: Path, pieces: Iterator[bytes]) -> None:
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)


def _log_lines(dice: random.Random, size_bytes: int) -> Iterator[bytes]:
    pages = [f"/{dice.choice(('shop', 'api', 'img'))}/{dice.getrandbits(24):x}" for _ in range(999)]
    at, written = 1_700_000_000, 0
    while written < size_bytes:
        at += dice.randrange(3)
        line = (
            f"10.{dice.randrange(8)}.{dice.randrange(256)}.{dice.randrange(256)} - - [{at}] "
            f'"GET {dice.choice(pages)} HTTP/1.1" {dice.choice((200, 200, 200, 304, 404))} '
            f'{dice.randrange(90000)} "-" "Mozilla/5.0 (X11; Linux x86_64)" {dice.random():.3f}\n'
        ).encode()
        written += len(line)
        yield line


class _Stock:
    """Bytes of files, one after another, for ever."""

    def __init__(self, files: list[File], *, seed: int) -> None:
        self.dice = random.Random(seed)
        self._files = files
        self._next = 0
        self._kept = b""

    def take(self, length: int) -> bytes:
        while len(self._kept) < length:
            self._kept += self._files[self._next % len(self._files)][0].read_bytes()
            self._next += 1
        taken, self._kept = self._kept[:length], self._kept[length:]
        return taken


def _derive(
    folder: Path, name: str, base: str, stock: _Stock, share: float, *, longest: int,
    shortest: int = 1,
) -> None:  # fmt: skip
    """A copy of another image in which runs of so many granules are replaced."""
    image = folder / name / "disk.raw"
    image.parent.mkdir()
    run("cp", "--sparse=always", str(folder / base / "disk.raw"), str(image))
    granules = [
        at
        for start, length in data_extents(image)
        for at in range(-(-start // GRANULE) * GRANULE, start + length - GRANULE, GRANULE)
    ]
    chosen: set[int] = set()
    while len(chosen) < len(granules) * share:
        first = stock.dice.randrange(len(granules))
        chosen.update(granules[first : first + stock.dice.randint(shortest, longest)])
    with image.open("r+b") as file:
        for at in sorted(chosen):
            file.seek(at)
            file.write(stock.take(GRANULE))
    ranges = [(at, GRANULE) for at in sorted(chosen)]
    (folder / f"{name}.changes").write_text(json.dumps(ranges))


def run(*command: str) -> None:
    """:raise RuntimeError: with what the tool said"""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("folder", type=Path)
    words.add_argument("--mib", type=int, required=True, help="data on each disk")
    chosen = words.parse_args()
    make(chosen.folder.absolute(), chosen.mib)


if __name__ == "__main__":
    main()
