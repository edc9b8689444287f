"""One piece of work on a vault, broken at every call that it makes to the store, in every way.

A sweep runs the work once to learn its calls, then once for each call and fault: on a copy of the
same vault, broken there. After each, another process opens the vault: every committed point is
read bit for bit, the work is done again, four collections follow, and nothing may be left over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from faulty_store import CHANGING, DEATHS, Call, Fault, FaultyStore, Killed
from paper_store import PaperStore
from small_vault import small_packs, small_scene
from vault_scene import FakeClock, Scene

from quiesce.model.failure import Failure
from quiesce.vault.format.pack import pack_key, pack_name
from quiesce.vault.upkeep.collect_plan import CollectPlan
from quiesce.vault.upkeep.references import References

ERRORS = (
    Fault.BEFORE, Fault.AFTER, Fault.PARTIAL, Fault.TWICE, Fault.ECHO, Fault.THROTTLED,
    Fault.FULL, Fault.READ_ONLY, Fault.EXPIRED,
)  # fmt: skip
UNREADABLE = (Fault.BAD_SECTOR, Fault.TOO_LONG)
LIES = (Fault.WRONG_BYTES, Fault.SHORT, *UNREADABLE)
_OFTEN_NONE = ("sessions/", "garbage/", "deleted/", "damage/", "tmp/")


class LostError(AssertionError):
    """A committed point is gone, or reads otherwise than it was written."""


@dataclass
class History:
    """What must hold of a vault: the disk of each job that was ever begun, the jobs whose points
    must be there, and of these the ones that damage may keep from being read."""

    disks: dict[str, bytes] = field(default_factory=dict)
    sure: set[str] = field(default_factory=set)
    hurt: set[str] = field(default_factory=set)

    def check(self, scene: Scene, *, exactly: bool = False) -> None:
        """:raise LostError: a point that must be there is not, or any point reads wrong bytes"""
        points = {point.job_id: point for point in scene.vault.points()}
        if not self.sure <= points.keys():
            raise LostError(f"lost: {sorted(self.sure - points.keys())}")
        if exactly and points.keys() != self.sure:
            raise LostError(f"too many: {sorted(points.keys() - self.sure)}")
        for job, point in points.items():
            try:
                read = scene.restore(point)
            except Failure as failure:
                if job in self.hurt:
                    continue
                raise LostError(f"{job} cannot be read: {failure}") from failure
            if read != self.disks[job]:
                raise LostError(f"{job} reads wrong bytes")


@dataclass(frozen=True)
class Work:
    """`prepare` makes the vault and says what it holds. `run` is swept. `jobs`: points that are
    there once it has succeeded; `gone`: those that may be gone once it has begun; `heals`: all
    damage is mended once it has succeeded; `leaves`: folders that may hold records for ever."""

    name: str
    prepare: Callable[[Scene, History], None]
    run: Callable[[Scene], None]
    jobs: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()
    beside: Callable[[Scene], Callable[[], None]] | None = None
    """Begins something in another process before the work, and gives its end, which is called
    when the work is done or dead. What it commits counts as `jobs_beside`."""
    jobs_beside: frozenset[str] = frozenset()
    heals: bool = False
    leaves: tuple[str, ...] = ()


@dataclass
class Covered:
    """`points`: calls × faults that were run; `outcomes`: how the work ended at them."""

    work: str
    calls: int
    changes: int
    points: int = 0
    losses: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        ends = ", ".join(f"{n} {end}" for end, n in sorted(self.outcomes.items()))
        return (
            f"{self.work:44} {self.changes:3} changes {self.calls:4} calls "
            f"{self.points:5} points {len(self.losses)} losses: {ends}"
        )


@dataclass(frozen=True)
class _Start:
    store: PaperStore
    now: datetime
    history: History


def faults_at(call: Call, kinds: Sequence[Fault]) -> Iterator[Fault]:
    """Of these faults, those that make a difference to this call."""
    for fault in kinds:
        halves = fault in (Fault.PARTIAL, Fault.KILLED_PARTIAL)
        doubles = fault in (Fault.TWICE, Fault.ECHO)
        spoils = fault in LIES
        if halves and call.operation != "put":
            continue
        if doubles and call.operation not in CHANGING:
            continue
        if spoils and call.operation not in ("get", "get_range"):
            continue
        if fault in UNREADABLE and (call.operation != "get" or call.key.startswith("damage/")):
            # What lies in packs is then noted as damaged, as it is. A backup that cannot read what
            # others can of damage relies on that: see what is not proven.
            continue
        if fault in DEATHS and call.operation not in CHANGING:
            continue
        yield fault


def sweep(work: Work, kinds: Sequence[Fault], *, every: int = 1, first: int = 0) -> Covered:
    """Break the work at every call by each of these faults; `every` and `first` take only a part,
    evenly. Losses are gathered, not raised."""
    with small_packs():
        start = _prepared(work)
        calls = _calls(work, start)
        covered = Covered(work.name, len(calls), sum(1 for call in calls if call.change))
        places = [(call, fault) for call in calls for fault in faults_at(call, kinds)]
        for call, fault in places[first % every :: every] or places[:1]:
            covered.points += 1
            try:
                covered.outcomes[_broken(work, start, call, fault)] += 1
            except (LostError, Failure, AssertionError, ValueError) as loss:
                covered.losses.append(f"{work.name}: {fault.name} at {call}: {loss}")
        return covered


def _prepared(work: Work) -> _Start:
    clock = FakeClock()
    store = PaperStore(clock)
    history = History()
    work.prepare(small_scene(store, clock), history)
    return _Start(store, clock.now, history)


def _again(start: _Start) -> tuple[Scene, History]:
    clock = FakeClock()
    clock.now = start.now
    store = start.store.copy()
    store.clock = clock
    past = start.history
    return Scene.at(store, clock), History(past.disks, set(past.sure), set(past.hurt))


def _calls(work: Work, start: _Start) -> list[Call]:
    scene, history = _again(start)
    end = work.beside(scene.reopened()) if work.beside else None
    watched = FaultyStore(scene.store)
    there = scene.reopened(watched)
    begun = len(watched.log)
    work.run(there)
    calls = watched.log[begun:]  # opening the vault is none of the work
    if end:
        end()
    history.sure = (history.sure | work.jobs_beside) - work.gone
    finish(work, scene, history)
    return calls


def _broken(work: Work, start: _Start, call: Call, fault: Fault) -> str:
    scene, history = _again(start)
    end = work.beside(scene.reopened()) if work.beside else None
    store = FaultyStore(scene.store)
    there = scene.reopened(store)

    def here(now: Call) -> bool:
        # Changes are counted apart: how much is read depends on the random names of packs.
        return now.change == call.change if call.change else now.number == call.number

    store.faults = lambda now: fault if here(now) else None
    outcome = "done"
    try:
        work.run(there)
    except Killed:
        outcome = "killed"
    except Failure as failure:
        outcome = failure.code
    if end:
        end()
    history.sure = (history.sure | work.jobs_beside) - work.gone
    history.check(scene.reopened())
    run_again(work, scene)
    finish(work, scene, history)
    return outcome


def run_again(work: Work, scene: Scene) -> None:
    """The same once more, by another process."""
    try:
        work.run(scene.reopened())
    except Failure as failure:
        if failure.code != "vault.collect-running":
            raise
        scene.clock.advance(hours=7)  # the lease of a dead collection has to run out
        work.run(scene.reopened())


def finish(work: Work, scene: Scene, history: History) -> None:
    """The work has succeeded at last: nothing is lost, and four collections leave nothing over."""
    history.sure |= work.jobs
    if work.heals:
        history.hurt.clear()
    history.check(scene.reopened(), exactly=True)
    clear_up(scene)
    history.check(scene.reopened(), exactly=True)
    assert history.hurt or not scene.reopened().vault.verify("chunks").hurt
    rest = [each for each in left_over(scene) if not each.startswith(work.leaves or "?")]
    assert not rest, f"left over: {rest}"


def clear_up(scene: Scene, times: int = 4) -> list[CollectPlan]:
    """Collections, each when what the one before has left is ripe, until one finds nothing to do:
    after marking and copying, deleting, and forgetting the marks."""
    done = []
    for _ in range(times):
        scene.clock.advance(hours=30)
        there = scene.reopened()
        done.append(there.vault.collect(there.vault.plan_collect()))
    return done


def left_over(scene: Scene) -> list[str]:
    """Objects that nothing needs: packs no point refers to or no segment tells of, and records."""
    there = scene.reopened()
    contents = there.vault.contents
    store = contents.store
    rest = [info.key for folder in _OFTEN_NONE for info in store.list(folder)]
    stored = {name for info in store.list("packs/") if (name := pack_name(info.key))}
    told: frozenset[bytes] = frozenset().union(*contents.segments().values())
    contents.refresh(scan_unindexed=True)
    references = References(contents, contents.index.snapshot())
    references.add(there.vault.manifests())
    live = references.live_packs()
    rest += [f"{pack_key(name)} that nothing needs" for name in stored - live]
    rest += [f"{pack_key(name)} that no segment tells of" for name in stored & live - told]
    rest += [f"{pack_key(name)} told of and not there" for name in told - stored]
    return rest
