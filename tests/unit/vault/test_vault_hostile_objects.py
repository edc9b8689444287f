"""Any object of a vault may be wrong in any way: a code comes out, or right bytes, and nothing is
done that mending the object would not make good."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hostile_objects import DISKS, KINDS, NEEDED, full_vault, harms, outcome
from paper_store import PaperStore
from small_vault import SMALL_CHUNK, small_disk
from vault_scene import FakeClock, Scene

from quiesce.diagnosis.catalogue import catalogue
from quiesce.vault.format.manifest import point_id_of

MORE = small_disk(1, 2, 51, 0, 5)
EVERYTHING = {"sda": set(range(len(MORE) // SMALL_CHUNK))}
ALL_DISKS = DISKS | {"more": MORE, "inc": MORE}


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_wrong_with_an_object_gives_right_bytes_or_a_code_and_can_be_mended(
    kind: str,
) -> None:
    """Every kind of object, wrong in every way; all work of a vault is tried on it."""
    clock = FakeClock()
    scene, foreign = full_vault(clock), full_vault(clock)
    now = clock.now
    for harm in harms(kind, scene, foreign):
        clock.now = now
        store = scene.store.copy()  # type: ignore[attr-defined]
        contents = {key: data for key, (data, _) in store.objects.items()}
        harm.apply(contents)
        if harm.bad:
            key, start, end = harm.bad
            store.bad_sectors[key] = start, end
        store.objects = {
            key: (data, store.objects.get(key, (b"", now))[1]) for key, data in contents.items()
        }
        said = all_work_on(store, clock)
        print(f"{kind:9} {harm.name:30} {told(said)}")
        if kind not in NEEDED and harm.name != "from the future":
            assert not {code for code in said if code.startswith("restore")}, harm.name
        if kind not in NEEDED and harm.name.startswith(("longer", "on a bad sector")):
            assert said <= {"collect=vault.collect-refused"}, harm.name
        if harm.name in ("missing", "all missing") and kind in ("manifest", "pack"):
            continue
        store.bad_sectors.clear()
        for key, (data, at) in scene.store.objects.items():  # type: ignore[attr-defined]
            if key.startswith(KINDS[kind]):
                store.objects[key] = data, at
        mended = Scene.at(store, clock)
        if harm.name == "swapped with another" and kind == "pack":
            # Each was taken for the other when the index was rebuilt before.
            mended.vault.rebuild_index()
            mended = mended.reopened()
        for point in mended.vault.points():
            if point.job_id in DISKS:
                assert mended.restore(point) == DISKS[point.job_id], harm.name
        assert {point.job_id for point in mended.vault.points()} >= DISKS.keys(), harm.name


def told(said: set[str]) -> str:
    """Codes, and what ended in each."""
    by_code: dict[str, list[str]] = {}
    for what, _, code in sorted(each.partition("=") for each in said):
        by_code.setdefault(code, []).append(what)
    ends = (
        f"{code} ({'everything' if len(what) >= 10 else ', '.join(what)})"
        for code, what in by_code.items()
    )
    return "; ".join(ends) or "harmless"


def all_work_on(store: PaperStore, clock: FakeClock) -> set[str]:
    """What ended how, for all that did not end well. Wrong data and uncoded errors fail."""
    said = set()

    def tried(what: str, work: Callable[[Scene], object]) -> None:
        code = outcome(lambda: work(Scene.at(store, clock)))
        if code:
            assert code in catalogue().entries, code
            said.add(f"{what}={code}")

    def restored(scene: Scene) -> None:
        for point in scene.vault.points():
            if point.job_id in ALL_DISKS:
                code = outcome(
                    lambda point=point: check(scene.restore(point), ALL_DISKS[point.job_id])
                )
                if code:
                    said.add(f"restore={code}")

    def check(read: bytes, written: bytes) -> None:
        assert read == written, "wrong bytes"

    def each_deleted(scene: Scene) -> None:
        scene.vault.plan_deletion([point.id for point in scene.vault.points()])

    def restored_by_name(scene: Scene) -> None:
        keys = scene.vault.contents.keys
        for job, disk in DISKS.items():
            check(scene.restore(point_id_of(keys, job)), disk)

    tried("restore", restored_by_name)
    tried("points", restored)
    tried("status", lambda scene: scene.vault.status())
    tried("verify", lambda scene: scene.vault.verify("chunks"))
    tried("backup", lambda scene: scene.backup("more", MORE))
    tried("increment", lambda scene: scene.backup("inc", MORE, base="one", changed=EVERYTHING))
    tried("deletion", each_deleted)
    tried("rebuild", lambda scene: scene.vault.rebuild_index())
    for _ in range(3):
        clock.advance(hours=30)
        tried("collect", lambda scene: scene.vault.collect(scene.vault.plan_collect()))
    tried("again", restored)
    return said
