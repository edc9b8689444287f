"""The processor time of a QEMU process, from /proc."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from quiesce.hypervisor.processor import percent

TICKS = os.sysconf("SC_CLK_TCK")


def stat(user: int, system: int, name: str = "qemu-system-x86") -> str:
    """As proc(5) has it: pid, (name), state, then numbers, of which 14 and 15 are the times."""
    between = " ".join(["0"] * 10)
    return f"4711 ({name}) S {between} {user} {system} 0 0 20 0 5 0 100 200 300\n"


def measured(
    folder: Path, before: str, after: Callable[[], object], *, processors: int = 2
) -> float | None:
    (folder / "stat").write_text(before)

    def pause(seconds: float) -> None:
        assert seconds == 0.5
        after()

    return percent(folder, processors, seconds=0.5, pause=pause)


def writes(folder: Path, text: str) -> Callable[[], object]:
    return lambda: (folder / "stat").write_text(text)


@pytest.mark.parametrize(
    ("used", "expected"),
    [(0, 0.0), (TICKS // 2, 50.0), (TICKS, 100.0), (5 * TICKS, 100.0), (-10, 0.0)],
)
def test_the_share_is_of_what_all_processors_have(
    tmp_path: Path, used: int, expected: float
) -> None:
    after = writes(tmp_path, stat(1000 + used, 500))
    assert measured(tmp_path, stat(1000, 500), after) == expected


def test_user_and_system_time_both_count(tmp_path: Path) -> None:
    after = writes(tmp_path, stat(1000 + TICKS // 4, 500 + TICKS // 4))
    assert measured(tmp_path, stat(1000, 500), after) == 50.0


@pytest.mark.parametrize("name", ["a b", "x) S 9 9 9", "((", "qemu\n1 2 3"])
def test_a_process_may_be_called_anything(tmp_path: Path, name: str) -> None:
    after = writes(tmp_path, stat(1000 + TICKS, 500, name))
    assert measured(tmp_path, stat(1000, 500, name), after) == 100.0


def test_without_processors_nothing_is_divided_by_none(tmp_path: Path) -> None:
    after = writes(tmp_path, stat(1000, 500))
    assert measured(tmp_path, stat(1000, 500), after, processors=0) == 0.0


def test_a_process_that_ends_meanwhile_has_no_figure(tmp_path: Path) -> None:
    assert measured(tmp_path, stat(1, 1), (tmp_path / "stat").unlink) is None


def test_what_is_no_stat_has_no_figure(tmp_path: Path) -> None:
    assert measured(tmp_path, "nonsense", lambda: None) is None
    assert percent(tmp_path / "gone", 1, seconds=0.5, pause=lambda _: None) is None
