"""What jobs other than backups are asked for; kept with the job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """`to` is absolute, on the server's host: a folder, or for one disk the file itself.
    `folder`: it is a folder also when it is not there yet. `disks` None means all of the
    point's. `format` is raw or qcow2. `salvage`: zeros are written in place of what is damaged,
    and the job ends as failed."""

    point_id: str
    to: Path
    disks: tuple[str, ...] | None = None
    format: str = "raw"
    overwrite: bool = False
    folder: bool = False
    salvage: bool = False


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """`mode` is structure, packs, chunks or sample. `seconds`, `size_bytes` and `requests` are
    limits; `cursor` is where an earlier verification stopped at its limit. `sample` is how many
    chunks of mode sample are restored."""

    mode: str
    seconds: float | None = None
    size_bytes: int | None = None
    requests: int | None = None
    cursor: str = ""
    sample: int | None = None


@dataclass(frozen=True, slots=True)
class CollectRequest:
    """Only packs of these `marks` are deleted: records as a `CollectView` names them. None: all
    that is due when the job looks."""

    marks: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """`to` is the address of the target, as the server reaches it. Empty `vms` and `points` mean
    all of them; `newest` counts for each VM. `new`: a vault may be made there. `with_keys`: key
    slots are sent to a copy that is there already."""

    to: str
    vms: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    newest: int | None = None
    new: bool = False
    with_keys: bool = False

    @property
    def only(self) -> str:
        """What the copy is limited to, as the command says it; empty for all points."""
        words = [f"--vm {vm}" for vm in self.vms] + [f"--point {point}" for point in self.points]
        words += [] if self.newest is None else [f"--newest {self.newest}"]
        return " ".join(words)
