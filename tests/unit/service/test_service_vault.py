"""The vault's copies, keys and garbage, as the server sees to them."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from paper_machine import FakeClock, PaperMachine, ended

from quiesce.model.failure import Failure
from quiesce.model.job import Job, JobKind, JobStatus, TaskName
from quiesce.model.policy import SnapshotOptions
from quiesce.model.progress import Progress
from quiesce.service.job_book import JobBook
from quiesce.service.requests import CollectRequest, CopyRequest
from quiesce.service.service import Service
from quiesce.service.vault_key import open_vault, rotate_server_key
from quiesce.service.views import PolicyView
from quiesce.vault import KeyFile, LocalStore, Vault
from quiesce.vault.format.slots import list_slots
from quiesce.vault.stores.nowhere import Nowhere


@pytest.fixture
def second(tmp_path: Path) -> str:
    return str(tmp_path / "second")


@pytest.fixture
def point(service: Service, machine: PaperMachine) -> str:
    """The id of a point of `web`."""
    job = ended(service, service.jobs.start_backup("web"))
    assert job.status is JobStatus.COMPLETED
    return job.point_id


def copied(service: Service, to: str, *, new: bool = True) -> Job:
    return ended(service, service.jobs.start_copy(CopyRequest(to, new=new)))


def opened(service: Service, folder: str) -> Vault:
    return Vault.open(
        LocalStore(folder), KeyFile.parse(service.settings.vault_key_file.read_text())
    )


def test_a_copy_job_brings_the_points_and_says_so(
    service: Service, point: str, second: str
) -> None:
    plan = service.upkeep.plan_copy(CopyRequest(second, new=True))
    assert (plan.makes_vault, plan.points) == (True, (point,))
    job = copied(service, second)
    assert job.status is JobStatus.COMPLETED
    assert any("Copied: 1 point and" in line.text for line in job.log)
    assert [found.id for found in opened(service, second).points()] == [point]
    assert service.upkeep.plan_copy(CopyRequest(second)).points_there == 1
    assert job.tasks[0].progress.done_bytes == plan.size_bytes


def test_where_no_copy_is_none_is_begun_unless_that_is_said(service: Service, second: str) -> None:
    Path(second).mkdir()
    with pytest.raises(Failure) as caught:
        service.jobs.start_copy(CopyRequest(second))
    assert caught.value.code == "vault.copy-missing"
    with pytest.raises(Failure) as caught:
        service.jobs.start_copy(CopyRequest("second", new=True))
    assert caught.value.code == "input.vault-address-invalid"
    assert list(Path(second).iterdir()) == []


def test_a_copy_that_is_incomplete_fails_and_names_the_point(
    service: Service, point: str, second: str
) -> None:
    for pack in (Path(service.points.vault.contents.store.address) / "packs").glob("*/*"):
        pack.write_bytes(bytes(pack.stat().st_size))
    job = copied(service, second)
    assert job.status is JobStatus.FAILED
    assert job.failure is not None
    assert job.failure.code == "vault.copy-incomplete"
    assert point in job.failure.evidence[0].fact


def test_the_places_of_the_vault_are_told_by_the_jobs_that_copied(
    service: Service, second: str
) -> None:
    assert [place.role for place in service.upkeep.places()] == ["server"]
    copied(service, second)
    again = copied(service, second, new=False)
    (_, place) = service.upkeep.places()
    assert (place.location, place.job_id, place.status) == (second, again.id, "Completed")


def test_a_place_where_no_copy_was_completed_is_no_copy(
    service: Service, point: str, second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full.setattr(Nowhere, "free_bytes", lambda self: 1000)
        copied(service, second)
    assert [place.role for place in service.upkeep.places()] == ["server"]
    whole = ended(service, service.jobs.start_copy(CopyRequest(second, newest=1, new=True)))
    Path(second, "format").write_bytes(b"no vault any more")
    failed = copied(service, second)
    (_, place) = service.upkeep.places()
    assert (place.only, place.copied_at) == ("--newest 1", whole.started_at)
    assert (place.job_id, place.status) == (failed.id, "Failed")


def test_a_cancelled_copy_ends_as_cancelled(
    service: Service, point: str, second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(self: LocalStore, key: str, data: bytes) -> object:
        if key == "format" and second in self.address:
            (job,) = service.jobs.newest(limit=1)
            service.jobs.cancel(job.id)
        return original(self, key, data)

    original = LocalStore.put
    monkeypatch.setattr(LocalStore, "put", put)
    assert copied(service, second).status is JobStatus.CANCELLED
    assert opened(service, second).points() == ()
    assert copied(service, second).status is JobStatus.COMPLETED
    assert [found.id for found in opened(service, second).points()] == [point]


def test_a_garbage_collection_shows_how_far_it_is(
    service: Service, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Progress] = []
    show = JobBook.show_progress

    def watched(self: JobBook, job_id: str, task: TaskName, progress: Progress) -> None:
        seen.append(progress)
        show(self, job_id, task, progress)

    monkeypatch.setattr(JobBook, "show_progress", watched)
    ended(service, service.jobs.start_collect())
    looked = [progress for progress in seen if progress.phase == "Looking at points"]
    size = service.points.vault.point(point).size_bytes
    assert looked[-1].done_bytes == looked[-1].total_bytes == size
    assert looked[-1].rate > 0
    assert (seen[-1].done_bytes, seen[-1].total_bytes) == (0, 0)  # nothing was to be deleted


def test_a_garbage_collection_is_a_job(service: Service, point: str) -> None:
    service.points.delete(point, dry_run=False)
    job = ended(service, service.jobs.start_collect())
    assert job.status is JobStatus.COMPLETED
    assert job.log[-1].text.startswith("Stored lately, and nothing refers to it yet or any more")


def test_when_no_backup_collects_for_a_day_a_collection_is_started(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [service.points._monotonic()]
    monkeypatch.setattr(service.points, "_monotonic", lambda: now[0])
    service.points.collected()
    service.jobs.collect_if_overdue()
    assert service.jobs.newest() == ()
    now[0] += 25 * 3600
    service.jobs.collect_if_overdue()
    (job,) = service.jobs.newest()
    assert (job.kind, job.trigger) == (JobKind.COLLECT, "schedule")
    assert ended(service, job).status is JobStatus.COMPLETED
    service.jobs.collect_if_overdue()
    assert len(service.jobs.newest()) == 1


def test_the_servers_key_is_rotated_and_the_server_starts_again(
    service: Service, point: str
) -> None:
    old = service.settings.vault_key_file.read_text()
    change = service.upkeep.rotate(dry_run=False)
    assert [slot.id for slot in service.upkeep.slots()] == [change.added[0].id]
    assert service.settings.vault_key_file.read_text() != old
    assert [found.id for found in open_vault(service.settings).points()] == [point]


@pytest.mark.parametrize("step", ["add_key", "remove_key"])
def test_a_rotation_that_dies_leaves_a_server_that_starts_and_can_be_done_again(
    service: Service, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    vault = service.points.vault
    with monkeypatch.context() as patched:
        patched.setattr(vault, step, die)
        with pytest.raises(Killed):
            rotate_server_key(service.settings, vault)
    vault = open_vault(service.settings)
    rotate_server_key(service.settings, vault)
    slots = list_slots(vault.contents.store)
    assert len(slots) == (1 if step == "add_key" else 2)  # the old one is listed, to be removed
    assert open_vault(service.settings).config == vault.config


def test_pruning_applies_the_policies_rules(
    service: Service, machine: PaperMachine, point: str
) -> None:
    assert service.upkeep.prune(dry_run=True) == ()
    service.vms.protect("web", service.policies.all()[0].name)
    (prune,) = service.upkeep.prune(dry_run=True)
    assert (prune.vm, prune.plan.removed, len(prune.plan.kept)) == ("web", (), 1)


def test_pruning_removes_no_point_that_was_not_shown(
    service: Service, clock: FakeClock, point: str
) -> None:
    clock.time = datetime.now(UTC) + timedelta(minutes=1)
    others = {ended(service, service.jobs.start_backup("web")).point_id for _ in range(2)}
    rules = PolicyView("newest", None, "UTC", 1, 0, SnapshotOptions(), 1)
    service.policies.add(rules)
    service.vms.protect("web", "newest")
    (prune,) = service.upkeep.prune(dry_run=True)
    assert len(prune.plan.removed) == 2
    (prune,) = service.upkeep.prune((), {point, "unknown"}, dry_run=False)
    assert [gone.id for gone in prune.plan.removed] == [point]
    assert ("not among the points that were shown before",) in {k.reasons for k in prune.plan.kept}
    assert {left.id for left in service.points.all()} == others


def test_a_collection_deletes_nothing_that_fell_due_after_it_was_shown(
    service: Service, machine: PaperMachine, point: str
) -> None:
    vault = service.points.vault
    (machine.folder / "vda.disk").write_bytes(bytes(reversed(machine.content)))
    other = ended(service, service.jobs.start_backup("web")).point_id
    for each in (point, other):
        service.points.delete(each, dry_run=False)
    early, late = vault.contents.pack_sizes()

    def fall_due(pack: bytes) -> str:
        key = f"garbage/{pack.hex()[:32]}"
        long_ago = datetime.now(UTC) - timedelta(days=2)
        vault.contents.records.put(key, "garbage", {"at": long_ago, "packs": [pack.hex()]})
        os.utime(Path(vault.contents.store.address) / key, (long_ago.timestamp(),) * 2)
        return key

    mark = fall_due(early)
    shown = service.upkeep.plan_collect()
    assert (shown.delete_packs, shown.ripe_marks) == (1, (mark,))
    fall_due(late)
    ended(service, service.jobs.start_collect(CollectRequest(shown.ripe_marks)))
    left = vault.contents.pack_sizes()
    assert (early in left, late in left) == (False, True)
    ended(service, service.jobs.start_collect())
    assert late not in vault.contents.pack_sizes()


def test_a_copy_without_room_leaves_nothing_where_it_was_to_go(
    service: Service, point: str, second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Nowhere, "free_bytes", lambda self: 1000)
    job = copied(service, second)
    assert job.failure is not None
    assert job.failure.code == "storage.full"
    assert not Path(second).exists()
