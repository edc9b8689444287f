"""Collecting a guest's logs through whatever channel still works."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import structlog

from quiesce.model.failure import (
    AgentFailure,
    Evidence,
    Failure,
    NotFoundFailure,
    PolicyFailure,
)
from quiesce.model.vm import VmAddress
from quiesce.service.clock import Clock
from quiesce.service.composition import Composition
from quiesce.service.doctor import Doctor
from quiesce.service.guest_side import GuestSide
from quiesce.service.job_book import JobBook
from quiesce.service.log_bundle import LogBundle, pack
from quiesce.service.looks.channel import held_by_us
from quiesce.service.network import Network
from quiesce.service.vm_table import VmTable

log = structlog.get_logger(__name__)

_MUTE_SECONDS = 600.0
"""Until an agent that could not be reached is asked again. Each time may take a minute."""


class LogCollection:
    """What CLI, REST and portal call."""

    def __init__(
        self,
        clock: Clock,
        table: VmTable,
        composition: Composition,
        guest_side: GuestSide,
        network: Network,
        doctor: Doctor,
        book: JobBook,
        notes: Path,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`notes` is a folder of its own: what is in it says which VMs log verbosely."""
        self._clock = clock
        self._table = table
        self._composition = composition
        self._guest_side = guest_side
        self._network = network
        self._doctor = doctor
        self._book = book
        self._notes = notes
        self._monotonic = monotonic
        self._not_before: dict[str, float] = {}
        self._recovering: threading.Thread | None = None

    def recover(self) -> None:
        """Switch verbose logging back where it was left on, as by a server that ended. That
        restarts agents, so a VM of which a backup waits or runs is left for a later call; so is one
        that does not answer, for ten minutes."""
        for note in self._due():
            vm = unquote(note.name)
            try:
                address = self._table.address(vm)
                with self._held(address):
                    if note.exists():  # else whoever held the VM has switched it back
                        self._switch_off(address)
            except NotFoundFailure:
                note.unlink(missing_ok=True)
            except PolicyFailure as busy:
                log.debug("verbose logging is still on", vm=vm, reason=str(busy))
            except Failure as failure:
                self._not_before[note.name] = self._monotonic() + _MUTE_SECONDS
                log.warning("verbose logging is still on", vm=vm, reason=str(failure))

    def recover_soon(self) -> None:
        """As `recover`, in a thread of its own, if there is anything to do."""
        if (self._recovering is None or not self._recovering.is_alive()) and self._due():
            self._recovering = threading.Thread(target=self.recover, name="verbose", daemon=True)
            self._recovering.start()

    def _due(self) -> list[Path]:
        notes = list(self._notes.iterdir()) if self._notes.is_dir() else []
        now = self._monotonic()
        return [note for note in notes if self._not_before.get(note.name, now) <= now]

    def collect(self, name: str, *, verbose: bool = False) -> LogBundle:
        """The guest's logs with what the doctor makes of them, without secrets. Where the guest's
        inside cannot be reached, the bundle says so and holds what is seen from outside.

        `verbose` has the guest's agent log more, tests the network so that there is something to
        log, and switches it back whatever happens. That restarts agents, and no backup of the VM
        begins meanwhile.

        :raise NotFoundFailure: vm.unknown
        :raise PolicyFailure: policy.in-progress
        :raise Failure: `verbose`, and no agent of the VM lets itself be switched
        """
        address = self._table.address(name)
        if not verbose:
            return self._packed(address, verbose=False)
        with self._held(address), self._verbose(address):
            try:
                self._network.test(address.name)
            except Failure as failure:
                # What keeps the test from running is what the logs are to tell.
                log.info("no network test", vm=address.name, reason=str(failure))
            return self._packed(address, verbose=True)

    def _packed(self, address: VmAddress, *, verbose: bool) -> LogBundle:
        findings = self._doctor.findings(address.name)
        return pack(
            address.name,
            findings.seen.papers,
            findings.seen.facts,
            findings.examination,
            at=self._clock.now(),
            verbose=verbose,
            known=self._passwords(address.name),
        )

    @contextmanager
    def _verbose(self, address: VmAddress) -> Iterator[None]:
        # Noted before: this process may end at any moment, and the guest would go on.
        self._notes.mkdir(mode=0o700, exist_ok=True)
        self._note(address).touch(mode=0o600)
        try:
            self._switch(address, "verbose-on")
        except Failure:
            with suppress(Failure):  # it may have been done for all that; the note stays if so
                self._switch_off(address)
            raise
        try:
            yield
        finally:
            self._switch_off(address)

    def _held(self, address: VmAddress) -> AbstractContextManager[None]:
        return self._book.hold(address.name, "The verbose logs of its agents are collected.")

    def _switch_off(self, address: VmAddress) -> None:
        self._switch(address, "verbose-off")
        self._note(address).unlink(missing_ok=True)

    def _note(self, address: VmAddress) -> Path:
        return self._notes / quote(address.name, safe="")

    def _switch(self, address: VmAddress, action: str) -> None:
        """Through the first agent that does it; the one that needs no network is asked first.

        :raise AgentFailure: agent.mend-failed; agent.channel-busy, the guest may be frozen
        """
        refusals: list[Failure] = []
        for switch in self._switches(address):
            try:
                switch(action)
            except Failure as failure:
                if held_by_us(failure):
                    raise
                refusals.append(failure)
            else:
                return
        log.error("verbose logging is not switched", vm=address.name, action=action)
        raise AgentFailure(
            "agent.mend-failed",
            f"No agent of the VM {address.name} has done {action}.",
            evidence=[Evidence(str(refusal), "agent") for refusal in refusals],
        ) from (refusals[-1] if refusals else None)

    def _switches(self, address: VmAddress) -> Iterator[Callable[[str], str]]:
        if (guest := self._composition.guest(address)) is not None:
            yield guest.mend
        if address.agent.waagent:
            yield lambda action: self._guest_side.agents().mend(address.name, action)

    def _passwords(self, vm: str) -> tuple[str, ...]:
        """Those of the VM's proxies, as they are and as they stand in URLs."""
        proxy = self._table.proxy_of(vm)
        found = (urlsplit(url).password for url in (proxy.http, proxy.https))
        return tuple(each for word in found if word for each in (word, unquote(word)))
