"""How an agent is said to be, by what it reports and how long it has been silent."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from waagent_scene import WEB, Caller, Scene, status

from quiesce.agent.waagent.host import AgentHost
from quiesce.model.agent import AgentCondition


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<",
        b"\xff\xfe\x00",
        b"<!DOCTYPE x [<!ENTITY a 'aaaa'>]><Health><State>&a;</State></Health>",
        b"<a>" * 10_000,
        b"<Health>" + b"<x/>" * 1000,
    ],
)
def test_a_health_report_that_is_none_is_a_400(host: AgentHost, body: bytes) -> None:
    web = Caller(host, WEB)
    assert web.http.post(web.wire + "/machine?comp=health", content=body).status_code == 400


@pytest.mark.parametrize("encoding", ["utf-4", "rot13", "zlib", "utf-16", "undefined", "utf-7"])
def test_a_health_report_is_read_as_utf_8_whatever_encoding_it_claims(
    host: AgentHost, encoding: str
) -> None:
    web = Caller(host, WEB)
    web.put_status(status(acknowledged=1))
    body = (
        f"<?xml version='1.0' encoding='{encoding}'?>"
        "<Health><State>NotReady</State><Description>fährt hoch</Description></Health>"
    )
    answer = web.http.post(web.wire + "/machine?comp=health", content=body.encode())
    assert answer.status_code == 200
    assert host.state("web").message == "NotReady: fährt hoch"


def test_an_agent_that_says_it_is_not_ready_is_not(host: AgentHost) -> None:
    web = Caller(host, WEB)
    web.put_status(status(acknowledged=1))
    body = (
        "<Health><Role><Health><State>NotReady</State><Details><SubStatus>Provisioning</SubStatus>"
        "<Description>Starting\x1b[31m</Description></Details></Health></Role></Health>"
    ).replace("\x1b", "&#10;")
    assert web.http.post(web.wire + "/machine?comp=health", content=body).status_code == 200
    state = host.state("web")
    assert state.condition is AgentCondition.NOT_READY
    assert state.message.startswith("NotReady: Provisioning: Starting")


def test_an_agent_that_falls_silent_is_stale_after_a_minute(host: AgentHost, scene: Scene) -> None:
    web = Caller(host, WEB)
    web.goal_state()
    web.put_status(status(acknowledged=1))
    assert host.state("web").condition is AgentCondition.READY
    scene.now = scene.clock() + timedelta(seconds=59)
    assert host.state("web").condition is AgentCondition.READY
    scene.now += timedelta(seconds=2)
    assert host.state("web").condition is AgentCondition.STALE


def test_an_agent_that_polls_rarely_is_given_three_of_its_periods(
    host: AgentHost, scene: Scene
) -> None:
    web = Caller(host, WEB)
    scene.now = scene.clock()
    for _ in range(4):
        scene.now += timedelta(seconds=40)
        web.goal_state()
    web.put_status(status(acknowledged=1))
    scene.now += timedelta(seconds=110)
    assert host.state("web").condition is AgentCondition.READY
    scene.now += timedelta(seconds=20)
    assert host.state("web").condition is AgentCondition.STALE


def test_a_status_left_at_the_storage_endpoint_counts_too(host: AgentHost, scene: Scene) -> None:
    scene.doors.blobs["web"] = json.dumps(status(acknowledged=3)).encode()
    assert host.state("web").acknowledged_incarnation == 3
    scene.doors.blobs["web"] = json.dumps(status(acknowledged=4)).encode()
    state = host.state("web")
    assert state.acknowledged_incarnation == 4
    assert state.condition is AgentCondition.READY, "a new status is a sign of life"
    scene.doors.blobs["web"] = b"\x00 rubbish"
    assert host.state("web").acknowledged_incarnation == 4


def test_a_status_of_long_ago_is_not_news_after_a_restart(scene: Scene) -> None:
    """It would prove that extensions are switched off, say, when the agent only has had no time
    to report."""
    written = scene.clock() - timedelta(days=3)
    scene.doors.blobs["web"] = json.dumps(status()).encode()
    scene.doors.written_at = written
    agent = scene.host()._agent("web")
    agent.look_at_blob()
    sight = agent.sight()
    assert sight.status is not None
    assert sight.status_at == sight.last_seen == written
    assert sight.condition is AgentCondition.STALE
