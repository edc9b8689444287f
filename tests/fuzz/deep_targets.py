"""What deep_fuzz.py feeds: each target takes one input and raises when the server would do what it
must not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "agent"))

from deep_agent import (
    certificate,
    certificate_seeds,
    health,
    health_seeds,
    plugin,
    plugin_seeds,
    report,
    report_seeds,
    status,
    status_seeds,
    wire,
    wire_seeds,
)
from deep_http import Target
from deep_storage import storage, storage_seeds
from deep_vault import VAULT_JSON_TARGETS, VAULT_TARGETS
from paper_inputs import bundle_seeds, look_through, papers_from, papers_seeds, read_through

TARGETS: Mapping[str, tuple[Callable[[], Target], Callable[[], list[bytes]]]] = {
    "storage": (storage, storage_seeds),
    "wire": (wire, wire_seeds),
    "plugin": (plugin, plugin_seeds),
    "status": (status, status_seeds),
    "health": (health, health_seeds),
    "report": (report, report_seeds),
    "certificate": (certificate, certificate_seeds),
    "bundle": (lambda: read_through, bundle_seeds),
    "papers": (lambda: lambda data: look_through(papers_from(data)), papers_seeds),
    **VAULT_TARGETS,
}
"""How each is made, and its first inputs."""
JSON_TARGETS = ("status", "report", *VAULT_JSON_TARGETS)
HTTP_TARGETS = ("storage", "wire", "plugin")
