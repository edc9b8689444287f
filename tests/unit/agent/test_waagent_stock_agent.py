"""What a stock agent sends is answered as it expects, and every document is one that it can use."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from waagent_recorded import recorded, send
from waagent_scene import Caller, Neighbours, Scene, between, element, runtime_settings

from quiesce.agent.waagent.host import AgentHost
from quiesce.model.agent import AgentCondition
from quiesce.model.failure import AgentFailure
from quiesce.model.network import Proxy
from quiesce.model.policy import SnapshotOptions

VM = "127.0.0.11"

ANSWERS = {
    "versions": 200,
    "goalstate": 200,
    "hosting-environment-config": 200,
    "shared-config": 200,
    "certificates": 200,
    "extensions-config": 200,
    "manifest": 200,
    "package": 200,
    "health-ready": 200,
    "health-not-ready": 200,
    "role-properties": 202,
    "telemetry": 200,
    "health-service": 200,
    "plugin-health": 200,
    "plugin-versions": 200,
    "status": 200,
    "agent-log": 200,
    "vm-settings": 404,
}


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(neighbours=Neighbours(web=VM, new="127.0.0.12"))


@pytest.fixture(scope="module")
def host(scene: Scene) -> Iterator[AgentHost]:
    with scene.running(grace=0.2, poll=0.2) as running:
        yield running


def ask_a_snapshot(host: AgentHost, **options: object) -> None:
    """Publish one; nobody comes for it, and the goal state is left published behind it."""
    agent = host._agent("web")
    agent._intervals.extend([0.05] * 9)
    route = host.route("web")
    agent.withdraw = lambda attempt: None  # type: ignore[method-assign]
    with pytest.raises(AgentFailure):
        route.snapshot(
            "task-1",
            ["vda", "vdb"],
            SnapshotOptions(hold_seconds=7, skip_mounts=("/mnt/x",)),
            take=lambda: datetime.now(UTC),
            log=lambda level, text: None,
        )


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_a_recorded_request_of_the_stock_agent_is_answered_as_it_expects(
    host: AgentHost, name: str
) -> None:
    ask_a_snapshot(host)
    dossier = host._agent("web").dossier
    request = recorded()[name]
    wire, plugin = host.ports
    raw = request.filled(dossier.container_id, dossier.goal.incarnation, dossier.token)
    answered, body = send(VM, wire if request.port == 80 else plugin, raw)
    assert answered == ANSWERS[name], body
    if name == "plugin-versions":
        assert b"2015-09-01" in body
    if name == "package":
        assert body == b"the package"


def test_every_recording_is_replayed() -> None:
    assert set(recorded()) == set(ANSWERS)


def test_the_recorded_status_tells_agent_system_and_handler(host: AgentHost) -> None:
    dossier = host._agent("web").dossier
    raw = recorded()["status"].filled(dossier.container_id, dossier.goal.incarnation, "")
    send(VM, host.ports[1], raw)
    state = host.state("web")
    assert (state.version, state.operating_system) == ("2.7.3.0", "debian 12")
    assert state.condition is AgentCondition.READY
    (handler,) = state.handlers
    assert (handler.name, handler.status) == ("Quiesce.VmBackup", "Ready")
    assert handler.settings_status == "transitioning"
    assert state.acknowledged_incarnation > 0


def test_before_the_first_backup_the_goal_state_has_no_plugin_and_no_key(
    host: AgentHost, scene: Scene
) -> None:
    caller = Caller(host, "127.0.0.12")
    goal = caller.goal_state()
    assert "Certificates" not in goal
    config = caller.get(element(goal, "ExtensionsConfig")).text
    assert "<Plugins></Plugins>" in config
    assert '<StatusUploadBlob statusBlobType="BlockBlob">https://storage.test' in config


def test_the_settings_say_what_the_contract_says(host: AgentHost, scene: Scene) -> None:
    ask_a_snapshot(host)
    caller = Caller(host, VM)
    config = caller.get(element(caller.goal_state(), "ExtensionsConfig")).text
    assert 'version="1.2.3.1"' in config
    assert 'state="enabled"' in config
    assert 'statusBlobType="BlockBlob"' in config
    public = runtime_settings(config)["publicSettings"]
    assert public["command"] == "snapshot"
    assert public["task"] == "task-1"
    assert public["hold_seconds"] == 7
    assert public["skip_mounts"] == ["/mnt/x"]
    assert public["endpoint"]["url"] == "https://storage.test:443"
    assert "CERTIFICATE" in public["endpoint"]["ca_pem"]
    datetime.strptime(public["deadline"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert "sig=" not in json.dumps(public), "secrets travel encrypted"


def test_the_guest_decrypts_its_protected_settings_with_openssl(
    host: AgentHost, scene: Scene, tmp_path: Path
) -> None:
    scene.proxies["web"] = Proxy("http://u:secret@proxy:3128", "http://proxy:3128", "10.0.0.0/8")
    ask_a_snapshot(host)
    caller = Caller(host, VM)
    goal = caller.goal_state()
    key, certificate = fetch_key_as_the_agent_does(caller, goal, tmp_path)
    handler = runtime_settings(caller.get(element(goal, "ExtensionsConfig")).text)
    sealed = tmp_path / "sealed"
    sealed.write_bytes(base64.b64decode(handler["protectedSettings"]))
    plain = openssl(
        "cms", "-decrypt", "-inform", "DER", "-in", sealed, "-inkey", key, "-recip", certificate
    )
    protected = json.loads(plain)
    assert set(protected["snapshot_urls"]) == {"vda", "vdb"}
    assert "sig=r" in protected["report_url"]
    assert "sig=l" in protected["log_url"]
    assert protected["proxy"] == {
        "http": "http://u:secret@proxy:3128",
        "https": "http://proxy:3128",
        "no_proxy": "10.0.0.0/8",
    }
    fingerprint = openssl("x509", "-in", certificate, "-noout", "-fingerprint", "-sha1").decode()
    assert handler["protectedSettingsCertThumbprint"] == (
        fingerprint.strip().partition("=")[2].replace(":", "")
    )


@pytest.mark.parametrize(
    "header",
    [
        "",
        "rubbish",
        "AAAA",
        "%%%",
        base64.b64encode(b"\x30\x82" + bytes(600)).decode(),
        "QUJD" * 4000,
        "QUJD" * 8000,
    ],
)
def test_a_certificate_that_is_none_is_a_clear_400(host: AgentHost, header: str) -> None:
    ask_a_snapshot(host)
    caller = Caller(host, VM)
    url = element(caller.goal_state(), "Certificates")
    answer = caller.get(url, **{"x-ms-guest-agent-public-x509-cert": header})
    assert answer.status_code == 400
    assert "transport certificate" in answer.text


def test_a_certificate_without_an_rsa_key_is_refused(host: AgentHost) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    ask_a_snapshot(host)
    key = ec.generate_private_key(ec.SECP256R1())
    der = certificate_for(key).public_bytes(serialization.Encoding.DER)
    caller = Caller(host, VM)
    url = element(caller.goal_state(), "Certificates")
    header = {"x-ms-guest-agent-public-x509-cert": base64.b64encode(der).decode()}
    assert caller.get(url, **header).status_code == 400


def test_a_certificate_of_a_version_that_does_not_exist_is_refused(host: AgentHost) -> None:
    ask_a_snapshot(host)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    third = certificate_for(key).public_bytes(serialization.Encoding.DER)
    der = third.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x5b", 1)
    assert der != third
    caller = Caller(host, VM)
    url = element(caller.goal_state(), "Certificates")
    answer = caller.get(
        url, **{"x-ms-guest-agent-public-x509-cert": base64.b64encode(der).decode()}
    )
    assert answer.status_code == 400
    assert "not a valid X509 version" in answer.text


def test_the_vm_certificate_is_renewed_before_it_expires() -> None:
    scene = Scene()
    scene.now = datetime(2026, 11, 1, tzinfo=UTC)
    host = scene.host()
    agent = host._agent("web")
    assert_idle(host)
    first = agent.dossier.identity
    assert first is not None
    scene.now += timedelta(days=600)
    agent.renew()
    assert agent.dossier.identity == first, "it is good for months yet"
    scene.now += timedelta(days=100)
    before = agent.dossier.goal.incarnation
    agent.renew()
    assert agent.dossier.identity != first
    assert agent.dossier.goal.incarnation > before


def assert_idle(host: AgentHost) -> None:
    from quiesce.agent.waagent.settings import Command, Settings

    host._agent("web").ask(host.offered_version, Settings(Command.IDLE))


def fetch_key_as_the_agent_does(caller: Caller, goal: str, folder: Path) -> tuple[Path, Path]:
    """Certificates.__init__ of the agent: S/MIME headers around the data, then openssl."""
    transport = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    certificate = certificate_for(transport)
    (folder / "prv").write_bytes(
        transport.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (folder / "crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    der = certificate.public_bytes(serialization.Encoding.DER)
    answer = caller.get(
        element(goal, "Certificates"),
        **{"x-ms-guest-agent-public-x509-cert": base64.b64encode(der).decode()},
    )
    assert element(answer.text, "Format") == "Pkcs7BlobWithPfxContents"
    (folder / "p7m").write_text(
        "MIME-Version:1.0\n"
        'Content-Disposition: attachment; filename="p7m"\n'
        'Content-Type: application/x-pkcs7-mime; name="p7m"\n'
        "Content-Transfer-Encoding: base64\n\n" + between(answer.text, "<Data>", "</Data>")
    )
    bag = openssl(
        "cms",
        "-decrypt",
        "-in",
        folder / "p7m",
        "-inkey",
        folder / "prv",
        "-recip",
        folder / "crt",
    )
    (folder / "pfx").write_bytes(bag)
    (folder / "pem").write_bytes(
        openssl("pkcs12", "-nodes", "-password", "pass:", "-in", folder / "pfx")
    )
    return folder / "pem", folder / "pem"


def certificate_for(key: object) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "LinuxTransport")])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())  # type: ignore[attr-defined]
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=730))
        .sign(key, hashes.SHA256())  # type: ignore[arg-type]
    )


def openssl(*words: object) -> bytes:
    ran = subprocess.run(["openssl", *map(str, words)], capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode()
    return ran.stdout
