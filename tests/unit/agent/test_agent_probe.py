"""The probe by the QEMU guest agent: the real extension, started as the agent would start it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from scripted_agent import ScriptedGuest

from quiesce.agent.extension import QgaGuest
from quiesce.agent.package import extension_package
from quiesce.diagnosis.catalogue import catalogue
from quiesce.model.door import Endpoint
from quiesce.model.network import Proxy


@pytest.fixture
def guest(guest_peer: ScriptedGuest, tmp_path: Path) -> QgaGuest:
    package = tmp_path / "extension.zip"

    def run(path: str, arguments: list[str], given: bytes) -> tuple[int, bytes, bytes]:
        if path == "sh":
            package.write_bytes(given)
            return 0, b"", b""
        words = [str(package) if word.endswith(".zip") else word for word in arguments]
        done = subprocess.run([sys.executable, *words], input=given, capture_output=True)
        return done.returncode, done.stdout, done.stderr

    guest_peer.run = run
    return QgaGuest(guest_peer.path, package=extension_package())


def test_a_closed_port_is_told_from_the_hops_before_and_after_it(guest: QgaGuest) -> None:
    hops = {hop.name: hop for hop in guest.probe(Endpoint("https://127.0.0.1:1", ""), Proxy())}

    assert hops["tcp"].ok is False
    assert hops["tcp"].code in catalogue().entries
    assert "refused" in (hops["tcp"].raw + hops["tcp"].detail).lower()
    assert hops["tls"].ok is None
    assert hops["proxy"].ok is None


def test_the_password_of_a_proxy_is_in_no_argument_and_no_answer(
    guest: QgaGuest, guest_peer: ScriptedGuest
) -> None:
    proxy = Proxy(https="http://user:SESAME@127.0.0.1:1")

    hops = guest.probe(Endpoint("https://192.0.2.1:443", ""), proxy)

    assert next(hop for hop in hops if hop.ok is False).name == "proxy"
    assert "SESAME" not in repr(hops)
    assert "SESAME" not in repr(guest_peer.ran)
