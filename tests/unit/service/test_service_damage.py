"""Damage as the server knows it: from a verification on, until it is healed."""

from __future__ import annotations

from pathlib import Path

from paper_machine import PaperMachine, backed_up, ended

from quiesce.model.damage import HurtRange
from quiesce.model.job import JobStatus
from quiesce.service.service import Service

CHUNK = 128 * 1024


def spoil(service: Service, point_id: str) -> None:
    """Turn a bit in the pack of the point's first chunk."""
    vault = service.points.vault
    contents = vault.contents
    place = contents.index.locate(vault.manifest(point_id).maps[0].nodes[0])
    assert place is not None
    name = contents.index.name_of(place.pack).hex()
    pack = Path(contents.store.address, "packs", name[:2], name)
    data = bytearray(pack.read_bytes())
    data[100] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)


def test_a_verify_job_carries_what_points_have_lost_until_a_backup_has_healed_it(
    service: Service, machine: PaperMachine
) -> None:
    point = backed_up(service).point_id
    assert service.points.damage().points == ()
    spoil(service, point)

    job = ended(service, service.jobs.start_verify("packs"))

    assert job.status is JobStatus.FAILED
    assert job.damage is not None
    (hurt,) = job.damage.points
    assert (hurt.point_id, hurt.vm, hurt.disks[0].name) == (point, "web", "vda")
    (lost,) = hurt.disks[0].ranges
    assert lost == HurtRange(0, lost.length_bytes, heals=True)
    assert lost.length_bytes >= CHUNK
    assert service.points.damage().points == (hurt,)

    healing = backed_up(service)

    assert service.points.damage().points == ()
    again = ended(service, service.jobs.start_verify("packs"))
    assert (again.status, again.damage is not None) == (JobStatus.COMPLETED, True)
    assert again.damage is not None
    assert (again.damage.looked_at, again.damage.points) == (2, ())
    assert service.jobs.get(healing.id).damage is None


def test_a_job_without_damage_of_an_older_version_is_read(service: Service) -> None:
    from quiesce.model.job import Job
    from quiesce.service.codec import from_json, to_json

    job = backed_up(service)
    older = to_json(job).replace(',"damage":null', "")
    assert '"damage"' not in older
    assert from_json(Job, older).damage is None
