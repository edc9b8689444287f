"""A small NBD server in a thread, whose answers a test may bend."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from quiesce.block import nbd_wire as wire
from quiesce.block.nbd import NbdSource
from quiesce.block.nbd_connection import Connection

ALLOCATION_ID, DIRTY_ID = 7, 9
SIZE = 8 << 20
CONTENT = random.Random(0).randbytes(SIZE)


def chunk(cookie: int, kind: int, payload: bytes, *, done: bool = True) -> bytes:
    head = wire.STRUCTURED_REPLY.pack(
        wire.STRUCTURED_REPLY_MAGIC, int(done), kind, cookie, len(payload)
    )
    return head + payload


def data(cookie: int, offset: int, content: bytes, *, done: bool = True) -> bytes:
    return chunk(cookie, wire.Chunk.OFFSET_DATA, struct.pack(">Q", offset) + content, done=done)


def hole(cookie: int, offset: int, length: int, *, done: bool = True) -> bytes:
    return chunk(cookie, wire.Chunk.OFFSET_HOLE, struct.pack(">QI", offset, length), done=done)


def error(cookie: int, errno: int, text: str = "") -> bytes:
    words = text.encode()
    return chunk(cookie, wire.Chunk.ERROR, struct.pack(">IH", errno, len(words)) + words)


def status(cookie: int, context: int, *runs: tuple[int, int], done: bool = True) -> bytes:
    payload = struct.pack(">I", context) + b"".join(struct.pack(">II", *run) for run in runs)
    return chunk(cookie, wire.Chunk.BLOCK_STATUS, payload, done=done)


def greeting() -> bytes:
    return wire.SERVER_GREETING.pack(
        wire.NBD_MAGIC, wire.OPTION_MAGIC, wire.HANDSHAKE_FIXED_NEWSTYLE | wire.HANDSHAKE_NO_ZEROES
    )


def option_reply(option: int, kind: int, payload: bytes = b"") -> bytes:
    return wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, option, kind, len(payload)) + payload


def handshake_for(option: int, payload: bytes, size: int) -> bytes:
    """What an honest server answers to one option, offering every context asked for."""
    if option == wire.Option.SET_META_CONTEXT:
        answers = b""
        if b"base:allocation" in payload:
            answers += option_reply(
                option, 4, struct.pack(">I", ALLOCATION_ID) + b"base:allocation"
            )
        at = payload.find(b"qemu:dirty-bitmap:")
        if at >= 0:
            answers += option_reply(option, 4, struct.pack(">I", DIRTY_ID) + payload[at:])
        return answers + option_reply(option, wire.OptionReply.ACK)
    if option == wire.Option.GO:
        info = struct.pack(">HQH", wire.INFO_EXPORT, size, 1)
        return option_reply(option, wire.OptionReply.INFO, info) + option_reply(option, 1)
    return option_reply(option, wire.OptionReply.ACK)


Answer = Callable[[socket.socket, int, int, int, int], None]
"""sock, command, cookie, offset, length → sends whatever it wants."""


class ScriptedServer:
    """Listens on a unix socket; one client at a time; `answer` is called for every request."""

    def __init__(self, path: Path, size: int, answer: Answer) -> None:
        self.path = path
        self._size = size
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        with client:
            try:
                serve_handshake(client, self._size)
                while True:
                    head = wire.receive(client, wire.REQUEST.size)
                    _, _, command, cookie, offset, length = wire.REQUEST.unpack(head)
                    if command == wire.Command.DISCONNECT:
                        return
                    self._answer(client, command, cookie, offset, length)
            except (wire.NbdError, OSError):
                return

    def close(self) -> None:
        self._listener.close()
        self._thread.join(5)


def serve_handshake(client: socket.socket, size: int) -> None:
    client.sendall(greeting())
    wire.receive(client, 4)
    option = -1
    while option != wire.Option.GO:
        _, option, length = wire.OPTION.unpack(wire.receive(client, wire.OPTION.size))
        client.sendall(handshake_for(option, wire.receive(client, length), size))


def connection_over(sock: socket.socket, *contexts: str) -> Connection:
    return Connection.over(
        sock, "x", contexts=contexts, silence_seconds=60.0, handshake_seconds=60.0
    )


def read(source: NbdSource, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    source.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def honest(sock: socket.socket, command: int, cookie: int, offset: int, length: int) -> None:
    assert command == wire.Command.READ
    sock.sendall(data(cookie, offset, CONTENT[offset : offset + length]))
