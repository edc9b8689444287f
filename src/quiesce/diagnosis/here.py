"""The papers of this very machine."""

from __future__ import annotations

from quiesce.model.papers import Papers


def papers_here() -> Papers:
    """What `guest/collect.sh` finds on this machine; nothing is changed."""
    return Papers((), source="this machine")
