"""Which VM holds which network card and which address, without asking on the spot.

A round lists the VMs and asks some of them for their cards, in the background. Asking costs each
VM's QEMU some milliseconds and its monitor for as long, so a VM is asked

- once, as soon as it is listed;
- again when a round was wanted, since something unknown came by: after some seconds, and later and
  later, up to a minute, while its answer stays the same;
- again when its answer is old.

Rounds take at most a tenth of the time, and begin at least `ROUND_SECONDS` apart: a flood of
strangers costs nothing more. What was known stays known when a VM does not answer; it is
forgotten when no process runs the VM.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from ipaddress import ip_address

import structlog

from quiesce.hypervisor.qmp import VmAbsent
from quiesce.model.failure import Failure
from quiesce.model.vm import NetworkCard

log = structlog.get_logger(__name__)

ROUND_SECONDS = 3.0
OLD_SECONDS = 120.0
_MOST_PATIENCE_SECONDS = 60.0
_PAUSE_PER_WORK = 9.0
_FIRST_ROUND_SECONDS = 0.5
_ASKERS = 8
_PUBLISHED_PER_ROUND = 32

Listing = Callable[[], Iterable[tuple[str, str, Callable[[], tuple[NetworkCard, ...]]]]]
"""Per VM: its name, its guest address or "", and how to ask for its cards."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A VM with a card. `port` is the index of the host's interface behind it: 0 when the card
    has one that is not (or no longer) in our network namespace, None when it has none known."""

    vm: str
    port: int | None


@dataclass(frozen=True, slots=True)
class _Known:
    """What one VM answered. `asked_at`: by the clock, -inf when never. It is not asked again for
    `patience_seconds` because of strangers."""

    cards: tuple[tuple[str, int | None], ...] = ()
    asked_at: float = float("-inf")
    patience_seconds: float = ROUND_SECONDS


@dataclass(frozen=True, slots=True)
class _Index:
    by_card: dict[str, tuple[Holder, ...]] = field(default_factory=dict)
    by_address: dict[str, tuple[str, ...]] = field(default_factory=dict)


class CardRoster:
    """Thread-safe. `vms` and what it gives are called in threads of the roster's own."""

    def __init__(self, vms: Listing, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._vms = vms
        self._clock = clock
        self._lock = threading.Lock()
        self._index = _Index()  # replaced as a whole: read without the lock
        self._known: dict[str, _Known] = {}
        self._running = False
        self._wanted = False
        self._list_changed = False
        self._next_round = clock()
        self._first_round = threading.Event()
        self._made_at = time.monotonic()

    def holders(self, hardware_address: str) -> tuple[Holder, ...]:
        return self._index.by_card.get(hardware_address, ())

    def at_address(self, address: str) -> tuple[str, ...]:
        """The VMs of which the operator said that they have this address."""
        return self._index.by_address.get(address, ())

    def keep_up(self, *, ask_again: bool = False) -> None:
        """Begin a round when one is due. `ask_again`: something unknown came by, so that what
        VMs have answered may be out of date. Waits for nothing."""
        if self._running or (self._clock() < self._next_round and not ask_again):
            return
        with self._lock:
            self._wanted = self._wanted or ask_again
            if self._running or self._clock() < self._next_round:
                return
            self._running = True
            wanted, self._wanted = self._wanted, False
        try:
            threading.Thread(target=self._round, args=(wanted,), name="cards", daemon=True).start()
        except RuntimeError:  # no more threads, or the interpreter is ending
            self._running = False

    def look_now(self) -> None:
        """The list has changed: begin a round at once, or another one after that which runs."""
        with self._lock:
            self._list_changed = True
            self._next_round = self._clock()
        self.keep_up()

    def wait_for_first_round(self) -> None:
        """Until half a second after the roster was made at most, however long the round takes:
        who asks may be an event loop."""
        left = self._made_at + _FIRST_ROUND_SECONDS - time.monotonic()
        if left > 0:
            self._first_round.wait(left)

    def _round(self, ask_again: bool) -> None:
        began = self._clock()
        ended = False
        while not ended:
            self._list_changed = False
            try:
                self._ask_round(ask_again, began)
            except Exception:  # the listing is the caller's: later rounds go on
                log.warning("the VMs' network cards were not asked", exc_info=True)
            with self._lock:
                ended = not self._list_changed
                if ended:
                    now = self._clock()
                    self._next_round = now + max(ROUND_SECONDS, _PAUSE_PER_WORK * (now - began))
                    self._running = False
        self._first_round.set()

    def _ask_round(self, ask_again: bool, began: float) -> None:
        listed = list(self._vms())
        names = {name for name, _, _ in listed}
        self._known = {name: known for name, known in self._known.items() if name in names}
        self._publish(listed)
        due = [
            (name, ask)
            for name, _, ask in listed
            if _is_due(self._known.get(name, _Known()), began, ask_again)
        ]
        # Who has never been asked is the likeliest to be the unknown one.
        due.sort(key=lambda vm: vm[0] in self._known)
        if not due:
            return
        some = max(_ASKERS, len(due) // _PUBLISHED_PER_ROUND)
        with ThreadPoolExecutor(min(_ASKERS, len(due)), thread_name_prefix="cards") as askers:
            asked = {askers.submit(self._answer, name, ask): name for name, ask in due}
            for count, answer in enumerate(as_completed(asked), 1):
                self._known[asked[answer]] = answer.result()
                if count % some == 0:
                    self._publish(listed)
        self._publish(listed)

    def _answer(self, name: str, ask: Callable[[], tuple[NetworkCard, ...]]) -> _Known:
        before = self._known.get(name, _Known())
        try:
            cards = tuple(
                (card.hardware_address.lower(), _index_of(card.interface)) for card in ask()
            )
        except VmAbsent:
            # Asking costs nothing, and it is a stranger from the moment it is started.
            return _Known((), self._clock())
        except Failure as failure:
            log.debug("network cards unknown", vm=name, failure=str(failure))
            cards = before.cards
        except Exception:  # one VM must not keep the others from being asked
            log.warning("network cards unknown", vm=name, exc_info=True)
            cards = before.cards
        patience = ROUND_SECONDS
        if name in self._known and cards == before.cards:
            patience = min(2 * before.patience_seconds, _MOST_PATIENCE_SECONDS)
        return _Known(cards, self._clock(), patience)

    def _publish(
        self, listed: list[tuple[str, str, Callable[[], tuple[NetworkCard, ...]]]]
    ) -> None:
        by_card: dict[str, tuple[Holder, ...]] = {}
        by_address: dict[str, tuple[str, ...]] = {}
        for name, address, _ in listed:
            if address:
                address = _canonical(address)
                by_address[address] = (*by_address.get(address, ()), name)
            for card, port in self._known.get(name, _Known()).cards:
                by_card[card] = (*by_card.get(card, ()), Holder(name, port))
        self._index = _Index(by_card, by_address)


def _is_due(known: _Known, now: float, ask_again: bool) -> bool:
    return known.asked_at <= now - (known.patience_seconds if ask_again else OLD_SECONDS)


def _canonical(address: str) -> str:
    try:
        return str(ip_address(address))
    except ValueError:
        return address  # no peer has it


def _index_of(interface: str) -> int | None:
    """An index is never given to a second interface: one that was made anew under the same name
    is another one, and its VM is asked again."""
    if not interface:
        return None
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return 0
