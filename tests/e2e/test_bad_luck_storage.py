"""Misfortunes of what a server stores on and of its keys, with a VM that is off: no guest needed.

Everything through a real server and the command line. Needs root for mounts and loop devices.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from quiesce_server import VM, QuiesceServer, new_home, new_server, told

MIB = 1 << 20

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"),
]


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def add_powered_off_vm(server: QuiesceServer, mebibytes: int = 24) -> Path:
    """A VM without a process, whose one image of twice the size holds that much random data."""
    image = server.folder / "disk.img"
    image.write_bytes(os.urandom(mebibytes * MIB))
    os.truncate(image, 2 * mebibytes * MIB)
    server.post(
        "vms",
        body={"name": VM, "qmp_socket": "/nowhere/qmp.sock", "disks": {"vda": str(image)}},
    )
    return image


@pytest.fixture(scope="module")
def server() -> Iterator[QuiesceServer]:
    with new_server() as server:
        add_powered_off_vm(server)
        yield server


@pytest.fixture(scope="module")
def point(server: QuiesceServer) -> str:
    return str(server.point_of(server.backup())["id"])


# --- the vault's place


def test_a_vault_that_is_full_read_only_or_gone_costs_the_job_and_no_point(
    tmp_path: Path,
) -> None:
    place = tmp_path / "mounted"
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=12m", "quiesce-test", place)
    mounted = True
    try:
        with new_server(QUIESCE_VAULT_FOLDER=str(place / "vault")) as server:
            image = add_powered_off_vm(server)

            full = server.cli("backup", VM, "--wait")
            assert full.returncode == 4, full.stdout + full.stderr
            assert "storage.full" in full.stdout + full.stderr
            assert server.points() == []

            run("mount", "-o", "remount,size=200m", place)
            [good] = [server.point_of(server.backup())["id"]]

            run("mount", "-o", "remount,ro", place)
            read_only = server.cli("backup", VM, "--wait")
            assert read_only.returncode in (3, 4), read_only.stdout + read_only.stderr
            assert "storage.read-only" in read_only.stdout + read_only.stderr
            run("mount", "-o", "remount,rw", place)

            server.restore(good, tmp_path / "restored.img")
            assert (tmp_path / "restored.img").read_bytes() == image.read_bytes()

            run("umount", "--lazy", place)
            mounted = False
            gone = server.cli("backup", VM, "--wait")
            assert gone.returncode in (3, 4), gone.stdout + gone.stderr
            assert "storage.vanished" in gone.stdout + gone.stderr
            assert list(place.iterdir()) == [], "something was written where nothing is mounted"
    finally:
        if mounted:
            run("umount", "--lazy", place)


def test_a_flipped_byte_is_named_by_verify_with_its_point_and_healed_by_the_next_backup(
    server: QuiesceServer, point: str, tmp_path: Path
) -> None:
    assert server.cli("vault", "verify").returncode == 0
    pack = max((server.data / "vault" / "packs").glob("*/*"), key=lambda path: path.stat().st_size)
    pack.chmod(0o600)
    with pack.open("r+b") as file:
        file.seek(pack.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))

    ended = server.cli("vault", "verify")
    assert ended.returncode == 9, ended.stdout + ended.stderr
    assert f"point {point} of {VM} suffers" in " ".join(ended.stdout.split())
    target = tmp_path / "restored.img"
    restored = server.cli("restore", point, "--to", str(target), "--wait")
    assert restored.returncode in (3, 9), restored.stdout
    assert "vault." in restored.stdout
    assert list(tmp_path.iterdir()) == []

    server.point_of(server.backup())
    assert server.cli("vault", "verify", "--mode", "chunks").returncode == 0
    server.restore(point, target)
    assert target.read_bytes() == (server.folder / "disk.img").read_bytes()


# --- where a restore goes


def test_a_restore_onto_what_exists_changes_nothing_unless_overwriting_is_wanted(
    server: QuiesceServer, point: str, tmp_path: Path
) -> None:
    target = tmp_path / "vda.img"
    target.write_bytes(b"mine")
    refused = server.cli("restore", point, "--to", str(target), "--wait")
    assert refused.returncode == 6, refused.stdout + refused.stderr
    assert "restore.target-exists" in refused.stderr
    assert target.read_bytes() == b"mine"
    done = server.cli("restore", point, "--to", str(target), "--overwrite", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert target.read_bytes() == (server.folder / "disk.img").read_bytes()


def test_a_restore_to_a_block_device_that_is_too_small_leaves_it_as_it_was(
    server: QuiesceServer, point: str, tmp_path: Path
) -> None:
    backing = tmp_path / "backing"
    backing.write_bytes(b"old!" * (MIB // 4))
    device = run("losetup", "--find", "--show", backing)
    try:
        ended = server.cli("restore", point, "--to", device, "--overwrite", "--wait")
    finally:
        run("losetup", "--detach", device)
    assert ended.returncode == 3, ended.stdout + ended.stderr
    assert "restore.target-too-small" in ended.stdout
    assert backing.read_bytes() == b"old!" * (MIB // 4)


def test_a_restore_to_a_folder_that_is_read_only_or_too_full_says_so_and_leaves_nothing(
    server: QuiesceServer, point: str, tmp_path: Path
) -> None:
    run("mount", "-t", "tmpfs", "-o", "size=8m", "quiesce-test", tmp_path)
    try:
        full = server.cli("restore", point, "--to", str(tmp_path / "vda.img"), "--wait")
        left = list(tmp_path.iterdir())
        run("mount", "-o", "remount,ro,size=200m", tmp_path)
        closed = server.cli("restore", point, "--to", str(tmp_path / "vda.img"), "--wait")
    finally:
        run("umount", tmp_path)
    assert full.returncode == 3, full.stdout + full.stderr
    assert "restore.no-space" in full.stdout
    assert left == []
    assert closed.returncode == 3, closed.stdout + closed.stderr
    assert "restore.target-not-writable" in closed.stdout


# --- the server's own folder


def test_a_second_server_on_the_same_data_folder_does_not_start_and_names_the_first(
    server: QuiesceServer,
) -> None:
    second = QuiesceServer(server.folder)
    second.log = server.folder / "second.log"
    second.start(answers=False)
    assert second.ended() != 0
    assert "server.already-running" in second.log.read_text()
    assert server.get("vms")[0]["name"] == VM


def test_without_the_right_key_no_server_starts_and_nothing_is_made_anew() -> None:
    with new_home() as server:
        server.start()
        add_powered_off_vm(server, 1)
        point = server.point_of(server.backup())["id"]
        server.stop()
        key_file = server.data / "vault.key"
        key = key_file.read_bytes()

        key_file.unlink()
        server.start(answers=False)
        assert server.ended() == 8, server.log.read_text()
        assert "auth.key-unavailable" in server.log.read_text()

        with new_server() as other:
            key_file.write_bytes((other.data / "vault.key").read_bytes())
        server.start(answers=False)
        assert server.ended() == 8, server.log.read_text()
        assert "auth.key-wrong" in server.log.read_text()

        key_file.write_bytes(key)
        server.start()
        assert [kept["id"] for kept in server.points()] == [point], told(server.get("jobs")[0])
