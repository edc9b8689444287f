"""The QEMU guest agent as its channel shows it: whether it answers, and what it may do."""

from __future__ import annotations

from collections.abc import Iterator

from quiesce.model.diagnosis import Fact
from quiesce.model.failure import AgentFailure, Evidence, Failure, FailureReport
from quiesce.model.presence import Presence
from quiesce.service.composition import Composition
from quiesce.service.looks.panel import Case, Found

CHANNEL = "QEMU guest agent"
THIS_SERVER = "this server"
"""Where the agents' room says that it has refused something itself."""
_BUSY = "agent.channel-busy"
_WINDOWS = "mswindows"
"""What guest-get-osinfo calls it (qga/commands-win32.c); elsewhere it is os-release's ID."""


class ChannelLook:
    def __init__(self, composition: Composition) -> None:
        self._composition = composition

    def __call__(self, case: Case, _: Found) -> Found:
        guest = self._composition.guest(case.address)
        configured = _configured(guest is not None)
        if guest is None:
            return Found((configured,))
        spare_the_frozen(case)
        try:
            seen = guest.presence()
        except AgentFailure as failure:
            return _mute(configured, failure)
        problems = () if seen.refusal is None else (seen.refusal,)
        return Found((configured, *_facts(seen)), problems, (CHANNEL,))


def spare_the_frozen(case: Case) -> None:
    """:raise AgentFailure: agent.channel-busy, while a job may have the guest frozen. Asked right
    before each time that something is started in a guest: looks go on while a job does."""
    if taking := case.taking():
        raise AgentFailure(
            _BUSY,
            f"A backup is taking its snapshot of the VM {case.vm}.",
            evidence=[Evidence(f"the job {taking} takes its snapshot", THIS_SERVER)],
            retryable=True,
        )


def held_by_us(failure: Failure | FailureReport) -> bool:
    """Whether the guest was spared because this server is busy with it: then no other way into it
    may be tried either. That another program has its channel is no such reason."""
    ours = any(each.source == THIS_SERVER for each in failure.evidence)
    return failure.code == _BUSY and ours


def _configured(there: bool) -> Fact:
    words = "a guest agent's socket is set for the VM" if there else "it is not reached by this one"
    return Fact("qga.configured", there, words, "the VM's entry in Quiesce")


def _mute(configured: Fact, failure: AgentFailure) -> Found:
    report = failure.report()
    raw = "\n".join(filter(None, (f"{each.fact}: {each.raw}" for each in failure.evidence)))
    facts = [configured, Fact("qga.problem", failure.code, failure.message, CHANNEL, raw=raw)]
    if not held_by_us(failure):  # else it was not asked
        facts.append(Fact("qga.answers", False, failure.message, CHANNEL, raw=raw))
        if failure.code == _BUSY:
            facts.append(Fact("qga.port", "busy", failure.message, CHANNEL, raw=raw))
    return Found(tuple(facts), (report,), (f"{CHANNEL}: {failure}",))


def _facts(seen: Presence) -> Iterator[Fact]:
    yield Fact("qga.answers", True, "it answers", f"{CHANNEL}, guest-sync-delimited")
    if seen.refusal is not None:
        yield Fact("qga.problem", seen.refusal.code, seen.refusal.message, CHANNEL)
    if seen.version:
        words = f"the QEMU guest agent has the version {seen.version}"
        yield Fact("qga.version", seen.version, words, f"{CHANNEL}, guest-info")
    if seen.system:
        yield from _system(seen.system)
    if seen.frozen:
        words = "the agent holds the guest frozen, by order of another program"
        yield Fact("guest.frozen", True, words, f"{CHANNEL}, guest-fsfreeze-status")
        if seen.refusal is None:
            yield Fact("qga.problem", "freeze.busy", words, f"{CHANNEL}, guest-fsfreeze-status")
    if seen.executes is not None:
        source = f"{CHANNEL}, guest-info"
        may = "may" if seen.executes else "may not"
        yield Fact("qga.exec", seen.executes, f"it {may} start programs", source)
        blocked = ", ".join(seen.blocked)
        words = f"commands that its configuration blocks: {blocked or 'none that is needed'}"
        yield Fact("qga.blocked", blocked, words, source)


def _system(system: str) -> Iterator[Fact]:
    source = f"{CHANNEL}, guest-get-osinfo"
    if system == _WINDOWS:
        yield Fact("guest.os", "windows", "the guest is a Windows", source, raw=system)
    else:
        words = f"the guest's distribution is {system}"
        yield Fact("guest.distribution", system, words, source, raw=system)
