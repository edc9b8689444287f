"""Ports of the loopback for servers that a test starts, and for those that it does not."""

from __future__ import annotations

import socket

_KEPT: list[socket.socket] = []


def free_port() -> int:
    """A port where nobody listens, and that nobody else is given while this process lives: a
    socket stays bound to it and never listens. A server that sets SO_REUSEADDR, as all do, may."""
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind(("127.0.0.1", 0))
    _KEPT.append(kept)
    return int(kept.getsockname()[1])
