"""Any history of one vault: processes with wrong clocks back up, restore, delete, collect, verify
and copy, call by call in any order; they die, their store fails, and its lists are late. After
every step every committed point is read bit for bit.

What is committed: a point whose backup said so, and any that was once seen in the vault. It stays
so until somebody begins to delete it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime

from faulty_store import Fault
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from paper_store import PaperStore, StaleLists
from small_vault import SMALL_CHUNK, chance_of, small_disk, small_packs, small_scene
from stepping import Actor, Host, one_thread_each
from vault_model import (
    CALL_FAULTS,
    CHUNKS,
    EXPECTED,
    HOSTS,
    LATE_SECONDS,
    MOST_POINTS,
    TOLD,
    WHERE_LISTS_ARE_LATE,
    WRONG_BY_MINUTES,
    Job,
)
from vault_scene import LABEL, FakeClock, Scene

from quiesce.model.failure import Failure
from quiesce.model.point import PointDisk, RecoveryPoint
from quiesce.model.snapshot import Route
from quiesce.vault.copy.copying import execute_copy, plan_copy
from quiesce.vault.points.writer import VaultPointWriter
from quiesce.vault.upkeep.collect import CollectPlan


class VaultMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patches = ExitStack()
        self.patches.enter_context(small_packs())
        self.patches.enter_context(one_thread_each())
        self.clock = FakeClock()
        self.clock.now = datetime(2026, 11, 23, tzinfo=UTC)
        self.store = PaperStore(self.clock)
        self.hosts: list[Host] = []
        self.jobs: dict[str, Job] = {}
        self.late = 0
        TOLD["examples"] += 1

    @initialize(
        wrong=st.lists(
            st.integers(-WRONG_BY_MINUTES, WRONG_BY_MINUTES), min_size=HOSTS, max_size=HOSTS
        ),
        late=st.sampled_from([0, 60, LATE_SECONDS]),
        seed=st.integers(0, 1 << 16),
    )
    def make_vault(self, wrong: list[int], late: int, seed: int) -> None:
        self.patches.enter_context(chance_of(seed))
        small_scene(self.store, self.clock)
        self.late = late
        dice = random.Random(seed)
        shared = StaleLists(self.store, self.clock, late, lambda key: dice.random() < 0.5)
        self.hosts = [Host(f"host {n}", shared, self.clock) for n in range(HOSTS)]
        for host, minutes in enumerate(wrong):
            self.set_clock(host, minutes)

    def teardown(self) -> None:
        for host in self.hosts:
            TOLD["calls to the store"] += len(host.store.log)
            host.kill()
        self.patches.close()

    # ── work that begins, and then goes on call by call ──────────────────────────────────────

    @precondition(lambda self: len(self.committed) + self.count("backup") < MOST_POINTS)
    @rule(host=st.integers(0, HOSTS - 1), chunks=CHUNKS, full=st.booleans(), vm=st.booleans())
    def begin_backup(self, host: int, chunks: list[int], full: bool, vm: bool) -> None:
        name = f"job-{len(self.jobs)}"
        job = self.jobs[name] = Job(small_disk(*chunks, tail=17), "mail" if vm else "web")
        base = "" if full else self._base_of(job)
        self.begin(host, f"backup {name}", lambda scene: self._back_up(scene, name, base))

    @precondition(lambda self: len(self.committed) + self.count("backup") < MOST_POINTS)
    @rule(host=st.integers(0, HOSTS - 1), chunks=CHUNKS, full=st.booleans(), vm=st.booleans())
    def back_up_at_once(self, host: int, chunks: list[int], full: bool, vm: bool) -> None:
        self.begin_backup(host, chunks, full, vm)
        self.finish_last(host)

    def finish_last(self, host: int) -> None:
        if self.hosts[host].actors:
            self.hosts[host].actors[-1].finish()

    def _base_of(self, job: Job) -> str:
        return next((n for n in reversed(self.committed) if self.jobs[n].vm == job.vm), "")

    def _back_up(self, scene: Scene, name: str, base: str) -> RecoveryPoint:
        writer = scene.vault.writer(self.jobs[name].vm, name)
        if writer.committed is not None:
            return writer.committed
        try:
            return self._written(scene, writer, name, base)
        except Failure as failure:
            writer.abandon()  # as a job does; who dies has no time for it
            if failure.code != "vault.base-missing":
                raise
        return self._back_up(scene, name, "")

    def _written(
        self, scene: Scene, writer: VaultPointWriter, name: str, base: str
    ) -> RecoveryPoint:
        job, old = self.jobs[name], self.jobs[base].disk if base else b""
        target = writer.disk("sda", len(job.disk), base_generation=base)
        for at in range(0, len(job.disk), SMALL_CHUNK):
            chunk = job.disk[at : at + SMALL_CHUNK]
            if not base or old[at : at + SMALL_CHUNK] != chunk:
                target.put(at // SMALL_CHUNK, memoryview(chunk))
        row = PointDisk("sda", len(job.disk), "raw", name, bool(base))
        return writer.commit(
            taken_at=scene.clock(), route=Route.HOST, consistency=LABEL, freeze=None, disks=(row,)
        )

    @rule(host=st.integers(0, HOSTS - 1), seconds_between=st.sampled_from([0, 7200]))
    def begin_collection(self, host: int, seconds_between: int) -> None:
        def collect(scene: Scene) -> CollectPlan:
            plan = scene.vault.plan_collect()
            scene.clock.advance(seconds=seconds_between)
            return scene.vault.collect(plan)

        self.begin(host, "collection", collect)

    @precondition(lambda self: self.committed)
    @rule(host=st.integers(0, HOSTS - 1), which=st.integers(0, MOST_POINTS))
    def begin_deletion(self, host: int, which: int) -> None:
        name = self.committed[which % len(self.committed)]

        def delete(scene: Scene) -> None:
            plan = scene.vault.plan_deletion([self.jobs[name].point_id])
            self.jobs[name].deleting = True
            scene.vault.execute(plan)

        self.begin(host, f"deletion of {name}", delete)

    @precondition(lambda self: self.committed)
    @rule(host=st.integers(0, HOSTS - 1), which=st.integers(0, MOST_POINTS))
    def delete_at_once(self, host: int, which: int) -> None:
        self.begin_deletion(host, which)
        self.finish_last(host)

    @rule(host=st.integers(0, HOSTS - 1), hours=st.sampled_from([1, 3, 25, 30]))
    def collect_at_once_after_a_while(self, host: int, hours: int) -> None:
        self._let_commit()
        self.clock.advance(hours=hours)
        self.begin_collection(host, 0)
        self.finish_last(host)

    @rule(host=st.integers(0, HOSTS - 1), days=st.integers(2, 4))
    def days_of_upkeep(self, host: int, days: int) -> None:
        for _ in range(days):
            self.collect_at_once_after_a_while(host, 30)
            self.every_committed_point_restores()

    @precondition(lambda self: self.committed)
    @rule(host=st.integers(0, HOSTS - 1), which=st.integers(0, MOST_POINTS))
    def begin_restore(self, host: int, which: int) -> None:
        name = self.committed[which % len(self.committed)]
        job = self.jobs[name]

        def restore(scene: Scene) -> None:
            reader = scene.vault.reader(job.point_id, "sda")
            for at in range(0, len(job.disk), SMALL_CHUNK):
                buffer = bytearray(min(SMALL_CHUNK, len(job.disk) - at))
                reader.read_into(at, memoryview(buffer))
                assert buffer == job.disk[at : at + SMALL_CHUNK], f"{name} reads wrong bytes"

        self.begin(host, f"restore of {name}", restore)

    @rule(host=st.integers(0, HOSTS - 1), mode=st.sampled_from(["structure", "packs", "chunks"]))
    def begin_verification(self, host: int, mode: str) -> None:
        self.begin(host, f"verification of {mode}", lambda scene: scene.vault.verify(mode))

    @precondition(lambda self: self.committed)
    @rule(host=st.integers(0, HOSTS - 1))
    def begin_copy(self, host: int) -> None:
        def copy(scene: Scene) -> None:
            keys = scene.vault.contents.keys
            there = PaperStore(self.clock)
            execute_copy(
                plan_copy(scene.store, there, keys=keys, clock=scene.clock), clock=scene.clock
            )

        self.begin(host, "copy", copy)

    @rule(host=st.integers(0, HOSTS - 1))
    def begin_rebuilding(self, host: int) -> None:
        self.begin(host, "rebuilding", lambda scene: scene.vault.rebuild_index())

    def begin(self, host: int, name: str, work: Callable[[Scene], object]) -> None:
        if len(self.hosts[host].actors) < 3:
            TOLD[name.split()[0]] += 1
            self.hosts[host].begin(name, work)

    # ── who goes on, and what befalls them ───────────────────────────────────────────────────

    @precondition(lambda self: self.actors)
    @rule(which=st.integers(0, 8), calls=st.integers(1, 25))
    def go_on(self, which: int, calls: int) -> None:
        self.actors[which % len(self.actors)].go(calls)

    @precondition(lambda self: self.actors)
    @rule(which=st.integers(0, 8))
    def finish(self, which: int) -> None:
        self.actors[which % len(self.actors)].finish()

    @precondition(lambda self: self.actors)
    @rule(which=st.integers(0, 8), fault=st.sampled_from(CALL_FAULTS), after=st.integers(0, 12))
    def go_on_into_a_fault(self, which: int, fault: Fault, after: int) -> None:
        actor = self.actors[which % len(self.actors)]
        if after:
            actor.go(after)
        host = actor.host
        host.next_fault = fault
        actor.go(1)
        host.next_fault = None
        if host.store.dead:
            self._kill(host)

    @precondition(lambda self: self.actors)
    @rule(which=st.integers(0, 8))
    def kill(self, which: int) -> None:
        self._kill(self.actors[which % len(self.actors)].host)

    def _kill(self, dying: Host) -> None:
        TOLD["kills"] += 1
        TOLD["calls to the store"] += len(dying.store.log)
        self._count_faults(dying)
        dying.kill()

    @rule(minutes=st.sampled_from([1, 30, 60, 3 * 60, 12 * 60, 25 * 60, 30 * 60]))
    def wait(self, minutes: int) -> None:
        self._let_commit()
        self.clock.advance(minutes=minutes)

    def _let_commit(self) -> None:
        """Nobody stands still for hours between the last look at its session and its commit: what
        becomes of it then is a stated limit of the vault. Nor is a call delivered hours late."""
        for host in self.hosts:
            host.store.deliver()
        for actor in self.actors:
            if actor.at is not None and str(actor.at).startswith("put points/"):
                actor.go(1)

    @rule(host=st.integers(0, HOSTS - 1), minutes=st.integers(-WRONG_BY_MINUTES, WRONG_BY_MINUTES))
    def clock_jumps(self, host: int, minutes: int) -> None:
        self.set_clock(host, minutes)

    def set_clock(self, host: int, minutes: int) -> None:
        self.hosts[host].wrong_by_minutes = minutes

    # ── what must hold ───────────────────────────────────────────────────────────────────────

    @invariant()
    def every_committed_point_restores(self) -> None:
        if not self.hosts:
            return
        TOLD["steps"] += 1
        self._look_at_the_ended()
        fresh = Scene.at(self.store, self.clock)
        listed = fresh.vault.points()
        points = {point.job_id: point for point in listed}
        assert len(points) == len(listed), "a job has made two points"
        for name, point in points.items():
            job = self.jobs[name]
            job.point_id = point.id
            self.read_whole(fresh, name, job)
        for name, job in self.jobs.items():
            if job.point_id and name not in points:
                assert job.deleting, f"{name} is lost"
                job.gone_at = job.gone_at or self.clock.now

    def read_whole(self, fresh: Scene, name: str, job: Job) -> None:
        assert fresh.restore(job.point_id) == job.disk, f"{name} reads wrong bytes"
        TOLD["points read whole"] += 1

    def _look_at_the_ended(self) -> None:
        for host in self.hosts:
            for actor in [actor for actor in host.actors if actor.done]:
                host.actors.remove(actor)
                if actor.error is not None:
                    raise AssertionError(f"{actor} ended in an uncoded error") from actor.error
                if actor.failure is not None:
                    TOLD[f"ended in {actor.failure.code}"] += 1
                    self._look_at_failure(actor, actor.failure)
                self._look_at(actor)

    def _look_at(self, actor: Actor) -> None:
        if isinstance(actor.result, RecoveryPoint):
            TOLD["points committed"] += 1
            job = self.jobs[actor.result.job_id]
            assert job.point_id in ("", actor.result.id), f"{actor} has made a second point"
            job.point_id = actor.result.id
        if isinstance(actor.result, CollectPlan):
            TOLD["packs deleted"] += len(actor.result.delete)
            TOLD["packs marked"] += len(actor.result.mark)
            TOLD["packs copied out of"] += len(actor.result.repack.packs)
            TOLD["packs revived"] += len(actor.result.revive)
            TOLD["objects kept by a lock"] += len(actor.result.locked)

    def _look_at_failure(self, actor: Actor, failure: Failure) -> None:
        kind, _, job = actor.name.partition(" ")
        doomed = any(
            other.deleting and (name == job.rpartition(" ")[2] or other.point_id in str(failure))
            for name, other in self.jobs.items()
        )
        if not sum(actor.host.store.shown.values()) and not doomed:
            assert failure.code in self.foreseen(kind), f"{actor} ended in {failure}"

    def foreseen(self, kind: str) -> set[str]:
        return EXPECTED[kind] | (WHERE_LISTS_ARE_LATE if self.late else set())

    def _count_faults(self, host: Host) -> None:
        TOLD["faults"] += sum(host.store.shown.values())

    @property
    def actors(self) -> list[Actor]:
        return [actor for host in self.hosts for actor in host.actors]

    def count(self, name: str) -> int:
        return sum(actor.name.startswith(name) for actor in self.actors)

    @property
    def committed(self) -> list[str]:
        return [name for name, job in self.jobs.items() if job.point_id and not job.deleting]
