"""Log bundles: what is in them, and that nothing leads out of them."""

from __future__ import annotations

import io
import json
import tarfile
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiesce.diagnosis.bundle import read_bundle
from quiesce.model.diagnosis import Check, Examination, Fact, Light
from quiesce.model.failure import Evidence, FailureReport
from quiesce.model.papers import Paper, Papers
from quiesce.service.log_bundle import LogBundle, pack

WHEN = datetime(2026, 3, 1, 1, 0, tzinfo=UTC)
PAPERS = Papers(
    (
        Paper("/etc/os-release", "ID=debian\n", 10, WHEN, 0o644, 0),
        Paper("/var/log/waagent.log", "2026-03-01 INFO https://x?sig=hush&se=2\n", 900, cut=True),
        Paper("command:units", "Id=walinuxagent.service\n", 24, status=0),
        Paper("command:registry-qga-vss", "> 0 reg query\nVssOption 5\n", 30, status=0),
        Paper("command:routes", "", status=127, problem="not found"),
    ),
    "the guest, through qga",
    WHEN,
)
FACTS = (
    Fact(
        "net.proxy",
        "http://u:hush@p:1",
        "a proxy",
        "/etc/environment",
        WHEN,
        "https_proxy=u:hush@p",
    ),
)
SICK = Examination(
    "web 1",
    (Check("agent", "service", Light.RED, "stopped", (Evidence("x", "y", WHEN, "sig=hush"),)),),
    channels=("qga",),
    problems=(FailureReport("agent.silent", "The other agent is silent."),),
)


def members(bundle: LogBundle) -> dict[str, str]:
    """Without the folder that all of them are in."""
    with tarfile.open(fileobj=io.BytesIO(bundle.content)) as archive:
        files = {info.name: archive.extractfile(info) for info in archive if info.isreg()}
        assert all(file is not None for file in files.values())
        folder = bundle.name.removesuffix(".tar.gz") + "/"
        assert all(name.startswith(folder) for name in files)
        return {n.removeprefix(folder): f.read().decode() for n, f in files.items() if f}


def packed(papers: Papers | None = PAPERS, known: tuple[str, ...] = ()) -> LogBundle:
    return pack("web 1", papers, FACTS, SICK, at=WHEN, known=known)


def test_a_bundle_holds_files_commands_facts_and_the_examination() -> None:
    bundle = packed()
    assert bundle.name == "quiesce-logs-web_1-20260301T010000Z.tar.gz"
    assert bundle.files == 4
    found = members(bundle)
    assert found["etc/os-release"] == "ID=debian\n"
    assert found["commands/units"] == "Id=walinuxagent.service\n"
    assert "commands/routes" not in found
    assert "Not here: command:routes: not found" in found["README"]
    assert "The other agent is silent. [agent.silent]" in found["README"]
    index = {entry["name"]: entry for entry in json.loads(found["index.json"])}
    assert index["etc/os-release"]["mode"] == 0o644
    assert index["var/log/waagent.log"]["cut"] is True
    assert (index["commands/routes"]["status"], index["commands/routes"]["problem"]) == (
        127,
        "not found",
    )
    assert json.loads(found["facts.json"])[0]["name"] == "net.proxy"
    examined = json.loads(found["examination.json"])
    assert (examined["light"], examined["checks"][0]["title"]) == ("red", "service")


def test_no_secret_is_in_any_file_of_a_bundle() -> None:
    told = Papers((Paper("/etc/environment", "WORD=swordfish\n"),), "the guest")
    for bundle in (packed(), packed(told, known=("swordfish",))):
        for name, text in members(bundle).items():
            assert "hush" not in text, name
            assert "swordfish" not in text, name


def test_a_bundle_is_read_by_the_doctor_again(tmp_path: Path) -> None:
    file = tmp_path / "logs.tar.gz"
    file.write_bytes(packed().content)
    again = read_bundle(file)
    paper = again.get("/etc/os-release")
    assert paper is not None
    assert paper.text == "ID=debian\n"
    assert paper.modified_at == WHEN
    units = again.command("units")
    assert units is not None
    assert units.text.startswith("Id=walinuxagent")
    assert again.command("registry-qga-vss") is not None
    log = again.get("/var/log/waagent.log")
    assert log is not None
    assert "sig=***&se=2" in log.text
    routes = again.command("routes")
    assert routes is not None
    assert (routes.problem, routes.text) == ("not found", "")
    release = again.get("/etc/os-release")
    assert release is not None
    assert (release.mode, release.owner) == (0o644, 0)


def test_a_bundle_without_papers_says_so_and_holds_the_rest() -> None:
    bundle = packed(None)
    assert bundle.files == 0
    found = members(bundle)
    assert "could not be reached" in found["README"]
    assert set(found) == {"README", "index.json", "facts.json", "examination.json"}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/../../etc/cron.d/x", "etc/cron.d/x"),
        ("C:\\WindowsAzure\\Logs\\a.log", "C/WindowsAzure/Logs/a.log"),
        ("/", "nameless"),
        ("/README", "files/README"),
        ("command:../../x", "commands/_.._x"),
    ],
)
def test_a_guests_path_stays_within_the_bundle(path: str, name: str) -> None:
    assert name in members(packed(Papers((Paper(path, "text"),), "a guest")))


@settings(deadline=None)
@given(st.lists(st.text(max_size=30), max_size=5), st.text(max_size=20))
def test_no_path_or_name_of_a_guest_leads_out(paths: list[str], vm: str) -> None:
    papers = Papers(tuple(Paper(path, "text") for path in paths), "a guest")
    bundle = pack(vm, papers, (), SICK, at=WHEN)
    assert "/" not in bundle.name
    with tarfile.open(fileobj=io.BytesIO(bundle.content)) as archive:
        for info in archive:
            parts = PurePosixPath(info.name).parts
            assert not info.name.startswith("/")
            assert ".." not in parts
            assert info.isreg()
            assert info.mode == 0o600
            assert parts[0] == bundle.name.removesuffix(".tar.gz")
