"""The NBD client against a server whose answers are bent."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections import deque

import nbd_script as script
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiesce.block import nbd_wire as wire
from quiesce.block.nbd import NbdSource, NbdTarget
from quiesce.block.nbd_wire import Command, NbdError
from quiesce.model.extent import Extent, ExtentKind
from quiesce.model.failure import (
    Failure,
    RestoreFailure,
    SnapshotFailure,
    StorageFailure,
    VmFailure,
)

DATA, ZERO, CLEAN = ExtentKind.DATA, ExtentKind.ZERO, ExtentKind.CLEAN
SIZE = 8 << 20
CONTENT = random.Random(0).randbytes(SIZE)


@pytest.fixture
def serve(tmp_path):
    """Start a scripted server and open a source on it."""
    with contextlib.ExitStack() as opened:

        def start(answer, *, size=SIZE, bitmap=None, **seconds):
            server = script.ScriptedServer(tmp_path / "nbd", size, answer)
            opened.callback(server.close)
            source = NbdSource(server.path, "disk", bitmap, **seconds)
            opened.callback(source.close)
            return source

        yield start


def read(source, offset, length):
    buffer = bytearray(length)
    source.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def honest(sock, command, cookie, offset, length):
    assert command == Command.READ
    sock.sendall(script.data(cookie, offset, CONTENT[offset : offset + length]))


def test_many_threads_share_one_connection(serve):
    source = serve(honest)
    wrong = []

    def reader(seed):
        dice = random.Random(seed)
        for _ in range(30):
            offset = dice.randrange(SIZE)
            length = dice.randrange(1, min(SIZE - offset, 3 << 20) + 1)
            if read(source, offset, length) != CONTENT[offset : offset + length]:
                wrong.append(offset)

    threads = [threading.Thread(target=reader, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert not any(thread.is_alive() for thread in threads)


def test_answers_in_any_order_reach_their_own_buffers(serve):
    waiting: deque[tuple[int, int, int]] = deque()

    def backwards(sock, command, cookie, offset, length):
        waiting.append((cookie, offset, length))
        if len(waiting) == 4:
            while waiting:
                late = waiting.pop()
                sock.sendall(script.data(late[0], late[1], CONTENT[late[1] : late[1] + late[2]]))

    assert read(serve(backwards), 0, 4 << 20) == CONTENT[: 4 << 20]


def test_a_read_answered_in_fragments_and_holes_is_whole(serve):
    def fragments(sock, command, cookie, offset, length):
        third = length // 3
        sock.sendall(
            script.data(cookie, offset + third, CONTENT[third : 2 * third], done=False)
            + script.hole(cookie, offset + 2 * third, length - 2 * third, done=False)
            + script.data(cookie, offset, CONTENT[:third], done=False)
            + script.chunk(cookie, wire.Chunk.NONE, b"")
        )

    third = 999_999 // 3
    expected = CONTENT[: 2 * third] + bytes(999_999 - 2 * third)
    assert read(serve(fragments), 0, 999_999) == expected


@pytest.mark.parametrize(
    "lie",
    [
        lambda c, o, n: script.data(c, o, b"x" * (n - 1)),
        lambda c, o, n: script.data(c, o, b"x" * (n + 1)),
        lambda c, o, n: script.data(c, o + 1, b"x" * n),
        lambda c, o, n: script.data(c, o - 1 if o else 2**64 - 1, b"x" * n),
        lambda c, o, n: script.hole(c, o, 2**32 - 1),
        lambda c, o, n: script.hole(c, o, 0),
        lambda c, o, n: script.data(c, o, b"x" * 9, done=False) + script.data(c, o, b"x" * (n - 9)),
        lambda c, o, n: script.data(c + 1, o, b"x" * n),
        lambda c, o, n: script.chunk(c, wire.Chunk.NONE, b""),
        lambda c, o, n: script.chunk(c, 4711, b"x" * n),
        lambda c, o, n: script.error(c, 0),
        lambda c, o, n: script.status(c, script.ALLOCATION_ID, (n, 0)),
        lambda c, o, n: wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, 0, c),
        lambda c, o, n: struct.pack(">IHHQI", wire.STRUCTURED_REPLY_MAGIC, 1, 1, c, 2**32 - 1),
        lambda c, o, n: struct.pack(">IHHQI", wire.STRUCTURED_REPLY_MAGIC, 1, 32769, c, 2**32 - 1),
        lambda c, o, n: b"HTTP/1.1 200 OK\r\nServer: no\r\n\r\n",
    ],
)
def test_a_lying_server_is_found_out_and_never_believed(serve, lie):
    source = serve(lambda sock, _, cookie, offset, n: sock.sendall(lie(cookie, offset, n)))
    with pytest.raises(StorageFailure) as caught:
        read(source, 4096, 4096)
    assert caught.value.code == "storage.nbd-protocol"
    assert caught.value.evidence[0].raw


def test_a_short_answer_at_the_end_of_a_connection_means_the_vm_is_gone(serve):
    def dies(sock, command, cookie, offset, length):
        sock.sendall(script.data(cookie, offset, CONTENT[:length])[:-1])
        sock.close()

    with pytest.raises(VmFailure) as caught:
        read(serve(dies), 0, 4096)
    assert caught.value.code == "vm.gone"


def test_a_silent_server_is_given_up_after_its_time(serve):
    source = serve(lambda *_: None, silence_seconds=0.3)
    began = time.monotonic()
    with pytest.raises(StorageFailure) as caught:
        read(source, 0, 4096)
    assert caught.value.code == "storage.slow"
    assert 0.2 < time.monotonic() - began < 5


def test_a_server_that_is_slow_but_alive_is_waited_for(serve):
    def dribble(sock, command, cookie, offset, length):
        reply = script.data(cookie, offset, CONTENT[offset : offset + length])
        for start in range(0, len(reply), len(reply) // 4):
            sock.sendall(reply[start : start + len(reply) // 4])
            time.sleep(0.15)

    assert read(serve(dribble, silence_seconds=0.4), 0, 4096) == CONTENT[:4096]


def test_closing_wakes_every_thread_that_waits_for_an_answer(serve):
    asked = threading.Semaphore(0)
    source = serve(lambda *_: asked.release())
    failures: list[Failure] = []

    def wait():
        try:
            read(source, 0, 4096)
        except Failure as failure:
            failures.append(failure)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert asked.acquire(timeout=10)
    source.close()
    for thread in threads:
        thread.join(5)
    assert [failure.code for failure in failures] == ["vm.gone"] * 3
    with pytest.raises(VmFailure):
        read(source, 0, 4096)


def test_a_refused_read_of_a_working_snapshot_is_an_io_error_of_that_place(serve):
    def refuse_one(sock, command, cookie, offset, length):
        if offset == 8192:
            sock.sendall(script.error(cookie, 22, "reading from file failed"))
        else:
            honest(sock, command, cookie, offset, length)

    source = serve(refuse_one)
    read(source, 0, 4096)
    with pytest.raises(StorageFailure) as caught:
        read(source, 8192, 4096)
    assert caught.value.code == "storage.io-error"
    assert "reading from file failed" in caught.value.evidence[0].raw
    assert read(source, 0, 4096) == CONTENT[:4096]


def test_a_snapshot_that_refuses_what_it_gave_before_is_broken(serve):
    broken = threading.Event()

    def breaks(sock, command, cookie, offset, length):
        if broken.is_set():
            sock.sendall(script.error(cookie, 22, "reading from file failed"))
        else:
            honest(sock, command, cookie, offset, length)

    source = serve(breaks)
    read(source, 4096, 4096)
    broken.set()
    with pytest.raises(StorageFailure) as caught:
        read(source, 8192, 4096)
    assert caught.value.code == "storage.scratch-full"
    assert "answered before" in caught.value.evidence[1].fact


def test_an_io_error_is_named_with_its_place(serve):
    source = serve(lambda sock, _, cookie, *rest: sock.sendall(script.error(cookie, 5, "bad disk")))
    with pytest.raises(StorageFailure) as caught:
        read(source, 4096, 4096)
    assert caught.value.code == "storage.io-error"
    assert "4096 bytes at 4096" in caught.value.evidence[0].fact


def described(allocation, dirty=None):
    def answer(sock, command, cookie, offset, length):
        assert command == Command.BLOCK_STATUS
        if dirty is not None:
            sock.sendall(script.status(cookie, script.DIRTY_ID, *dirty, done=False))
        sock.sendall(script.status(cookie, script.ALLOCATION_ID, *allocation))

    return answer


def test_extents_are_what_is_dirty_and_what_of_it_is_allocated(serve):
    answer = described([(4096, 0), (8192, 3), (4096, 1)], [(8192, 1), (6000, 0), (2192, 1)])
    assert list(serve(answer, size=16384, bitmap="b").extents()) == [
        Extent(0, 4096, DATA),
        Extent(4096, 4096, ZERO),
        Extent(8192, 6000, CLEAN),
        Extent(14192, 2192, DATA),
    ]


def test_status_that_goes_beyond_the_disk_ends_with_the_disk(serve):
    assert list(serve(described([(1 << 31, 3)]), size=1000).extents()) == [Extent(0, 1000, ZERO)]


def test_status_told_in_small_pieces_is_asked_on_and_joined(serve):
    assert list(serve(described([(512, 0)]), size=5120).extents()) == [Extent(0, 5120, DATA)]


@pytest.mark.parametrize(
    "lie",
    [
        lambda c: script.status(c, script.ALLOCATION_ID, (0, 0)),
        lambda c: script.status(c, 4711, (4096, 0)),
        lambda c: script.status(c, script.ALLOCATION_ID),
        lambda c: script.chunk(c, wire.Chunk.NONE, b""),
        lambda c: script.chunk(c, wire.Chunk.BLOCK_STATUS, b"1234567"),
        lambda c: (
            script.status(c, script.ALLOCATION_ID, (1, 0), done=False)
            + script.status(c, script.ALLOCATION_ID, (1, 0))
        ),
        lambda c: struct.pack(">IHHQI", wire.STRUCTURED_REPLY_MAGIC, 1, 5, c, 2**32 - 4),
    ],
)
def test_a_block_status_that_makes_no_sense_is_refused(serve, lie):
    source = serve(lambda sock, _, cookie, *rest: sock.sendall(lie(cookie)))
    with pytest.raises(StorageFailure) as caught:
        list(source.extents())
    assert caught.value.code == "storage.nbd-protocol"


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
    from pathlib import Path

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
    assert time.monotonic() - began < 2, "it waited for bytes that nobody owes"
