"""Figures as people read them."""

from __future__ import annotations

import pytest

from quiesce.model.units import (
    count_text,
    duration_text,
    rate_bytes,
    rate_text,
    size_bytes,
    size_text,
)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (2 * 1024**4, "2.0 TiB"),
        (5 * 1024**7, "5120.0 EiB"),
    ],
)
def test_sizes_are_shown_in_binary_units(count: int, text: str) -> None:
    assert size_text(count) == text


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("20GiB", 20 << 30),
        ("512 M", 512 << 20),
        ("1.5k", 1536),
        ("7 B", 7),
        ("2TB", 2 << 40),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, count: int) -> None:
    assert size_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1 XiB", "1,5 G", "ten"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        size_bytes(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (0.42, "0.4 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7620, "2 h 07 min"),
        (273600, "3 d 4 h"),
    ],
)
def test_durations_grow_into_larger_units(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_rates_are_sizes_per_second() -> None:
    assert rate_text(12 * 1024**2) == "12.0 MiB/s"


@pytest.mark.parametrize("text", ["50MiB/s", "50 MiB / s", "50MiBps", "50M", "52428800"])
def test_rates_are_read_as_people_write_them(text: str) -> None:
    assert rate_bytes(text) == 50 << 20
    assert rate_text(rate_bytes(text)) == "50.0 MiB/s"


@pytest.mark.parametrize("text", ["fast", "", "/s", "-1MiB/s", "50MiB/min"])
def test_what_is_not_a_rate_is_not_read_as_one(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        rate_bytes(text)


def test_one_of_a_thing_is_no_plural() -> None:
    assert [count_text(number, "key") for number in (0, 1, 2)] == ["0 keys", "1 key", "2 keys"]
