"""Every fault of the lab set into a real guest, and what Quiesce makes of it.

    PYTHONPATH=tests/support:tests/e2e:tests/agent python tests/bench/bench_diagnosis.py
        [--only NAME…] [--family NAME] [--quick] [--list] [--json OUT] [--page PAGE] [--resume]

Per fault a line: the cause that was set in, the cause that was found and by what verdict, how long
that took, what the point is worth, and what Quiesce did by itself. At the end the confusion table.
Faults share a guest as long as it comes back whole. A row that breaks is a row with its error.
Beside OUT, in the folder OUT-jobs, stands each job with all its evidence.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diagnosis_page import page
from diagnosis_score import (
    Outcome,
    Score,
    as_json,
    broken,
    confusion,
    from_json,
    line,
    score,
    totals,
)
from diagnosis_site import is_well, new_scene, suffer

from quiesce.lab.faults.fault import Fault, Scene
from quiesce.lab.faults.table import TABLE


def run(rows: Sequence[Fault]) -> Iterator[tuple[Score, Mapping[str, Any]]]:
    """One after the other, each with its job as the API has it; those that ruin their guest come
    last."""
    waiting = sorted(rows, key=lambda row: row.spoils)
    with contextlib.ExitStack() as stack:
        scene: Scene | None = None
        for row in waiting:
            began = time.monotonic()
            try:
                if scene is None:
                    scene = stack.enter_context(new_scene())
                began = time.monotonic()
                job = suffer(scene, row)
            except Exception as error:  # noqa: BLE001 - a row that breaks is a row with its error
                told = "".join(traceback.format_exception(error, limit=-3))
                evidence = getattr(error, "evidence", ())
                error_text = told + " ".join(each.raw for each in evidence)
                yield broken(row, error_text, time.monotonic() - began), {}
            else:
                yield score(row, job, time.monotonic() - began), job
            if scene is not None and (row.spoils or not is_well(scene)):
                stack.pop_all().close()
                scene = None


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--only", nargs="+", default=[], metavar="NAME")
    options.add_argument("--family", action="append", default=[])
    options.add_argument("--quick", action="store_true", help="what CI has time for")
    options.add_argument("--list", action="store_true")
    options.add_argument("--json", type=Path, default=Path("build/bench/diagnosis.json"))
    options.add_argument("--page", type=Path, help="write the scoreboard for people, Markdown")
    options.add_argument("--resume", action="store_true", help="keep what --json holds already")
    given = options.parse_args()
    chosen = [
        row
        for row in TABLE
        if (not given.only or row.name in given.only)
        and (not given.family or row.family in given.family)
        and (row.quick or not given.quick)
    ]
    if given.list:
        for row in chosen:
            print(f"{row.family:10} {row.name:34} {row.expected or '(nothing fails)'}")
        return
    # Ended by whatever signal, it takes its guest, its network and its mounts with it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit("interrupted; --resume goes on"))
    done: dict[str, Score] = {}
    if given.resume and given.json.exists():
        kept = from_json(json.loads(given.json.read_text()))
        done = {row.name: row for row in kept if row.outcome is not Outcome.BROKEN}
    given.json.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    jobs = given.json.with_name(f"{given.json.stem}-jobs")
    jobs.mkdir(exist_ok=True)
    for result, job in run([row for row in chosen if row.name not in done]):
        print(line(result), flush=True)
        (jobs / f"{result.name}.json").write_text(json.dumps(job, indent=1, ensure_ascii=False))
        done[result.name] = result
        ordered = [done[row.name] for row in TABLE if row.name in done]
        given.json.write_text(json.dumps(as_json(ordered), indent=1, ensure_ascii=False) + "\n")
    ordered = [done[row.name] for row in TABLE if row.name in done]
    print(f"\n{confusion(ordered)}\n")
    print(json.dumps(totals(ordered)), f"in {(time.monotonic() - began) / 60:.0f} minutes")
    if given.page:
        given.page.write_text(page(ordered))


if __name__ == "__main__":
    main()
