"""From plain blobs to stored packs: deduplicate, compress, encrypt into the pack, upload.

Chunks are deduplicated one by one. Those of one run that are new are compressed together, in
frames of at most FRAME_BYTES: as small as large chunks, while an increment costs small ones.
"""

from __future__ import annotations

import contextlib
import mmap
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import zstandard
from blake3 import blake3

from quiesce.model.failure import Failure
from quiesce.vault.contents import Contents
from quiesce.vault.files import Buffer
from quiesce.vault.pack import (
    PACK_BYTES,
    Codec,
    Entry,
    Kind,
    PackBuilder,
    PackError,
    Piece,
    pack_key,
)
from quiesce.vault.segment import PackedRows

_UPLOADS = 1
_BUFFERS = _UPLOADS + 1
"""One pack is filled while the other is on its way: 64 MiB, whatever the disk's size. A second
upload at once made no backup to a local disk faster."""
_SAVE_INDEX_EVERY = 64
FRAME_BYTES = 512 * 1024

Chunk = tuple[bytes, Buffer]
"""Id and content."""


class _Pending:
    """A blob of this writer that is not durable yet; its place is known once it is reserved."""

    __slots__ = ("place",)

    def __init__(self) -> None:
        self.place: tuple[PackBuilder, Entry] | None = None


class PackStream:
    """The packs of one writer. `add` is called by many threads at once.

    The first failure ends the stream: every later call raises it, so that no point can be
    committed that refers to a blob which never became durable.
    """

    def __init__(self, contents: Contents, level: int, on_pack: Callable[[], None]) -> None:
        self._contents = contents
        self._level = level
        self._on_pack = on_pack
        self._lock = threading.Lock()
        self._local = threading.local()
        self._pending: dict[bytes, _Pending] = {}
        self._builder: PackBuilder | None = None
        self._buffer: memoryview | None = None
        self._buffers: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        for _ in range(_BUFFERS):
            self._buffers.put(None)
        self._uploads: set[Future[None]] = set()
        self._pool = ThreadPoolExecutor(_UPLOADS, thread_name_prefix="vault-upload")
        self._failure: BaseException | None = None
        self._stored = 0

    def add(self, kind: Kind, blob: bytes, plain: Buffer) -> int:
        """Make sure the vault will hold this blob. The bytes it newly occupies, 0 if none."""
        if self._failure is not None:
            raise self._failure
        if not self._is_new(blob):
            return 0
        return self._store([(blob, plain)], kind)

    def add_chunks(self, chunks: Sequence[Chunk]) -> int:
        """Make sure the vault will hold these chunks of one disk, in their order there; all but
        the last have the vault's chunk size. The bytes they newly occupy."""
        if self._failure is not None:
            raise self._failure
        new = [chunk for chunk in chunks if self._is_new(chunk[0])]
        # Side by side in one pack, whatever other threads do, since a restore wants them together.
        count = max(1, PACK_BYTES // 4 // self._contents.chunk_bytes)
        return sum(
            self._store(new[at : at + count], Kind.CHUNK) for at in range(0, len(new), count)
        )

    def _is_new(self, blob: bytes) -> bool:
        """Whether the caller is the one to store it."""
        if self._contents.index.find(blob) is not None:
            return False
        pending = _Pending()
        # One atomic step decides which thread stores a blob that several bring at once.
        return self._pending.setdefault(blob, pending) is pending

    def _store(self, blobs: Sequence[Chunk], kind: Kind) -> int:
        try:
            pieces = [piece for frame in self._frames(blobs) for piece in self._pack(frame, kind)]
            with self._lock:
                builder, firsts = self._reserve(pieces)
                if kind is Kind.MAP:
                    self._pending[firsts[0].id].place = builder, firsts[0]
            for entry, piece in zip(firsts, pieces, strict=True):
                builder.fill(entry, piece.data)
        except BaseException as error:
            self._failure = self._failure or error
            raise
        return sum(entry.length for entry in firsts)

    def _frames(self, blobs: Sequence[Chunk]) -> Iterator[Sequence[Chunk]]:
        size = self._contents.chunk_bytes
        frame: list[Chunk] = []
        for chunk in blobs:
            frame.append(chunk)
            # After a shorter one, places would not say where a chunk begins.
            if (len(frame) + 1) * size > FRAME_BYTES or len(chunk[1]) != size:
                yield frame
                frame = []
        if frame:
            yield frame

    def _pack(self, blobs: Sequence[Chunk], kind: Kind) -> Iterator[Piece]:
        """Compressed together if that makes them smaller, else each as it is."""
        ids = [blob for blob, _ in blobs]
        plain = blobs[0][1] if len(blobs) == 1 else b"".join(content for _, content in blobs)
        data = self._compressor().compress(plain)
        if len(data) < len(plain):
            yield Piece(ids, data, Codec.ZSTD if len(blobs) == 1 else Codec.FRAME, kind)
            return
        for blob, content in blobs:
            yield Piece([blob], content, Codec.PLAIN, kind)

    def beat(self) -> None:
        """A sign of life also while everything is there already and no pack is stored."""
        self._on_pack()

    def read(self, blob: bytes) -> bytes | None:
        """A part of a map of this writer that is not durable yet, or None."""
        pending = self._pending.get(blob)
        if pending is None:
            return None
        while pending.place is None and self._failure is None:
            time.sleep(0.001)
        if pending.place is None:
            return None
        builder, entry = pending.place
        try:
            return builder.read(entry)
        except PackError:
            return None  # its buffer is in use again: by now the blob is in the store

    def flush(self) -> None:
        """Everything added so far is durable and indexed in memory when this returns."""
        with self._lock:
            self._retire()
            uploads = list(self._uploads)
        for upload in uploads:
            upload.result()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """End the threads and give the memory back; packs under way are still stored.
        Idempotent."""
        self._pool.shutdown(wait=True)
        self._failure = self._failure or ValueError("this stream of packs is closed")
        # Now and not when cycles are collected: the next job of this process takes as much.
        self._pending.clear()
        self._uploads.clear()
        self._builder = self._buffer = None
        while not self._buffers.empty():
            self._buffers.get()

    def _compressor(self) -> zstandard.ZstdCompressor:
        try:
            compressor: zstandard.ZstdCompressor = self._local.compressor
        except AttributeError:
            compressor = self._local.compressor = zstandard.ZstdCompressor(level=self._level)
        return compressor

    def _reserve(self, pieces: Sequence[Piece]) -> tuple[PackBuilder, list[Entry]]:
        while True:
            if self._builder is not None:
                firsts = self._builder.reserve(pieces)
                if firsts is not None:
                    return self._builder, firsts
                self._retire()
            # Waits for an upload when all buffers are under way: this bounds the memory.
            # Uploads never take this lock, so waiting while holding it cannot dead-lock.
            buffer = self._buffers.get()
            if self._failure is not None:
                self._buffers.put(buffer)
                raise self._failure
            if buffer is None:
                # Anonymous memory is given page by page: a small increment stays small.
                buffer = memoryview(mmap.mmap(-1, PACK_BYTES))
            self._buffer = buffer
            self._builder = PackBuilder(self._contents.keys, buffer)

    def _retire(self) -> None:
        if self._builder is None or self._buffer is None:
            return
        builder, buffer = self._builder, self._buffer
        self._builder = self._buffer = None
        upload = self._pool.submit(self._upload, builder, buffer)
        self._uploads = {other for other in self._uploads if not other.done()}
        self._uploads.add(upload)

    def _upload(self, builder: PackBuilder, buffer: memoryview) -> None:
        try:
            if self._failure is not None:
                return
            data = builder.seal()
            name = blake3(data).digest()
            self._contents.store.put(pack_key(name), data)
            entries = tuple(builder.entries)
            self._contents.index.add_pack(PackedRows(name, len(data), entries), saved=False)
            for entry in entries:
                self._pending.pop(entry.id, None)
            self._on_pack()
            self._stored += 1
            if self._stored % _SAVE_INDEX_EVERY == 0:
                self._contents.save_index()
        except BaseException as error:
            self._failure = self._failure or error
            raise
        finally:
            self._buffers.put(buffer)


def close_quietly(stream: PackStream, contents: Contents) -> None:
    """Give up a stream, keeping what is durable findable. Never raises a `Failure`."""
    stream.close()
    with contextlib.suppress(Failure):
        contents.save_index()
