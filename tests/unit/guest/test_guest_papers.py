"""Papers packed to fit: what is left out is the older part of the longest, and is named."""

from __future__ import annotations

import base64
import builtins
import gzip
import os
import zlib
from collections.abc import Mapping
from typing import Any

import pytest

from quiesce.guest.papers import Collection

TOKEN = "ab" * 16
MARK = f"#{TOKEN} ".encode()


def noise(length: int) -> bytes:
    """What no compression makes smaller than half."""
    return os.urandom(length // 2).hex().encode()


def printed(*pieces: bytes) -> bytes:
    return b"".join(MARK + piece for piece in pieces)


def unpacked(packed: dict[str, Any]) -> bytes:
    return zlib.decompress(base64.b64decode(packed["data"]))


def test_what_fits_comes_whole() -> None:
    raw = printed(b"command date 0\n17\n\n", b"file 4 644 0 1 /x y\nabc\n\n", b"end 18\n")
    packed = Collection(TOKEN, raw).packed(10_000)
    assert packed["token"] == TOKEN
    assert packed["shortened"] == []
    assert unpacked(packed) == raw


def test_the_longest_lose_their_older_part_and_headers_stay() -> None:
    raw = printed(
        b"file 90000 644 0 1 /var/log/a b.log\n" + noise(90_000) + b" end of a\n",
        b"command journal 0\n" + noise(50_000) + b" end of journal\n",
        b"command units 0\nActiveState=active\n",
        b"end 18\n",
    )
    packed = Collection(TOKEN, raw).packed(8_000)
    assert len(packed["data"]) <= 8_000
    assert packed["shortened"] == ["/var/log/a b.log", "journal"]
    plain = unpacked(packed)
    assert MARK + b"file 90000 644 0 1 /var/log/a b.log\n" in plain
    assert b" end of a\n" in plain
    assert b" end of journal\n" in plain
    assert MARK + b"command units 0\nActiveState=active\n" in plain
    assert plain.endswith(MARK + b"end 18\n")


def test_many_small_papers_end_the_shortening_too() -> None:
    raw = printed(*(b"file 9 644 0 1 /%d\n" % number + noise(400) + b"\n" for number in range(50)))
    packed = Collection(TOKEN, raw).packed(100)
    assert unpacked(packed) == raw


def test_a_python_without_zlib_has_the_guests_gzip_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def lacking(name: str, *rest: Any, **more: Mapping[str, Any]) -> Any:
        if name == "zlib":
            raise ImportError(name)
        return real(name, *rest, **more)

    raw = printed(b"command date 0\n17\n\n", b"end 18\n")
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", lacking)
        packed = Collection(TOKEN, raw).packed(10_000)
    assert gzip.decompress(base64.b64decode(packed["data"])) == raw
