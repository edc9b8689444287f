"""The doctor: what would make a backup of a VM fail, found without a backup, and mended when asked.

An examination changes nothing. It starts programs in the guest, so none runs beside a backup.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from quiesce.diagnosis.checks import checks
from quiesce.diagnosis.engine import standing
from quiesce.diagnosis.ways import Ways
from quiesce.model.diagnosis import Check, Diagnosis, Examination, Light, Mend, MendAction
from quiesce.model.diagnosis import MendStatus as Status
from quiesce.model.failure import Evidence, Failure, FailureReport, PolicyFailure
from quiesce.model.policy import Policy
from quiesce.model.snapshot import MountFreeze
from quiesce.model.vm import VmAddress
from quiesce.service.composition import Composition
from quiesce.service.job_book import JobBook
from quiesce.service.looks import Looks, Seen
from quiesce.service.mending import IN_THE_SNAPSHOT, Mending
from quiesce.service.policies import Policies
from quiesce.service.vm_table import VmTable

IN_JOBS_ONLY = IN_THE_SNAPSHOT | {MendAction.WAIT}
"""What makes no sense outside of a job."""


@dataclass(frozen=True, slots=True)
class Findings:
    """An examination and what it was made from."""

    examination: Examination
    seen: Seen


class Doctor:
    """What CLI, REST and portal call."""

    def __init__(
        self,
        table: VmTable,
        policies: Policies,
        book: JobBook,
        composition: Composition,
        looks: Looks,
        mending: Mending,
    ) -> None:
        self._table = table
        self._policies = policies
        self._book = book
        self._composition = composition
        self._looks = looks
        self._mending = mending

    def examine(self, name: str) -> Examination:
        """Look at everything that a backup of the VM needs. Takes seconds, the network probe up to
        half a minute; that something cannot be looked at is in the answer.

        :raise NotFoundFailure: vm.unknown
        :raise PolicyFailure: policy.in-progress
        """
        return self.findings(name).examination

    def fix(self, name: str, actions: Collection[MendAction]) -> Examination:
        """Carry out these actions of the plan, in its order, and examine again. The answer's plan
        begins with what was done, each with how it ended. No backup of the VM begins meanwhile.

        :raise NotFoundFailure: vm.unknown
        :raise PolicyFailure: policy.in-progress; policy.mend-not-planned, with nothing done, when
            an action is not in the plan of this moment
        """
        vm = self._table.address(name).name
        with self._book.hold(vm, "`quiesce doctor --fix` mends it."):
            return self._fixed(vm, actions)

    def _fixed(self, vm: str, actions: Collection[MendAction]) -> Examination:
        plan = self.examine(vm).plan
        wanted = [mend for mend in plan if mend.status is Status.PLANNED and mend.action in actions]
        if missing := set(actions) - {mend.action for mend in wanted}:
            raise _not_planned(vm, missing, plan)
        done = tuple(self._mending.carry_out(vm, mend) for mend in wanted)
        after = self.examine(vm)
        return replace(after, plan=(*done, *after.plan))

    def findings(self, name: str) -> Findings:
        """See `examine`."""
        began = time.monotonic()
        address = self._table.address(name)
        self._book.check_idle(address.name)
        policy = self._policy(name)
        seen = self._looks.facts(address.name, deep=True)
        ways = Ways(waagent=address.agent.waagent, qga=address.agent.qga)
        facts = tuple(fact for fact in seen.facts if ways.matters(fact))
        diagnoses = standing(facts)
        mounts, problems = self._mounts(address, policy)
        examination = Examination(
            subject=address.name,
            checks=(*checks(facts, diagnoses), *mounts, *_no_network(address)),
            diagnoses=diagnoses,
            plan=self._plan(address.name, diagnoses, policy),
            channels=seen.channels,
            problems=_once((*seen.problems, *problems)),
            seconds=time.monotonic() - began,
        )
        return Findings(examination, seen)

    def _policy(self, name: str) -> Policy | None:
        policy: str | None = self._table.row(name).policy
        return self._policies.policy(policy) if policy else None

    def _plan(
        self, vm: str, diagnoses: tuple[Diagnosis, ...], policy: Policy | None
    ) -> tuple[Mend, ...]:
        """Each action once, with the first cause that wants it."""
        off = policy.mends_off if policy else ()
        plan: dict[MendAction, Mend] = {}
        for diagnosis in diagnoses:
            for mend in self._mending.plan(vm, diagnosis, off):
                if mend.action not in IN_JOBS_ONLY:
                    plan.setdefault(mend.action, mend)
        return tuple(plan.values())

    def _mounts(
        self, address: VmAddress, policy: Policy | None
    ) -> tuple[tuple[Check, ...], tuple[FailureReport, ...]]:
        """The freeze plan as the extension in the guest makes it. Asked only where it is installed
        already, as asking would install it, and not of a guest that a job may have frozen."""
        guest = self._composition.guest(address)
        if guest is None or self._looks.taking(address):
            return (), ()
        try:
            state = guest.status()
            if not state.installed or state.update_pending or self._looks.taking(address):
                return (), ()
            mounts = guest.preflight(policy.snapshot.skip_mounts if policy else ())
        except Failure as failure:
            return (), (failure.report(),)
        return tuple(_mount_checks(mounts, policy)), ()


def _no_network(address: VmAddress) -> Iterator[Check]:
    if not address.agent.waagent:
        yield Check(
            "network",
            "the guest's network",
            Light.GREEN,
            "not needed: backups of this VM go through its hypervisor and the QEMU guest agent",
        )


def _once(problems: tuple[FailureReport, ...]) -> tuple[FailureReport, ...]:
    """Several looks may fail for one reason."""
    return tuple({(each.code, each.message): each for each in problems}.values())


def _mount_checks(mounts: tuple[MountFreeze, ...], policy: Policy | None) -> Iterator[Check]:
    frozen = [mount.mount for mount in mounts if not mount.skipped]
    if frozen:
        yield Check("mounts", "freeze plan", Light.GREEN, f"will be frozen: {', '.join(frozen)}")
    for mount in mounts:
        if mount.skipped and mount.downgrades:
            yield Check(
                "mounts",
                mount.mount,
                Light.AMBER,
                f"will not be frozen: {mount.skipped}",
                (Evidence(mount.skipped, "the extension's preflight in the guest"),),
                ("freeze.mount-left-out",),
                _skip_lines(mount.mount, policy),
            )


def _skip_lines(mount: str, policy: Policy | None) -> tuple[str, ...]:
    """What makes the omission an intended one. The command replaces the policy's list, so it names
    the mounts that are in it already."""
    known = policy.snapshot.skip_mounts if policy else ()
    if mount in known:
        return ()
    skips = " ".join(f"--skip-mount {shlex.quote(each)}" for each in (*known, mount))
    name = shlex.quote(policy.name) if policy else "POLICY"
    return (
        f"If it need not be consistent, leave it out on purpose: `quiesce policy update {name} "
        f"{skips}`.",
        "Or in the guest, in the section [SnapshotThread] of /etc/azure/vmbackup.conf: "
        f"`MountsToSkip = {mount}`.",
    )


def _not_planned(vm: str, missing: Collection[MendAction], plan: tuple[Mend, ...]) -> PolicyFailure:
    names = ", ".join(sorted(missing))
    return PolicyFailure(
        "policy.mend-not-planned",
        f"Nothing that is wrong with the VM {vm} now calls for: {names}.",
        evidence=[Evidence(f"{mend.action}: {mend.status}", "plan") for mend in plan],
        remedy=f"See the plan of this moment: `quiesce doctor {shlex.quote(vm)}`.",
    )
