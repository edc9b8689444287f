"""The papers of this very machine."""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import replace

from quiesce.agent.collection import MAX_RAW_BYTES, new_token, parse, script
from quiesce.model.failure import AgentFailure, Evidence
from quiesce.model.papers import COMMAND, Papers

_OF_ROOT = ("journal", "extension", "quiesce", "certificate", "freezers")
_SECONDS = 120.0
"""Each command of the collector has a limit of its own."""


def papers_here() -> Papers:
    """What `guest/collect.sh` finds on this machine; nothing is changed. What only root may read
    is missing from a user's papers, and a warning says so.

    :raise AgentFailure: agent.exec-timeout, agent.command-failed
    """
    token = new_token()
    try:
        ran = subprocess.run(
            ["sh", "-s", token], input=script(), capture_output=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as inner:
        raise AgentFailure(
            "agent.exec-timeout", f"The collection on this machine did not end in {_SECONDS:g} s."
        ) from inner
    except OSError as inner:
        raise AgentFailure(
            "agent.command-failed", "The collection on this machine could not be started."
        ) from inner
    found = parse(ran.stdout[:MAX_RAW_BYTES], token, f"{socket.gethostname()} (this machine)")
    if not found.papers:
        raise AgentFailure(
            "agent.command-failed",
            "The collection on this machine printed nothing.",
            evidence=[
                Evidence(
                    f"exit status {ran.returncode}",
                    "sh",
                    raw=ran.stderr[:2000].decode("utf-8", "replace"),
                )
            ],
        )
    if os.geteuid() != 0:
        return _as_seen_by_a_user(found)
    return found


def _as_seen_by_a_user(found: Papers) -> Papers:
    """Without what is empty only because a user may not look there: it would seem that nothing is
    there."""
    papers = tuple(
        paper
        for paper in found.papers
        if paper.path.removeprefix(COMMAND) not in _OF_ROOT or paper.text.strip()
    )
    words = "Without root some files cannot be read; run it with sudo to see all."
    return replace(found, papers=papers, warnings=(*found.warnings, words))
