"""A vault with points that no server has, and the command line on it, in this process."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from quiesce.cli.main import run
from quiesce.model.point import PointDisk
from quiesce.model.snapshot import Consistency, ConsistencyLabel, Route
from quiesce.vault import KeyFile, LocalStore, Vault

SIZE = 300_000
START = datetime(2026, 3, 1, 2, 30, tzinfo=UTC)


def content(vm: str, number: int) -> bytes:
    """The disk of a VM's point."""
    return random.Random(f"{vm} {number}").randbytes(SIZE)


def make_vault(folder: Path, key: KeyFile, points: dict[str, int]) -> Vault:
    vault = Vault.create(LocalStore.create(folder), key)
    make_points(vault, points)
    return vault


def make_points(vault: Vault, points: dict[str, int]) -> None:
    """Points of VMs, one a day."""
    for vm, count in points.items():
        for number in range(count):
            data = content(vm, number)
            writer = vault.writer(vm, f"{vm}-{number}")
            disk = writer.disk("vda", SIZE)
            for start in range(0, SIZE, disk.chunk_bytes):
                chunk = memoryview(data)[start : start + disk.chunk_bytes]
                disk.put(start // disk.chunk_bytes, chunk)
            writer.commit(
                taken_at=START + timedelta(days=number),
                route=Route.HOST,
                consistency=ConsistencyLabel(Consistency.CRASH, "no agent"),
                freeze=None,
                disks=(PointDisk("vda", SIZE, "raw", "", False),),
            )


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        return " ".join((self.out + " " + self.err).split())


class Here:
    """Runs `quiesce vault …` on the vault in `folder`, whose key is in `key_file`."""

    def __init__(self, tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.tmp = tmp
        self.folder = tmp / "vault"
        self.key_file = tmp / "vault.key"
        key = KeyFile.generate()
        self.key_file.write_text(key.text())
        self.vault = make_vault(self.folder, key, {"web": 3, "db": 1})
        self._capsys = capsys

    def plain(self, *words: str) -> Said:
        """Without any option of which vault."""
        self._capsys.readouterr()
        code = run(["vault", *words])
        said = self._capsys.readouterr()
        return Said(code, said.out, said.err)

    def __call__(self, *words: str, at: Path | None = None) -> Said:
        place = ("--at", str(at or self.folder), "--key-file", str(self.key_file))
        return self.plain(*words, *place)

    def json(self, *words: str, at: Path | None = None, code: int = 0) -> Any:
        said = self(*words, "--json", at=at)
        assert said.code == code, said.words
        return json.loads(said.out)

    def packs(self) -> list[Path]:
        return sorted((self.folder / "packs").glob("*/*"))
