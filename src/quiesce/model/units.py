"""Figures as people read them: sizes in binary units, durations, rates. The same words in the
command line, the portal, job logs and failures."""

from __future__ import annotations

import re

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([KMGTPE]?)(?:i?B)?\s*$", re.IGNORECASE)


def size_text(size_bytes: float) -> str:
    """`1536` → "1.5 KiB"; whole bytes have no fraction."""
    value = float(size_bytes)
    unit = _UNITS[0]
    for unit in _UNITS:
        if abs(value) < 1023.95 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def count_text(number: int, what: str) -> str:
    """`1 pack`, `2 packs`: `what` is the word for one."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def size_bytes(text: str) -> int:
    """`20GiB`, "512 M" or "1048576" → bytes; every unit is binary.

    :raise ValueError: the text is not a size
    """
    match = _SIZE.match(text)
    if match is None:
        raise ValueError(f"not a size: {text!r}")
    power = " KMGTPE".index(match[2].upper() or " ")
    return int(float(match[1]) * 1024**power)


def rate_text(bytes_per_second: float) -> str:
    """For example `12.0 MiB/s`."""
    return f"{size_text(bytes_per_second)}/s"


def rate_bytes(text: str) -> int:
    """`50MiB/s`, or without the `/s` → bytes per second.

    :raise ValueError: the text is not a rate
    """
    return size_bytes(re.sub(r"\s*(?:/\s*s|ps)\s*$", "", text, count=1))


def duration_text(seconds: float) -> str:
    """For example "0.4 s", "12 s", "3 min 05 s", "2 h 07 min", "3 d 4 h"."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
