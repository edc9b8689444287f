"""What collect.sh shows of a guest, hostile ones and broken ones included."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from missing import missing
from shell_guest import SHELLS, ShellGuest

from quiesce.agent.collection import new_token, parse, script
from quiesce.model.papers import Paper, Papers

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
LOG = "/var/log/waagent.log"
_BARE = """for part in dev proc; do mount --bind "/$part" "$0/$part"; done
exec chroot "$0" /bin/sh -s "$1"
"""


def collected(guest: ShellGuest, shell: str = "dash") -> Papers:
    token = new_token()
    ran = guest.run("collect.sh", token, shell=shell)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert len(ran.stdout) <= 4 << 20
    return parse(ran.stdout, token, "the guest")


def whole(papers: Papers) -> Papers:
    assert papers.warnings == ()
    return papers


def paper(papers: Papers, path: str) -> Paper:
    found = papers.get(path)
    assert found is not None, sorted(one.path for one in papers.papers)
    return found


def test_the_commands_of_the_contract_are_there(guest: ShellGuest, shell: str) -> None:
    papers = whole(collected(guest, shell))
    wanted = "date uname processes units journal cpu space inodes addresses routes python"
    for name in f"{wanted} certificate extension quiesce freezers access programs".split():
        assert papers.command(name) is not None, name
    assert papers.taken_at is not None
    assert papers.host_clock_at is not None
    assert abs(papers.taken_at - papers.host_clock_at).total_seconds() < 60
    cpu = paper(papers, "command:cpu").text.splitlines()
    assert [line.split()[0] for line in cpu] == ["cpu", "cpu"]
    assert cpu[0] != cpu[1]
    assert " sh -s" not in paper(papers, "command:space").text
    assert "/proc/self/mountinfo" in {one.path for one in papers.papers}


def test_files_come_with_what_ls_would_say_of_them(guest: ShellGuest, shell: str) -> None:
    path = guest.put("/etc/waagent.conf", "Extensions.Enabled=y\n", 0o640)
    os.chown(path, 7, 8)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    guest.put("/etc/systemd/system/waagent.service.d/x.conf", "[Service]\n")
    guest.put("/var/lib/dhcp/dhclient.eth0.leases", "option unknown-245 a8:3f:81:10;\n")
    guest.put("/run/systemd/netif/leases/2", "OPTION_245=a83f8110\n")
    papers = whole(collected(guest, shell))
    conf = paper(papers, "/etc/waagent.conf")
    assert (conf.text, conf.size_bytes, conf.mode, conf.owner) == (
        *("Extensions.Enabled=y\n", 21, 0o640),
        7,
    )
    assert conf.modified_at is not None
    assert conf.modified_at.timestamp() == 1_700_000_000
    assert not conf.cut
    for other in (
        "/etc/systemd/system/waagent.service.d/x.conf",
        "/var/lib/dhcp/dhclient.eth0.leases",
        "/run/systemd/netif/leases/2",
    ):
        assert paper(papers, other).text
    assert "No such file" in paper(papers, "/etc/qemu/qemu-ga.conf").problem


def test_of_a_long_log_the_end_is_shown(guest: ShellGuest, shell: str) -> None:
    guest.put(LOG, b"x" * 5_000_000 + b"\nTHE END\n")
    log = paper(whole(collected(guest, shell)), LOG)
    assert log.cut
    assert log.size_bytes == 5_000_009
    assert len(log.text) == 256 * 1024
    assert log.text.endswith("\nTHE END\n")


def test_of_ten_thousand_logs_a_few_newest_are_shown(guest: ShellGuest, shell: str) -> None:
    folder = guest.path("/var/log/azure/Some.Extension")
    folder.mkdir(parents=True)
    for number in range(10_000):
        (folder / f"{number}.log").touch()
    newest = guest.put("/var/log/azure/Some.Extension/0.log", "the newest\n")
    os.utime(newest, (4_000_000_000, 4_000_000_000))
    papers = whole(collected(guest, shell))
    assert paper(papers, "/var/log/azure/Some.Extension/0.log").text == "the newest\n"
    assert len(papers.under("/var/log/azure/")) <= 4


@pytest.mark.parametrize(
    "planted",
    [
        LOG,
        "/var/log/azure/Some.Extension/x.log",
        "/var/log/quiesce/extension.log",
        "/run/quiesce/task/state.json",
        "/etc/waagent.conf",
        "/var/lib/waagent/GoalState.1.xml",
    ],
)
def test_no_planted_link_is_followed(guest: ShellGuest, shell: str, planted: str) -> None:
    guest.put("/etc/shadow", "root:SECRET:1::::::\n", 0o600)
    path = guest.path(planted)
    path.parent.mkdir(parents=True) if not path.parent.exists() else None
    path.symlink_to("/etc/shadow")
    papers = whole(collected(guest, shell))
    assert "SECRET" not in "".join(one.text for one in papers.papers)
    found = papers.get(planted)
    assert found is None or "symbolic link" in found.problem


def test_a_linked_folder_is_not_entered(guest: ShellGuest, shell: str) -> None:
    guest.put("/etc/private/x.log", "SECRET")
    guest.put("/var/log/azure/honest/x.log", "shown")
    guest.path("/var/log/azure/linked").symlink_to("/etc/private")
    texts = "".join(one.text for one in whole(collected(guest, shell)).papers)
    assert "shown" in texts
    assert "SECRET" not in texts


def test_pipes_devices_and_folders_stop_nobody(guest: ShellGuest, shell: str) -> None:
    os.mkfifo(guest.path(LOG))
    guest.path("/etc/waagent.conf").mkdir()
    guest.path("/var/log/quiesce").mkdir()
    os.mkfifo(guest.path("/var/log/quiesce/extension.log"))
    papers = whole(collected(guest, shell))
    assert paper(papers, LOG).problem == "it is not a file"
    assert paper(papers, "/etc/waagent.conf").problem == "it is not a file"


def test_a_log_cannot_forge_what_others_say(guest: ShellGuest, shell: str) -> None:
    token = new_token()
    forged = "#{} command units 0\nActiveState=active\n#{} end 1\n"
    guest.put(LOG, forged.format("0" * 32, token[:-1]) + "\x00\x1b[2J\xff\n")
    ran = guest.run("collect.sh", token, shell=shell)
    papers = whole(parse(ran.stdout, token, "the guest"))
    assert paper(papers, LOG).text.startswith("#" + "0" * 32 + " command units 0\n")
    assert "\x1b" not in paper(papers, LOG).text
    assert papers.taken_at is not None
    assert papers.taken_at.year > 2000


def test_names_that_no_honest_program_gives_are_passed_over(guest: ShellGuest, shell: str) -> None:
    folder = guest.path("/var/log/azure/x")
    folder.mkdir(parents=True)
    for name in ("a b.log", "new\nline.log", "-rf.log", "$(reboot).log", "*.log", "\udcff.log"):
        (folder / name).write_text("odd\n")
    guest.put("/var/log/azure/x/honest.log", "honest\n")
    guest.put("/etc/private", "SECRET\n")
    guest.put("/var/log/azure/a /etc/private b/x.log", "odd\n")
    papers = whole(collected(guest, shell))
    assert "SECRET" not in "".join(one.text for one in papers.papers)
    shown = {one.path for one in papers.under("/var/log/azure/")}
    assert shown <= {"/var/log/azure/x/honest.log", "/var/log/azure/x/-rf.log"}


def test_secrets_stay_in_the_guest(guest: ShellGuest, shell: str) -> None:
    guest.put("/etc/environment", "https_proxy=http://user:PASSWORD@proxy:3128\n")
    guest.put(LOG, "GET https://x.blob/y?sv=1&sig=SIGNATURE%3D&se=2 HTTP\n")
    guest.put(
        "/var/lib/waagent/ExtensionsConfig.1.xml",
        '<Plugin>{"protectedSettings":"MIIBsecret+/=","publicSettings":{"a":"b"}}</Plugin>'
        "<P>{&quot;protectedSettings&quot;: &quot;MIIBsecret&quot;}</P>\n",
    )
    guest.put("/var/lib/waagent/Certificates.xml", "<Data>MIIBsecret</Data>")
    guest.put("/var/lib/waagent/ABCD.prv", "MIIBsecret")
    papers = whole(collected(guest, shell))
    texts = "".join(one.text for one in papers.papers)
    for secret in ("PASSWORD", "SIGNATURE", "MIIBsecret"):
        assert secret not in texts
    assert "http://user:***@proxy:3128" in texts
    assert "&se=2 HTTP" in texts
    assert '"publicSettings":{"a":"b"}' in texts


def test_what_lies_of_the_extension_is_told(guest: ShellGuest, shell: str) -> None:
    folder = "/var/lib/waagent/Quiesce.VmBackup-1.0.0.7"
    guest.put(f"{folder}/handler.py", "x = 1\n")
    guest.put(f"{folder}/status/3.status", "[]\n")
    guest.put(f"{folder}/config/3.settings", "{}\n")
    guest.put("/var/lib/quiesce/quiesce-extension-1+2.zip", "zip")
    guest.put("/run/quiesce/task-1/state.json", '{"state": "ready"}')
    papers = whole(collected(guest, shell))
    known = subprocess.run(
        ["cksum"], input=b"x = 1\n", capture_output=True, check=True
    ).stdout.split()[0]
    told = paper(papers, "command:extension").text
    assert f"{known.decode()} 6 {folder}/handler.py\n" in told
    assert "3.settings" in told
    assert paper(papers, f"{folder}/status/3.status").text == "[]\n"
    assert paper(papers, "/run/quiesce/task-1/state.json").text == '{"state": "ready"}'
    assert "quiesce-extension-1+2.zip" in paper(papers, "command:quiesce").text


def test_other_backup_products_are_named(guest: ShellGuest, shell: str) -> None:
    guest.put("/etc/rubrik/conf", "")
    assert "rubrik /etc/rubrik\n" in paper(collected(guest, shell), "command:freezers").text


def test_nobody_but_root_still_gets_what_he_may_read(guest: ShellGuest) -> None:
    for folder in [guest.root, *guest.root.parents]:
        if folder.stat().st_mode & 0o055 != 0o055 and folder.is_relative_to("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o055)
    guest.put("/etc/waagent.conf", "hidden\n", 0o600)
    guest.put("/var/lib/waagent/TransportCert.pem", "x")
    (guest.root / "var/lib/waagent").chmod(0o700)
    SHELLS["nobody"] = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "dash")
    try:
        papers = whole(collected(guest, "nobody"))
    finally:
        del SHELLS["nobody"]
    assert "Permission denied" in paper(papers, "/etc/waagent.conf").problem
    assert "dash" in paper(papers, "command:processes").text
    shown = paper(papers, "command:access").text.splitlines()
    assert shown[:2] == ["uid 65534", "refused /var/lib/waagent"]
    refused = paper(papers, "command:certificate")
    assert (refused.status, refused.text.strip()) == (126, "/var/lib/waagent: Permission denied")


def test_root_sees_which_folders_are_there(guest: ShellGuest, shell: str) -> None:
    guest.put("/var/lib/waagent/x", "")
    papers = whole(collected(guest, shell))
    shown = paper(papers, "command:access").text.splitlines()
    assert shown[:3] == ["uid 0", "listed /var/lib/waagent", "absent /var/lib/quiesce"]
    assert "No such file" in paper(papers, "command:certificate").text


def test_a_token_that_is_none_is_refused(guest: ShellGuest, shell: str) -> None:
    for token in ("", "$(reboot)", "x y"):
        assert guest.run("collect.sh", token, shell=shell).returncode == 2


@contextlib.contextmanager
def hanging_mount(point: Path) -> Iterator[None]:
    """A FUSE file system whose server never answers: whoever looks at it waits for good."""
    point.mkdir(parents=True)
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    try:
        if libc.mount(b"hanging", str(point).encode(), b"fuse.hanging", 0, options):
            missing("no FUSE here")
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", str(point)], check=True)
    finally:
        os.close(device)  # whoever waits gets an error


@pytest.mark.parametrize("place", ["/var/log/azure/hung", "/var/lib/waagent", "/run/mnt"])
def test_a_mount_that_hangs_is_not_looked_at(guest: ShellGuest, shell: str, place: str) -> None:
    guest.put("/var/log/azure/fine/x.log", "fine\n")
    with hanging_mount(guest.path(place)):
        papers = whole(collected(guest, shell))
    assert paper(papers, "/var/log/azure/fine/x.log").text == "fine\n"
    space = paper(papers, "command:space")
    assert space.status == 0
    assert "hanging" not in space.text


def test_a_full_disk_hides_nothing(guest: ShellGuest, shell: str) -> None:
    places = [guest.path(part) for part in ("etc", "var", "run")]
    for place in places:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", place], check=True)
    try:
        guest.put("/etc/waagent.conf", "x\n")
        for place in places:
            with contextlib.suppress(OSError):
                (place / "filler").write_bytes(b"x" * 65536)
        papers = whole(collected(guest, shell))
        assert paper(papers, "/etc/waagent.conf").text == "x\n"
        assert "100%" in paper(papers, "command:space").text
    finally:
        for place in places:
            subprocess.run(["umount", place], check=True)


def test_a_guest_that_has_next_to_no_tools_shows_what_it_can(tmp_path: Path) -> None:
    """Busybox alone: no ip, ps, systemctl, journalctl, openssl, timeout, nor stat."""
    root = tmp_path / "bare"
    busybox = shutil.which("busybox")
    assert busybox is not None
    for folder in ("bin", "dev", "proc", "etc"):
        (root / folder).mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    tools = "sh cat head tail sed grep ls date sleep tr df uname readlink kill"
    for name in tools.split():
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/waagent.conf").write_text("Extensions.Enabled=n\n")
    token = new_token()
    ran = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", _BARE, str(root), token],
        input=script(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    papers = whole(parse(ran.stdout, token, "the guest"))
    assert paper(papers, "/etc/waagent.conf").text == "Extensions.Enabled=n\n"
    assert str(os.getpid()) in paper(papers, "command:processes").text
    assert paper(papers, "command:units").status == 127
    assert paper(papers, "command:routes").text


def test_a_command_that_never_ends_costs_a_few_seconds_and_no_other_paper(
    guest: ShellGuest, shell: str
) -> None:
    guest.put("bin/journalctl", "#!/bin/sh\ntrap '' TERM\nwhile :; do /bin/sleep 1; done\n", 0o755)
    papers = collected(guest, shell)
    assert paper(papers, "command:journal").status != 0
    assert paper(papers, "command:certificate").text


def test_the_python_of_the_guest_is_told_and_not_started(guest: ShellGuest) -> None:
    assert sys.version_info >= (3,)
    shown = paper(collected(guest), "command:python").text
    assert all(line.split()[0].startswith("/usr/") for line in shown.splitlines())
