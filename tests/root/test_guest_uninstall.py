"""Uninstalling ends the guest's sessions and removes what is the extension's, and nothing else."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from guest_bench import Bench, Writer, private_mounts, run

from quiesce.agent import installation

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

LIB, RUN, LOG = Path("/var/lib/quiesce"), Path("/run/quiesce"), Path("/var/log/quiesce")


@pytest.fixture(scope="module")
def _private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with private_mounts(tmp_path_factory.mktemp("private")):
        run("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/var/lib")
        yield


@pytest.fixture
def bench(_private: None, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    LIB.mkdir(mode=0o700)
    elsewhere, installed = made.package, LIB / "quiesce-extension-0.1.0+0123456789ab.zip"
    installed.write_bytes(elsewhere.read_bytes())
    made.package = installed
    try:
        yield made
    finally:
        made.package = elsewhere
        made.close()
        subprocess.run(["rm", "-rf", LIB, RUN, LOG], check=True)


def server_files() -> dict[Path, bytes]:
    """What a Quiesce server in the same guest may keep beside the extension."""
    files = {
        LIB / "vault" / "config": b"format 1",
        LIB / "vault" / "quiesce-extension-notes.zip": b"in a folder of somebody else's",
        LIB / "quiesce.db": b"SQLite",
        LIB / "quiesce-extension-readme.txt": b"not a package",
        RUN / "server" / "state.json": b"{}",
        RUN / "api.sock.lock": b"",
        LOG / "server.log": b"started",
    }
    for path, content in files.items():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_bytes(content)
    return files


def what_is_left() -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for folder in (LIB, RUN, LOG)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_uninstall_ends_the_session_and_leaves_nothing(bench: Bench) -> None:
    notes = bench.scripts()
    mount = bench.mount()
    session = bench.session(mount)
    session.frozen()
    (LIB / f".{bench.package.name}.4711").write_bytes(b"half written")
    removed = bench.extension("uninstall")["removed"]
    assert {str(LIB), str(RUN), str(LOG), str(bench.package)} <= set(removed)
    assert not any(folder.exists() for folder in (LIB, RUN, LOG))
    assert not Writer(mount).blocked(5)
    assert notes.read_text() == "pre\npost\n"


def test_uninstall_spares_the_vault_of_a_server_in_the_same_guest(bench: Bench) -> None:
    session = bench.session(bench.mount())
    session.frozen()
    theirs = server_files()
    removed = bench.extension("uninstall")["removed"]
    assert str(bench.package) in removed
    assert what_is_left() == theirs


def test_the_hosts_sweep_spares_the_vault_of_a_server_in_the_same_guest(bench: Bench) -> None:
    session = bench.session(bench.mount())
    session.frozen()
    session.say("abort")
    session.await_state("failed")
    theirs = server_files()
    listed = run("sh", "-c", installation._LIST, "quiesce", LIB, RUN)
    assert listed.split() == ["zip", bench.package.name, "task", session.task]
    run("sh", "-c", installation._SWEEP, "quiesce", LIB, RUN, LOG)
    assert what_is_left() == theirs
    assert run("sh", "-c", installation._LIST, "quiesce", LIB, RUN) == ""


def test_the_next_session_spares_folders_that_are_no_sessions(bench: Bench) -> None:
    RUN.mkdir(mode=0o700)
    theirs = server_files()
    session = bench.session(bench.mount())
    session.frozen()
    session.recover()
    assert theirs.items() <= what_is_left().items()


def test_uninstall_in_a_guest_without_the_extension_removes_nothing(bench: Bench) -> None:
    bench.package.unlink()
    LIB.rmdir()
    bench.package = bench.folder / "extension.zip"
    assert bench.extension("uninstall") == {"removed": []}
