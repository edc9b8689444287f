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
    ("start by passphrase", "… and a passphrase for all"),
)
COSTLY = ("full", "rescan v2", "list v2", "restore", "verify")
SHORT = ("list v2", "list v3")
"""Of these the start of a process is a good part."""
STORED = (
    ("v2", "… + 2 % changes"),
    ("v3", "… + 2 % changes again"),
    ("cloned", "… + sibling of the same template"),
    ("reinstalled", "… + sibling installed anew"),
)
PEER_STEP = {"list v2": "rescan v2", "list v3": "rescan v3", "start by passphrase": "start"}
"""Who knows no change list reads everything again, and who knows no key files has a passphrase."""

Medians = dict[str, dict[str, dict[str, float]]]


def table(facts: dict[str, Any]) -> str:
    medians: Medians = facts["medians"]
    peers = [name for name in medians if name not in ("Quiesce", "limit")]
    lines = [f"| | Quiesce | {' | '.join(peers)} |", "|---" * (len(peers) + 2) + "|"]

    def row(label: str, cell: Callable[[str], str]) -> None:
        lines.append(f"| {label} | {' | '.join(cell(name) for name in ('Quiesce', *peers))} |")

    for step, label in TIMED:
        row(f"{label}, s", lambda name, step=step: _seconds(medians, name, step))  # type: ignore[misc]
        if step in SHORT:
            row("… without start, s", lambda name, step=step: _running(medians, name, step))  # type: ignore[misc]
        if step in COSTLY:
            row(
                "… processor, s",
                lambda name, step=step: _seconds(medians, name, step, "cpu_seconds"),
            )  # type: ignore[misc]
            row("… memory, MB", lambda name, step=step: _memory(medians, name, step))  # type: ignore[misc]
    stored = facts["stored_bytes"]
    row("stored, MB", lambda name: _mb(stored[name]["v1"]))
    before = "v1"
    for image, label in STORED:
        row(label, lambda name, i=image, b=before: _growth(stored[name], b, i))  # type: ignore[misc]
        before = image
    return "\n".join([*lines, "", *_shares(facts)])


def _seconds(medians: Medians, name: str, step: str, what: str = "seconds") -> str:
    ours = medians["Quiesce"].get(step)
    theirs = ours if name == "Quiesce" else medians[name].get(PEER_STEP.get(step, step))
    if theirs is None or ours is None:
        return "–"
    return _compared(theirs[what], ours[what], peer=name != "Quiesce")


def _running(medians: Medians, name: str, step: str) -> str:
    """What is left when a process has started, opened the vault and derived its key."""
    ours = medians["Quiesce"][step]["work_seconds"]
    if name == "Quiesce":
        return _compared(ours, ours, peer=False)
    theirs, start = medians[name].get(PEER_STEP[step]), medians[name].get("start")
    if theirs is None or start is None:
        return "–"
    return _compared(theirs["seconds"] - start["seconds"], ours, peer=True)


def _compared(theirs: float, ours: float, *, peer: bool) -> str:
    return f"{theirs:.2f} ({theirs / ours:.1f}×)" if peer else f"**{ours:.2f}**"


def _memory(medians: Medians, name: str, step: str) -> str:
    cost = medians[name].get(PEER_STEP.get(step, step) if name != "Quiesce" else step)
    return "–" if cost is None else f"{cost['peak_bytes'] / 1e6:.0f}"


def _mb(size: float) -> str:
    return f"{size / 1e6:.0f}"


def _growth(stored: dict[str, int], before: str, image: str) -> str:
    return f"+{(stored[image] - stored[before]) / 1e6:.1f}" if image in stored else "–"


def _shares(facts: dict[str, Any]) -> list[str]:
    ours, limit = facts["medians"]["Quiesce"], facts["medians"]["limit"]
    read, write, move, zstd = (
        limit[name]["work_seconds"] for name in ("read", "write", "move", "zstd")
    )
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
        f"| … while what is stored is read | {move:.2f} | restore to raw "
        f"| {share(move, 'restore')} |",
    ]
