"""What mend.sh changes in the agents' configuration, in each shell that a guest may have."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess

import pytest
from mend_script import files_in, mended, refused
from shell_guest import ShellGuest

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
CONF = "/etc/waagent.conf"
STOCK = (
    "# Enable extension handling\nExtensions.Enabled={}\nLogs.Verbose=n\n\nHttpProxy.Host=None\n"
)


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
