"""The guest's inside, as papers, through whichever of its agents works."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from quiesce.model.diagnosis import Fact
from quiesce.model.failure import Failure, FailureReport
from quiesce.model.papers import Papers
from quiesce.service.composition import Composition
from quiesce.service.extensions import QGA, WAAGENT
from quiesce.service.guest_side import GuestSide
from quiesce.service.looks.channel import held_by_us, spare_the_frozen
from quiesce.service.looks.panel import Case, Found

CHANNEL = "the guest's inside"

Reader = Callable[[Papers], Sequence[Fact]]


class InsideLook:
    """Comes after the channel, the agents and the hypervisor. The QEMU guest agent is asked first,
    since it is the quicker one and needs no network; the polling agent only when it is ready."""

    def __init__(self, composition: Composition, guest_side: GuestSide, reader: Reader) -> None:
        self._composition = composition
        self._guest_side = guest_side
        self._reader = reader

    def __call__(self, case: Case, before: Found) -> Found:
        problems: list[FailureReport] = []
        for way in ways_in(before):
            spare_the_frozen(case)
            try:
                papers = self._papers(case, way)
            except Failure as failure:
                if held_by_us(failure):
                    raise
                problems.append(failure.report())
            else:
                facts = (_examined(True, papers.source), *self._reader(papers))
                return Found(facts, tuple(problems), (f"{CHANNEL} ({papers.source})",), papers)
        why = problems[-1].message if problems else "no agent of the guest answers"
        return Found((_examined(False, why),), tuple(problems), (f"{CHANNEL}: {why}",))

    def _papers(self, case: Case, way: str) -> Papers:
        if way == WAAGENT:
            return self._guest_side.agents().examine(case.vm)
        guest = self._composition.guest(case.address)
        assert guest is not None, "it has answered"
        return guest.examine()


def ways_in(before: Found) -> tuple[str, ...]:
    """The agents that can start something in the guest now, the better one first."""
    qga = (QGA,) if before.value("qga.answers") is True else ()
    polls = before.value("waagent.polls") is not False and before.value("waagent.served") is True
    waagent = (WAAGENT,) if polls and before.value("waagent.condition") == "ready" else ()
    # Without leave to start programs, files alone are what the guest agent can give.
    return (*waagent, *qga) if before.value("qga.exec") is False else (*qga, *waagent)


def _examined(examined: bool, words: str) -> Fact:
    return Fact("guest.examined", examined, words, CHANNEL)
