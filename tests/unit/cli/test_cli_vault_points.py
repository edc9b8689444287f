"""`quiesce vault points`: no point is passed over in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
from vault_here import Here


@pytest.fixture
def here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(tmp_path, capsys)


def test_a_point_whose_manifest_is_damaged_is_named_though_it_cannot_be_listed(here: Here) -> None:
    whole, broken = (point["id"] for point in here.json("points", "--vm", "web")[:2])
    manifest = here.folder / "points" / broken
    data = bytearray(manifest.read_bytes())
    data[len(data) // 2] ^= 1
    manifest.write_bytes(data)
    said = here("points")
    assert said.code == 0, said.words
    assert f"Not listed, since they cannot be read: {broken}." in said.words
    assert whole in said.words
    assert "Not listed" not in here("points", at=_sound(here)).words


def _sound(here: Here) -> Path:
    """A copy of the vault without the damaged point."""
    second = here.tmp / "second"
    assert here("copy", "--to", str(second), "--new").code == 9
    return second


def test_a_vm_without_points_is_named_and_how_to_see_what_vault_it_is(here: Here) -> None:
    said = here("points", "--vm", "nosuch")
    assert said.code == 0
    assert "There are no recovery points of a VM 'nosuch'." in said.words
    assert f"`quiesce vault status --at {here.folder} --key-file {here.key_file}`" in said.words
