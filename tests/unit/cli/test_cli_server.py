"""The command line against a real server."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import QUIESCE, Cli


@pytest.fixture
def vm(cli: Cli) -> Iterator[str]:
    """A VM that is known and whose process is not there."""
    name = "web 1 – Ünïcode"
    cli.json("vm", "add", name, "--qmp", str(cli.data / "none.qmp"))
    yield name
    cli.json("vm", "remove", name)


def test_an_empty_server_says_what_to_do_first(cli: Cli) -> None:
    assert "Add one: `quiesce vm add NAME --qmp SOCKET" in cli("vm", "list").stdout
    assert "Start one: `quiesce backup VM --wait`" in cli("job", "list").stdout
    assert "Make one: `quiesce backup VM --wait`" in cli("point", "list").stdout


def test_a_vm_with_spaces_and_umlauts_is_added_shown_and_removed(cli: Cli) -> None:
    name = "Straße 7, Gebäude Ω"
    added = cli("vm", "add", name, "--qmp", "/run/none.qmp")
    assert added.returncode == 0
    assert "quiesce backup 'Straße 7, Gebäude Ω' --wait" in added.stdout
    assert cli.json("vm", "show", name)["name"] == name
    assert "Its recovery points stay" in cli("vm", "remove", name).stdout
    assert cli.json("vm", "show", name, exit_code=5)["code"] == "vm.unknown"


def test_a_relative_socket_path_is_made_whole(cli: Cli) -> None:
    added = cli.json("vm", "add", "relative", "--qmp", "some.sock")
    assert added["qmp_socket"] == str(Path.cwd() / "some.sock")
    cli.json("vm", "remove", "relative")


@pytest.mark.parametrize("name", ["a/b", "x" * 300, " ", "bell\a"])
def test_a_name_that_cannot_be_used_is_refused_with_a_reason(cli: Cli, name: str) -> None:
    refused = cli("vm", "add", name, "--qmp", "/run/none.qmp")
    assert refused.returncode == 2
    assert "[input.name-invalid]" in refused.stderr
    assert "\a" not in refused.stderr


def test_adding_a_vm_twice_is_a_conflict(cli: Cli, vm: str) -> None:
    again = cli.json("vm", "add", vm, "--qmp", "/run/none.qmp", exit_code=6)
    assert again["code"] == "vm.already-known"


def test_a_failed_backup_ends_with_3_and_shows_evidence_and_next_step(cli: Cli, vm: str) -> None:
    done = cli("backup", vm, "--wait")
    assert done.returncode == 3
    assert "Take snapshot: Failed" in done.stdout
    assert "[vm.not-found]" in done.stdout
    assert "Cause: " in done.stdout
    assert "Next step" in done.stdout
    (hint,) = [line for line in done.stdout.splitlines() if line.startswith("Evidence: `")]
    shown = cli(*hint.removeprefix("Evidence: `quiesce ").rstrip("`").split())
    assert "nobody listens" in shown.stdout


def test_a_failed_backup_as_json_is_the_job_with_its_failure(cli: Cli, vm: str) -> None:
    job = cli.json("backup", vm, "--wait", exit_code=3)
    assert job["status"] == "Failed"
    assert job["failure"]["code"] == "vm.not-found"
    assert cli.json("job", "show", job["id"])["log"]
    assert job["id"] in cli("job", "list", "--vm", vm).stdout


def test_ctrl_c_ends_the_waiting_and_not_the_job(cli: Cli) -> None:
    mute = cli.data / "mute.qmp"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(mute))
        listener.listen()
        cli.json("vm", "add", "mute", "--qmp", str(mute))
        waiting = subprocess.Popen(
            [*QUIESCE, "backup", "mute", "--wait"],
            env=cli.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert waiting.stdout
        assert "Take snapshot: " in waiting.stdout.readline()
        waiting.send_signal(signal.SIGINT)
        _, said = waiting.communicate(timeout=30)
        assert waiting.returncode == 130
        assert "The job goes on." in said
        [job] = cli.json("job", "list", "--vm", "mute")
        assert f"quiesce job cancel {job['id']}" in " ".join(said.split())
        assert cli.json("job", "show", job["id"])["status"] == "In progress"
    # The listener is closed now, so the job's wait for an answer ends.
    ended = cli("job", "show", job["id"], "--wait")
    assert ended.returncode == 3, ended.stdout
    cli.json("vm", "remove", "mute")


def test_a_policy_is_made_changed_used_and_only_then_not_removable(cli: Cli, vm: str) -> None:
    made = cli.json(
        "policy", "create", "nightly", "--at", "02:30", "--zone", "Europe/Berlin",
        "--skip-mount", "/mnt/a", "--skip-mount", "/mnt/b", "--scratch", "20GiB",
    )  # fmt: skip
    assert made["snapshot"]["skip_mounts"] == ["/mnt/a", "/mnt/b"]
    assert made["snapshot"]["scratch_bytes"] == 20 << 30
    changed = cli.json("policy", "update", "nightly", "--keep-last", "3")
    assert (changed["keep_last"], changed["at"], changed["zone"]) == (3, "02:30", "Europe/Berlin")
    assert cli.json("policy", "update", "nightly", "--on-demand")["at"] is None
    cli.json("policy", "update", "nightly", "--at", "23:05")
    protected = cli("protect", vm, "--policy", "nightly")
    assert "Next backup: " in protected.stdout
    assert ":05 CE" in protected.stdout
    assert cli.json("policy", "remove", "nightly", exit_code=6)["code"].startswith("policy.")
    cli.json("unprotect", vm)
    assert cli.json("policy", "remove", "nightly") == {"removed": "nightly"}


def test_a_policy_says_what_a_transfer_may_cost(cli: Cli) -> None:
    made = cli.json(
        "policy", "create", "gentle", "--bandwidth", "50MiB/s", "--compression", "3", "--no-audit"
    )
    assert (made["bandwidth"], made["compression_level"], made["audit"]) == (50 << 20, 3, False)
    shown = cli("policy", "show", "gentle").stdout
    assert "50.0 MiB/s" in shown
    assert "zstd level 3" in shown
    changed = cli.json("policy", "update", "gentle", "--bandwidth", "0", "--audit")
    assert (changed["bandwidth"], changed["audit"]) == (0, True)
    refused = cli.json("policy", "update", "gentle", "--bandwidth", "10KiB/s", exit_code=2)
    assert refused["code"] == "input.bandwidth-invalid"
    unclear = cli.json("policy", "update", "gentle", "--bandwidth", "fast", exit_code=2)
    assert unclear["code"] == "input.size-invalid"
    cli.json("policy", "remove", "gentle")


def test_a_policy_without_a_zone_means_this_machines_time(cli: Cli) -> None:
    assert cli.json("policy", "create", "here", "--at", "04:00")["zone"] == "Europe/Berlin"
    cli.json("policy", "remove", "here")


def test_what_does_not_exist_ends_with_5(cli: Cli) -> None:
    for words in (
        ("vm", "show", "nobody"),
        ("backup", "nobody"),
        ("job", "show", "000000000000"),
        ("point", "show", "0000000000000000"),
        ("restore", "0000000000000000", "--to", "/tmp/x"),
        ("policy", "show", "nothing"),
    ):
        done = cli(*words)
        assert done.returncode == 5, (words, done.stderr)
        assert done.stdout == ""


def test_an_empty_vault_is_sound(cli: Cli) -> None:
    done = cli("vault", "verify")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Verify vault: Completed" in done.stdout


def test_over_tcp_the_token_of_the_data_folder_opens_and_a_wrong_one_does_not(cli: Cli) -> None:
    assert replace(cli, more={"QUIESCE_SERVER": cli.url})("vm", "list").returncode == 0
    wrong = {"QUIESCE_SERVER": cli.url, "QUIESCE_TOKEN": "x" * 43}
    denied = replace(cli, more=wrong)("vm", "list")
    assert denied.returncode == 8
    assert "[auth." in denied.stderr


@pytest.mark.skipif(not shutil.which("qemu-nbd"), reason="needs QEMU's tools")
def test_a_powered_off_vm_is_backed_up_restored_and_its_point_deleted(cli: Cli) -> None:
    disk, copy = cli.data / "off.raw", cli.data / "copy.raw"
    disk.write_bytes(os.urandom(3 << 20))
    cli.json("vm", "add", "off", "--qmp", str(cli.data / "off.qmp"), "--disk", f"vda={disk}")
    backup = cli("backup", "off", "--wait")
    assert backup.returncode == 0, backup.stdout
    assert "Transfer data to vault: Completed  3.0 MiB" in backup.stdout
    assert "consistency  offline" in backup.stdout
    [point] = cli.json("point", "list", "--vm", "off")
    assert "vda" in cli("point", "show", point["id"]).stdout
    restore = ("restore", point["id"], "--to", str(copy), "--wait")
    assert cli(*restore).returncode == 0
    assert copy.read_bytes() == disk.read_bytes()
    refused = cli(*restore)
    assert refused.returncode == 6
    assert "[restore.target-exists]" in refused.stderr
    assert cli(*restore, "--overwrite").returncode == 0
    unconfirmed = cli("point", "delete", point["id"])
    assert unconfirmed.returncode == 2
    assert "Look first with `--dry-run`, then say `--yes`." in " ".join(unconfirmed.stderr.split())
    assert f"Would delete {point['id']}" in cli("point", "delete", point["id"], "--dry-run").stdout
    assert cli.json("point", "list", "--vm", "off") == [point]
    assert f"Deleted {point['id']}" in cli("point", "delete", point["id"], "--yes").stdout
    assert cli.json("point", "list", "--vm", "off") == []
    cli.json("vm", "remove", "off")


def test_a_server_that_takes_any_free_port_says_which(without_server: Cli) -> None:
    with subprocess.Popen(
        [*QUIESCE, "server", "--no-portal", "--port", "0"],
        env=without_server.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = next(line for line in process.stdout if line.startswith("API"))
        process.terminate()
        process.stdout.read()
    assert ":0/" not in said
    assert "http://127.0.0.1:" in said


@pytest.mark.skipif(not shutil.which("qemu-nbd"), reason="needs QEMU's tools")
def test_what_is_left_of_a_damaged_point_is_restored_and_ends_with_9(cli: Cli) -> None:
    disk, copy = cli.data / "hurt.raw", cli.data / "salvaged.raw"
    disk.write_bytes(os.urandom(3 << 20))
    cli.json("vm", "add", "hurt", "--qmp", str(cli.data / "off.qmp"), "--disk", f"vda={disk}")
    before = set((cli.data / "vault" / "packs").glob("*/*"))
    assert cli("backup", "hurt", "--wait").returncode == 0
    new = set((cli.data / "vault" / "packs").glob("*/*")) - before
    pack = max(new, key=lambda path: path.stat().st_size)
    whole = pack.read_bytes()
    pack.write_bytes(whole[:64] + bytes([whole[64] ^ 1]) + whole[65:])
    [point] = cli.json("point", "list", "--vm", "hurt")
    restore = ("restore", point["id"], "--to", str(copy), "--wait")

    refused = cli(*restore)
    assert (refused.returncode, copy.exists()) == (9, False)
    assert "--salvage" in refused.stdout

    salvaged = cli(*restore, "--salvage")
    pack.write_bytes(whole)
    assert salvaged.returncode == 9
    assert "Disk vda is incomplete: " in salvaged.stdout
    original, got = disk.read_bytes(), copy.read_bytes()
    lost = sum(a != b for a, b in zip(original, got, strict=True))
    assert 0 < lost <= 1 << 20
    assert all(b in (a, 0) for a, b in zip(original, got, strict=True))
    cli.json("point", "delete", point["id"], "--yes")
    cli.json("vm", "remove", "hurt")
