"""Any order of backups, deletions, collections, crashes and waits: every committed point that was
not deleted restores bit for bit, after every step."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from faulty_store import FaultyStore, Killed
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from vault_scene import KEY, FakeClock, Scene, disk_of

from quiesce.vault import LocalStore, Vault

CHUNKS = st.lists(st.integers(0, 6), min_size=1, max_size=5)


class VaultMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.parent = Path(tempfile.mkdtemp())
        clock = FakeClock()
        store = LocalStore.create(self.parent / "vault")
        self.scene = Scene(Vault.create(store, KEY, clock=clock), clock)
        self.expected: dict[str, tuple[str, bytes]] = {}  # point id → job, disk
        self.jobs = 0

    def teardown(self) -> None:
        shutil.rmtree(self.parent)

    def _work(self, chunks: list[int], full: bool) -> tuple[str, bytes, str]:
        self.jobs += 1
        base = "" if full or not self.expected else list(self.expected.values())[-1][0]
        return f"job-{self.jobs}", disk_of(*chunks, tail=17), base

    def _backup(self, scene: Scene, job: str, disk: bytes, base: str) -> None:
        everything = {"sda": set(range(len(disk)))} if base else None
        point = scene.backup(job, disk, base=base, changed=everything)
        self.expected[point.id] = job, disk

    @rule(chunks=CHUNKS, full=st.booleans())
    def backup(self, chunks: list[int], full: bool) -> None:
        self._backup(self.scene.reopened(), *self._work(chunks, full))

    @rule(chunks=CHUNKS, full=st.booleans(), step=st.integers(1, 8), after=st.booleans())
    def backup_that_is_killed_and_resumed(
        self, chunks: list[int], full: bool, step: int, after: bool
    ) -> None:
        work = self._work(chunks, full)
        dying = FaultyStore(self.scene.store)
        dying.die_at = (step, after)
        try:
            self._backup(self.scene.reopened(dying), *work)
        except Killed:
            self._backup(self.scene.reopened(), *work)

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        point_id = data.draw(st.sampled_from(sorted(self.expected)))
        self.scene.vault.execute(self.scene.vault.plan_deletion([point_id]))
        del self.expected[point_id]

    @rule(hours=st.sampled_from([0, 2, 12, 30]), step=st.integers(1, 30), after=st.booleans())
    def collect(self, hours: int, step: int, after: bool) -> None:
        self.scene.clock.advance(hours=hours)
        dying = FaultyStore(self.scene.store)
        dying.die_at = (step, after)
        there = self.scene.reopened(dying)
        try:
            there.vault.collect(there.vault.plan_collect())
        except Killed:
            self.scene.clock.advance(hours=7)

    @invariant()
    def every_point_restores(self) -> None:
        fresh = self.scene.reopened()
        assert {point.id for point in fresh.vault.points()} == self.expected.keys()
        for point_id, (_, disk) in self.expected.items():
            assert fresh.restore(point_id) == disk


VaultMachine.TestCase.settings = settings(
    max_examples=15,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestAnyHistoryKeepsEveryPoint = VaultMachine.TestCase
