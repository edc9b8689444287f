"""What a policy says of the transfer, and change tracking that cannot be believed."""

from __future__ import annotations

import os
import random
from dataclasses import replace

import pytest
from paper_machine import PaperMachine, backed_up, ended

from quiesce.model.diagnosis import MendAction, MendStatus, Verdict
from quiesce.model.failure import InputFailure
from quiesce.model.job import JobStatus
from quiesce.service.service import Service

MIB = 1 << 20


def under(service: Service, **rules: object) -> None:
    """Protect the VM by a policy of these rules."""
    view = service.policies.show("daily")
    service.policies.change(replace(view, **rules))
    service.vms.protect("web", "daily")


def blind(machine: PaperMachine) -> bytes:
    """From now on the disk has other content, and a tracking that has not seen it."""
    (machine.folder / "blind-tracking").touch()
    content = os.urandom(len(machine.content))
    (machine.folder / "vda.disk").write_bytes(content)
    return content


def restored(service: Service, point_id: str, size: int) -> bytes:
    buffer = bytearray(size)
    service.points.reader(point_id, "vda").read_into(0, memoryview(buffer))
    return bytes(buffer)


def test_a_disk_whose_tracking_lies_is_read_whole_and_the_job_warns(
    service: Service, machine: PaperMachine
) -> None:
    backed_up(service)
    content = blind(machine)

    job = backed_up(service)

    assert job.status is JobStatus.COMPLETED_WITH_WARNING
    assert restored(service, job.point_id, len(content)) == content
    [disk] = service.points.get(job.point_id).disks
    assert not disk.incremental
    [warning] = job.warnings
    assert warning.startswith("Disk vda was read whole: bitmap.audit-mismatch: ")
    warned = [line.text for line in job.log if line.level == "warning"]
    assert any(f"bytes 0–{128 * 1024} differ" in text for text in warned)
    [diagnosis] = job.diagnoses
    assert (diagnosis.code, diagnosis.verdict) == ("bitmap.audit-mismatch", Verdict.PROVEN)
    [mend] = job.mends
    assert (mend.action, mend.status) == (MendAction.FULL_READ, MendStatus.DONE)
    assert machine.clean


def test_a_policy_that_forbids_full_reads_gets_the_failure_instead_of_a_point(
    service: Service, machine: PaperMachine
) -> None:
    under(service, mends_off=(MendAction.FULL_READ,))
    backed_up(service)
    blind(machine)

    job = backed_up(service)

    assert job.failure is not None
    assert job.failure.code == "bitmap.audit-mismatch"
    assert not job.point_id
    assert len(service.points.all()) == 1
    assert machine.clean


def words(seed: int, length: int) -> bytes:
    """Text that a high level makes notably shorter than a low one."""
    vocabulary = [random.Random(number).randbytes(4 + number % 6) for number in range(4000)]
    shares = [number**-0.5 for number in range(1, 4001)]
    return b"".join(random.Random(seed).choices(vocabulary, shares, k=length // 4))[:length]


def test_a_policys_compression_level_is_what_its_backups_are_stored_at(
    service: Service, machine: PaperMachine
) -> None:
    """Each on a disk of its own, of the same kind of text."""
    stored = []
    for level in (1, 3, 19):
        under(service, compression_level=level)
        (machine.folder / "vda.disk").write_bytes(words(level, MIB))
        job = backed_up(service)
        assert restored(service, job.point_id, MIB) == words(level, MIB)
        stored.append(service.points.get(job.point_id).stored_bytes)
    low, middle, high = stored
    assert low > 1.2 * middle > 1.2 * 1.2 * high


def test_without_the_audit_the_tracking_is_believed(
    service: Service, machine: PaperMachine
) -> None:
    under(service, audit=False)
    backed_up(service)
    blind(machine)

    job = backed_up(service)

    assert job.status is JobStatus.COMPLETED
    assert restored(service, job.point_id, len(machine.content)) == machine.content


def test_a_limited_backup_says_what_it_may_read(service: Service, machine: PaperMachine) -> None:
    under(service, bandwidth=64 * MIB)
    job = backed_up(service)
    assert job.bandwidth == 64 * MIB
    assert any("At most 64.0 MiB/s" in line.text for line in job.log)


def test_a_limited_backup_is_cancelled_without_waiting_for_its_allowance(
    service: Service, machine: PaperMachine
) -> None:
    (machine.folder / "vdb.disk").write_bytes(os.urandom(20 * MIB))
    under(service, bandwidth=64 * 1024)  # more than five minutes
    job = service.jobs.start_backup("web")
    service.jobs.cancel(job.id)
    assert ended(service, job).status is JobStatus.CANCELLED


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ({"bandwidth": 1}, "input.bandwidth-invalid"),
        ({"bandwidth": -(1 << 20)}, "input.bandwidth-invalid"),
        ({"compression_level": 0}, "input.level-invalid"),
        ({"compression_level": 20}, "input.level-invalid"),
    ],
)
def test_a_policy_of_impossible_figures_is_refused(
    service: Service, rules: dict[str, int], code: str
) -> None:
    with pytest.raises(InputFailure) as refused:
        service.policies.change(replace(service.policies.show("daily"), **rules))
    assert refused.value.code == code
    assert service.policies.show("daily").compression_level == 1
