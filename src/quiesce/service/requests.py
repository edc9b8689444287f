"""What restore and verify jobs are asked for; kept with the job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """`to` is absolute, on the server's host: a folder, or for one disk the file itself.
    `disks` None means all of the point's. `format` is raw or qcow2."""

    point_id: str
    to: Path
    disks: tuple[str, ...] | None = None
    format: str = "raw"
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """`mode` is structure, packs or chunks."""

    mode: str
