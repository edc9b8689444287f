"""A backup that is tried again while an earlier try of it may still commit."""

from __future__ import annotations

import pytest
from faulty_store import Call, Fault, FaultyStore, Rule
from paper_store import PaperStore
from vault_scene import FakeClock, Scene, disk_of, put_all

from quiesce.model.failure import Failure
from quiesce.vault.points.writer import VaultPointWriter

DISK = disk_of(1, 2, 3)


class LongRun:
    """A writer that began before the packs it counts on were marked, and writes until the mark is
    old."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.store = PaperStore(clock)
        scene = Scene.create(self.store, clock)
        doomed = scene.backup("one", DISK)
        clock.advance(hours=5)
        scene.delete(doomed)
        clock.advance(hours=5)
        self.host = FaultyStore(self.store)
        self.scene = Scene.at(self.host, clock)
        self.writer = self.try_("two")
        clock.advance(minutes=30)
        self.collect()
        for _ in range(30):
            clock.advance(hours=1)
            self.writer._beat()

    def try_(self, job: str, store: FaultyStore | None = None) -> VaultPointWriter:
        writer = Scene.at(store or self.host, self.clock).vault.writer("web", job)
        put_all(writer.disk("sda", len(DISK)), DISK)
        return writer

    def collect(self) -> None:
        vault = Scene.at(self.store, self.clock).vault
        vault.collect(vault.plan_collect())

    def the_one_point_reads(self) -> None:
        there = Scene.at(self.store, self.clock)
        (point,) = there.vault.points()
        assert there.restore(point) == DISK


def fail_to_list_marks_after_the_record(host: FaultyStore, call: Call) -> None:
    if call.operation == "put" and call.key.startswith("sessions/"):
        host.rules.append(Rule("list", Fault.BEFORE, "garbage/"))


@pytest.mark.parametrize("ends", ["lives", "is given up", "fails to begin"])
def test_a_commit_that_takes_effect_late_keeps_what_it_counts_on_while_its_task_is_tried_again(
    clock: FakeClock, ends: str
) -> None:
    run = LongRun(clock)
    run.host.rules.append(Rule("put", Fault.LATE, "points/"))
    with pytest.raises(Failure):
        run.scene.commit(run.writer, len(DISK))
    host = FaultyStore(run.store)
    if ends == "fails to begin":
        host.before = lambda call: fail_to_list_marks_after_the_record(host, call)
        with pytest.raises(Failure):
            run.try_("two", host)
    else:
        again = run.try_("two", host)
        if ends == "is given up":
            again.abandon()
    run.collect()
    run.writer.abandon()  # by its first call the commit has arrived
    run.the_one_point_reads()
    run.collect()
    run.the_one_point_reads()


def test_a_try_that_was_about_to_commit_keeps_what_it_counts_on_when_the_next_begins(
    clock: FakeClock,
) -> None:
    run = LongRun(clock)

    def before(call: Call) -> None:
        if str(call).startswith("put points/"):
            run.try_("two", FaultyStore(run.store))
            run.collect()

    run.host.before = before
    run.scene.commit(run.writer, len(DISK))
    run.the_one_point_reads()
