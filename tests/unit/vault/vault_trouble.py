"""Any history, and what befalls a vault besides: retention locks, records that rot, answers to a
commit that get lost, the same task tried again, points that come by copies, a clock that is off by
a day. None of it is damage to what points need: every committed point reads bit for bit after every
step, as in any history.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from faulty_store import Fault
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from paper_store import PaperStore
from small_vault import small_disk
from stepping import Actor
from store_sweep import clear_up, left_over
from vault_machine import VaultMachine
from vault_model import CHUNKS, HOSTS, LATE_SECONDS, MOST_POINTS, TOLD, WRONG_BY_MINUTES, Job
from vault_scene import Scene

from quiesce.vault.copy.copying import execute_copy, plan_copy
from quiesce.vault.upkeep.collect_plan import CollectPlan

OFF_BY_HOURS = (0, 0, -30, -10, -4, 4, 10, 30)
"""How wrong the clock of one host is; the others are right within an hour, as the store is."""
MANY_CHUNKS = 12
"""More than a pack takes."""
LOCKED = ("packs/", "index/", "points/", "garbage/", "deleted/", "damage/")
ROTTEN = ("garbage/", "sessions/", "damage/", "deleted/", "sessions/gc")
LOST_ANSWERS = (Fault.AFTER, Fault.ECHO, Fault.TWICE, Fault.SLOW, Fault.BEFORE, Fault.LATE)


def spoilt(data: bytes, how: str, at: float) -> bytes:
    """`at`: where, 0 to 1."""
    if not data:
        return data
    place = int(at * (len(data) - 1))
    if how == "cut":
        return data[:place]
    if how == "zeroed":
        return bytes(len(data))
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


SPOILT = st.sampled_from(["flipped", "cut", "zeroed"])


class TroubledVault(VaultMachine):
    def __init__(self) -> None:
        super().__init__()
        self.off_by_hours = 0
        self.rotten: set[str] = set()
        """Kinds of records of which some have rotted."""
        self.restless = 0
        """Pieces of work begun since the vault has come to rest."""
        self.locks_until = self.clock.now
        self.elsewhere = PaperStore(self.clock)
        self.arriving: set[str] = set()
        """Jobs whose points are at the source of copies."""
        self.unseeing: set[str] = set()
        """Those of them that a copy without the key may have brought."""

    @initialize(
        wrong=st.lists(
            st.integers(-WRONG_BY_MINUTES, WRONG_BY_MINUTES), min_size=HOSTS, max_size=HOSTS
        ),
        late=st.sampled_from([0, 60, LATE_SECONDS]),
        seed=st.integers(0, 1 << 16),
        off=st.sampled_from(OFF_BY_HOURS),
    )
    def make_vault(self, wrong: list[int], late: int, seed: int, off: int = 0) -> None:
        self.off_by_hours = off
        super().make_vault(wrong, late, seed)
        self.elsewhere = self.store.copy()
        self.elsewhere.address = "elsewhere"

    def set_clock(self, host: int, minutes: int) -> None:
        super().set_clock(host, minutes + (0 if host else self.off_by_hours * 60))

    # ── retention locks ──────────────────────────────────────────────────────────────────────

    @rule(what=st.sampled_from(LOCKED), hours=st.sampled_from([1, 30, 100]))
    def lock(self, what: str, hours: int) -> None:
        """All that is there now."""
        until = self.clock.now + timedelta(hours=hours)
        for key in self.store.keys(what):
            TOLD["objects locked"] += 1
            self.store.kept_until[key] = max(until, self.store.kept_until.get(key, until))
            self.locks_until = max(self.locks_until, until)

    # ── records that rot ─────────────────────────────────────────────────────────────────────

    @rule(
        what=st.sampled_from(ROTTEN),
        which=st.integers(0, 9),
        how=SPOILT | st.just("on a bad sector"),
        at=st.floats(0.0, 1.0),
    )
    def rot(self, what: str, which: int, how: str, at: float) -> None:
        # A mark that rots between a collection's look at it and its deletions: a stated limit.
        deleting = what == "garbage/" and self.count("collection")
        keys = self.store.keys(what)
        if keys and not deleting:
            key = keys[which % len(keys)]
            TOLD["records that rotted"] += 1
            if how == "on a bad sector":
                self.store.bad_sectors[key] = 0, len(self.store.objects[key][0])
            else:
                self.store.change(key, spoilt(self.store.objects[key][0], how, at))
            self.rotten.add("lease" if key == "sessions/gc" else key.partition("/")[0])

    def foreseen(self, kind: str) -> set[str]:
        more: set[str] = set()
        if kind == "collection" and self.rotten & {"garbage", "damage"}:
            more |= {"vault.collect-refused"}
        if kind == "backup" and self.rotten & {"garbage", "damage"}:
            more |= {"vault.record-unread"}  # a verification has removed it meanwhile
        if kind == "collection" and "damage" in self.rotten:
            more |= {"vault.corrupt-index"}
        if self.off_by_hours and kind in ("backup", "copy", "arrival"):
            more |= {"vault.session-expired"}
        if self.off_by_hours > 0 and kind == "collection":
            more |= {"vault.clock-ahead"}
        return super().foreseen(kind) | more

    # ── a commit whose answer is lost, and the same task tried again ─────────────────────────

    @precondition(lambda self: self.count("backup"))
    @rule(
        which=st.integers(0, 8),
        fault=st.sampled_from(LOST_ANSWERS),
        host=st.integers(0, HOSTS - 1),
        again=st.booleans(),
    )
    def lose_the_answer_to_a_commit(self, which: int, fault: Fault, host: int, again: bool) -> None:
        actor = self._backups[which % len(self._backups)]
        name = actor.name.partition(" ")[2]
        if not self._go_until(actor, "put points/"):
            return
        TOLD["answers to commits that were lost"] += 1
        actor.host.next_fault = fault
        actor.finish()
        if again and not self.jobs[name].deleting:
            self._try_again(host, name)

    @precondition(lambda self: self.jobs)
    @rule(host=st.integers(0, HOSTS - 1), which=st.integers(0, 20))
    def try_again(self, host: int, which: int) -> None:
        """A task that failed, died, is under way still, or is done."""
        names = [name for name, job in self.jobs.items() if not job.deleting]
        if names:
            self._try_again(host, names[which % len(names)])

    def _try_again(self, host: int, name: str) -> None:
        if name in self.arriving:
            return
        TOLD["tasks tried again"] += 1
        self.begin(host, f"backup {name}", lambda scene: self._back_up(scene, name, ""))

    def _go_until(self, actor: Actor, call: str) -> bool:
        """Whether it stands before such a call: it may fail before, or wait for another."""
        for _ in range(400):
            if actor.done or str(actor.at).startswith(call):
                break
            actor.go(1)
        return not actor.done and str(actor.at).startswith(call)

    # ── packs that are marked while a backup comes to need them ──────────────────────────────

    @precondition(lambda self: self.committed and self.count("backup") < 2)
    @rule(
        host=st.integers(0, HOSTS - 1),
        which=st.integers(0, MOST_POINTS),
        long=st.booleans(),
    )
    def need_what_is_being_marked(self, host: int, which: int, long: bool) -> None:
        """Of a point deleted a while ago, by a backup that began just before the mark; a `long` one
        lives until the mark is ripe."""
        old = self.jobs[self.committed[which % len(self.committed)]].disk
        other = (host + 1) % HOSTS
        self.delete_at_once(other, which)
        self.wait(5 * 60)
        name = f"job-{len(self.jobs)}"
        new = small_disk(*(101 + 2 * len(self.jobs) + 1000 * n for n in range(MANY_CHUNKS)))
        self.jobs[name] = Job(new + old, "mail")
        self.begin(host, f"backup {name}", lambda scene: self._back_up(scene, name, ""))
        if self.hosts[host].actors and self._go_until(self.hosts[host].actors[-1], "put packs/"):
            for _ in range(4 if long else 1):
                self.begin_collection(other, 0)
                self.finish_last(other)
                self.every_committed_point_restores()
                if long:
                    self.wait(10 * 60)
                    self.hosts[host].actors[-1].go(3)  # gives a sign of life
            self.finish_last(host)

    @precondition(lambda self: self.committed and self.count("backup") < 2)
    @rule(
        host=st.integers(0, HOSTS - 1), which=st.integers(0, MOST_POINTS), times=st.integers(1, 3)
    )
    def need_what_was_just_deleted(self, host: int, which: int, times: int) -> None:
        """By a host that knows where it lay; its lists may show it still, when others' do not."""
        old = self.jobs[self.committed[which % len(self.committed)]].disk
        other = (host + 1) % HOSTS
        self.delete_at_once(other, which)
        for hours in (30, 30, *[0] * (times - 1)):
            self.collect_at_once_after_a_while(other, hours)
            self.every_committed_point_restores()
        name = f"job-{len(self.jobs)}"
        self.jobs[name] = Job(old, "mail")
        self.begin(host, f"backup {name}", lambda scene: self._back_up(scene, name, ""))
        self.finish_last(host)

    # ── points that come by a copy, beside collections ───────────────────────────────────────

    @precondition(lambda self: len(self.committed) + len(self.arriving) < MOST_POINTS)
    @rule(chunks=CHUNKS)
    def back_up_elsewhere(self, chunks: list[int]) -> None:
        name = f"job-{len(self.jobs)}"
        self.jobs[name] = Job(small_disk(*chunks, tail=17), "far")
        self.arriving.add(name)
        self._back_up(Scene.at(self.elsewhere, self.clock), name, "")

    @precondition(lambda self: self.arriving)
    @rule(host=st.integers(0, HOSTS - 1), keyless=st.booleans())
    def begin_arrival(self, host: int, keyless: bool) -> None:
        def copy(scene: Scene) -> bool:
            keys = None if keyless else scene.vault.contents.keys
            plan = plan_copy(self.elsewhere, scene.store, keys=keys, clock=scene.clock)
            return execute_copy(plan, clock=scene.clock, packs_at_once=1).complete

        self.unseeing |= self.arriving if keyless else set()
        self.begin(host, "arrival", copy)

    @precondition(lambda self: self.arriving)
    @rule(host=st.integers(0, HOSTS - 1), keyless=st.booleans())
    def arrive_at_once(self, host: int, keyless: bool) -> None:
        self.begin_arrival(host, keyless)
        self.finish_last(host)

    def begin(self, host: int, name: str, work: Callable[[Scene], object]) -> None:
        self.restless += 1
        super().begin(host, name, work)

    # ── what must hold ───────────────────────────────────────────────────────────────────────

    @precondition(lambda self: self.restless >= 8)
    @rule()
    def come_to_rest(self) -> None:
        """Everybody ends, the locks too; then collections leave nothing over."""
        self.restless = 0
        for host in self.hosts:
            self._kill(host)
        self.make_whole()
        self.clock.advance(hours=max(self._locked_hours, 7.0))
        true = Scene.at(self.store, self.clock)
        true.vault.verify("packs")
        done = clear_up(true, 6)
        self._count_collected(done)
        self.every_committed_point_restores()
        rest = left_over(true)
        # Who slept for longer than its lease or session lasts may yet tell of what is gone.
        idle = [each for each in rest if each.endswith("told of and not there")]
        TOLD["packs told of and not there"] += len(idle)
        assert rest == idle, f"left over: {rest}"
        TOLD["rests with nothing left over"] += 1

    def make_whole(self) -> None:
        """Of what befell the vault what nobody else would undo."""

    def _look_at(self, actor: Actor) -> None:
        super()._look_at(actor)
        if actor.name == "arrival" and actor.failure is None:
            TOLD["copies that arrived"] += 1
            faults = sum(actor.host.store.shown.values())
            assert actor.result or faults or self.may_leave_out, "a copy left points out"

    @property
    def may_leave_out(self) -> bool:
        """Whether a copy may."""
        return False

    def _count_collected(self, done: list[CollectPlan]) -> None:
        TOLD["packs deleted"] += sum(len(plan.delete) for plan in done)

    @property
    def _locked_hours(self) -> float:
        return (self.locks_until - self.clock.now) / timedelta(hours=1)

    @property
    def _backups(self) -> list[Actor]:
        return [actor for actor in self.actors if actor.name.startswith("backup")]
