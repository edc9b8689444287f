"""Rules in people's words: what proves a cause, what excludes it."""

from __future__ import annotations

from collections.abc import Mapping

from quiesce.diagnosis.conditions import FAILED, Condition, How, Rule
from quiesce.diagnosis.vocabulary import FACTS
from quiesce.model.diagnosis import FactValue, MendAction

_ABOUT: Mapping[str, str] = {
    "vm": "VM",
    "qga": "QEMU guest agent",
    "waagent": "Azure Linux agent",
    "extension": "backup extension",
    "guest": "guest",
    "net": "guest's network",
    "endpoint": "storage endpoint",
    "schedule": "schedule",
    "disk": "disks",
    "session": "host",
    "host": "host",
    "windows": "Windows",
}
MENDS: Mapping[MendAction, str] = {
    MendAction.THAW: "ends what a lost session has left, and thaws",
    MendAction.RESTART_AGENT: "restarts the agent through the other one",
    MendAction.AUTO_RESTART: "lets systemd restart the agent whenever it ends",
    MendAction.ENABLE_EXTENSIONS: "switches on again what the agent's configuration forbids",
    MendAction.SET_ENDPOINT: "exempts the host's address from the agent's proxy",
    MendAction.REINSTALL_EXTENSION: "removes the extension and installs it anew",
    MendAction.RENEW_ACCESS: "gives the guest new access",
    MendAction.CLEAN_STALE: "removes snapshots and bitmaps of its own that belong to no job",
    MendAction.WAIT: "waits for it to pass, for a bounded time",
    MendAction.OTHER_ROUTE: "takes the point by the other route",
    MendAction.OFFLINE: "backs up the disks of the VM that does not run",
    MendAction.SKIP_MOUNT: "leaves the mount out of the freeze and says so in the label",
    MendAction.START_PROVIDER: "lets Windows start the shadow copy provider's service",
    MendAction.VSS_COPY: "sets shadow copies to the type copy",
    MendAction.FULL_READ: "reads everything and starts the change tracking anew",
    MendAction.START_PROVIDER: "lets Windows' provider of shadow copies be started again",
    MendAction.VSS_COPY: "has Windows take shadow copies of the type copy",
}


def mend_words(actions: tuple[MendAction, ...]) -> str:
    """What is done by itself, as one sentence without its first word; empty for nothing."""
    return ", ".join(MENDS[action] for action in actions)


def rule_words(rule: Rule) -> str:
    """Conditions that hold together, in one line."""
    return "; ".join(condition_words(each) for each in rule)


def condition_words(condition: Condition) -> str:
    """Like "Azure Linux agent: its service is inactive or failed"."""
    if condition.name == FAILED:
        return _failure_words(condition)
    if condition.name == "failed.route":
        return f"the {_written(condition.values[0])} route failed"
    kind = FACTS[condition.name]
    about = _ABOUT.get(condition.name.partition(".")[0], "")
    subject = kind.says if about in kind.says else f"{about}: {kind.says}"
    if kind.type is bool:
        yes = condition.how is How.KNOWN or (
            (condition.values[0] is True) == (condition.how is not How.IS_NOT)
        )
        return subject if yes else f"not so – {subject}"
    values = " or ".join(_written(value) for value in condition.values)
    unit = f" {kind.unit}" if kind.unit else ""
    match condition.how:
        case How.IS | How.ONE_OF:
            return f"{subject} is {values}{unit}"
        case How.IS_NOT:
            return f"{subject} is not {values}{unit}"
        case How.ABOVE:
            return f"{subject}: more than {values}{unit}"
        case How.BELOW:
            return f"{subject}: less than {values}{unit}"
        case How.EMPTY:
            return f"{subject}: none"
        case How.NOT_EMPTY:
            return f"{subject}: at least one"
        case _:
            return f"{subject} is known"


def _failure_words(condition: Condition) -> str:
    if condition.values == ("*",):
        return "nothing has failed yet" if condition.how is How.IS_NOT else "something failed"
    codes = " or ".join(f"`{code}`" for code in condition.values)
    return f"what failed {'is not' if condition.how is How.IS_NOT else 'is'} {codes}"


def _written(value: FactValue) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
