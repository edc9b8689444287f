"""What whoever collected could see: from nothing else follows that a file is not there."""

from __future__ import annotations

from quiesce.model.papers import Papers

_TELLING = ("listed", "absent")


def knows_absence(papers: Papers, *folders: str) -> bool:
    """Whether the collector could list each of these folders, or has seen that it is not there. A
    user, or an agent that SELinux confines, could not; papers that do not say so prove nothing
    either."""
    paper = papers.command("access")
    lines = paper.text.splitlines() if paper is not None else []
    return all(any(f"{word} {folder}" in lines for word in _TELLING) for folder in folders)
