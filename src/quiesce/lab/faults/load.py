"""A guest that has no processor or memory left for a backup."""

from __future__ import annotations

from collections.abc import Iterator

from quiesce.lab.faults.fault import Scene, fault

GUEST = "guest"


@fault("processor-hog", GUEST, "guest.overloaded")
def processor_hog(scene: Scene) -> Iterator[None]:
    """Programs of real-time priority leave the others a twentieth of the processor."""
    # The kernel's own limit for them; without it not even the lab would get through.
    scene.hand.run(
        "systemd-run --quiet --unit=hog chrt -f 20 timeout 400 sh -c 'while :; do :; done'"
    )
    yield
    scene.hand.run("systemctl kill --signal=KILL hog; true", seconds=120)


@fault("memory-hog", GUEST, "guest.overloaded")
def memory_hog(scene: Scene) -> Iterator[None]:
    """A program holds nearly all memory, and everything else is read from the disk anew."""
    program = (
        "import time\n"
        "free = int(open('/proc/meminfo').read().split('MemAvailable:')[1].split()[0])\n"
        "held = bytearray(b'x') * (free * 1024 - (14 << 20))\n"
        "while True:\n"
        "    for at in range(0, len(held), 4096): held[at] = 1\n"
    )
    scene.hand.put("/run/hog.py", program)
    scene.hand.run(
        "systemd-run --quiet --unit=hog --property=OOMScoreAdjust=-999 python3 /run/hog.py; sleep 4"
    )
    yield
    scene.hand.run("systemctl kill --signal=KILL hog; true", seconds=120)
