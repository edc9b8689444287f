"""`quiesce doctor VM`, `quiesce logs collect` and a policy's switches, against a real server."""

from __future__ import annotations

import io
import json
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli

from quiesce.cli import doctor
from quiesce.cli.examination_text import examination_json
from quiesce.cli.main import run
from quiesce.model.diagnosis import Check, Examination, Light, Mend, MendAction, MendStatus
from quiesce.model.failure import FailureReport

WHEN = datetime(2026, 3, 1, 1, 0, tzinfo=UTC)


@pytest.fixture
def vm(cli: Cli) -> Iterator[str]:
    cli.json("vm", "add", "dead 1", "--qmp", "/nowhere.qmp", "--qga", str(cli.data / "no.qga"))
    yield "dead 1"
    cli.json("vm", "remove", "dead 1")


def test_a_vm_that_is_gone_is_examined_and_is_not_green(cli: Cli, vm: str) -> None:
    done = cli("doctor", vm)
    assert done.returncode in (3, 4)
    assert done.stdout.splitlines()[0][2:].startswith("dead 1: ")
    found = cli.json("doctor", vm, exit_code=done.returncode)
    assert (found["subject"], found["light"] == "red") == ("dead 1", done.returncode == 3)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "a VM, a bundle, or this machine"),
        (("web", "--here"), "a VM, a bundle, or this machine"),
        (("--here", "--fix"), "--fix goes with a VM"),
        (("web", "--yes"), "--yes with --fix"),
        (("web", "--fix"), "nobody can be asked"),
    ],
)
def test_the_doctor_wants_one_patient_and_somebody_to_ask(
    without_server: Cli, words: tuple[str, ...], says: str
) -> None:
    done = without_server("doctor", *words)
    assert done.returncode == 2
    assert says in " ".join(done.stderr.split())


def test_logs_are_written_for_their_owner_alone_and_over_nothing(
    cli: Cli, vm: str, tmp_path: Path
) -> None:
    file = tmp_path / "web.tar.gz"
    done = cli("logs", "collect", vm, "--to", str(file))
    assert done.returncode == 0, done.stderr
    assert "0 files of dead 1" in " ".join(done.stdout.split())
    assert "could not be reached" in done.stdout
    assert f"`quiesce doctor --bundle {file}`" in done.stdout
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["web.tar.gz"]
    before = file.read_bytes()
    again = cli("logs", "collect", vm, "--to", str(file), "--json")
    assert again.returncode == 2
    assert json.loads(again.stdout)["code"] == "input.file-exists"
    assert file.read_bytes() == before


def test_logs_that_cannot_be_written_leave_nothing(cli: Cli, vm: str, tmp_path: Path) -> None:
    wrong = cli("logs", "collect", vm, "--to", str(tmp_path / "none" / "x.tar.gz"), "--json")
    assert wrong.returncode == 2
    assert json.loads(wrong.stdout)["code"] == "input.file-unwritable"
    refused = cli("logs", "collect", vm, "--verbose", "--to", str(tmp_path / "y"), "--json")
    assert json.loads(refused.stdout)["code"] == "agent.mend-failed"
    assert list(tmp_path.iterdir()) == []


def test_logs_have_a_name_of_their_own_by_default(
    cli: Cli, vm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = cli.json("logs", "collect", vm)
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("quiesce-logs-dead_1-")
    assert told == {"file": str(file), "size_bytes": file.stat().st_size, "files": 0}


def test_a_policy_says_what_is_left_to_people(cli: Cli) -> None:
    made = cli.json("policy", "create", "careful", "--no-mend", "skip-mount", "--no-mend", "thaw")
    assert made["mends_off"] == ["thaw", "skip-mount"]
    more = cli.json("policy", "set", "careful", "--no-mend", "wait", "--mend", "thaw")
    assert more["mends_off"] == ["wait", "skip-mount"]
    assert "does not mend" in cli("policy", "show", "careful").stdout
    kept = cli.json("policy", "update", "careful", "--at", "03:00")
    assert kept["mends_off"] == ["wait", "skip-mount"]
    none = cli.json("policy", "update", "careful", "--no-mend", "all")
    assert len(none["mends_off"]) == len(MendAction)
    assert cli.json("policy", "update", "careful", "--mend", "all")["mends_off"] == []
    assert "does not mend" not in cli("policy", "show", "careful").stdout
    for words in (("--no-mend", "everything"), ("--no-mend", "wait", "--mend", "all")):
        assert cli("policy", "update", "careful", *words).returncode == 2
    cli.json("policy", "remove", "careful")


class PaperServer:
    """Answers the doctor's calls: the plan is carried out, and what was red is green."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def post(self, *path: str, body: Any = None) -> Any:
        self.asked.append((*path, *(body or {}).get("actions", ())))
        return examination_json(examined(mended=path[-1] == "mends"))


def examined(*, mended: bool) -> Examination:
    light = Light.GREEN if mended else Light.RED
    mends = (
        Mend(
            MendAction.RESTART_AGENT, "agent.not-running", "It runs again.", MendStatus.DONE, WHEN
        ),
        Mend(
            MendAction.AUTO_RESTART,
            "agent.not-running",
            "Add a drop-in.",
            MendStatus.FAILED,
            WHEN,
            FailureReport("agent.mend-failed", "The disk is \x1b[31mfull."),
        ),
    )
    planned = tuple(
        Mend(mend.action, mend.because, f"Would: {mend.action}.", MendStatus.PLANNED, WHEN)
        for mend in mends
    )
    off = Mend(MendAction.THAW, "freeze.busy", "Thaw.", MendStatus.SWITCHED_OFF, WHEN)
    return Examination(
        "web1",
        (
            Check("agent", "service", light, "active" if mended else "inactive"),
            Check("space", "/", Light.GREEN, "3 GiB free"),
        ),
        plan=(*(mends if mended else planned), off),
    )


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> PaperServer:
    server = PaperServer()

    @contextmanager
    def client(*_: object, **__: object) -> Iterator[PaperServer]:
        yield server

    monkeypatch.setattr("quiesce.cli.options.Common.client", client)
    return server


def answer(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    typed = io.StringIO(words)
    monkeypatch.setattr(typed, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", typed)


def test_a_red_vm_ends_with_3_and_says_how_it_is_mended(
    server: PaperServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", "web1"]) == 3
    said = capsys.readouterr().out
    assert "Would: restart-agent." in said
    assert "switched off: Thaw." in said
    assert "`quiesce doctor web1 --fix`" in said
    assert server.asked == [("vms", "web1", "examination")]


def test_fix_shows_the_plan_asks_does_it_and_shows_what_has_changed(
    server: PaperServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, "y\n")
    assert run(["doctor", "web1", "--fix"]) == 0
    said = capsys.readouterr()
    assert "Do these 2 things to web1? [y/N]" in said.err
    assert server.asked[-1] == ("vms", "web1", "mends", "restart-agent", "auto-restart")
    before, after = said.out.split("It runs again.")
    assert "Would: restart-agent." in before
    assert "The disk is \\x1b[31mfull." in after
    (changed,) = [line for line in after.splitlines() if line.split()[:2] == ["service", "red"]]
    assert changed.split() == ["service", "red", "green", "active"]


@pytest.mark.parametrize("words", ["n\n", "\n", "", "yes please\n"])
def test_without_a_yes_nothing_is_changed(
    server: PaperServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: str,
) -> None:
    answer(monkeypatch, words)
    assert run(["doctor", "web1", "--fix"]) == 3
    assert "Nothing was changed." in capsys.readouterr().err
    assert [path[-1] for path in server.asked] == ["examination"]


def test_fix_for_programs_answers_with_what_was_done(
    server: PaperServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", "web1", "--fix", "--yes", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [mend["status"] for mend in told["plan"]] == ["done", "failed", "switched off"]
    assert told["light"] == "green"


def test_every_light_has_its_exit_code() -> None:
    codes = {light: int(doctor._exit_code({"light": light.value})) for light in Light}
    assert codes == {Light.GREEN: 0, Light.AMBER: 4, Light.RED: 3, Light.UNKNOWN: 4}
