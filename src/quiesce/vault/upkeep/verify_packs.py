"""Checking stored data without any key: for a server, a script, a second site.

Every pack has the BLAKE3 that its name says, every sealed object the checksum that it ends with.
What is missing cannot be told without the key: the index and the maps are secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from quiesce.model.failure import InputFailure
from quiesce.model.job import Progress
from quiesce.vault.format.config import read_config
from quiesce.vault.format.sealed import LIMIT_BYTES, SealError, check, content_name
from quiesce.vault.stores.store import ObjectMissing, Store
from quiesce.vault.upkeep.budget import UNLIMITED, Budget, Meter, MeteredStore
from quiesce.vault.upkeep.pack_check import PackRound, check_by_name, stop_if
from quiesce.vault.upkeep.verify_report import PACKS, Cursor, Finding, VerifyMode, VerifyReport

_SEALED = {
    "points": "vault.corrupt-manifest",
    "index": "vault.corrupt-index",
    "deleted": "vault.corrupt-record",
    "garbage": "vault.corrupt-record",
    "damage": "vault.corrupt-record",
}
"""Folders of sealed objects, and what one that is not whole is called."""


def verify_packs(
    store: Store,
    *,
    budget: Budget = UNLIMITED,
    cursor: str = "",
    on_progress: Callable[[Progress], None] = lambda progress: None,
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
    metered = MeteredStore(store, meter)
    read_config(metered)
    at = Cursor.parse(cursor) if cursor else None
    if at is not None and (at.mode is not VerifyMode.PACKS or at.stage != PACKS):
        raise InputFailure("vault.cursor-unknown", "No check of packs without a key stopped there.")
    packs = PackRound(
        metered.list("packs/"),
        meter,
        after=bytes.fromhex(at.after) if at else b"",
        until=at.until if at else None,
    )
    findings: list[Finding] = []
    stopped_by = ""
    if at is None:
        for found in _check_sealed(metered, meter):
            stop_if(cancelled)
            if isinstance(found, str):
                stopped_by = found
            else:
                findings.append(found)
    checked = read = 0
    if not stopped_by:
        look = packs.check(lambda name, size: check_by_name(store, name, size), cancelled)
        for pack in look:
            read += pack.read
            checked += bool(pack.read or pack.findings)
            findings += pack.findings
            rate = read / meter.seconds if meter.seconds > 0 else 0.0
            on_progress(Progress(packs.done_bytes, packs.total_bytes, rate=rate, phase="packs"))
        stopped_by = packs.stopped_by
    left_off = str(Cursor(VerifyMode.PACKS, PACKS, packs.reached.hex(), packs.until))
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
        cursor=left_off if stopped_by else "",
        requests=meter.requests,
        seconds=meter.seconds,
    )


def _check_sealed(store: Store, meter: Meter) -> Iterator[Finding | str]:
    """What is not whole; at last, if the budget ends it, which limit that was."""
    for folder, code in _SEALED.items():
        for info in store.list(f"{folder}/"):
            refused = meter.refuses(1, info.size_bytes)
            if refused:
                yield refused
                return
            try:
                stored = store.get(info.key, limit_bytes=LIMIT_BYTES)
                check(stored)
            except ObjectMissing:
                continue
            except SealError as wrong:
                yield Finding(code, info.key, str(wrong))
                continue
            if folder == "index" and info.key != f"index/{content_name(stored)}":
                yield Finding(code, info.key, "its checksum is not its name")
