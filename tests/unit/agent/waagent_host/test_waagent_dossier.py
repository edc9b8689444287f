"""What is known of a VM's agent outlives the server, and is renewed before it is too old."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from waagent_guest import until
from waagent_scene import WEB, Caller, PaperBook, Scene, element, status

from quiesce.agent.waagent.certificates import VmIdentity
from quiesce.agent.waagent.goal import Dossier
from quiesce.agent.waagent.host import AgentHost
from quiesce.agent.waagent.ports import AgentRecord
from quiesce.agent.waagent.settings import Command, Settings


def test_polling_touches_no_database_and_changes_no_incarnation(
    host: AgentHost, scene: Scene
) -> None:
    web = Caller(host, WEB)
    first, saves = web.goal_state(), scene.book.saves
    for _ in range(50):
        assert web.goal_state() == first
        web.put_status(status(acknowledged=1))
    assert scene.book.saves == saves


def test_a_server_that_starts_again_goes_on_with_the_same_goal_state(scene: Scene) -> None:
    with scene.running() as host:
        host._agent("web").ask(host.offered_version, Settings(Command.IDLE))
        before = Caller(host, WEB).goal_state()
        seen = host.state("web").last_seen
    with scene.running() as host:
        assert host.state("web").last_seen == seen
        after = Caller(host, WEB).goal_state()
    for name in ("Incarnation", "ContainerId"):
        assert element(after, name) == element(before, name)
    assert scene.book.records["web"].body.count("PRIVATE KEY") == 2, "the same key goes on"


def test_numbers_go_on_although_the_database_was_restored_or_lost(scene: Scene) -> None:
    old = PaperBook()
    host = scene.host()
    host._agent("web").ask(host.offered_version, Settings(Command.IDLE))
    old.records = dict(scene.book.records)
    known = 0
    for _ in range(5):
        known = host._agent("web").ask(host.offered_version, Settings(Command.IDLE)).incarnation
    scene.now = scene.clock() + timedelta(minutes=1)
    scene.book = old
    restored = scene.host()._agent("web").ask("1.2.3.1", Settings(Command.IDLE))
    assert restored.incarnation > known
    scene.book = PaperBook()
    assert scene.host()._agent("web").dossier.goal.incarnation > known


@pytest.mark.parametrize("body", ["", "{}", "[]", "null", '{"format": 1}', '{"format": 2}'])
def test_a_record_that_cannot_be_read_is_begun_anew(scene: Scene, body: str) -> None:
    scene.book.save(AgentRecord("web", body))
    assert scene.host()._agent("web").dossier.goal.incarnation > 0


def test_a_forgotten_vm_begins_anew(scene: Scene) -> None:
    host = scene.host()
    before = host._agent("web").dossier.container_id
    host._agent("web").ask(host.offered_version, Settings(Command.IDLE))
    host.forget("web")
    assert "web" not in scene.book.records
    assert host._agent("web").dossier.container_id != before


def test_the_key_of_an_uninstalled_extension_is_dropped_and_not_published_for_ever(
    scene: Scene,
) -> None:
    scene.now = scene.clock()
    agent = scene.host()._agent("web")
    agent.ask("1.0", Settings(Command.IDLE))
    agent.ask_to_uninstall("1.0")
    scene.now += timedelta(days=680)
    agent.renew()
    renewed = agent.dossier.goal.incarnation
    assert agent.dossier.identity is None
    for _ in range(3):
        scene.now += timedelta(seconds=30)
        agent.renew()
    assert agent.dossier.goal.incarnation == renewed


def test_what_a_dead_server_asked_for_does_not_keep_the_status_url_from_being_renewed(
    scene: Scene,
) -> None:
    scene.now = scene.clock()
    scene.host()._agent("web").ask("1.0", Settings(Command.PROBE, attempt="a1"))
    agent = scene.host()._agent("web")
    scene.now += timedelta(days=1)
    agent.renew()
    assert agent.dossier.goal.command == Command.IDLE
    assert agent.dossier.goal.status_url_at == scene.now


def test_nothing_is_renewed_while_something_is_asked_for(scene: Scene) -> None:
    scene.now = scene.clock()
    agent = scene.host()._agent("web")
    before = agent.dossier
    assert agent.claim()
    scene.now += timedelta(days=1)
    agent.renew()
    assert agent.dossier is before
    agent.yield_turn()
    agent.renew()
    assert agent.dossier is not before


def test_a_record_with_a_key_that_is_none_is_begun_anew(scene: Scene) -> None:
    dossier = Dossier.new(scene.clock())
    kept = replace(
        dossier,
        identity=VmIdentity("no key", "no certificate"),
        goal=replace(dossier.goal, status_url="https://x"),
    )
    scene.book.records["web"] = AgentRecord("web", kept.to_body())
    agent = scene.host()._agent("web")
    assert agent.dossier.identity is None
    assert agent.dossier.container_id != dossier.container_id


def test_a_defect_with_one_vm_keeps_no_other_from_being_renewed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quiesce.agent.waagent.host._KEEP_SECONDS", 0.02)
    renewed: list[str] = []
    with scene.running() as host:
        host._agent("web").renew = lambda: 1 // 0  # type: ignore[method-assign, assignment]
        host._agent("mail").renew = lambda: renewed.append("mail")  # type: ignore[method-assign]
        until(lambda: len(renewed) > 2)
