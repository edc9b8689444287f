"""The troubles that waagent.log tells of, and what it says once they are over.

Messages as WALinuxAgent 2.2.0 to 2.16.0 write them (ga/exthandlers.py, ga/update.py,
daemon/main.py, common/protocol/*.py, common/dhcp.py, common/utils/restutil.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from quiesce.diagnosis.reading.log_lines import LogLine


@dataclass(frozen=True, slots=True)
class Trouble:
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
_HANDLER_DONE = re.compile(
    r"\] Command: [^\n]{0,200}\benable\b|, op=Enable, message=(?!\[Extension)"
)
_STARTS = re.compile(r"Azure Linux Agent Version|Target handler state: |GoalState started")
_IO = r"timed out|Connection refused|No route to host|Network is unreachable|reset by peer|Errno"


def _trouble(
    says: str, pattern: str, words: str, ended_by: re.Pattern[str], *, extension: bool = False
) -> Trouble:
    return Trouble(says, re.compile(pattern, re.DOTALL), words, ended_by, extension)


TROUBLES = (
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

_QUIET = {
    *("extensions-disabled", "package-corrupt", "download-failed", "no-host", "no-option-245"),
    *("crash", "proxy"),
}
"""Troubles that the agent tells without calling them an error."""


def tells(line: LogLine, trouble: Trouble) -> bool:
    loud = line.level in ("WARNING", "ERROR", "CRITICAL")
    return (loud or trouble.says in _QUIET) and bool(trouble.pattern.search(line.words))
