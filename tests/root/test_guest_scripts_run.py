"""The post-script runs once on every way that a session can end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from guest_bench import Bench, Session, freeze, thaw, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


def _finished(session: Session) -> None:
    session.frozen()
    session.say("thaw")
    session.await_state("thawed")
    session.say("finish")
    assert session.await_state("done")["scripts"]["post"]["exit_code"] == 0


def _finished_without_a_freeze(session: Session) -> None:
    session.await_state("ready")
    session.say("finish")
    assert session.await_state("done")["freeze"] is None


def _aborted_when_ready(session: Session) -> None:
    session.await_state("ready")
    session.say("abort")
    assert session.await_state("failed")["failure"]["code"] == "session.aborted"


def _aborted_when_frozen(session: Session) -> None:
    session.frozen()
    session.say("abort")
    state = session.await_state("failed")
    assert state["failure"]["code"] == "session.aborted"
    assert state["freeze"]["thawed_by"] == "abort"


def _abandoned_when_ready(session: Session) -> None:
    assert session.await_state("failed")["failure"]["code"] == "session.abandoned"


def _abandoned_when_frozen(session: Session) -> None:
    session.frozen()
    state = session.await_state("done")
    assert state["freeze"]["held"] is False
    assert any("Nobody said finish" in warning for warning in state["warnings"])


def _terminated_when_ready(session: Session) -> None:
    session.await_state("ready")
    session.kill(session.pid, signal.SIGTERM)
    assert session.await_state("failed")["failure"]["code"] == "session.terminated"


def _killed_when_ready(session: Session) -> None:
    session.await_state("ready")
    session.kill(session.pid)
    assert session.await_state("failed")["failure"]["code"] == "session.lost"


def _killed_when_thawed(session: Session) -> None:
    session.frozen()
    session.say("thaw")
    session.await_state("thawed")
    session.kill(session.pid)
    assert session.await_state("failed")["freeze"]["held"] is True


def _recovered_when_frozen(session: Session) -> None:
    session.frozen()
    assert session.recover()["found"] is True


def _recovered_when_stopped(session: Session) -> None:
    """A session that does not listen is killed after 15 s."""
    session.frozen()
    session.kill(session.pid, signal.SIGSTOP)
    assert session.recover()["found"] is True


@pytest.mark.parametrize(
    "end",
    [
        _finished,
        _finished_without_a_freeze,
        _aborted_when_ready,
        _aborted_when_frozen,
        _abandoned_when_ready,
        _abandoned_when_frozen,
        _terminated_when_ready,
        _killed_when_ready,
        _killed_when_thawed,
        _recovered_when_frozen,
        _recovered_when_stopped,
    ],
)
def test_the_post_script_runs_once_when_the_session_is(
    bench: Bench, end: Callable[[Session], None]
) -> None:
    notes = bench.scripts()
    wait = 1.5 if "abandoned" in end.__name__ else 60.0
    session = bench.session(bench.mount(), hold=3.0, wait=wait)
    end(session)
    session.recover()
    assert notes.read_text() == "pre\npost\n"


def test_the_post_script_runs_when_the_freeze_failed(bench: Bench) -> None:
    notes = bench.scripts()
    mount = bench.mount()
    freeze(mount)
    session = bench.session(mount)
    session.await_state("ready")
    session.say("freeze")
    assert session.await_state("failed")["failure"]["code"] == "freeze.busy"
    thaw(mount)
    assert notes.read_text() == "pre\npost\n"


LEFT_RUNNING = "trap '{trap}' TERM\necho $$ > /run/pre.pid\nsleep 299.71 & sleep 299.71"
POST = """
for pid in $(cat /run/pre.pid) $(pgrep -f 'sleep 299.71'); do
    [ -e /proc/$pid/exe ] && echo beside $(cat /proc/$pid/cmdline) >> /run/notes
done; true"""


def _killed_in_the_pre_script(bench: Bench, trap: str = "exit 1") -> tuple[Session, Path]:
    """A pre-script with children, whose session is gone. There is no watchdog yet."""
    Path("/run/pre.pid").unlink(missing_ok=True)
    notes = bench.scripts(pre=LEFT_RUNNING.format(trap=trap), post=POST, timeoutInSeconds=300)
    session = bench.session(bench.mount())
    wait_for("the pre-script's start", Path("/run/pre.pid").exists)
    session.kill(session.pid)
    return session, notes


@pytest.mark.parametrize("trap", ["exit 1", ""], ids=["obeys", "ignores SIGTERM"])
def test_recovery_ends_a_pre_script_that_is_still_running_before_the_post_script(
    bench: Bench, trap: str
) -> None:
    session, notes = _killed_in_the_pre_script(bench, trap)
    answer = session.recover()
    assert "pre-script was still running" in answer["warnings"][0]
    assert notes.read_text() == "pre\npost\n"
    assert not session.folder.exists()


def test_the_next_session_ends_a_pre_script_that_is_still_running(bench: Bench) -> None:
    session, notes = _killed_in_the_pre_script(bench)
    bench.scripts(post=POST)
    bench.session(bench.mount()).await_state("ready")
    assert notes.read_text() == "post\npre\n"
    assert not session.folder.exists()


def test_recovery_spares_a_process_that_has_got_the_pre_scripts_number(bench: Bench) -> None:
    session, notes = _killed_in_the_pre_script(bench)
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        pre, _, _ = (session.folder / "pre-script").read_text().partition(" ")
        os.killpg(int(pre), signal.SIGKILL)
        (session.folder / "pre-script").write_text(f"{other.pid} 4711")
        assert session.recover()["warnings"] == []
        assert other.poll() is None
        other.kill()
    assert notes.read_text() == "pre\npost\n"


def test_a_failed_pre_script_ends_the_backup_where_the_operator_said_so(bench: Bench) -> None:
    notes = bench.scripts(pre="echo no >&2; exit 7", continueBackupOnFailure=False)
    session = bench.session(bench.mount())
    state = session.await_state("failed")
    assert state["failure"]["code"] == "script.pre-failed"
    assert state["scripts"]["pre"]["exit_code"] == 7
    assert notes.read_text() == "pre\npost\n"


def test_a_failed_pre_script_is_a_warning_otherwise(bench: Bench) -> None:
    notes = bench.scripts(pre="exit 7")
    session = bench.session(bench.mount())
    state = session.await_state("ready")
    assert state["scripts"]["pre"]["exit_code"] == 7
    assert "script.pre-failed" in state["warnings"][0]
    session.say("finish")
    session.await_state("done")
    assert notes.read_text() == "pre\npost\n"


def test_a_script_that_others_may_change_is_not_run(bench: Bench) -> None:
    notes = bench.scripts(continueBackupOnFailure=False)
    Path("/etc/azure/pre.sh").chmod(0o777)
    state = bench.session(bench.mount()).await_state("failed")
    assert state["failure"]["code"] == "script.permissions"
    assert "chmod 700 '/etc/azure/pre.sh'" in state["failure"]["remedy"]
    assert "pre" not in notes.read_text()


def test_a_wrong_configuration_ends_the_backup_with_its_line(bench: Bench) -> None:
    bench.scripts(timeoutInSeconds="soon")
    state = bench.session(bench.mount()).await_state("failed")
    assert state["failure"]["code"] == "script.config-invalid"
    assert "line 1" in state["failure"]["message"]


def test_fs_freeze_disabled_by_the_operator_freezes_nothing_and_says_why(bench: Bench) -> None:
    bench.scripts(fsFreezeEnabled=False)
    mount = bench.mount()
    session = bench.session(mount)
    state = session.frozen()
    (one,) = [one for one in state["mounts"] if one["mount"] == str(mount)]
    assert one["downgrades"] is True
    assert "fsFreezeEnabled is false" in one["reason"]
