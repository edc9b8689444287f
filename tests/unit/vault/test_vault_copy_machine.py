"""Histories drawn by chance: backups, deletions, collections and copies on both sides, some of them
killed. After every step each point of either side restores bit for bit."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from datetime import UTC, datetime

from faulty_store import DEATHS, Call, Fault, FaultyStore, Killed
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from paper_store import PaperStore
from small_vault import SMALL_CHUNK, chance_of, small_disk, small_scene
from stepping import one_thread_each
from vault_scene import KEY, FakeClock, Scene

from quiesce.model.failure import Failure
from quiesce.vault import Vault
from quiesce.vault.copy.copying import execute_copy, plan_copy

VMS = ("web", "db")
CHUNKS = st.lists(st.integers(0, 6), min_size=1, max_size=6)
MAY_HAPPEN = {"vault.session-expired", "vault.collect-running"}


class Copies(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patches = ExitStack()
        self.patches.enter_context(one_thread_each())
        self.clock = FakeClock()
        self.clock.now = datetime(2026, 11, 23, tzinfo=UTC)
        self.source, self.target = PaperStore(self.clock), PaperStore(self.clock)
        self.disks: dict[str, bytes] = {}
        """Job → what its point holds."""
        self.dropped: set[str] = set()
        """Jobs whose point was deleted at the target."""
        self.brought: set[str] = set()

    @initialize(seed=st.integers(0, 1 << 16))
    def begin(self, seed: int) -> None:
        self.patches.enter_context(chance_of(seed))
        small_scene(self.source, self.clock)
        self.back_up([1, 2, 3], "web")

    def teardown(self) -> None:
        self.patches.close()

    @rule(chunks=CHUNKS, vm=st.sampled_from(VMS))
    def back_up(self, chunks: list[int], vm: str) -> None:
        job = f"{vm}-{len(self.disks)}"
        disk = small_disk(*chunks)
        self.clock.advance(minutes=1)
        self.opened(self.source).backup(job, disk, vm=vm)
        self.disks[job] = disk

    @rule(which=st.integers(0, 11))
    def delete_here(self, which: int) -> None:
        self.delete(which, self.source)

    @rule(which=st.integers(0, 11))
    def delete_there(self, which: int) -> None:
        self.dropped |= self.delete(which, self.target)

    @rule(there=st.booleans(), hours=st.integers(0, 40))
    def collect(self, there: bool, hours: int) -> None:
        self.clock.advance(hours=hours)
        store = self.target if there else self.source
        if store.keys("format"):
            vault = self.opened(store).vault
            vault.collect(vault.plan_collect())

    @rule(
        keyless=st.booleans(),
        newest=st.sampled_from([None, None, 1, 2]),
        kill_at=st.sampled_from([0, 0, *range(1, 60)]),
        death=st.sampled_from(DEATHS),
        collect_at=st.sampled_from([0, *range(1, 40)]),
        where=st.booleans(),
        hours=st.sampled_from([0, 2, 25]),
    )
    def copy(
        self,
        keyless: bool,
        newest: int | None,
        kill_at: int,
        death: Fault,
        collect_at: int,
        where: bool,
        hours: int,
    ) -> None:
        """Killed at one call, beside a collection that comes at another."""
        target = FaultyStore(self.target)
        target.faults = lambda call: death if call.number == kill_at else None

        def before(call: Call) -> None:
            if call.number == collect_at:
                self.collect(where, hours)

        target.before = before
        with suppress(Killed):
            self.run(target, keyless=keyless, newest=None if keyless else newest)

    @rule()
    def copy_all(self) -> None:
        self.clock.advance(hours=1)
        self.run(self.target)
        hidden = {key.rpartition("/")[2] for key in self.target.keys("deleted/")}
        here = {p.job_id for p in self.opened(self.source).vault.points() if p.id not in hidden}
        assert here <= self.jobs(self.target)

    @invariant()
    def every_point_restores(self) -> None:
        for store in (self.source, self.target):
            if store.keys("format"):
                self.jobs(store)

    @invariant()
    def nothing_that_arrived_is_lost(self) -> None:
        if self.target.keys("format"):
            there = self.jobs(self.target)
            assert self.brought - self.dropped <= there
            self.brought = there
            self.dropped -= there

    def run(
        self, target: PaperStore | FaultyStore, *, keyless: bool = False, newest: int | None = None
    ) -> None:
        keys = None if keyless else self.opened(self.source).vault.contents.keys
        try:
            plan = plan_copy(self.source, target, keys=keys, newest=newest, clock=self.clock)
            assert execute_copy(plan, clock=self.clock, packs_at_once=1).complete
        except Failure as failure:
            if failure.code not in MAY_HAPPEN:
                raise

    def delete(self, which: int, store: PaperStore) -> set[str]:
        if not store.keys("format"):
            return set()
        there = self.opened(store)
        points = there.vault.points()
        if not points:
            return set()
        point = points[which % len(points)]
        there.delete(point)
        return {point.job_id}

    def opened(self, store: PaperStore) -> Scene:
        return Scene(Vault.open(store, KEY, clock=self.clock), self.clock)

    def jobs(self, store: PaperStore) -> set[str]:
        there = self.opened(store)
        points = there.vault.points()
        for point in points:
            assert there.restore(point) == self.disks[point.job_id]
        return {point.job_id for point in points}


TestCopies = Copies.TestCase
TestCopies.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_a_chunk_of_these_histories_is_small() -> None:
    assert len(small_disk(1, 2)) == 2 * SMALL_CHUNK
