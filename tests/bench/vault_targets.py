"""The vault's targets, and which of them a run of `make bench-vault` reached.

Ratios to peers and limits of the same run: a slower machine changes both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """`at_least` and `aim` are lower bounds, or upper ones where `at_most`."""

    what: str
    measured: float
    at_least: float
    aim: float
    unit: str = "×"
    at_most: bool = False

    @property
    def verdict(self) -> str:
        def holds(bound: float) -> bool:
            return self.measured <= bound if self.at_most else self.measured >= bound

        return "aim reached" if holds(self.aim) else "reached" if holds(self.at_least) else "missed"

    def shown(self, value: float) -> str:
        if self.unit == "%":
            return f"{value:.0%}"
        if self.unit == "MB":
            return f"{value:.0f} MB"
        return f"{value:.2f}×" if self.at_most else f"{value:.1f}×"


def targets(facts: dict[str, Any]) -> list[Target]:
    """Those whose tools took part in the run."""
    medians, stored = facts["medians"], facts["stored_bytes"]
    ours = medians["Quiesce"]
    found = []

    def ratio(what: str, step: str, peer: str, at_least: float, aim: float) -> None:
        if peer in medians:
            theirs = medians[peer][step]["seconds"]
            found.append(Target(what, theirs / ours[step]["seconds"], at_least, aim))

    ratio("full backup: restic", "full", "restic", 4, 6)
    ratio("full backup: borg", "full", "borg", 2.7, 4)
    ratio("full backup: qemu-img zstd", "full", "qemu-img zstd", 2, 3)
    for peer in ("restic", "borg"):
        if peer in medians:
            rescans = [medians[peer][f"rescan {image}"]["seconds"] for image in ("v2", "v3")]
            lists = [ours[f"list {image}"] for image in ("v2", "v3")]
            first = rescans[0] / lists[0]["seconds"]
            found.append(Target(f"increment by change list: {peer}", first, 25, 50))
            whole = sum(rescans) / sum(cost["seconds"] for cost in lists)
            found.append(Target("… this one and the next", whole, 25, 50))
            theirs = sum(rescans) - 2 * medians[peer]["start"]["seconds"]
            running = theirs / sum(cost["work_seconds"] for cost in lists)
            found.append(Target("… both, all without start", running, 25, 50))
    ratio("restore: restic", "restore", "restic", 3.5, 6)
    ratio("restore: borg", "restore", "borg", 4, 6)
    ratio("restore: qemu-img zstd", "restore", "qemu-img zstd", 2.3, 3)
    if "limit" in medians:
        limit = {name: cost["work_seconds"] for name, cost in medians["limit"].items()}
        bound = max(limit["read"], limit["zstd"])
        full, rescan = ours["full"]["work_seconds"], ours["rescan v2"]["work_seconds"]
        found.append(Target("full backup: limit (without start)", bound / full, 0.6, 0.85, "%"))
        rescan_share = limit["read"] / rescan
        found.append(Target("rescan: O_DIRECT read (without start)", rescan_share, 0.8, 0.95, "%"))
        packs = limit["read"] * stored["Quiesce"]["v2"] / facts["data_bytes"]
        alone = packs / ours["verify without key"]["work_seconds"]
        found.append(Target("verify without key: O_DIRECT read", alone, 1, 1, "%"))
    if "restic" in stored:
        theirs, own = stored["restic"], stored["Quiesce"]
        first = own["v1"] / theirs["v1"]
        growth = (own["v3"] - own["v1"]) / (theirs["v3"] - theirs["v1"])
        found.append(Target("first size: restic", first, 1.05, 0.97, at_most=True))
        found.append(Target("growth by 2 %: restic", growth, 0.55, 0.45, at_most=True))
    peak = max(cost["peak_bytes"] for step, cost in ours.items() if step != "create") / 1e6
    found.append(Target("memory of the largest process", peak, 256, 128, "MB", at_most=True))
    return found


def targets_table(facts: dict[str, Any]) -> str:
    lines = ["| target | at least | aim | measured | |", "|---" * 5 + "|"]
    lines += [
        f"| {t.what} | {t.shown(t.at_least)} | {t.shown(t.aim)} | {t.shown(t.measured)} "
        f"| {t.verdict} |"
        for t in targets(facts)
    ]
    return "\n".join(lines)
