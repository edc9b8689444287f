"""The pieces of work on a vault that a sweep breaks: all that ever changes a store."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

from small_vault import small_disk
from store_sweep import History, Work
from vault_scene import KEY, Scene, put_all

from quiesce.model.failure import Failure
from quiesce.vault import KeyFile
from quiesce.vault.copy.copying import execute_copy, plan_copy
from quiesce.vault.format.pack import pack_key
from quiesce.vault.format.slots import list_slots
from quiesce.vault.upkeep import compaction

OLD = small_disk(1, 2, 3, 4, 5, 0, 7, tail=100)
NEW = small_disk(1, 22, 3, 23, 5, 25, 0, tail=100)
MAIL = small_disk(31, 32, 3, 33, 34, 35, 37)
BIG = small_disk(*range(41, 62))
SPARE = KeyFile(bytes(32))


def backup(scene: Scene, history: History, job: str, disk: bytes, *, vm: str = "web") -> None:
    scene.backup(job, disk, vm=vm)
    history.disks[job] = disk
    history.sure.add(job)


def two_points(scene: Scene, history: History) -> None:
    backup(scene, history, "old", OLD)
    backup(scene, history, "mail", MAIL, vm="mail")
    history.disks |= {"new": NEW, "big": BIG, "beside": BIG}


def with_garbage(scene: Scene, history: History) -> None:
    """Two points, a deleted one, and the packs of a writer that died."""
    two_points(scene, history)
    backup(scene, history, "gone", BIG)
    scene.delete(*(point for point in scene.vault.points() if point.job_id == "gone"))
    history.sure.remove("gone")
    dying = scene.reopened().vault.writer("web", "dying")
    disk = small_disk(*range(71, 91))
    put_all(dying.disk("sda", len(disk)), disk)
    dying._stream.flush()  # and no more is heard of it
    scene.clock.advance(hours=30)


def with_marks(scene: Scene, history: History) -> None:
    with_garbage(scene, history)
    run_collection(scene)
    scene.clock.advance(hours=30)


def with_damage(scene: Scene, history: History) -> None:
    two_points(scene, history)
    store = scene.store
    point = next(p for p in scene.vault.points() if p.job_id == "old")
    node = scene.vault.manifest(point.id).maps[0].nodes[0]
    location = scene.vault.contents.index.locate(node)
    assert location is not None
    name = scene.vault.contents.index.name_of(location.pack)
    store.spoil(pack_key(name))  # type: ignore[attr-defined]
    history.hurt = {"old", "mail"}  # they share a chunk
    history.disks["healing"] = OLD


def without_index(scene: Scene, history: History) -> None:
    """One segment lost, one damaged."""
    two_points(scene, history)
    backup(scene, history, "big", BIG)
    first, second, *_ = sorted(info.key for info in scene.store.list("index/"))
    scene.store.delete(first)
    data, at = scene.store.objects[second]  # type: ignore[attr-defined]
    scene.store.objects[second] = data[:-1], at  # type: ignore[attr-defined]


def with_many_segments(scene: Scene, history: History) -> None:
    two_points(scene, history)
    for number in range(3):
        backup(scene, history, f"more {number}", small_disk(101 + 2 * number, 102 + 2 * number))


def with_little_living(scene: Scene, history: History) -> None:
    """Packs of which only a few chunks are still needed: they are worth copying out of."""
    two_points(scene, history)
    backup(scene, history, "gone", BIG)
    backup(scene, history, "few", small_disk(41, 91, 50, 0, 61))
    scene.delete(*(point for point in scene.vault.points() if point.job_id == "gone"))
    history.sure.remove("gone")
    scene.clock.advance(hours=30)


def with_copied(scene: Scene, history: History) -> None:
    with_little_living(scene, history)
    run_collection(scene)
    assert scene.vault.plan_collect().waiting_bytes
    scene.clock.advance(hours=30)


def as_a_replica(scene: Scene, history: History) -> None:
    """The scene is a copy of another vault that has got more points since."""
    two_points(scene, history)
    source = scene.reopened(scene.store.copy())  # type: ignore[attr-defined]
    source.backup("new", NEW)
    source.backup("big", BIG)
    scene.store.source = source.store  # type: ignore[attr-defined]


def run_full(scene: Scene) -> None:
    scene.backup("big", BIG)


def run_increment(scene: Scene) -> None:
    scene.backup("new", NEW, base="old", changed={"sda": {1, 3, 5, 6}})


def run_slow(scene: Scene) -> None:
    """A backup that takes long enough to give signs of life."""
    writer = scene.vault.writer("web", "big")
    if writer.committed is not None:
        return
    try:
        put_all(writer.disk("sda", len(BIG)), BIG, pause=lambda: scene.clock.advance(minutes=15))
        scene.commit(writer, len(BIG), "big")
    except Failure:
        writer.abandon()  # as a job does: nothing is on its way any more afterwards
        raise


def run_abandoned(scene: Scene) -> None:
    writer = scene.vault.writer("web", "given up")
    put_all(writer.disk("sda", len(BIG)), BIG)
    writer.abandon()


def run_deletion(scene: Scene) -> None:
    doomed = [point for point in scene.vault.points() if point.job_id == "old"]
    scene.delete(*doomed)


def run_collection(scene: Scene) -> None:
    scene.vault.collect(scene.vault.plan_collect())


def run_merging_collection(scene: Scene) -> None:
    with mock.patch.object(compaction, "MANY_SEGMENTS", 2):
        run_collection(scene)


def run_copy(scene: Scene) -> None:
    store = scene.store
    while not hasattr(store, "source"):
        store = store.inner  # type: ignore[attr-defined]
    keys = scene.vault.contents.keys
    plan = plan_copy(store.source, scene.store, keys=keys, clock=scene.clock)
    execute_copy(plan, clock=scene.clock)


def run_rebuilding(scene: Scene) -> None:
    scene.vault.rebuild_index()


def run_verification(scene: Scene) -> None:
    scene.vault.verify("chunks")


def run_healing(scene: Scene) -> None:
    scene.vault.verify("chunks")
    scene.backup("healing", OLD)


def run_key_added(scene: Scene) -> None:
    scene.vault.add_key(SPARE)


def run_key_replaced(scene: Scene) -> None:
    """Its own key goes and comes back as another slot."""
    old = [slot.id for slot in list_slots(scene.store)]
    scene.vault.add_key(KEY)
    for slot in old:
        scene.vault.remove_key(slot)


def writer_beside(scene: Scene) -> Callable[[], None]:
    """A backup in another process, begun before, committed after."""
    writer = scene.vault.writer("web", "beside")
    put_all(writer.disk("sda", len(BIG)), BIG)
    writer._stream.flush()  # else it is chance which packs the others see

    def end() -> None:
        scene.commit(writer, len(BIG), "beside")

    return end


WORKS = (
    Work("full backup", two_points, run_full, frozenset({"big"})),
    Work("increment", two_points, run_increment, frozenset({"new"})),
    Work("slow backup with signs of life", two_points, run_slow, frozenset({"big"})),
    Work("backup given up", two_points, run_abandoned),
    Work(
        "backup while another one runs", two_points, run_increment, frozenset({"new"}),
        beside=writer_beside, jobs_beside=frozenset({"beside"}),
    ),
    Work("deletion of a point", two_points, run_deletion, gone=frozenset({"old"})),
    Work("collection that marks", with_garbage, run_collection),
    Work("collection that deletes", with_marks, run_collection),
    Work(
        "collection while a backup runs", with_marks, run_collection,
        beside=writer_beside, jobs_beside=frozenset({"beside"}),
    ),
    Work("collection that merges segments", with_many_segments, run_merging_collection),
    Work("collection that copies out", with_little_living, run_collection),
    Work("collection that deletes what was copied", with_copied, run_collection),
    Work(
        "collection that copies out while a backup runs", with_little_living, run_collection,
        beside=writer_beside, jobs_beside=frozenset({"beside"}),
    ),
    Work("copy to a replica", as_a_replica, run_copy, frozenset({"new", "big"})),
    Work("index rebuilt", two_points, run_rebuilding),
    Work("lost and damaged index rebuilt", without_index, run_rebuilding),
    Work("verification that rebuilds the index", without_index, run_verification),
    Work("verification that finds damage", with_damage, run_verification, leaves=("damage/",)),
    Work(
        "full backup that heals damage", with_damage, run_healing, frozenset({"healing"}),
        heals=True, leaves=("damage/",),
    ),
    Work("key added", two_points, run_key_added),
    Work("key replaced", two_points, run_key_replaced),
)  # fmt: skip
_ON_PAPER_ONLY = (with_damage, without_index, as_a_replica)
WORKS_IN_A_FOLDER = tuple(
    work for work in WORKS if work.beside is None and work.prepare not in _ON_PAPER_ONLY
)
"""Those that need nothing of the store but what every store has, in one process."""
