"""`quiesce doctor --bundle` and `--here`, as users see them, without a server."""

from __future__ import annotations

import tarfile
from pathlib import Path

from conftest import Cli

LOG = (
    "2026-11-22T23:01:02.123456Z INFO Daemon Daemon Azure Linux Agent Version:2.7.3.0\n"
    "2026-11-22T23:02:02.000000Z ERROR ExtHandler ExtHandler Event: name=Quiesce.VmBackup, "
    "op=Install, message=[ExtensionOperationError] [Errno 28] No space left on device: \x1b[31m'/v'"
    "\n"
)


def put(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_bundle_names_the_cause_its_evidence_and_what_to_do(
    without_server: Cli, tmp_path: Path
) -> None:
    put(tmp_path, "web1/var/log/waagent.log", LOG)
    put(tmp_path, "web1/etc/os-release", "ID=debian\n")
    bundle = tmp_path / "logs.tar.gz"
    with tarfile.open(bundle, "w:gz") as archive:
        archive.add(tmp_path / "web1", "web1")
    done = without_server("doctor", "--bundle", str(bundle))
    assert done.returncode == 3
    said = " ".join(done.stdout.split())
    assert "[agent.disk-full, proven]" in said
    assert "No space left on device" in said
    assert "/var/log/waagent.log" in said
    assert "\x1b[31m" not in done.stdout
    told = without_server.json("doctor", "--bundle", str(bundle), exit_code=3)
    assert told["light"] == "red"
    assert told["diagnoses"][0]["evidence"][0]["observed_at"] == "2026-11-22T23:02:02+00:00"


def test_a_bundle_of_a_guest_that_is_well_says_so(without_server: Cli, tmp_path: Path) -> None:
    put(tmp_path, "waagent.log", LOG.splitlines()[0] + "\n")
    done = without_server("doctor", "--bundle", str(tmp_path))
    assert done.returncode == 0
    assert "no failure stands in these papers" in done.stdout


def test_what_is_no_bundle_is_refused_with_a_code(without_server: Cli, tmp_path: Path) -> None:
    put(tmp_path, "shopping/list.txt", "milk\n")
    done = without_server("doctor", "--bundle", str(tmp_path / "shopping"))
    assert done.returncode == 2
    assert "[input.bundle-empty]" in done.stderr
    assert "tar czf bundle.tgz" in " ".join(done.stderr.split())
    failure = without_server.json("doctor", "--bundle", str(tmp_path / "no"), exit_code=2)
    assert failure["code"] == "input.bundle-not-found"


def test_this_very_machine_is_examined(without_server: Cli) -> None:
    told = without_server.json(
        "doctor", "--here", exit_code=without_server("doctor", "--here").returncode
    )
    assert told["subject"].endswith("(this machine)")
    titles = {check["title"] for check in told["checks"]}
    assert {"Python", "free on /", "dangerous to freeze", "processors of the guest"} <= titles
    python = next(check for check in told["checks"] if check["title"] == "Python")
    assert python["evidence"], "what it was seen by is told"
