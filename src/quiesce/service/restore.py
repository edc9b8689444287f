"""Writing disks of a point back: where to, and the steps of the job."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

from quiesce.block.image import open_target
from quiesce.block.image_lock import refuse_in_use
from quiesce.block.place import identity
from quiesce.block.room import require_room
from quiesce.model.damage import DiskHealth
from quiesce.model.failure import (
    Evidence,
    InputFailure,
    NotFoundFailure,
    RestoreFailure,
)
from quiesce.model.job import Job, RestoredDisk, TaskName, TaskStatus
from quiesce.model.point import PointDisk, RecoveryPoint
from quiesce.model.progress import Progress
from quiesce.service.codec import from_json
from quiesce.service.console import Console
from quiesce.service.incomplete import Incomplete, incomplete, loss_of, loss_text
from quiesce.service.requests import RestoreRequest
from quiesce.service.work import Parts, begin, end_by_task, run_task, take_up, was_interrupted
from quiesce.transfer.restore import data_bytes, restore_disk
from quiesce.vault.points.reader import VaultDiskReader

_RESTORE = TaskName.RESTORE
_SUFFIX = {"raw": ".img", "qcow2": ".qcow2"}


@dataclass(frozen=True, slots=True)
class Target:
    """One disk and the file it is written to."""

    disk: PointDisk
    path: Path


def plan_targets(
    point: RecoveryPoint, request: RestoreRequest, *, restored: Sequence[RestoredDisk] = ()
) -> tuple[Target, ...]:
    """Where each disk goes. Nothing is written, the targets are only looked at: except those that
    an earlier run of the job has `restored`, which are the job's own.

    `to` is a folder when it is one, is said to be one or when several disks are asked for; for a
    single disk it is the file's path.

    :raise InputFailure: input.path-invalid
    :raise NotFoundFailure: restore.disk-not-found
    :raise RestoreFailure: restore.target-exists, restore.target-in-use
    """
    if not request.to.is_absolute():
        raise InputFailure(
            "input.path-invalid",
            f"The path {str(request.to)!r} is not absolute.",
            remedy="Give the whole path on the server's host, from / on.",
        )
    disks = _chosen(point, request.disks)
    if not _into_folder(request, len(disks)):
        targets: tuple[Target, ...] = (Target(disks[0], request.to),)
    else:
        names = _file_names([disk.name for disk in disks], _SUFFIX[request.format])
        targets = tuple(
            Target(disk, request.to / name) for disk, name in zip(disks, names, strict=True)
        )
    for target in targets:
        if _in_place(target, restored):
            continue
        if not request.overwrite and os.path.lexists(target.path):
            raise RestoreFailure(
                "restore.target-exists",
                f"{target.path} exists already.",
                evidence=[
                    Evidence(
                        "a block device"
                        if target.path.is_block_device()
                        else "a file of this name",
                        str(target.path),
                    )
                ],
                remedy="Choose another path, or allow overwriting (`--overwrite`).",
            )
        refuse_in_use(target.path)
    return targets


def _in_place(target: Target, restored: Sequence[RestoredDisk]) -> bool:
    """Whether this disk has been restored. The process may have been killed between the file's
    getting its name and the note of it: then the file itself tells."""
    return any(
        (known.disk, known.path) == (target.disk.name, str(target.path))
        and (known.in_place or known.file == identity(target.path))
        for known in restored
    )


def _chosen(point: RecoveryPoint, wanted: tuple[str, ...] | None) -> tuple[PointDisk, ...]:
    if wanted is None:
        return point.disks
    by_name = {disk.name: disk for disk in point.disks}
    for name in wanted:
        if name not in by_name:
            raise NotFoundFailure(
                "restore.disk-not-found",
                f"The point {point.id} has no disk {name!r}.",
                evidence=[Evidence(f"its disks: {', '.join(by_name)}", "recovery point")],
            )
    return tuple(by_name[name] for name in dict.fromkeys(wanted))


def _file_names(disks: list[str], suffix: str) -> list[str]:
    """One file name for each disk name: made of harmless characters, never hidden, all different.

    A disk's name is the guest administrator's free text and must not reach out of the folder.
    """
    names: list[str] = []
    for disk in disks:
        plain = unicodedata.normalize("NFC", disk)
        safe = re.sub(r"[^\w.+-]+", "_", plain).strip("._")
        # File systems bound a name by bytes, and a cut may fall inside a character.
        safe = safe.encode()[:100].decode(errors="ignore") or "disk"
        name, number = safe + suffix, 2
        while name.casefold() in (taken.casefold() for taken in names):
            name, number = f"{safe}-{number}{suffix}", number + 1
        names.append(name)
    return names


def restore(parts: Parts, job_id: str) -> None:
    """The job's one task: all disks, one after the other. A disk appears under its name only when
    it is whole. After an interruption every disk that is not in place is written anew; one that is
    stays as it is, and whoever uses it by now is not disturbed."""
    job = begin(parts, job_id)
    if not job.status.ended and take_up(parts, job, _RESTORE):
        run_task(parts, job_id, _RESTORE, lambda: _restore(parts, job))


def _restore(parts: Parts, job: Job) -> str:
    console = parts.console(job.id, _RESTORE)
    request = from_json(RestoreRequest, parts.book.request(job.id))
    point = parts.points.get(request.point_id)
    if was_interrupted(job, _RESTORE):
        console.note("warning", "The server was interrupted during the restore; anew.")
        _remove_temporary_files(console, job)
    targets = plan_targets(point, request, restored=job.restored)
    console.stop_if_cancelled()
    make_folder_of(request, targets)
    readers = [
        parts.points.reader(point.id, target.disk.name, salvage=request.salvage)
        for target in targets
    ]
    sizes = [data_bytes(reader) for reader in readers]
    require_room(
        (target.path, size)
        for target, size in zip(targets, sizes, strict=True)
        if not _in_place(target, job.restored)
    )
    done = 0
    for target, reader, size in zip(targets, readers, sizes, strict=True):
        if _in_place(target, job.restored):
            console.note("info", f"Disk {target.disk.name} is at {target.path} already.")
            done += size
            continue
        restored = restore_disk(
            reader,
            open_target(
                target.path,
                reader.size_bytes,
                request.format,
                overwrite=request.overwrite,
                data_bytes=size,
                on_begun=partial(_note_begun, parts, job.id, target),
                on_whole=partial(_note_whole, parts, job.id, target, reader),
            ),
            on_progress=partial(_show, console, done, sum(sizes)),
            cancelled=console.cancelled,
            phase=f"Restoring disk {target.disk.name}",
        )
        lost = loss_of(target.disk.name, reader.lost)
        _note(parts, job.id, target, in_place=True, lost=lost)
        done += restored.written_bytes
        data = restored.written_bytes - lost.hurt_bytes
        console.note(
            "info",
            f"Disk {target.disk.name} is at {target.path}: {data} bytes of data in "
            f"{restored.seconds:.1f} s.",
        )
        if lost.hurt_bytes:
            console.note("error", f"It is incomplete: {loss_text(lost)}.")
    hurt = [
        Incomplete(disk.lost, disk.path)
        for disk in parts.book.get(job.id).restored  # an earlier run's, too
        if disk.lost is not None and disk.lost.hurt_bytes
    ]
    if hurt:
        raise incomplete(hurt, chain.from_iterable(reader.why for reader in readers))
    parts.book.move_task(job.id, _RESTORE, TaskStatus.COMPLETED)
    return "done"


def _note_begun(parts: Parts, job_id: str, target: Target, temporary: Path) -> None:
    _note(parts, job_id, target, temporary=str(temporary))


def _note_whole(
    parts: Parts, job_id: str, target: Target, reader: VaultDiskReader, file: str
) -> None:
    _note(parts, job_id, target, file, lost=loss_of(target.disk.name, reader.lost))


def _note(
    parts: Parts,
    job_id: str,
    target: Target,
    file: str = "",
    *,
    temporary: str = "",
    in_place: bool = False,
    lost: DiskHealth | None = None,
) -> None:
    name = target.disk.name

    def noted(job: Job) -> Job:
        before = {disk.disk: disk for disk in job.restored}
        disk = before.pop(name, None) or RestoredDisk(name, str(target.path))
        temporary_now = temporary or disk.temporary
        disk = replace(disk, file=file, in_place=in_place, temporary=temporary_now, lost=lost)
        return replace(job, restored=(*before.values(), disk))

    parts.book.update(job_id, noted)


def _show(console: Console, done_bytes: int, total_bytes: int, disk: Progress) -> None:
    """One disk's progress as the whole job's."""
    console.progress(
        replace(disk, done_bytes=done_bytes + disk.done_bytes, total_bytes=total_bytes)
    )


def _into_folder(request: RestoreRequest, disks: int) -> bool:
    return disks > 1 or request.folder or request.to.is_dir()


def make_folder_of(request: RestoreRequest, targets: Sequence[Target]) -> None:
    """The one that the targets lie in, unless the single target is the file that was asked for.

    :raise RestoreFailure: restore.target-not-writable
    """
    folder = request.to
    if not _into_folder(request, len(targets)):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RestoreFailure(
            "restore.target-not-writable",
            f"The folder {folder} cannot be made: {error.strerror}.",
            evidence=[Evidence("refused by the system", str(folder), raw=str(error))],
        ) from error


def _remove_temporary_files(console: Console, job: Job) -> None:
    """The half-written images of the interrupted run: those that the job has noted, since any other
    may be what somebody else is writing."""
    for disk in job.restored:
        if disk.temporary and not disk.in_place:
            try:
                Path(disk.temporary).unlink(missing_ok=True)
            except OSError as error:
                text = f"{disk.temporary} stays behind from the interrupted run: {error.strerror}."
                console.note("warning", text)


def end(parts: Parts, job_id: str) -> None:
    """The status that follows from the one task."""
    end_by_task(parts, job_id, _RESTORE)
