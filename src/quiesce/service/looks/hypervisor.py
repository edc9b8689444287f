"""What the hypervisor shows of a VM: power, the agent's port, change tracking, load, leftovers."""

from __future__ import annotations

from collections.abc import Iterator

from quiesce.model.diagnosis import Fact
from quiesce.model.failure import Failure, FailureReport, VmFailure
from quiesce.model.survey import DiskSurvey, Tracking, VmSurvey
from quiesce.model.vm import PowerState
from quiesce.service.composition import Composition
from quiesce.service.job_book import JobBook
from quiesce.service.looks.panel import Case, Found
from quiesce.service.points import Points

CHANNEL = "hypervisor"
_SOURCE = "QEMU monitor"
_WORST = (Tracking.GOOD, Tracking.MISSING, Tracking.INCONSISTENT)
_ABSENT = {"vm.not-found": "missing", "vm.unreachable": "unreachable", "vm.gone": "off"}


class HypervisorLook:
    def __init__(self, composition: Composition, points: Points, book: JobBook) -> None:
        self._composition = composition
        self._points = points
        self._book = book

    def __call__(self, case: Case, _: Found) -> Found:
        """:raise Failure: QEMU refuses what it is asked"""
        hypervisor = self._composition.hypervisor(case.address)
        active = frozenset(self._book.active_ids())
        bases, problems = self._bases(case.vm)
        try:
            seen = hypervisor.survey(bases=bases or {}, active=active)
        except VmFailure as failure:
            return _absent(failure)
        facts = [*_power(seen), *_unsupported(seen.disks), _left_over(seen, active)]
        if bases is not None:
            facts += _tracking(seen.disks)
        if case.address.agent.qga:
            facts += _port(seen)
        if seen.power is PowerState.RUNNING:
            percent = hypervisor.processor_percent(seen)
            if percent is not None:
                facts.append(_load(seen, percent))
        return Found(tuple(facts), problems, (CHANNEL,))

    def _bases(self, vm: str) -> tuple[dict[str, list[str]] | None, tuple[FailureReport, ...]]:
        """What the vault's points count from; None, and why, while it cannot be read."""
        try:
            return self._points.generations(vm), ()
        except Failure as unreadable:
            return None, (unreadable.report(),)


def _absent(failure: VmFailure) -> Found:
    report = failure.report()
    channel = f"{CHANNEL}: {failure}"
    power = _ABSENT.get(failure.code)
    if power is None:
        return Found(problems=(report,), channels=(channel,))
    raw = "\n".join(each.raw for each in failure.evidence if each.raw)
    fact = Fact("vm.power", power, failure.message, _SOURCE, raw=raw)
    return Found((fact,), (report,), (channel,))


def _power(seen: VmSurvey) -> Iterator[Fact]:
    words = f"the VM is {seen.power}"
    if seen.status and seen.status != seen.power:
        words += f" (QEMU says “{seen.status}”)"
    yield Fact("vm.power", seen.power.value, words, _SOURCE, raw=seen.status)
    if seen.power in (PowerState.RUNNING, PowerState.SHUT_DOWN):
        down = seen.power is PowerState.SHUT_DOWN
        words = "the guest has shut itself down" if down else "the guest has not shut itself down"
        yield Fact("vm.shut-down-inside", down, words, _SOURCE, raw=seen.status)


def _port(seen: VmSurvey) -> Iterator[Fact]:
    if seen.device is not None:
        there = "present" if seen.device else "missing"
        words = f"the serial port of the QEMU guest agent is {there}"
        yield Fact("vm.device", there, words, f"{_SOURCE}, qom-list")
    if seen.port is not None:
        words = {
            "open": "a process in the guest has the agent's port open",
            "closed": "no process in the guest has opened the agent's port",
            "missing": "QEMU has no character device at the socket that is set for the agent",
        }[seen.port]
        yield Fact("qga.port", seen.port.value, words, f"{_SOURCE}, query-chardev")


def _tracking(disks: tuple[DiskSurvey, ...]) -> Iterator[Fact]:
    if not disks:
        return
    # A disk whose format keeps no bitmaps has a cause of its own for having none.
    told = [
        disk
        for disk in disks
        if disk.tracking in _WORST and not (disk.unsupported and disk.tracking is Tracking.MISSING)
    ]
    if told:
        worst = max((disk.tracking for disk in told), key=_WORST.index)
        named = ", ".join(disk.name for disk in told if disk.tracking is worst)
        raw = "\n".join(disk.reason for disk in told if disk.tracking is worst and disk.reason)
        words = f"change tracking is {worst} on {named}"
        yield Fact("disk.bitmap", worst.value, words, f"{_SOURCE}, query-block", raw=raw)
    stale = [name for disk in disks for name in disk.stale]
    words = f"bitmaps of Quiesce's that belong to no recovery point: {len(stale)}"
    raw = "\n".join(stale)
    yield Fact("disk.stale-bitmaps", float(len(stale)), words, f"{_SOURCE}, query-block", raw=raw)


def _unsupported(disks: tuple[DiskSurvey, ...]) -> Iterator[Fact]:
    if not disks:
        return
    unsupported = [disk for disk in disks if disk.unsupported]
    names = ", ".join(disk.name for disk in unsupported)
    words = f"disks that keep no change tracking over a power-off: {names or 'none'}"
    raw = "\n".join(disk.unsupported for disk in unsupported)
    yield Fact("disk.unsupported", names, words, f"{_SOURCE}, query-block", raw=raw)


def _left_over(seen: VmSurvey, active: frozenset[str]) -> Fact:
    left = [task for task in seen.sessions if task not in active]
    words = f"snapshots of Quiesce's that belong to no active job: {len(left)}"
    return Fact("session.left-over", float(len(left)), words, _SOURCE, raw="\n".join(left))


def _load(seen: VmSurvey, percent: float) -> Fact:
    words = (
        f"QEMU takes {percent:.0f} % of the processor time that its {seen.processors} "
        "processors have"
    )
    return Fact("vm.cpu-percent", percent, words, f"/proc/{seen.process}/stat, half a second")
