"""The guest route beside the host route on one real guest, taking turns.

    PYTHONPATH=tests/e2e:tests/agent python tests/bench/bench_routes.py FOLDER [--tries N]

The VM has ext4, XFS and btrfs disks, both agents, and a program that writes and syncs all the
time. Printed are medians with the least and the most: how long each file system was held, what
its freeze call took, and how long the task *Take snapshot* and the whole job took. The agent asks
for its goal state every 2 s here (its default is 6 s): on the average half of that is waiting.
"""

from __future__ import annotations

import argparse
import json
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from agent_site import Site, new_site
from quiesce_server import VM, told

from quiesce.lab.ledger import start_ledger
from quiesce.lab.state import Layout

ROUTES = ("host", "guest")
Figures = dict[str, dict[str, list[float]]]


def measure(site: Site, tries: int) -> Figures:
    figures: Figures = {route: {} for route in ROUTES}
    site.server.backup()  # installs what each route needs
    for number in range(tries + 1):
        for route in ROUTES:
            site.server.protect(VM, snapshot={"route": route})
            job = site.server.backup()
            assert job["route"] == route, told(job)
            if number:  # the first of each route installs its package
                for name, value in _figures(job).items():
                    figures[route].setdefault(name, []).append(value)
                print(".", end="", flush=True)
    print()
    return figures


def _figures(job: dict[str, Any]) -> dict[str, float]:
    found = {}
    for mount in job["freeze"]["mounts"]:
        if not mount["skipped"]:
            name = f"{mount['mount']} ({mount['file_system']})"
            found[f"{name} held, ms"] = mount["frozen_ms"]
            found[f"{name} freeze call, ms"] = mount["freeze_ms"]
    take = job["tasks"][0]
    found["Take snapshot, s"] = _seconds(take["started_at"], take["ended_at"])
    found["whole job, s"] = _seconds(job["started_at"], job["ended_at"])
    return found


def _seconds(begun: str, ended: str) -> float:
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(begun)).total_seconds()


def _cell(values: list[float]) -> str:
    digits = 0 if max(values) >= 20 else 1
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("folder", type=Path)
    options.add_argument("--tries", type=int, default=10)
    given = options.parse_args()
    with new_site(kind="both", layout=Layout.THREE_DISKS) as site:
        start_ledger(site.guest)
        figures = measure(site, given.tries)
    width = max(map(len, figures["host"]))
    print(f"{'median (least–most)':{width}}  {'host route':>22}  {'guest route':>22}")
    for name in figures["host"]:
        cells = (_cell(figures[route].get(name, [0.0])) for route in ROUTES)
        print(f"{name:{width}}  " + "  ".join(f"{cell:>22}" for cell in cells))
    given.folder.mkdir(parents=True, exist_ok=True)
    (given.folder / "routes.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
