"""What /var/log/waagent.log says: versions, where its host is, and the newest trouble that nothing
since has made good.

Messages as WALinuxAgent 2.2.0 to 2.16.0 write them (ga/exthandlers.py, ga/update.py,
daemon/main.py, common/protocol/*.py, common/dhcp.py, common/utils/restutil.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from quiesce.diagnosis.reading.log_lines import LogLine, log_lines
from quiesce.diagnosis.reading.observed import age_seconds, observed, text_paper
from quiesce.model.diagnosis import Fact
from quiesce.model.papers import Paper, Papers

PATH = "/var/log/waagent.log"
OLDEST_THAT_WORKS = (2, 2, 53)

_OF_INTEREST = re.compile(r"Quiesce\.VmBackup|VMSnapshot")
"""Other extensions' troubles are none of a backup's."""
_HANDLER = re.compile(r"\[([A-Za-z0-9_.]+)-\d[\d.]*\]|name=([A-Za-z0-9_.]+), op=")
_VERSION = re.compile(
    r"Azure Linux Agent Version: ?([\d.]+\d)|Agent WALinuxAgent-([\d.]+\d) is running as the goal"
    r"|Goal State Agent version ([\d.]+\d)"
)
_ENDPOINT = re.compile(
    r"Wire ?server endpoint:? ?(\d[\d.]+)|WireServer endpoint (\d[\d.]+) read from file"
    r"|Using hardcoded Wireserver endpoint (\d[\d.]+)|endpoint found \[(\d[\d.]+)\]",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Trouble:
    """`ended_by`: what the log says once it is over. `of_extension`: it concerns one extension, and
    another one's is passed over."""

    says: str
    pattern: re.Pattern[str]
    words: str
    ended_by: re.Pattern[str]
    of_extension: bool = False


_GOAL_AGAIN = re.compile(
    r"recovered from previous errors|Process(?:Extensions)?GoalState (?:started|completed)"
    r"|\[HEARTBEAT\] Agent .*UpdateGSErrors: ?0|Fetched new vmSettings|Fetch goal state completed"
    r"|Target handler state: |Fetched a new incarnation|[Ww]ire protocol version:"
)
_RUNS_ON = re.compile(
    r"\[HEARTBEAT\]|is successfully running|Process(?:Extensions)?GoalState completed"
)
_HANDLER_DONE = re.compile(r"\] Command: .*\benable\b|, op=Enable, message=(?!\[Extension)")
_STARTS = re.compile(r"Azure Linux Agent Version|Target handler state: |GoalState started")
_IO = r"timed out|Connection refused|No route to host|Network is unreachable|reset by peer|Errno"


def _trouble(
    says: str, pattern: str, words: str, ended_by: re.Pattern[str], *, extension: bool = False
) -> _Trouble:
    return _Trouble(says, re.compile(pattern, re.DOTALL), words, ended_by, extension)


_TROUBLES = (
    # The first that fits counts, the most particular ones come first.
    _trouble(
        "no-space",
        r"No space left on device|\[Errno 28\]|disk (?:is )?full",
        "A file system that the agent writes to is full.",
        _GOAL_AGAIN,
    ),
    _trouble(
        "extensions-disabled",
        r"Extensions\.Enabled is set to False|sleeping forever; to re-enable"
        r"|Extension handling is disabled|[Ee]xtension processing is disabled",
        "The agent is set not to work on extensions.",
        _STARTS,
    ),
    _trouble(
        "proxy",
        r"Tunnel connection failed|Proxy Authentication Required|\b407\b.{0,40}[Pp]roxy"
        r"|[Pp]roxy.{0,60}(?:" + _IO + ")",
        "The proxy that the agent is set to does not let it through.",
        _GOAL_AGAIN,
    ),
    _trouble(
        "certificate",
        r"Failed to decrypt|Cannot create the Transport certificate|TransportCertificateError"
        r"|Failed to create \S+ and \S+ certificates|Cannot download certificates"
        r"|unable to load (?:certificate|key)|FailedHandlerGuestAgentCertificateNotFound",
        "The agent's transport certificate does not work.",
        _GOAL_AGAIN,
    ),
    _trouble(
        "manifest-invalid",
        r"Malformed manifest file|HandlerManifest\.json not found|Failed to load manifest file",
        "The extension's manifest cannot be read.",
        _HANDLER_DONE,
        extension=True,
    ),
    _trouble(
        "package-corrupt",
        r"Error while unzipping extension package|existing extension package is invalid"
        r"|File is not a zip file|Bad CRC-32",
        "The extension's package cannot be unpacked.",
        _HANDLER_DONE,
        extension=True,
    ),
    _trouble(
        "download-failed",
        r"Failed to download artifacts|ExtensionDownloadError"
        r"|Failed to download the extension package"
        r"|Error downloading extension package|Failed to (?:fetch|retrieve extension) manifest"
        r"|Failed to get ext handler pkgs",
        "The agent cannot fetch the extension's package.",
        _HANDLER_DONE,
        extension=True,
    ),
    _trouble(
        "extension-timeout",
        r"op=\w+, message=\[ExtensionError\] Timeout\(\d+\)|\[ExtensionError\] Timeout\(\d+\)",
        "A command of the extension did not end in its time.",
        _HANDLER_DONE,
        extension=True,
    ),
    _trouble(
        "install-failed",
        r"op=Install, message=\[Extension",
        "The extension's install command failed.",
        _HANDLER_DONE,
        extension=True,
    ),
    _trouble(
        "update-failed",
        r"op=Update, message=\[Extension|ExtensionUpdateError",
        "The extension's update command failed.",
        _HANDLER_DONE,
        extension=True,
    ),
    _trouble(
        "enable-failed",
        r"op=\w+, message=\[Extension",
        "The extension's enable command failed.",
        _HANDLER_DONE,
        extension=True,
    ),
    _trouble(
        "host-refused",
        r"(?:\[HTTP Failed\]|Wireserver Exception).{0,300}\b(?:40[0134]|410|50[0-9])\b"
        r"|ResourceGone|InvalidContainerConfiguration|xml\.parsers\.expat\.ExpatError",
        "The host answers the agent with an error.",
        _GOAL_AGAIN,
    ),
    _trouble(
        "crash",
        r"Daemon ended with exception|op=UnhandledError"
        r"|launched with command .* (?:failed with|exited with return|returned code)"
        r"|Agent did not terminate cleanly|died, restarting|Agent \S+ failed with exception",
        "A process of the agent has crashed.",
        _RUNS_ON,
    ),
    _trouble(
        "no-option-245",
        r"WireProtocol endpoint is None",
        "DHCP does not tell the agent the host's address.",
        _GOAL_AGAIN,
    ),
    _trouble(
        "no-host",
        r"WireServer is not responding|No protocol found|retrieving? the goal state: .*(?:"
        + _IO
        + ")"
        r"|retrieve the goal state are failing|\[HTTP Failed\].{0,300}(?:" + _IO + ")"
        r"|Error fetching (?:the )?goal state|Exception fetching the goal state"
        r"|Waiting for network\."
        r"|Failed to send DHCP request|/proc/net/route contains no routes",
        "The agent does not reach its host.",
        _GOAL_AGAIN,
    ),
)


def waagent_log_facts(papers: Papers) -> Iterator[Fact]:
    paper = text_paper(papers, PATH)
    if paper is None or not paper.text.strip():
        return
    lines = list(log_lines(paper.text))
    if not lines:
        return
    yield from _version(papers, paper, lines)
    yield from _endpoint(papers, paper, lines)
    age = age_seconds(papers, lines[-1].at)
    if age is not None:
        words = f"The agent wrote to its log {age:.0f} s before."
        name = "waagent.log-age-seconds"
        yield observed(papers, paper, name, age, words, raw=lines[-1].raw)
    yield _says(papers, paper, lines)


def _version(papers: Papers, paper: Paper, lines: list[LogLine]) -> Iterator[Fact]:
    for line in reversed(lines):
        if found := _VERSION.search(line.words):
            version = next(filter(None, found.groups()))
            words = f"The Azure Linux agent is version {version}."
            yield observed(
                papers, paper, "waagent.version", version, words, raw=line.raw, at=line.at
            )
            numbers = tuple(int(part) for part in re.findall(r"[0-9]{1,9}", version))
            old = numbers[:3] < OLDEST_THAT_WORKS
            needed = ".".join(map(str, OLDEST_THAT_WORKS))
            words = (
                f"The Azure Linux agent is {'older than' if old else 'not older than'} {needed}."
            )
            yield observed(papers, paper, "waagent.outdated", old, words, raw=line.raw, at=line.at)
            return


def _endpoint(papers: Papers, paper: Paper, lines: list[LogLine]) -> Iterator[Fact]:
    for line in reversed(lines):
        if found := _ENDPOINT.search(line.words):
            address = next(filter(None, found.groups()))
            words = f"The agent takes {address} for its host."
            yield observed(
                papers, paper, "net.host-address", address, words, raw=line.raw, at=line.at
            )
            return


def _says(papers: Papers, paper: Paper, lines: list[LogLine]) -> Fact:
    """The newest trouble; one that something later shows to be over does not count."""
    standing: dict[str, tuple[_Trouble, LogLine]] = {}
    concerns_us = True
    for line in lines:
        if handler := _HANDLER.search(line.words):
            concerns_us = bool(_OF_INTEREST.search(handler[1] or handler[2]))
        for says, (trouble, _) in list(standing.items()):
            if trouble.ended_by.search(line.words) and (concerns_us or not trouble.of_extension):
                del standing[says]
        for trouble in _TROUBLES:
            if _tells(line, trouble) and (concerns_us or not trouble.of_extension):
                if trouble.says != "crash" or not _follows(line, standing):
                    _, before = standing.pop(trouble.says, (trouble, line))
                    standing[trouble.says] = (trouble, _more_telling(before, line))
                break
    if not standing:
        words = "The agent's log names no trouble that lasts."
        return observed(papers, paper, "waagent.says", "nothing", words, raw=lines[-1].raw)
    trouble, line = list(standing.values())[-1]
    return observed(
        papers, paper, "waagent.says", trouble.says, trouble.words, raw=line.raw, at=line.at
    )


def _more_telling(before: LogLine, now: LogLine) -> LogLine:
    """The newer one; but what a request failed with goes before what came of it."""
    failed = "[HTTP Failed]"
    return before if failed in before.words and failed not in now.words else now


def _follows(line: LogLine, standing: dict[str, tuple[_Trouble, LogLine]]) -> bool:
    """Whether a crash is only what another trouble did to the agent, a moment before."""
    others = (before for says, (_, before) in standing.items() if says != "crash")
    return any((line.at - before.at).total_seconds() <= _A_MOMENT_SECONDS for before in others)


_A_MOMENT_SECONDS = 2.0
_QUIET = {
    *("extensions-disabled", "package-corrupt", "download-failed", "no-host", "no-option-245"),
    *("crash", "proxy"),
}
"""Troubles that the agent tells without calling them an error."""


def _tells(line: LogLine, trouble: _Trouble) -> bool:
    loud = line.level in ("WARNING", "ERROR", "CRITICAL")
    return (loud or trouble.says in _QUIET) and bool(trouble.pattern.search(line.words))
