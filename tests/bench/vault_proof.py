"""The proof that nothing committed is ever lost: every sweep whole, and the machine for long.

    make vault-proof SECONDS=600
    PYTHONPATH=tests/unit/vault python tests/bench/vault_proof.py build/bench --seconds 600

Prints a line for every piece of work that was swept: its changes of the store, its calls, the
points at which it was broken (call × fault), losses, and how it ended at them; then what the
machines of random histories have covered. Writes all of it to vault-proof.json. Ends with 1 when
anything was lost.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from faulty_store import DEATHS
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from kill_sweep import kill_sweep
from power_sweep import power_sweep
from store_sweep import ERRORS, LIES, Covered, Work, sweep
from sweep_works import WORKS, WORKS_IN_A_FOLDER
from vault_damage import DamagedVault
from vault_machine import VaultMachine
from vault_model import TOLD
from vault_trouble import TroubledVault

_EXAMPLES_AT_ONCE = 50
_MACHINES = (VaultMachine, TroubledVault, DamagedVault)
_STEPS = 50


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    asked.add_argument("folder", type=Path)
    asked.add_argument("--seconds", type=int, default=600, help="of random histories")
    asked.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    asked.add_argument("--only", default="", help="pieces of work with this in their name")
    options = asked.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)

    def chosen(works: tuple[Work, ...]) -> list[Work]:
        return [work for work in works if options.only in work.name]

    swept = {
        "killed at every change of the store": _all(chosen(WORKS), lambda w: sweep(w, DEATHS)),
        "every call fails": _all(chosen(WORKS), lambda w: sweep(w, ERRORS)),
        "every read lies": _all(chosen(WORKS), lambda w: sweep(w, LIES)),
        "SIGKILL at every system call": _all(chosen(WORKS_IN_A_FOLDER), _in_a_folder(kill_sweep)),
        "no power after every system call": _all(
            chosen(WORKS_IN_A_FOLDER), _in_a_folder(power_sweep)
        ),
    }
    print("== any history")
    failure = _histories(options.seconds, options.seed)
    losses = sum(len(covered.losses) for rows in swept.values() for covered in rows)
    points = sum(covered.points for rows in swept.values() for covered in rows)
    print(", ".join(f"{count} {what}" for what, count in sorted(TOLD.items())))
    print(f"sweeps: {points} points, {losses} losses")
    print(
        f"machines: {TOLD['examples']} histories, {TOLD['steps']} steps, seed {options.seed}: "
        f"{'FAILED' if failure else '0 losses'}"
    )
    report = {
        "sweeps": {name: [vars(covered) for covered in rows] for name, rows in swept.items()},
        "points": points,
        "losses": losses,
        "machines": {"seed": options.seed, "failure": failure, **TOLD},
    }
    (options.folder / "vault-proof.json").write_text(json.dumps(report, indent=1))
    return 1 if losses or failure else 0


def _all(works: list[Work], run: Callable[[Work], Covered]) -> list[Covered]:
    rows = []
    for work in works:
        covered = run(work)
        print(covered, flush=True)
        for loss in covered.losses:
            print(f"    LOST {loss}", flush=True)
        rows.append(covered)
    return rows


def _in_a_folder(run: Callable[[Work, Path], Covered]) -> Callable[[Work], Covered]:
    def there(work: Work) -> Covered:
        with tempfile.TemporaryDirectory() as parent:
            return run(work, Path(parent))

    return there


def _histories(seconds: float, first_seed: int) -> str:
    """The failure that was found, shrunk, or nothing."""
    ends = time.monotonic() + seconds
    for number in range(1 << 30):
        if time.monotonic() >= ends:
            break
        try:
            run_state_machine_as_test(
                seed(first_seed + number)(_MACHINES[number % len(_MACHINES)]),
                settings=settings(
                    max_examples=_EXAMPLES_AT_ONCE,
                    stateful_step_count=_STEPS,
                    deadline=None,
                    database=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        except Exception:  # noqa: BLE001 - shown whole
            traceback.print_exc(file=sys.stdout)
            return traceback.format_exc()
    return ""


if __name__ == "__main__":
    sys.exit(main())
