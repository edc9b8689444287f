"""What a guest cannot read of another: goal state, settings, keys, packages, blobs, snapshots.

The intruder is a network namespace on a port of the same bridge. It is worse than a VM: root on
everything that it sends, hardware address included.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from agent_site import Site
from quiesce_server import told

from quiesce.lab.network import BRIDGE, GATEWAY

INTRUDER = "intruder"
ITS_ADDRESS = "10.77.0.66"

_ASK = """
import json, ssl, sys, urllib.error, urllib.request
answers = []
for method, url, headers, body in json.load(sys.stdin):
    asked = urllib.request.Request(url, method=method, headers=headers, data=body.encode() or None)
    trusting = ssl._create_unverified_context()
    try:
        with urllib.request.urlopen(asked, timeout=10, context=trusting) as answer:
            answers.append([answer.status, answer.read(100000).decode("latin-1")])
    except urllib.error.HTTPError as refused:
        answers.append([refused.code, refused.read(100000).decode("latin-1")])
    except OSError as silent:
        answers.append([0, str(silent)])
print(json.dumps(answers))
"""


@dataclass
class Intruder:
    """A neighbour on the bridge, with a hardware address of its own until it takes another's."""

    site: Site
    name: str

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", "-n", self.name, *words], check=True)

    def ask(
        self, *urls: str, method: str = "GET", headers: dict[str, str] | None = None, body: str = ""
    ) -> list[tuple[int, str]]:
        """Status (0: no answer) and text for each."""
        requests = [[method, url, headers or {}, body] for url in urls]
        said = subprocess.run(
            ["ip", "netns", "exec", self.name, sys.executable, "-c", _ASK],
            input=json.dumps(requests),
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return [(status, text) for status, text in json.loads(said.stdout)]


@pytest.fixture
def intruder(site: Site) -> Iterator[Intruder]:
    with on_the_bridge(site) as there:
        yield there


@contextlib.contextmanager
def on_the_bridge(site: Site) -> Iterator[Intruder]:
    name = f"quiesce-{secrets.token_hex(4)}"
    inside = site.network.namespace.name
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        port = "intruder0"
        veth = ["link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name]
        subprocess.run(["ip", "-n", inside, *veth], check=True)
        subprocess.run(
            ["ip", "-n", inside, "link", "set", port, "master", BRIDGE, "up"], check=True
        )
        there = Intruder(site, name)
        there.ip("address", "add", f"{ITS_ADDRESS}/24", "dev", "eth0")
        there.ip("link", "set", "eth0", "up")
        there.ip("route", "add", "default", "via", GATEWAY)
        yield there
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.fixture(scope="module")
def documents(site: Site) -> dict[str, str]:
    """What the VM itself is given: URL → text, of all that its goal state names."""
    job = site.server.backup()
    assert job["route"] == "guest", told(job)
    host = site.network.host_address
    goal_url = f"http://{host}/machine/?comp=goalstate"
    found = {goal_url: fetch(site, goal_url)}
    for url in urls_in(found[goal_url]):
        found[url] = fetch(site, url)
    for text in list(found.values()):
        for url in urls_in(text):
            if "/packages/" in url or "manifest" in url.lower():
                found.setdefault(url, fetch(site, url))
    assert len(found) >= 4
    return found


def fetch(site: Site, url: str) -> str:
    """As the guest itself gets it."""
    script = (
        "import sys,urllib.request as u; "
        f"r=u.Request({url!r}, headers={{'x-ms-version':'2012-11-30'}}); "
        "sys.stdout.buffer.write(u.urlopen(r, timeout=20).read(20000))"
    )
    try:
        return site.guest.run(f"python3 -c {shlex.quote(script)} 2>/dev/null || true")
    except UnicodeDecodeError:
        return ""


def urls_in(text: str) -> list[str]:
    return [found.replace("&amp;", "&") for found in re.findall(r"https?://[^<\s\"']+", text)]


def wire_urls(documents: dict[str, str]) -> list[str]:
    return [url for url in documents if url.startswith("http://")]


def test_a_stranger_on_the_same_bridge_is_given_nothing(
    site: Site, intruder: Intruder, documents: dict[str, str]
):
    for status, text in intruder.ask(*wire_urls(documents)):
        assert status == 404
        assert "Incarnation" not in text


def test_another_vm_gets_its_own_goal_state_and_nothing_of_this_one(
    site: Site, intruder: Intruder, documents: dict[str, str]
):
    site.server.post(
        "vms",
        body={
            "name": INTRUDER,
            "qmp_socket": "/run/quiesce-intruder/qmp.sock",
            "agent": "waagent",
            "guest_address": ITS_ADDRESS,
        },
    )
    try:
        goal_url = f"http://{site.network.host_address}/machine/?comp=goalstate"
        status, own = intruder.ask(goal_url)[0]
        for _ in range(20):
            if status == 200:
                break
            status, own = intruder.ask(goal_url)[0]
        assert status == 200, own
        assert own != documents[goal_url]
        theirs = [url for url in wire_urls(documents) if url != goal_url]
        for url, (status, text) in zip(theirs, intruder.ask(*theirs), strict=True):
            assert status in (404, 410), (url, status, text[:200])
    finally:
        site.server.call("DELETE", "vms", INTRUDER)


def test_a_neighbour_that_takes_the_vms_addresses_is_not_taken_for_it(
    site: Site, intruder: Intruder, documents: dict[str, str]
):
    card = site.guest.card
    assert card is not None
    intruder.ip("address", "flush", "dev", "eth0")
    intruder.ip("link", "set", "eth0", "address", card.hardware_address)
    intruder.ip("address", "add", f"{card.address}/24", "dev", "eth0")
    intruder.ip("route", "add", "default", "via", GATEWAY)
    goal_url = f"http://{site.network.host_address}/machine/?comp=goalstate"
    for _ in range(10):
        status, text = intruder.ask(goal_url)[0]
        assert status in (0, 404), (status, text[:200])


def test_a_sas_url_opens_its_own_blob_and_no_other(
    site: Site, intruder: Intruder, documents: dict[str, str]
):
    upload = next(
        url for text in documents.values() for url in urls_in(text) if url.startswith("https://")
    )
    path, _, query = upload.partition("?")
    base, _, blob = path.rpartition("/")
    root, _, container = base.rpartition("/")
    address = site.network.storage_address
    at = {
        name: url.replace("storage.quiesce.test", address)
        for name, url in {
            "other blob": f"{base}/other?{query}",
            "other container": f"{root}/other/{blob}?{query}",
            "dots": f"{root}/other/../{container}/../other/{blob}?{query}",
            "encoded": f"{base}/%2e%2e/other?{query}",
            "listing": f"{base}?{query}&restype=container&comp=list",
            "snapshot": f"{path}?{query}&comp=snapshot",
            "unsigned": path,
            "forged": upload[:-4] + "AAAA",
        }.items()
    }
    for method in ("GET", "PUT"):
        for name, (status, text) in zip(
            at,
            intruder.ask(*at.values(), method=method, body="x" if method == "PUT" else ""),
            strict=True,
        ):
            assert 400 <= status < 500, (method, name, status, text[:300])


def test_protected_settings_are_unreadable_without_the_vms_own_key(documents: dict[str, str]):
    config = next(text for text in documents.values() if "protectedSettings" in text)
    assert "sig=" not in config.replace("StatusUploadBlob", "").split("protectedSettings")[1]
    assert "snapshot_urls" not in config
