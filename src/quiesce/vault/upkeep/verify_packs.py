"""Checking stored data without any key: for a server, a script, a second site.

Every pack has the BLAKE3 that its name says, every sealed object the checksum that it ends with.
What is missing cannot be told without the key: the index and the maps are secret.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from quiesce.model.failure import InputFailure
from quiesce.vault.format.config import read_config
from quiesce.vault.stores.in_front import origin_of
from quiesce.vault.stores.store import Store
from quiesce.vault.upkeep.budget import UNLIMITED, Budget, Meter, MeteredStore
from quiesce.vault.upkeep.pace import Pace, Show, unseen
from quiesce.vault.upkeep.pack_check import PackRound, check_by_name, stop_if
from quiesce.vault.upkeep.sealed_check import check_sealed, sealed_objects
from quiesce.vault.upkeep.verify_report import (
    MAPS,
    PACKS,
    SEALED,
    Cursor,
    Finding,
    VerifyMode,
    VerifyReport,
)


def verify_packs(
    store: Store,
    *,
    budget: Budget = UNLIMITED,
    cursor: str = "",
    on_progress: Show = unseen,
    cancelled: Callable[[], bool] = lambda: False,
) -> VerifyReport:
    """A report as of mode PACKS, without points: its verdict is never that the vault is intact,
    only that nothing was found in the `covered_share` of the packs. A few MiB of memory, however
    large the packs are.

    :raise JobFailure: job.cancelled
    :raise InputFailure: vault.cursor-unknown
    :raise VaultFailure: vault.not-a-vault, vault.version-unsupported, vault.corrupt-format
    """
    meter = Meter(budget)
    metered = MeteredStore(origin_of(store), meter)
    read_config(metered)
    at = Cursor.parse(cursor) if cursor else None
    if at is not None and (at.mode is not VerifyMode.PACKS or at.stage == MAPS):
        raise InputFailure("vault.cursor-unknown", "No check of packs without a key stopped there.")
    packs = PackRound(
        metered.list("packs/"),
        meter,
        after=bytes.fromhex(at.after) if at and at.stage == PACKS else b"",
        until=at.until if at else None,
    )
    findings: list[Finding] = []
    stopped_by = ""
    left_off = Cursor(VerifyMode.PACKS, SEALED, at.after if at else "", packs.until)
    if at is None or at.stage == SEALED:
        after = bytes.fromhex(left_off.after).decode(errors="replace")
        for info in sealed_objects(metered, after=after):
            stop_if(cancelled)
            stopped_by = meter.refuses(1, info.size_bytes)
            if stopped_by:
                break
            findings += check_sealed(metered, info.key)
            left_off = replace(left_off, after=info.key.encode().hex())
    checked = read = 0
    if not stopped_by:
        pace = Pace(on_progress)
        pace.begin("packs", packs.total_bytes, done_bytes=packs.done_bytes)
        look = packs.check(lambda name, size: check_by_name(store, name, size), cancelled)
        for pack in look:
            read += pack.read
            checked += bool(pack.read or pack.findings)
            findings += pack.findings
            pace.advance(packs.done_bytes - pace.done_bytes)
        stopped_by = packs.stopped_by
        left_off = Cursor(VerifyMode.PACKS, PACKS, packs.reached.hex(), packs.until)
    return VerifyReport(
        mode=VerifyMode.PACKS,
        points=(),
        findings=tuple(findings),
        packs=packs.listed,
        blobs_opened=0,
        bytes_read=read,
        packs_checked=checked,
        round_bytes=packs.done_bytes,
        total_bytes=packs.total_bytes,
        examined=False,
        stopped_by=stopped_by,
        stuck=bool(stopped_by) and left_off.stuck_since(at, packs.stuck),
        cursor=str(left_off) if stopped_by else "",
        requests=meter.requests,
        seconds=meter.seconds,
    )
