"""Bytes of a foreign file become text that may be shown."""

from __future__ import annotations

import codecs
import re

_UNPRINTED = re.compile(r"[^\t\n\x20-\x7e]")
_REPLACEMENT = "\ufffd"
_SAMPLE = 4096
_MOST_UNPRINTABLE = 0.3
_UTF16 = ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def text_of(head: bytes, end: bytes, *, offset: int = 0) -> str | None:
    """Printable characters, tabs and line ends of `end`, which begins `offset` bytes into a file
    whose first bytes are `head`. None when the file is no text.

    UTF-8, or UTF-16 with its mark or, without, when every other byte is NUL. What cannot be decoded
    or must not be shown (controls, direction marks) becomes U+FFFD.
    """
    encoding = _encoding(head or end)
    if encoding.startswith("utf-16") and offset % 2:
        end = end[1:]  # cut in the middle of a character
    text = end.decode(encoding, "replace").removeprefix("\ufeff").replace("\r\n", "\n")
    sample = text[-_SAMPLE:]
    unprintable = sum(not (each.isprintable() or each in "\t\n\r") for each in sample)
    if unprintable + sample.count(_REPLACEMENT) > _MOST_UNPRINTABLE * len(sample):
        return None
    return _UNPRINTED.sub(_shown, text)


def name_of(name: str) -> str:
    """A file's name as it may be shown."""
    return _UNPRINTED.sub(_shown, name.replace("\n", _REPLACEMENT).replace("\t", _REPLACEMENT))


def _encoding(head: bytes) -> str:
    for mark, name in _UTF16:
        if head.startswith(mark):
            return name
    sample = head[:_SAMPLE]
    if len(sample) >= 8:
        even, odd = sample[0::2].count(0), sample[1::2].count(0)
        half = len(sample) // 2
        if odd > 0.7 * half and not even:
            return "utf-16-le"
        if even > 0.7 * half and not odd:
            return "utf-16-be"
    return "utf-8"


def _shown(found: re.Match[str]) -> str:
    character = found[0]
    return character if character.isprintable() else _REPLACEMENT
