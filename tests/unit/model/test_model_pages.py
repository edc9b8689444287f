"""Memory for disks: zeros, aligned, as long as was asked for."""

from __future__ import annotations

import ctypes

import pytest

from quiesce.model.pages import huge_pages

HUGE = 2 * 1024 * 1024


@pytest.mark.parametrize("size", [0, 4096, HUGE - 4096, HUGE, 2 * HUGE])
def test_pages_are_zeros_that_begin_with_a_huge_page(size: int) -> None:
    pages = huge_pages(size)
    assert pages == bytes(size)
    if size:
        assert ctypes.addressof(ctypes.c_char.from_buffer(pages)) % HUGE == 0


def test_a_part_of_them_outlives_them() -> None:
    pages = huge_pages(HUGE)
    pages[-1] = 7
    part = pages[-4096:]
    del pages
    assert part == bytes(4095) + b"\x07"
