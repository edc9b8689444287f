"""A Windows guest frozen by the QEMU guest agent itself, which asks VSS for a shadow copy of all
fixed volumes and holds it open until the thaw.

None of it was run on a real Windows. What it rests on: QEMU's qga/vss-win32/requester.cpp and
provider.cpp; Microsoft's KB 975688 (VSS releases the writes 10 s after it has held them, whatever
happens) and its page on CVssWriter::OnFreeze (applications go on after 60 s).

There is no watchdog of ours in such a guest. Windows itself is one: writes are released after 10 s
even when host and agent are dead. The agent counts itself as frozen until it is told to thaw and
refuses most commands until then; `recover` tells it.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field, replace

from quiesce.agent.link import CommandRefused
from quiesce.agent.qga import AgentInfo, FreezeStatus, QemuGuestAgent
from quiesce.model.extension import Finish, Readiness
from quiesce.model.failure import AgentFailure, Evidence, FreezeFailure
from quiesce.model.policy import SnapshotOptions
from quiesce.model.snapshot import FreezeReport, MountFreeze

VSS_HOLD_SECONDS = 10.0
"""KB 975688; requester.cpp calls it "fsfreeze is limited up to 10 seconds"."""
_MARGIN_SECONDS = 1.0
"""Of it, for what passes between the hold and our hearing of it: the requester looks every 10 ms,
and then the answer travels. Windows 7 and 2008 R2 may not report that they let go (KB 975688)."""
_FREEZE_SECONDS = 90.0
"""requester.cpp gives VSS 60 s for the frozen event; gathering the writers comes before that."""
UNPROVEN = (
    "This Windows guest was frozen by its guest agent's own VSS provider; Quiesce has been tested "
    "against recorded answers of such agents only, not on a real Windows."
)
_DEVICES, _SSH = "guest-get-devices", "guest-ssh-get-authorized-keys"
_BOTH_ON_WINDOWS_SINCE = (9, 1)
_NOT_TO_BE_HAD = ("agent.extensions-disabled", "agent.outdated")


def is_for_windows(info: AgentInfo) -> bool:
    """Whether an agent that holds a freeze, and therefore does not name its system, was built for
    Windows. By qga/qapi-schema.json: agents for Unix list both of these commands until QEMU 9.0 and
    only the one about SSH since 9.1; those for Windows only the other one until 9.0, then both.
    virtio-win counts its versions from 100."""
    listed = info.commands | info.disabled
    if _DEVICES not in listed:
        return False
    numbers = tuple(int(number) for number in re.findall(r"\d{1,6}", info.version)[:2])
    return _SSH not in listed or numbers >= _BOTH_ON_WINDOWS_SINCE


@dataclass(slots=True)
class _Hold:
    """One freeze. `timer` thaws at the end of `seconds`."""

    seconds: float
    mounts: tuple[MountFreeze, ...]
    froze_at: float | None = None
    freeze_ms: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)
    timer: threading.Timer | None = None


class VssFreeze:
    """The same calls as `quiesce.snapshot.ports.Guest`, for guests that run Windows. The caller
    lets them take turns; the timer of a hold runs beside them, as `AgentLink` allows."""

    def __init__(self, agent: QemuGuestAgent) -> None:
        self._agent = agent
        self._holds: dict[str, _Hold] = {}
        self._never_froze: set[str] = set()

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self._holds)

    def prepare(self, task_id: str, options: SnapshotOptions) -> Readiness:
        try:
            mounts = self.mounts()
        except (AgentFailure, FreezeFailure):  # frozen by another program, say
            self._never_froze.add(task_id)
            raise
        seconds = min(options.hold_seconds, VSS_HOLD_SECONDS - _MARGIN_SECONDS)
        self._holds[task_id] = _Hold(seconds, mounts)
        warnings = [UNPROVEN]
        if options.skip_mounts:
            named = ", ".join(options.skip_mounts)
            warnings.append(f"On Windows all fixed volumes are frozen; not left out: {named}.")
        return Readiness(
            extension_version="",
            mounts=mounts,
            scripts_configured=False,
            pre_script=None,
            warnings=tuple(warnings),
        )

    def mounts(self) -> tuple[MountFreeze, ...]:
        """The guest's volumes that have a drive letter or folder."""
        return tuple(
            MountFreeze(found.mount, found.type)
            for found in self._agent.file_systems()
            if found.mount and found.mount != "System Reserved"
        )

    def freeze(self, task_id: str) -> None:
        """:raise FreezeFailure: vss.freeze-failed, vss.freeze-timeout; the guest is thawed by then
        :raise AgentFailure: the agent was lost on the way; Windows releases its writes itself
        """
        hold = self._holds[task_id]
        began = time.monotonic()
        try:
            volumes = self._agent.call("guest-fsfreeze-freeze", seconds=_FREEZE_SECONDS)
        except CommandRefused as refusal:
            self._thaw_anyway()
            raise _refused(refusal) from refusal
        except AgentFailure as silent:
            if silent.code in _NOT_TO_BE_HAD:
                raise
            self._thaw_after(silent)
            raise FreezeFailure(
                "vss.freeze-timeout",
                f"Windows had made no shadow copy after {_FREEZE_SECONDS:g} s; it is thawed again.",
                evidence=silent.evidence,
                retryable=True,
            ) from silent
        if type(volumes) is not int or volumes < 1:
            self._thaw_anyway()
            raise FreezeFailure(
                "vss.freeze-failed",
                "The Windows guest has frozen no volume.",
                evidence=[Evidence("volumes frozen", "guest-fsfreeze-freeze", raw=repr(volumes))],
            )
        hold.froze_at = time.monotonic()
        hold.freeze_ms = (hold.froze_at - began) * 1000.0
        hold.timer = threading.Timer(hold.seconds, self._hold_is_over, [hold])
        hold.timer.daemon = True
        hold.timer.start()

    def thaw(self, task_id: str) -> FreezeReport:
        """`held` is true only when VSS says that it made the whole shadow copy and our own clock
        agrees that this was in time.

        :raise AgentFailure: agent.thaw-unconfirmed; Windows has released its writes 10 s after
        """
        hold = self._holds[task_id]
        _stop(hold)
        asked_at = time.monotonic()
        held = hold.froze_at is not None and not hold.over.is_set()
        frozen_ms = (asked_at - (hold.froze_at or asked_at)) * 1000.0
        held = held and frozen_ms <= (VSS_HOLD_SECONDS - _MARGIN_SECONDS) * 1000.0
        try:
            held = self._agent.thaw() > 0 and held
        except CommandRefused:  # VSS gave the shadow copy up; QEMU's agent counts as thawed
            held = False
        except AgentFailure as inner:
            raise AgentFailure(
                "agent.thaw-unconfirmed",
                "The Windows guest did not confirm that it has thawed; VSS releases its writes "
                f"{VSS_HOLD_SECONDS:g} s after it held them.",
                evidence=inner.evidence,
                retryable=True,
            ) from inner
        return FreezeReport(
            mounts=tuple(
                replace(mount, freeze_ms=hold.freeze_ms, frozen_ms=frozen_ms)
                for mount in hold.mounts
            ),
            held=held,
            hold_seconds=hold.seconds,
        )

    def finish(self, task_id: str) -> Finish:
        self._forget(task_id)
        return Finish(post_script=None)

    def recover(self, task_id: str) -> None:
        """Thaw what the agent still holds for this task, be it one of this process that has frozen
        or one of a lost process. The channel is ours now, so that nobody else works with it."""
        self._forget(task_id)
        if task_id in self._never_froze:
            self._never_froze.discard(task_id)
            return
        if self._agent.freeze_status() is FreezeStatus.FROZEN:
            self._thaw_anyway()

    def _hold_is_over(self, hold: _Hold) -> None:
        hold.over.set()
        self._thaw_anyway()

    def _thaw_after(self, silent: AgentFailure) -> None:
        """:raise AgentFailure: the agent is as silent as before"""
        try:
            self._agent.thaw()
        except CommandRefused:
            return
        except AgentFailure as still:
            raise still from silent

    def _thaw_anyway(self) -> None:
        """A thaw whose outcome changes nothing: VSS lets go by itself."""
        try:
            self._agent.thaw()
        except AgentFailure:
            return

    def _forget(self, task_id: str) -> None:
        hold = self._holds.pop(task_id, None)
        if hold is not None:
            _stop(hold)


def _stop(hold: _Hold) -> None:
    if hold.timer is not None:
        hold.timer.cancel()


def _refused(refusal: CommandRefused) -> FreezeFailure:
    """requester.cpp's own words are in no other language than English; Windows' follow them."""
    timed_out = "timeout when try" in refusal.description or "hold writes" in refusal.description
    return FreezeFailure(
        "vss.freeze-timeout" if timed_out else "vss.freeze-failed",
        "VSS did not freeze the Windows guest in time."
        if timed_out
        else "VSS could not freeze the Windows guest.",
        evidence=refusal.evidence,
        retryable=True,
    )
