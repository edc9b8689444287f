from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bare_qemu import MIB, BareQemu, make_image


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Callable[..., BareQemu]]:
    """Makes VMs of freshly made disks: `bare({"vda": "qcow2", "vdb": "raw"})`."""
    made: list[BareQemu] = []

    def make(
        disks: dict[str, str] | None = None,
        *,
        size_bytes: int = 64 * MIB,
        options: str = "",
        extra: tuple[str, ...] = (),
    ) -> BareQemu:
        formats = disks or {"vda": "qcow2"}
        files = {
            name: (
                make_image(tmp_path / f"{name}.img", size_bytes, kind=kind, options=options),
                kind,
            )
            for name, kind in formats.items()
        }
        made.append(BareQemu(tmp_path, files, extra))
        return made[-1]

    yield make
    for qemu in made:
        qemu.kill()
