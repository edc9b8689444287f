"""A VM is recognised by where it is, and sees what is its own and nothing else."""

from __future__ import annotations

import time

from waagent_recorded import send
from waagent_scene import MAIL, WEB, Caller, Scene, element, status

from quiesce.agent.waagent.host import AgentHost
from quiesce.model.agent import AgentCondition
from quiesce.model.failure import ServerFailure

STRANGER = "127.0.0.66"


def test_a_stranger_gets_404_for_everything_and_is_remembered(host: AgentHost) -> None:
    stranger = Caller(host, STRANGER)
    dossier = host._agent("web").dossier
    paths = [
        "/?comp=versions",
        "/machine/?comp=goalstate",
        f"/machine/{dossier.container_id}/{dossier.goal.incarnation}/extensionsConfig",
        f"/packages/{dossier.token}/1.2.3.1.zip",
    ]
    begun = time.monotonic()
    assert [stranger.get(path).status_code for path in paths] == [404] * 4
    assert stranger.put_status(status(acknowledged=1)).status_code == 404
    assert time.monotonic() - begun < 2
    (seen,) = host.strangers
    assert (seen.address, seen.requests) == (STRANGER, 5)
    assert host.state("web").condition is AgentCondition.NEVER_SEEN


def test_only_the_last_few_strangers_are_remembered(host: AgentHost) -> None:
    for number in range(100, 130):
        send(
            f"127.0.0.{number}",
            host.ports[0],
            b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        )
    assert len(host.strangers) == 16
    assert host.strangers[0].address == "127.0.0.129"


def test_a_vm_cannot_read_another_vms_documents_keys_or_packages(host: AgentHost) -> None:
    web, mail = Caller(host, WEB), host._agent("mail").dossier
    folder = f"/machine/{mail.container_id}/{mail.goal.incarnation}"
    for name in ("hostingEnvironmentConfig", "sharedConfig", "extensionsConfig", "certificates"):
        assert web.get(f"{folder}/{name}").status_code == 404
    assert web.get(f"/packages/{mail.token}/manifest.xml").status_code == 404
    assert web.get(f"/packages/{mail.token}/1.2.3.1.zip").status_code == 404
    artifact = {"x-ms-artifact-location": f"http://h/packages/{mail.token}/1.2.3.1.zip"}
    assert web.http.get(web.plugin + "/extensionArtifact", headers=artifact).status_code == 404


def test_goal_states_of_two_vms_hold_nothing_of_each_other(host: AgentHost) -> None:
    texts = {}
    for vm, address in (("web", WEB), ("mail", MAIL)):
        caller = Caller(host, address)
        goal = caller.goal_state()
        texts[vm] = goal + caller.get(element(goal, "ExtensionsConfig")).text
    assert "web-attempt" in texts["web"]
    assert "mail" not in texts["web"]
    assert "web" not in texts["mail"]


def test_another_vms_container_id_is_answered_with_410_and_changes_nothing(
    host: AgentHost,
) -> None:
    mail = host._agent("mail").dossier
    web = Caller(host, WEB)
    headers = {"x-ms-containerid": mail.container_id}
    assert web.get("/machine/?comp=goalstate", **headers).status_code == 410
    answer = web.http.put(web.plugin + "/status", headers=headers, content=b"{}")
    assert answer.status_code == 410
    assert host.state("mail").condition is AgentCondition.NEVER_SEEN


def test_a_status_is_believed_of_its_sender_only(host: AgentHost) -> None:
    Caller(host, WEB).put_status(status(acknowledged=7))
    assert host.state("web").condition is AgentCondition.READY
    assert host.state("mail").condition is AgentCondition.NEVER_SEEN


def test_an_old_incarnation_is_gone(host: AgentHost) -> None:
    web = Caller(host, WEB)
    url = element(web.goal_state(), "ExtensionsConfig")
    host._agent("web").withdraw("web-attempt")
    assert web.get(url).status_code == 410
    assert "idle" in web.get(element(web.goal_state(), "ExtensionsConfig")).text


def test_documents_are_addressed_as_the_vm_addresses_the_host(host: AgentHost) -> None:
    web = Caller(host, WEB)
    goal = web.get("/machine/?comp=goalstate", Host="168.63.129.16").text
    assert element(goal, "ExtensionsConfig").startswith("http://168.63.129.16/machine/")
    assert host.state("web").endpoint == "168.63.129.16"
    hostile = web.get("/machine/?comp=goalstate", Host='h"><x>').text
    assert "<x>" not in hostile
    assert element(hostile, "ExtensionsConfig").startswith("http://127.0.0.1:")


def test_the_host_plugin_hands_over_our_package_and_fetches_nothing_else(host: AgentHost) -> None:
    web = Caller(host, WEB)
    token = host._agent("web").dossier.token
    package = {"x-ms-artifact-location": f"http://168.63.129.16/packages/{token}/1.2.3.1.zip"}
    assert web.http.get(web.plugin + "/extensionArtifact", headers=package).content == (
        b"the package"
    )
    for url in ("http://127.0.0.1:1/x", "file:///etc/passwd", "http://[::1", "", "//"):
        answer = web.http.get(
            web.plugin + "/extensionArtifact", headers={"x-ms-artifact-location": url}
        )
        assert answer.status_code == 404


def test_a_database_that_does_not_answer_is_no_reason_to_be_a_stranger(scene: Scene) -> None:
    def broken(vm: str) -> None:
        raise ServerFailure("server.database-broken", "no")

    scene.book.load = broken  # type: ignore[method-assign]
    with scene.running() as host:
        assert Caller(host, WEB).get("/?comp=versions").status_code == 503
        assert host.strangers == ()


def test_the_guest_of_a_removed_vm_that_still_asks_leaves_nothing_behind(scene: Scene) -> None:
    with scene.running() as host:
        web = Caller(host, WEB)
        web.goal_state()
        host.forget("web")
        urls = scene.doors.urls
        assert web.get("/machine/?comp=goalstate").status_code == 404
        assert "web" not in scene.book.records
        assert scene.doors.urls == urls, "and no status file is made for it"
        host.state("web")
        assert web.goal_state(), "once it is added again it is served"
