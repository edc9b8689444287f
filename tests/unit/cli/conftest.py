"""A real server of the tests' own, and the command line beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from vault_here import Here

QUIESCE = (sys.executable, "-m", "quiesce.cli.main")


@dataclass(frozen=True)
class Cli:
    """Runs `quiesce` against one data folder. Not on a terminal, 80 columns wide, in Berlin."""

    data: Path
    url: str = ""
    more: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return {
            **kept,
            "QUIESCE_DATA_FOLDER": str(self.data),
            "TZ": "Europe/Berlin",
            "LC_ALL": "C.UTF-8",
            "COLUMNS": "80",
            **self.more,
        }

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*QUIESCE, *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def json(self, *words: str, exit_code: int = 0) -> Any:
        done = self(*words, "--json")
        assert done.returncode == exit_code, done.stdout + done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def without_server(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture
def here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Here:
    """A vault with points, and no server."""
    for name in ("PASSPHRASE", "NEW_PASSPHRASE", "KEY_FILE"):
        monkeypatch.delenv(f"QUIESCE_VAULT_{name}", raising=False)
    # A server's settings must not be found: none of this needs one.
    monkeypatch.setenv("QUIESCE_SERVER", "unix:/nonexistent")
    return Here(tmp_path, capsys)


@pytest.fixture(scope="module")
def cli() -> Iterator[Cli]:
    """The command line of a server that runs for the whole module."""
    with running() as cli:
        yield cli


@pytest.fixture(scope="module")
def guests_cli() -> Iterator[Cli]:
    """The same of a server that serves guests over their network too."""
    agent, plugin, storage = (str(free_port()) for _ in range(3))
    with running(
        {
            "QUIESCE_AGENT_ADDRESS": "127.0.0.1",
            "QUIESCE_AGENT_PORT": agent,
            "QUIESCE_HOST_PLUGIN_PORT": plugin,
            "QUIESCE_STORAGE_PORT": storage,
        }
    ) as cli:
        yield cli


@contextmanager
def running(more: dict[str, str] | None = None) -> Iterator[Cli]:
    with tempfile.TemporaryDirectory(prefix="qcli-") as folder:
        port = str(free_port())
        cli = Cli(Path(folder), f"http://127.0.0.1:{port}", more or {})
        process = subprocess.Popen(
            [*QUIESCE, "server", "--no-portal", "--port", port],
            env=cli.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            deadline = time.monotonic() + 120
            while cli("vault", "status").returncode != 0:
                assert process.poll() is None, process.stdout and process.stdout.read()
                assert time.monotonic() < deadline, "the server did not answer"
            yield cli
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=120)
