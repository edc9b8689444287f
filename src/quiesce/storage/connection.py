"""One guest's connection: uvicorn's HTTP/1.1 with the time limits that a hostile peer needs.

uvicorn bounds how long a connection may be idle after an answer, and nothing else. Here also:
idle before the first request, a request's header that does not come to its end, a body that goes on
after its request was answered, and an answer that is not read.
"""

from __future__ import annotations

import asyncio
import logging

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from quiesce.storage.crowd import Visit
from quiesce.storage.refusal import Refusal

IDLE_SECONDS = 180
"""A guest connects before it freezes, and its preparation may take as long as a hold does."""
_HEADER_SECONDS = 10
_LINGER_SECONDS = 5
_STALL_SECONDS = 60
_UNREAD_BYTES = 64 * 1024
"""Of an answer, in this process; asyncio's own limit is 512 KiB."""


class Connection(H11Protocol):
    def __init__(self, config: Config, state: ServerState, visit: Visit) -> None:
        """The application finds `visit` in the state of each request's scope."""
        super().__init__(config, state, {"visit": visit}, asyncio.get_running_loop())
        self.logger = logging.getLogger("quiesce.storage.http")
        self.logger.setLevel(logging.ERROR)  # a peer's bad requests are not our log's matter
        self.access_log = False  # a line of it has the whole URL in it, signature included
        self._visit = visit
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(_UNREAD_BYTES)
        self._wait_for_a_request()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._owe_nothing()
        self._read_again()
        self._visit.left()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        self._visit.answered()
        super().on_response_complete()
        self._watch()

    def shutdown(self) -> None:
        """An idle peer need not agree to the end: it may be a guest that is off."""
        if self.transport.is_closing():
            return  # closing twice would lose the TLS layer, and with it the way to abort
        super().shutdown()
        if self.transport.is_closing() and not self.transport.get_write_buffer_size():
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(_STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_again()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()  # its answer is under way: nothing can be said any more
            return
        body = Refusal(400, "InvalidInput", "The request is no valid HTTP/1.1 request.").body("-")
        headers = [
            ("Content-Type", "application/xml"),
            ("Content-Length", str(len(body))),
            ("x-ms-error-code", "InvalidInput"),
            ("Connection", "close"),
        ]
        events: list[h11.Event] = [
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ]
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _watch(self) -> None:
        """Arm the time limit of what the peer now owes us, if it owes us anything."""
        theirs, answered = self.conn.their_state, self.conn.our_state is h11.DONE
        if self.transport.is_closing():
            self._owe_nothing()
        elif theirs is h11.IDLE and self.conn.trailing_data[0]:
            self._expect_within(_HEADER_SECONDS)
        elif theirs is h11.SEND_BODY and answered:
            self._expect_within(_LINGER_SECONDS)
        else:
            self._owe_nothing()
            if theirs is h11.IDLE:
                self._wait_for_a_request()

    def _expect_within(self, seconds: float) -> None:
        """Counted from when it was first owed: a byte now and then does not put it off."""
        if self._deadline is None:
            self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _wait_for_a_request(self) -> None:
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                IDLE_SECONDS, self.timeout_keep_alive_handler
            )

    def _owe_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _read_again(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
