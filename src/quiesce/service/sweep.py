"""Frees what dead jobs left in hypervisors."""

from __future__ import annotations

import structlog

from quiesce.model.failure import Failure
from quiesce.service.work import Parts
from quiesce.snapshot.take import recover

log = structlog.get_logger(__name__)


def sweep(parts: Parts, vm: str, *, keep: str = "") -> tuple[str, ...]:
    """Release every session of `vm` in its hypervisor that no active job owns, and return their
    task ids. `keep` is the calling job's own.

    A task whose point did get committed is released as such, so that the next backup can count
    from it.

    :raise Failure: the hypervisor cannot be asked
    """
    address = parts.vms.address(vm)
    hypervisor = parts.composition.hypervisor(address)
    routes = parts.routes(address)
    released = []
    for task_id in hypervisor.leftovers():
        # Asked one by one, after the leftovers: a job that began since is active by now. Of any
        # VM, for two entries may mean one hypervisor.
        if task_id == keep or task_id in parts.book.active_ids():
            continue
        committed = parts.points.of_job(task_id) is not None
        recover(
            hypervisor,
            routes,
            task_id,
            committed=committed,
            log=lambda _, text: log.info(text, vm=vm),
        )
        log.info("released a leftover snapshot", vm=vm, task=task_id, committed=committed)
        released.append(task_id)
    return tuple(released)


def sweep_all(parts: Parts) -> None:
    """Every VM that answers; the others are swept by their next backup."""
    for vm in parts.vms.names():
        try:
            sweep(parts, vm)
        except Failure as failure:
            log.info("not swept now", vm=vm, code=failure.code, reason=failure.message)
