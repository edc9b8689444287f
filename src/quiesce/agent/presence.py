"""Whether a QEMU guest agent is there and lets us work, by calls that start nothing."""

from __future__ import annotations

from quiesce.agent.qga import FreezeStatus, QemuGuestAgent
from quiesce.model.failure import AgentFailure, FreezeFailure
from quiesce.model.presence import Presence

_EXECUTION = frozenset({"guest-exec", "guest-exec-status"})
_NEEDED = _EXECUTION | {
    "guest-file-open",
    "guest-file-close",
    "guest-file-read",
    "guest-file-write",
    "guest-file-flush",
    "guest-file-seek",
}
"""What a backup by the host route calls. Red Hat's packages forbid them all as delivered."""


def presence(agent: QemuGuestAgent) -> Presence:
    """:raise AgentFailure: it does not answer, and what is known of why"""
    agent.sync()
    frozen = _frozen(agent)
    try:
        info = agent.info()
    except (AgentFailure, FreezeFailure) as refused:
        return Presence(frozen=frozen, refusal=refused.report())
    if frozen:
        # Until it thaws it shows nearly every command as disabled (qga/main.c, frozen whitelist).
        return Presence(info.version, frozen=True)
    return Presence(
        version=info.version,
        system=_system(agent),
        executes=info.commands >= _EXECUTION,
        blocked=tuple(sorted(_NEEDED & info.disabled)),
        frozen=frozen,
    )


def _frozen(agent: QemuGuestAgent) -> bool | None:
    """None where it may not be asked."""
    try:
        return agent.freeze_status() is FreezeStatus.FROZEN
    except (AgentFailure, FreezeFailure):
        return None


def _system(agent: QemuGuestAgent) -> str:
    """Empty where it may not be asked, or is too old to know."""
    try:
        return agent.operating_system().id
    except (AgentFailure, FreezeFailure):
        return ""
