"""A guest looked at and mended from inside, through its QEMU guest agent alone: by one program
that is given a script, so it needs no extension, no Python and no disk."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from quiesce.agent.collection import WINDOWS, mender, new_token, parse, readable, script
from quiesce.agent.framing import printable
from quiesce.agent.link import CommandRefused
from quiesce.agent.qga import ExecResult, QemuGuestAgent
from quiesce.model.failure import AgentFailure, InputFailure
from quiesce.model.papers import COMMAND, Paper, Papers

SOURCE = "the guest, through qga"
ACTIONS = (
    "restart-waagent",
    "restart-qga",
    "auto-restart-waagent",
    "auto-restart-qga",
    "enable-extensions",
    "allow-qga",
    "exempt-host",
    "end-extension",
    "verbose-on",
    "verbose-off",
)
"""What `guest/mend.sh` can do."""
ACTIONS_ON_WINDOWS = ("restart-qga", "start-provider", "vss-copy")
"""What `guest/mend.ps1` can do."""
_EXAMINE_SECONDS = 18.0
"""The collector ends itself within 16 s. In a guest in which nothing gets on it does not, and what
its load is must be seen while the look is still waited for."""
_EXAMINE_SECONDS_ON_WINDOWS = 100.0
"""There it ends itself within 75 s: each command is slow to start."""
_MEND_SECONDS = 120.0
"""A service that does not stop is given 90 s by systemd before it is killed."""
_WORD = re.compile(r"[A-Za-z0-9.:_-]{0,64}")
_TAIL_BYTES = 256 * 1024
_SINGLE_FILES = (
    "/etc/os-release",
    "/etc/waagent.conf",
    "/etc/qemu/qemu-ga.conf",
    "/etc/default/qemu-guest-agent",
    "/etc/sysconfig/qemu-ga",
    "/etc/environment",
    "/etc/resolv.conf",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/uptime",
    "/proc/self/mountinfo",
    "/var/log/waagent.log",
)
"""Where the agent may not start programs."""
_STAT = "/proc/stat"
_LOAD_FILES = ("/proc/loadavg", "/proc/meminfo", "/proc/pressure/io")
"""What tells of the load where a program does not come to its end."""
_NOT_TO_BE_HAD = ("agent.extensions-disabled", "agent.outdated")
_POWERSHELL = "powershell.exe"
_FLAGS = ("-NoProfile", "-NonInteractive", "-ExecutionPolicy", "Bypass", "-Command")
_FROM_STANDARD_INPUT = (
    "& ([ScriptBlock]::Create([string]::Join([string][char]10, [string[]]@($input))))"
)
"""`-Command -` would run each line for itself, as if typed, and give the script no arguments; and
PowerShell itself reads standard input for `$input`, so that [Console]::In would miss lines."""


def checked(action: str, word: str) -> None:
    """:raise InputFailure: extension.usage"""
    if action not in ACTIONS + ACTIONS_ON_WINDOWS or not _WORD.fullmatch(word):
        raise InputFailure(
            "extension.usage",
            f"{printable(action, 40)!r} {printable(word, 40)!r} is nothing that Quiesce mends in a "
            f"guest. It can: {', '.join(ACTIONS)}; on Windows: {', '.join(ACTIONS_ON_WINDOWS)}.",
        )


def examined(agent: QemuGuestAgent) -> Papers:
    """What the collector finds. Where programs may not be started, or none comes to its end, some
    files, with a warning that says so (not on Windows, where it is the commands that tell).

    :raise AgentFailure: the agent does not answer; agent.examine-failed when the collector ends
        without a word, as where a policy keeps PowerShell from running it
    :raise FreezeFailure: freeze.busy
    """
    token = new_token()
    system = system_of(agent)
    windows = system == WINDOWS
    try:
        seconds = _EXAMINE_SECONDS_ON_WINDOWS if windows else _EXAMINE_SECONDS
        result = _run(agent, system, script(system), [token], seconds)
    except AgentFailure as failure:
        if failure.code == "agent.exec-timeout" and not windows:
            return _load_alone(agent, failure)
        if failure.code not in _NOT_TO_BE_HAD or windows:
            raise
        return _single_files(agent, failure)
    papers = parse(result.stdout, token, SOURCE)
    if not papers.papers:
        raise AgentFailure(
            "agent.examine-failed",
            "The guest agent answers, and its guest could not be looked at from inside.",
            evidence=[result.evidence("the collector")],
        )
    return papers


def mended(agent: QemuGuestAgent, action: str, word: str) -> str:
    """What was done, or found done already, in one sentence.

    :raise InputFailure: extension.usage
    :raise AgentFailure: agent.mend-failed, with the guest's own reason; as `examined`
    """
    checked(action, word)
    system = system_of(agent)
    result = _run(agent, system, mender(system), [action, word], _MEND_SECONDS)
    words = printable(readable(result.stdout).strip(), 1000)
    if result.succeeded and words:
        return words
    why = printable(readable(result.stderr).strip(), 1000) or words or "it said nothing"
    raise AgentFailure(
        "agent.mend-failed",
        f"The guest could not be mended by {action}: {why}",
        evidence=[result.evidence(f"mend.sh {action}")],
    )


def system_of(agent: QemuGuestAgent) -> str:
    """Empty for an agent that cannot say; those of Windows can."""
    try:
        return agent.operating_system().id
    except AgentFailure as failure:
        if failure.code not in _NOT_TO_BE_HAD:
            raise
        return ""


def _run(
    agent: QemuGuestAgent, system: str, program: bytes, words: Sequence[str], seconds: float
) -> ExecResult:
    """Words are checked: none could end a string in PowerShell."""
    if system == WINDOWS:
        line = " ".join([_FROM_STANDARD_INPUT, *(f"'{word}'" for word in words)])
        return agent.execute(_POWERSHELL, [*_FLAGS, line], input=program, seconds=seconds)
    return agent.execute("sh", ["-s", *words], input=program, seconds=seconds)


def _single_files(agent: QemuGuestAgent, why: AgentFailure) -> Papers:
    papers = tuple(_single_file(agent, path) for path in _SINGLE_FILES)
    warning = f"Only {len(_SINGLE_FILES)} files were read, and no command was run: {why.message}"
    return Papers(papers=papers, source=SOURCE, warnings=(warning,))


def _load_alone(agent: QemuGuestAgent, why: AgentFailure) -> Papers:
    """:raise AgentFailure: not even that can be had"""
    first = _single_file(agent, _STAT)
    papers = [_single_file(agent, path) for path in _LOAD_FILES]
    last = _single_file(agent, _STAT)
    lines = [paper.text.partition("\n")[0] for paper in (first, last)]
    papers.append(replace(last, path=COMMAND + "cpu", text="\n".join(lines)))
    warning = f"Only the guest's load was looked at: {why.message}"
    return Papers(papers=tuple(papers), source=SOURCE, warnings=(warning,))


def _single_file(agent: QemuGuestAgent, path: str) -> Paper:
    """A log is opened as for writing, which waits for nobody should it be a FIFO."""
    mode = "r+" if path.endswith(".log") else "r"
    try:
        content, size = agent.read_tail(path, _TAIL_BYTES, mode)
    except CommandRefused as refusal:
        return Paper(path, problem=printable(refusal.message, 400))
    return Paper(path, text=readable(content), size_bytes=size, cut=size > len(content))
