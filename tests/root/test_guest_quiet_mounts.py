"""File systems without a freeze operation: proven quiet, or said to have been written to.

vfat where the kernel has it; ext2 in its place, by an extension that was made to forget that ext2
can be frozen, since flush and counters are the same for both.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from guest_bench import Bench, Session, Writer, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.fixture
def bench(_private: None, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    made.forget_how_to_freeze("ext2")
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(params=["ext2", "vfat"])
def efi(request: pytest.FixtureRequest, bench: Bench) -> Path:
    if f"\t{request.param}\n" not in Path("/proc/filesystems").read_text():
        pytest.skip(f"this kernel has no {request.param}")
    return bench.mount(request.param)


def reported(session: Session, mount: Path) -> dict[str, Any]:
    session.say("thaw")
    report = session.await_state("thawed")["freeze"]
    assert report["held"] is True
    (one,) = [one for one in report["mounts"] if one["mount"] == str(mount)]
    assert isinstance(one, dict)
    return one


def test_a_quiet_one_costs_nothing(bench: Bench, efi: Path) -> None:
    root = bench.mount()
    (efi / "grub.cfg").write_bytes(os.urandom(300_000))  # dirty in memory only
    session = bench.session(root, efi)
    planned = {one["mount"]: one for one in session.await_state("ready")["mounts"]}
    assert planned[str(efi)]["action"] == "watch"
    session.frozen()
    one = reported(session, efi)
    assert one["skipped"].endswith("cannot be frozen; it was flushed and nobody wrote to it")
    assert one["downgrades"] is False


def test_one_that_is_written_to_meanwhile_says_how_much(bench: Bench, efi: Path) -> None:
    root = bench.mount()
    session = bench.session(root, efi)
    session.frozen()
    assert Writer(root).blocked()
    assert not Writer(efi).blocked(5)
    one = reported(session, efi)
    assert one["downgrades"] is True
    assert "sectors of 512 bytes were written to it" in one["skipped"]
    assert int(one["skipped"].split(" and ")[1].split()[0]) > 0


def test_one_that_is_only_dirtied_meanwhile_is_quiet_on_its_disk(bench: Bench, efi: Path) -> None:
    """What is in memory alone is not in the snapshot either."""
    session = bench.session(bench.mount(), efi)
    session.frozen()
    (efi / "notes").write_bytes(b"later")
    assert reported(session, efi)["downgrades"] is False


def test_a_killed_session_proves_nothing(bench: Bench, efi: Path) -> None:
    session = bench.session(bench.mount(), efi)
    session.frozen()
    session.kill(session.pid)
    report = session.await_state("failed")["freeze"]
    (one,) = [one for one in report["mounts"] if one["mount"] == str(efi)]
    assert one["downgrades"] is True
    assert "not watched to the end" in one["skipped"]


def test_one_that_is_skipped_on_request_is_left_alone(bench: Bench, efi: Path) -> None:
    session = bench.session(bench.mount(), efi, skip=(efi,))
    state = session.frozen()
    (one,) = [one for one in state["mounts"] if one["mount"] == str(efi)]
    assert (one["action"], one["downgrades"]) == ("skip", True)
    handles = Path(f"/proc/{session.pid}/fd")
    assert str(efi) not in [os.readlink(handle) for handle in handles.iterdir()]


def test_its_handles_are_gone_with_the_session(bench: Bench, efi: Path) -> None:
    session = bench.session(bench.mount(), efi)
    session.frozen()
    session.say("finish")
    session.await_state("done")
    wait_for("both processes' end", lambda: not Path(f"/proc/{session.watchdog}/fd").exists())
    wait_for("the session's end", lambda: not Path(f"/proc/{session.pid}/fd").exists())
