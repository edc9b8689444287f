"""One real guest: a QEMU process in a folder of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from quiesce.lab.agent_socket import agent_at, output_of
from quiesce.lab.cache import cache_folder
from quiesce.lab.machine import DiskFile, GuestFiles, Hardware, Machine, card_commands
from quiesce.lab.monitor import qmp
from quiesce.lab.network import LabNetwork
from quiesce.model.failure import AgentFailure, Evidence, LabFailure
from quiesce.model.vm import VmAddress

BOOT_SECONDS = 240.0
"""Deadline for a boot until the agent answers: 15 s on a quiet machine without KVM, but tests
share their machine."""

ADDRESS_SECONDS = 60.0
"""Deadline for DHCP after a guest is up; takes about a second."""

TURN_SECONDS = 600.0
"""How long an exclusive guest waits for the one that runs."""

GUESTS_AT_ONCE = "QUIESCE_LAB_GUESTS"
"""The variable that says how many exclusive guests may run side by side; 1 without it."""

_POLL_SECONDS = 0.05


class LabGuest:
    """A guest that a test, a demo or a person may start, use, harm and stop.

    Everything lies in `folder`, which must exist and be short enough for unix sockets. As a
    context manager it starts the guest and kills it at the end. Not thread-safe.

    `tied` guests die with the thread that started them; others outlive it. `exclusive` guests
    wait for each other: a lock in the lab's cache is handed to QEMU and thus held exactly as long
    as that guest lives. There is one such lock, or as many as `GUESTS_AT_ONCE` says.

    With a `network`, QEMU runs in that network's namespace and the guest has a `card` there, the
    same one at every start; an untied guest keeps its network as long as it lives.
    """

    def __init__(
        self,
        folder: Path,
        *,
        kernel: Path,
        initrd: Path,
        disks: Mapping[str, DiskFile],
        hardware: Hardware,
        saved_state: Path | None = None,
        network: LabNetwork | None = None,
        tied: bool = True,
        exclusive: bool = True,
    ) -> None:
        self.files = GuestFiles(folder.resolve())
        self.files.check()
        self.disks = {name: disk.path for name, disk in disks.items()}
        self._disk_files = dict(disks)
        self._kernel, self._initrd, self._hardware = kernel, initrd, hardware
        self._saved_state = saved_state
        self._network = network
        self.card = network.plug() if network else None
        self._tied, self._exclusive = tied, exclusive
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        return self.files.folder

    @property
    def qmp_socket(self) -> Path:
        return self.files.qmp_socket

    @property
    def qga_socket(self) -> Path:
        return self.files.qga_socket

    @property
    def accelerator(self) -> str:
        """What QEMU runs it on: `kvm`, or `tcg,thread=multi` where KVM does not work."""
        return self._hardware.accelerator

    @property
    def pid(self) -> int:
        """QEMU's process id. Raises LabFailure `lab.guest-off` when it does not run."""
        if not self.running:
            raise LabFailure("lab.guest-off", f"The guest in {self.folder} does not run.")
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether a QEMU process runs it; its guest may be paused or shut down."""
        return self._process is not None and self._process.poll() is None

    @property
    def address(self) -> VmAddress:
        """The guest as Quiesce is told of it, named after its folder."""
        return VmAddress(
            name=self.folder.name,
            qmp_socket=self.qmp_socket,
            qga_socket=self.qga_socket,
            disks=tuple(self.disks.items()),
        )

    def start(self, *, wait_for_agent: bool = True) -> None:
        """Resume the saved state if the guest has one and never ran, boot it to the end otherwise.

        Raises LabFailure `lab.start-failed`, `lab.agent-silent` when the agent does not answer in
        time, and `lab.no-address` when a guest with a card gets no address.
        """
        if self.running:
            raise LabFailure("lab.guest-runs", f"The guest in {self.folder} runs already.")
        saved_state, self._saved_state = self._saved_state, None
        machine = Machine(
            hardware=self._hardware,
            kernel=self._kernel,
            initrd=self._initrd,
            files=self.files,
            disks=self._disk_files,
            saved_state=saved_state,
            card=None if saved_state else self.card,
        )
        self._spawn(machine.command())
        self._wait_until(self._monitor_answers, 30.0, "lab.start-failed", "QEMU did not start")
        if saved_state is not None:
            self._wait_until(self._loaded, 60.0, "lab.start-failed", "the state did not load")
            self.qmp("cont")  # it was saved while paused
        if wait_for_agent:
            self.wait_for_agent()
            if saved_state is None:
                self._wait_for_boot()
            else:
                self.agent_call("guest-set-time", {"time": time.time_ns()})
        if saved_state is not None and self.card is not None:
            # After the clock is right: a lease from the past is no lease.
            for name, arguments in card_commands(self.card):
                self.qmp(name, arguments)
        if wait_for_agent and self.card is not None:
            self.wait_for_address()

    def wait_for_agent(self, seconds: float = BOOT_SECONDS) -> None:
        """Return when the guest's agent answers. Raises LabFailure `lab.agent-silent`."""
        self._wait_until(self._agent_answers, seconds, "lab.agent-silent", "the agent is silent")

    def wait_for_address(self) -> None:
        """Return when the guest's card has its address and the lease is written down, which
        dhclient does last. Raises LabFailure `lab.no-address`."""
        assert self.card is not None
        address = self.card.address
        has_it = (
            f"ip -4 address show dev eth0 2>/dev/null | grep -qF 'inet {address}/' && "
            f"grep -qsF 'fixed-address {address};' /var/lib/dhcp/dhclient.eth0.leases"
        )
        tries = int(ADDRESS_SECONDS / 0.1)
        try:
            self.run(f"for i in $(seq {tries}); do {has_it} && exit 0; sleep 0.1; done; exit 1")
        except LabFailure as inner:
            raise self._failed("lab.no-address", f"{address} never came") from inner

    def stop(self) -> None:
        """Let QEMU close the disks and end, whatever the guest does. Nothing if it is off."""
        if self.running:
            with contextlib.suppress(LabFailure):
                self.qmp("quit")
            self._wait_for_end(30.0)

    def kill(self) -> None:
        """SIGKILL to QEMU, as a crash of the host's process. Nothing if it is off."""
        if self._process is not None and self.running:
            self._process.send_signal(signal.SIGKILL)
            self._wait_for_end(30.0)

    def powerdown(self, seconds: float = 120.0) -> None:
        """Press the power button and wait until the guest has shut down and QEMU ended.

        Raises LabFailure `lab.will-not-end`.
        """
        self.qmp("system_powerdown")
        self._wait_for_end(seconds)

    def run(self, command: str | Sequence[str], *, seconds: float = 120.0) -> str:
        """What a program (a string: by sh) prints in the guest. Raises as `output_of` does."""
        return output_of(self.qga_socket, command, seconds=seconds)

    def qmp(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """One command to the lab's own monitor. Raises as `lab.monitor.qmp` does."""
        return qmp(self.files.monitor_socket, command, arguments)

    def agent_call(self, command: str, arguments: dict[str, object] | None = None) -> object:
        """One raw call to the agent, leaving its channel free afterwards."""
        with agent_at(self.qga_socket) as agent:
            return agent.call(command, arguments)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def _spawn(self, command: list[str]) -> None:
        if self._network is not None:
            command = self._network.enter(command)
        if self._tied:
            command = ["setpriv", "--pdeathsig", "KILL", *command]
        for socket in (self.qmp_socket, self.files.monitor_socket, self.qga_socket):
            socket.unlink(missing_ok=True)
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(self.files.qemu_log.open("ab"))
            handed_over = []
            if self._exclusive:
                # The child's copy of the descriptor keeps the lock until QEMU ends.
                places = [stack.enter_context(path.open("ab")) for path in _places()]
                handed_over.append(_wait_for_turn(places).fileno())
            if self._network is not None and not self._tied:
                handed_over.append(self._network.namespace.owner)
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=handed_over,
                start_new_session=True,
            )

    def _monitor_answers(self) -> bool:
        if not self.files.monitor_socket.exists():
            return False
        with contextlib.suppress(LabFailure):
            self.qmp("query-status")
            return True
        return False

    def _loaded(self) -> bool:
        status = self.qmp("query-status")
        return isinstance(status, dict) and status.get("status") == "paused"

    def _wait_for_boot(self) -> None:
        """The agent starts early; the data disks are mounted when all jobs of the boot are done."""
        self.run(
            "udevadm settle; systemctl is-system-running --quiet --wait || true",
            seconds=BOOT_SECONDS,
        )

    def _agent_answers(self) -> bool:
        try:
            with agent_at(self.qga_socket) as agent:
                agent.sync(seconds=1.0)
        except AgentFailure:
            return False
        return True

    def _wait_until(
        self, condition: Callable[[], bool], seconds: float, code: str, why: str
    ) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if not self.running:
                raise self._failed(code, f"{why}: QEMU has ended")
            if time.monotonic() > deadline:
                raise self._failed(code, f"{why} after {seconds:.0f} s")
            time.sleep(_POLL_SECONDS)

    def _failed(self, code: str, why: str) -> LabFailure:
        logs = (self.files.qemu_log, self.files.console_log)
        return LabFailure(
            code,
            f"The guest in {self.folder} failed: {why}.",
            evidence=[
                Evidence(fact="last lines of a log", source=str(log), raw=_tail(log))
                for log in logs
            ],
        )

    def _wait_for_end(self, seconds: float) -> None:
        assert self._process is not None
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired as inner:
            self._process.kill()
            self._process.wait()
            raise self._failed("lab.will-not-end", "it had to be killed") from inner
        self.files.pid_file.unlink(missing_ok=True)


def _places() -> list[Path]:
    """:raise ValueError: the variable holds no number"""
    count = int(os.environ.get(GUESTS_AT_ONCE, "1"))
    names = ["guest.lock", *(f"guest-{number}.lock" for number in range(2, count + 1))]
    return [cache_folder() / name for name in names]


def _wait_for_turn(places: Sequence[BinaryIO]) -> BinaryIO:
    """The first lock that is free, and is held from now on.

    :raise LabFailure: lab.guest-busy
    """
    deadline = time.monotonic() + TURN_SECONDS
    while True:
        for place in places:
            try:
                fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as inner:
                busy = inner
            else:
                return place
        if time.monotonic() > deadline:
            raise LabFailure(
                "lab.guest-busy",
                f"Another lab guest has been running for {TURN_SECONDS:.0f} s.",
                evidence=[Evidence("the lock is held", place.name) for place in places],
                remedy="Stop it (python -m quiesce.lab list), or start this one as not"
                f" exclusive, or set {GUESTS_AT_ONCE}=2 where the machine can bear two.",
            ) from busy
        time.sleep(_POLL_SECONDS)


def _tail(path: Path, size_bytes: int = 2000) -> str:
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - size_bytes))
        return file.read().decode(errors="replace")
