"""A vault that holds one of every kind of object, and what can be wrong with each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from blake3 import blake3
from paper_store import PaperStore
from small_vault import small_disk, small_scene
from vault_scene import KEY, FakeClock, Scene, turned

from quiesce.model.failure import Failure
from quiesce.vault.format.manifest import point_id_of
from quiesce.vault.format.sealed import seal, unseal

DISKS = {
    "one": small_disk(1, 2, 3, 0, 5),
    "two": small_disk(11, 12, 13),
    "three": small_disk(21, 22),
}
KINDS = {
    "format": "format",
    "slot": "keys/",
    "pack": "packs/",
    "segment": "index/",
    "manifest": "points/",
    "deleted": "deleted/",
    "session": "sessions/0",
    "garbage": "garbage/",
    "damage": "damage/",
    "lease": "sessions/gc",
}
NEEDED = {"format", "slot", "pack", "manifest"}
"""Kinds without which a point may not be read; whatever befalls the others, all points are."""
LONGER_THAN_ANY = bytes(65 * 1024 * 1024)
"""Than any object of a vault may be."""
Objects = dict[str, bytes]


def full_vault(clock: FakeClock) -> Scene:
    """Three points of two VMs, one deleted; a mark, a damage record, a writer and a collection."""
    scene = small_scene(PaperStore(clock), clock)
    scene.vault.add_key(KEY)
    for job, disk in DISKS.items():
        scene.backup(job, disk, vm="mail" if job == "two" else "web")
    scene.backup("gone", small_disk(31, 32, 33))
    scene.backup("going", small_disk(41, 42, 43))
    clock.advance(hours=30)
    scene.delete(*(point for point in scene.vault.points() if point.job_id == "gone"))
    scene.vault.collect(scene.vault.plan_collect())
    scene.delete(*(point for point in scene.vault.points() if point.job_id == "going"))
    records = scene.vault.contents.records
    now = clock()
    records.put("damage/0a", "damage", {"pack": "00" * 32, "chunks": ["11" * 32], "at": now})
    records.put("garbage/0a", "garbage", {"at": now, "packs": ["22" * 32]})
    session = {"started_at": now, "at": now}
    records.put("sessions/0123456789abcdef-00", "session", session)
    records.put("sessions/0fedcba987654321-00", "session", session)
    records.put("sessions/gc", "lease", {"at": now, "holder": "33" * 16})
    return scene


def keys_of(scene: Scene, kind: str) -> list[str]:
    found: list[str] = scene.store.keys(KINDS[kind])  # type: ignore[attr-defined]
    if kind == "manifest":  # the one that the rest is about comes first
        own = f"points/{point_id_of(scene.vault.contents.keys, 'one')}"
        found.sort(key=lambda key: key != own)
    return found


@dataclass(frozen=True)
class Harm:
    """`apply` changes the objects of a vault; the first key of the kind is the victim. `bad`: of
    which object cannot be read what, from where to where."""

    name: str
    apply: Callable[[Objects], None] = lambda objects: None
    bad: tuple[str, int, int] | None = None


def harms(kind: str, scene: Scene, foreign: Scene) -> Iterator[Harm]:
    key, *others = keys_of(scene, kind)
    sound = _bytes(scene, key)
    for length in sorted({0, 1, 8, 40, 64, len(sound) // 2, len(sound) - 32, len(sound) - 1}):
        if 0 <= length < len(sound):
            yield Harm(f"cut to {length} bytes", _set(key, sound[:length]))
    yield Harm("one byte too long", _set(key, sound + b"\0"))
    for at in sorted({0, 6, 8, 40, 64, len(sound) // 2, len(sound) - 33, len(sound) - 1}):
        if at < len(sound):
            yield Harm(f"bit {at * 8} turned", _set(key, turned(sound, at)))
    yield Harm("zeros", _set(key, bytes(len(sound))))
    yield Harm("longer than any", _set(key, LONGER_THAN_ANY))
    yield Harm("on a bad sector", bad=(key, 0, len(sound)))
    for at in sorted({0, len(sound) // 2, len(sound) - 1}):
        yield Harm(f"on a bad sector, byte {at}", bad=(key, at, at + 1))
    yield Harm("missing", lambda objects: objects.__delitem__(key))
    if others:
        yield Harm("swapped with another", _swap(key, others[0]))
        yield Harm("all missing", lambda objects: [objects.__delitem__(k) for k in (key, *others)])
    if kind not in ("format", "lease"):
        yield Harm("twice, under another name", _set(_other_name(kind, key), sound))
    theirs = keys_of(foreign, kind)[0]
    yield Harm("of another vault in its place", _set(key, _bytes(foreign, theirs)))
    if theirs != key:
        yield Harm("of another vault beside it", _set(theirs, _bytes(foreign, theirs)))
    newer = _newer(kind, scene, key, sound)
    yield Harm("from the future", _set(key, newer))
    if kind == "pack":
        digits = blake3(newer).hexdigest()
        yield Harm("from the future beside it", _set(f"packs/{digits[:2]}/{digits}", newer))
    for other, prefix in KINDS.items():
        if other not in (kind, "slot"):
            yield Harm(
                f"a {other} in its place", _set(key, _bytes(scene, keys_of(scene, other)[0]))
            )
            assert prefix


def _bytes(scene: Scene, key: str) -> bytes:
    return scene.store.get(key, limit_bytes=1 << 30)


def _set(key: str, data: bytes) -> Callable[[Objects], None]:
    return lambda objects: objects.__setitem__(key, data)


def _swap(key: str, other: str) -> Callable[[Objects], None]:
    def swap(objects: Objects) -> None:
        objects[key], objects[other] = objects[other], objects[key]

    return swap


def _other_name(kind: str, key: str) -> str:
    """Another name that an object of this kind may have."""
    if kind == "slot":
        return "keys/slot-00"
    if kind == "pack":
        return f"packs/ab/ab{key[-62:]}"
    folder, _, name = key.rpartition("/")
    return f"{folder}/{name[:-1]}{'0' if name[-1] != '0' else '1'}"


def _newer(kind: str, scene: Scene, key: str, sound: bytes) -> bytes:
    """What a later version of the format might write: whole in every way that can be checked."""
    if kind in ("format", "slot"):
        values = json.loads(sound) | {"version": 2}
        return json.dumps(values).encode()
    if kind == "pack":
        return b"QVPACK2\n" + sound[8:]
    if kind == "manifest":
        keys, point_id = scene.vault.contents.keys, key.rpartition("/")[2]
        values = json.loads(unseal(keys, "manifest", point_id, sound)) | {"version": 2}
        return seal(keys, "manifest", point_id, json.dumps(values).encode())
    head = b"QVSEAL2\n" + sound[8:-32]
    return head + blake3(head).digest()


def outcome(work: Callable[[], object]) -> str:
    """ "" when it did what it should, else the code. Anything else is a defect and goes on up."""
    try:
        work()
    except Failure as failure:
        return failure.code
    return ""
