"""A real server in a process of its own, the command line beside it, and looks into QEMU.

What a test needs to play a user: start, kill and stand still a server; ask it by its API and by
its commands; and see from outside, on the lab's own monitor, what QEMU holds and whether the
guest still writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx

from quiesce.hypervisor.qemu import QemuVm
from quiesce.lab.guest import LabGuest
from quiesce.lab.network import LabNetwork
from quiesce.model.snapshot import SnapshotSession

VM = "Büro-Server 01 ✓"
"""What tests call their VM: a name as people choose them."""

_QUIESCE = (sys.executable, "-m", "quiesce.cli.main")
_T = TypeVar("_T")


def wait_for(
    what: str, ask: Callable[[], _T | None], *, seconds: float = 60.0, pause: float = 0.02
) -> _T:
    """The first answer that is not None or False; an assertion names `what` when none comes.
    Asked every `pause` seconds, which an emulated guest on the same machine feels."""
    deadline = time.monotonic() + seconds
    while True:
        answer = ask()
        if answer is not None and answer is not False:
            return answer
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(pause)


class QuiesceServer:
    """A server with folders of its own, which outlive the process. Not started when made.

    `network`: it runs in this lab network, and listens there for the guests' agents."""

    def __init__(
        self, folder: Path, *, network: LabNetwork | None = None, **environment: str
    ) -> None:
        self.folder = folder
        self._network = network
        self.data = folder / "data"
        self.environment = {
            **os.environ,
            "QUIESCE_DATA_FOLDER": str(self.data),
            "QUIESCE_RUN_FOLDER": str(folder / "run"),
            "QUIESCE_PORT": "0",
            "QUIESCE_SCHEDULE_SECONDS": "0.5",
            "COLUMNS": "200",
            **(_guest_side(network) if network else {}),
            **environment,
        }
        self.log = folder / "server.log"
        self.scratch = self.data / "scratch"
        self._process: subprocess.Popen[bytes] | None = None

    # --- its life

    def start(self, *, answers: bool = True) -> Self:
        command = [*_QUIESCE, "server", "--no-portal"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._network.enter(command) if self._network else command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if answers:
            wait_for("the server to answer", self._answers)
        return self

    def kill(self) -> None:
        """SIGKILL, and return when the process is gone."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(10)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def ended(self) -> int:
        """The exit status, waited for."""
        assert self._process is not None
        return self._process.wait(60)

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """As on a host that is overloaded: it does nothing meanwhile and goes on afterwards."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            assert self._process is not None
            if self._process.poll() is None:
                self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()[-4000:]
        try:
            return self._client().get("/health").is_success
        except httpx.HTTPError:
            return False

    # --- as a program asks

    def _client(self) -> httpx.Client:
        return httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.folder / "run" / "quiesce.sock")),
            base_url="http://quiesce/api/v1",
            timeout=90,
        )

    def call(self, method: str, *path: str, body: object = None) -> httpx.Response:
        url = "/" + "/".join(quote(part, safe="") for part in path)
        with self._client() as client:
            return client.request(method, url, json=body)

    def get(self, *path: str) -> Any:
        answer = self.call("GET", *path)
        assert answer.is_success, answer.text
        return answer.json()

    def post(self, *path: str, body: object = None) -> Any:
        answer = self.call("POST", *path, body=body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def add(
        self, guest: LabGuest, name: str = VM, *, agent: Path | None = None, kind: str = "qga"
    ) -> None:
        """`kind`: which agents Quiesce is told of, as in `quiesce vm add --agent KIND`."""
        body = {
            "name": name,
            "qmp_socket": str(guest.qmp_socket),
            "qga_socket": None if kind == "waagent" else str(agent or guest.qga_socket),
            "agent": kind,
        }
        self.post("vms", body=body)

    def protect(self, vm: str = VM, **policy: object) -> None:
        """By a policy of its own; `policy` holds fields as the API names them."""
        name = f"policy {time.monotonic_ns()}"
        self.post("policies", body={"name": name, **policy})
        answer = self.call("PUT", "vms", vm, "protection", body={"policy": name})
        assert answer.is_success, answer.text

    def begin(self, vm: str = VM) -> str:
        """Start a backup; the job's id."""
        return str(self.post("vms", vm, "backup")["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(self.get("jobs", job_id))

    def end_of(self, job_id: str, *, seconds: float = 180.0) -> dict[str, Any]:
        """The job, once it has ended."""

        def ended() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if job["ended_at"] else None

        return wait_for(f"job {job_id} to end", ended, seconds=seconds, pause=0.25)

    def backup(self, vm: str = VM) -> dict[str, Any]:
        return self.end_of(self.begin(vm))

    def point_of(self, job: Mapping[str, Any]) -> dict[str, Any]:
        assert job["status"] == "Completed", told(job)
        return dict(self.get("points", job["point_id"]))

    def points(self) -> list[dict[str, Any]]:
        return list(self.get("points"))

    def restore(self, point_id: str, to: Path) -> None:
        job = self.post("restores", body={"point": point_id, "to": str(to)})
        ended = self.end_of(job["id"])
        assert ended["status"] == "Completed", told(ended)

    def session(self, guest: LabGuest, job_id: str) -> SnapshotSession:
        """What the hypervisor holds of a running backup, asked by another process."""
        return QemuVm(guest.address, self.scratch).open(job_id)

    @contextlib.contextmanager
    def stuck_in_transfer(self, guest: LabGuest, vm: str = VM) -> Iterator[str]:
        """Begin a backup and let the server stand still once its point is open; the job's id."""
        job_id = self.begin(vm)
        exports = {f"qz{job_id}-e{index}" for index in range(len(guest.disks))}
        with Lookout(guest.files.monitor_socket) as lookout:
            wait_for("the point to be open", lambda: exports <= lookout.exports() or None)
        # Not while it speaks to QEMU: nobody else could, since QEMU listens to one at a time.
        with Lookout(guest.qmp_socket):
            standing = self.standing_still()
            standing.__enter__()
        try:
            yield job_id
        finally:
            standing.__exit__(None, None, None)

    # --- as a person asks

    def cli(self, *words: str, seconds: float = 180.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*_QUIESCE, *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def start_cli(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*_QUIESCE, *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def _guest_side(network: LabNetwork) -> dict[str, str]:
    return {
        "QUIESCE_AGENT_ADDRESS": network.host_address,
        "QUIESCE_STORAGE_ADDRESS": network.storage_address,
        "QUIESCE_STORAGE_HOST": network.storage_name,
    }


@contextlib.contextmanager
def new_server(*, network: LabNetwork | None = None, **environment: str) -> Iterator[QuiesceServer]:
    """A started server in new folders, gone with them at the end."""
    with new_home(network=network, **environment) as server:
        yield server.start()


@contextlib.contextmanager
def new_home(*, network: LabNetwork | None = None, **environment: str) -> Iterator[QuiesceServer]:
    """A server that is not started yet."""
    folder = Path(tempfile.mkdtemp(prefix="qz-"))
    server = QuiesceServer(folder, network=network, **environment)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def told(job: Mapping[str, Any]) -> str:
    """A job's story, for a test that fails."""
    story = [f"{line['level']}: {line['text']}" for line in job["log"]]
    return "\n".join([job["status"], str(job["failure"]), *job["warnings"], *story])


class Lookout:
    """A QMP connection that is held, to look often. As long as it is, QEMU listens to nobody
    else on this socket: opened on Quiesce's own, it holds Quiesce up."""

    def __init__(self, address: Path, *, seconds: float = 30.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(seconds)
        self._socket.connect(str(address))
        self._lines = self._socket.makefile("r", encoding="utf-8")
        self._ready = False

    def admitted(self) -> Self:
        """Return when QEMU has turned to this connection."""
        if not self._ready:
            assert "QMP" in json.loads(self._lines.readline())
            self._ready = True
            self.ask("qmp_capabilities")
        return self

    def ask(self, command: str, **arguments: object) -> Any:
        self.admitted()
        request = json.dumps({"execute": command, "arguments": arguments}) + "\n"
        self._socket.sendall(request.encode())
        while True:
            answer = json.loads(self._lines.readline())
            if "return" in answer:
                return answer["return"]
            assert "error" not in answer, answer

    def nodes(self) -> set[str]:
        return {node["node-name"] for node in self.ask("query-named-block-nodes", flat=True)}

    def exports(self) -> set[str]:
        return {export["id"] for export in self.ask("query-block-exports")}

    def writes(self) -> int:
        """How many writes and flushes the guest's disks have served: stands still while the
        guest is frozen, moves as long as a ledger is kept."""
        return sum(
            disk["stats"]["wr_operations"] + disk["stats"]["flush_operations"]
            for disk in self.ask("query-blockstats")
            if disk.get("qdev")
        )

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self.admitted()

    def __exit__(self, *_: object) -> None:
        self.close()


def held_by_qemu(guest: LabGuest) -> dict[str, object]:
    """All that a backup could leave in QEMU, to compare before and after: nodes, exports, jobs,
    the NBD server, and bitmaps other than those that the next increment counts from."""
    with Lookout(guest.files.monitor_socket) as lookout:
        disks = lookout.ask("query-named-block-nodes", flat=True)
        return {
            "status": lookout.ask("query-status")["status"],
            "nodes": sorted(node["node-name"] for node in disks),
            "exports": sorted(lookout.exports()),
            "jobs": lookout.ask("query-block-jobs"),
            "bitmaps": sorted(
                bitmap["name"]
                for node in disks
                for bitmap in node.get("dirty-bitmaps", [])
                if not bitmap["name"].startswith("quiesce-")
            ),
        }


def nothing_is_left(server: QuiesceServer, guest: LabGuest, before: dict[str, object]) -> None:
    """Assert that QEMU and the scratch folder are as before the backup, and the guest writes."""
    assert held_by_qemu(guest) == before
    assert list(server.scratch.iterdir()) == []
    guest.run("touch /root/alive && sync", seconds=20)
