"""Restore jobs that salvage what can be read of a damaged point: they never end green."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from paper_machine import PaperMachine, backed_up, ended
from test_service_restore import gone_on, interrupted_restore

from quiesce.model.damage import DiskHealth, HurtRange
from quiesce.model.job import JobStatus
from quiesce.service.requests import RestoreRequest
from quiesce.service.service import Service

CHUNK = 128 * 1024


def hurt(service: Service, point: str, disk: str) -> tuple[int, int]:
    """Turns a bit in the frame of the disk's first chunk: where and how much is lost by it."""
    contents = service.points.vault.contents
    reader = service.points.vault.reader(point, disk)
    places = [
        contents.index.locate(reader._map.chunk(number))
        for number in range(-(-reader.size_bytes // CHUNK))
    ]
    first = places[0]
    assert first is not None
    name = contents.index.name_of(first.pack).hex()
    pack = Path(contents.store.address, "packs", name[:2], name)
    data = bytearray(pack.read_bytes())
    data[first.offset + first.length // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    same = [at is not None and (at.pack, at.offset) == (first.pack, first.offset) for at in places]
    count = [*same, False].index(False)
    assert not any(same[count:])
    return 0, min(count * CHUNK, reader.size_bytes)


def test_the_job_fails_with_what_is_missing_and_the_disk_holds_the_rest(
    service: Service, machine: PaperMachine, tmp_path: Path
) -> None:
    point = backed_up(service).point_id
    offset, length = hurt(service, point, "vda")
    target = tmp_path / "vda.img"

    refused = ended(service, service.jobs.start_restore(RestoreRequest(point, target)))
    assert refused.failure is not None
    assert refused.failure.code == "vault.corrupt-chunk"
    assert not target.exists()

    job = ended(service, service.jobs.start_restore(RestoreRequest(point, target, salvage=True)))

    assert job.status is JobStatus.FAILED
    assert job.failure is not None
    assert job.failure.code == "restore.point-incomplete"
    assert job.failure.message.startswith("Disk vda is incomplete:")
    evidence, *why = job.failure.evidence
    assert (f"bytes {offset}–{offset + length}" in evidence.fact, evidence.source) == (
        True,
        str(target),
    )
    assert ["/packs/" in fact.source for fact in why] == [True]
    assert job.restored[0].lost == DiskHealth("vda", length, (HurtRange(offset, length),))
    assert target.read_bytes() == bytes(length) + machine.content[length:]


def test_of_a_whole_point_the_job_completes(
    service: Service, machine: PaperMachine, tmp_path: Path
) -> None:
    point = backed_up(service).point_id
    target = tmp_path / "vda.img"
    job = ended(service, service.jobs.start_restore(RestoreRequest(point, target, salvage=True)))
    assert (job.status, job.failure) == (JobStatus.COMPLETED, None)
    assert target.read_bytes() == machine.content


@pytest.mark.parametrize("at", ["second disk", "not noted yet"])
def test_what_was_lost_before_an_interruption_is_not_forgotten_by_what_comes_after(
    service: Service,
    machine: PaperMachine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: str,
) -> None:
    (machine.folder / "vdb.disk").write_bytes(os.urandom(100_000))
    point = backed_up(service).point_id
    hurt(service, point, "vda")
    request = RestoreRequest(point, tmp_path / "out", salvage=True)
    job_id = interrupted_restore(service, request, monkeypatch, at)
    (first,) = (tmp_path / "out").iterdir()
    assert first.name == "vda.img"

    job = gone_on(service, job_id)

    assert job.status is JobStatus.FAILED
    assert job.failure is not None
    assert job.failure.code == "restore.point-incomplete"
    assert (tmp_path / "out" / "vdb.img").exists()
