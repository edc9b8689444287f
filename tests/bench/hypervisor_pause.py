"""How long a VM stands still for its snapshot, and what the other steps take.

    PYTHONPATH=tests/qemu python tests/bench/hypervisor_pause.py [ROUNDS]

The pause is QEMU's own: between its events STOP and RESUME, seen on a second monitor. Disks are
idle; the guest has no operating system. Milliseconds, median and worst.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from bare_qemu import MIB, BareQemu, make_image
from qemu.qmp import EventListener, QMPClient

from quiesce.model.policy import SnapshotOptions

EVENTS_SECONDS = 5.0
Result = TypeVar("Result")


def measure(folder: Path, formats: dict[str, str], rounds: int) -> dict[str, list[float]]:
    disks = {
        name: (make_image(folder / f"{name}.img", 1024 * MIB, kind=kind), kind)
        for name, kind in formats.items()
    }
    watch = folder / "watch.sock"
    qemu = BareQemu(folder, disks, ("-qmp", f"unix:{watch},server=on,wait=off")).start()
    took: dict[str, list[float]] = {}
    try:
        for name in disks:
            qemu.write(name, 0, 64 * MIB, 0x11)
        asyncio.run(_rounds(qemu, watch, rounds, took))
    finally:
        qemu.kill()
    return took


async def _rounds(qemu: BareQemu, watch: Path, rounds: int, took: dict[str, list[float]]) -> None:
    async def timed(step: str, call: Callable[[], Result]) -> Result:
        begun = time.perf_counter()
        result = await asyncio.to_thread(call)
        took.setdefault(step, []).append((time.perf_counter() - begun) * 1000)
        return result

    client = QMPClient("watch")
    await client.connect(str(watch))
    vm = qemu.vm()
    bases: dict[str, list[str]] = {}
    with client.listener(names=("STOP", "RESUME")) as events:
        for number in range(rounds):
            task = f"{number:012x}"
            ready = partial(vm.prepare, task, bases=bases, options=SnapshotOptions())
            await timed("prepare", ready)
            await timed("take", partial(vm.take, task))
            took.setdefault("pause", []).append(await _pause(events))
            session = await timed("open", partial(vm.open, task))
            for name in qemu.disks:
                await asyncio.to_thread(qemu.write, name, number * MIB, MIB, 0x22)
            await timed("release", partial(vm.release, task, committed=True))
            bases = {disk.name: [disk.generation] for disk in session.disks}
    await client.disconnect()


async def _pause(events: EventListener) -> float:
    stop = await asyncio.wait_for(events.get(), EVENTS_SECONDS)
    resume = await asyncio.wait_for(events.get(), EVENTS_SECONDS)
    assert (stop["event"], resume["event"]) == ("STOP", "RESUME")
    began, ended = (
        event["timestamp"]["seconds"] * 1000 + event["timestamp"]["microseconds"] / 1000  # type: ignore[index]
        for event in (stop, resume)
    )
    return float(ended - began)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    for formats in (
        {"vda": "qcow2"},
        {"vda": "qcow2", "vdb": "qcow2", "vdc": "raw"},
    ):
        with tempfile.TemporaryDirectory(prefix="quiesce-bench-") as folder:
            took = measure(Path(folder), formats, rounds)
        print(f"{len(formats)} disk(s), {rounds} rounds, ms")
        for step, values in took.items():
            print(f"  {step:8} median {statistics.median(values):6.1f}  worst {max(values):6.1f}")


if __name__ == "__main__":
    main()
