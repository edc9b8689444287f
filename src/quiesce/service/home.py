"""The data folder: what the first start makes, and the lock that keeps a second server out."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

from quiesce.model.failure import Evidence, ExitCode, ServerFailure
from quiesce.service.settings import Settings

_SOCKET_ADDRESS_BYTES = 107  # sun_path of Linux, unix(7), without its closing zero


class Home:
    """A data folder held by this process until `close` or its end, whichever way it ends."""

    def __init__(self, settings: Settings) -> None:
        """Make the folders and files that are missing and take the lock.

        :raise ServerFailure: server.already-running, server.data-folder-unusable,
            server.socket-path-too-long
        """
        self.settings = settings
        length = len(os.fsencode(settings.api_socket))
        if length > _SOCKET_ADDRESS_BYTES:
            raise ServerFailure(
                "server.socket-path-too-long",
                f"The socket's path has {length} bytes; the system allows {_SOCKET_ADDRESS_BYTES}.",
                evidence=[Evidence("path too long", str(settings.api_socket))],
                remedy="Set `run_folder` to a shorter path.",
            )
        try:
            _keep_others_out()
            # A QEMU of another user must pass through to its own folder in the scratch space.
            for folder in (settings.data_folder, settings.scratch):
                if not folder.exists():
                    folder.mkdir(parents=True)
                    folder.chmod(0o711)
            settings.run.mkdir(parents=True, exist_ok=True)
            settings.run.chmod(0o700)
            self._lock = _locked(settings.lock_file)
            self.api_token = secret_file(settings.api_token_file)
            self.portal_password = secret_file(settings.portal_password_file, characters=16)
        except OSError as error:
            raise ServerFailure(
                "server.data-folder-unusable",
                f"The data folder {settings.data_folder} cannot be used: {error.strerror}.",
                evidence=[Evidence("refused by the system", str(error.filename), raw=str(error))],
                remedy="Make it writable for the server's user, or set QUIESCE_DATA_FOLDER.",
            ) from error

    def close(self) -> None:
        os.close(self._lock)


def _keep_others_out() -> None:
    """Whatever this process makes from here on, databases and restored disks among it, is its
    user's alone."""
    os.umask(0o077)


def secret_file(path: Path, *, characters: int = 43) -> str:
    """The secret in `path`, made when the file is missing or empty."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        text = ""
    if text:
        return text
    text = secrets.token_urlsafe(48)[:characters]
    write_secret(path, text + "\n")
    return text


def write_secret(path: Path, text: str) -> None:
    """Durably, readable for the owner only, and complete or not at all."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)


def _locked(path: Path) -> int:
    """The open lock file. The kernel frees it when this process ends, kill -9 included."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as taken:
        holder = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(handle)
        running = ServerFailure(
            "server.already-running",
            f"Another server (process {holder}) works on this data folder.",
            evidence=[Evidence(f"locked by process {holder}", str(path))],
            remedy=f"Use that one, or end it first: `kill {holder}`.",
        )
        running.exit_code = ExitCode.CONFLICT  # it is there: the opposite of unreachable
        raise running from taken
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle
