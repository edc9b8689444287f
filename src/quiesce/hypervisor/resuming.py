"""Letting a VM run again that a snapshot has stopped for its instant, whatever came between.

A marker in QEMU itself says that the stop was ours (see `session.take`).
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import structlog

from quiesce.hypervisor import names
from quiesce.hypervisor.inventory import node_names
from quiesce.hypervisor.qmp import Monitor, QmpRefused, VmAbsent
from quiesce.model.failure import VmFailure

log = structlog.get_logger(__name__)

RESUME_SECONDS = 1.0
"""Between two tries to resume a VM whose QEMU did not answer."""
_resuming: set[tuple[Path, str]] = set()
_resuming_lock = threading.Lock()


def resume(monitor: Monitor, task_id: str) -> None:
    """Let a VM run again that this task has stopped, then take the marker away. What fails is
    raised, and tried again in the background for as long as the VM's process lives."""
    try:
        _resume(monitor, task_id)
    except VmFailure:
        # A lost connection is no reason to leave a guest standing: QEMU may well be there.
        monitor.close()
        try:
            with Monitor(monitor.address) as again:
                _resume(again, task_id)
        except VmAbsent:
            raise
        except (VmFailure, QmpRefused):
            _resume_later(monitor.address, task_id)
            raise


def _resume_later(address: Path, task_id: str) -> None:
    """QEMU's `stop` waits for the guest's storage, and that may take longer than anybody's
    deadline. When it ends at last, somebody must be there to say `cont`."""
    with _resuming_lock:
        if (address, task_id) in _resuming:
            return
        _resuming.add((address, task_id))
    threading.Thread(
        target=_keep_resuming, args=(address, task_id), name="resume", daemon=True
    ).start()


def _keep_resuming(address: Path, task_id: str) -> None:
    said: set[str] = set()
    try:
        while True:
            time.sleep(RESUME_SECONDS)
            try:
                with Monitor(address) as monitor:
                    # Without the marker somebody else has resumed it, and who paused it since
                    # may have had reasons.
                    if names.stopped_marker(task_id) in node_names(monitor):
                        _resume(monitor, task_id)
            except VmAbsent:
                return
            except (VmFailure, QmpRefused) as failure:
                if str(failure) not in said:
                    said.add(str(failure))
                    log.warning("VM is still stopped", task=task_id, failure=str(failure))
            else:
                log.info("VM runs again", task=task_id, monitor=str(address))
                return
    finally:
        with _resuming_lock:
            _resuming.discard((address, task_id))


def _resume(monitor: Monitor, task_id: str) -> None:
    # Any state but "paused" is not our stop's: an I/O error or a guest's own shutdown since.
    if monitor.execute("query-status")["status"] == "paused":
        monitor.execute("cont")
    marker = names.stopped_marker(task_id)
    if marker in node_names(monitor):
        monitor.execute("blockdev-del", {"node-name": marker})


def heal(monitor: Monitor) -> None:
    """Resume a VM that a process of ours stopped and then died. Being connected proves that it
    did: QEMU serves one monitor client at a time, and the marker goes before the connection."""
    for node in node_names(monitor):
        task_id = names.owner(node)
        if task_id is not None and node == names.stopped_marker(task_id):
            resume(monitor, task_id)
