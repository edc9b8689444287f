"""Archives and folders member by member.

Nothing is unpacked: of each member its first bytes and its end are read. The libraries that know
the formats read through objects that refuse what no honest archive needs, so that a header cannot
claim gigabytes.
"""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from quiesce.diagnosis.bundle_stream import (
    HEAD_BYTES,
    Budget,
    Ends,
    Forward,
    Refused,
    file_ends,
    open_file,
    rest_of,
)

MOST_MEMBERS = 200_000
_HEADER_BYTES = 64 * 1024
"""Of tar, before one member: names and extended attributes."""
_DIRECTORY_BYTES = 4 << 20
"""Of zip: its list of members, some 100 bytes each."""
_DEEPEST = 40


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file. `ends` reads it, once and before the next member is asked for; it raises
    what is in `Damage`, and OverLimit."""

    name: str
    ends: Callable[[int], Ends]
    modified_at: datetime | None = None
    mode: int | None = None
    owner: int | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A member that is not read, in words that count well: "links", "devices and pipes"."""

    name: str
    why: str


def is_tar(block: bytes) -> bool:
    """Whether a tar archive begins so: its checksum is right, or it has the later formats' mark."""
    if len(block) < 512:
        return False
    with suppress(tarfile.HeaderError, ValueError):
        tarfile.TarInfo.frombuf(block[:512], "utf-8", "surrogateescape")
        return True
    return block[257:262] == b"ustar"


def tar_members(source: Forward) -> Iterator[Member | LeftOut]:
    """:raise Damage, OverLimit: what was yielded before stays good"""
    source.headers_left = _HEADER_BYTES
    archive: Any = tarfile.TarFile(
        fileobj=source,  # type: ignore[arg-type]  # it reads, seeks forward and tells
        mode="r",
        encoding="utf-8",
        errors="surrogateescape",
    )
    while (info := archive.next()) is not None:
        source.headers_left = None
        if info.isreg():
            yield Member(
                info.name,
                _tar_ends(archive, source, info),
                _moment(float(info.mtime)),
                info.mode & 0o7777,
                info.uid,
            )
        elif not info.isdir():
            linked = info.issym() or info.islnk()
            yield LeftOut(info.name, "links" if linked else "devices and pipes")
        # They would grow with every member.
        archive.members.clear()
        archive.pax_headers.clear()
        source.headers_left = _HEADER_BYTES
    if source.last_block != bytes(512):
        raise EOFError("it ends in the middle")


def _tar_ends(archive: Any, source: Forward, info: tarfile.TarInfo) -> Callable[[int], Ends]:
    def ends(keep: int) -> Ends:
        if info.issparse():
            file = archive.extractfile(info)
            head = file.read(HEAD_BYTES)
            file.seek(max(0, info.size - keep))
            return Ends(head, file.read(keep), info.size)
        source.seek(info.offset_data)
        found = rest_of(source, keep, info.size)
        if source.tell() < info.offset_data + info.size:
            raise EOFError("it ends in the middle")
        return found

    return ends


class _ZipSource:
    """The file as zipfile may read it."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def read(self, count: int = -1) -> bytes:
        left = self._size - self._file.tell()
        if (left if count < 0 else min(count, left)) > _DIRECTORY_BYTES:
            raise Refused("its list of members is too long")
        return self._file.read(count)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


def zip_members(file: BinaryIO, size: int, budget: Budget) -> Iterator[Member | LeftOut]:
    """:raise Damage, OverLimit:"""
    source = _ZipSource(file, size)
    with zipfile.ZipFile(source) as archive:
        for info in archive.infolist():
            mode = info.external_attr >> 16 if info.create_system == 3 else 0
            if info.is_dir():
                continue
            if mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
                yield LeftOut(info.filename, "links" if stat.S_ISLNK(mode) else "devices and pipes")
            elif info.flag_bits & 1:
                yield LeftOut(info.filename, "encrypted files")
            elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # LZMA in zip may claim gigabytes for its dictionary.
                yield LeftOut(info.filename, "files in an unusual compression")
            else:
                # Times in zip have no zone.
                ends = _zip_ends(archive, info, budget)
                yield Member(info.filename, ends, None, mode & 0o7777 or None)


def _zip_ends(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, budget: Budget
) -> Callable[[int], Ends]:
    def ends(keep: int) -> Ends:
        with archive.open(info) as file:
            return rest_of(Forward(file, budget), keep)

    return ends


def folder_members(folder: Path, budget: Budget) -> Iterator[Member | LeftOut]:
    """Links are never followed, and nothing but regular files is opened.

    :raise OverLimit:
    :raise OSError: the folder itself cannot be listed
    """
    todo = [(os.fspath(folder), "", 0)]
    while todo:
        path, name, depth = todo.pop()
        try:
            entries = os.scandir(path)
        except OSError as error:
            if not name:
                raise
            yield LeftOut(name, f"folders that cannot be read ({error.strerror})")
            continue
        with entries:
            for entry in entries:
                budget.spend(0)
                inner = f"{name}/{entry.name}" if name else entry.name
                if entry.is_symlink():
                    yield LeftOut(inner, "links")
                elif entry.is_dir(follow_symlinks=False):
                    if depth < _DEEPEST:
                        todo.append((entry.path, inner, depth + 1))
                    else:
                        yield LeftOut(inner, "folders that lie too deep")
                elif entry.is_file(follow_symlinks=False):
                    yield _file_member(entry, inner)
                else:
                    yield LeftOut(inner, "devices and pipes")


def _file_member(entry: os.DirEntry[str], name: str) -> Member:
    def ends(keep: int) -> Ends:
        with open_file(Path(entry.path)) as file:
            return file_ends(file, keep)

    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return Member(name, ends)
    return Member(name, ends, _moment(status.st_mtime), stat.S_IMODE(status.st_mode), status.st_uid)


def _moment(seconds: float) -> datetime | None:
    with suppress(OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(seconds, UTC)
    return None
