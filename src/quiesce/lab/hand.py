"""The lab's own hand in a guest, for when the guest's agents are what is harmed.

A second QEMU guest agent under a name and on a virtio-serial port of its own, plugged in while the
guest runs. Nothing of Quiesce knows of it, and no misfortune aims at it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from quiesce.lab.agent_socket import output_of
from quiesce.lab.guest import LabGuest
from quiesce.model.failure import LabFailure

PORT = "quiesce.lab.hand"
_PROGRAM = "/run/lab-hand"
_START = f"""
cp -u "$(command -v qemu-ga)" {_PROGRAM}
mkdir -p {_PROGRAM}.d
for i in $(seq 100); do test -e /dev/virtio-ports/{PORT} && break; sleep 0.1; done
systemctl is-active --quiet lab-hand || systemd-run --quiet --unit=lab-hand \\
    --property=OOMScoreAdjust=-1000 --property=Restart=always --slice=-.slice \\
    --property=CPUSchedulingPolicy=rr --property=CPUSchedulingPriority=80 \\
    {_PROGRAM} -m virtio-serial -p /dev/virtio-ports/{PORT} -t {_PROGRAM}.d -f {_PROGRAM}.d/pid
"""
# A configuration that harms the guest's agent is read by its namesake only.
_OWN_CONFIGURATION = f"QGA_CONF={_PROGRAM}.d/none"


class Hand:
    """Orders for one running guest. Made when the guest's own agent still answers."""

    def __init__(self, guest: LabGuest) -> None:
        self._guest = guest
        self._socket = guest.folder / "hand.sock"
        self.attach()

    def attach(self) -> None:
        """Plug it in and start it, also anew after the guest was started or booted again."""
        socket = str(self._socket)
        address = {"type": "unix", "data": {"path": socket}}
        backend = {"type": "socket", "data": {"addr": address, "server": True, "wait": False}}
        with contextlib.suppress(LabFailure):  # it is there when the guest has only rebooted
            self._guest.qmp("chardev-add", {"id": "hand", "backend": backend})
            self._guest.qmp(
                "device_add",
                {
                    "driver": "virtserialport",
                    "id": "hand",
                    "bus": "ports.0",
                    "chardev": "hand",
                    "name": PORT,
                },
            )
        self._guest.run(_START.replace("systemd-run ", f"systemd-run -E {_OWN_CONFIGURATION} "))

    def run(self, command: str | Sequence[str], *, seconds: float = 60.0) -> str:
        """As LabGuest.run, whatever has become of the guest's agents."""
        return output_of(self._socket, command, seconds=seconds)

    def put(self, path: str, text: str, *, mode: str = "0600") -> None:
        """A small file, whole, with its folders."""
        write = 'mkdir -p "$(dirname "$1")" && printf %s "$2" > "$1" && chmod "$3" "$1"'
        self.run(["/bin/sh", "-c", write, "put", path, text, mode])
