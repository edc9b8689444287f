"""A bench of loop-mounted file systems, in a mount namespace that nobody else sees, and a guest as
the shell scripts see one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from driver_stand import Stand
from guest_bench import Bench, private_mounts
from shell_guest import SHELLS, ShellGuest


@pytest.fixture(scope="module")
def _private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with private_mounts(tmp_path_factory.mktemp("private")):
        yield


@pytest.fixture
def bench(_private: None, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def stand(bench: Bench, tmp_path: Path) -> Iterator[Stand]:
    made = Stand(bench, tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(params=sorted(SHELLS))
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def guest(tmp_path: Path) -> ShellGuest:
    return ShellGuest(tmp_path / "guest")
