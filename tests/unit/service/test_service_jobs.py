"""Backup, restore and verify jobs of a real service on a VM of paper."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from paper_machine import FakeClock, PaperMachine, ended, eventually

from quiesce.model.failure import Failure
from quiesce.model.job import Job, JobKind, JobStatus, Task, TaskName, TaskStatus
from quiesce.model.vm import VmAddress
from quiesce.service.database import Database
from quiesce.service.job_book import JOB_MOVES, TASK_MOVES, JobBook
from quiesce.service.requests import RestoreRequest
from quiesce.service.service import Service
from quiesce.service.sweep import sweep


def backed_up(service: Service) -> Job:
    job = ended(service, service.jobs.start_backup("web"))
    assert job.status is JobStatus.COMPLETED, job
    return job


def test_backup_makes_a_point_with_its_consistency_and_leaves_nothing(
    service: Service, machine: PaperMachine
) -> None:
    job = backed_up(service)

    point = service.points.get(job.point_id)
    assert point.job_id == job.id
    assert [(disk.name, disk.size_bytes) for disk in point.disks] == [("vda", len(machine.content))]
    assert job.consistency is not None
    assert job.consistency.level == "file-system"
    assert [task.status for task in job.tasks] == [TaskStatus.COMPLETED] * 2
    assert machine.clean
    view = service.vms.show("web")
    assert (view.point_count, view.newest_point, view.active_job) == (1, point, "")
    assert view.last_job is not None
    assert view.last_job.id == job.id


def test_a_second_backup_of_the_same_vm_is_refused_and_names_the_first(
    service: Service, machine: PaperMachine
) -> None:
    machine.hold("prepare")
    first = service.jobs.start_backup("web")

    with pytest.raises(Failure) as refused:
        service.jobs.start_backup("web")

    assert refused.value.code == "policy.in-progress"
    assert first.id in refused.value.remedy
    machine.let_go("prepare")
    ended(service, first)
    backed_up(service)


@pytest.mark.parametrize("stage", ["prepare", "pre-script", "frozen", "take", "open", "read"])
def test_cancel_in_each_phase_ends_the_job_and_leaves_nothing(
    service: Service, machine: PaperMachine, stage: str
) -> None:
    machine.hold(stage)
    job = service.jobs.start_backup("web")
    machine.reached(stage)

    service.jobs.cancel(job.id)
    machine.let_go(stage)

    assert ended(service, job).status is JobStatus.CANCELLED
    assert machine.clean
    assert service.points.all() == ()


def test_a_job_that_waits_for_its_turn_is_cancelled_at_once(
    service: Service, machine: PaperMachine, tmp_path: Path
) -> None:
    others = [PaperMachine(tmp_path / name) for name in ("a", "b")]
    for other in others:
        service.vms.add(VmAddress(other.folder.name, other.folder))
        other.hold("prepare")
        service.jobs.start_backup(other.folder.name)
        other.reached("prepare")
    waiting = service.jobs.start_backup("web")

    assert service.jobs.cancel(waiting.id).status is JobStatus.CANCELLED
    with pytest.raises(Failure) as again:
        service.jobs.cancel(waiting.id)

    assert again.value.code == "job.already-ended"
    for other in others:
        other.let_go("prepare")
    backed_up(service)


def test_a_backup_of_a_vm_that_is_gone_fails_with_its_reason(
    service: Service, machine: PaperMachine
) -> None:
    machine.folder.rename(machine.folder.with_name("moved"))

    job = ended(service, service.jobs.start_backup("web"))

    assert job.status is JobStatus.FAILED
    assert job.failure is not None
    assert job.failure.code == "vm.not-found"
    assert [task.status for task in job.tasks] == [TaskStatus.FAILED, TaskStatus.SKIPPED]
    machine.folder.with_name("moved").rename(machine.folder)


def test_progress_is_seen_live_while_data_moves(service: Service, machine: PaperMachine) -> None:
    machine.hold("read")
    job = service.jobs.start_backup("web")
    machine.reached("read")

    def total() -> int:
        return service.jobs.get(job.id).tasks[1].progress.total_bytes

    eventually(total, "progress")
    assert total() >= len(machine.content)
    machine.let_go("read")
    assert ended(service, job).tasks[1].progress.done_bytes >= len(machine.content)


def test_restore_to_a_folder_names_files_after_disks_and_gives_their_bytes_back(
    service: Service, machine: PaperMachine, tmp_path: Path
) -> None:
    (machine.folder / ".. odd $name.disk").write_bytes(b"x" * 4096)
    point = backed_up(service).point_id
    folder = tmp_path / "out"

    job = ended(service, service.jobs.start_restore(RestoreRequest(point, folder)))

    assert job.status is JobStatus.COMPLETED, job
    assert sorted(path.name for path in folder.iterdir()) == ["odd_name.img", "vda.img"]
    assert (folder / "vda.img").read_bytes() == machine.content


def test_restore_over_an_existing_file_is_refused_before_there_is_a_job(
    service: Service, machine: PaperMachine, tmp_path: Path
) -> None:
    point = backed_up(service).point_id
    target = tmp_path / "mine.img"
    target.write_text("precious")

    with pytest.raises(Failure) as refused:
        service.jobs.start_restore(RestoreRequest(point, target))

    assert refused.value.code == "restore.target-exists"
    assert target.read_text() == "precious"
    job = service.jobs.start_restore(RestoreRequest(point, target, overwrite=True))
    assert ended(service, job).status is JobStatus.COMPLETED
    assert target.read_bytes() == machine.content


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (RestoreRequest("", Path("relative")), "input.path-invalid"),
        (RestoreRequest("", Path("/tmp/x"), disks=("vdz",)), "restore.disk-not-found"),
        (RestoreRequest("0" * 24, Path("/tmp/x")), "restore.point-not-found"),
    ],
)
def test_a_restore_that_cannot_be_is_refused(
    service: Service, request_: RestoreRequest, code: str
) -> None:
    point = backed_up(service).point_id

    with pytest.raises(Failure) as refused:
        service.jobs.start_restore(
            request_ if request_.point_id else replace(request_, point_id=point)
        )

    assert refused.value.code == code


def test_verify_of_a_whole_vault_completes_and_of_a_damaged_one_names_the_points(
    service: Service, tmp_path: Path
) -> None:
    point = backed_up(service).point_id
    assert ended(service, service.jobs.start_verify("chunks")).status is JobStatus.COMPLETED

    for pack in (tmp_path / "data" / "vault" / "packs").rglob("*"):
        if pack.is_file():
            data = bytearray(pack.read_bytes())
            data[len(data) // 2] ^= 1
            pack.chmod(0o600)
            pack.write_bytes(data)
    job = ended(service, service.jobs.start_verify("packs"))

    assert job.status is JobStatus.FAILED
    assert job.failure is not None
    assert job.failure.code == "vault.damaged"
    assert any(point in evidence.fact for evidence in job.failure.evidence)


def test_a_deletion_is_shown_first_and_then_done(service: Service) -> None:
    point = backed_up(service).point_id

    shown = service.points.delete(point, dry_run=True)
    assert not shown.executed
    assert shown.freed_bytes > 0
    assert service.points.get(point)

    assert service.points.delete(point, dry_run=False).executed
    with pytest.raises(Failure) as gone:
        service.points.get(point)
    assert gone.value.code == "restore.point-not-found"


def test_backup_under_a_policy_prunes_what_no_rule_wants(
    service: Service, clock: FakeClock
) -> None:
    clock.time = datetime.now(UTC) + timedelta(hours=1)  # points carry the VM's own time
    view = service.policies.show("daily")
    service.policies.change(replace(view, keep_last=2, keep_daily=0))
    service.vms.protect("web", "daily")

    made = [backed_up(service).point_id for _ in range(4)]

    assert [point.id for point in service.points.all()] == made[:1:-1]


def test_two_jobs_with_the_same_step_never_share_their_log(service: Service) -> None:
    first, second = backed_up(service), backed_up(service)

    texts = [line.text for line in first.log + second.log]
    assert any(first.point_id in text for text in texts)
    assert not any(second.point_id in line.text for line in first.log)


_JOB = Job("0" * 12, JobKind.VERIFY, "", JobStatus.QUEUED, datetime(2026, 1, 1, tzinfo=UTC), ())


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobBook]:
    database = Database(tmp_path_factory.mktemp("book") / "db.sqlite")
    database.migrate()
    yield JobBook(database, FakeClock())
    database.close()


def opened(book: JobBook, job: Job) -> Job:
    job = replace(job, id=secrets.token_hex(6))
    return book.open(job, slot=job.id, request="{}")


@pytest.mark.parametrize(("old", "new"), [*itertools.product(JobStatus, JobStatus)])
def test_a_job_moves_only_as_the_table_says(book: JobBook, old: JobStatus, new: JobStatus) -> None:
    job = opened(book, replace(_JOB, status=old))

    if new is old or new in JOB_MOVES[old]:
        assert book.update(job.id, lambda job: replace(job, status=new)).status is new
    else:
        with pytest.raises(Failure) as illegal:
            book.update(job.id, lambda job: replace(job, status=new))
        assert illegal.value.code == "job.illegal-move"
        assert book.get(job.id).status is old


@pytest.mark.parametrize(("old", "new"), [*itertools.product(TaskStatus, TaskStatus)])
def test_a_task_moves_only_as_the_table_says(
    book: JobBook, old: TaskStatus, new: TaskStatus
) -> None:
    job = opened(book, replace(_JOB, tasks=(Task(TaskName.VERIFY, old),)))

    if new is old or new in TASK_MOVES[old]:
        assert book.move_task(job.id, TaskName.VERIFY, new).tasks[0].status is new
    else:
        with pytest.raises(Failure) as illegal:
            book.move_task(job.id, TaskName.VERIFY, new)
        assert illegal.value.code == "job.illegal-move"
        assert book.get(job.id).tasks[0].status is old


def test_an_ended_job_frees_its_place_and_no_status_is_a_dead_end_for_it() -> None:
    for status, moves in JOB_MOVES.items():
        assert status.ended == (not moves)


def test_a_disk_seen_while_running_is_never_probed_for_its_format_later(
    service: Service, machine: PaperMachine
) -> None:
    """A guest that owns a raw disk could make it look like an image that names a host's file."""
    service.vms.look("web")
    address = service.vms.address("web")
    assert address.disks == (("vda", machine.folder / "vda.disk"),)
    assert address.formats == (("vda", "raw"),)


def test_a_vm_whose_qmp_socket_another_has_is_refused_and_the_other_named(
    service: Service, machine: PaperMachine
) -> None:
    with pytest.raises(Failure) as refused:
        service.vms.add(VmAddress("alias", machine.folder))

    assert refused.value.code == "vm.already-known"
    assert "web" in refused.value.message


def test_a_sweep_of_one_vm_leaves_the_running_backup_of_another_on_the_same_hypervisor(
    service: Service, machine: PaperMachine, tmp_path: Path
) -> None:
    alias = tmp_path / "alias"
    alias.symlink_to(machine.folder)
    service.vms.add(VmAddress("alias", alias))
    machine.hold("read")
    job = service.jobs.start_backup("web")
    machine.reached("read")

    assert sweep(service._parts, "alias") == ()
    machine.let_go("read")

    assert ended(service, job).status is JobStatus.COMPLETED


def test_the_vault_collects_its_garbage_after_a_backup_that_failed(
    service: Service, machine: PaperMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service._parts.points, "collect_when_due", lambda: "The vault freed room.")
    monkeypatch.setattr(service._parts.points, "writer", lambda *_: 1 / 0)

    job = ended(service, service.jobs.start_backup("web"))

    assert job.point_id == ""
    assert "The vault freed room." in [line.text for line in service.jobs.get(job.id).log]
