"""Carrying packs from one store to another, each proven by its name while it travels."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from blake3 import blake3

from quiesce.model.failure import JobFailure, StorageFailure
from quiesce.vault.format.keys import VaultKeys
from quiesce.vault.format.pack import PACK_BYTES, Entry, PackError, pack_key, whole_footer
from quiesce.vault.stores.store import UNREADABLE, ObjectMissing, Store, delete_if_allowed

_LEAST_AT_ONCE, _MOST_AT_ONCE = 2, 4
"""Each takes its pack in memory: at most 128 MiB together. Two keep a local disk busy, since one
reads while the other writes; an object store answers late, and needs several."""
_LOOK_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class PackToCopy:
    """`replaced_bytes`: what the target has under this name, as far as known not the pack. It makes
    room first."""

    name: bytes
    size_bytes: int
    replaced_bytes: int | None = None

    @property
    def replaces(self) -> bool:
        return self.replaced_bytes is not None


@dataclass(frozen=True, slots=True)
class Bad:
    """One object of the source that cannot be copied since it is damaged or missing there; or
    `at_target`, where what is damaged may not be deleted for it."""

    code: str
    object: str
    detail: str
    at_target: bool = False


@dataclass(frozen=True, slots=True)
class Carried:
    """What became of one pack. `entries` say what lies in it, when there is a key; `bad` why it
    was not carried. With `there` the target has it whole already, and nothing was stored."""

    pack: PackToCopy
    entries: tuple[Entry, ...] = ()
    bad: Bad | None = None
    there: bool = False


def packs_at_once_between(source: Store, target: Store) -> int:
    wanted = max(source.uploads_at_once, target.uploads_at_once)
    return max(_LEAST_AT_ONCE, min(_MOST_AT_ONCE, wanted))


def carry_packs(
    source: Store,
    target: Store,
    packs: Sequence[PackToCopy],
    *,
    keys: VaultKeys | None,
    at_once: int,
    while_waiting: Callable[[], None],
    cancelled: Callable[[], bool],
) -> Iterator[Carried]:
    """In no order; each is durable in the target when it is yielded, unless it is `bad`. What the
    target refuses to store ends everything. `while_waiting` is called a few times a second.

    :raise JobFailure: job.cancelled, once the packs under way have arrived
    :raise StorageFailure: the target's, or the source's when it is not about one object
    """
    waiting = deque(packs)
    under_way: set[Future[Carried]] = set()
    with ThreadPoolExecutor(at_once, thread_name_prefix="vault-copy") as pool:
        try:
            while waiting or under_way:
                if cancelled():
                    raise JobFailure("job.cancelled", "The job was cancelled.")
                while waiting and len(under_way) < at_once:
                    under_way.add(pool.submit(_carry, source, target, waiting.popleft(), keys))
                done, under_way = wait(under_way, _LOOK_SECONDS, FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                while_waiting()
        finally:
            for future in under_way:
                future.cancel()


def _carry(source: Store, target: Store, pack: PackToCopy, keys: VaultKeys | None) -> Carried:
    key = pack_key(pack.name)
    data, bad = _read(source, pack)
    whole = _whole_in(target, pack) if pack.replaces else None
    if bad is not None and whole is None:
        return Carried(pack, bad=bad)
    entries: tuple[Entry, ...] = ()
    if keys is not None:
        try:
            entries = tuple(whole_footer(keys, memoryview(whole or data)))
        except PackError as inner:
            return Carried(pack, bad=Bad("vault.corrupt-chunk", key, str(inner)))
    if bad is not None:
        return Carried(pack, entries, bad, there=True)
    if whole is not None:
        return Carried(pack, entries, there=True)
    refused = delete_if_allowed(target, key) if pack.replaces else None
    if refused is not None:
        detail = "damaged at the target, where it may not be deleted"
        return Carried(pack, bad=Bad(refused.code, key, detail, at_target=True))
    target.put(key, data)
    return Carried(pack, entries)


def _read(source: Store, pack: PackToCopy) -> tuple[bytes, Bad | None]:
    """The source's pack; or what is wrong with it."""
    key = pack_key(pack.name)
    problem = ""
    # Read again once: a bit may turn on the way, and is then no damage of the source.
    for _ in range(2):
        try:
            data = source.get(key, limit_bytes=PACK_BYTES)
        except ObjectMissing:
            return b"", Bad("vault.pack-missing", key, "missing")
        except StorageFailure as failure:
            if failure.code not in UNREADABLE:
                raise
            problem = f"cannot be read: {failure.message}"
            continue
        if blake3(data).digest() == pack.name:
            return data, None
        problem = "its BLAKE3 is not its name"
    return b"", Bad("vault.corrupt-chunk", key, problem)


def _whole_in(target: Store, pack: PackToCopy) -> bytes | None:
    """Somebody else may have mended it meanwhile, or it is the source's that has another size than
    the pack had: what is whole must not vanish for a moment."""
    try:
        data = target.get(pack_key(pack.name), limit_bytes=PACK_BYTES)
    except ObjectMissing:
        return None
    except StorageFailure as failure:
        if failure.code not in UNREADABLE:
            raise
        return None
    return data if blake3(data).digest() == pack.name else None
