"""What else is asked of an agent than a point: to look, to mend, to install and to uninstall."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from waagent_backup import TAKEN, answers, on, snapshot, takes_a_point
from waagent_guest import PaperGuest, until
from waagent_scene import Caller, Scene, element, handler_status

from quiesce.agent.waagent.host import AgentHost
from quiesce.agent.waagent.report import read_report
from quiesce.model.failure import AgentFailure, ExtensionFailure, InputFailure


def test_a_probe_brings_its_hops_home(scene: Scene, host: AgentHost) -> None:
    hop = {"name": "tls", "ok": False, "detail": "no", "milliseconds": 3.5, "code": "network.tls"}

    with PaperGuest(
        scene,
        host,
        on_goal=answers(
            "probe", "done", by="agent", hops=[hop, "rubbish", {"name": "dns", "ok": None}]
        ),
    ):
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

    with PaperGuest(
        scene,
        host,
        on_goal=answers("examine", "done", papers={**packed(raw), "shortened": ["journal"]}),
    ):
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

    @on("mend")
    def do(guest: PaperGuest) -> None:
        asked.append((guest.public.get("action"), guest.public.get("word")))
        guest.says("done", mended="qemu-guest-agent was restarted.")

    with PaperGuest(scene, host, on_goal=do):
        assert host.mend("web", "restart-qga", "unmask") == "qemu-guest-agent was restarted."
    assert asked == [("restart-qga", "unmask")]


def test_why_nothing_could_be_mended_is_the_guests_own_word(scene: Scene, host: AgentHost) -> None:
    why = {"code": "agent.mend-failed", "message": "The guest could not be mended: it is masked"}

    with (
        PaperGuest(scene, host, on_goal=answers("mend", "failed", failure=why)),
        pytest.raises(AgentFailure) as failed,
    ):
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
        newer = handler_status("1.2.3.2")
        with PaperGuest(scene, host, on_goal=lambda guest: setattr(guest, "handler", newer)):
            host.install("web")
            assert host.state("web").handlers[0].version == "1.2.3.2"
