"""What taking a snapshot needs from the hypervisor and from the VM's agent.

`quiesce.hypervisor` and `quiesce.agent` fulfil these without importing them. Everything is
synchronous, bounded by deadlines of its own, and raises only `quiesce.model.failure.Failure`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from quiesce.model.extension import Finish, GuestPoint, Readiness, ScriptRun
from quiesce.model.failure import Failure
from quiesce.model.policy import SnapshotOptions
from quiesce.model.snapshot import FreezeReport, Route, SnapshotSession
from quiesce.model.vm import VmState

__all__ = [
    "Again",
    "Finish",
    "Guest",
    "GuestPoint",
    "GuestRoute",
    "Hypervisor",
    "Log",
    "Mender",
    "NoMender",
    "Readiness",
    "ScriptRun",
]

Log = Callable[[str, str], None]
"""Called with a level (debug, info, warning, error) and a sentence for the job's log. It may raise,
when the job was cancelled: then the work ends there. What waits for long calls it once a second, at
the level debug when there is nothing new: that is not kept."""


class Hypervisor(Protocol):
    """One VM on its hypervisor. Every call is idempotent by `task_id`."""

    def state(self) -> VmState:
        """Power state and writable disks, now. A VM without a process is `PowerState.OFF`, with
        the disks known from its address.

        :raise VmFailure: vm.not-found when neither a process nor known disk images exist,
            vm.unreachable when the process exists and does not answer in time.
        """

    def prepare(
        self, task_id: str, *, bases: Mapping[str, Sequence[str]], options: SnapshotOptions
    ) -> None:
        """Everything slow that can be done before the freeze (scratch files, nodes, NBD server).

        `bases`: per disk name, the generations that the vault holds a point for, newest first.
        The first one whose bitmap is present and consistent makes that disk incremental.
        Leaves nothing behind when it raises.
        """

    def take(self, task_id: str) -> datetime:
        """The instant: one atomic point over all disks. The only call made while the guest is
        frozen; milliseconds. Returns the UTC time of the point."""

    def open(self, task_id: str) -> SnapshotSession:
        """Export the taken point for reading. The session outlives this process."""

    def release(self, task_id: str, *, committed: bool) -> None:
        """Tear the session down. The same code on success, on failure and after a crash: needs
        nothing but the task id, skips what is already gone.

        `committed`: a recovery point with this session's generations exists. Then older bitmaps
        of ours are removed; otherwise this task's own bitmaps are, and older ones stay.
        """

    def leftovers(self) -> tuple[str, ...]:
        """Task ids of which the hypervisor still holds anything but a kept bitmap."""


class Guest(Protocol):
    """The backup extension inside one VM, reached through the VM's agent.

    Legal order: prepare → freeze → thaw → finish; `recover` at any time, from any process.
    """

    def prepare(self, task_id: str, options: SnapshotOptions) -> Readiness:
        """Reach the agent, install or update the extension, inspect the mounts, run the
        pre-script, start the watchdog. Nothing is frozen yet.

        :raise AgentFailure: agent.channel-missing, agent.not-running, agent.hung,
            agent.extensions-disabled, agent.disk-full
        :raise ExtensionFailure: extension.install-failed, .runtime-missing, .timeout, …
        :raise ScriptFailure: the pre-script failed and the operator's configuration says that
            the backup must not go on
        """

    def freeze(self, task_id: str) -> None:
        """Freeze every planned mount; returns when all are frozen.

        :raise FreezeFailure: freeze.failed, .timeout, .busy, .mount-unavailable, with the mount
            and errno; by then everything is thawed again.
        """

    def thaw(self, task_id: str) -> FreezeReport:
        """Thaw and report. Never raises because the watchdog was first: then `held` is false.

        :raise AgentFailure: the guest could not be reached; the watchdog thaws at its deadline.
        """

    def finish(self, task_id: str) -> Finish:
        """Run the post-script (always, whatever went before) and end the guest's session."""

    def recover(self, task_id: str) -> None:
        """Whatever state a lost session left: thaw, post-script if it did not run, clean up.
        Idempotent; quick when there is nothing to do."""


class GuestRoute(Protocol):
    """The extension in one VM, asked through an agent that polls: it freezes the guest by itself
    and asks the storage endpoint for the snapshot from there."""

    def snapshot(
        self,
        task_id: str,
        disks: Sequence[str],
        options: SnapshotOptions,
        *,
        take: Callable[[], datetime],
        log: Log,
    ) -> GuestPoint:
        """Give the agent the task and wait until the extension has ended it, thawed and with its
        post-script run.

        `take` makes the point of all `disks` at once. It is called at most once, from another
        thread, while the guest is frozen, and never after this has returned or raised.

        :raise AgentFailure: agent.never-seen, agent.stale, agent.not-ready, agent.silent,
            agent.extensions-disabled
        :raise ExtensionFailure: extension.install-failed, .download-failed, .timeout, .stuck, …
        :raise NetworkFailure: the guest cannot reach the storage endpoint; which hop, and why
        :raise StorageFailure: the storage endpoint refused the snapshot
        :raise FreezeFailure, ScriptFailure: as `Guest` does
        """

    def recover(self, task_id: str) -> None:
        """Withdraw the task: from now on the storage endpoint refuses it, and the agent is told
        to end it. Does not wait for the guest, whose watchdog thaws. Idempotent, from any
        process."""


@dataclass(frozen=True, slots=True)
class Again:
    """A route that failed is to be tried once more, with these options."""

    options: SnapshotOptions


class Mender(Protocol):
    """Whoever finds out why a route failed, and mends it. What it raises ends the snapshot, as a
    cancelled job does; it raises for no other reason."""

    def trying(self, route: Route) -> None:
        """A route is begun, which may freeze the guest. Returns at once."""

    def failed(self, route: Route, failure: Failure) -> None:
        """A route failed, and everything of it in the guest has ended. Seconds at most: while
        another route is left, it is gone on with right after this."""

    def mend(self, route: Route, failure: Failure, options: SnapshotOptions) -> Again | None:
        """No route is left, and without `route` the guest stays unfrozen, or nothing is taken at
        all. Mends what may be mended and can, which may take minutes; nothing is frozen meanwhile.
        None: trying once more would change nothing. Asked once for each route that failed."""


class NoMender:
    """Leaves everything as it is."""

    def trying(self, route: Route) -> None:
        return

    def failed(self, route: Route, failure: Failure) -> None:
        return

    def mend(self, route: Route, failure: Failure, options: SnapshotOptions) -> None:
        return
