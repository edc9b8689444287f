"""What a backup gets through a polling agent: the point, and nothing that only looks like one."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from waagent_backup import TAKEN, answers, failure_of, on, snapshot, takes_a_point
from waagent_guest import PaperGuest, session, until
from waagent_scene import Scene, handler_status

from quiesce.agent.waagent.host import AgentHost
from quiesce.model.failure import (
    AgentFailure,
    ExtensionFailure,
    Failure,
    FreezeFailure,
    NetworkFailure,
    ServerFailure,
    SnapshotFailure,
)


@pytest.mark.parametrize("by", ["blob", "agent"])
def test_the_point_comes_by_whichever_way_the_report_comes(
    scene: Scene, host: AgentHost, by: str
) -> None:
    with PaperGuest(scene, host, on_goal=takes_a_point(by)) as guest:
        point = snapshot(host)
        until(lambda: guest.commands[-1:] == ["idle"])
    assert point.taken_at == TAKEN, "as the hypervisor says, not the guest"
    assert point.freeze.held
    assert point.freeze.mounts[0].frozen_ms == 40.0
    assert point.readiness.extension_version == "1.2.3"
    assert point.readiness.warnings == ("a warning",)
    assert scene.doors.opened == {}, "the door is closed"


def test_the_job_log_tells_how_far_it_is(scene: Scene, host: AgentHost) -> None:
    said: list[str] = []
    with PaperGuest(scene, host, on_goal=takes_a_point("agent")):
        snapshot(host, log=lambda level, text: said.append(text))
    assert "is published" in said[0]
    assert any("has taken the goal state, after" in text for text in said)


def test_a_second_attempt_at_a_task_is_a_new_one(scene: Scene, host: AgentHost) -> None:
    attempts = []

    @on("snapshot")
    def do(guest: PaperGuest) -> None:
        attempts.append((guest.attempt, guest.incarnation))
        takes_a_point()(guest)

    with PaperGuest(scene, host, on_goal=do):
        snapshot(host)
        snapshot(host)
    (first, before), (second, after) = attempts
    assert first != second
    assert after > before


@pytest.mark.parametrize(
    ("code", "family"),
    [
        ("network.blocked", NetworkFailure),
        ("freeze.failed", FreezeFailure),
        ("extension.crashed", ExtensionFailure),
        ("agent.disk-full", AgentFailure),
        ("job.stale-command", ExtensionFailure),
    ],
)
def test_a_failure_of_the_extension_keeps_its_code_and_family(
    scene: Scene, host: AgentHost, code: str, family: type[Failure]
) -> None:
    @on("snapshot")
    def do(guest: PaperGuest) -> None:
        said = {
            "code": code,
            "message": "It\x1b[31m did not work.",
            "evidence": [{"fact": "seen", "source": "guest", "raw": "errno 5"}],
            "remedy": "mend it",
            "retryable": True,
        }
        guest.says("failed", by="agent", failure=said)

    with PaperGuest(scene, host, on_goal=do):
        failure = failure_of(host)
    assert type(failure) is family
    assert failure.code == code
    assert "\x1b" not in failure.message
    assert failure.evidence[0].raw == "errno 5"


def test_a_hypervisor_that_cannot_take_the_point_is_the_reason(
    scene: Scene, host: AgentHost
) -> None:
    @on("snapshot")
    def do(guest: PaperGuest) -> None:
        with pytest.raises(SnapshotFailure):
            guest.take()
        said = {"code": "storage.endpoint-refused", "message": "500"}
        guest.says("failed", failure=said)

    def take() -> datetime:
        raise SnapshotFailure("snapshot.take-failed", "QEMU says no.")

    with PaperGuest(scene, host, on_goal=do):
        failure = failure_of(host, take=take)
    assert failure.code == "snapshot.take-failed"
    assert isinstance(failure.__cause__, Failure)
    assert failure.__cause__.code == "storage.endpoint-refused"


LIES: dict[str, dict[str, Any]] = {
    "another task": {"task": "OTHER"},
    "last week's session": {"session": session(task="another")},
    "another instant": {"taken_at": "2020-01-01T00:00:00.0000000Z"},
    "no instant": {"taken_at": None},
    "an instant that is none": {"taken_at": "now"},
    "an instant without a zone": {"taken_at": "2026-05-01T12:00:00.1234560"},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_report_that_is_not_about_the_point_that_was_taken_proves_nothing(
    scene: Scene, host: AgentHost, lie: str
) -> None:
    @on("snapshot")
    def do(guest: PaperGuest) -> None:
        guest.take()
        guest.says("done", **({"session": session()} | LIES[lie]))

    with PaperGuest(scene, host, on_goal=do):
        failure = failure_of(host)
    assert failure.code == "extension.output-invalid"
    assert any("stage done" in fact.fact for fact in failure.evidence)


def test_a_report_before_the_point_proves_nothing(scene: Scene, host: AgentHost) -> None:
    """Not even one that has guessed the instant."""

    @on("snapshot")
    def do(guest: PaperGuest) -> None:
        door, guest.taken_at = guest.door, f"{TAKEN:%Y-%m-%dT%H:%M:%S.%f0Z}"
        guest.says("done", session=session())
        door.take()

    with PaperGuest(scene, host, on_goal=do):
        assert failure_of(host).code == "extension.output-invalid"


def test_a_good_point_is_not_lost_with_the_withdrawal(scene: Scene, host: AgentHost) -> None:
    saved = scene.book.save

    @on("snapshot")
    def do(guest: PaperGuest) -> None:
        guest.take()
        scene.book.save = broken  # type: ignore[method-assign]
        guest.says("done", session=session())

    def broken(record: object) -> None:
        raise ServerFailure("server.database-failed", "locked", retryable=True)

    with PaperGuest(scene, host, on_goal=do):
        assert snapshot(host).taken_at == TAKEN
        assert host._agent("web")._attempt == "", "later reports on it are not taken"
        scene.book.save = saved  # type: ignore[method-assign]
        assert snapshot(host, task="task-2").taken_at == TAKEN


@pytest.mark.parametrize("how", ["without a snapshot", "without a freeze", "without a session"])
def test_a_guest_that_says_done_without_having_done_it_is_not_believed(
    scene: Scene, host: AgentHost, how: str
) -> None:
    @on("snapshot")
    def do(guest: PaperGuest) -> None:
        if how != "without a snapshot":
            guest.take()
        told = {
            "without a snapshot": session(),
            "without a freeze": session(freeze=None),
            "without a session": None,
        }[how]
        guest.says("done", session=told)

    with PaperGuest(scene, host, on_goal=do):
        failure = failure_of(host)
    assert failure.code == "extension.output-invalid"


def test_a_report_on_another_attempt_is_passed_over(scene: Scene, host: AgentHost) -> None:
    with PaperGuest(
        scene, host, on_goal=answers("snapshot", "done", attempt="another", session=session())
    ):
        assert failure_of(host).code == "extension.stuck"


@pytest.mark.parametrize(
    "raw", [b"", b"\xff", b"[]", b"{}", b'{"stage": "flying"}', b"x" * 200_000]
)
def test_a_report_that_is_none_is_said_to_be_none(
    scene: Scene, host: AgentHost, raw: bytes
) -> None:
    @on("snapshot")
    def do(guest: PaperGuest) -> None:
        guest.door.reported(raw)
        guest.handler = handler_status(
            sequence=guest.incarnation, settings="error", words="it went wrong"
        )

    with PaperGuest(scene, host, on_goal=do):
        failure = failure_of(host)
    assert failure.code == "extension.enable-failed"
    assert "it went wrong" in failure.message
    assert isinstance(failure.__cause__, ExtensionFailure)
    assert failure.__cause__.code == "extension.output-invalid"
