"""The file of an image that is restored: a temporary name in its own folder until it is whole, then
the final name, durably."""

from __future__ import annotations

import errno
import os
import secrets
import shlex
from collections.abc import Callable
from pathlib import Path

from quiesce.block import image_lock
from quiesce.model.failure import Evidence, RestoreFailure


class Place:
    """Where a file is to appear, and its temporary name until then. The image that it replaces,
    if any, is kept from being opened by a VM from `create` on."""

    def __init__(
        self,
        final: Path,
        *,
        overwrite: bool,
        on_begun: Callable[[Path], None],
        on_whole: Callable[[str], None],
    ) -> None:
        self.final = final
        self.temporary = final.parent / f".quiesce-{secrets.token_hex(8)}.partial"
        self._overwrite = overwrite
        self._on_begun = on_begun
        self._on_whole = on_whole
        self._replaced = -1

    def create(self) -> int:
        """A descriptor of the temporary file."""
        self._on_begun(self.temporary)
        try:
            if self._overwrite:
                self._hold_replaced()
            return os.open(self.temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._let_go()
            raise not_writable(error, self.final) from error

    def _hold_replaced(self) -> None:
        try:
            self._replaced = os.open(self.final, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            image_lock.hold(self._replaced, self.final)
        except BaseException:
            self._let_go()
            raise

    def _let_go(self) -> None:
        if self._replaced >= 0:
            os.close(self._replaced)
            self._replaced = -1

    def publish(self) -> None:
        """Durably under its final name. Without `overwrite`, what appeared there meanwhile wins."""
        try:
            _sync(self.temporary)
            self._on_whole(identity(self.temporary) or "")
            if self._overwrite:
                # Once more: another file may have got this name since `create`.
                self._let_go()
                self._hold_replaced()
                os.replace(self.temporary, self.final)
            else:
                self._name_if_free()
            _sync(self.final.parent)
        except FileExistsError as error:
            raise RestoreFailure(
                "restore.target-exists",
                f"{self.final} appeared while the disk was being restored.",
                evidence=[Evidence("the name was free when the restore began", str(self.final))],
            ) from error
        except OSError as error:
            raise write_failure(error, self.final, "giving the image its name") from error
        self._let_go()

    def _name_if_free(self) -> None:
        try:
            os.link(self.temporary, self.final)
        except FileExistsError:
            raise
        except OSError:
            # No hard links here, as on vfat and some network mounts: the next best is to look
            # once more before renaming.
            if self.final.exists():
                raise FileExistsError(errno.EEXIST, "exists", str(self.final)) from None
            os.rename(self.temporary, self.final)
        else:
            os.unlink(self.temporary)

    def discard(self) -> tuple[Evidence, ...]:
        """The temporary file goes, if that can be done: else what stays behind. Idempotent, and
        never raises: whoever gives up has a failure of its own to tell of."""
        try:
            self._let_go()
            os.unlink(self.temporary)
        except FileNotFoundError:
            return ()
        except OSError as error:
            fact = "what was written stays behind: it could not be removed"
            return (Evidence(fact, str(self.temporary), raw=str(error)),)
        return ()


def identity(path: Path) -> str | None:
    """Tells one file from all others of its file system, as long as it is not written to; not by
    its device's number, which may be another one after a reboot. None when there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def not_writable(error: OSError, path: Path) -> RestoreFailure:
    return RestoreFailure(
        "restore.target-not-writable",
        f"{path} cannot be written.",
        evidence=[Evidence("refused by the system", str(path), raw=str(error))],
        remedy=f"Make the folder first: `mkdir -p {shlex.quote(str(path.parent))}`"
        if isinstance(error, FileNotFoundError)
        else "",
    )


def write_failure(error: OSError, path: Path, what: str) -> RestoreFailure:
    evidence = [Evidence(f"{what} failed", str(path), raw=str(error))]
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RestoreFailure(
            "restore.no-space", f"There is no space left for {path}.", evidence=evidence
        )
    return RestoreFailure(
        "restore.write-failed", f"{path} could not be written.", evidence=evidence
    )
