"""A replica that is kept without the key, while its source is damaged and healed: what was whole in
it stays whole, and what healed at the source arrives."""

from __future__ import annotations

import pytest
from copy_scene import ALL, DISKS, CopyScene
from paper_store import PaperStore
from vault_scene import FakeClock, disk_of

from quiesce.model.failure import Failure
from quiesce.vault.copy.copying import shortfall

BIG = b"".join(disk_of(number) for number in range(100, 140))
EVERY = ALL | {"big-1", "big-2"}


@pytest.fixture(autouse=True)
def _big_points(monkeypatch: pytest.MonkeyPatch) -> None:
    for job in ("big-1", "big-2"):
        monkeypatch.setitem(DISKS, job, BIG)


@pytest.fixture
def copies(clock: FakeClock) -> CopyScene:
    return CopyScene(clock)


@pytest.fixture
def target(clock: FakeClock) -> PaperStore:
    return PaperStore(clock)


def own_pack_of_big(copies: CopyScene) -> str:
    before = set(copies.source.keys("packs/"))
    copies.points["big-1"] = copies.here.backup("big-1", BIG, vm="big")
    (key,) = set(copies.source.keys("packs/")) - before
    return key


def damage(copies: CopyScene, key: str, how: str) -> None:
    if how == "turned":
        copies.source.spoil(key, 5000)
    else:
        data, at = copies.source.objects.pop(key)
        if how == "cut":
            copies.source.objects[key] = data[: len(data) // 2], at
    copies.here = copies.here.reopened()
    assert not copies.here.vault.verify("chunks").intact


def heal(copies: CopyScene) -> None:
    """By the next backup, which is a full one."""
    copies.here = copies.here.reopened()
    copies.points["big-2"] = copies.here.backup("big-2", BIG, vm="big")
    assert copies.here.reopened().vault.verify("chunks").intact


@pytest.mark.parametrize("collects", [False, True])
@pytest.mark.parametrize("how", ["turned", "missing", "cut"])
def test_a_replica_from_before_the_damage_gets_what_healed_and_restores_everything(
    copies: CopyScene, target: PaperStore, how: str, collects: bool
) -> None:
    key = own_pack_of_big(copies)
    copies.copy(target, keyless=True)
    whole = target.objects[key][0]
    damage(copies, key, how)
    copies.copy(target, keyless=True)
    heal(copies)
    if collects:
        copies.here.collect_fully()

    report = copies.copy(target, keyless=True)

    assert shortfall(report) is None
    assert target.objects[key][0] == whole
    assert set(copies.source.keys("packs/")) <= set(target.keys("packs/")) | {key}
    assert copies.jobs_in(target) == EVERY
    assert copies.opened(target).vault.verify("chunks").intact
    again = copies.copy(target, keyless=True)
    assert (shortfall(again), again.packs, again.size_bytes, again.points) == (None, 0, 0, ())


def test_what_the_replica_has_whole_and_the_source_has_cut_is_told_and_is_no_failure(
    copies: CopyScene, target: PaperStore
) -> None:
    key = own_pack_of_big(copies)
    copies.copy(target, keyless=True)
    damage(copies, key, "cut")
    for keyless in (True, False):
        report = copies.copy(target, keyless=keyless)
        assert key in target.objects
    assert copies.jobs_in(target) == ALL | {"big-1"}
    report = copies.copy(target, keyless=True)
    assert shortfall(report) is None
    assert [note for note in report.notes if key in note] == [
        f"{key} is damaged at the source (its BLAKE3 is not its name), and whole in the copy."
    ]


@pytest.mark.parametrize("how", ["missing", "turned"])
def test_the_source_is_mended_from_a_replica_that_was_copied_again_since(
    copies: CopyScene, target: PaperStore, how: str
) -> None:
    """Nothing of the source's damage has come along."""
    key = own_pack_of_big(copies)
    copies.copy(target, keyless=True)
    damage(copies, key, how)
    copies.copy(target, keyless=True)
    assert not target.keys("damage/")
    assert copies.copy(copies.source, source=target).complete
    assert copies.jobs_in(copies.source) == ALL | {"big-1"}
    assert copies.here.reopened().vault.verify("chunks").intact


def test_a_pack_that_rotted_before_the_first_copy_is_named_and_a_copy_with_the_key_brings_the_rest(
    copies: CopyScene, target: PaperStore
) -> None:
    """Without the key nobody can tell what is whole in a damaged pack."""
    key = own_pack_of_big(copies)
    damage(copies, key, "turned")
    heal(copies)

    report = copies.copy(target, keyless=True)

    said = shortfall(report)
    assert said is not None
    assert [found.source for found in said.evidence] == [key]
    assert "`quiesce vault copy --at SOURCE --key-file KEY --to COPY`" in said.remedy
    lost = {health.point_id for health in copies.opened(target).vault.verify("structure").hurt}
    assert lost == {copies.points["big-1"].id, copies.points["big-2"].id}
    with pytest.raises(Failure):
        copies.opened(target).restore(copies.points["big-2"])
    assert copies.copy(target).complete
    assert copies.jobs_in(target) == EVERY
