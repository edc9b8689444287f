"""What a backup gets through a polling agent: the point, or the reason why there is none."""

from __future__ import annotations

import base64
import gzip
import json
import threading
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from waagent_guest import PaperGuest, session, until
from waagent_scene import Caller, Later, Scene, element, handler_status

from quiesce.agent.waagent.host import AgentHost
from quiesce.agent.waagent.report import read_report
from quiesce.model.extension import GuestPoint
from quiesce.model.failure import (
    AgentFailure,
    ExtensionFailure,
    Failure,
    FreezeFailure,
    InputFailure,
    NetworkFailure,
    ServerFailure,
    SnapshotFailure,
)
from quiesce.model.policy import SnapshotOptions

TAKEN = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)
OnGoal = Callable[[PaperGuest], None]


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def host(scene: Scene) -> Iterator[AgentHost]:
    with scene.running(
        grace=0.4, poll=0.6, first_report=0.5, handler=0.8, silence=60, stage=0.4, slack=0.2
    ) as running:
        running._agent("web")._intervals.extend([0.05] * 9)
        yield running


def snapshot(
    host: AgentHost,
    take: Callable[[], datetime] = lambda: TAKEN,
    log: Callable[[str, str], None] = lambda level, text: None,
    task: str = "task-1",
) -> GuestPoint:
    return host.route("web").snapshot(
        task, ["vda", "vdb"], SnapshotOptions(hold_seconds=0.5), take=take, log=log
    )


def takes_a_point(by: str = "blob", **fields: Any) -> OnGoal:
    """An extension that does all as it should."""

    def do(guest: PaperGuest) -> None:
        if guest.public.get("command") == "snapshot":
            guest.says("preparing", by=by)
            guest.take()
            guest.says("done", by=by, session=session(), **fields)

    return do


def failure_of(host: AgentHost, **how: Any) -> Failure:
    with pytest.raises(Failure) as failed:
        snapshot(host, **how)
    return failed.value


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

    def do(guest: PaperGuest) -> None:
        if guest.public.get("command") == "snapshot":
            attempts.append((guest.attempt, guest.incarnation))
        takes_a_point()(guest)

    with PaperGuest(scene, host, on_goal=do):
        snapshot(host)
        snapshot(host)
    (first, before), (second, after) = attempts
    assert first != second
    assert after > before


def test_an_agent_that_was_never_seen_is_said_to_be_soon(scene: Scene, host: AgentHost) -> None:
    failure = failure_of(host)
    assert isinstance(failure, AgentFailure)
    assert failure.code == "agent.never-seen"
    assert any("never asked" in fact.fact for fact in failure.evidence)
    assert scene.doors.opened == {}


def test_the_evidence_names_who_asks_and_is_not_known(scene: Scene, host: AgentHost) -> None:
    from waagent_scene import Caller

    Caller(host, "127.0.0.99").get("/machine/?comp=goalstate")
    failure = failure_of(host)
    assert any("127.0.0.99" in fact.fact for fact in failure.evidence)


def test_an_agent_that_has_fallen_silent_is_stale(scene: Scene, host: AgentHost) -> None:
    from datetime import timedelta

    with PaperGuest(scene, host):
        until(lambda: host.state("web").version != "")
    scene.now = scene.clock() + timedelta(minutes=5)
    failure = failure_of(host)
    assert failure.code == "agent.stale"
    (heard,) = [fact for fact in failure.evidence if "last heard of" in fact.fact]
    assert "127.0.0.11" in heard.fact
    assert heard.observed_at < scene.now - timedelta(minutes=4)


def test_a_stale_agent_that_comes_back_in_time_is_used(scene: Scene, host: AgentHost) -> None:
    from datetime import timedelta

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
    def do(guest: PaperGuest) -> None:
        if guest.public.get("command") == "snapshot":
            guest.says("connecting")

    with PaperGuest(scene, host, on_goal=do):
        failure = failure_of(host)
    assert failure.code == "extension.timeout"
    assert "connecting" in failure.message


def test_a_pre_script_may_take_long(scene: Scene, host: AgentHost) -> None:
    """Longer than a stage may take without one."""
    running = session("preparing", scripts={"configured": True}, freeze=None)

    def do(guest: PaperGuest) -> None:
        if guest.public.get("command") == "snapshot":
            guest.says("preparing", session=running)

    with PaperGuest(scene, host, on_goal=do) as guest:
        waiting = Later(lambda: snapshot(host))
        until(lambda: "snapshot" in guest.commands)
        import time

        time.sleep(1.5)
        assert not waiting.ended
        guest.take()
        guest.says("done", session=session())
        assert waiting.result().taken_at == TAKEN


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
    def do(guest: PaperGuest) -> None:
        if guest.public.get("command") == "snapshot":
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
    def do(guest: PaperGuest) -> None:
        if guest.public.get("command") == "snapshot":
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
    def do(guest: PaperGuest) -> None:
        if guest.public.get("command") == "snapshot":
            guest.take()
            guest.says("done", **({"session": session()} | LIES[lie]))

    with PaperGuest(scene, host, on_goal=do):
        failure = failure_of(host)
    assert failure.code == "extension.output-invalid"
    assert any("stage done" in fact.fact for fact in failure.evidence)


def test_a_report_before_the_point_proves_nothing(scene: Scene, host: AgentHost) -> None:
    """Not even one that has guessed the instant."""

    def do(guest: PaperGuest) -> None:
        if guest.public.get("command") == "snapshot":
            door, guest.taken_at = guest.door, f"{TAKEN:%Y-%m-%dT%H:%M:%S.%f0Z}"
            guest.says("done", session=session())
            door.take()

    with PaperGuest(scene, host, on_goal=do):
        assert failure_of(host).code == "extension.output-invalid"


def test_a_good_point_is_not_lost_with_the_withdrawal(scene: Scene, host: AgentHost) -> None:
    saved = scene.book.save

    def do(guest: PaperGuest) -> None:
        if guest.public.get("command") == "snapshot":
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
    def do(guest: PaperGuest) -> None:
        if guest.public.get("command") == "mend":
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


@pytest.mark.parametrize("how", ["without a snapshot", "without a freeze", "without a session"])
def test_a_guest_that_says_done_without_having_done_it_is_not_believed(
    scene: Scene, host: AgentHost, how: str
) -> None:
    def do(guest: PaperGuest) -> None:
        if guest.public.get("command") != "snapshot":
            return
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
    def do(guest: PaperGuest) -> None:
        if guest.public.get("command") == "snapshot":
            guest.says("done", attempt="another", session=session())

    with PaperGuest(scene, host, on_goal=do):
        assert failure_of(host).code == "extension.stuck"


@pytest.mark.parametrize(
    "raw", [b"", b"\xff", b"[]", b"{}", b'{"stage": "flying"}', b"x" * 200_000]
)
def test_a_report_that_is_none_is_said_to_be_none(
    scene: Scene, host: AgentHost, raw: bytes
) -> None:
    def do(guest: PaperGuest) -> None:
        if guest.public.get("command") == "snapshot":
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
    from quiesce.agent.waagent.settings import Command, Settings

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
    def do(guest: PaperGuest) -> None:
        if guest.public.get("command") == "snapshot":
            guest.says("preparing", session=session("preparing", scripts={"configured": True}))

    with PaperGuest(scene, host, on_goal=do) as guest:
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


def test_a_probe_brings_its_hops_home(scene: Scene, host: AgentHost) -> None:
    hop = {"name": "tls", "ok": False, "detail": "no", "milliseconds": 3.5, "code": "network.tls"}

    def do(guest: PaperGuest) -> None:
        if guest.public.get("command") == "probe":
            guest.says("done", by="agent", hops=[hop, "rubbish", {"name": "dns", "ok": None}])

    with PaperGuest(scene, host, on_goal=do):
        hops = host.probe("web")
    assert [(hop.name, hop.ok) for hop in hops] == [("tls", False), ("dns", None)]
    assert hops[0].milliseconds == 3.5


def packed(raw: bytes, token: str = "a" * 32) -> dict[str, object]:
    data = base64.b64encode(zlib.compress(raw)).decode()
    return {"token": token, "data": data, "shortened": []}


def test_an_examination_is_brought_home(scene: Scene, host: AgentHost) -> None:
    mark = b"#" + b"a" * 32
    raw = (
        mark + b" file 9 640 0 1700000000 /var/log/waagent.log\na\x1b[0m\nb\n" + mark + b" end 17\n"
    )

    def do(guest: PaperGuest) -> None:
        if guest.public.get("command") == "examine":
            guest.says("done", papers={**packed(raw), "shortened": ["journal"]})

    with PaperGuest(scene, host, on_goal=do):
        papers = host.examine("web")
    (log,) = papers.papers
    assert (log.path, log.text, log.mode) == ("/var/log/waagent.log", "a\\x1b[0m\nb", 0o640)
    assert papers.source == "the guest, through its Azure Linux agent"
    assert "journal" in papers.warnings[0]


@pytest.mark.parametrize(
    "papers",
    [
        5,
        {},
        {"token": "no", "data": ""},
        {"token": "a" * 32, "data": "?"},
        {"token": "a" * 32, "data": "AAAA"},
    ],
)
def test_papers_that_cannot_be_unpacked_are_said_so(papers: object) -> None:
    raw = json.dumps({"attempt": "x", "stage": "done", "papers": papers}).encode()
    with pytest.raises(ExtensionFailure) as refused:
        read_report(raw)
    assert refused.value.code == "extension.output-invalid"


def test_papers_that_the_guests_gzip_has_packed_are_read_too() -> None:
    data = gzip.compress(b"#" + b"a" * 32 + b" end 17\n")
    papers = {**packed(b""), "data": base64.b64encode(data).decode()}
    raw = json.dumps({"attempt": "x", "stage": "done", "papers": papers}).encode()
    found = read_report(raw).papers
    assert found is not None
    assert found.taken_at == datetime.fromtimestamp(17, UTC)


def test_papers_that_would_fill_the_memory_are_read_to_a_bound() -> None:
    bomb = packed(b"#" + b"a" * 32 + b" command date 0\n" + b"0" * (64 << 20))
    raw = json.dumps({"attempt": "x", "stage": "done", "papers": bomb}).encode()
    assert len(raw) < 128 << 10
    papers = read_report(raw).papers
    assert papers is not None
    assert len(papers.papers[0].text) <= 8 << 20
    assert "cut off" in papers.warnings[-1]


def test_what_is_to_be_mended_is_asked_for_and_its_outcome_brought_home(
    scene: Scene, host: AgentHost
) -> None:
    asked: list[tuple[object, object]] = []

    def do(guest: PaperGuest) -> None:
        if guest.public.get("command") == "mend":
            asked.append((guest.public.get("action"), guest.public.get("word")))
            guest.says("done", mended="qemu-guest-agent was restarted.")

    with PaperGuest(scene, host, on_goal=do):
        assert host.mend("web", "restart-qga", "unmask") == "qemu-guest-agent was restarted."
    assert asked == [("restart-qga", "unmask")]


def test_why_nothing_could_be_mended_is_the_guests_own_word(scene: Scene, host: AgentHost) -> None:
    why = {"code": "agent.mend-failed", "message": "The guest could not be mended: it is masked"}

    def do(guest: PaperGuest) -> None:
        if guest.public.get("command") == "mend":
            guest.says("failed", failure=why)

    with PaperGuest(scene, host, on_goal=do), pytest.raises(AgentFailure) as failed:
        host.mend("web", "restart-qga")
    assert failed.value.code == "agent.mend-failed"
    assert "masked" in failed.value.message


@pytest.mark.parametrize("words", [("rm -rf /", ""), ("restart-qga", "; reboot"), ("", "")])
def test_nothing_but_what_is_known_to_mend_is_asked_for(
    host: AgentHost, words: tuple[str, str]
) -> None:
    with pytest.raises(InputFailure) as refused:
        host.mend("web", *words)
    assert refused.value.code == "extension.usage"


def test_install_returns_when_the_agent_says_so(scene: Scene, host: AgentHost) -> None:
    with PaperGuest(scene, host) as guest:
        host.install("web")
        assert guest.commands[-1] == "idle"
    assert host.state("web").handlers[0].version == host.offered_version


def test_install_says_what_the_agent_says(scene: Scene, host: AgentHost) -> None:
    def fail(guest: PaperGuest) -> None:
        guest.handler = handler_status(handler="NotReady", code=1007, message="exit 1")

    with PaperGuest(scene, host, on_goal=fail), pytest.raises(ExtensionFailure) as failed:
        host.install("web")
    assert failed.value.code == "extension.install-failed"


def test_uninstall_returns_when_the_agent_says_so_and_a_backup_brings_it_back(
    scene: Scene, host: AgentHost
) -> None:
    with PaperGuest(scene, host, on_goal=takes_a_point()) as guest:
        host.install("web")
        host.uninstall("web")
        assert host.state("web").handlers == ()
        published = host.state("web").goal_incarnation
        host.uninstall("web")
        assert host.state("web").goal_incarnation == published, "there is nothing left to do"
        assert snapshot(host).taken_at == TAKEN
        until(lambda: guest.commands[-1:] == ["idle"])
    assert guest.commands[-4:] == ["idle", "uninstall", "snapshot", "idle"]


def test_an_extension_that_does_not_go_is_said_so(scene: Scene, host: AgentHost) -> None:
    def stay(guest: PaperGuest) -> None:
        guest.handler = handler_status()

    with PaperGuest(scene, host, on_goal=stay), pytest.raises(ExtensionFailure) as failed:
        host.uninstall("web")
    assert failed.value.code == "extension.uninstall-failed"


def test_a_newer_package_is_published_with_a_greater_version(scene: Scene) -> None:
    from dataclasses import replace

    from waagent_scene import Caller, element

    with scene.running() as host, PaperGuest(scene, host):
        host.install("web")
    scene.package = replace(scene.package, digest="ef" * 32, content=b"newer")
    with scene.running() as host:
        assert host.offered_version == "1.2.3.2"
        caller = Caller(host, "127.0.0.11")
        config = caller.get(element(caller.goal_state(), "ExtensionsConfig")).text
        assert 'version="1.2.3.1"' in config, "an installed one stays until it is needed"
        token = host._agent("web").dossier.token
        manifest = caller.get(f"/packages/{token}/manifest.xml").text
        assert "1.2.3.1.zip" in manifest
        assert "1.2.3.2.zip" in manifest
        with PaperGuest(scene, host) as guest:
            guest_version = []
            guest._on_goal = lambda g: setattr(g, "handler", handler_status("1.2.3.2"))
            host.install("web")
            guest_version.append(host.state("web").handlers[0].version)
    assert guest_version == ["1.2.3.2"]
