"""One QEMU VM as `quiesce.snapshot.ports.Hypervisor` wants it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from quiesce.hypervisor import agent_port, cards, names, offline, processor, session, survey
from quiesce.hypervisor.inventory import take_stock
from quiesce.hypervisor.qmp import Monitor, VmAbsent
from quiesce.hypervisor.resuming import heal
from quiesce.hypervisor.taskfolder import Record, TaskFolder
from quiesce.hypervisor.teardown import release
from quiesce.model.failure import Evidence, Failure, SnapshotFailure, VmFailure
from quiesce.model.policy import SnapshotOptions
from quiesce.model.snapshot import Route, SnapshotSession
from quiesce.model.survey import VmSurvey
from quiesce.model.vm import NetworkCard, VmAddress, VmState


class QemuVm:
    """A VM reached through its QMP socket; while no process runs it, through its disk images.

    `scratch_folder` may be shared by many VMs: every task has a folder of its own in it. It must
    be reachable for the user that runs QEMU. Holds no connection between calls, so that other
    clients of the monitor get their turn; calls from several threads wait for one another.

    Every call of the `Hypervisor` protocol first resumes a VM that a killed Quiesce process had
    stopped for its instant.
    """

    def __init__(self, address: VmAddress, scratch_folder: Path) -> None:
        self._address = address
        self._scratch_folder = scratch_folder.absolute()

    def state(self) -> VmState:
        """See `Hypervisor.state`."""
        try:
            with self._monitor() as monitor:
                return take_stock(monitor).state
        except VmAbsent:
            return offline.state(self._address)

    def agent_port_open(self) -> bool | None:
        """Whether anything in the guest has the agent's port open, now; None when that is not
        known. Changes nothing, never raises, and takes at most about two seconds."""
        if self._address.qga_socket is None:
            return None
        monitor_socket = self._address.qmp_socket
        try:
            with Monitor(monitor_socket, connect_seconds=agent_port.ANSWER_SECONDS) as monitor:
                return agent_port.port_open(monitor, self._address.qga_socket)
        except Failure:
            return None  # whoever asks looks for facts about the agent; this is none

    def survey(self, *, bases: Mapping[str, Sequence[str]], active: Collection[str]) -> VmSurvey:
        """What bears on why a backup of this VM fails. Changes nothing, unlike the calls of
        `Hypervisor`; seconds at most. `bases` as for `prepare`, `active` the tasks whose jobs have
        not ended.

        :raise VmFailure: vm.not-found when neither a process nor its disk images are there,
            vm.unreachable, vm.gone
        :raise SnapshotFailure: hypervisor.command-refused
        """
        socket = self._address.qmp_socket
        kept = frozenset(record.task_id for record in self._records())
        try:
            with Monitor(socket, connect_seconds=survey.CONNECT_SECONDS) as monitor:
                seen = survey.survey(monitor, self._address.qga_socket, bases=bases, active=active)
        except VmAbsent:
            state = offline.state(self._address)
            seen = VmSurvey(state.power, hypervisor=state.hypervisor)
        return replace(seen, sessions=tuple(sorted(kept.union(seen.sessions))))

    def processor_percent(self, seen: VmSurvey) -> float | None:
        """What the VM's process takes of its processors, over half a second; None when that cannot
        be seen. Holds no monitor meanwhile."""
        if not seen.process:
            return None
        return processor.percent(Path("/proc", str(seen.process)), seen.processors)

    def network_cards(self) -> tuple[NetworkCard, ...]:
        """The cards that the VM has, now; for `Neighbours`. Changes nothing; seconds at most.

        :raise VmFailure: vm.not-found (no process runs the VM), vm.unreachable, vm.gone
        :raise SnapshotFailure: hypervisor.command-refused
        """
        with Monitor(self._address.qmp_socket, connect_seconds=cards.ANSWER_SECONDS) as monitor:
            return cards.cards(monitor)

    def prepare(
        self, task_id: str, *, bases: Mapping[str, Sequence[str]], options: SnapshotOptions
    ) -> None:
        """See `Hypervisor.prepare`. A powered-off VM gets an offline session.

        :raise InputFailure: snapshot.bad-task-id, storage.scratch-path-too-long
        :raise SnapshotFailure: hypervisor.too-old, hypervisor.iothread-unsafe,
            hypervisor.nbd-server-busy, hypervisor.command-refused, hypervisor.tool-missing,
            hypervisor.tool-failed, snapshot.busy
        :raise VmFailure: vm.not-found, vm.unreachable, vm.gone, vm.migrating, vm.no-disks
        :raise StorageFailure: storage.scratch-unusable
        """
        folder = self._folder(task_id)
        record = folder.read()
        if record is not None and record.route is Route.OFFLINE:
            if record.taken_at is not None:
                return
            offline.stop_servers(folder)
        try:
            with self._monitor() as monitor:
                session.prepare(monitor, self._address.name, task_id, folder, bases, options)
        except VmAbsent:
            self._refuse_other_offline_task(task_id)
            offline.prepare(self._address, task_id, folder)

    def take(self, task_id: str) -> datetime:
        """See `Hypervisor.take`.

        :raise SnapshotFailure: snapshot.not-prepared, snapshot.take-failed
        :raise VmFailure: vm.gone, vm.unreachable
        """
        folder = self._folder(task_id)
        record = folder.read()
        if record is not None and record.route is Route.OFFLINE:
            return offline.take(record, folder)
        with self._live_monitor() as monitor:
            return session.take(monitor, folder)

    def open(self, task_id: str) -> SnapshotSession:
        """See `Hypervisor.open`.

        :raise SnapshotFailure: snapshot.not-prepared, snapshot.not-taken, snapshot.session-lost
        :raise VmFailure: vm.gone, vm.unreachable
        """
        folder = self._folder(task_id)
        record = folder.read()
        if record is not None and record.route is Route.OFFLINE:
            return offline.open_session(record, folder)
        with self._live_monitor() as monitor:
            return session.open_session(monitor, folder)

    def release(self, task_id: str, *, committed: bool) -> None:
        """See `Hypervisor.release`.

        :raise SnapshotFailure: snapshot.release-failed; calling again goes on from there
        :raise VmFailure: vm.unreachable
        :raise StorageFailure: storage.scratch-unusable
        """
        folder = self._folder(task_id)
        record = folder.read()
        offline.stop_servers(folder)
        if record is None or record.route is not Route.OFFLINE:
            self._release_live(task_id, folder, committed=committed)
        folder.remove()

    def leftovers(self) -> tuple[str, ...]:
        """See `Hypervisor.leftovers`. Sorted."""
        tasks = {record.task_id for record in self._records()}
        try:
            with self._monitor() as monitor:
                tasks |= take_stock(monitor).tasks
        except VmAbsent:
            pass  # what QEMU held ended with it
        return tuple(sorted(tasks))

    def _release_live(self, task_id: str, folder: TaskFolder, *, committed: bool) -> None:
        try:
            with self._monitor() as monitor:
                release(monitor, task_id, folder, committed=committed)
        except VmAbsent:
            return  # nodes, exports and transient bitmaps ended with the process
        except VmFailure as ended:
            if ended.code != "vm.gone":
                raise

    def _monitor(self) -> Monitor:
        monitor = Monitor(self._address.qmp_socket)
        try:
            heal(monitor)
        except BaseException:
            monitor.close()
            raise
        return monitor

    def _live_monitor(self) -> Monitor:
        try:
            return self._monitor()
        except VmAbsent as inner:
            raise VmFailure(
                "vm.gone",
                f"The process of {self._address.name} ended while its snapshot was in the making.",
                evidence=inner.evidence,
                retryable=True,
            ) from inner

    def _folder(self, task_id: str) -> TaskFolder:
        return TaskFolder(self._scratch_folder, names.checked_task_id(task_id))

    def _records(self) -> list[Record]:
        """The tasks of this VM that have a folder."""
        if not self._scratch_folder.is_dir():
            return []
        found = (
            TaskFolder(self._scratch_folder, path.name).read()
            for path in self._scratch_folder.iterdir()
        )
        return [record for record in found if record and record.vm == self._address.name]

    def _refuse_other_offline_task(self, task_id: str) -> None:
        others = [
            record.task_id
            for record in self._records()
            if record.route is Route.OFFLINE and record.task_id != task_id
        ]
        if others:
            raise SnapshotFailure(
                "snapshot.busy",
                "Another snapshot of this VM is still open.",
                evidence=[
                    Evidence(f"offline session of task {other}", str(self._scratch_folder))
                    for other in others
                ],
                retryable=True,
            )
