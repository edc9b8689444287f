"""The transmission phase of one NBD connection, shared by several threads."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from threading import Condition, Lock
from typing import Self

from quiesce.block import nbd_wire as wire
from quiesce.block.nbd_wire import (
    Chunk,
    Command,
    ConnectionLostError,
    Export,
    NbdError,
    ProtocolError,
    RefusedError,
    ServerSilentError,
)

PIECE_BYTES = 1024 * 1024
"""Reads and writes travel in requests of this size: the server then reads one while it sends
another, also when only one thread asks."""

Runs = list[tuple[int, int]]
"""Block status of one context: (length in bytes, flags), in order, without gaps."""


@dataclass(slots=True, eq=False)
class _Request:
    command: Command
    offset: int
    length: int
    into: memoryview | None = None
    received: list[tuple[int, int]] = field(default_factory=list)
    received_bytes: int = 0
    status: dict[int, Runs] = field(default_factory=dict)
    error: NbdError | None = None
    done: bool = False


class Connection:
    """Thread-safe. Requests of several threads are under way at once; whichever thread waits for
    an answer receives for all of them, straight into their buffers, so no thread of its own and
    no copy is needed.

    `silence_seconds` bounds how long the server may owe an answer without sending a byte.
    After any error but RefusedError the connection is dead and every call raises that error.
    """

    def __init__(self, sock: socket.socket, export: Export) -> None:
        self.export = export
        self._sock = sock
        self._sending = Lock()
        self._turn = Condition()
        self._receiving = False
        self._dead: NbdError | None = None
        self._closed = False
        self._cookie = 0
        self._pending: dict[int, _Request] = {}
        self._read_flags = wire.COMMAND_FLAG_DF if wire.ExportFlag.SEND_DF in export.flags else 0

    @classmethod
    def open(
        cls,
        path: Path,
        export: str,
        *,
        contexts: tuple[str, ...] = (),
        silence_seconds: float,
        handshake_seconds: float,
    ) -> Self:
        """Connect to the unix socket at `path` and negotiate.

        :raise NbdError: as `Handshake.run`; ConnectionLostError also when nobody listens
        """
        sock = _connect(path, handshake_seconds)
        return cls.over(
            sock,
            export,
            contexts=contexts,
            silence_seconds=silence_seconds,
            handshake_seconds=handshake_seconds,
        )

    @classmethod
    def over(
        cls,
        sock: socket.socket,
        export: str,
        *,
        contexts: tuple[str, ...] = (),
        silence_seconds: float,
        handshake_seconds: float,
    ) -> Self:
        """Negotiate over a connected socket, which belongs to the connection from here on."""
        try:
            _limit_silence(sock, handshake_seconds)
            agreed = wire.Handshake(sock, seconds=handshake_seconds).run(export, contexts)
            _limit_silence(sock, silence_seconds)
        except BaseException:
            sock.close()
            raise
        return cls(sock, agreed)

    def read(self, offset: int, into: memoryview, *, unit_bytes: int = 0) -> None:
        """Fill `into` with the bytes at `offset`; no request crosses a multiple of `unit_bytes`."""
        self._run(
            [
                _Request(Command.READ, offset + start, len(piece), into=piece)
                for start, piece in self._pieces(into, offset, unit_bytes)
            ]
        )

    def write(self, offset: int, data: memoryview) -> None:
        """Write `data` at `offset`; durable only after `flush`."""
        requests = [
            (_Request(Command.WRITE, offset + start, len(piece)), piece)
            for start, piece in self._pieces(data)
        ]
        self._run([request for request, _ in requests], [piece for _, piece in requests])

    def write_zeroes(self, offset: int, length: int) -> None:
        step = 1 << 30
        self._run(
            [
                _Request(Command.WRITE_ZEROES, at, min(step, offset + length - at))
                for at in range(offset, offset + length, step)
            ]
        )

    def flush(self) -> None:
        """Everything written so far is on stable storage when this returns."""
        self._run([_Request(Command.FLUSH, 0, 0)])

    def block_status(self, offset: int, length: int) -> dict[str, Runs]:
        """Per negotiated context the runs from `offset` on. Each context's runs may end before
        or after `offset + length`, but hold at least one byte."""
        request = _Request(Command.BLOCK_STATUS, offset, length)
        self._run([request])
        contexts = self.export.contexts
        if request.status.keys() != contexts.keys():
            raise self._doom(ProtocolError("block status lacks a negotiated context"))
        return {contexts[number]: runs for number, runs in request.status.items()}

    def close(self) -> None:
        """End the connection; calls under way elsewhere raise ConnectionLostError. Idempotent,
        from any thread."""
        with self._turn:
            if self._closed:
                return
            self._closed = True
        # An error means that the other side was quicker; there is nothing left to say to it.
        with suppress(OSError):
            if self._dead is None and self._sending.acquire(blocking=False):
                try:
                    goodbye = wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, Command.DISCONNECT, 0, 0, 0)
                    self._sock.send(goodbye, socket.MSG_DONTWAIT)
                finally:
                    self._sending.release()
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        # The descriptor may be reused as soon as it is closed, so nobody may be inside it.
        with self._sending, self._turn:
            self._turn.wait_for(lambda: not self._receiving)
            self._dead = self._dead or ConnectionLostError("the connection was closed here")
            self._sock.close()

    def _pieces(
        self, view: memoryview, offset: int = 0, unit_bytes: int = 0
    ) -> list[tuple[int, memoryview]]:
        """`view` in parts of one request each; with `unit_bytes` cut at its multiples."""
        step = min(unit_bytes or PIECE_BYTES, self.export.max_request_bytes)
        first = step - offset % step if unit_bytes else step
        cuts = [0, *range(first, len(view), step), len(view)]
        return [(start, view[start:end]) for start, end in pairwise(cuts) if start < end]

    def _run(self, requests: list[_Request], payloads: list[memoryview] | None = None) -> None:
        """Send all, wait for all (their buffers are in use until then), raise the first error."""
        for number, request in enumerate(requests):
            self._send(request, payloads[number] if payloads else None)
        for request in requests:
            self._wait(request)
        for request in requests:
            if request.error is not None:
                raise request.error

    def _send(self, request: _Request, payload: memoryview | None) -> None:
        flags = self._read_flags if request.command is Command.READ else 0
        with self._sending:
            with self._turn:
                if self._dead is not None or self._closed:
                    request.error = self._dead or ConnectionLostError("the connection is closed")
                    request.done = True
                    return
                self._cookie += 1
                cookie = self._cookie
                self._pending[cookie] = request
            head = wire.REQUEST.pack(
                wire.REQUEST_MAGIC, flags, request.command, cookie, request.offset, request.length
            )
            try:
                wire.send(self._sock, *((head,) if payload is None else (head, payload)))
            except NbdError as error:
                self._doom(error)

    def _wait(self, request: _Request) -> None:
        with self._turn:
            self._turn.wait_for(lambda: request.done or not self._receiving)
            if request.done:
                return
            self._receiving = True
        try:
            while not request.done:
                self._receive_reply()
        except NbdError as error:
            self._fail_pending(self._doom(error))
        finally:
            with self._turn:
                self._receiving = False
                self._turn.notify_all()

    def _doom(self, error: NbdError) -> NbdError:
        """Make the connection unusable and wake whoever receives; the first error is returned."""
        with self._turn:
            self._dead = self._dead or error
            if not self._closed:
                with suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)
            return self._dead

    def _fail_pending(self, error: NbdError) -> None:
        """Only the receiving thread may do this: nobody else knows that no byte is on its way
        into a buffer which its owner takes back once its request is done."""
        with self._turn:
            for request in self._pending.values():
                request.error = request.error or error
                request.done = True
            self._pending.clear()

    def _receive_reply(self) -> None:
        head = wire.receive(self._sock, wire.REPLY_HEAD.size)
        magic, cookie = wire.REPLY_HEAD.unpack(head)
        with self._turn:
            request = self._pending.get(cookie)
        if request is None:
            raise ProtocolError("an answer came to a question never asked")
        if magic == wire.SIMPLE_REPLY_MAGIC:
            errno = wire.SIMPLE_REPLY.unpack(head)[1]
            if errno:
                request.error = request.error or RefusedError(errno, "")
            elif request.command in (Command.READ, Command.BLOCK_STATUS):
                raise ProtocolError("a simple reply to a request that needs a structured one")
            self._finish(cookie, request)
            return
        if magic != wire.STRUCTURED_REPLY_MAGIC:
            raise ProtocolError(f"a reply begins with {magic:#010x}")
        length = wire.U32.unpack(wire.receive(self._sock, wire.U32.size))[0]
        _, flags, kind, _, _ = wire.STRUCTURED_REPLY.unpack(head + wire.U32.pack(length))
        self._take_chunk(request, kind, length)
        if flags & wire.REPLY_FLAG_DONE:
            if request.command is Command.READ and request.error is None:
                _require_whole(request)
            self._finish(cookie, request)

    def _take_chunk(self, request: _Request, kind: int, length: int) -> None:
        into, head = request.into, wire.U64.size
        if kind & wire.CHUNK_ERROR_BIT:
            self._take_error(request, length)
        elif kind == Chunk.NONE and length == 0:
            pass
        elif kind == Chunk.OFFSET_DATA and into and head < length <= head + request.length:
            start = wire.U64.unpack(wire.receive(self._sock, head))[0] - request.offset
            wire.receive_into(self._sock, _claim(request, into, start, length - head))
        elif kind == Chunk.OFFSET_HOLE and into and length == 12:
            start, count = struct.unpack(">QI", wire.receive(self._sock, 12))
            hole = _claim(request, into, start - request.offset, count)
            hole[:] = bytes(len(hole))
        elif kind == Chunk.BLOCK_STATUS and request.command is Command.BLOCK_STATUS:
            self._take_status(request, length)
        else:
            raise ProtocolError(f"chunk type {kind} of {length} bytes does not fit its request")

    def _take_error(self, request: _Request, length: int) -> None:
        if not 6 <= length <= wire.MAX_ERROR_PAYLOAD_BYTES:
            raise ProtocolError(f"an error reply claims {length} bytes")
        payload = wire.receive(self._sock, length)
        errno, text_bytes = struct.unpack_from(">IH", payload)
        text = payload[6 : 6 + text_bytes].decode(errors="replace")
        if errno == 0:
            raise ProtocolError("an error reply without an error")
        request.error = request.error or RefusedError(errno, text)

    def _take_status(self, request: _Request, length: int) -> None:
        entries, rest = divmod(length - wire.U32.size, wire.STATUS_ENTRY.size)
        if entries < 1 or rest or length > wire.MAX_STATUS_PAYLOAD_BYTES:
            raise ProtocolError(f"a block status of {length} bytes")
        payload = wire.receive(self._sock, length)
        context = wire.U32.unpack_from(payload)[0]
        if context not in self.export.contexts or context in request.status:
            raise ProtocolError("block status for a context not asked for, or twice")
        runs = list(wire.STATUS_ENTRY.iter_unpack(memoryview(payload)[wire.U32.size :]))
        if any(count == 0 for count, _ in runs):
            raise ProtocolError("block status holds an empty run")
        request.status[context] = runs

    def _finish(self, cookie: int, request: _Request) -> None:
        with self._turn:
            self._pending.pop(cookie, None)
            request.done = True
            self._turn.notify_all()


def _claim(request: _Request, into: memoryview, start: int, count: int) -> memoryview:
    """The part of the caller's buffer that a chunk may fill."""
    request.received_bytes += count
    if start < 0 or count < 1 or start + count > request.length:
        raise ProtocolError("data outside the range that was asked for")
    if request.received_bytes > request.length:
        raise ProtocolError("more data than was asked for")
    request.received.append((start, count))
    return into[start : start + count]


def _require_whole(request: _Request) -> None:
    """Chunks may come in any order, but must cover the request without overlap: a buffer with a
    gap would hold another request's bytes."""
    position = 0
    for start, count in sorted(request.received):
        if start != position:
            break
        position += count
    if position != request.length:
        raise ProtocolError("a read was answered with gaps")


def _limit_silence(sock: socket.socket, seconds: float) -> None:
    whole = int(seconds)
    value = struct.pack("ll", whole, int((seconds - whole) * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)


def _connect(path: Path, seconds: float) -> socket.socket:
    """A unix socket's address holds 107 bytes at most; going through the folder's descriptor
    makes any path fit."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _limit_silence(sock, seconds)
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.connect(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
    except BlockingIOError as error:
        sock.close()
        raise ServerSilentError("the connection was not accepted in time") from error
    except OSError as error:
        sock.close()
        raise ConnectionLostError(str(error)) from error
    return sock
