"""One look at a running VM for whoever searches for a cause. It changes nothing: a VM that a dead
process left stopped stays so, and is seen as paused."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from quiesce.hypervisor import agent_port, names
from quiesce.hypervisor.bitmaps import choose_base
from quiesce.hypervisor.inventory import Attachment, take_stock
from quiesce.hypervisor.qmp import Monitor
from quiesce.model.survey import DiskSurvey, Tracking, VmSurvey

CONNECT_SECONDS = 4.0
_TRACKING = {
    "bitmap.inconsistent": Tracking.INCONSISTENT,
    "bitmap.missing": Tracking.MISSING,
    "first point": Tracking.FIRST,
}


def survey(
    monitor: Monitor,
    qga_socket: Path | None,
    *,
    bases: Mapping[str, Sequence[str]],
    active: Collection[str],
) -> VmSurvey:
    """`bases` as for `Hypervisor.prepare`; `active` are the tasks whose jobs have not ended.

    :raise VmFailure: vm.unreachable, vm.gone
    :raise QmpRefused: hypervisor.command-refused
    """
    stock = take_stock(monitor)
    return VmSurvey(
        power=stock.power,
        status=str(monitor.execute("query-status")["status"]),
        hypervisor=stock.hypervisor,
        disks=tuple(
            _disk(attachment, bases.get(attachment.disk.name, ()), active)
            for attachment in stock.attachments
        ),
        device=agent_port.has_device(monitor, qga_socket),
        port=None if qga_socket is None else agent_port.port_state(monitor, qga_socket),
        process=monitor.pid,
        processors=len(monitor.execute("query-cpus-fast")),
        sessions=tuple(sorted(stock.tasks)),
    )


def _disk(attachment: Attachment, bases: Sequence[str], active: Collection[str]) -> DiskSurvey:
    reason = choose_base(attachment, bases).full_read_reason
    known = next((value for words, value in _TRACKING.items() if reason.startswith(words)), None)
    stale = []
    for bitmap in attachment.bitmaps:
        task = names.generation_task(bitmap.name)
        if task is not None and task not in active and bitmap.name not in bases:
            stale.append(bitmap.name)
    return DiskSurvey(
        name=attachment.disk.name,
        tracking=known or (Tracking.UNUSABLE if reason else Tracking.GOOD),
        reason=reason,
        unsupported=attachment.disk.note,
        stale=tuple(stale),
    )
