"""Whether the guest came to the storage endpoint for the job's snapshot."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from paper_case import NOW, FixedClock, backup, case, values

from quiesce.model.snapshot import Route
from quiesce.model.vm import AgentKind
from quiesce.service.looks.endpoint import EndpointLook
from quiesce.service.looks.panel import Found
from quiesce.storage.journal import Seen


def request(after: float, status: int = 201, code: str = "", operation: str = "snapshot") -> Seen:
    at = NOW + timedelta(seconds=after)
    return Seen("10.0.0.2:4", "PUT", "/quiesce/vm/disk", operation, status, code, 3.0, at)


class PaperStorage:
    def __init__(self, *requests: Seen) -> None:
        self._requests = requests

    def recent(self, vm: str) -> tuple[Seen, ...]:
        assert vm == "web"
        return self._requests


def looked(*requests: Seen, up_for: float = 3600, **given: Any) -> Found:
    clock = FixedClock(NOW - timedelta(seconds=up_for))
    given = {"job": backup(started=-60), "route": Route.GUEST, **given}
    return EndpointLook(PaperStorage(*requests), clock)(case(**given), Found())  # type: ignore[arg-type]


def test_a_snapshot_that_was_taken() -> None:
    found = looked(request(-30, 503, "ServerBusy"), request(-20))
    assert values(found) == {
        "endpoint.asked": True,
        "endpoint.status": 201.0,
        "endpoint.code": "",
        "endpoint.taken": True,
    }
    [asked] = [fact for fact in found.facts if fact.name == "endpoint.asked"]
    assert asked.raw == (
        "11:59:30 PUT /quiesce/vm/disk 503 ServerBusy\n11:59:40 PUT /quiesce/vm/disk 201"
    )
    assert asked.observed_at == NOW - timedelta(seconds=20)


def test_a_refusal_is_told_with_its_status_and_code() -> None:
    assert values(looked(request(-20, 403, "AuthenticationFailed"))) == {
        "endpoint.asked": True,
        "endpoint.status": 403.0,
        "endpoint.code": "AuthenticationFailed",
        "endpoint.taken": False,
    }


def test_a_guest_that_never_came_is_told() -> None:
    other = (request(-600), request(-20, operation=""), request(-20, operation="block"))
    assert values(looked(*other)) == {"endpoint.asked": False}


@pytest.mark.parametrize(
    "given",
    [
        {"up_for": 30},
        {"route": Route.HOST},
        {"route": None},
        {"job": None},
        {"job": backup(started=None)},
        {"agent": AgentKind.QGA},
    ],
)
def test_an_empty_log_that_could_not_be_full_is_no_fact(given: dict[str, Any]) -> None:
    assert values(looked(**given)) == {}


def test_what_is_in_the_log_counts_also_after_a_restart() -> None:
    assert values(looked(request(-20), up_for=30))["endpoint.taken"] is True


def test_requests_of_another_job_do_not_count() -> None:
    ended = backup(started=-600, ended=-300)
    assert values(looked(request(-20), job=ended)) == {"endpoint.asked": False}
    assert values(looked(request(-400), job=ended))["endpoint.asked"] is True
