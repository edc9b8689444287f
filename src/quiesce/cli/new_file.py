"""Files that commands write: whole, private, and over nothing that exists."""

from __future__ import annotations

import os
from pathlib import Path

from quiesce.model.failure import Evidence, InputFailure


def check_free(file: Path) -> None:
    """Before anything is done for what the file is to hold.

    :raise InputFailure: input.file-exists
    """
    if os.path.lexists(file):
        raise InputFailure("input.file-exists", f"There is a file {file} already.")


def write_new(file: Path, content: bytes) -> None:
    """Whole or not at all, for its owner alone, and over nothing that exists.

    :raise InputFailure: input.file-exists, input.file-unwritable
    """
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        try:
            # Unlike a rename, a link does not replace what has come there meanwhile.
            os.link(part, file)
        finally:
            part.unlink()
    except FileExistsError as taken:
        raise InputFailure("input.file-exists", f"There is a file {file} already.") from taken
    except OSError as refused:
        raise InputFailure(
            "input.file-unwritable",
            f"{file} cannot be written: {refused.strerror or refused}.",
            evidence=[Evidence("writing was refused", str(file), raw=str(refused))],
        ) from refused
