"""An agent or an extension that does not do its part: how long it is waited for, what is said."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from waagent_backup import TAKEN, answers, failure_of, snapshot, takes_a_point
from waagent_guest import PaperGuest, session, until
from waagent_scene import Caller, Later, Scene, element, handler_status

from quiesce.agent.waagent.host import AgentHost
from quiesce.model.failure import AgentFailure


def test_an_agent_that_was_never_seen_is_said_to_be_soon(scene: Scene, host: AgentHost) -> None:
    failure = failure_of(host)
    assert isinstance(failure, AgentFailure)
    assert failure.code == "agent.never-seen"
    assert any("never asked" in fact.fact for fact in failure.evidence)
    assert scene.doors.opened == {}


def test_the_evidence_names_who_asks_and_is_not_known(scene: Scene, host: AgentHost) -> None:
    Caller(host, "127.0.0.99").get("/machine/?comp=goalstate")
    failure = failure_of(host)
    assert any("127.0.0.99" in fact.fact for fact in failure.evidence)


def test_an_agent_that_has_fallen_silent_is_stale(scene: Scene, host: AgentHost) -> None:
    with PaperGuest(scene, host):
        until(lambda: host.state("web").version != "")
    scene.now = scene.clock() + timedelta(minutes=5)
    failure = failure_of(host)
    assert failure.code == "agent.stale"
    (heard,) = [fact for fact in failure.evidence if "last heard of" in fact.fact]
    assert "127.0.0.11" in heard.fact
    assert heard.observed_at < scene.now - timedelta(minutes=4)


def test_a_stale_agent_that_comes_back_in_time_is_used(scene: Scene, host: AgentHost) -> None:
    agent = host._agent("web")
    agent._last_seen = scene.clock() - timedelta(hours=2)
    with PaperGuest(scene, host, on_goal=takes_a_point()):
        assert snapshot(host).taken_at == TAKEN


def test_an_agent_that_does_not_take_its_goal_state_is_silent(
    scene: Scene, host: AgentHost
) -> None:
    with PaperGuest(scene, host):
        until(lambda: host.state("web").version != "")
    failure = failure_of(host)
    assert failure.code == "agent.silent"
    assert any("has not taken this goal state" in fact.fact for fact in failure.evidence)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({"code": 1001, "message": "Failed to download: x"}, "extension.download-failed"),
        ({"code": 1007, "message": "exit code: 1, h.sh install"}, "extension.install-failed"),
        (
            {"code": 1007, "message": "Non-zero exit code: 52\n[extension.runtime-missing]"},
            "extension.runtime-missing",
        ),
        ({"code": 1009, "message": "exit code: 2, h.sh enable"}, "extension.enable-failed"),
        ({"code": 1008, "message": "update"}, "extension.update-failed"),
        ({"code": 1011, "message": "Timeout(900): h.sh install"}, "extension.timeout"),
        ({"code": 1002, "message": "HandlerManifest.json"}, "extension.manifest-invalid"),
        (
            {"code": -1, "message": "Failed to download artifacts: HandlerManifest.json not found"},
            "extension.manifest-invalid",
        ),
        ({"code": -1, "message": "[Errno 28] No space left on device"}, "agent.disk-full"),
        (
            {"code": -1, "message": "Extension will not be processed since extension processing "
             "is disabled. Set Extensions.Enabled=y"},
            "agent.extensions-disabled",
        ),
    ],
)  # fmt: skip
def test_what_the_agent_says_about_the_extension_is_the_reason(
    scene: Scene, host: AgentHost, status: dict[str, Any], code: str
) -> None:
    def fail(guest: PaperGuest) -> None:
        guest.handler = handler_status(handler="NotReady", **status)

    with PaperGuest(scene, host, on_goal=fail):
        failure = failure_of(host)
    assert failure.code == code
    assert any(status["message"] in fact.raw for fact in failure.evidence), "its words are whole"


def test_an_agent_that_works_no_extensions_off_is_not_waited_for(
    scene: Scene, host: AgentHost
) -> None:
    with PaperGuest(scene, host, on_goal=lambda guest: setattr(guest, "handler", None)) as guest:
        guest.acknowledges = False
        failure = failure_of(host)
    assert failure.code == "agent.no-extensions", "that they are switched off is not known yet"


def test_an_agent_that_goes_on_and_never_says_what_came_of_the_goal_state_is_not_waited_for_long(
    scene: Scene,
) -> None:
    """As one that chokes on its own notes about the extension does."""
    ended = threading.Event()
    with scene.running(round=0.5, first_report=1.0, handler=600.0) as host:
        caller = Caller(host, "127.0.0.11")

        def poll() -> None:
            while not ended.wait(0.2):
                url = element(caller.goal_state(), "ExtensionsConfig")
                caller.get(url.partition("/machine/")[1] + url.partition("/machine/")[2])

        polling = threading.Thread(target=poll)
        polling.start()
        try:
            failure = failure_of(host)
        finally:
            ended.set()
            polling.join()
    assert failure.code == "extension.stuck"
    assert "gone on" in failure.message


def test_an_extension_that_reports_nothing_is_stuck(scene: Scene, host: AgentHost) -> None:
    with PaperGuest(scene, host):
        failure = failure_of(host)
    assert failure.code == "extension.stuck"


def test_an_agent_that_never_comes_to_an_end_is_timed_out(scene: Scene, host: AgentHost) -> None:
    with PaperGuest(scene, host) as guest:
        guest.acknowledges = False
        failure = failure_of(host)
    assert failure.code == "extension.timeout"


def test_a_stage_that_does_not_end_is_timed_out_and_named(scene: Scene, host: AgentHost) -> None:
    with PaperGuest(scene, host, on_goal=answers("snapshot", "connecting")):
        failure = failure_of(host)
    assert failure.code == "extension.timeout"
    assert "connecting" in failure.message


def test_a_pre_script_may_take_long(scene: Scene, host: AgentHost) -> None:
    """Longer than a stage may take without one."""
    running = session("preparing", scripts={"configured": True}, freeze=None)

    with PaperGuest(
        scene, host, on_goal=answers("snapshot", "preparing", session=running)
    ) as guest:
        waiting = Later(lambda: snapshot(host))
        until(lambda: "snapshot" in guest.commands)
        time.sleep(1.5)
        assert not waiting.ended
        guest.take()
        guest.says("done", session=session())
        assert waiting.result().taken_at == TAKEN
