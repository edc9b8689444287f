"""What lies on a bad sector, or is longer than it may be, is as damaged as what does not open."""

from __future__ import annotations

import pytest
from paper_store import PaperStore
from small_vault import MAIL, WEB, small_disk
from vault_scene import FakeClock, Scene

from quiesce.model.failure import Failure
from quiesce.vault.format.pack import pack_key

MARK = "garbage/0a"


def code_of(caught: pytest.ExceptionInfo[Failure]) -> str:
    return caught.value.code


def marked(scene: Scene) -> Scene:
    """With a mark that cannot be read for now."""
    at = scene.clock()
    scene.vault.contents.records.put(MARK, "garbage", {"at": at, "packs": ["22" * 32]})
    paper(scene).bad_sectors[MARK] = 0, 10
    return scene.reopened()


def paper(scene: Scene) -> PaperStore:
    assert isinstance(scene.store, PaperStore)
    return scene.store


def test_an_index_segment_on_a_bad_sector_is_replaced_by_what_the_packs_tell(
    web_and_mail: Scene,
) -> None:
    store = paper(web_and_mail)
    for key in store.keys("index/"):
        store.bad_sectors[key] = 50, 51
    there = web_and_mail.reopened()
    assert {p.job_id: there.restore(p) for p in there.vault.points()} == {
        "web-1": WEB,
        "mail-1": MAIL,
    }
    assert there.restore(there.backup("web-2", WEB)) == WEB
    assert not store.bad_sectors, "the segments that cannot be read are gone"
    assert not there.reopened().vault.status().damaged_segments


def test_while_packs_cannot_be_read_either_a_segment_that_cannot_is_kept(
    web_and_mail: Scene,
) -> None:
    """As when all of a disk fails to be read for a while: the index outlives it."""
    store = paper(web_and_mail)
    before = store.keys("index/")
    for key in [*before, *store.keys("packs/")]:
        store.bad_sectors[key] = 0, 1 << 30
    there = web_and_mail.reopened()
    there.backup("other", small_disk(201, 203))
    assert set(before) <= set(store.keys("index/"))
    store.bad_sectors.clear()
    there = there.reopened()
    assert there.restore(there.vault.points("mail")[0]) == MAIL


def test_a_mark_that_cannot_be_read_keeps_no_backup_from_its_point(web_and_mail: Scene) -> None:
    there = marked(web_and_mail)
    assert there.restore(there.backup("web-2", WEB)) == WEB
    with pytest.raises(Failure) as caught:
        there.vault.plan_collect()
    assert code_of(caught) == "vault.collect-refused"
    there.vault.verify("packs")
    there.reopened().vault.plan_collect()


@pytest.mark.parametrize("then", ["is read", "is gone"])
def test_a_backup_that_could_not_read_a_mark_for_a_while_makes_no_point(
    web_and_mail: Scene, then: str, clock: FakeClock
) -> None:
    """Others may have acted on it: what the backup relies on may be about to go."""
    there = marked(web_and_mail)
    writer = there.vault.writer("web", "web-2")
    disk = writer.disk("sda", len(WEB))
    disk.put(0, memoryview(WEB))
    if then == "is read":
        paper(there).bad_sectors.clear()
    else:
        there.store.delete(MARK)
    with pytest.raises(Failure) as caught:
        there.commit(writer, len(WEB))
    assert code_of(caught) == "vault.record-unread"
    assert caught.value.retryable
    writer.abandon()
    again = there.reopened()
    assert again.restore(again.backup("web-2", WEB)) == WEB


def test_a_pack_that_no_segment_tells_of_and_that_cannot_be_read_stops_nothing(
    web_and_mail: Scene,
) -> None:
    store = paper(web_and_mail)
    lost = web_and_mail.vault.contents.index.snapshot().names[0]
    for key in store.keys("index/"):
        store.delete(key)
    store.bad_sectors[pack_key(lost)] = 0, 1
    there = web_and_mail.reopened()
    report = there.vault.verify("structure")
    assert [finding.object for finding in report.findings] == [pack_key(lost)]
    assert len(report.hurt) == 1
