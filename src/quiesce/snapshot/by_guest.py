"""The guest route: the extension freezes its guest and asks the storage endpoint for the point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from quiesce.model.failure import Evidence, Failure, StorageFailure
from quiesce.model.policy import SnapshotOptions
from quiesce.model.snapshot import Route, Snapshot
from quiesce.snapshot.consistency import proven_consistency
from quiesce.snapshot.ports import GuestRoute, Hypervisor, Log
from quiesce.snapshot.story import crash_warning, log_freeze


class Instant:
    """The point of one task, and what came of it when the guest asked for it. Asked at most once,
    by a thread that serves the guest (`GuestRoute.snapshot`)."""

    def __init__(self, hypervisor: Hypervisor, task_id: str) -> None:
        self._hypervisor = hypervisor
        self._task_id = task_id
        self.asked = False
        self.taken: datetime | None = None
        self.failure: Failure | None = None
        """The hypervisor's own; the guest gets to hear its code."""

    def take(self) -> datetime:
        self.asked = True
        try:
            self.taken = self._hypervisor.take(self._task_id)
        except Failure as failure:
            self.failure = failure
            raise
        return self.taken


def by_guest(
    hypervisor: Hypervisor,
    route: GuestRoute,
    instant: Instant,
    task_id: str,
    disks: Sequence[str],
    options: SnapshotOptions,
    log: Log,
) -> Snapshot:
    """The point of a prepared hypervisor, asked for by the guest.

    :raise Failure: as `GuestRoute.snapshot`; the hypervisor's own when it was that which failed;
        `instant` tells whether a point was taken all the same
    """
    try:
        point = route.snapshot(task_id, disks, options, take=instant.take, log=log)
    except Failure as failure:
        if instant.failure is not None:
            # The hypervisor's own words stay its cause; what the guest got to hear comes beside.
            instant.failure.evidence += failure.evidence
            raise instant.failure  # noqa: B904
        raise
    if instant.taken is None:
        raise StorageFailure(
            "storage.snapshot-not-asked",
            "The extension reports a point that it has never asked the storage endpoint for.",
            evidence=[Evidence(f"reported instant {point.taken_at:%H:%M:%S.%f} UTC", "extension")],
        )
    log("info", f"The guest asked for the point at {instant.taken:%H:%M:%S.%f} UTC.")
    proof = proven_consistency(point.readiness, point.freeze, point.finish)
    log_freeze(point.freeze, log)
    said = (*point.readiness.warnings, *point.finish.warnings)
    for warning in said:
        log("warning", warning)
    session = replace(hypervisor.open(task_id), route=Route.GUEST)
    return Snapshot(
        session=session,
        consistency=proof.label,
        freeze=point.freeze,
        warnings=(*said, *crash_warning(proof.label, log)),
        setbacks=proof.setbacks,
    )
