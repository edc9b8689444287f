"""The NBD client reads from a server whose answers are bent."""

from __future__ import annotations

import random
import struct
import threading
import time
from collections import deque

import nbd_script as script
import pytest
from nbd_script import CONTENT, SIZE, honest, read

from quiesce.block import nbd_wire as wire
from quiesce.model.failure import Failure, StorageFailure, VmFailure


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
    assert 0.2 < time.monotonic() - began < 20


def test_a_server_that_is_slow_but_alive_is_waited_for(serve):
    def dribble(sock, command, cookie, offset, length):
        reply = script.data(cookie, offset, CONTENT[offset : offset + length])
        for start in range(0, len(reply), len(reply) // 4):
            sock.sendall(reply[start : start + len(reply) // 4])
            time.sleep(0.4)

    assert read(serve(dribble, silence_seconds=1.5), 0, 4096) == CONTENT[:4096]


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
