"""The table of `make bench-vault`, from `vault.json`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TIMED = (
    ("full", "full backup"),
    ("rescan v2", "second backup, 2 % changed"),
    ("rescan v3", "third backup, 2 % changed"),
    ("list v2", "increment by change list"),
    ("list v3", "… the next one"),
    ("restore", "restore to raw"),
    ("restore qcow2", "restore to qcow2"),
    ("verify", "verify every chunk"),
    ("verify without key", "verify without key"),
    ("start", "start alone"),
)
COSTLY = ("full", "rescan v2", "list v2", "restore", "verify")
STORED = (
    ("v2", "… + 2 % changes"),
    ("v3", "… + 2 % changes again"),
    ("cloned", "… + sibling of the same template"),
    ("reinstalled", "… + sibling installed anew"),
)
PEER_STEP = {"list v2": "rescan v2", "list v3": "rescan v3"}
"""Who knows no change list reads everything again."""

Medians = dict[str, dict[str, dict[str, float]]]


def table(facts: dict[str, Any]) -> str:
    medians: Medians = facts["medians"]
    peers = [name for name in medians if name not in ("Quiesce", "limit")]
    lines = [f"| | Quiesce | {' | '.join(peers)} |", "|---" * (len(peers) + 2) + "|"]

    def row(label: str, cell: Callable[[str], str]) -> None:
        lines.append(f"| {label} | {' | '.join(cell(name) for name in ('Quiesce', *peers))} |")

    for step, label in TIMED:
        row(f"{label}, s", lambda name, step=step: _seconds(medians, name, step))  # type: ignore[misc]
        if step in COSTLY:
            row("… processor, s", lambda n, s=step: _figure(medians, n, s, "cpu_seconds", 1))  # type: ignore[misc]
            row("… memory, MB", lambda n, s=step: _figure(medians, n, s, "peak_bytes", 1e6))  # type: ignore[misc]
    stored = facts["stored_bytes"]
    row("stored, MB", lambda name: _mb(stored[name]["v1"]))
    before = "v1"
    for image, label in STORED:
        row(label, lambda name, i=image, b=before: _growth(stored[name], b, i))  # type: ignore[misc]
        before = image
    return "\n".join([*lines, "", *_shares(facts)])


def _seconds(medians: Medians, name: str, step: str) -> str:
    ours = medians["Quiesce"].get(step)
    if name == "Quiesce":
        return f"**{ours['seconds']:.2f}**" if ours else "–"
    theirs = medians[name].get(PEER_STEP.get(step, step))
    if theirs is None or ours is None:
        return "–"
    return f"{theirs['seconds']:.2f} ({theirs['seconds'] / ours['seconds']:.1f}×)"


def _figure(medians: Medians, name: str, step: str, what: str, unit: float) -> str:
    cost = medians[name].get(step)
    return "–" if cost is None else f"{cost[what] / unit:{'.1f' if unit == 1 else '.0f'}}"


def _mb(size: float) -> str:
    return f"{size / 1e6:.0f}"


def _growth(stored: dict[str, int], before: str, image: str) -> str:
    return f"+{(stored[image] - stored[before]) / 1e6:.1f}" if image in stored else "–"


def _shares(facts: dict[str, Any]) -> list[str]:
    ours, limit = facts["medians"]["Quiesce"], facts["medians"]["limit"]
    read, write, zstd = (limit[name]["work_seconds"] for name in ("read", "write", "zstd"))
    data = facts["data_bytes"]

    def share(bound: float, step: str) -> str:
        inside = bound / ours[step]["work_seconds"]
        return f"{bound / ours[step]['seconds']:.0%} ({inside:.0%} without start)"

    return [
        f"{data / 1e6:.0f} MB of data, {facts['rounds']} rounds, {facts['cores']} cores.",
        "",
        "| raw limit of the same run | s | what it bounds | reached |",
        "|---|---|---|---|",
        f"| O_DIRECT read | {read:.2f} | second backup | {share(read, 'rescan v2')} |",
        f"| zstd-1 on all cores | {zstd:.2f} | full backup (the slower of the two) "
        f"| {share(max(read, zstd), 'full')} |",
        f"| O_DIRECT write | {write:.2f} | restore to raw | {share(write, 'restore')} |",
    ]
