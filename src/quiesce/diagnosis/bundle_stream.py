"""Streams that are read in bounded memory and time, whatever they claim to hold."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import time
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import zstandard

HEAD_BYTES = 4096
MOST_SECONDS = 60.0
MOST_UNPACKED_BYTES = 64 << 30
_CHUNK = 1 << 20
_XZ_MEMORY = 80 << 20
_ZSTD_WINDOW = 64 << 20

Damage = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError),
    *(OSError, EOFError, ValueError, ArithmeticError, LookupError, RuntimeError),
)
"""What the libraries raise over a damaged or hostile archive."""


class OverLimit(Exception):  # noqa: N818 - reading ends, and what was read stays
    """The archive is more than may be read; the message is for people."""


class Refused(OSError):  # noqa: N818 - what the libraries pass on
    """A claim that no honest archive makes."""


@dataclass(frozen=True, slots=True)
class Ends:
    """`head` are a file's first bytes, `end` its last ones, `size_bytes` all that there were."""

    head: bytes
    end: bytes
    size_bytes: int


class Budget:
    """Time and unpacked bytes for one bundle."""

    def __init__(
        self, seconds: float = MOST_SECONDS, most_bytes: int = MOST_UNPACKED_BYTES
    ) -> None:
        self._until = time.monotonic() + seconds
        self._seconds, self._left = seconds, most_bytes

    def spend(self, count: int) -> None:
        """:raise OverLimit:"""
        self._left -= count
        if self._left < 0:
            raise OverLimit("it unpacks to more than any log bundle")
        if time.monotonic() > self._until:
            raise OverLimit(f"reading it took more than {self._seconds:g} s")


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class Forward:
    """A stream that is read once from its beginning; what tarfile needs of a file, no more."""

    def __init__(self, stream: _Readable, budget: Budget, seekable: BinaryIO | None = None) -> None:
        self._stream, self._seekable, self._budget = stream, seekable, budget
        self._position = 0
        self._peeked = b""
        self.last_block = b""
        self.headers_left: int | None = None

    @property
    def is_file(self) -> bool:
        """Whether it is a file as it is, so that what lies between need not be read."""
        return self._seekable is not None

    def peek(self, count: int) -> bytes:
        """The first bytes; before anything is read."""
        while len(self._peeked) < count and (more := self._stream.read(count - len(self._peeked))):
            self._peeked += more
        return self._peeked

    def tell(self) -> int:
        return self._position

    def read(self, count: int) -> bytes:
        if self.headers_left is not None:
            self.headers_left -= count
            if self.headers_left < 0:
                raise Refused("a header is larger than any honest one")
        parts = []
        left = count
        while left > 0:
            part, self._peeked = self._peeked[:left], self._peeked[left:]
            part = part or self._stream.read(min(left, _CHUNK))
            self._budget.spend(len(part))
            if not part:
                break
            parts.append(part)
            left -= len(part)
        self.last_block = b"".join(parts)
        self._position += count - left
        return self.last_block

    def seek(self, to: int) -> int:
        """Forward only."""
        if to < self._position:
            raise Refused("it leads back")
        if self._seekable is not None:
            self._peeked = b""
            self._seekable.seek(to)
            self._position = to
        allowed, self.headers_left = self.headers_left, None
        while self._position < to and self.read(min(_CHUNK, to - self._position)):
            pass
        self.headers_left = allowed
        return self._position


class _Xz(io.RawIOBase):
    """lzma's own file has no limit of memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)

    def read(self, size: int = -1, /) -> bytes:
        while not self._decoder.eof:
            data = self._file.read(64 * 1024) if self._decoder.needs_input else b""
            if self._decoder.needs_input and not data:
                raise EOFError("it ends in the middle")
            if unpacked := self._decoder.decompress(data, size):
                return unpacked
        return b""


def unpacked(file: BinaryIO, magic: bytes, budget: Budget) -> Forward:
    """The file's content without its compression, if it has one that is known by its first bytes.

    :raise OSError, EOFError, LZMAError, ZstdError: when it is read
    """
    if magic.startswith(b"\x1f\x8b"):
        return Forward(gzip.GzipFile(fileobj=file), budget)
    if magic.startswith(b"\xfd7zXZ\x00"):
        return Forward(_Xz(file), budget)
    if magic.startswith(b"BZh"):
        return Forward(bz2.BZ2File(file), budget)
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        decoder = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        return Forward(decoder.stream_reader(file, read_across_frames=True), budget)
    return Forward(file, budget, file)


def rest_of(source: Forward, keep: int, most: int | None = None) -> Ends:
    """The stream's own ends from here on, at most `most` bytes of it."""
    head, end, size = b"", b"", 0
    if most is not None and source.is_file and most > keep + HEAD_BYTES:
        head = source.read(HEAD_BYTES)
        source.seek(source.tell() - len(head) + most - keep)
        end = source.read(keep)
        return Ends(head, end, most)
    while most is None or size < most:
        chunk = source.read(_CHUNK if most is None else min(_CHUNK, most - size))
        if not chunk:
            break
        head = head or chunk[:HEAD_BYTES]
        end = (end + chunk)[-keep:]
        size += len(chunk)
    return Ends(head, end, size)


def open_file(path: Path, *, follow: bool = False) -> BinaryIO:
    """A regular file; opening it never blocks.

    :raise OSError: also for what is no regular file
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    handle = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Refused("it is not a file")
    return os.fdopen(handle, "rb")


def file_ends(file: BinaryIO, keep: int) -> Ends:
    head = file.read(HEAD_BYTES)
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - keep))
    return Ends(head, file.read(keep), size)
