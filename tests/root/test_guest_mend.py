"""What mend.sh changes in a guest, in each shell that a guest may have."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from shell_guest import SHELLS, ShellGuest

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
CONF = "/etc/waagent.conf"
STOCK = (
    "# Enable extension handling\nExtensions.Enabled={}\nLogs.Verbose=n\n\nHttpProxy.Host=None\n"
)


@pytest.fixture(params=sorted(SHELLS))
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def guest(tmp_path: Path) -> ShellGuest:
    made = ShellGuest(tmp_path / "guest")
    made.put("bin/sleep", "#!/bin/sh\nexec /bin/sleep 0.05\n", 0o755)
    return made


def mended(guest: ShellGuest, *words: str, shell: str = "dash") -> str:
    ran = guest.run("services.sh mend.sh", *words, shell=shell)
    assert (ran.returncode, ran.stderr) == (0, b""), ran
    (line,) = ran.stdout.decode().splitlines()
    return line


def refused(guest: ShellGuest, *words: str, shell: str = "dash") -> str:
    ran = guest.run("services.sh mend.sh", *words, shell=shell)
    assert (ran.returncode, ran.stdout) == (1, b""), ran
    (line,) = ran.stderr.decode().splitlines()
    return line


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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


# ---- restart


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
    SHELLS["through qga"] = ("as-qga", *SHELLS[shell])
    try:
        said = mended(guest, "restart-qga", shell="through qga")
    finally:
        del SHELLS["through qga"]
    assert said == "qemu-guest-agent.service will be restarted in 2 seconds."
    assert guest.orders == []
    until = time.monotonic() + 20
    while not guest.orders and time.monotonic() < until:
        time.sleep(0.05)
    assert guest.orders == ["--no-block restart qemu-guest-agent.service"]


# ---- drop-ins


@pytest.mark.parametrize(
    ("action", "unit"),
    [("auto-restart-waagent", "walinuxagent"), ("auto-restart-qga", "qemu-guest-agent")],
)
def test_the_restart_drop_in_is_put_once(
    guest: ShellGuest, shell: str, action: str, unit: str
) -> None:
    guest.with_systemd(walinuxagent={}, qemu_guest_agent={})
    assert "is restarted from now on" in mended(guest, action, shell=shell)
    folder = guest.path(f"etc/systemd/system/{unit}.service.d")
    assert files_in(folder) == ["90-quiesce-restart.conf"]
    text = (folder / "90-quiesce-restart.conf").read_text()
    assert "[Service]\nRestart=always\n" in text
    assert guest.orders == ["daemon-reload"]
    assert "already" in mended(guest, action, shell=shell)
    assert guest.orders == ["daemon-reload"]


def test_the_host_is_exempt_from_the_proxy_and_former_exemptions_stay(
    guest: ShellGuest, shell: str
) -> None:
    former = {"Environment": "HTTP_PROXY=http://p:1 NO_PROXY=localhost,10.0.0.1"}
    guest.with_systemd(waagent=former)
    said = mended(guest, "exempt-host", "168.63.129.16", shell=shell)
    assert said.startswith("168.63.129.16 is exempt")
    drop_in = guest.path("etc/systemd/system/waagent.service.d/90-quiesce-no-proxy.conf")
    listed = "localhost,10.0.0.1,168.63.129.16"
    assert f'Environment="NO_PROXY={listed}" "no_proxy={listed}"\n' in drop_in.read_text()
    assert "restart waagent.service" in guest.orders


@pytest.mark.parametrize("address", ["", "host", "1.2.3.4;reboot", "a\nb", "$(x)", "1.2.3", "-1"])
def test_what_is_no_address_is_refused(guest: ShellGuest, shell: str, address: str) -> None:
    guest.with_systemd(waagent={})
    refused(guest, "exempt-host", address, shell=shell)
    assert guest.orders == []
    assert not guest.path("etc/systemd").exists()


# ---- the agents' own configuration


def test_extensions_are_enabled_and_everything_else_stays(guest: ShellGuest, shell: str) -> None:
    guest.with_systemd(walinuxagent={})
    conf = guest.put(CONF, STOCK.format("n"), 0o640)
    os.chown(conf, 0, 4)
    said = mended(guest, "enable-extensions", shell=shell)
    assert "Extensions.Enabled=y was set" in said
    assert "walinuxagent.service was started." in said
    assert conf.read_text() == STOCK.format("y")
    status = conf.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o640, 4)
    assert guest.path(CONF + ".quiesce-backup").read_text() == STOCK.format("n")
    before = guest.orders
    assert "already" in mended(guest, "enable-extensions", shell=shell)
    assert guest.orders == before
    assert files_in(guest.path("etc")) == ["waagent.conf", "waagent.conf.quiesce-backup"]


def test_a_configuration_that_is_a_link_stays_one(guest: ShellGuest, shell: str) -> None:
    guest.with_systemd(walinuxagent={})
    guest.put("/etc/real.conf", "Extensions.Enabled = n # for now\n")
    guest.path(CONF).symlink_to("real.conf")
    mended(guest, "enable-extensions", shell=shell)
    assert guest.path(CONF).is_symlink()
    assert guest.path("/etc/real.conf").read_text() == "Extensions.Enabled=y\n"


@pytest.mark.parametrize(
    "conf",
    [
        STOCK.format("y"),
        "Extensions.Enabled=y\n",
        "Logs.Verbose = n  # quiet\nX=1\nLogs.Verbose=y\n",
    ],
)
def test_verbose_is_switched_on_and_the_former_value_comes_back(
    guest: ShellGuest, shell: str, conf: str
) -> None:
    guest.with_systemd(walinuxagent={})
    guest.put(CONF, conf)
    mended(guest, "verbose-on", shell=shell)
    values = [
        line.partition("=")[2]
        for line in guest.path(CONF).read_text().splitlines()
        if line.startswith("Logs.Verbose")
    ]
    assert values
    assert set(values) == {"y"}
    assert "already" in mended(guest, "verbose-on", shell=shell)
    mended(guest, "verbose-off", shell=shell)
    assert guest.path(CONF).read_text() == conf
    assert "not made verbose by Quiesce" in mended(guest, "verbose-off", shell=shell)


def test_the_guest_agent_is_verbose_by_a_drop_in_that_goes_again(
    guest: ShellGuest, shell: str
) -> None:
    fragment = guest.put("etc/unit", "[Service]\nExecStart=-/usr/sbin/qemu-ga -d ${X}\n")
    guest.with_systemd(qemu_guest_agent={"FragmentPath": "/etc/unit"})
    mended(guest, "verbose-on", shell=shell)
    folder = guest.path("etc/systemd/system/qemu-guest-agent.service.d")
    text = (folder / "90-quiesce-verbose.conf").read_text()
    assert text.endswith("[Service]\nExecStart=\nExecStart=-/usr/sbin/qemu-ga -d ${X} -v\n")
    assert "already" in mended(guest, "verbose-on", shell=shell)
    mended(guest, "verbose-off", shell=shell)
    assert files_in(folder) == []
    assert fragment.exists()


def test_an_agent_that_somebody_has_stopped_is_not_started_for_its_logs(
    guest: ShellGuest, shell: str
) -> None:
    guest.put(CONF, STOCK.format("y"))
    guest.put("etc/unit", "[Service]\nExecStart=/usr/sbin/qemu-ga\n")
    guest.with_systemd(walinuxagent={}, qemu_guest_agent={"FragmentPath": "/etc/unit"})
    mended(guest, "verbose-on", shell=shell)
    mended(guest, "verbose-off", shell=shell)
    assert guest.path(CONF).read_text() == STOCK.format("y")
    assert not any("start" in order for order in guest.orders)


def test_an_agent_that_runs_is_restarted_for_its_logs(guest: ShellGuest, shell: str) -> None:
    guest.put(CONF, STOCK.format("y"))
    guest.with_systemd(walinuxagent={"ActiveState": "active"})
    mended(guest, "verbose-on", shell=shell)
    assert guest.orders[-1] == "restart walinuxagent.service"


def test_the_configuration_of_an_agent_that_was_removed_is_left_as_it_is(
    guest: ShellGuest, shell: str
) -> None:
    guest.put(CONF, STOCK.format("y"))
    guest.put("etc/unit", "[Service]\nExecStart=/usr/sbin/qemu-ga\n")
    guest.with_systemd(qemu_guest_agent={"FragmentPath": "/etc/unit"})
    mended(guest, "verbose-on", shell=shell)
    assert guest.path(CONF).read_text() == STOCK.format("y")
    mended(guest, "verbose-off", shell=shell)


def test_what_keeps_one_agent_from_being_quiet_again_does_not_keep_the_other(
    guest: ShellGuest, shell: str
) -> None:
    guest.put(CONF, STOCK.format("y"))
    guest.put("etc/unit", "[Service]\nExecStart=/usr/sbin/qemu-ga\n")
    running = {"ActiveState": "active"}
    guest.with_systemd(
        walinuxagent=running, qemu_guest_agent={"FragmentPath": "/etc/unit"} | running
    )
    mended(guest, "verbose-on", shell=shell)
    guest.put("after-start", "failed")
    assert "walinuxagent" in guest.run("services.sh mend.sh", "verbose-off").stderr.decode()
    assert guest.path(CONF).read_text() == STOCK.format("y")
    assert files_in(guest.path("etc/systemd/system/qemu-guest-agent.service.d")) == []


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        (
            "/etc/qemu/qemu-ga.conf",
            "[general]\nverbose=1\n# blacklist=guest-exec\nblacklist=guest-exec,guest-shutdown\n",
            "[general]\nverbose=1\n# blacklist=guest-exec\nblacklist=guest-shutdown\n",
        ),
        (
            "/etc/qemu/qemu-ga.conf",
            "[general]\nblock-rpcs = guest-exec,guest-exec-status,guest-fsfreeze-freeze\n",
            "[general]\n",
        ),
        (
            "/etc/sysconfig/qemu-ga",
            "BLACKLIST_RPC=guest-file-open,guest-file-close,guest-set-vcpus,guest-exec\nF=1\n",
            "BLACKLIST_RPC=guest-set-vcpus\nF=1\n",
        ),
        (
            "/etc/sysconfig/qemu-ga",
            'FILTER_RPC_ARGS="--block-rpcs=guest-exec,guest-shutdown"\n',
            'FILTER_RPC_ARGS="--block-rpcs=guest-shutdown"\n',
        ),
        (
            "/etc/default/qemu-guest-agent",
            'DAEMON_ARGS="-v -b guest-exec"\n',
            'DAEMON_ARGS="-v"\n',
        ),
    ],
)
def test_what_a_backup_needs_is_unblocked_and_the_rest_stays_blocked(
    guest: ShellGuest, shell: str, path: str, before: str, after: str
) -> None:
    guest.with_systemd(qemu_guest_agent={})
    guest.put(path, before)
    said = mended(guest, "allow-qga", shell=shell)
    assert path in said
    assert guest.path(path).read_text() == after
    assert "restart qemu-guest-agent.service" in guest.orders
    assert "Nothing that a backup needs" in mended(guest, "allow-qga", shell=shell)


def test_a_list_of_what_is_allowed_gets_what_a_backup_needs(guest: ShellGuest, shell: str) -> None:
    guest.with_systemd(qemu_guest_agent={})
    path = "/etc/sysconfig/qemu-ga"
    guest.put(path, 'FILTER_RPC_ARGS="--allow-rpcs=guest-ping,guest-exec-status,guest-x"\n')
    mended(guest, "allow-qga", shell=shell)
    start, _, listed = guest.path(path).read_text().rstrip('"\n').rpartition("=")
    assert start == 'FILTER_RPC_ARGS="--allow-rpcs'
    names = listed.split(",")
    assert names[:3] == ["guest-ping", "guest-exec-status", "guest-x"]
    assert {"guest-exec", "guest-fsfreeze-freeze", "guest-file-read"} <= set(names)
    assert len(names) == len(set(names))
    assert "Nothing" in mended(guest, "allow-qga", shell=shell)


# ---- the extension


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


def test_a_full_disk_leaves_the_configuration_as_it_was(guest: ShellGuest, shell: str) -> None:
    guest.with_systemd(walinuxagent={})
    conf = guest.path("etc")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(conf)], check=True)
    try:
        guest.put(CONF, STOCK.format("n"))
        with contextlib.suppress(OSError):
            (conf / "filler").write_bytes(b"x" * 65536)
        assert "No space left" in refused(guest, "enable-extensions", shell=shell)
        assert guest.path(CONF).read_text() == STOCK.format("n")
        assert "waagent.conf.quiesce-new" not in files_in(conf)
    finally:
        subprocess.run(["umount", str(conf)], check=True)
