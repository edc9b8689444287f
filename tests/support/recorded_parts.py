"""A hypervisor, a guest, its route and a mender that only record what is asked of them, on one
tape. The real ones are met in tests/e2e."""

from __future__ import annotations

from datetime import UTC, datetime

from quiesce.model.failure import Failure
from quiesce.model.policy import SnapshotOptions
from quiesce.model.snapshot import FreezeReport, MountFreeze, Route, SnapshotSession
from quiesce.model.vm import PowerState, VmState
from quiesce.snapshot.ports import (
    Again,
    Finish,
    Guest,
    GuestPoint,
    GuestRoute,
    Hypervisor,
    Mender,
    Readiness,
)

ROOT = MountFreeze("/", "ext4", freeze_ms=2.0, frozen_ms=30.0)
INSTANT = datetime(2026, 1, 1, tzinfo=UTC)


class Stage:
    """`tape` is every call in order; `failing` maps a call to the failure it raises, or to one for
    each time it is made (None: it succeeds), of which the last stays."""

    def __init__(self) -> None:
        self.tape: list[str] = []
        self.failing: dict[str, Failure | list[Failure | None]] = {}
        self.power = PowerState.RUNNING
        self.readiness = Readiness("1.0", (ROOT,), scripts_configured=False, pre_script=None)
        self.report = FreezeReport((ROOT,), held=True, hold_seconds=10)
        self.finish = Finish(post_script=None)
        self.options: list[SnapshotOptions] = []

    def play(self, call: str) -> None:
        self.tape.append(call)
        failing = self.failing.get(call)
        if isinstance(failing, list):
            failing = failing.pop(0) if len(failing) > 1 else failing[0]
        if failing is not None:
            raise failing


class RecordedHypervisor(Hypervisor):
    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def state(self) -> VmState:
        return VmState(self.stage.power, (), "QEMU")

    def prepare(self, task_id, *, bases, options):
        self.stage.play("hypervisor.prepare")

    def take(self, task_id):
        self.stage.play("hypervisor.take")
        return INSTANT

    def open(self, task_id):
        self.stage.play("hypervisor.open")
        return SnapshotSession(task_id, INSTANT, Route.HOST, ())

    def release(self, task_id, *, committed):
        self.stage.play(f"hypervisor.release committed={committed}")

    def leftovers(self):
        return ()


class RecordedGuest(Guest):
    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def prepare(self, task_id, options):
        self.stage.options.append(options)
        self.stage.play("guest.prepare")
        return self.stage.readiness

    def freeze(self, task_id):
        self.stage.play("guest.freeze")

    def thaw(self, task_id):
        self.stage.play("guest.thaw")
        return self.stage.report

    def finish(self, task_id):
        self.stage.play("guest.finish")
        return self.stage.finish

    def recover(self, task_id):
        self.stage.play("guest.recover")


class RecordedRoute(GuestRoute):
    """A guest that freezes itself and asks for the point, unless `failing` says otherwise."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.asks = True
        self.says = 0
        """How often the wait for the agent says something."""

    def snapshot(self, task_id, disks, options, *, take, log):
        self.stage.options.append(options)
        for _ in range(self.says):
            log("debug", "Nothing new.")
        self.stage.play("route.snapshot")
        taken = take() if self.asks else INSTANT
        self.stage.play("route.report")
        return GuestPoint(taken, self.stage.readiness, self.stage.report, self.stage.finish)

    def recover(self, task_id):
        self.stage.play("route.recover")


class RecordedMender(Mender):
    """`answers`: per route, what it gives when asked to mend; nothing otherwise."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.answers: dict[Route, Again] = {}
        self.told: list[tuple[Route, str]] = []

    def trying(self, route):
        return

    def failed(self, route, failure):
        self.told.append((route, failure.code))
        self.stage.tape.append(f"mender.failed {route}")

    def mend(self, route, failure, options):
        self.stage.play(f"mender.mend {route}")
        return self.answers.get(route)
