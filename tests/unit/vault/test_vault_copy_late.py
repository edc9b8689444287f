"""A copy whose target has just deleted garbage, and whose lists still show it."""

from __future__ import annotations

import pytest
from copy_scene import ALL, DISKS, CopyScene
from faulty_store import FaultyStore
from paper_store import PaperStore, StaleLists
from vault_scene import FakeClock, Scene

LATE = ["packs/", "index/", "points/", "garbage/"]


class JustCollected:
    """A target that had all points and has lost them; this very minute a collection has deleted
    what they needed."""

    def __init__(self, clock: FakeClock, late: str) -> None:
        """`late`: the folder whose lists are a minute late."""
        self.clock = clock
        self.copies = CopyScene(clock)
        self.target = PaperStore(clock)
        self.copies.copy(self.target, keyless=True)
        for key in self.target.keys("points/"):
            self.target.delete(key)
        listed = StaleLists(self.target, clock, 60, lambda key: key.startswith(late))
        self.seen = FaultyStore(listed)
        for _ in range(2):
            clock.advance(hours=30)
            self.collect()
        assert self.target.keys("packs/") == self.target.keys("index/") == []

    def collect(self) -> None:
        vault = Scene.at(self.seen, self.clock).vault
        vault.collect(vault.plan_collect())


def looks_at_packs(store: FaultyStore, since: int) -> list[str]:
    calls = [call for call in store.log[since:] if call.operation == "stat"]
    return sorted(call.key for call in calls if call.key.startswith("packs/"))


@pytest.mark.parametrize("keyless", [False, True])
@pytest.mark.parametrize("late", LATE)
def test_what_a_late_list_still_shows_is_brought_again(
    clock: FakeClock, late: str, keyless: bool
) -> None:
    there = JustCollected(clock, late)
    assert there.copies.copy(there.seen, keyless=keyless).complete
    assert there.copies.jobs_in(there.target) == ALL
    assert there.target.keys("packs/") == there.copies.source.keys("packs/")
    if keyless:
        assert there.target.keys("index/") == there.copies.source.keys("index/")
    clock.advance(hours=30)
    there.collect()
    assert there.copies.jobs_in(there.target) == ALL


def test_without_the_key_each_listed_pack_is_looked_for_once_where_any_is_marked(
    clock: FakeClock,
) -> None:
    copies, target = CopyScene(clock), FaultyStore(PaperStore(clock))
    copies.copy(target, keyless=True)

    def looked() -> list[str]:
        since = len(target.log)
        assert copies.copy(target, keyless=True).complete
        return looks_at_packs(target, since)

    copies.here.backup("web-3", DISKS["web-1"])
    assert looked() == [], "nothing is marked there"
    there = copies.opened(target)
    there.delete(copies.points["db-1"])
    clock.advance(hours=30)
    there.vault.collect(there.vault.plan_collect())
    assert list(target.list("garbage/"))
    packs = sorted(info.key for info in target.list("packs/"))
    assert looked() == packs, "what the point that comes back needs is marked"
    assert looked() == [], "no point comes"
