"""What mend.sh starts, restarts and ends in a guest, in each shell that a guest may have."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mend_script import mended, refused
from shell_guest import SHELLS, ShellGuest

pytestmark = [
    pytest.mark.root,
    pytest.mark.alone,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(
        b"pytest" not in Path("/proc/1/cmdline").read_bytes(),
        reason="it ends every extension that it sees: `make root` runs it where it sees none",
    ),
]


@contextlib.contextmanager
def process(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of root's that calls itself so. It comes no further than its `sitecustomize`."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent / "asleep")}
    with subprocess.Popen(words, executable="/usr/bin/python3", env=environment) as one:
        while words[-1].encode() not in Path(f"/proc/{one.pid}/cmdline").read_bytes():
            time.sleep(0.01)
        try:
            yield one
        finally:
            one.kill()


def test_a_stopped_agent_is_started(guest: ShellGuest, shell: str) -> None:
    guest.with_systemd(walinuxagent={})
    assert mended(guest, "restart-waagent", shell=shell) == "walinuxagent.service was started."
    assert guest.orders == ["reset-failed walinuxagent.service", "restart walinuxagent.service"]


def test_the_units_other_name_is_found(guest: ShellGuest) -> None:
    guest.with_systemd(waagent={}, qemu_ga={})
    assert mended(guest, "restart-waagent").startswith("waagent.service")
    assert mended(guest, "restart-qga").startswith("qemu-ga.service")


def test_an_agent_that_does_not_stop_is_killed_and_started(guest: ShellGuest, shell: str) -> None:
    guest.with_systemd(walinuxagent={})
    guest.put("restart-is-killed", "")
    with process("python3", "-u", "/usr/sbin/waagent") as agent:
        os.kill(agent.pid, signal.SIGSTOP)
        said = mended(guest, "restart-waagent", shell=shell)
        assert agent.wait(5) == -signal.SIGKILL
    assert said.startswith("walinuxagent.service was restarted.")
    assert "had to be killed" in said
    assert guest.orders[-1] == "start walinuxagent.service"


def test_processes_that_only_look_like_the_agent_are_spared(guest: ShellGuest) -> None:
    guest.with_systemd(walinuxagent={})
    guest.put("restart-is-killed", "")
    with (
        process("python3", "/usr/sbin/waagent.conf") as other_script,
        process("python3", "/var/lib/waagent/Other.Extension-1.0/bin/handler") as other,
        process("vim", "/usr/sbin/waagent") as editor,
        process("tar", "c", "/var/lib/waagent/Quiesce.VmBackup-1.0") as archiver,
    ):
        spared = (other_script, other, editor, archiver)
        mended(guest, "restart-waagent")
        assert "processes killed: 0" in mended(guest, "end-extension")
        assert [each.poll() for each in spared] == [None] * 4


@pytest.mark.parametrize("action", ["restart-waagent", "restart-qga"])
def test_a_masked_agent_is_left_alone_unless_told_so(
    guest: ShellGuest, shell: str, action: str
) -> None:
    masked = {"LoadState": "masked", "UnitFileState": "masked"}
    guest.with_systemd(walinuxagent=masked, qemu_guest_agent=masked)
    assert "masked" in refused(guest, action, shell=shell)
    assert guest.orders == []
    assert "unmasked" in mended(guest, action, "unmask", shell=shell)
    assert guest.orders[0].startswith("unmask")


def test_a_disabled_agent_is_started_and_enabled_only_when_told_so(guest: ShellGuest) -> None:
    guest.with_systemd(walinuxagent={"UnitFileState": "disabled", "ActiveState": "failed"})
    assert "disabled" in mended(guest, "restart-waagent")
    assert not any(order.startswith("enable") for order in guest.orders)
    assert "enabled" in mended(guest, "restart-waagent", "unmask")
    assert "enable walinuxagent.service" in guest.orders


def test_an_agent_that_somebody_has_disabled_and_stopped_is_left_alone_unless_told_so(
    guest: ShellGuest, shell: str
) -> None:
    guest.with_systemd(walinuxagent={"UnitFileState": "disabled"})
    assert "does not want it to run" in refused(guest, "restart-waagent", shell=shell)
    assert guest.orders == []
    assert "started" in mended(guest, "restart-waagent", "unmask", shell=shell)


def test_an_agent_that_ends_again_at_once_is_no_success(guest: ShellGuest, shell: str) -> None:
    guest.with_systemd(walinuxagent={"Result": "exit-code", "ExecMainStatus": "1"})
    guest.put("after-start", "failed")
    why = refused(guest, "restart-waagent", shell=shell)
    assert why == "walinuxagent.service was started and is failed: exit-code, status 1."


def test_an_agent_whose_unit_forbids_it_here_is_said_so(guest: ShellGuest, shell: str) -> None:
    guest.with_systemd(walinuxagent={"ConditionResult": "no"})
    guest.put("after-start", "inactive")
    assert "condition in its unit" in refused(guest, "restart-waagent", shell=shell)


def test_an_agent_that_is_not_there_is_said_so(guest: ShellGuest, shell: str) -> None:
    guest.with_systemd()
    assert "not installed" in refused(guest, "restart-waagent", shell=shell)


def test_without_systemd_the_services_own_script_is_called(guest: ShellGuest, shell: str) -> None:
    note = guest.root / "called"
    guest.put("etc/init.d/qemu-guest-agent", f"#!/bin/sh\necho $1 >> {note}\n", 0o755)
    guest.put("bin/service", '#!/bin/sh\nexec "/etc/init.d/$1" "$2"\n', 0o755)
    assert mended(guest, "restart-qga", shell=shell) == "qemu-guest-agent was restarted."
    assert note.read_text() == "restart\n"
    assert "no systemd" in refused(guest, "auto-restart-qga", shell=shell)


def test_an_agent_is_restarted_only_after_it_could_pass_on_what_was_said(
    guest: ShellGuest, shell: str
) -> None:
    guest.with_systemd(qemu_guest_agent={})
    qga = guest.root / "qemu-ga"  # a process's name is its file's
    qga.write_bytes(Path("/bin/bash").read_bytes())
    qga.chmod(0o755)
    guest.put("bin/as-qga", f'#!/bin/sh\nexec {qga} -c \'"$@"; exit $?\' qemu-ga "$@"\n', 0o755)
    passed_on = guest.root / "passed-on"
    until_then = f"while [ ! -e {passed_on} ]; do /bin/sleep 0.05; done"
    guest.put("bin/sleep", f"#!/bin/sh\n{until_then}\n", 0o755)
    SHELLS["through qga"] = ("as-qga", *SHELLS[shell])
    try:
        said = mended(guest, "restart-qga", shell="through qga")
    finally:
        del SHELLS["through qga"]
    assert said == "qemu-guest-agent.service will be restarted in 2 seconds."
    assert guest.orders == []
    passed_on.touch()
    until = time.monotonic() + 20
    while not guest.orders and time.monotonic() < until:
        time.sleep(0.05)
    assert guest.orders == ["--no-block restart qemu-guest-agent.service"]


def test_a_session_is_ended_by_its_own_word_before_anything_is_killed(
    guest: ShellGuest, shell: str
) -> None:
    folder = guest.path("run/quiesce/task-1")
    folder.mkdir(parents=True)
    os.mkfifo(folder / "control")
    (folder / "state.json").write_text('{"task": "task-1", "state": "frozen", "version": "1"}')
    obeys = (
        "import os, sys; f = sys.argv[1]; control = os.open(f + '/control', os.O_RDWR); "
        "print('ready', flush=True); word = os.read(control, 99).decode(); "
        "open(f + '/new', 'w').write('{\"state\": \"failed\"}'); "
        "os.rename(f + '/new', f + '/state.json'); print(word)"
    )
    session = subprocess.Popen(
        ["python3", "-c", obeys, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert session.stdout is not None
    assert session.stdout.readline() == "ready\n"
    with process("python3", "/var/lib/quiesce/quiesce-extension-1.zip", "handler") as hung:
        os.kill(hung.pid, signal.SIGSTOP)
        said = mended(guest, "end-extension", shell=shell)
        assert hung.wait(5) in (-signal.SIGTERM, -signal.SIGKILL)
    assert session.communicate(timeout=5)[0].strip() == "abort"
    assert "sessions ended: 1, processes killed: 1" in said


def test_ending_what_does_not_run_is_done_already(guest: ShellGuest, shell: str) -> None:
    said = mended(guest, "end-extension", shell=shell)
    assert "sessions ended: 0, processes killed: 0" in said


@pytest.mark.parametrize("words", [("reboot",), (), ("restart-qga", "$(reboot)")])
def test_nothing_else_is_done(guest: ShellGuest, shell: str, words: tuple[str, ...]) -> None:
    guest.with_systemd(qemu_guest_agent={})
    refused(guest, *words, shell=shell)
    assert guest.orders == []
