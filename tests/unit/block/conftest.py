"""A source on a scripted NBD server."""

from __future__ import annotations

import contextlib

import pytest
from nbd_script import SIZE, ScriptedServer

from quiesce.block.nbd import NbdSource


@pytest.fixture
def serve(tmp_path):
    """Start a scripted server and open a source on it."""
    with contextlib.ExitStack() as opened:

        def start(answer, *, size=SIZE, bitmap=None, **seconds):
            server = ScriptedServer(tmp_path / "nbd", size, answer)
            opened.callback(server.close)
            source = NbdSource(server.path, "disk", bitmap, **seconds)
            opened.callback(source.close)
            return source

        yield start
