"""Loop-mounted file systems in a mount namespace of their own, and sessions that freeze them.

Inside it /run and /var/log are fresh tmpfs and /etc is an overlay, so the extension runs with
its real paths and the machine sees nothing of it. Every session gets `--only` with mounts made
here, and what its plan would freeze is compared with them first.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import quiesce.guest

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
_CLONE_NEWNS = 0x00020000
_SIZES = {"ext2": "16M", "ext4": "64M", "xfs": "320M", "btrfs": "128M", "vfat": "16M"}
_MAKE = {"ext2": ("mkfs.ext2", "-q", "-E", "lazy_itable_init=0"), "vfat": ("mkfs.vfat",)}
_PATIENCE_SECONDS = 60.0


@contextmanager
def private_mounts(scratch: Path) -> Iterator[None]:
    libc = ctypes.CDLL(None, use_errno=True)
    home, folder = os.open("/proc/self/ns/mnt", os.O_RDONLY), Path.cwd()
    if libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    try:
        run("mount", "--make-rprivate", "/")
        run("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run")
        run("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/var/log")
        etc = Path("/run/etc")
        for part in ("upper", "work"):
            (etc / part).mkdir(parents=True)
        layers = f"lowerdir=/etc,upperdir={etc}/upper,workdir={etc}/work"
        run("mount", "-t", "overlay", "-o", layers, "overlay", "/etc")
        yield
    finally:
        if libc.setns(home, _CLONE_NEWNS) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        os.close(home)
        os.chdir(folder)


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr or done.stdout}"
    return done.stdout


def wait_for(what: str, condition: Callable[[], bool], seconds: float = _PATIENCE_SECONDS) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds:g} s: {what}"
        time.sleep(0.01)


class Writer:
    """A process that makes a file and syncs it; it blocks as long as its mount is frozen."""

    def __init__(self, mount: Path) -> None:
        code = (
            "import os,sys,time\n"
            "print('begin', flush=True)\n"
            "fd=os.open(sys.argv[1], os.O_CREAT|os.O_WRONLY)\n"
            "os.write(fd,b'x'); os.fsync(fd); print(time.monotonic(), flush=True)\n"
        )
        name = mount / f"written-{time.monotonic_ns()}"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, name], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "begin\n"

    def blocked(self, seconds: float = 0.3) -> bool:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def released_at(self) -> float:
        """Monotonic seconds at which the write got through."""
        out, _ = self._process.communicate(timeout=_PATIENCE_SECONDS)
        assert self._process.returncode == 0
        return float(out)


class Session:
    """One session of the extension, driven as the host drives it."""

    def __init__(self, bench: Bench, task: str) -> None:
        self.bench = bench
        self.folder = Path("/run/quiesce") / task
        self.task = task

    def state(self) -> dict[str, Any]:
        found = json.loads((self.folder / "state.json").read_text())
        assert isinstance(found, dict)
        return found

    def say(self, word: str) -> None:
        with (self.folder / "control").open("w") as control:
            control.write(word + "\n")

    def await_state(self, *names: str, seconds: float = _PATIENCE_SECONDS) -> dict[str, Any]:
        until = time.monotonic() + seconds
        while (state := self.state())["state"] not in names:
            ended = state["state"] in ("done", "failed")
            assert not ended, f"{state['state']} instead of {names}: {state}"
            assert time.monotonic() < until, f"still {state['state']}, not {names}"
            time.sleep(0.005)
        return state

    @property
    def pid(self) -> int:
        return int((self.folder / "session").read_text())

    @property
    def watchdog(self) -> int:
        return int((self.folder / "watchdog").read_text())

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        os.kill(pid, number)

    def frozen(self) -> dict[str, Any]:
        self.await_state("ready")
        self.say("freeze")
        return self.await_state("frozen")

    def recover(self) -> dict[str, Any]:
        return self.bench.extension("recover", "--task", self.task)


class Bench:
    """A folder with mounts, the shipped zip, and whatever must be cleaned up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = sys.executable
        self.package = folder / "extension.zip"
        with zipfile.ZipFile(self.package, "w") as archive:
            for source in sorted(Path(quiesce.guest.__file__).parent.glob("*.py")):
                archive.write(source, source.name)
        self._mounts: list[Path] = []
        self._tasks = 0

    def mount(self, kind: str = "ext4", *, inside: Path | None = None) -> Path:
        """A fresh file system of `kind` on a loop device whose file lies in `inside`."""
        count = len(self._mounts)
        image, point = (inside or self.folder) / f"image{count}", self.folder / f"mount{count}"
        run("truncate", "-s", _SIZES[kind], image)
        run(*_MAKE.get(kind, (f"mkfs.{kind}", "-q")), image)
        point.mkdir()
        run("mount", "-o", "loop", "-t", kind, image, point)
        self._mounts.append(point)
        return point

    def forget_how_to_freeze(self, kind: str) -> None:
        """Make `kind` a file system without a freeze operation, as far as the extension knows."""
        with zipfile.ZipFile(self.package) as archive:
            files = {name: archive.read(name).decode() for name in archive.namelist()}
        files["plan.py"] = files["plan.py"].replace(f'["{kind}", ', "[")
        with zipfile.ZipFile(self.package, "w") as archive:
            for name, text in files.items():
                archive.writestr(name, text)

    def extension(self, *arguments: str) -> dict[str, Any]:
        done = subprocess.run(
            [self.python, self.package, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        answer = json.loads(done.stdout)
        assert isinstance(answer, dict)
        assert (done.returncode == 0) == ("failure" not in answer)
        return answer

    def session(
        self, *only: Path, hold: float = 10.0, wait: float = 30.0, skip: tuple[Path, ...] = ()
    ) -> Session:
        choice = [word for mount in only for word in ("--only", str(mount))]
        choice = choice or ["--only", "nothing"]
        choice += [word for mount in skip for word in ("--skip", str(mount))]
        plan = self.extension("preflight", *choice)
        frozen = [Path(one["mount"]) for one in plan["mounts"] if one["action"] == "freeze"]
        assert all(self.folder in mount.parents for mount in frozen), "the host would be frozen"
        self._tasks += 1
        task = f"test-{self._tasks}"
        answer = self.extension(
            "session", "--task", task, "--hold", str(hold), "--wait", str(wait), *choice
        )
        assert answer["control"] == f"/run/quiesce/{task}/control"
        return Session(self, task)

    def scripts(self, *, pre: str = "exit 0", post: str = "exit 0", **more: object) -> Path:
        """Configure scripts; both note that they ran in the file that is returned."""
        folder = Path("/etc/azure")
        folder.mkdir(exist_ok=True)
        notes = Path("/run/notes")
        notes.write_text("")
        for name, body in (("pre", pre), ("post", post)):
            script = folder / f"{name}.sh"
            script.write_text(f"#!/bin/sh\necho {name} >> {notes}\n{body}\n")
            script.chmod(0o700)
        config = folder / "VMSnapshotScriptPluginConfig.json"
        config.write_text(
            json.dumps(
                {
                    "pluginName": "ScriptRunner",
                    "preScriptLocation": str(folder / "pre.sh"),
                    "postScriptLocation": str(folder / "post.sh"),
                    **more,
                }
            )
        )
        config.chmod(0o600)
        return notes

    def close(self) -> None:
        """End what a failed test left, and unmount all, so that nothing stays frozen."""
        folder = Path("/run/quiesce")
        for task in [p.name for p in folder.iterdir() if p.is_dir()] if folder.exists() else []:
            self.extension("recover", "--task", task)
        for config in Path("/etc/azure").glob("*"):
            config.unlink()
        for mount in reversed(self._mounts):
            if os.path.ismount(mount):
                thaw(mount, missing_ok=True)
            subprocess.run(["umount", "-R", "-l", mount], capture_output=True, check=False)


def freeze(mount: Path) -> None:
    _ioctl(mount, FIFREEZE)


def thaw(mount: Path, *, missing_ok: bool = False) -> None:
    try:
        _ioctl(mount, FITHAW)
    except OSError:
        if not missing_ok:
            raise


def _ioctl(mount: Path, request: int) -> None:
    assert os.path.ismount(mount), f"{mount} is no mount of the test's"
    fd = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, request, 0)
    finally:
        os.close(fd)
