"""The NBD protocol's bytes and its handshake, client side.

Source of every number: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
(fixed newstyle negotiation, structured replies, meta contexts). All integers are big-endian.

    handshake   S: "NBDMAGIC" "IHAVEOPT" flags:u16     C: flags:u32
    option      C: "IHAVEOPT" option:u32 length:u32 data
                S: magic:u64 option:u32 type:u32 length:u32 data
    request     C: magic:u32 flags:u16 type:u16 cookie:u64 offset:u64 length:u32
    simple      S: magic:u32 error:u32 cookie:u64
    structured  S: magic:u32 flags:u16 type:u16 cookie:u64 length:u32 payload

The server is not trusted: every length it sends is bounded before a byte of it is kept.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

MAX_OPTION_REPLY_BYTES = 64 * 1024
MAX_OPTION_REPLIES = 64
MAX_STATUS_PAYLOAD_BYTES = 8 * 1024 * 1024
MAX_ERROR_PAYLOAD_BYTES = 4096 + 16
MAX_REQUEST_BYTES = 32 * 1024 * 1024
"""What every server accepts in one request unless it says otherwise."""

SERVER_GREETING = struct.Struct(">8s8sH")
OPTION = struct.Struct(">8sII")
OPTION_REPLY = struct.Struct(">QIII")
REQUEST = struct.Struct(">IHHQQI")
REPLY_HEAD = struct.Struct(">I4xQ")
SIMPLE_REPLY = struct.Struct(">IIQ")
STRUCTURED_REPLY = struct.Struct(">IHHQI")
STATUS_ENTRY = struct.Struct(">II")
U32 = struct.Struct(">I")
U64 = struct.Struct(">Q")

NBD_MAGIC = b"NBDMAGIC"
OPTION_MAGIC = b"IHAVEOPT"
OPTION_REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF

HANDSHAKE_FIXED_NEWSTYLE = 1
HANDSHAKE_NO_ZEROES = 2


class Option(IntEnum):
    ABORT = 2
    GO = 7
    STRUCTURED_REPLY = 8
    SET_META_CONTEXT = 10


class OptionReply(IntEnum):
    ACK = 1
    INFO = 3
    META_CONTEXT = 4


OPTION_ERROR_BIT = 1 << 31
OPTION_ERROR_UNSUPPORTED = OPTION_ERROR_BIT | 1
OPTION_ERROR_UNKNOWN_EXPORT = OPTION_ERROR_BIT | 6

INFO_EXPORT = 0
INFO_BLOCK_SIZE = 3


class ExportFlag(IntFlag):
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7


class Command(IntEnum):
    READ = 0
    WRITE = 1
    DISCONNECT = 2
    FLUSH = 3
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


COMMAND_FLAG_DF = 1 << 2
REPLY_FLAG_DONE = 1


class Chunk(IntEnum):
    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    ERROR = (1 << 15) | 1
    ERROR_OFFSET = (1 << 15) | 2


CHUNK_ERROR_BIT = 1 << 15

STATUS_ZERO = 2
"""`base:allocation`: reads as zeros. (Bit 0, "hole", says nothing about what is read.)"""
STATUS_DIRTY = 1
"""`qemu:dirty-bitmap:…`: changed since the bitmap began."""

BASE_ALLOCATION = "base:allocation"


class NbdError(Exception):
    """What can go wrong on one connection; it never leaves `quiesce.block`."""


class ConnectionLostError(NbdError):
    """The other side ended the connection, or this side did."""


class ServerSilentError(NbdError):
    """An answer is owed and nothing came for the whole time allowed."""


class ProtocolError(NbdError):
    """The server sent what the protocol forbids, or does not offer what is needed."""


class UnknownExportError(NbdError):
    """The server has no export of that name."""


class RefusedError(NbdError):
    """The server answered a request with an error. `errno` is NBD's, which is Linux's."""

    def __init__(self, errno: int, message: str) -> None:
        super().__init__(f"NBD error {errno}" + (f": {message}" if message else ""))
        self.errno = errno
        self.message = message


@dataclass(frozen=True, slots=True)
class Export:
    """What the server said of the export. `contexts` maps context ids to their names."""

    name: str
    size_bytes: int
    flags: ExportFlag
    max_request_bytes: int
    contexts: dict[int, str]


def receive_into(sock: socket.socket, view: memoryview) -> None:
    """Fill `view`. One system call for any length: the socket blocks, bounded by SO_RCVTIMEO."""
    while view:
        try:
            count = sock.recv_into(view, len(view), socket.MSG_WAITALL)
        except BlockingIOError as error:
            raise ServerSilentError("no byte of an owed answer came in time") from error
        except OSError as error:
            raise ConnectionLostError(str(error)) from error
        if count == 0:
            raise ConnectionLostError("the connection was closed")
        view = view[count:]


def receive(sock: socket.socket, length: int) -> bytes:
    buffer = bytearray(length)
    receive_into(sock, memoryview(buffer))
    return bytes(buffer)


def send(sock: socket.socket, *parts: bytes | memoryview) -> None:
    try:
        for part in parts:
            sock.sendall(part)
    except BlockingIOError as error:
        raise ServerSilentError("the server took no byte of a request in time") from error
    except OSError as error:
        raise ConnectionLostError(str(error)) from error


class Handshake:
    """One negotiation up to the transmission phase, within `seconds` altogether."""

    def __init__(self, sock: socket.socket, *, seconds: float) -> None:
        self._sock = sock
        self._deadline = time.monotonic() + seconds

    def run(self, export: str, contexts: Sequence[str]) -> Export:
        """Agree on fixed newstyle, structured replies, `contexts` and the export.

        :raise UnknownExportError: no such export
        :raise ProtocolError: not NBD, no structured replies, or a malformed answer
        :raise ConnectionLostError, ServerSilentError: as the names say
        """
        self._greet()
        kind, _ = self._ask(Option.STRUCTURED_REPLY, b"")[-1]
        if kind != OptionReply.ACK:
            raise ProtocolError("the server offers no structured replies")
        name = export.encode()
        found = self._set_contexts(name, contexts) if contexts else {}
        return self._go(export, name, found)

    def _greet(self) -> None:
        magic, options, flags = SERVER_GREETING.unpack(self._receive(SERVER_GREETING.size))
        if magic != NBD_MAGIC or options != OPTION_MAGIC or not flags & HANDSHAKE_FIXED_NEWSTYLE:
            raise ProtocolError("the server does not speak fixed newstyle NBD")
        answer = HANDSHAKE_FIXED_NEWSTYLE | (flags & HANDSHAKE_NO_ZEROES)
        send(self._sock, U32.pack(answer))

    def _set_contexts(self, name: bytes, contexts: Sequence[str]) -> dict[int, str]:
        query = U32.pack(len(name)) + name + U32.pack(len(contexts))
        for context in contexts:
            query += U32.pack(len(context.encode())) + context.encode()
        found: dict[int, str] = {}
        for kind, data in self._ask(Option.SET_META_CONTEXT, query):
            if kind == OptionReply.META_CONTEXT:
                if len(data) < U32.size:
                    raise ProtocolError("a meta context answer is too short")
                found[U32.unpack_from(data)[0]] = data[U32.size :].decode(errors="replace")
            elif kind == OPTION_ERROR_UNKNOWN_EXPORT:
                raise UnknownExportError(data.decode(errors="replace"))
        return found

    def _go(self, export: str, name: bytes, contexts: dict[int, str]) -> Export:
        # The block size is not asked for: a server that was not asked must take requests of any
        # alignment, which the end of a disk of odd size needs.
        replies = self._ask(Option.GO, U32.pack(len(name)) + name + b"\0\0")
        kind, data = replies[-1]
        if kind == OPTION_ERROR_UNKNOWN_EXPORT:
            raise UnknownExportError(data.decode(errors="replace"))
        if kind != OptionReply.ACK:
            raise ProtocolError(
                f"the server refused the export with option error {kind & ~OPTION_ERROR_BIT}: "
                + data.decode(errors="replace")
            )
        size: int | None = None
        flags, limit = 0, MAX_REQUEST_BYTES
        for _, info in replies[:-1]:
            what = int.from_bytes(info[:2])
            if what == INFO_EXPORT and len(info) == 12:
                size, flags = struct.unpack_from(">QH", info, 2)
            elif what == INFO_BLOCK_SIZE and len(info) == 14:
                limit = min(limit, struct.unpack_from(">I", info, 10)[0])
        if size is None or size >= 1 << 63 or limit < 1:
            raise ProtocolError("the server told no believable size of the export")
        return Export(export, size, ExportFlag(flags), limit, contexts)

    def _ask(self, option: Option, data: bytes) -> list[tuple[int, bytes]]:
        """All replies to one option; the last is the acknowledgement or the error."""
        send(self._sock, OPTION.pack(OPTION_MAGIC, option, len(data)), data)
        replies: list[tuple[int, bytes]] = []
        while len(replies) < MAX_OPTION_REPLIES:
            magic, echoed, kind, length = OPTION_REPLY.unpack(self._receive(OPTION_REPLY.size))
            if magic != OPTION_REPLY_MAGIC or echoed != option:
                raise ProtocolError("an option was answered with something else")
            if length > MAX_OPTION_REPLY_BYTES:
                raise ProtocolError(f"an option reply claims {length} bytes")
            replies.append((kind, self._receive(length)))
            if kind == OptionReply.ACK or kind & OPTION_ERROR_BIT:
                return replies
        raise ProtocolError("an option was answered without end")

    def _receive(self, length: int) -> bytes:
        if time.monotonic() > self._deadline:
            raise ServerSilentError("the handshake did not end in time")
        return receive(self._sock, length)
