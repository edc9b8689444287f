"""`quiesce vault restore --salvage`: what a damaged point still holds, never as if it were all."""

from __future__ import annotations

from pathlib import Path

import pytest
from vault_here import SIZE, Here, content

CHUNK = 128 * 1024


@pytest.fixture
def here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(tmp_path, capsys)


@pytest.fixture
def point(here: Here) -> str:
    (found,) = here.json("points", "--vm", "db")
    return str(found["id"])


def hurt(here: Here, point: str, number: int) -> list[tuple[int, int]]:
    """Turns a bit in the frame of this chunk; the ranges that are lost by it."""
    reader = here.vault.reader(point, "vda")
    index = here.vault.contents.index
    places = [index.locate(reader._map.chunk(n)) for n in range(-(-SIZE // CHUNK))]
    mine = places[number]
    assert mine is not None
    name = index.name_of(mine.pack).hex()
    (pack,) = [path for path in here.packs() if name in path.name]
    data = bytearray(pack.read_bytes())
    data[mine.offset + mine.length // 2] ^= 1
    pack.write_bytes(data)
    lost = [
        n for n, at in enumerate(places) if at and (at.pack, at.offset) == (mine.pack, mine.offset)
    ]
    assert lost == list(range(lost[0], lost[-1] + 1))
    start, end = lost[0] * CHUNK, min((lost[-1] + 1) * CHUNK, SIZE)
    return [(start, end - start)]


def test_without_it_a_damaged_point_is_not_restored_and_the_way_out_is_said(
    here: Here, point: str
) -> None:
    hurt(here, point, 1)
    target = here.tmp / "db.img"
    said = here("restore", point, "--to", str(target))
    assert (said.code, "[vault.corrupt-chunk]" in said.err) == (9, True)
    assert "--salvage" in said.words
    assert not target.exists()


def test_what_can_be_read_is_restored_and_the_rest_is_listed(here: Here, point: str) -> None:
    ((start, length),) = hurt(here, point, 1)
    target = here.tmp / "db.img"
    said = here("restore", point, "--to", str(target), "--salvage")
    assert said.code == 9, said.words
    result = said.out[said.out.index("Disk vda") :]
    first = " ".join(result.split("[restore.point-incomplete]")[0].split())
    assert first.startswith("Disk vda is incomplete:")
    assert f"{length} bytes" in said.words
    assert f"{start}–{start + length}" in said.words.replace("– ", "–")
    assert "packs/" in said.out, "where the vault is damaged"
    expected = bytearray(content("db", 0))
    expected[start : start + length] = bytes(length)
    assert target.read_bytes() == expected


def test_programs_are_told_the_same(here: Here, point: str) -> None:
    ((start, length),) = hurt(here, point, 1)
    target = here.tmp / "db.img"
    (told,) = here.json("restore", point, "--to", str(target), "--salvage", code=9)
    assert told["lost"] == [{"offset_bytes": start, "length_bytes": length}]
    assert told["lost_bytes"] == length
    assert told["written_bytes"] == SIZE - length


def test_of_a_whole_point_nothing_is_lost_and_it_ends_well(here: Here, point: str) -> None:
    target = here.tmp / "db.img"
    (told,) = here.json("restore", point, "--to", str(target), "--salvage")
    assert (told["lost"], told["lost_bytes"]) == ([], 0)
    assert target.read_bytes() == content("db", 0)
