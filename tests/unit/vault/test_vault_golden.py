"""Vaults written once, by the first version of the format, stay readable by everyone: one of large
chunks and frames of several, one with every kind of object."""

from __future__ import annotations

import ast
import io
import json
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import independent_reader
import pytest
from blake3 import blake3
from golden_disks import (
    EXPECTED,
    KEY,
    KINDS_EXPECTED,
    PASSPHRASE,
    RECORDS,
    RECOVERY,
    SparseDisk,
)
from vault_scene import Scene

from quiesce.model.extent import ExtentKind
from quiesce.vault import KeyFile, LocalStore, Passphrase, RecoveryKey, Vault
from quiesce.vault.contents.lease import LEASE_KEY
from quiesce.vault.points.reader import VaultDiskReader

GOLDEN = Path(__file__).parents[2] / "golden" / "vault-v1"
KINDS = GOLDEN.with_name("vault-v1-kinds")


def copy_of(golden: Path, there: Path) -> Path:
    # A checkout keeps no empty folders; a store has all of them.
    LocalStore.create(there)
    shutil.copytree(golden, there, dirs_exist_ok=True)
    return there


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    return copy_of(GOLDEN, tmp_path / "golden")


@pytest.fixture
def kinds(tmp_path: Path) -> Path:
    return copy_of(KINDS, tmp_path / "kinds")


@pytest.mark.parametrize("key", [KEY, Passphrase(PASSPHRASE)], ids=["key file", "passphrase"])
def test_quiesce_restores_the_golden_vault(
    golden: Path, key: KeyFile | Passphrase, scene: Scene
) -> None:
    vault = Vault.open(LocalStore(golden), key)
    there = Scene(vault, scene.clock)
    restored = {
        point.job_id: {disk.name: there.restore(point, disk.name) for disk in point.disks}
        for point in vault.points()
    }
    assert restored == EXPECTED
    report = vault.verify("chunks")
    assert report.intact
    assert report.findings == ()


@pytest.mark.parametrize("how", ["key file", "passphrase"])
def test_a_reader_written_from_the_spec_restores_the_golden_vault(how: str) -> None:
    vault = (
        independent_reader.Vault(GOLDEN, secret=KEY.secret)
        if how == "key file"
        else independent_reader.Vault(GOLDEN, passphrase=PASSPHRASE)
    )
    found = {}
    for point_id in vault.points():
        point = vault.point(point_id)
        found[point["job_id"]] = {}
        for disk in point["disks"]:
            out = io.BytesIO()
            out.write(bytes(disk["size_bytes"]))
            vault.restore(point_id, disk["name"], out)
            found[point["job_id"]][disk["name"]] = out.getvalue()
    assert found == EXPECTED


ALLOWED = {"zstandard", "argon2", "blake3", "cryptography"} | sys.stdlib_module_names


def test_the_independent_reader_is_independent() -> None:
    tree = ast.parse(Path(independent_reader.__file__).read_text())
    modules = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert {module.partition(".")[0] for module in modules} <= ALLOWED
    assert "importlib" not in modules


def test_it_runs_where_quiesce_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(RECOVERY.text())
    without = (
        "import runpy, sys; sys.modules['quiesce'] = None; sys.argv = sys.argv[1:];"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", without, independent_reader.__file__, KINDS, tmp_path / "key"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert len(said.splitlines()) == len(KINDS_EXPECTED)
    point = next(line.split()[0] for line in said.splitlines() if line.endswith("wide zeros"))
    more = [point, "zeros", tmp_path / "out"]
    subprocess.run([*command, *more], check=True)
    assert (tmp_path / "out").read_bytes() == bytes(KINDS_EXPECTED["kinds-full"]["zeros"][0])


def test_a_vault_written_today_is_read_by_the_reader_from_the_spec(scene: Scene) -> None:
    point = scene.backup("job", EXPECTED["golden-full"])
    vault = independent_reader.Vault(scene.folder, secret=KEY.secret)
    out = io.BytesIO()
    vault.restore(point.id, "sda", out)
    assert out.getvalue() == EXPECTED["golden-full"]["sda"]


# ── every kind of object ─────────────────────────────────────────────────────────────────────────

KEYS = [KEY, Passphrase(PASSPHRASE), RECOVERY]


def sparse(reader: VaultDiskReader) -> SparseDisk:
    parts = {}
    for extent in reader.extents():
        if extent.kind is ExtentKind.DATA:
            data = bytearray(extent.length_bytes)
            reader.read_into(extent.offset_bytes, memoryview(data))
            parts[extent.offset_bytes] = bytes(data)
    return reader.size_bytes, parts


def same(found: SparseDisk, expected: SparseDisk) -> bool:
    """Whether both read alike, wherever each has its zeros."""
    return found[0] == expected[0] and _nonzero(found[1]) == _nonzero(expected[1])


def _nonzero(parts: dict[int, bytes]) -> dict[int, bytes]:
    """Pieces of 512 bytes that are not zeros."""
    return {
        start + at: piece.rstrip(b"\0")
        for start, data in parts.items()
        for at in range(0, len(data), 512)
        if any(piece := data[at : at + 512])
    }


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.kind)
def test_quiesce_opens_it_with_each_kind_of_key(
    kinds: Path, key: KeyFile | Passphrase | RecoveryKey
) -> None:
    vault = Vault.open(LocalStore(kinds), key)
    found = {point.job_id: point for point in vault.points()}
    assert found.keys() == KINDS_EXPECTED.keys()
    for job, disks in KINDS_EXPECTED.items():
        assert [disk.name for disk in found[job].disks] == list(disks)
        for name, expected in disks.items():
            assert same(sparse(vault.reader(found[job].id, name)), expected)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.kind)
def test_so_does_the_reader_written_from_the_spec(
    key: KeyFile | Passphrase | RecoveryKey,
) -> None:
    opened: dict[str, Any] = (
        {"passphrase": key.text}
        if isinstance(key, Passphrase)
        else {"secret": independent_reader.secret_in(key.text())}
    )
    vault = independent_reader.Vault(KINDS, **opened)
    for point_id in vault.points():
        point = vault.point(point_id)
        assert set(KINDS_EXPECTED[point["job_id"]]) == {disk["name"] for disk in point["disks"]}
        for disk in point["disks"]:
            out = Sparse()
            vault.restore(point_id, disk["name"], out)
            expected = KINDS_EXPECTED[point["job_id"]][disk["name"]]
            assert same((out.size_bytes, out.parts), expected)
    assert len(vault.points()) == len(KINDS_EXPECTED)


class Sparse(io.RawIOBase):
    """A file that keeps where it was written, and nothing between."""

    def __init__(self) -> None:
        self.parts: dict[int, bytes] = {}
        self.size_bytes = 0
        self._at = 0

    def truncate(self, size: int | None = None) -> int:
        self.size_bytes = size or 0
        return self.size_bytes

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset
        return offset

    def write(self, data: Any) -> int:
        self.parts[self._at] = bytes(data)
        return len(data)


def test_it_holds_every_kind_of_object_blob_and_codec() -> None:
    vault = independent_reader.Vault(KINDS, secret=KEY.secret)
    assert {codec for _, _, _, _, codec, _, _ in vault.where.values()} == {0, 1, 2}
    assert {kind for *_, kind, _ in vault.where.values()} == {0, 1}
    slots = [json.loads(path.read_bytes()) for path in (KINDS / "keys").iterdir()]
    assert {slot["kind"] for slot in slots} == {"passphrase", "key-file", "recovery"}
    assert len(list((KINDS / "deleted").iterdir())) == 1


def test_the_spec_reads_records_and_index_as_quiesce_does(kinds: Path) -> None:
    spec = independent_reader.Vault(KINDS, secret=KEY.secret)
    assert spec.index() == spec.packs
    told = spec.records()
    written = {key: json.loads(json.dumps(v, default=_iso)) for key, (_, v) in RECORDS.items()}
    assert {key: told[key] for key in written} == written
    assert told.keys() - written.keys() == {
        f"deleted/{path.name}" for path in (KINDS / "deleted").iterdir()
    }
    records = Vault.open(LocalStore(kinds), KEY).contents.records
    sessions = {session.key: session for session in records.sessions()}
    for key, (kind, values) in RECORDS.items():
        if kind == "session":
            assert sessions[key].started_at == values["started_at"]
    assert [mark.packs for mark in records.garbage()] == [(b"\x22" * 32,)]
    assert records.damage() == {bytes(32): frozenset({b"\x11" * 32})}
    assert records.read(LEASE_KEY, "lease")["holder"] == told[LEASE_KEY]["holder"]


def _iso(at: datetime) -> str:
    return at.isoformat()


def test_anybody_can_check_every_object_without_a_key() -> None:
    for path in KINDS.glob("packs/*/*"):
        assert blake3(path.read_bytes()).hexdigest() == path.name
    for folder in ("index", "points", "deleted", "sessions", "garbage", "damage"):
        for path in (KINDS / folder).iterdir():
            stored = path.read_bytes()
            assert blake3(stored[:-32]).digest() == stored[-32:]
            assert folder != "index" or stored[-32:].hex() == path.name
