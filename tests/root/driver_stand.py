"""A guest's handler in front of a storage endpoint, with one mount that may be frozen."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from guest_bench import Bench, Writer
from loopback import Answering, Authority, Reply, Request, Server, snapshot_taken
from waagent_folder import HandlerFolder

SIGNATURE = "sig=VerySecretSignature"
RUN = Path("/run/quiesce")


class Stand:
    """One mount to freeze, a handler's folder, and a storage endpoint that may be told to fail."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.bench = bench
        self.mount = bench.mount()
        self.folder = folder
        (folder / "agent").mkdir()
        self.handler = HandlerFolder(folder / "agent")
        self.authority = Authority(folder)
        self.answer: Answering = snapshot_taken
        self.proxy: dict[str, str] | None = None
        self.storage = Server(
            lambda request: self.answer(request), self.authority.context_for("127.0.0.1")
        )
        self.url = f"https://127.0.0.1:{self.storage.port}"
        self._leave_the_machine_alone()

    def _leave_the_machine_alone(self) -> None:
        """Everything but our own mounts is skipped, by the operator's own file: what the server
        asks for is not needed for it."""
        plan = self.bench.extension("preflight")["mounts"]
        others = [one["mount"] for one in plan if not self._is_ours(one)]
        Path("/etc/azure").mkdir(exist_ok=True)
        conf = Path("/etc/azure/vmbackup.conf")
        conf.write_text(f"[SnapshotThread]\nMountsToSkip = {','.join(others)}\n")
        left = self.bench.extension("preflight")["mounts"]
        frozen = [one for one in left if one["action"] == "freeze"]
        assert frozen, "nothing would be frozen"
        assert all(map(self._is_ours, frozen)), "the host would be frozen"

    def _is_ours(self, planned: dict[str, Any]) -> bool:
        return str(planned["mount"]).startswith(f"{self.bench.folder}/")

    def order(self, sequence: int, attempt: str, **more: Any) -> None:
        public = {
            "command": "snapshot",
            "task": "task-1",
            "attempt": attempt,
            "hold_seconds": 8,
            "skip_mounts": [],
            "deadline": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60)),
            "endpoint": {"url": self.url, "ca_pem": self.authority.pem},
            **more,
        }
        protected = {
            "snapshot_urls": {
                name: f"{self.url}/disks/{name}?{SIGNATURE}" for name in ("vda", "vdb")
            },
            "report_url": f"{self.url}/reports/{attempt}?{SIGNATURE}",
            "log_url": f"{self.url}/logs/{attempt}?{SIGNATURE}",
            "proxy": self.proxy,
        }
        self.handler.settings(sequence, public, protected)

    def begin(self, sequence: int, **more: Any) -> None:
        """An order of the attempt of this number, and the agent's word to carry it out."""
        self.order(sequence, f"attempt-{sequence}", **more)
        self.enable(sequence)

    def enable(self, sequence: int) -> None:
        done = self.handler.call("enable", sequence)
        assert done.returncode == 0, done.stdout + done.stderr

    def reported(self, attempt: str) -> Request | None:
        """What came to the attempt's report blob."""
        wanted = f"/reports/{attempt}"
        return next((one for one in self.storage.requests if wanted in one.target), None)

    def driver(self) -> dict[str, Any]:
        found = json.loads((RUN / "driver").read_text())
        assert isinstance(found, dict)
        return found

    def close(self) -> None:
        self.handler.call("disable")
        self.storage.close()


class DuringSnapshot:
    """A storage endpoint's answer that looks, while it is being asked, whether writers wait."""

    def __init__(self, mount: Path, then: Answering = snapshot_taken) -> None:
        self.mount = mount
        self.then = then
        self.writer: Writer | None = None
        self.was_blocked = False

    def __call__(self, request: Request) -> Reply:
        if "comp=snapshot" in request.target and self.writer is None:
            self.writer = Writer(self.mount)
            self.was_blocked = self.writer.blocked(0.3)
        return self.then(request)
