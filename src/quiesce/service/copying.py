"""The copy job: carries the vault to a second place, and what it takes to plan that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from quiesce.model.failure import Evidence, InputFailure, NotFoundFailure, StorageFailure
from quiesce.model.job import Job, TaskName
from quiesce.model.units import count_text, size_text
from quiesce.service.codec import from_json
from quiesce.service.requests import CopyRequest
from quiesce.service.work import Parts
from quiesce.vault.contents.contents import Contents
from quiesce.vault.copy.copying import (
    CopyPlan,
    CopyReport,
    check_room,
    execute_copy,
    plan_copy,
    shortfall,
)
from quiesce.vault.format.config import FORMAT_KEY
from quiesce.vault.places import create_store, open_store
from quiesce.vault.stores.address import describe
from quiesce.vault.stores.nowhere import Nowhere
from quiesce.vault.stores.store import ObjectMissing, Store

_COPY = TaskName.COPY


def target_store(address: str, *, new: bool, cache_folder: Path | None = None) -> Store:
    """Where a copy goes. Unless it is `new` there must be a copy already: the empty folder of a
    file system that is not mounted must not be filled. Nothing is made here; see `made`.

    :raise NotFoundFailure: vault.copy-missing
    :raise StorageFailure, InputFailure: as `open_store`
    """
    try:
        store = open_store(address, cache_folder=cache_folder)
        store.stat(FORMAT_KEY)
        return store
    except StorageFailure as failure:
        if failure.code not in ("storage.vanished", "storage.object-missing"):
            raise
        if not new:
            # Not "from": that the place is empty is no cause, and what it means is said here.
            raise _no_copy(address, failure) from None
        return store if isinstance(failure, ObjectMissing) else Nowhere(describe(address))


def planned(contents: Contents, request: CopyRequest, *, cache_folder: Path | None) -> CopyPlan:
    """What a copy of the server's vault would send.

    :raise PolicyFailure: vault.copy-other-vault · and as `target_store`
    """
    return plan_copy(
        contents.store,
        target_store(request.to, new=request.new, cache_folder=cache_folder),
        keys=contents.keys,
        vms=request.vms,
        points=request.points,
        newest=request.newest,
        with_keys=request.with_keys,
        contents=contents,
        clock=contents.clock,
    )


def made(plan: CopyPlan, address: str, *, cache_folder: Path | None = None) -> CopyPlan:
    """The plan with its target made, where there is none and room for the copy.

    :raise StorageFailure: storage.full, and as `create_store`
    """
    check_room(plan)
    if not plan.makes_vault:
        return plan
    return replace(plan, target=create_store(address, cache_folder=cache_folder))


def whole_address(text: str) -> str:
    """An address in its one form. Of a path the whole is wanted: the server's working folder is
    nobody's business.

    :raise InputFailure: input.vault-address-invalid, input.secret-in-address
    """
    address = describe(text)
    if "://" not in text and not text.startswith("/"):
        raise InputFailure(
            "input.vault-address-invalid",
            "A folder to copy to is given by its whole path on the server's host, from / on.",
        )
    return address


def _no_copy(address: str, failure: StorageFailure) -> NotFoundFailure:
    return NotFoundFailure(
        "vault.copy-missing",
        f"There is no copy of a vault at {describe(address)}.",
        evidence=[Evidence(failure.message, describe(address)), *failure.evidence],
    )


def copy(parts: Parts, job: Job) -> None:
    console = parts.console(job.id, _COPY)
    request = from_json(CopyRequest, parts.book.request(job.id))
    contents = parts.points.vault.contents
    cache = parts.composition.index_cache
    plan = planned(contents, request, cache_folder=cache)
    console.note(
        "info",
        f"To copy to {plan.target.address}: {count_text(len(plan.points), 'point')} and "
        f"{count_text(len(plan.packs), 'pack')}, {size_text(plan.size_bytes)}; there already: "
        f"{count_text(plan.points_there, 'point')}.",
    )
    plan = made(plan, request.to, cache_folder=cache)
    report = execute_copy(plan, console.progress, console.cancelled, clock=contents.clock)
    for level, line in told(report):
        console.note(level, line)
    missing = shortfall(report)
    if missing is not None:
        raise missing


def told(report: CopyReport) -> list[tuple[str, str]]:
    """(level, line) of what was done."""
    lines = [("warning", note) for note in report.notes]
    lines += [("error", f"{bad.object}: {bad.detail} [{bad.code}]") for bad in report.bad]
    lines += [
        ("error", f"Point {u.point_id} of {u.vm or 'an unknown VM'} is not copied: {u.reason}")
        for u in report.unfit
    ]
    lines.append(("info", brought(report)))
    return lines


def brought(report: CopyReport) -> str:
    """What has arrived, as a sentence."""
    if not (report.points or report.packs):
        missing = "Nothing was brought" if report.unfit else "Nothing was missing"
        return f"{missing} there."
    return (
        f"Copied: {count_text(len(report.points), 'point')} and "
        f"{count_text(report.packs, 'pack')}, {size_text(report.size_bytes)}."
    )
