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
from guest_scripts import put_scripts
from quiesce_server import told, wait_for

from quiesce.lab.network import BRIDGE, GATEWAY, STORAGE_ADDRESS, STORAGE_NAME

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
    """What the VM itself is given while a backup of it runs: URL → text, of all that its goal
    state names."""
    put_scripts(
        site.guest, pre="touch /run/pre; while [ -e /run/pre ]; do sleep 0.2; done", post="true"
    )
    job_id = site.server.begin()
    running = "test -e /run/pre && echo yes || true"
    wait_for("the pre-script", lambda: site.guest.run(running).strip() or None, seconds=90)
    host = site.network.host_address
    goal_url = f"http://{host}/machine/?comp=goalstate"
    found = {goal_url: fetch(site, goal_url)}
    for url in urls_in(found[goal_url]):
        found[url] = fetch(site, url)
    for text in list(found.values()):
        for url in urls_in(text):
            if "/packages/" in url or "manifest" in url.lower():
                found.setdefault(url, fetch(site, url))
    site.guest.run("rm /run/pre")
    job = site.server.end_of(job_id)
    assert job["route"] == "guest", told(job)
    assert len(found) >= 5
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


def extensions_config(documents: dict[str, str]) -> str:
    return next(url for url in documents if "extensionsConfig" in url)


def status_blob(config: str) -> str:
    """The SAS URL that an agent uploads its status to."""
    return next(url for url in urls_in(config) if "sig=" in url)


def container(url: str) -> str:
    return url.partition("?")[0].split("/")[-2]


def by_address(url: str) -> str:
    """The intruder asks no name server."""
    return url.replace(STORAGE_NAME, STORAGE_ADDRESS)


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

        def served() -> str | None:
            status, text = intruder.ask(goal_url)[0]
            return text if status == 200 else None

        own = wait_for("the other VM to be known", served, seconds=90)
        assert own != documents[goal_url]
        [(_, config)] = intruder.ask(next(u for u in urls_in(own) if "extensionsConfig" in u))
        mine, theirs = status_blob(config), status_blob(documents[extensions_config(documents)])
        foreign = [
            theirs.partition("?")[0] + "?" + mine.partition("?")[2],
            mine.replace(container(mine), container(theirs)),
        ]
        for method in ("GET", "PUT"):
            for status, text in intruder.ask(*map(by_address, foreign), method=method):
                assert status == 403, (method, status, text[:200])
        others = [url for url in wire_urls(documents) if url != goal_url]
        for url, (status, text) in zip(others, intruder.ask(*others), strict=True):
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
    upload = status_blob(documents[extensions_config(documents)])
    status, _ = intruder.ask(by_address(upload))[0]
    assert status == 200, "the signature itself is good: what follows fails for its own reason"
    path, _, query = upload.partition("?")
    base, _, blob = path.rpartition("/")
    root, _, container = base.rpartition("/")
    at = {
        name: by_address(url)
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


def test_what_crosses_the_network_in_the_clear_holds_no_right_to_the_snapshot(
    documents: dict[str, str],
):
    config = documents[extensions_config(documents)]
    assert '"protectedSettings":"' in config.replace("&quot;", '"').replace('": "', '":"')
    assert "snapshot_urls" not in config
    signatures = [url for url in urls_in(config) if "sig=" in url]
    assert signatures == [status_blob(config)], "the agent's own status is all that is signed"
