"""What a QEMU guest agent says of itself without starting anything in the guest."""

from __future__ import annotations

from dataclasses import dataclass

from quiesce.model.failure import FailureReport


@dataclass(frozen=True, slots=True)
class Presence:
    """An agent that answers. `system` is its guest's id, as in os-release ("mswindows" for
    Windows), empty when it does not say. `executes`: it may start programs. `blocked` are commands
    that backups need and its configuration forbids. `frozen`: it holds the guest frozen itself, on
    another program's order, and then tells nothing of what is blocked. `refusal` is why it told
    nothing of itself, though it answers."""

    version: str = ""
    system: str = ""
    executes: bool | None = None
    blocked: tuple[str, ...] = ()
    frozen: bool | None = None
    refusal: FailureReport | None = None
