"""How the vault's upkeep grows with the vault: 10^6, 10^7 and 10^8 chunks, by metadata alone.

    make bench-scale [QUICK=1]     or: bench_scale.py FOLDER [--chunks 1000000 10000000 …]

`synthetic_vault` makes each vault; each is then worked on in one process of its own, in the order
of the table. 10^8 chunks are 10 TB of packs; making them takes minutes and 8 GB below FOLDER, and
the steps up to 12 GB of memory. FOLDER/scale.json holds a list of vaults:

    chunks, points, packs, disk_bytes
    base_bytes      memory of the process before the vault was opened
    steps: step → {seconds, cpu_seconds, peak_bytes, kept_bytes}
                    peak_bytes  memory at the step's worst moment, without base_bytes
                    kept_bytes  memory when it had ended, without base_bytes
                    seconds     of one look-up, where the step is looking up
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from synthetic_vault import CHUNKS_OF_A_VM, KEY, SyntheticStore, chunk_ids, open_store

from quiesce.vault import Vault

HERE = Path(__file__).parent
LOOK_UPS = 20_000
BATCH = 1 << 15
STEPS = (
    "open", "look up", "look up, absent", "refresh", "snapshot", "look up in a batch",
    "plan a deletion", "plan a collection", "verify structure", "forecast a verification",
    "rebuild the index",
)  # fmt: skip


# ── one vault, in a process of its own ───────────────────────────────────────────────────────────


def memory(what: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024
    raise ValueError(what)


class Watch:
    """Times steps and notes the memory they take."""

    def __init__(self) -> None:
        self.base_bytes = memory("VmRSS")
        self.steps: dict[str, dict[str, float]] = {}

    def step(self, name: str, act: Callable[[], Any], *, times: int = 1) -> Any:
        Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts anew
        began, cpu = time.perf_counter(), time.process_time()
        result = act()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        self.steps[name] = {
            "seconds": seconds / times,
            "cpu_seconds": cpu / times,
            "peak_bytes": memory("VmHWM") - self.base_bytes,
            "kept_bytes": memory("VmRSS") - self.base_bytes,
        }
        cost = self.steps[name]
        print(
            f"  {name}: {seconds:.1f} s, {cpu:.1f} s of processor time, "
            f"{cost['peak_bytes'] / 1e6:.0f} MB",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        return result


def work_on(folder: Path, chunks: int) -> dict[str, Any]:
    store = open_store(folder, chunks)
    watch = Watch()
    facts = _work_on_one(watch, store, chunks)
    facts["disk_bytes"] = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    _rebuild(watch, store)
    return facts | {"base_bytes": watch.base_bytes, "steps": watch.steps}


def _work_on_one(watch: Watch, store: SyntheticStore, chunks: int) -> dict[str, Any]:
    vault: Vault = watch.step("open", lambda: Vault.open(store, KEY))  # type: ignore[arg-type]
    _look_up(watch, vault, chunks)
    vms = chunks // CHUNKS_OF_A_VM
    doomed = {f"vm{n}" for n in random.Random(1).sample(range(vms), max(1, vms // 10))}
    points = [p.id for p in vault.points() if p.vm in doomed]
    plan = watch.step("plan a deletion", lambda: vault.plan_deletion(points))
    assert plan.freed_bytes > 0
    vault.execute(plan)
    assert watch.step("plan a collection", vault.plan_collect).mark_bytes > 0
    assert watch.step("verify structure", lambda: vault.verify("structure")).intact
    assert watch.step("forecast a verification", lambda: vault.forecast("chunks")).requests
    return {
        "chunks": chunks,
        "points": plan.points_left + len(plan.point_ids),
        "packs": vault.status().packs,
    }


def _look_up(watch: Watch, vault: Vault, chunks: int) -> None:
    dice = np.random.default_rng(1)
    numbers = dice.integers(0, chunks, LOOK_UPS).astype(np.uint64)
    here = [chunk_ids(numbers[n : n + 1]) for n in range(LOOK_UPS)]
    absent = [dice.bytes(32) for _ in range(LOOK_UPS)]
    some = chunk_ids(dice.integers(0, chunks, BATCH).astype(np.uint64))
    index = vault.contents.index
    assert all(watch.step("look up", lambda: [index.find(b) for b in here], times=LOOK_UPS))
    assert not any(
        watch.step("look up, absent", lambda: [index.find(b) for b in absent], times=LOOK_UPS)
    )
    watch.step("refresh", vault.contents.refresh)
    snapshot = watch.step("snapshot", index.snapshot)
    rows = watch.step("look up in a batch", lambda: snapshot.rows(some), times=BATCH)
    assert (rows >= 0).all()


def _rebuild(watch: Watch, store: SyntheticStore) -> None:
    for info in list(store.list("index/")):
        store.delete(info.key)
    vault = Vault.open(store, KEY)  # type: ignore[arg-type]
    watch.step("rebuild the index", vault.rebuild_index)


# ── all of them ──────────────────────────────────────────────────────────────────────────────────


def table(vaults: list[dict[str, Any]]) -> str:
    """Time (processor time) and peak memory of every step, and how it grew from one size to the
    next."""
    heads = [f"{vault['chunks']:,} chunks" for vault in vaults]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(vaults) + 1) + "|"]
    for step in STEPS:
        cells = []
        before: dict[str, float] | None = None
        for vault in vaults:
            cost = vault["steps"].get(step)
            if cost is None:
                cells.append("–")
                continue
            cell = _time(cost["cpu_seconds"])
            if before is not None:
                cell += f" ({cost['cpu_seconds'] / max(before['cpu_seconds'], 1e-9):.1f}×)"
            cells.append(f"{cell}, {cost['peak_bytes'] / 1e6:,.0f} MB")
            before = cost
        lines.append(f"| {step} | {' | '.join(cells)} |")
    for what, unit in (("points", ""), ("packs", ""), ("disk_bytes", " MB")):
        cells = [f"{vault[what] / (1e6 if unit else 1):,.0f}{unit}" for vault in vaults]
        lines.append(f"| {what.replace('disk_bytes', 'metadata stored')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _time(seconds: float) -> str:
    if seconds < 0.001:
        return f"{seconds * 1e6:.1f} µs"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("folder", type=Path)
    words.add_argument("--chunks", type=int, nargs="+", default=[10**6, 10**7, 10**8])
    words.add_argument("--one", action="store_true", help="work on the vault that lies in FOLDER")
    chosen = words.parse_args()
    if chosen.one:
        print(json.dumps(work_on(chosen.folder, chosen.chunks[0])))
        return
    chosen.folder.mkdir(parents=True, exist_ok=True)
    vaults = []
    work = chosen.folder.absolute() / "scale"
    for chunks in chosen.chunks:
        print(f"{chunks:,} chunks", file=sys.stderr, flush=True)
        shutil.rmtree(work, ignore_errors=True)
        command = [sys.executable, HERE / "bench_scale.py", work, "--one", "--chunks", str(chunks)]
        try:
            build = [sys.executable, HERE / "synthetic_vault.py", work, str(chunks)]
            subprocess.run(build, check=True)
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        vaults.append(json.loads(done.stdout.splitlines()[-1]))
        (chosen.folder / "scale.json").write_text(json.dumps(vaults, indent=1) + "\n")
    print(table(vaults))


if __name__ == "__main__":
    main()
