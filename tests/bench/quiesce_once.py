"""One step of Quiesce as a process of its own, so that it is measured as other tools are.

    quiesce_once.py create VAULT
    quiesce_once.py backup VAULT IMAGE VM GENERATION [--changes FILE --base GENERATION]
    quiesce_once.py restore VAULT GENERATION OUT [--format raw|qcow2]
    quiesce_once.py verify VAULT structure|packs|chunks|no-key
    quiesce_once.py list VAULT

QUIESCE_BENCH_KEY_FILE names the vault's key file, which `create` makes: a server opens its vault by
one. A passphrase in QUIESCE_BENCH_PASSPHRASE comes before it. FILE is a JSON list of (offset,
length): what a dirty bitmap would tell. Printed is one line of JSON: `work_seconds`, the time
without the start of Python and the opening of the vault, which a running service has behind it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from quiesce.block.file import FileSource
from quiesce.model.extent import Extent, ExtentKind
from quiesce.vault import KeyFile, KeyMaterial, LocalStore, Passphrase, Vault
from quiesce.vault.upkeep.verify_packs import verify_packs
from quiesce.vault.upkeep.verify_report import VerifyReport


class ListedSource(FileSource):
    """A raw image of which only listed ranges changed."""

    def __init__(self, path: Path, changes: list[tuple[int, int]]) -> None:
        super().__init__(path)
        self._changes = changes

    def extents(self) -> Iterator[Extent]:
        position = 0
        for start, length in self._changes:
            if start > position:
                yield Extent(position, start - position, ExtentKind.CLEAN)
            yield Extent(start, length, ExtentKind.DATA)
            position = start + length
        if position < self.size_bytes:
            yield Extent(position, self.size_bytes - position, ExtentKind.CLEAN)


def key_file() -> Path:
    return Path(os.environ["QUIESCE_BENCH_KEY_FILE"])


def passphrase() -> Passphrase | None:
    said = os.environ.get("QUIESCE_BENCH_PASSPHRASE")
    return None if said is None else Passphrase(said)


def open_vault(path: Path) -> Vault:
    return Vault.open(LocalStore(path), passphrase() or KeyFile.parse(key_file().read_text()))


def create(given: argparse.Namespace) -> Callable[[], object]:
    def act() -> None:
        keys: list[KeyMaterial] = [made := KeyFile.generate()]
        key_file().write_text(made.text())
        if said := passphrase():
            keys.append(said)
        Vault.create(LocalStore.create(given.vault), *keys)

    return act


def backup(given: argparse.Namespace) -> Callable[[], object]:
    from quiesce.model.snapshot import (
        Consistency,
        ConsistencyLabel,
        Route,
        SessionDisk,
        Snapshot,
        SnapshotSession,
    )
    from quiesce.transfer.backup import back_up

    vault = open_vault(given.vault)
    disk = SessionDisk(
        "vda", given.image.stat().st_size, given.image, "", generation=given.generation,
        base_generation=given.base, dirty_bitmap="listed" if given.base else None,
    )  # fmt: skip
    session = SnapshotSession(given.generation, datetime.now(UTC), Route.OFFLINE, (disk,))
    snapshot = Snapshot(session, ConsistencyLabel(Consistency.OFFLINE), None)

    def source(_: SessionDisk) -> FileSource:
        if not given.changes:
            return FileSource(given.image)
        return ListedSource(given.image, json.loads(given.changes.read_text()))

    return lambda: back_up(snapshot, vault.writer(given.vm, given.generation), source)


def restore(given: argparse.Namespace) -> Callable[[], object]:
    from quiesce.block.image import open_target
    from quiesce.transfer.restore import restore_disk

    vault = open_vault(given.vault)

    def act() -> None:
        (point,) = (p for p in vault.points() if p.disks[0].generation == given.generation)
        size = point.disks[0].size_bytes
        target = open_target(given.out, size, given.format, overwrite=False)
        restore_disk(vault.reader(point.id, "vda"), target)

    return act


def verify(given: argparse.Namespace) -> Callable[[], object]:
    def check(report: VerifyReport) -> None:
        if report.findings or report.hurt:
            raise SystemExit(f"found damage: {report.findings[:3]}")

    if given.mode == "no-key":
        return lambda: check(verify_packs(LocalStore(given.vault)))
    vault = open_vault(given.vault)
    return lambda: check(vault.verify(given.mode))


def list_points(given: argparse.Namespace) -> Callable[[], object]:
    return open_vault(given.vault).points


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    steps = words.add_subparsers(required=True)
    for name, prepare in (
        ("create", create), ("backup", backup), ("restore", restore), ("verify", verify),
        ("list", list_points),
    ):  # fmt: skip
        step = steps.add_parser(name)
        step.set_defaults(prepare=prepare)
        step.add_argument("vault", type=Path)
        if name == "backup":
            step.add_argument("image", type=Path)
            step.add_argument("vm")
            step.add_argument("generation")
            step.add_argument("--changes", type=Path)
            step.add_argument("--base", default="")
        elif name == "restore":
            step.add_argument("generation")
            step.add_argument("out", type=Path)
            step.add_argument("--format", default="raw")
        elif name == "verify":
            step.add_argument("mode")
    given = words.parse_args()
    act = given.prepare(given)
    began = time.perf_counter()
    act()
    print(json.dumps({"work_seconds": round(time.perf_counter() - began, 4)}))


if __name__ == "__main__":
    main()
