"""Retention locks over any history: three machines, one bucket, and a list of what was promised."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from paper_bucket import PaperBucket, host_of, read_after_attack
from small_vault import small_disk, small_packs, small_scene
from vault_scene import FakeClock, Scene

from quiesce.model.point import RecoveryPoint
from quiesce.vault.format.diskmap import FANOUT
from quiesce.vault.stores.locks import Mode, Terms

MACHINE = st.sampled_from([0, 0, 0, 1, 2])
WHAT = [
    "full",
    "increment",
    "increment",
    "increment",
    "wait",
    "wait",
    "delete",
    "collect",
    "forget",
]
STEP = st.sampled_from([*WHAT, "ask"]).flatmap(
    lambda what: st.tuples(
        st.just(what),
        {
            "wait": st.integers(1, 60),
            "delete": st.integers(0, 20),
            "ask": st.sampled_from([2, 5, 10]),
        }.get(what, st.integers(0, 2)),
        MACHINE,
    )
)
"""What is done, a number for it, and by which of three machines."""


PLACES = (0, 1, 2, *range(FANOUT, FANOUT + 24))
"""Where a disk is not empty: several packs hang from the second leaf alone, that of the leaf itself
apart."""


def _disk(vm: int) -> list[int]:
    chunks = [0] * (FANOUT + 24)
    for number, place in enumerate(PLACES):
        own = vm == 2 or number == 5
        chunks[place] = 2 * number + 1 + (100 * vm if own else 0)
    return chunks


class History:
    """Three machines that back up three VMs into one bucket, and a list of what was promised."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.bucket = PaperBucket(self.clock)
        self.machines = [host_of(self.bucket, self.clock) for _ in range(3)]
        first = small_scene(self.machines[0], self.clock)
        self.machines[0].ask_for(Terms(Mode.GOVERNANCE, 3))
        self.scenes = [first, *(Scene.at(host, self.clock) for host in self.machines[1:])]
        # Two leaves each; the first two have some chunks in common.
        self.disks = {vm: _disk(vm) for vm in range(3)}
        self.newest: dict[int, RecoveryPoint] = {}
        self.promised: list[tuple[RecoveryPoint, bytes, object]] = []
        self.alive: list[RecoveryPoint] = []
        self.count = 0

    def step(self, what: str, number: int, machine: int) -> None:
        scene = self.scenes[machine]
        if what in ("full", "increment"):
            self._backup(scene, number, increment=what == "increment")
        elif what == "delete" and self.alive:
            point = self.alive.pop(number % len(self.alive))
            scene.delete(point)
            self.newest = {vm: p for vm, p in self.newest.items() if p.id != point.id}
        elif what == "collect":
            scene.vault.collect(scene.vault.plan_collect())
        elif what == "wait":
            self.clock.advance(hours=number)
        elif what == "forget":
            self.machines[machine] = host_of(self.bucket, self.clock)
            self.scenes[machine] = Scene.at(self.machines[machine], self.clock)
        elif what == "ask":
            # Everybody asks for the terms before each commit; here the minute is over for all.
            self.machines[0].ask_for(Terms(Mode.GOVERNANCE, number))
            for host in self.machines:
                host.terms(fresh=True)

    def _backup(self, scene: Scene, vm: int, *, increment: bool) -> None:
        self.count += 1
        base = self.newest.get(vm)
        place = PLACES[self.count % 5]
        self.disks[vm][place] = 1001 + 2 * (self.count if vm else self.count % 9)
        data = small_disk(*self.disks[vm])
        options = {}
        if increment and base is not None:
            options = {"base": base.job_id, "changed": {"sda": {place}}}
        point = scene.backup(f"job{self.count}", data, vm=f"vm{vm}", **options)
        terms = scene.store.terms()  # type: ignore[attr-defined]
        self.newest[vm] = point
        self.alive.append(point)
        self.promised.append((point, data, self.clock() + terms.time))

    def check(self) -> None:
        for point, data, until in self.promised:
            assert read_after_attack(self.bucket, until, point.id) == data


@settings(max_examples=10)
@given(st.lists(STEP, max_size=25))
@example([("full", 2, 0), ("wait", 60, 0), *[("full", 1, 0)] * 3, ("increment", 2, 0)])
@example(
    [("full", 1, 0), ("full", 0, 1), ("delete", 0, 0), *[("collect", 0, 0), ("wait", 30, 0)] * 3]
)
def test_whatever_happens_in_whatever_order_no_point_loses_data_before_its_time(
    steps: list[tuple[str, int, int]],
) -> None:
    with small_packs():
        history = History()
        for step in steps:
            history.step(*step)
        history.check()
