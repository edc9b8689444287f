"""Which of QEMU's accelerators runs the lab's kernel on this machine."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

from quiesce.lab.cache import cache_folder
from quiesce.lab.image import Image

TCG = "tcg,thread=multi"
KVM = "kvm"

_PROBE_SECONDS = 10.0
"""KVM takes under a second for the probe; nested and broken ones hang or end at once."""


@functools.cache
def accelerator(image: Image) -> str:
    """`kvm` when it really runs the image's kernel here, else TCG.

    A /dev/kvm that can be opened proves nothing: the probe boots the image's kernel until its
    init speaks. The answer is remembered until the machine reboots.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return TCG
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    remembered = cache_folder() / f"accelerator-{boot_id}"
    if remembered.exists():
        return remembered.read_text()
    answer = KVM if _runs_under_kvm(image) else TCG
    remembered.write_text(answer)
    return answer


def _runs_under_kvm(image: Image) -> bool:
    argv = [
        *("qemu-system-x86_64", "-no-user-config", "-nodefaults", "-no-reboot"),
        *("-accel", KVM, "-cpu", "host", "-m", "256", "-display", "none", "-serial", "stdio"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
        *("-append", "console=ttyS0 quiet panic=-1 lab.probe"),
    ]
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return b"lab-probe-ok" in done.stdout
