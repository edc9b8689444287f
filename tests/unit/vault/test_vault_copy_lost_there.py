"""What the target of a copy has lost of points that it has already, and what replaces it."""

from __future__ import annotations

import pytest
from copy_scene import ALL, CopyScene
from paper_store import PaperStore
from vault_scene import disk_of

from quiesce.model.failure import StorageFailure
from quiesce.vault.copy.copying import shortfall


@pytest.fixture
def damaged(copies: CopyScene, target: PaperStore) -> PaperStore:
    """A copy of which each pack is damaged, and known to be."""
    copies.copy(target)
    for key in target.keys("packs/"):
        target.spoil(key, len(target.objects[key][0]) // 2)
    copies.opened(target).vault.verify("chunks")
    return target


@pytest.mark.parametrize("segment", ["lost too", "spoilt"])
def test_a_lost_pack_is_brought_again_where_nothing_tells_of_it_any_more(
    copies: CopyScene, target: PaperStore, segment: str
) -> None:
    copies.copy(target)
    del target.objects[target.keys("packs/")[0]]
    for key in target.keys("index/"):
        if segment == "spoilt":
            target.spoil(key)
        else:
            del target.objects[key]
    report = copies.copy(target)
    assert (report.packs, shortfall(report)) == (1, None)
    assert copies.jobs_in(target) == ALL


def test_a_point_that_the_target_has_whole_is_no_failure_when_the_source_has_lost_all_of_it(
    copies: CopyScene, target: PaperStore
) -> None:
    copies.copy(target)
    copies.here.delete(copies.here.backup("db-2", disk_of(40), vm="db"))
    for key in target.keys("packs/"):
        del copies.source.objects[key]
    assert shortfall(copies.copy(target)) is None
    assert copies.jobs_in(target) == ALL


def test_packs_that_replace_others_of_their_size_need_no_room(
    copies: CopyScene, damaged: PaperStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damaged, "free_bytes", lambda: 1000)
    assert copies.copy(damaged).packs == len(damaged.keys("packs/"))
    assert copies.jobs_in(damaged) == ALL


def test_what_the_target_has_whole_but_for_a_record_that_may_not_be_deleted_travels_once(
    copies: CopyScene, damaged: PaperStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = damaged.delete

    def refuse(key: str) -> None:
        if key.startswith("damage/"):
            raise StorageFailure("storage.denied", "Records may be added only.")
        delete(key)

    monkeypatch.setattr(damaged, "delete", refuse)
    assert copies.copy(damaged).packs == len(damaged.keys("packs/"))
    again = copies.copy(damaged)
    assert (again.packs, again.size_bytes) == (0, 0)
    assert copies.jobs_in(damaged) == ALL
