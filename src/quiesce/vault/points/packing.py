"""From plain blobs to stored packs: deduplicate, compress, encrypt into the pack, upload."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from blake3 import blake3

from quiesce.model.failure import Failure
from quiesce.model.pages import huge_pages
from quiesce.vault.contents.contents import Contents
from quiesce.vault.format.diskmap import ZERO_ID
from quiesce.vault.format.frames import FRAME_BYTES, Frames
from quiesce.vault.format.pack import (
    Entry,
    Kind,
    PackBuilder,
    PackError,
    Piece,
    pack_key,
)
from quiesce.vault.format.segment import PackedRows
from quiesce.vault.stores.files import Buffer

PACK_BYTES = 12 * 1024 * 1024
"""What a writer fills; the format allows more."""
_UPLOADS = 3
_BUFFERS = _UPLOADS + 1
"""One pack is filled while others are on their way: 48 MiB, whatever the disk's size. For a folder,
too, more than its `Store.uploads_at_once`: one pack is hashed while another is written."""
_SAVE_INDEX_EVERY = 64
_TOGETHER_BYTES = 2 * 1024 * 1024
"""What is stored side by side, whatever other threads do, since a restore reads it at once."""

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
        self._together = max(1, min(_TOGETHER_BYTES, PACK_BYTES // 4) // contents.chunk_bytes)
        self._frames = Frames(contents.chunk_bytes, min(FRAME_BYTES, PACK_BYTES // 4), level)
        self._on_pack = on_pack
        self._lock = threading.Lock()
        self._pending: dict[bytes, _Pending] = {}
        self._builder: PackBuilder | None = None
        self._buffer: memoryview | None = None
        self._buffers: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        for _ in range(_BUFFERS):
            self._buffers.put(None)
        self._uploads: set[Future[None]] = set()
        self._pool = ThreadPoolExecutor(_UPLOADS, thread_name_prefix="vault-upload")
        self._failure: BaseException | None = None
        self._stored = itertools.count(1)

    def add(self, kind: Kind, blob: bytes, plain: Buffer) -> int:
        """Make sure the vault will hold this blob. The bytes it newly occupies, 0 if none."""
        if not self._new([blob]):
            return 0
        return self._store(lambda: [self._frames.of_blob(kind, blob, plain)])

    def add_chunks(self, chunks: Sequence[Chunk]) -> int:
        """Make sure the vault will hold these chunks, in an order in which they should lie. The
        bytes they newly occupy."""
        stored = 0
        run: list[Chunk] = []
        for chunk in chunks:
            run.append(chunk)
            # After a shorter one, places would not say where a chunk begins.
            if len(chunk[1]) != self._contents.chunk_bytes:
                stored += self._add_joined(run)
                run = []
        return stored + self._add_joined(run)

    def add_run(self, ids: Sequence[bytes], data: memoryview) -> int:
        """As `add_chunks`, for neighbours: the chunks that `data` is made of, of which only the
        last may be shorter than the vault's. Those with the id of zeros are passed over."""
        new = self._new(ids)
        stored = 0
        for at in range(0, len(new), self._together):
            places = new[at : at + self._together]
            stored += self._store(partial(self._frames.of_run, ids, data, places))
        return stored

    def add_packed(self, piece: Piece, plain: Buffer) -> int:
        """As `add_run`, of what another pack of this vault held in one range, as it was compressed
        there; `plain` is what that opens to. A frame is compressed anew only where some of its
        chunks are held already, or where it is longer than frames are here."""
        new = self._new(piece.ids)
        if not new:
            return 0
        alone = len(piece.ids) == 1
        if alone or (len(new) == len(piece.ids) and self._frames.may_hold(plain)):
            return self._store(lambda: [piece])
        return self._store(partial(self._frames.of_run, piece.ids, memoryview(plain), new))

    def _add_joined(self, run: Sequence[Chunk]) -> int:
        data = b"".join(content for _, content in run)
        return self.add_run([blob for blob, _ in run], memoryview(data))

    def _new(self, ids: Sequence[bytes]) -> list[int]:
        """Places of those that the caller is the one to store."""
        if self._failure is not None:
            raise self._failure
        new = []
        for number, held in enumerate(self._contents.index.holds(ids)):
            if not held and ids[number] != ZERO_ID:
                pending = _Pending()
                # One atomic step decides which thread stores a blob that several bring at once.
                if self._pending.setdefault(ids[number], pending) is pending:
                    new.append(number)
        return new

    def _store(self, pieces_of: Callable[[], Iterable[Piece]]) -> int:
        try:
            pieces = list(pieces_of())
            with self._lock:
                builder, firsts = self._reserve(pieces)
                if firsts[0].kind is Kind.MAP:
                    self._pending[firsts[0].id].place = builder, firsts[0]
            builder.fill(firsts, pieces)
        except BaseException as error:
            self._failure = self._failure or error
            raise
        return sum(entry.length for entry in firsts)

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
                buffer = huge_pages(PACK_BYTES)
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
            if next(self._stored) % _SAVE_INDEX_EVERY == 0:
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
