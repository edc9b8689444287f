"""The store in a folder of a local or mounted file system."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from quiesce.model.failure import Evidence, StorageFailure
from quiesce.vault.stores.files import (
    NO_LINKS,
    Buffer,
    links_refused,
    read_fully,
    read_range,
    sync_folder,
    write_synced,
)
from quiesce.vault.stores.store import (
    KEY,
    MARKER,
    ObjectInfo,
    ObjectMissing,
    Put,
    check_key,
    time_of,
)

_FOLDERS = ("keys", "index", "points", "deleted", "sessions", "garbage", "damage", "tmp")
"""Folders of a vault, beside `packs/00` … `packs/ff`."""
_RESERVE = "reserve"
_LEFT_TO_OTHERS_BYTES = 1024 * 1024


class LocalStore:
    """A folder on a local or mounted file system. Thread-safe; many processes may use one.

    All folders are made once, by `create`, and never later; and a marker file is looked for
    before anything is written. So an empty mount point, after its file system vanished, is
    refused instead of quietly filled.
    """

    uploads_at_once = 1

    def __init__(self, path: Path | str) -> None:
        """:raise StorageFailure: storage.vanished when no store is at `path`"""
        self._root = Path(path).absolute()
        self._identity = ""
        self._device: tuple[int, int] = (0, 0)
        self._identity = self._check()

    @classmethod
    def create(cls, path: Path | str) -> LocalStore:
        """Make the folders of a new store, or open the one that is there.

        :raise StorageFailure: storage.not-empty when the folder holds anything else,
            storage.links-unsupported
        """
        root = Path(path).absolute()
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not (root / MARKER).exists():
                ours = {"packs", *_FOLDERS}
                foreign = sorted(entry.name for entry in root.iterdir() if entry.name not in ours)
                if foreign:
                    raise StorageFailure(
                        "storage.not-empty",
                        f"{root} holds other files; a vault needs a folder of its own.",
                        evidence=[Evidence(f"found {foreign[0]!r}", str(root))],
                    )
                (root / "tmp").mkdir(exist_ok=True)
                refused = links_refused(root / "tmp")
                if refused is not None:
                    with contextlib.suppress(OSError):
                        (root / "tmp").rmdir()
                    raise _linkless(refused, root)
                for shard in range(256):
                    (root / "packs" / f"{shard:02x}").mkdir(parents=True, exist_ok=True)
                for folder in _FOLDERS:
                    (root / folder).mkdir(exist_ok=True)
                    sync_folder(root / folder)
                sync_folder(root / "packs")
                sync_folder(root)
                (root / "tmp" / "marker").unlink(missing_ok=True)  # of one that died here
                write_synced(root / "tmp" / "marker", secrets.token_hex(16).encode())
                # The marker comes last: a store that was made by half is made again.
                os.replace(root / "tmp" / "marker", root / MARKER)
                sync_folder(root)
        except OSError as inner:
            raise _failure(inner, root, "make the store") from inner
        return cls(root)

    @property
    def address(self) -> str:
        return str(self._root)

    def put(self, key: str, data: Buffer) -> Put:
        target = self._root / check_key(key)
        self._check()
        temporary = self._root / "tmp" / secrets.token_hex(16)
        try:
            try:
                write_synced(temporary, data)
                try:
                    # link, unlike rename, refuses to replace what is there.
                    os.link(temporary, target)
                    result = Put.CREATED
                except FileExistsError:
                    result = Put.ALREADY_THERE
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
            # Also when it was there already: its writer may have died before its own fsync.
            sync_folder(target.parent)
        except OSError as inner:
            raise self._explain_put(inner, target) from inner
        return result

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        path = self._root / check_key(key)
        try:
            with open(path, "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if size > limit_bytes:
                    raise StorageFailure(
                        "storage.object-too-large",
                        f"{path} is {size} bytes long; at most {limit_bytes} were expected.",
                        evidence=[Evidence(f"size {size} bytes", str(path))],
                    )
                return read_fully(file.fileno(), 0, size)
        except OSError as inner:
            raise self._explain(inner, path, "read") from inner

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        path = self._root / check_key(key)
        try:
            return read_range(path, offset, length)
        except OSError as inner:
            raise self._explain(inner, path, "read") from inner

    def stat(self, key: str) -> ObjectInfo:
        path = self._root / check_key(key)
        try:
            found = os.stat(path)
        except OSError as inner:
            raise self._explain(inner, path, "look at") from inner
        return ObjectInfo(key, found.st_size, time_of(found.st_mtime))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder = prefix.rstrip("/")
        try:
            yield from self._walk(self._root / check_key(folder), folder)
        except OSError as inner:
            raise self._explain(inner, self._root / folder, "list") from inner

    def _walk(self, path: Path, key: str) -> Iterator[ObjectInfo]:
        with os.scandir(path) as entries:
            for entry in entries:
                name = f"{key}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    yield from self._walk(path / entry.name, name)
                elif entry.is_file(follow_symlinks=False) and KEY.match(name):
                    try:
                        found = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    yield ObjectInfo(name, found.st_size, time_of(found.st_mtime))

    def delete(self, key: str) -> None:
        path = self._root / check_key(key)
        self._check()
        try:
            os.unlink(path)
            sync_folder(path.parent)
        except FileNotFoundError:
            return
        except OSError as inner:
            raise self._explain(inner, path, "delete") from inner

    def free_bytes(self) -> int | None:
        try:
            figures = os.statvfs(self._root)
        except OSError as inner:
            raise self._explain(inner, self._root, "measure") from inner
        return figures.f_bavail * figures.f_frsize

    def keep_reserve(self, size_bytes: int) -> None:
        path = self._root / _RESERVE
        self._check()
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                kept = os.fstat(descriptor).st_size
                figures = os.statvfs(self._root)
                free = figures.f_bavail if os.geteuid() else figures.f_bfree
                free *= figures.f_frsize
                # The last of a file system is left to others: their databases stop without it.
                room = free - min(_LEFT_TO_OTHERS_BYTES, free // 16)
                if size_bytes > kept and room:
                    os.posix_fallocate(descriptor, 0, min(size_bytes, kept + room))
            finally:
                os.close(descriptor)
        except OSError as inner:
            if inner.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise self._explain(inner, path, "reserve space in") from inner

    def give_back_reserve(self) -> None:
        path = self._root / _RESERVE
        self._check()
        try:
            path.unlink(missing_ok=True)
        except OSError as inner:
            raise self._explain(inner, path, "give back") from inner

    def _check(self) -> str:
        """The store's identity; the marker is read again only when the folder is another one."""
        try:
            found = os.stat(self._root)
            device = (found.st_dev, found.st_ino)
            if device == self._device and os.path.exists(self._root / MARKER):
                return self._identity
            identity = (self._root / MARKER).read_text("ascii", errors="replace")
        except OSError as inner:
            raise _failure(inner, self._root, "find the store", vanished=True) from inner
        if self._identity and identity != self._identity:
            raise StorageFailure(
                "storage.vanished",
                f"Another store now lies at {self._root}.",
                evidence=[Evidence(f"marker {identity[:64]!r}", str(self._root / MARKER))],
                retryable=True,
            )
        self._device = device
        return identity

    def _explain_put(self, inner: OSError, target: Path) -> StorageFailure:
        if inner.errno in NO_LINKS:
            with contextlib.suppress(OSError):
                if links_refused(self._root / "tmp") is not None:
                    return _linkless(inner, self._root)
        return self._explain(inner, target, "write")

    def _explain(self, inner: OSError, path: Path, doing: str) -> StorageFailure:
        if inner.errno == errno.ENOENT:
            try:
                self._check()
            except StorageFailure as failure:
                return failure
            if not path.parent.is_dir():
                return _failure(inner, path.parent, "find the store's folder", vanished=True)
            return ObjectMissing(
                "storage.object-missing",
                f"{path} does not exist.",
                evidence=[Evidence("no such file", str(path), raw=str(inner))],
            )
        return _failure(inner, path, doing)


def _linkless(inner: OSError, path: Path) -> StorageFailure:
    return StorageFailure(
        "storage.links-unsupported",
        f"The file system of {path} has no hard links, by which a vault's files are made at once.",
        evidence=[
            Evidence(
                f"{errno.errorcode.get(inner.errno or 0, 'error')} while trying to link a new file",
                str(path),
                raw=str(inner),
            )
        ],
    )


def _failure(inner: OSError, path: Path, doing: str, *, vanished: bool = False) -> StorageFailure:
    evidence = [
        Evidence(
            f"{errno.errorcode.get(inner.errno or 0, 'error')} while trying to {doing}",
            str(path),
            raw=str(inner),
        )
    ]
    number = inner.errno
    if vanished or number in (errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN):
        return StorageFailure(
            "storage.vanished",
            f"The vault's store is not at {path}: is its file system mounted?",
            evidence=evidence,
            retryable=True,
        )
    if number in (errno.ENOSPC, errno.EDQUOT):
        return StorageFailure(
            "storage.full", f"No space is left to write {path}.", evidence=evidence
        )
    if number == errno.EROFS:
        return StorageFailure(
            "storage.read-only", f"{path} lies on a read-only file system.", evidence=evidence
        )
    if number in (errno.EACCES, errno.EPERM):
        return StorageFailure(
            "storage.denied", f"Not allowed to {doing} {path}.", evidence=evidence
        )
    return StorageFailure(
        "storage.io-error",
        f"Could not {doing} {path}: {inner.strerror}.",
        evidence=evidence,
        retryable=True,
    )
