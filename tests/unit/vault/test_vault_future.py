"""A vault of a later version, and any object of a later version in a vault of this one, is refused
by a code that says so; it is not taken for damage and cleared away."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import pytest
from blake3 import blake3
from hostile_objects import DISKS, KINDS, full_vault, harms, outcome
from paper_store import PaperStore
from small_vault import small_disk
from vault_scene import KEY, FakeClock, Scene

from quiesce.vault import Vault
from quiesce.vault.format.manifest import point_id_of
from quiesce.vault.format.pack import pack_key
from quiesce.vault.format.slots import list_slots
from quiesce.vault.upkeep.verify_packs import verify_packs

NEWER = "vault.version-unsupported"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def with_newer(kind: str, clock: FakeClock) -> tuple[PaperStore, list[str]]:
    """A store with an object of a later version, and that object's key; of packs, which any point
    may need, with all of them."""
    scene = full_vault(clock)
    harm = next(
        h for h in harms(kind, scene, full_vault(FakeClock())) if h.name == "from the future"
    )
    store: PaperStore = scene.store  # type: ignore[assignment]
    contents = {key: data for key, (data, _) in store.objects.items()}
    harm.apply(contents)
    if kind == "pack":
        packs = store.keys("packs/")
        contents |= {key: b"QVPACK2\n" + contents[key][8:] for key in packs}
    newer = [key for key, data in contents.items() if data != store.objects[key][0]]
    for key in newer:
        store.objects[key] = contents[key], store.objects[key][1]
    return store, newer


def opened(store: PaperStore, clock: FakeClock) -> Vault:
    return Vault.open(store, KEY, clock=clock)


def collected(store: PaperStore, clock: FakeClock) -> None:
    vault = opened(store, clock)
    vault.collect(vault.plan_collect())


def restored(store: PaperStore, clock: FakeClock) -> None:
    scene = Scene.at(store, clock)
    for job, disk in DISKS.items():
        assert scene.restore(point_id_of(scene.vault.contents.keys, job)) == disk


WORK: dict[str, Callable[[PaperStore, FakeClock], object]] = {
    "open": opened,
    "restore": restored,
    "backup": lambda store, clock: Scene.at(store, clock).backup("new", small_disk(1, 71)),
    "verify": lambda store, clock: opened(store, clock).verify("packs"),
    "verify without a key": lambda store, clock: verify_packs(store),
    "collect": collected,
}
REFUSED = {
    "format": WORK.keys(),
    "segment": WORK.keys(),
    "manifest": {"restore", "verify", "collect"},
    "pack": {"restore"},
    "garbage": {"verify", "verify without a key", "collect"},
    "damage": {"verify", "verify without a key", "collect"},
    "deleted": {"verify", "verify without a key"},
    "slot": set(),
    "session": set(),
    "lease": set(),
}
"""What of all that says `vault.version-unsupported`. The rest may be done: a session or a lease is
taken for a living one, a deletion hides its point as its name says, another slot opens."""


def test_every_kind_of_object_is_spoken_of() -> None:
    assert REFUSED.keys() == KINDS.keys()


@pytest.mark.parametrize("what", WORK)
@pytest.mark.parametrize("kind", KINDS)
def test_one_object_of_a_later_version_is_refused_and_left_alone(
    kind: str, what: str, clock: FakeClock
) -> None:
    store, newer = with_newer(kind, clock)
    before = {key: store.objects[key] for key in newer}
    code = outcome(lambda: WORK[what](store, clock))
    assert (code == NEWER) == (what in REFUSED[kind]), code
    assert {key: store.objects.get(key) for key in newer} == before


@pytest.mark.parametrize("what", WORK)
def test_a_whole_pack_of_a_later_version_stays_though_nothing_tells_of_it(
    what: str, clock: FakeClock
) -> None:
    store: PaperStore = full_vault(clock).store  # type: ignore[assignment]
    newer = b"QVPACK2\n" + store.objects[store.keys("packs/")[0]][0][8:]
    key = pack_key(blake3(newer).digest())
    store.objects[key] = newer, clock() - timedelta(days=9)
    code = outcome(lambda: WORK[what](store, clock))
    assert (code == NEWER) == (what in {"verify", "collect"}), code
    assert key in store.objects


def test_where_only_later_slots_are_left_the_key_is_not_called_wrong(clock: FakeClock) -> None:
    store: PaperStore = full_vault(clock).store  # type: ignore[assignment]
    for key in store.keys("keys/"):
        slot, at = store.objects[key]
        store.objects[key] = json.dumps(json.loads(slot) | {"version": 2}).encode(), at
    assert outcome(lambda: opened(store, clock)) == NEWER
    assert {slot.kind for slot in list_slots(store)} == {""}
