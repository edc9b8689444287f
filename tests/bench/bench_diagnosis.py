"""Every fault of the lab set into a real guest, and what Quiesce makes of it.

    PYTHONPATH=tests/support:tests/e2e:tests/agent python tests/bench/bench_diagnosis.py
        [--only NAME…] [--family NAME] [--quick] [--list] [--json OUT] [--page PAGE] [--resume]
        [--merge JSON…]

Per fault a line: the cause that was set in, the cause that was found and by what verdict, how long
that took, what the point is worth, and what Quiesce did by itself. At the end the confusion table.
Faults share a guest as long as it comes back whole. A row that breaks is a row with its error.
Beside OUT, in the folder OUT-jobs, stands each job with all its evidence. `--merge` runs nothing:
it joins what other runs have left, each job scored anew by the rules of today.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diagnosis_merge import Run, merged, runs_of
from diagnosis_page import page
from diagnosis_score import Outcome, Score, as_json, broken, confusion, line, score, totals
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
                if (ending := _interruption(error)) is not None:
                    raise ending from None
                told = "".join(traceback.format_exception(error, limit=-3))
                evidence = getattr(error, "evidence", ())
                error_text = told + " ".join(each.raw for each in evidence)
                yield broken(row, error_text, time.monotonic() - began), {}
            else:
                yield score(row, job, time.monotonic() - began), job
            if scene is not None and (row.spoils or not is_well(scene)):
                stack.pop_all().close()
                scene = None


def _interruption(error: BaseException) -> SystemExit | None:
    """The signal's end that a row's own cleaning up has hidden by breaking on the way out."""
    hidden = error.__context__
    while hidden is not None and not isinstance(hidden, SystemExit):
        hidden = hidden.__context__
    return hidden


def commit() -> str:
    """The commit that is checked out; with a plus when something of it was changed."""
    root = Path(__file__).parent
    head = ["git", "rev-parse", "--short", "HEAD"]
    told = subprocess.run(head, cwd=root, capture_output=True, text=True, check=True)
    clean = ["git", "diff", "--quiet", "HEAD", "--", str(root.parents[1] / "src")]
    changed = subprocess.run(clean, cwd=root, check=False).returncode
    return told.stdout.strip() + ("+" if changed else "")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--only", nargs="+", default=[], metavar="NAME")
    options.add_argument("--family", action="append", default=[])
    options.add_argument("--quick", action="store_true", help="what CI has time for")
    options.add_argument("--list", action="store_true")
    options.add_argument("--json", type=Path, default=Path("build/bench/diagnosis.json"))
    options.add_argument("--page", type=Path, help="write the scoreboard for people, Markdown")
    options.add_argument("--resume", action="store_true", help="keep what --json holds already")
    options.add_argument("--merge", nargs="+", type=Path, default=[], metavar="JSON")
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
    sources = given.merge or ([given.json] if given.resume and given.json.exists() else [])
    done = {row.name: row for row in merged(sources)}
    runs = runs_of(sources)
    if not given.merge:
        done = {name: row for name, row in done.items() if row.outcome is not Outcome.BROKEN}
        _measure([row for row in chosen if row.name not in done], done, runs, given.json)
    ordered = [done[row.name] for row in TABLE if row.name in done]
    if given.merge:
        _write(given.json, ordered, runs)
    print(f"\n{confusion(ordered)}\n")
    print(json.dumps(totals(ordered)))
    if given.page:
        given.page.write_text(page(ordered, runs))


def _measure(rows: Sequence[Fault], done: dict[str, Score], runs: list[Run], target: Path) -> None:
    """Run the rows into `done`, and what is done so far into `target` after each."""
    jobs = target.with_name(f"{target.stem}-jobs")
    jobs.mkdir(parents=True, exist_ok=True)
    current, before = Run(commit(), _now(), _now()), list(runs)
    for result, job in run(rows):
        print(line(result), flush=True)
        (jobs / f"{result.name}.json").write_text(json.dumps(job, indent=1, ensure_ascii=False))
        done[result.name] = result
        runs[:] = [*before, Run(current.commit, current.began, _now())]
        _write(target, [done[row.name] for row in TABLE if row.name in done], runs)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(target: Path, rows: Sequence[Score], runs: Sequence[Run]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(as_json(rows, runs), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
