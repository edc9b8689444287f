"""`quiesce vault` against a real server."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Cli


@pytest.fixture
def second(tmp_path: Path) -> str:
    return str(tmp_path / "second")


def test_a_server_without_a_copy_says_how_to_make_one_and_then_lists_it(
    cli: Cli, second: str
) -> None:
    alone = cli("vault", "list")
    assert "There is no second copy." in " ".join(alone.stdout.split())
    missing = cli("vault", "copy", "--to", second)
    assert missing.returncode == 5
    assert "[vault.copy-missing]" in missing.stderr
    plan = cli("vault", "copy", "--to", second, "--new", "--dry-run")
    assert "There is no vault at" in plan.stdout
    assert not Path(second).exists()
    done = cli("vault", "copy", "--to", second, "--new")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Copy vault: Completed" in done.stdout
    assert "Copy: Completed" in done.stdout
    places = cli.json("vault", "list")
    assert [(place["role"], place["status"]) for place in places][1:] == [("copy", "Completed")]
    assert places[1]["location"] == second
    assert cli.json("job", "show", places[1]["job_id"])["kind"] == "copy"
    opened = cli.json("vault", "status", "--at", second, "--key-file", str(cli.data / "vault.key"))
    assert opened["id"] == cli.json("vault", "status")["id"]


def test_a_new_key_names_the_copies_that_open_with_the_old_one_only(cli: Cli, second: str) -> None:
    assert cli("vault", "copy", "--to", second, "--new").returncode == 0
    old, new = cli.data / "old.key", cli.data / "vault.key"
    old.write_text(new.read_text())
    told = " ".join(cli("vault", "key", "rotate", "--yes").stdout.split())
    assert "open with the old key only, until the next `vault copy --with-keys`" in told
    assert second in told.partition("to each: ")[2]
    assert cli("vault", "points", "--at", second, "--key-file", str(old)).returncode == 0
    assert "--with-keys" in cli("vault", "copy", "--to", second, "--dry-run").stdout
    assert cli("vault", "copy", "--to", second, "--with-keys").returncode == 0
    assert cli("vault", "points", "--at", second, "--key-file", str(new)).returncode == 0


def test_what_is_no_address_is_told_and_not_repeated(cli: Cli) -> None:
    done = cli("vault", "copy", "--to", "s3://me:secret@bucket/x", "--new")
    assert done.returncode == 2
    assert "[input.secret-in-address]" in done.stderr
    assert "me:secret" not in done.stderr + done.stdout


def test_keys_of_the_servers_vault(cli: Cli) -> None:
    (own,) = cli.json("vault", "key", "list")
    assert own["in_use"]
    refused = cli.json("vault", "key", "remove", own["id"], "--yes", exit_code=6)
    assert refused["code"] == "vault.last-key"
    added = cli.json("vault", "key", "add", "recovery")
    assert len(added["recovery_key"].split("-")) == 13
    refused = cli.json("vault", "key", "remove", own["id"], "--yes", exit_code=6)
    assert refused["code"] == "vault.key-in-use"
    before = (cli.data / "vault.key").read_text()
    assert "Would remove" in cli("vault", "key", "rotate", "--dry-run").stdout
    assert (cli.data / "vault.key").read_text() == before
    rotated = cli("vault", "key", "rotate", "--yes")
    assert "Copy it to another machine now" in " ".join(rotated.stdout.split())
    assert (cli.data / "vault.key").read_text() != before
    slots = {slot["id"]: slot for slot in cli.json("vault", "key", "list")}
    assert own["id"] not in slots
    (recovery,) = (slot for slot in slots.values() if slot["kind"] == "recovery")
    assert "Removed key slot" in cli("vault", "key", "remove", recovery["id"], "--yes").stdout
    assert not list(cli.data.glob("vault.key.*"))


def test_upkeep_runs_as_jobs(cli: Cli) -> None:
    assert "There is no garbage to mark or to delete now." in cli("vault", "gc", "--dry-run").stdout
    done = cli("vault", "gc")
    assert (done.returncode, "Collect garbage: Completed" in done.stdout) == (0, True)
    assert done.stdout.count("There is no garbage to mark or to delete now.") == 1
    plan = cli.json("vault", "rebuild-index", "--dry-run")
    assert plan == {"packs": 0, "segments": 0, "replaced": 0}
    done = cli("vault", "rebuild-index")
    assert (done.returncode, "Rebuild index: Completed" in done.stdout) == (0, True)
    assert "The index tells of 0 packs" in done.stdout
    done = cli("vault", "check")
    assert (done.returncode, "Verify vault: Completed" in done.stdout) == (0, True)
    assert "0 points checked" in done.stdout
    assert "0 points and 0 packs checked, 0 B read." in cli("vault", "verify").stdout
    assert cli.json("vault", "prune", "--dry-run") == []
    assert cli.json("vault", "prune", "--vm", "nobody", exit_code=5)["code"] == "vm.unknown"
    assert cli("vault", "prune", "--keep-last", "3").returncode == 2
    assert cli.json("vault", "verify", "--forecast")["requests"] > 0
