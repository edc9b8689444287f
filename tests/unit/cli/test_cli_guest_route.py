"""Agents, routes, extensions and the network, on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import Cli
from pydantic import TypeAdapter

from quiesce.cli import network, vm_text
from quiesce.cli.job_text import show_job, show_outcome
from quiesce.model.agent import AgentCondition, AgentState, HandlerState
from quiesce.model.failure import Evidence, FailureReport
from quiesce.model.job import Job, JobKind, JobStatus, Task, TaskName, TaskStatus
from quiesce.model.network import Hop, NetworkReport
from quiesce.model.snapshot import Route

WHEN = datetime(2026, 3, 1, 1, 0, tzinfo=UTC)
BLOCKED = FailureReport(
    "network.blocked",
    "The guest did not reach 168.63.129.16:443.",
    (Evidence("tcp: no answer within 5 s", "probe in the guest", WHEN, "timed out \x1b[2J"),),
)


@pytest.fixture
def vm(guests_cli: Cli) -> Iterator[str]:
    guests_cli.json(
        "vm", "add", "web 1", "--qmp", str(guests_cli.data / "none.qmp"), "--agent", "waagent",
        "--guest-address", "10.0.0.7", "--proxy-https", "http://web:secret@10.0.0.3:3128",
        "--no-proxy", "10.0.0.0/8",
    )  # fmt: skip
    yield "web 1"
    guests_cli.json("vm", "remove", "web 1")


def test_a_vm_whose_agent_is_waagent_is_shown_with_what_is_known_of_it(
    guests_cli: Cli, vm: str
) -> None:
    said = guests_cli("vm", "show", vm).stdout
    assert "agent          Azure Linux agent" in said
    assert "guest address  10.0.0.7" in said
    assert "Azure Linux agent  never seen" in said
    shown = guests_cli.json("vm", "show", vm)
    assert shown["agent"] == "waagent"
    assert shown["agent_state"]["condition"] == "never seen"
    assert "agent" in guests_cli("vm", "list").stdout.splitlines()[0]


def test_the_password_of_a_proxy_is_never_told(guests_cli: Cli, vm: str) -> None:
    shown = guests_cli("vm", "show", vm)
    assert "https by http://web:***@10.0.0.3:3128, except for 10.0.0.0/8" in shown.stdout
    changed = guests_cli(
        "vm", "set", vm, "--proxy-http", "http://a:hush@p:1", "--proxy-https", "x", "--json"
    )
    assert changed.returncode == 2
    everything = [guests_cli("vm", "list", "--json"), guests_cli("vm", "show", vm, "--json")]
    for said in (shown, changed, *everything):
        assert "secret" not in said.stdout + said.stderr
        assert "hush" not in said.stdout + said.stderr


def test_what_is_said_of_a_vm_changes_and_the_rest_stays(guests_cli: Cli, vm: str) -> None:
    both = guests_cli.json("vm", "set", vm, "--agent", "both", "--qga", "web1.qga")
    assert both["agent"] == "both"
    assert both["qga_socket"].endswith("/web1.qga")
    assert both["guest_address"] == "10.0.0.7"
    assert both["proxy"]["no_proxy"] == "10.0.0.0/8"
    direct = guests_cli.json("vm", "set", vm, "--proxy-http", "", "--proxy-https", "")
    assert direct["proxy"] == {"http": "", "https": "", "no_proxy": ""}
    assert "proxy          none" in guests_cli("vm", "show", vm).stdout
    of_server = guests_cli.json("vm", "set", vm, "--server-proxy", "--guest-address", "")
    assert (of_server["proxy"], of_server["guest_address"]) == (None, "")


def test_each_agent_of_a_vm_shows_its_extension(guests_cli: Cli, vm: str) -> None:
    guests_cli.json("vm", "set", vm, "--agent", "both", "--qga", "/nowhere/web1.qga")
    by_qga, by_waagent = guests_cli.json("extension", "list", vm)
    assert (by_qga["channel"], by_qga["problem"]["code"]) == ("qga", "agent.channel-missing")
    assert (by_waagent["channel"], by_waagent["installed"]) == ("waagent", False)
    said = guests_cli("extension", "list", vm).stdout
    assert said.count("not known") == 2, "neither could be asked"
    assert "[agent.channel-missing]" in said
    assert "[agent.never-seen]" in said


def test_the_allow_list_can_be_run_as_it_is_printed(guests_cli: Cli, vm: str) -> None:
    printed = guests_cli("network", "allowlist", vm, "--format", "nft").stdout
    rules = [line for line in printed.splitlines() if not line.startswith("#")]
    assert len(rules) == 3, (
        "wire server, host plugin, storage endpoint: 127.0.0.1 is past the proxy"
    )
    assert all(rule.startswith("nft insert rule ") for rule in rules)
    answer = guests_cli.json("network", "allowlist", vm, "--format", "nft")
    assert answer == {"format": "nft", "text": printed}


def test_a_vm_whose_agent_needs_no_network_needs_nothing_opened(guests_cli: Cli, vm: str) -> None:
    guests_cli.json("vm", "set", vm, "--agent", "qga")
    assert "needs no network" in guests_cli("network", "allowlist", vm).stdout


def test_an_agent_that_the_vm_does_not_have_is_refused(guests_cli: Cli, vm: str) -> None:
    for words in (("network", "test"), ("extension", "uninstall"), ("extension", "reinstall")):
        refused = guests_cli.json(*words, vm, "--channel", "qga", exit_code=2)
        assert refused["code"] == "input.channel-invalid"


def test_without_an_address_for_guests_the_server_says_which_setting_is_missing(cli: Cli) -> None:
    refused = cli("vm", "add", "az", "--qmp", "/run/az.qmp", "--agent", "waagent")
    assert refused.returncode == 6
    assert "[agent.endpoint-off]" in refused.stderr
    assert "agent_address" in refused.stderr


def test_both_agents_need_the_socket_of_the_one(cli: Cli) -> None:
    refused = cli("vm", "add", "az", "--qmp", "/run/az.qmp", "--agent", "both")
    assert refused.returncode == 2
    assert "[input.usage]" in refused.stderr
    assert "--qga" in refused.stderr


def test_a_policy_knows_its_route(cli: Cli) -> None:
    made = cli.json("policy", "create", "routes", "--route", "host-then-guest")
    assert made["snapshot"]["route"] == "host-then-guest"
    kept = cli.json("policy", "update", "routes", "--hold", "5")
    assert kept["snapshot"] == {**made["snapshot"], "hold_seconds": 5}
    assert "route host-then-guest" in " ".join(cli("policy", "show", "routes").stdout.split())
    assert (
        cli.json("policy", "update", "routes", "--route", "guest")["snapshot"]["route"] == "guest"
    )
    cli.json("policy", "remove", "routes")


# --- in words


def answer(value: object) -> Any:
    """A value as the API would send it."""
    return TypeAdapter(type(value)).dump_python(value, mode="json")


JOB = Job(
    id="3f9a0c51d2e7",
    kind=JobKind.BACKUP,
    vm="web1",
    status=JobStatus.COMPLETED_WITH_WARNING,
    created_at=WHEN,
    tasks=(
        Task(TaskName.TAKE_SNAPSHOT, TaskStatus.COMPLETED, WHEN, WHEN + timedelta(seconds=2)),
        Task(TaskName.TRANSFER, TaskStatus.COMPLETED, WHEN, WHEN + timedelta(seconds=9)),
    ),
    route=Route.HOST,
    warnings=("network.blocked: the point was taken by the host route instead.",),
    setbacks=(BLOCKED,),
)


@pytest.mark.parametrize("show", [show_job, show_outcome])
def test_a_job_tells_its_route_and_what_was_got_round(
    show: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    show(answer(JOB))
    said = capsys.readouterr().out
    assert "route  " in said
    assert "host" in said
    assert "The guest route failed and was got round:" in said
    assert "[network.blocked]" in said
    assert "tcp: no answer within 5 s" in said
    assert "quiesce network allowlist" in said or "More: quiesce explain network.blocked" in said
    assert "\x1b[2J" not in said


def test_two_failed_routes_are_not_told_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    show_job(answer(replace(JOB, setbacks=(BLOCKED, BLOCKED))))
    assert capsys.readouterr().out.count("A route failed and was got round:") == 2


REPORT = NetworkReport(
    vm="web1",
    channel="waagent",
    endpoint="https://168.63.129.16:443",
    hops=(
        Hop("dhcp-245", True, "the lease has option 245: 168.63.129.16", 1.2),
        Hop("tcp", False, "no answer within 5 s", 5000.0, "network.blocked", "timed out"),
        Hop("tls", None, "not tried"),
    ),
    failure=BLOCKED,
)


def shown(report: NetworkReport, cli_answer: pytest.MonkeyPatch) -> int:
    """What `quiesce network test` does with this answer of the API."""

    class Answering:
        def __enter__(self) -> Answering:
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing is open."""

        def post(self, *_: str, **__: object) -> Any:
            return answer(report)

    cli_answer.setattr(network.Common, "client", lambda _, **__: Answering())
    return network.probe("web1")


def test_a_probe_is_told_hop_by_hop_and_ends_with_3_where_it_breaks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shown(REPORT, monkeypatch) == 3
    said = capsys.readouterr().out
    rows = [" ".join(line.split()) for line in said.splitlines()]
    assert "✓ DHCP option 245 the lease has option 245: 168.63.129.16 1" in rows
    assert "✗ TCP no answer within 5 s 5000" in rows
    assert "– TLS not tried" in rows
    assert "[network.blocked]" in said
    assert "Next step" in said


def test_a_probe_that_gets_through_ends_with_0(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shown(replace(REPORT, hops=REPORT.hops[:1], failure=None), monkeypatch) == 0
    assert "web1 reaches the storage endpoint." in capsys.readouterr().out


def test_an_agent_tells_its_extensions_and_how_far_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = AgentState(
        AgentCondition.STALE,
        version="2.7.3.0",
        operating_system="debian 12",
        last_seen=WHEN,
        goal_incarnation=8,
        acknowledged_incarnation=7,
        handlers=(HandlerState("Quiesce.VmBackup", "0.2.0.7", "Ready", "Plugin enabled", "error"),),
    )
    vm_text._show_agent(answer(state))
    said = capsys.readouterr().out
    assert "Azure Linux agent  stale" in said
    assert "8, acknowledged up to 7" in said
    assert "Quiesce.VmBackup   0.2.0.7   Ready: Plugin enabled   error" in said
