"""Restore jobs: what they refuse, and what becomes of one that was interrupted."""

from __future__ import annotations

import fcntl
import struct
from pathlib import Path

import pytest
from paper_machine import PaperMachine, ended

from quiesce.model.failure import Failure
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
