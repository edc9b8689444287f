"""Files of a local store, written durably and read whole."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections import deque
from pathlib import Path

from quiesce.model.pages import huge_pages

Buffer = bytes | bytearray | memoryview

_BLOCK_BYTES = 4096
_DIRECT_FROM_BYTES = 1024 * 1024
_READ_DIRECT_FROM_BYTES = 256 * 1024
"""Smaller reads come back to the same places: the page cache serves them."""
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
"""What link() says on vfat and exFAT, on network file systems, and on some in user space."""
_WINDOW_BYTES = 2 * 1024 * 1024
_windows: deque[memoryview] = deque(maxlen=8)
"""Aligned memory to read into past the page cache, kept for the next read."""


def write_synced(path: Path, data: Buffer) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        rest = memoryview(data)
        if len(rest) >= _DIRECT_FROM_BYTES:
            rest = rest[_write_past_cache(descriptor, rest) :]
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_past_cache(descriptor: int, data: memoryview) -> int:
    """Write what fills whole blocks, past the page cache; the bytes written, fewer where that is
    refused. Nobody reads a pack soon, and copying packs through the cache, which they flood,
    takes time from compressing."""
    whole = len(data) // _BLOCK_BYTES * _BLOCK_BYTES
    done = 0
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
        while done < whole:
            done += os.write(descriptor, data[done:whole])
    except OSError as refused:
        # A file system without O_DIRECT, or memory that is not aligned as it wants.
        if refused.errno != errno.EINVAL:
            raise
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
    return done


def links_refused(folder: Path) -> OSError | None:
    """Why the file system of a folder makes no hard links, if it does not. That alone says so: a
    link that is refused elsewhere may be for the rights of its place.

    :raise OSError: as open and link
    """
    one, other = (folder / secrets.token_hex(16) for _ in range(2))
    try:
        os.close(os.open(one, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        os.link(one, other)
    except OSError as refused:
        if refused.errno not in NO_LINKS:
            raise
        return refused
    finally:
        one.unlink(missing_ok=True)
        other.unlink(missing_ok=True)
    return None


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_range(path: Path, offset: int, length: int) -> bytes:
    """Fewer bytes only where the file ends.

    Reads of the size of a restore's go past the page cache where the file system can do that:
    they are read once, and finding pages for them takes time from unpacking. A restore of 4.4 GB
    spends 0.4 instead of 0.7 s in the kernel. Longer ones are of who reads whole packs, piece after
    piece: there it is worth more that the kernel reads ahead (a verification takes 3.4 s, 3.6 past
    the cache).

    :raise OSError: as open and read
    """
    if _READ_DIRECT_FROM_BYTES <= length <= _WINDOW_BYTES:
        try:
            return _read_past_cache(path, offset, length)
        except OSError as refused:
            # A file system without O_DIRECT, or memory that is not aligned as it wants.
            if refused.errno != errno.EINVAL:
                raise
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_fully(descriptor, offset, length)
    finally:
        os.close(descriptor)


def _read_past_cache(path: Path, offset: int, length: int) -> bytes:
    parts = []
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    try:
        window = _windows.pop()
    except IndexError:
        window = huge_pages(_WINDOW_BYTES)
    try:
        end = offset + length
        while offset < end:
            start = offset // _BLOCK_BYTES * _BLOCK_BYTES
            blocks = -(-(end - start) // _BLOCK_BYTES)
            got = os.preadv(descriptor, [window[: blocks * _BLOCK_BYTES]], start)
            part = window[offset - start : min(got, end - start)]
            if not len(part):
                break
            parts.append(bytes(part))
            offset += len(part)
    finally:
        _windows.append(window)
        os.close(descriptor)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_fully(descriptor: int, offset: int, length: int) -> bytes:
    # As much as there is: room for more would be given out, and copied for the rest.
    length = max(0, min(length, os.fstat(descriptor).st_size - offset))
    data = os.pread(descriptor, length, offset)
    if len(data) == length:
        return data
    parts = [data]
    got = len(data)
    while got < length and parts[-1]:
        parts.append(os.pread(descriptor, length - got, offset + got))
        got += len(parts[-1])
    return b"".join(parts)
