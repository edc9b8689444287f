"""What tests of the service share: paper VMs as their administrator sees them, and the server as a
process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from paper_vm import PaperHypervisor

from quiesce.model.job import Job
from quiesce.service.service import Service

DEADLINE_SECONDS = 120.0
"""Of what must happen: three workers on two cores start a server in half a minute."""


def eventually(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {DEADLINE_SECONDS} s")


@dataclass
class FakeClock:
    time: datetime = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time


@dataclass
class PaperMachine:
    """One paper VM's folder, as its administrator sees it."""

    folder: Path
    content: bytes = field(default_factory=lambda: os.urandom(3 * 1024 * 1024 + 512))

    def __post_init__(self) -> None:
        self.folder.mkdir()
        (self.folder / "vda.disk").write_bytes(self.content)

    def hold(self, stage: str) -> None:
        (self.folder / f"hold-{stage}").touch()

    def let_go(self, stage: str) -> None:
        (self.folder / f"hold-{stage}").unlink()
        (self.folder / f"at-{stage}").unlink(missing_ok=True)

    def reached(self, stage: str) -> None:
        eventually((self.folder / f"at-{stage}").exists, f"stage {stage}")

    def fail(self, what: str, how: str) -> None:
        """From now on this fails, as paper_vm and paper_agents say."""
        (self.folder / f"fail-{what}").write_text(how)

    @property
    def mended(self) -> list[str]:
        """What its agents were asked to mend, in order."""
        notes = self.folder / "mended"
        return [line.strip() for line in notes.read_text().splitlines()] if notes.exists() else []

    @property
    def clean(self) -> bool:
        """Nothing of ours is left: no session, no frozen guest."""
        left = PaperHypervisor(self.folder).leftovers()
        return not left and not (self.folder / "frozen").exists()


def ended(service: Service, job: Job) -> Job:
    def now() -> Job | None:
        found = service.jobs.get(job.id)
        return found if found.status.ended else None

    found: Job = eventually(now, f"the end of the job {job.id}")
    return found


def backed_up(service: Service) -> Job:
    return ended(service, service.jobs.start_backup("web"))


class RunningServer:
    """The server as a process of its own, called over its unix socket."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self.log = data.with_suffix(".log")
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).parent / "paper_server.py"), str(self._data)],
                stdout=log,
                stderr=log,
            )
        transport = httpx.HTTPTransport(uds=str(self._data / "run" / "quiesce.sock"))
        self.api = httpx.Client(transport=transport, base_url="http://q/api/v1", timeout=60)
        eventually(self._answers, "the server's start")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=DEADLINE_SECONDS)

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/jobs/{job_id}").json()
        return found

    def ended(self, job_id: str) -> dict[str, Any]:
        def now() -> dict[str, Any] | None:
            job = self.job(job_id)
            return None if job["status"] in ("Queued", "In progress") else job

        found: dict[str, Any] = eventually(now, f"the end of {job_id}, see {self.log}")
        return found

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line[:1] == "{"]

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(self.log.read_text())
        try:
            return self.api.get("/health").is_success
        except httpx.TransportError:
            return False
