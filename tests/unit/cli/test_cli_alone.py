"""What the command line does without a server."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from conftest import Cli

from quiesce.cli.follow import exit_code
from quiesce.cli.screen import clean


def test_without_arguments_it_names_the_three_commands_to_start_with(without_server: Cli) -> None:
    said = without_server().stdout
    for command in ("quiesce server", "quiesce vm add", "quiesce backup"):
        assert command in said


def test_without_a_server_it_says_so_and_how_to_start_one(without_server: Cli) -> None:
    done = without_server("vm", "list")
    assert done.returncode == 7
    assert done.stdout == ""
    assert "No Quiesce server answers" in done.stderr
    assert "Start the server: `quiesce server`" in done.stderr


def test_without_a_server_a_program_gets_the_failure_as_json(without_server: Cli) -> None:
    failure = without_server.json("vm", "list", exit_code=7)
    assert failure["code"] == "server.unreachable"
    assert failure["retryable"] is True
    assert failure["evidence"][0]["fact"] == "the socket does not exist"


def test_explain_needs_no_server(without_server: Cli) -> None:
    done = without_server("explain", "121")
    assert done.returncode == 0
    assert "freeze.failed" in done.stdout


def test_explain_does_not_know_nonsense(without_server: Cli) -> None:
    done = without_server("explain", "freeze.timout")
    assert done.returncode == 5
    assert "Perhaps you mean: freeze.timeout" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("bakup", "web1"), "Do you mean 'backup'?"),
        (("vm", "add"), "NAME"),
        (("restore", "p1", "--to", "/x", "--format", "vhd"), "vhd"),
        (("policy", "create", "p", "--at", "25:00"), "Write it like `02:30`"),
        (("policy", "create", "p", "--at", "2.30"), "Write it like `02:30`"),
        (("policy", "create", "p", "--zone", "Mars/Base"), "Europe/Berlin"),
        (("policy", "create", "p", "--zone", "../../etc/passwd"), "Europe/Berlin"),
        (("policy", "create", "p", "--scratch", "much"), "20GiB"),
        (("vm", "add", "a", "--qmp", "/q", "--disk", "vda"), "NAME=IMAGE"),
        (("vm", "add", "a", "--qmp", "/q", "--agent", "/run/a.qga"), "Say `--qga /run/a.qga`."),
        (("vm", "add", "a", "--qmp", "/q", "--agent", "azure"), "waagent, qga or both"),
        (("vm", "set", "a"), "There is nothing to change."),
        (("vm", "set", "a", "--no-proxy", "10.0.0.0/8"), "Say the whole setting"),
        (("vm", "set", "a", "--server-proxy", "--proxy-https", "http://p:1"), "exclude each other"),
        (("policy", "update", "p", "--route", "guest-only"), "guest-then-host"),
        (("network", "allowlist", "a", "--format", "pf"), "firewalld"),
        (("extension", "reinstall", "a", "--channel", "ssh"), "waagent"),
        (("vm", "list", "--server", "localhost:8420"), "http://127.0.0.1:8420"),
    ],
)
def test_a_wrong_value_is_told_before_any_server_is_asked(
    without_server: Cli, words: tuple[str, ...], says: str
) -> None:
    done = without_server(*words)
    assert done.returncode == 2, done.stderr
    assert says in " ".join(done.stderr.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_the_commands(without_server: Cli, shell: str) -> None:
    script = without_server("completion", shell).stdout
    for word in (
        "backup",
        "uninstall",
        "overwrite",
        "reinstall",
        "allowlist",
        "firewalld",
        "guest-then-host",
        "waagent",
        "server-proxy",
        "rebuild-index",
        "passphrase-file",
        "without-key",
    ):
        assert word in script


def test_a_guests_words_cannot_steer_the_terminal() -> None:
    assert clean("\x1b[2Jgone\x9b31m\r\n\tü") == "\\x1b[2Jgone\\x9b31m\\r\n\tü"


@pytest.fixture
def stranger() -> Iterator[str]:
    """Some web server that is not Quiesce."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>It works!</html>")

        def log_message(self, *_: object) -> None:
            """Not into the tests' output."""

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_strangers_answer_is_not_taken_for_quiesces(without_server: Cli, stranger: str) -> None:
    done = replace(without_server, more={"QUIESCE_SERVER": stranger})("vm", "list")
    assert done.returncode == 7
    assert "is not a Quiesce server" in done.stderr
    assert "It works!" in done.stderr


def test_the_start_loads_none_of_the_servers_libraries() -> None:
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, json; from quiesce.cli.main import run; run(['explain', '121']);"
            "print(json.dumps([m for m in ('pydantic', 'sqlalchemy', 'nicegui', 'httpx')"
            " if m in sys.modules]))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(loaded.stdout.splitlines()[-1]) == []


def test_damage_that_a_verify_job_found_has_an_exit_code_of_its_own() -> None:
    assert exit_code({"status": "Failed", "failure": {"code": "vault.damaged"}}) == 9
    assert exit_code({"status": "Failed", "failure": {"code": "storage.full"}}) == 3
    assert exit_code({"status": "Cancelled", "failure": None}) == 3
