"""One thing at a time is asked of an agent: who waits for whom, and what ends a wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from waagent_backup import TAKEN, answers, failure_of, on, snapshot, takes_a_point
from waagent_guest import PaperGuest, session, until
from waagent_scene import Later, Scene

from quiesce.agent.waagent.host import AgentHost
from quiesce.agent.waagent.settings import Command, Settings
from quiesce.model.failure import AgentFailure, Failure


def test_a_snapshot_waits_for_a_network_test(scene: Scene, host: AgentHost) -> None:
    lines: list[str] = []
    with PaperGuest(scene, host, on_goal=takes_a_point()) as guest:
        testing = Later(lambda: host.probe("web"))
        until(lambda: guest.commands[-1:] == ["probe"])
        backup = Later(lambda: snapshot(host, log=lambda level, text: lines.append(text)))
        until(lambda: any("busy with probe" in line for line in lines))
        guest.says("done")
        testing.result()
        assert backup.result().taken_at == TAKEN


def test_a_look_that_takes_long_gives_way_to_a_snapshot(scene: Scene) -> None:
    with scene.running(look=0.0) as host, PaperGuest(scene, host, on_goal=takes_a_point()) as guest:
        testing = Later(lambda: host.probe("web"))
        until(lambda: guest.commands[-1:] == ["probe"])
        assert snapshot(host).taken_at == TAKEN
        with pytest.raises(AgentFailure) as gave_way:
            testing.result()
        assert gave_way.value.code == "agent.channel-busy"
        assert gave_way.value.retryable


def test_a_look_that_nobody_waits_for_any_more_does_not_keep_the_guest_from_being_mended(
    scene: Scene,
) -> None:
    @on("mend")
    def do(guest: PaperGuest) -> None:
        guest.says("done", mended="It was restarted.")

    with scene.running(look=0.0) as host, PaperGuest(scene, host, on_goal=do) as guest:
        looking = Later(lambda: host.examine("web"))
        until(lambda: guest.commands[-1:] == ["examine"])
        assert host.mend("web", "restart-qga") == "It was restarted."
        with pytest.raises(AgentFailure):
            looking.result()


def test_a_snapshot_does_not_wait_for_ever(scene: Scene) -> None:
    with scene.running(turn=0.2) as host:
        assert host._agent("web").claim()
        assert failure_of(host).code == "agent.channel-busy"


@pytest.mark.parametrize("what", ["probe", "install"])
def test_a_server_that_stops_ends_what_waits_for_an_agent_at_once(scene: Scene, what: str) -> None:
    host = scene.host()
    host.start()
    asks: dict[str, Callable[[str], Any]] = {"probe": host.probe, "install": host.install}
    before = host.state("web").goal_incarnation
    waiting = Later(lambda: asks[what]("web"))
    until(lambda: host.state("web").goal_incarnation > before)
    host.close()
    with pytest.raises(Failure) as ended:
        waiting.result(2)
    assert ended.value.code == "job.interrupted"


def test_a_server_that_stops_fails_no_snapshot_that_the_next_one_recovers(scene: Scene) -> None:
    host = scene.host(grace=1)
    host.start()
    before = host.state("web").goal_incarnation
    waiting = Later(lambda: snapshot(host))
    until(lambda: host.state("web").goal_incarnation > before)
    host.close()
    with pytest.raises(AgentFailure) as ended:
        waiting.result()
    assert ended.value.code == "agent.never-seen", "it was left alone"


def test_a_cancelled_job_withdraws_the_task(scene: Scene, host: AgentHost) -> None:
    def log(level: str, text: str) -> None:
        if "has taken" in text:
            raise KeyboardInterrupt

    with PaperGuest(scene, host) as guest:
        with pytest.raises(KeyboardInterrupt):
            snapshot(host, log=log)
        until(lambda: guest.commands[-1:] == ["idle"])
    assert scene.doors.opened == {}


def test_recover_withdraws_the_task_that_a_lost_server_left(scene: Scene) -> None:
    lost = scene.host()
    lost._agent("web").ask("1.2.3.1", Settings(Command.SNAPSHOT, task="task-1", attempt="a1"))
    with scene.running() as host, PaperGuest(scene, host) as guest:
        until(lambda: guest.commands == ["snapshot"])
        host.route("web").recover("another-task")
        host.route("web").recover("task-1")
        until(lambda: guest.commands == ["snapshot", "idle"])
        before = host.state("web").goal_incarnation
        host.route("web").recover("task-1")
        assert host.state("web").goal_incarnation == before, "it is idempotent"
    assert scene.doors.closed == ["a1"]


def test_recover_ends_a_wait_in_another_thread(scene: Scene, host: AgentHost) -> None:
    with PaperGuest(
        scene,
        host,
        on_goal=answers(
            "snapshot", "preparing", session=session("preparing", scripts={"configured": True})
        ),
    ) as guest:
        assert host.taking("web") == ""
        waiting = Later(lambda: snapshot(host))
        until(lambda: "snapshot" in guest.commands)
        assert host.taking("web") == "task-1", "others see that this guest may be frozen"
        host.route("web").recover("task-1")
        with pytest.raises(Failure) as ended:
            waiting.result()
    assert ended.value.code == "job.interrupted"
    assert host.taking("web") == ""


def test_two_at_once_are_refused(scene: Scene, host: AgentHost) -> None:
    with PaperGuest(scene, host) as guest:
        waiting = Later(lambda: failure_of(host))
        until(lambda: "snapshot" in guest.commands)
        with pytest.raises(AgentFailure) as busy:
            host.probe("web")
        assert busy.value.code == "agent.channel-busy"
        waiting.result()
