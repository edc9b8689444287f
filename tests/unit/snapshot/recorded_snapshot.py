"""A snapshot of recorded parts, and failures of them."""

from __future__ import annotations

from collections.abc import Collection

from recorded_parts import RecordedGuest, RecordedHypervisor, RecordedMender, RecordedRoute, Stage

from quiesce.model.diagnosis import MendAction
from quiesce.model.failure import AgentFailure, FreezeFailure, NetworkFailure
from quiesce.model.policy import RoutePreference, SnapshotOptions
from quiesce.model.snapshot import Snapshot
from quiesce.snapshot.ports import Hypervisor
from quiesce.snapshot.take import Routes, take_snapshot

TASK = "0123456789ab"
BLOCKED = NetworkFailure("network.blocked", "198.51.100.10:443 does not answer.")
HUNG = AgentFailure("agent.hung", "The agent does not answer.")
STUCK = FreezeFailure("freeze.failed", "/data could not be frozen.")


def snapshot_of(
    stage: Stage,
    preference: RoutePreference = RoutePreference.GUEST_THEN_HOST,
    *,
    mender: RecordedMender | None = None,
    host: bool = True,
    guest: bool = True,
    asks: bool = True,
    mends_off: Collection[MendAction] = (),
    hypervisor: Hypervisor | None = None,
) -> Snapshot:
    route = RecordedRoute(stage)
    route.asks = asks
    return take_snapshot(
        hypervisor or RecordedHypervisor(stage),
        Routes(host=RecordedGuest(stage) if host else None, guest=route if guest else None),
        TASK,
        bases={},
        options=SnapshotOptions(route=preference),
        log=lambda level, text: None,
        mender=mender,
        mends_off=mends_off,
    )
