"""Memory stays bounded whatever a log bundle claims to be."""

from __future__ import annotations

import gzip
import io
import lzma
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from made_bundles import FILES, LOG, tar_of

_MEASURE = """
import re, sys
from pathlib import Path
from quiesce.diagnosis.bundle import read_bundle
from quiesce.model.failure import Failure

def peak():
    # Not ru_maxrss: that one begins with what the parent had.
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before = peak()
try:
    read_bundle(Path(sys.argv[1]))
except Failure as failure:
    print(failure.code, file=sys.stderr)
print(peak() - before)
"""
MOST_KIB = 128 * 1024


def header(name: bytes, size: int, kind: bytes = b"0") -> bytes:
    info = tarfile.TarInfo(name.decode())
    info.size, info.type = size, kind
    return info.tobuf(tarfile.USTAR_FORMAT if size < 8 << 30 else tarfile.GNU_FORMAT)


def bomb_of_zeros(path: Path) -> None:
    """A gigabyte of log in a megabyte."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header(b"var/log/waagent.log", 1 << 30))
        for _ in range(1024):
            file.write(bytes(1 << 20))


def pax_header_of_gigabytes(path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header(b"pax", 1 << 30, b"x"))
        for _ in range(1024):
            file.write(b"a" * (1 << 20))


def global_headers_without_end(path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        for number in range(3000):
            content = b"30 key%013d=0123456789ab\n" % number
            file.write(header(b"pax", len(content), b"g") + content.ljust(512, b"\0"))


def many_members(path: Path) -> None:
    one = header(b"var/log/azure/a.b/x.log", 0)
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(210):
            file.write(one * 1000)


def many_wanted_files(path: Path) -> None:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for number in range(3000):
            info = tarfile.TarInfo(f"var/log/azure/a.b/{number}.log")
            info.size = 64 * 1024
            archive.addfile(info, io.BytesIO("é".encode() * 32 * 1024))


def zip_with_a_huge_directory(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(60_000):
            archive.writestr(zipfile.ZipInfo(f"{number:060}"), b"")


def zip_with_the_longest_directory(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(38_000):
            archive.writestr(zipfile.ZipInfo(f"{number:060}"), b"")
        archive.writestr("waagent.log", LOG)
    assert path.stat().st_size > 7 << 20


def xz_with_the_largest_dictionary(path: Path) -> None:
    kind = {"id": lzma.FILTER_LZMA2, "dict_size": 64 << 20, "mode": lzma.MODE_FAST, "depth": 1}
    with lzma.open(path, "wb", filters=[kind | {"mf": lzma.MF_HC3, "nice_len": 273}]) as file:
        file.write(header(b"var/log/waagent.log", 80 << 20))
        for _ in range(80):
            file.write(bytes(1 << 20))


def xz_with_a_huge_dictionary(path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]
    path.write_bytes(lzma.compress(tar_of(FILES), filters=filters))


@pytest.mark.parametrize(
    "make",
    [
        bomb_of_zeros,
        pax_header_of_gigabytes,
        global_headers_without_end,
        many_members,
        many_wanted_files,
        zip_with_a_huge_directory,
        zip_with_the_longest_directory,
        xz_with_the_largest_dictionary,
        xz_with_a_huge_dictionary,
    ],
)
def test_memory_stays_bounded_whatever_the_bundle_claims(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "bomb"
    make(path)
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_MEASURE), str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert ran.returncode == 0, ran.stderr
    assert "internal" not in ran.stderr
    assert int(ran.stdout) < MOST_KIB, ran.stdout
