"""What a recovery point needs, locked before the point exists.

Needed are the packs that anything of the point is served from, the key slots, `format`, the
store's marker; and the index segments, which could be made anew. The manifest is created locked.

What it costs, in requests: two for the time and three lists a point; one for each object whose lock
would end too early, and one more if this machine does not know yet when it ends. An increment does
not look at what it shares with its base while all of that is known to be locked for long enough.
Otherwise, once in `Terms.slack`, the point's whole map is read; and as long as the vault has known
damage, since what was served from one pack then may be served from another now.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from blake3 import blake3

from quiesce.model.failure import VaultFailure
from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.damage import open_or_note
from quiesce.vault.format.config import FORMAT_KEY
from quiesce.vault.format.manifest import DiskMapRef
from quiesce.vault.format.pack import Kind, pack_key
from quiesce.vault.stores.locking import LockingStore, locking
from quiesce.vault.stores.locks import FOLDER, Terms
from quiesce.vault.stores.store import MARKER, ObjectMissing, Store
from quiesce.vault.upkeep.references import References

_WORK = timedelta(hours=1)
"""What setting the locks may take; if it took longer, they are looked at once more."""

Beat = Callable[[], None]


@contextlib.contextmanager
def held(
    contents: Contents,
    manifest: str,
    maps: Sequence[DiskMapRef],
    bases: Sequence[DiskMapRef],
    beat: Beat = lambda: None,
) -> Iterator[None]:
    """As `hold_maps`; within, the point is committed under the key `manifest`. If the vault asks
    for something else by then, all is locked by that too, the manifest as well, before this ends.

    :raise StorageFailure, VaultFailure: as `hold_maps`
    """
    before = hold_maps(contents, maps, bases, beat)
    yield
    locks = locking(contents.store)
    terms = None if locks is None else locks.terms(fresh=True)
    if locks is not None and terms is not None and terms != before:
        hold_maps(contents, maps, bases, beat)
        locks.hold([manifest], locks.now() + terms.time, terms)


def hold_maps(
    contents: Contents,
    maps: Sequence[DiskMapRef],
    bases: Iterable[DiskMapRef],
    beat: Beat = lambda: None,
) -> Terms | None:
    """All that a point with these maps needs is locked for as long as the vault asks, counted from
    the end of this call. `bases` are maps of earlier points that parts of these may come from. What
    it asks for; None: nothing was locked.

    :raise StorageFailure: storage.lock-denied, storage.clock-apart, storage.locks-unsupported
    :raise VaultFailure: vault.pack-missing, vault.corrupt-chunk when a map cannot be read
    """
    locks = locking(contents.store)
    terms = None if locks is None else locks.terms(fresh=True)
    if locks is None or terms is None:
        return None
    known = list(bases)
    while True:
        need = locks.now() + terms.time + _WORK
        ends = _hold(contents, locks, terms, need, (maps, known), beat)
        _hold_others(contents.store, locks, terms, need, contents.segments())
        for part in maps:
            locks.remember(_map_name(part), ends, terms)
        locks.save(terms)
        if locks.now() + terms.time <= need:
            return terms
        known += maps


def hold_everything(store: Store) -> None:
    """As `hold_maps`, for whoever cannot read maps: all packs and segments that are listed."""
    locks = locking(store)
    terms = None if locks is None else locks.terms(fresh=True)
    if locks is None or terms is None:
        return
    while True:
        need = locks.now() + terms.time + _WORK
        locks.hold([info.key for info in store.list("packs/")], need, terms)
        segments = [info.key for info in store.list("index/")]
        _hold_others(store, locks, terms, need, segments)
        locks.save(terms)
        if locks.now() + terms.time <= need:
            return


def _hold(
    contents: Contents,
    locks: LockingStore,
    terms: Terms,
    need: datetime,
    maps: tuple[Sequence[DiskMapRef], Sequence[DiskMapRef]],
    beat: Beat,
) -> datetime:
    """Until when all packs of the first maps are locked."""

    def reread(blob: bytes) -> bytes:
        # What stays unreadable is recorded, so that the next backup does not build on it.
        return open_or_note(contents, Kind.MAP, [blob])[blob]

    references = References(contents, contents.index.snapshot(), reread=reread)
    ends = []
    for base in () if contents.index.any_damage else maps[1]:
        known = locks.known_until(_map_name(base), terms)
        if known is not None and known >= need:
            references.pass_over(base, maps[0])
            ends.append(known)
    references.add_maps(maps[0])
    packs = [pack_key(name) for name in sorted(references.live_packs())]
    try:
        return min([locks.hold(packs, need, terms, beat), *ends])
    except ObjectMissing as inner:
        raise VaultFailure(
            "vault.pack-missing",
            "A pack that this point needs is not there to be locked.",
            evidence=inner.evidence,
        ) from inner


def _hold_others(
    store: Store, locks: LockingStore, terms: Terms, need: datetime, segments: Iterable[str]
) -> None:
    locks.hold([MARKER, FORMAT_KEY], need, terms)
    changing = [info.key for folder in (FOLDER, "keys/") for info in store.list(folder)]
    locks.hold([*changing, *segments], need, terms, may_go=True)


def _map_name(part: DiskMapRef) -> str:
    return f"map/{blake3(b''.join(part.nodes)).hexdigest()}"
