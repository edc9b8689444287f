"""New chunks of a run, compressed together where that makes them smaller.

Chunks are deduplicated one by one; those that are new and neighbours share a frame. So a vault is
as small as with large chunks, while an increment costs small ones. The figures that this rests
on, and those of the parameters below, are in docs/explanation/decisions/0015-frames.md.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import zstandard

from quiesce.vault.format.pack import Codec, Kind, Piece
from quiesce.vault.stores.files import Buffer

FRAME_BYTES = 1024 * 1024
_WINDOW_LOG = 20
_PARAMETERS = {
    1: (zstandard.STRATEGY_FAST, 14, 14, 6),
    2: (zstandard.STRATEGY_DFAST, 13, 14, 5),
    3: (zstandard.STRATEGY_DFAST, 15, 15, 5),
}
"""Strategy, logarithms of the sizes of two tables, least match. Other levels are zstd's own."""


class Frames:
    """Makes what goes into packs of chunks and parts of maps. Thread-safe."""

    def __init__(self, chunk_bytes: int, frame_bytes: int, level: int) -> None:
        self._chunk_bytes = chunk_bytes
        self._chunks = max(1, frame_bytes // chunk_bytes)
        self._level = level
        self._local = threading.local()

    def of_run(
        self, ids: Sequence[bytes], data: memoryview, places: Sequence[int]
    ) -> Iterator[Piece]:
        """Of the chunks that `data` is made of, those at `places`, in order."""
        size = self._chunk_bytes
        for at in range(0, len(places), self._chunks):
            group = places[at : at + self._chunks]
            parts = [data[place * size : (place + 1) * size] for place in group]
            neighbours = group[-1] - group[0] == len(group) - 1
            plain: Buffer = (
                data[group[0] * size : (group[-1] + 1) * size] if neighbours else b"".join(parts)
            )
            frame = self._compressor().compress(plain)
            if len(frame) < len(plain):
                codec = Codec.FRAME if len(group) > 1 else Codec.ZSTD
                yield Piece([ids[place] for place in group], frame, codec, Kind.CHUNK)
            else:
                for place, part in zip(group, parts, strict=True):
                    yield Piece([ids[place]], part, Codec.PLAIN, Kind.CHUNK)

    def may_hold(self, plain: Buffer) -> bool:
        """Whether this is no more than one frame takes."""
        return len(plain) <= self._chunks * self._chunk_bytes

    def of_blob(self, kind: Kind, blob: bytes, plain: Buffer) -> Piece:
        data = self._compressor().compress(plain)
        if len(data) < len(plain):
            return Piece([blob], data, Codec.ZSTD, kind)
        return Piece([blob], plain, Codec.PLAIN, kind)

    def _compressor(self) -> zstandard.ZstdCompressor:
        try:
            compressor: zstandard.ZstdCompressor = self._local.compressor
        except AttributeError:
            compressor = self._local.compressor = _new_compressor(self._level)
        return compressor


def _new_compressor(level: int) -> zstandard.ZstdCompressor:
    if level not in _PARAMETERS:
        return zstandard.ZstdCompressor(level=level)
    strategy, chain_log, hash_log, min_match = _PARAMETERS[level]
    return zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(
            window_log=_WINDOW_LOG,
            chain_log=chain_log,
            hash_log=hash_log,
            search_log=1,
            min_match=min_match,
            strategy=strategy,
            write_content_size=True,
        )
    )
