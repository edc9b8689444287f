"""What the failure itself says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paper_case import case, failure, values

from quiesce.guest.freeze import freeze_failure, too_slow
from quiesce.guest.mounts import Mount
from quiesce.model.failure import Evidence
from quiesce.model.snapshot import Route
from quiesce.service.looks.failed import look_at_failure
from quiesce.service.looks.panel import Found


def looked(**given: Any) -> dict[str, object]:
    return values(look_at_failure(case(**given), Found()))


def mount(point: str) -> Mount:
    return Mount(**dict.fromkeys(Mount._fields) | {"point": point, "id": 42, "device": "8:1"})


def as_the_server_has_it(guest: Any) -> Any:
    """A failure of the guest package, as it arrives."""
    facts = [Evidence(each.fact, each.source, raw=each.raw) for each in guest.evidence]
    return failure(guest.code, *facts)


@pytest.mark.parametrize(
    ("route", "facts"),
    [
        (Route.HOST, {"failed.route": "host"}),
        (Route.GUEST, {"failed.route": "guest"}),
        (Route.OFFLINE, {}),
        (None, {}),
    ],
)
def test_the_route_is_told(route: Route | None, facts: dict[str, object]) -> None:
    assert looked(route=route) == facts


@pytest.mark.parametrize("point", ["/", "/mnt/data", "/mnt/a b (id 3, x)", "/mnt/was under way"])
@pytest.mark.parametrize(("error", "name"), [(5, "EIO"), (16, "EBUSY"), (95, "EOPNOTSUPP")])
def test_a_refused_freeze_tells_its_mount_and_errno(point: str, error: int, name: str) -> None:
    inner = as_the_server_has_it(freeze_failure(mount(point), error))
    told = looked(failure=failure("snapshot.failed", cause=inner))
    expected = "ENOTSUP" if name == "EOPNOTSUPP" else name
    assert told["failed.mount"] == point
    assert told["failed.errno"] in (name, expected)


def test_an_extension_that_was_waited_for_tells_how_far_it_came() -> None:
    last = Evidence("the extension's last report: freezing", "the extension's report")
    told = looked(failure=failure("extension.timeout", last))
    assert told == {"failed.stage": "freezing"}
    other = Evidence("the extension's last report: dreaming", "the extension's report")
    assert looked(failure=failure("extension.timeout", other)) == {}


def test_a_slow_freeze_tells_its_mount() -> None:
    inner = as_the_server_has_it(too_slow(mount("/srv"), 7.0))
    assert looked(failure=inner) == {"failed.mount": "/srv"}


def test_a_mount_that_could_not_be_opened_is_told() -> None:
    gone = Evidence("mount /mnt/usb (id 42, 8:17)", "guest", raw="[Errno 5] Input/output error")
    assert looked(failure=failure("freeze.mount-unavailable", gone)) == {
        "failed.mount": "/mnt/usb",
        "failed.errno": "EIO",
    }


def test_a_bare_errno_of_a_network_hop_is_told() -> None:
    told = looked(failure=failure("network.rejected", Evidence("tcp", "guest", raw="EHOSTUNREACH")))
    assert told == {"failed.errno": "EHOSTUNREACH"}


def test_only_freezes_have_a_mount() -> None:
    words = Evidence("mount /mnt/usb (id 42, 8:17)", "guest")
    assert looked(failure=failure("restore.no-space", words)) == {}


@given(st.text(), st.text())
def test_whatever_a_guest_says_is_survived(fact: str, raw: str) -> None:
    looked(failure=failure("freeze.failed", Evidence(fact, "guest", raw=raw)))
