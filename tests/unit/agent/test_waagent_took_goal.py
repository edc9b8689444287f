"""Whether an agent has taken what is published for it, as far as that can be known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from waagent_scene import WEB, Caller, Neighbours, Scene, element, status

from quiesce.agent.waagent.host import AgentHost
from quiesce.agent.waagent.settings import Command, Settings

START = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)


def scene() -> Scene:
    return Scene(neighbours=Neighbours(web=WEB), now=START)


def publish(host: AgentHost) -> int:
    goal = host._agent("web").ask(host.offered_version, Settings(Command.IDLE))
    return goal.incarnation


def later(on: Scene, seconds: float) -> None:
    assert on.now is not None
    on.now += timedelta(seconds=seconds)


def test_a_goal_that_was_just_published_may_still_be_taken() -> None:
    here = scene()
    with here.running() as host:
        publish(host)
        assert host.state("web").took_goal is None
        later(here, 60)
        assert host.state("web").took_goal is False


def test_an_agent_that_fetches_its_extensions_has_taken_the_goal() -> None:
    here = scene()
    with here.running() as host:
        publish(host)
        web = Caller(host, WEB)
        web.get(element(web.goal_state(), "ExtensionsConfig")).raise_for_status()
        state = host.state("web")
        assert (state.took_goal, state.last_poll) == (True, START)
        publish(host)
        later(here, 60)
        assert host.state("web").took_goal is False, "the one before does not count"


def test_an_agent_that_reports_on_the_goal_has_taken_it() -> None:
    here = scene()
    with here.running() as host:
        number = publish(host)
        Caller(host, WEB).put_status(status(acknowledged=number))
        assert host.state("web").took_goal is True


def test_what_a_former_server_published_may_have_been_taken_before() -> None:
    here = scene()
    with here.running() as host:
        publish(host)
    later(here, 600)
    with here.running() as host:
        state = host.state("web")
        assert (state.took_goal, state.last_poll) == (None, None)
