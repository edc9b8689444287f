"""How a connection to a server comes to be, and what one that goes astray ends in."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from pathlib import Path

import nbd_script as script
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbd_script import CONTENT, SIZE, honest, read

from quiesce.block import nbd_wire as wire
from quiesce.block.nbd import NbdSource, NbdTarget
from quiesce.block.nbd_wire import Command, NbdError
from quiesce.model.failure import RestoreFailure, SnapshotFailure, VmFailure


def test_nobody_listening_means_the_vm_is_gone(tmp_path):
    with pytest.raises(VmFailure) as caught:
        NbdSource(tmp_path / "nothing", "disk")
    assert caught.value.code == "vm.gone"


def test_a_process_that_accepts_and_says_nothing_is_unreachable(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with pytest.raises(VmFailure) as caught:
            NbdSource(tmp_path / "s", "disk", handshake_seconds=0.2)
    assert caught.value.code == "vm.unreachable"


def test_a_socket_path_of_any_length_and_script_works(tmp_path, monkeypatch):
    folder = tmp_path / ("tief " * 30) / "ü" / "x"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    server = script.ScriptedServer(Path("nbd"), SIZE, honest)
    source = NbdSource(folder / "nbd", "disk")
    assert read(source, 5, 10) == CONTENT[5:15]
    source.close()
    server.close()


def scripted_handshake(replies):
    """A client end whose server has said all of `replies` already."""
    ours, theirs = socket.socketpair()
    theirs.sendall(script.greeting() + replies)
    theirs.shutdown(socket.SHUT_WR)
    return ours, theirs


@pytest.mark.parametrize(
    "replies",
    [
        script.option_reply(8, wire.OPTION_ERROR_UNSUPPORTED),
        script.option_reply(7, 1),
        script.option_reply(8, 1) + script.option_reply(7, 1),
        script.option_reply(8, 1) + script.option_reply(7, 3, b"\0\0") + script.option_reply(7, 1),
        script.option_reply(8, 3) * 100,
        wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, 8, 1, 2**32 - 1),
        b"\0" * 64,
        b"",
    ],
)
def test_a_handshake_that_goes_astray_ends_in_an_error(replies):
    ours, theirs = scripted_handshake(replies)
    with theirs, pytest.raises(NbdError):
        script.connection_over(ours)


def test_an_export_that_is_no_longer_there_is_said_so(tmp_path, monkeypatch):
    unknown = script.option_reply(wire.Option.GO, wire.OPTION_ERROR_UNKNOWN_EXPORT, b"no export")
    real = script.handshake_for
    monkeypatch.setattr(
        script,
        "handshake_for",
        lambda option, *rest: unknown if option == wire.Option.GO else real(option, *rest),
    )
    server = script.ScriptedServer(tmp_path / "s", SIZE, honest)
    with pytest.raises(SnapshotFailure) as caught:
        NbdSource(server.path, "disk")
    assert caught.value.code == "snapshot.gone"
    server.close()


def test_an_export_without_its_bitmap_is_never_taken_for_unchanged(tmp_path, monkeypatch):
    monkeypatch.setattr(
        script,
        "handshake_for",
        lambda option, payload, size, real=script.handshake_for: real(
            option, payload.replace(b"dirty", b"other"), size
        ),
    )
    server = script.ScriptedServer(tmp_path / "s", SIZE, honest)
    with pytest.raises(SnapshotFailure) as caught:
        NbdSource(server.path, "disk", "b")
    assert caught.value.code == "bitmap.missing"
    server.close()


@pytest.mark.parametrize(("errno", "code"), [(28, "restore.no-space"), (5, "restore.write-failed")])
def test_a_refused_write_tells_a_full_disk_from_a_broken_one(tmp_path, errno, code):
    def refuse(sock, command, cookie, offset, length):
        wire.receive(sock, length if command == Command.WRITE else 0)
        sock.sendall(wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, errno, cookie))

    server = script.ScriptedServer(tmp_path / "s", SIZE, refuse)
    target = NbdTarget(server.path)
    with pytest.raises(RestoreFailure) as caught:
        target.write(0, memoryview(b"x" * 4096))
    assert caught.value.code == code
    target.close()
    server.close()


@settings(max_examples=300, deadline=None)
@given(
    garbage=st.binary(max_size=400),
    flips=st.lists(st.tuples(st.integers(0, 9999), st.integers(1, 255)), max_size=4),
)
def test_fuzzed_answers_give_right_data_or_an_error_and_never_hang(garbage, flips):
    """An honest conversation, bytes of it flipped, garbage behind it."""
    honest_talk = bytearray(
        script.option_reply(8, 1)
        + script.option_reply(10, 4, struct.pack(">I", 7) + b"base:allocation")
        + script.option_reply(10, 1)
        + script.option_reply(7, 3, struct.pack(">HQH", 0, 4096, 1))
        + script.option_reply(7, 1)
        + script.status(1, 7, (4096, 0))
        + script.data(2, 0, CONTENT[:4096])
    )
    for place, mask in flips:
        honest_talk[place % len(honest_talk)] ^= mask
    ours, theirs = scripted_handshake(bytes(honest_talk) + garbage)
    began = time.monotonic()
    with theirs:
        try:
            connection = script.connection_over(ours, "base:allocation")
        except NbdError:
            return
        buffer = bytearray(4096)
        with contextlib.closing(connection), contextlib.suppress(NbdError):
            connection.block_status(0, 4096)
            connection.read(0, memoryview(buffer))
            changed = sum(a != b for a, b in zip(buffer, CONTENT, strict=False))
            assert changed <= len(flips), "bytes came from somewhere else"
    assert time.monotonic() - began < 20, "it waited for bytes that nobody owes"
