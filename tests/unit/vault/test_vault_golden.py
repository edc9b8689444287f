"""A vault written once, by the first version of the format, stays readable by everyone."""

from __future__ import annotations

import ast
import io
import shutil
from pathlib import Path

import independent_reader
import pytest
from golden_disks import EXPECTED, KEY, PASSPHRASE
from vault_scene import Scene

from quiesce.vault import KeyFile, LocalStore, Passphrase, Vault

GOLDEN = Path(__file__).parents[2] / "golden" / "vault-v1"


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    # A checkout keeps no empty folders; a store has all of them.
    there = tmp_path / "golden"
    LocalStore.create(there)
    shutil.copytree(GOLDEN, there, dirs_exist_ok=True)
    return there


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


def test_the_independent_reader_is_independent() -> None:
    tree = ast.parse(Path(independent_reader.__file__).read_text())
    modules = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert not any(module.startswith("quiesce") for module in modules)


def test_a_vault_written_today_is_read_by_the_reader_from_the_spec(scene: Scene) -> None:
    point = scene.backup("job", EXPECTED["golden-full"])
    vault = independent_reader.Vault(scene.folder, secret=KEY.secret)
    out = io.BytesIO()
    vault.restore(point.id, "sda", out)
    assert out.getvalue() == EXPECTED["golden-full"]["sda"]
