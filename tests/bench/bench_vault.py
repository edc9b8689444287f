"""Quiesce's vault beside restic, borg, casync, qemu-img, zstd, cp and the raw limits.

    make bench-vault [QUICK=1]     or: bench_vault.py FOLDER [--mib 4096] [--rounds 3] [--only …]

`vault_data` makes the disks, `vault_tools` knows what each tool is told. Every step is a process of
its own, Quiesce's too, from its start until its results are on stable storage; what it reads is
taken out of the page cache before. Every round runs every tool once, in rotating order (casync, the
slowest, only in the first); figures are medians. Each restored image is compared with its source.
FOLDER/vault is emptied at the end; it takes about ten times `--mib`. FOLDER/vault.json, written
after every round, says it all:

    at, machine, cores, python, tools    when and where; the tools' versions
    commit                               the source that was measured, with `+` when it was changed
    mib, data_bytes, rounds
    rounds_of: tool → step → [{seconds, cpu_seconds, peak_bytes, work_seconds}]
               one for each round. `peak_bytes` is of the step's largest process. `work_seconds`
               (Quiesce, limits) leaves out starting Python and opening the vault
    medians: tool → step → the same, medians
    stored_bytes: tool → image → bytes occupied once this image is in, too
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vault_data import Disks, load
from vault_table import table
from vault_targets import targets_table
from vault_tools import HERE, TOOLS, Lap, work_seconds

import quiesce

ONCE = ("casync",)
Costs = dict[str, dict[str, list[dict[str, float]]]]


def measure_rounds(
    disks: Disks, work: Path, rounds: int, names: list[str]
) -> Iterator[tuple[Costs, dict[str, dict[str, int]]]]:
    """What is known after each round."""
    costs: Costs = {name: {} for name in names}
    stored: dict[str, dict[str, int]] = {}
    for number in range(rounds):
        turn = number * len(names) // rounds
        for name in [*names[turn:], *names[:turn]]:
            if name in ONCE and number:
                continue
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            work.mkdir()
            lap = Lap(disks, work, siblings=number == 0)
            TOOLS[name](lap)
            shutil.rmtree(work)
            stored.setdefault(name, lap.stored)
            for step, cost in lap.costs.items():
                figures = {
                    "seconds": cost.seconds,
                    "cpu_seconds": cost.cpu_seconds,
                    "peak_bytes": cost.peak_bytes,
                }
                if name in ("Quiesce", "limit"):
                    figures["work_seconds"] = work_seconds(cost)
                costs[name].setdefault(step, []).append(figures)
        yield costs, stored


def medians(costs: Costs) -> dict[str, dict[str, dict[str, float]]]:
    return {
        name: {
            step: {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
            for step, rounds in steps.items()
        }
        for name, steps in costs.items()
    }


def versions() -> dict[str, str]:
    asked = ("restic version", "borg --version", "casync --version", "qemu-img --version",
             "zstd --version")  # fmt: skip
    return {words.split()[0]: _first_line(words.split()) for words in asked}


def commit() -> str:
    head = _first_line(["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"])
    changed = subprocess.run(["git", "-C", str(HERE), "diff", "--quiet", "HEAD", "--", "../../src"])
    return head + ("+" if changed.returncode else "")


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or "?").splitlines()[0].strip()


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("folder", type=Path)
    words.add_argument("--mib", type=int, default=4096, help="data on each disk")
    words.add_argument("--rounds", type=int, default=3)
    words.add_argument("--only", nargs="+", metavar="NAME", choices=TOOLS, default=list(TOOLS))
    words.add_argument(
        "--data", type=Path, help="disks made before, kept; default: made and removed"
    )
    chosen = words.parse_args()
    folder = chosen.folder.absolute() / "vault"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # As pip leaves an installation: a checkout may have to compile itself at each start.
    compileall.compile_dir(Path(quiesce.__file__).parent, quiet=2)
    try:
        data = chosen.data
        if data is None:
            data = folder / "data"
            build = [sys.executable, HERE / "vault_data.py", data, "--mib", str(chosen.mib)]
            subprocess.run(build, check=True)
        disks = load(data.absolute())
        names = [name for name in TOOLS if name in chosen.only]
        rounds = measure_rounds(disks, folder / "work", chosen.rounds, names)
        for number, (costs, stored) in enumerate(rounds, start=1):
            facts = all_facts(disks, number, costs, stored)
            (chosen.folder / "vault.json").write_text(json.dumps(facts, indent=1) + "\n")
    finally:
        shutil.rmtree(folder)
    print(table(facts), targets_table(facts), sep="\n\n")


def all_facts(
    disks: Disks, rounds: int, costs: Costs, stored: dict[str, dict[str, int]]
) -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "tools": versions(),
        "commit": commit(),
        "mib": disks.size_bytes // 2 >> 20,
        "data_bytes": disks.data_bytes,
        "rounds": rounds,
        "rounds_of": costs,
        "medians": medians(costs),
        "stored_bytes": stored,
    }


if __name__ == "__main__":
    main()
