"""The extension's file inside the guest: put there, kept current, run and removed through QGA."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from quiesce.agent.framing import printable, quoted
from quiesce.agent.link import CommandRefused
from quiesce.agent.package import ExtensionPackage
from quiesce.agent.qga import ExecResult, QemuGuestAgent
from quiesce.agent.session_state import failure_of, json_object
from quiesce.model.failure import AgentFailure, Evidence, ExtensionFailure, Failure

FOLDER = "/var/lib/quiesce"
RUN_FOLDER = "/run/quiesce"
_LOG_FOLDER = "/var/log/quiesce"
_INTERPRETERS = ("python3", "/usr/libexec/platform-python", "python")
"""The second one is RHEL 8's own, present when no python3 package is installed."""
_FLAGS = ("-I", "-S", "-B")
"""Isolated, no site packages, nothing written: the guest's Python set-up cannot break us."""
_INSTALL_SECONDS = 60.0
_MOST_NAMES = 200
"""Of each kind that are believed; an honest guest has one session and one or two packages."""

_INSTALL = r"""
set -eu
umask 077
folder=$1 name=$2 digest=$3
part=$folder/.$name.$$
trap 'rm -f -- "$part"' EXIT
mkdir -p -m 0700 -- "$folder"
cat > "$part"
printf '%s  %s\n' "$digest" "$part" | sha256sum -c - >&2
mv -f -- "$part" "$folder/$name"
for old in "$folder"/quiesce-extension-*.zip; do
    [ "$old" = "$folder/$name" ] || rm -f -- "$old"
done
"""
_LIST = r"""
for zip in "$1"/quiesce-extension-*.zip; do [ -f "$zip" ] && echo "zip ${zip##*/}"; done
for control in "$2"/*/control; do
    [ -p "$control" ] && { task=${control%/*}; echo "task ${task##*/}"; }
done
exit 0
"""
# Other things may lie in these folders, should the guest run a Quiesce server of its own: each
# file of ours goes by its name, and the folders only when they are empty then.
_SWEEP = r"""
rm -f -- "$1"/quiesce-extension-*.zip "$1"/.quiesce-extension-*.zip.* "$2"/active
for control in "$2"/*/control; do
    [ -p "$control" ] || continue
    task=${control%/*}
    for name in state.json state.json.new session watchdog ledger pre-script post-script; do
        rm -f -- "$task/$name"
    done
    rm -f -- "$control"
    rmdir -- "$task" 2>/dev/null
done
rm -f -- "$3"/extension.log "$3"/extension.log.1
rmdir -- "$1" "$2" "$3" 2>/dev/null
exit 0
"""


@dataclass(frozen=True, slots=True)
class Found:
    """What of ours lies in the guest: the extension's file names and its sessions' task ids."""

    packages: tuple[str, ...]
    tasks: tuple[str, ...]


class Installation:
    """The extension in one guest. Not thread-safe; raises what `QemuGuestAgent` does, and:

    :raise AgentFailure: agent.disk-full
    :raise ExtensionFailure: extension.install-failed, .runtime-missing, .package-corrupt, .crashed
    """

    def __init__(self, agent: QemuGuestAgent, package: ExtensionPackage) -> None:
        self._agent = agent
        self.package = package
        self._python = ""

    @property
    def path(self) -> str:
        return posixpath.join(FOLDER, self.package.file_name)

    def is_current(self) -> bool:
        """Whether the offered version is there, by name and size; three quick calls.

        The name carries the digest and is given only to a file whose digest was verified.
        """
        try:
            return self._agent.file_size(self.path) == len(self.package.content)
        except CommandRefused:
            return False

    def put(self) -> None:
        """Install or replace the extension, in one call; older versions are removed after it."""
        result = self._shell(
            _INSTALL,
            FOLDER,
            self.package.file_name,
            self.package.digest,
            input=self.package.content,
        )
        if result.succeeded:
            return
        evidence = result.evidence("the install script")
        if b"No space left" in result.stderr:
            raise AgentFailure(
                "agent.disk-full",
                f"The guest has no space left for the backup extension in {FOLDER}.",
                evidence=[evidence],
            )
        raise ExtensionFailure(
            "extension.install-failed",
            f"The backup extension could not be written to {FOLDER} in the guest.",
            evidence=[evidence],
            retryable=True,
        )

    def ensure(self) -> bool:
        """Make the offered version the installed one; whether anything had to be done."""
        if self.is_current():
            return False
        self.put()
        return True

    def run(
        self,
        *arguments: str,
        input: bytes | None = None,  # noqa: A002 - as in subprocess.run
        seconds: float,
    ) -> dict[str, object]:
        """The JSON object that an extension command prints.

        A package that does not even start is written anew, once.

        :raise Failure: the failure that the command reported, of its own family
        """
        result = self._start(self.path, arguments, seconds, input)
        if not result.succeeded and not _reported(result):
            self.put()
            result = self._start(self.path, arguments, seconds, input)
        return _output(result, arguments[0])

    def run_found(self, name: str, *arguments: str, seconds: float) -> dict[str, object]:
        """As `run`, with whichever version is there; nothing is installed."""
        result = self._start(posixpath.join(FOLDER, name), arguments, seconds)
        return _output(result, arguments[0])

    def found(self) -> Found:
        result = self._shell(_LIST, FOLDER, RUN_FOLDER)
        lines = result.stdout.decode("utf-8", "replace").splitlines()
        entries = [line.partition(" ") for line in lines]
        return Found(
            packages=_names(entries, "zip"),
            tasks=_names(entries, "task"),
        )

    def remove(self, seconds: float) -> None:
        """End the guest's sessions and remove every file of ours.

        :raise ExtensionFailure: extension.uninstall-failed when something is still there
        """
        found = self.found()
        if found.packages:
            with contextlib.suppress(ExtensionFailure):  # the sweep does not need its help
                self.run_found(found.packages[-1], "uninstall", seconds=seconds)
        self._shell(_SWEEP, FOLDER, RUN_FOLDER, _LOG_FOLDER)
        left = self.found()
        if left.packages or left.tasks:
            raise ExtensionFailure(
                "extension.uninstall-failed",
                "Files of the backup extension could not be removed from the guest.",
                evidence=[
                    Evidence(
                        fact="still there",
                        source="guest",
                        raw=", ".join([*left.packages, *left.tasks]),
                    )
                ],
            )

    def forget_session(self, task_id: str) -> None:
        """Remove the files of a session that has ended."""
        folder = posixpath.join(RUN_FOLDER, task_id)
        self._agent.execute("rm", ["-rf", "--", folder], seconds=_INSTALL_SECONDS)

    def _shell(self, script: str, *arguments: str, input: bytes | None = None) -> ExecResult:  # noqa: A002
        return self._agent.execute(
            "sh", ["-c", script, "quiesce", *arguments], input=input, seconds=_INSTALL_SECONDS
        )

    def _start(
        self,
        path: str,
        arguments: Sequence[str],
        seconds: float,
        input: bytes | None = None,  # noqa: A002
    ) -> ExecResult:
        refusals: list[Evidence] = []
        candidates = (self._python,) if self._python else _INTERPRETERS
        for python in candidates:
            try:
                result = self._agent.execute(
                    python, [*_FLAGS, path, *arguments], input=input, seconds=seconds
                )
            except CommandRefused as refusal:  # no such program
                refusals.extend(refusal.evidence)
                self._python = ""
                continue
            self._python = python
            return result
        raise ExtensionFailure(
            "extension.runtime-missing",
            "The guest has no Python that the backup extension could run with.",
            evidence=refusals,
            remedy="Install the distribution's python3 package, 3.6 or newer, in the guest.",
        )


def _names(entries: Sequence[tuple[str, str, str]], wanted: str) -> tuple[str, ...]:
    found = [name for kind, _, name in entries if kind == wanted]
    return tuple(printable(name) for name in found[:_MOST_NAMES])


def _reported(result: ExecResult) -> bool:
    """Whether the extension itself spoke, be it of a failure."""
    try:
        json_object(result.stdout, "standard output")
    except ExtensionFailure:
        return False
    return True


def _output(result: ExecResult, command: str) -> dict[str, object]:
    if not result.succeeded and not _reported(result):
        raise _unstarted(result, command)
    document = json_object(result.stdout, f"output of {command}")
    if not result.succeeded:
        failure: Failure = failure_of(document.get("failure", document))
        raise failure
    return document


def _unstarted(result: ExecResult, command: str) -> ExtensionFailure:
    evidence = [
        result.evidence(f"the extension's {command}"),
        Evidence(fact="its output", source="guest-exec", raw=quoted(result.stdout)),
    ]
    if b"SyntaxError" in result.stderr or b"Unknown option" in result.stderr:
        return ExtensionFailure(
            "extension.runtime-missing",
            "The guest's Python is too old for the backup extension.",
            evidence=evidence,
            remedy="Install the distribution's python3 package, 3.6 or newer, in the guest.",
        )
    if any(word in result.stderr for word in (b"zipimport", b"can't open file", b"__main__")):
        return ExtensionFailure(
            "extension.package-corrupt",
            "The backup extension's file in the guest cannot be read, though just written anew.",
            evidence=evidence,
        )
    return ExtensionFailure(
        "extension.crashed",
        f"The backup extension's {command} ended without saying why.",
        evidence=evidence,
        retryable=True,
    )
