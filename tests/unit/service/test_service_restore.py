"""Restore jobs: what they refuse, and what becomes of one that was interrupted."""

from __future__ import annotations

import fcntl
import os
import secrets
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from paper_machine import PaperMachine, ended

from quiesce.block.image import open_target
from quiesce.model.failure import Failure
from quiesce.model.job import Job, JobKind, JobStatus, Task, TaskName
from quiesce.service import restore
from quiesce.service.codec import to_json
from quiesce.service.requests import RestoreRequest
from quiesce.service.service import Service


def test_a_restore_onto_a_disk_that_a_vm_has_open_is_refused_before_there_is_a_job(
    service: Service, machine: PaperMachine, tmp_path: Path
) -> None:
    point = ended(service, service.jobs.start_backup("web")).point_id
    target = tmp_path / "vda.img"
    target.write_bytes(b"in use")
    jobs = service.jobs.newest()
    with target.open("rb") as as_qemu_has_it:
        write_permission = struct.pack("@hhqqi4x", fcntl.F_RDLCK, 0, 101, 1, 0)
        fcntl.fcntl(as_qemu_has_it, fcntl.F_OFD_SETLK, write_permission)
        with pytest.raises(Failure) as refused:
            service.jobs.start_restore(RestoreRequest(point, target, overwrite=True))

    assert refused.value.code == "restore.target-in-use"
    assert service.jobs.newest() == jobs
    assert target.read_bytes() == b"in use"
    ended(service, service.jobs.start_restore(RestoreRequest(point, target, overwrite=True)))
    assert target.read_bytes() == machine.content


def test_a_folder_that_is_said_to_be_one_is_made_for_a_single_disk(
    service: Service, machine: PaperMachine, tmp_path: Path
) -> None:
    point = ended(service, service.jobs.start_backup("web")).point_id
    folder = tmp_path / "new"
    ended(service, service.jobs.start_restore(RestoreRequest(point, folder, folder=True)))
    (made,) = folder.iterdir()
    assert made.read_bytes() == machine.content


@pytest.fixture
def two_disks(machine: PaperMachine) -> PaperMachine:
    (machine.folder / "vdb.disk").write_bytes(os.urandom(100_000))
    return machine


class Killed(BaseException):
    """Stands for the end of the process: nothing of the job runs after it."""


def interrupted_restore(
    service: Service, request: RestoreRequest, monkeypatch: pytest.MonkeyPatch, at: str
) -> str:
    """A restore whose process ended: while it wrote the first disk, while it opened the second, or
    when the first disk had its name and that was not noted yet."""
    job = Job(
        secrets.token_hex(6),
        JobKind.RESTORE,
        "web",
        JobStatus.QUEUED,
        service._parts.clock.now(),
        (Task(TaskName.RESTORE),),
    )
    service._parts.book.open(job, slot=f"test:{job.id}", request=to_json(request))

    opened: list[Path] = []

    def killed_at_the_second(path: Path, *given: Any, **named: Any) -> Any:
        opened.append(path)
        if len(opened) == 2:
            raise Killed
        return open_target(path, *given, **named)

    def killed_after_the_name(*given: object, in_place: bool = False, **named: object) -> None:
        if in_place:
            raise Killed
        note(*given, **named)

    def killed_while_writing(*_: object, **__: object) -> None:
        raise Killed

    note: Any = restore._note

    with monkeypatch.context() as patched:
        if at == "half written":
            patched.setattr(restore, "restore_disk", killed_while_writing)
        elif at == "second disk":
            patched.setattr(restore, "open_target", killed_at_the_second)
        else:
            patched.setattr(restore, "_note", killed_after_the_name)
        with pytest.raises(Killed):
            restore.restore(service._parts, job.id)
    return job.id


def gone_on(service: Service, job_id: str) -> Job:
    restore.restore(service._parts, job_id)
    restore.end(service._parts, job_id)
    return service.jobs.get(job_id)


@pytest.mark.parametrize("at", ["second disk", "not noted yet"])
@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("format_", ["raw", "qcow2"])
def test_a_restore_of_several_disks_goes_on_after_an_interruption(
    service: Service,
    two_disks: PaperMachine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: str,
    overwrite: bool,
    format_: str,
) -> None:
    point = ended(service, service.jobs.start_backup("web")).point_id
    request = RestoreRequest(point, tmp_path / "out", format=format_, overwrite=overwrite)
    job_id = interrupted_restore(service, request, monkeypatch, at)
    (first,) = (tmp_path / "out").iterdir()
    before = first.stat()

    job = gone_on(service, job_id)

    assert job.status is JobStatus.COMPLETED, job
    assert [disk.in_place or disk.path == str(first) for disk in job.restored] == [True, True]
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    suffix = {"raw": ".img", "qcow2": ".qcow2"}[format_]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"vda{suffix}", f"vdb{suffix}"}
    if format_ == "raw":
        for name in ("vda", "vdb"):
            original = (two_disks.folder / f"{name}.disk").read_bytes()
            assert (tmp_path / "out" / f"{name}.img").read_bytes()[: len(original)] == original


def test_a_restored_disk_that_is_in_use_by_now_does_not_stop_the_rest(
    service: Service, two_disks: PaperMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = ended(service, service.jobs.start_backup("web")).point_id
    job_id = interrupted_restore(
        service, RestoreRequest(point, tmp_path / "out"), monkeypatch, "second disk"
    )
    (first,) = (tmp_path / "out").iterdir()
    with first.open("r+b") as vm:
        vm.write(b"the VM writes already")

    assert gone_on(service, job_id).status is JobStatus.COMPLETED
    assert first.read_bytes().startswith(b"the VM writes already")


def test_disks_that_do_not_fit_together_are_refused_before_the_first_is_written(
    service: Service, two_disks: PaperMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = ended(service, service.jobs.start_backup("web")).point_id
    out = tmp_path / "out"
    figures = SimpleNamespace(f_bavail=len(two_disks.content) + 50_000, f_frsize=1)
    with monkeypatch.context() as patched:
        patched.setattr(os, "statvfs", lambda folder: figures)
        job = ended(service, service.jobs.start_restore(RestoreRequest(point, out)))
    assert job.failure is not None
    assert job.failure.code == "restore.no-space"
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_link_that_leads_nowhere_is_in_the_way_before_there_is_a_job(
    service: Service, machine: PaperMachine, tmp_path: Path, overwrite: bool
) -> None:
    point = ended(service, service.jobs.start_backup("web")).point_id
    target = tmp_path / "vda.img"
    target.symlink_to(tmp_path / "nowhere")
    request = RestoreRequest(point, target, overwrite=overwrite)
    if overwrite:
        assert ended(service, service.jobs.start_restore(request)).status is JobStatus.COMPLETED
        assert (target.is_symlink(), target.read_bytes()) == (False, machine.content)
        return
    with pytest.raises(Failure) as refused:
        service.jobs.start_restore(request)
    assert refused.value.code == "restore.target-exists"


@pytest.mark.parametrize("format_", ["raw", "qcow2"])
def test_what_an_interrupted_restore_had_half_written_goes_and_what_others_write_stays(
    service: Service,
    machine: PaperMachine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    format_: str,
) -> None:
    point = ended(service, service.jobs.start_backup("web")).point_id
    out = tmp_path / "out"
    out.mkdir()
    others = open_target(out / "other.img", 5, "raw", overwrite=False)
    (other,) = out.iterdir()
    request = RestoreRequest(point, out, format=format_)
    job_id = interrupted_restore(service, request, monkeypatch, "half written")
    assert len(list(out.iterdir())) == 2

    assert gone_on(service, job_id).status is JobStatus.COMPLETED
    suffix = {"raw": ".img", "qcow2": ".qcow2"}[format_]
    assert {path.name for path in out.iterdir()} == {other.name, f"vda{suffix}"}
    others.finish()
    assert (out / "other.img").read_bytes() == bytes(5)


def test_a_half_written_file_that_cannot_be_removed_is_told_of(
    service: Service, machine: PaperMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = ended(service, service.jobs.start_backup("web")).point_id
    request = RestoreRequest(point, tmp_path / "out.img")
    job_id = interrupted_restore(service, request, monkeypatch, "half written")
    (partial,) = tmp_path.glob(".quiesce-*.partial")
    partial.unlink()
    partial.mkdir()  # stands for a file that this server may not remove

    job = gone_on(service, job_id)
    assert job.status is JobStatus.COMPLETED
    assert f"{partial} stays behind from the interrupted run" in " ".join(
        line.text for line in job.log if line.level == "warning"
    )


def test_a_file_that_somebody_else_put_there_meanwhile_is_not_taken_for_the_jobs_own(
    service: Service, two_disks: PaperMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = ended(service, service.jobs.start_backup("web")).point_id
    job_id = interrupted_restore(
        service, RestoreRequest(point, tmp_path / "out"), monkeypatch, "not noted yet"
    )
    (first,) = (tmp_path / "out").iterdir()
    first.unlink()
    first.write_bytes(b"precious")

    job = gone_on(service, job_id)

    assert job.failure is not None
    assert job.failure.code == "restore.target-exists"
    assert first.read_bytes() == b"precious"
