"""The command `quiesce`: a client of the server's API, and the way to start the server.

Each command group is a module of its own that is imported only when it is asked for, so that
`quiesce --help`, `quiesce explain` and shell completion answer at once.
"""

from __future__ import annotations

import difflib
import inspect
import os
import sys
from collections.abc import Sequence
from dataclasses import replace

from cyclopts import App, CycloptsError, Group, Parameter

import quiesce
from quiesce.cli.outlasting import outlasting
from quiesce.model.failure import ExitCode, Failure, FailureReport, InputFailure, report_of

_WORK = Group("Protect and restore", sort_key=1)
_LOOK = Group("Look", sort_key=2)
_SETUP = Group("Set up", sort_key=3)

_OPTIONS = Group("Options", sort_key=4)

_COMMANDS: tuple[tuple[str, str, Group, str], ...] = (
    ("vm", "vm:app", _SETUP, "VMs that Quiesce knows: add, set, list, show, remove."),
    ("policy", "policy:app", _SETUP, "Policies: when VMs are backed up and how long points stay."),
    ("server", "server:server", _SETUP, "Run the server."),
    ("completion", "completion:completion", _SETUP, "Completion for bash, zsh or fish."),
    ("protect", "protect:protect", _WORK, "Put a VM under a policy."),
    ("unprotect", "protect:unprotect", _WORK, "Stop protecting a VM; its points stay."),
    ("backup", "backup:backup", _WORK, "Back a VM up now."),
    ("restore", "restore:restore", _WORK, "Write disks of a recovery point to files."),
    ("job", "job:app", _LOOK, "Jobs: list, show, cancel."),
    ("point", "point:app", _LOOK, "Recovery points: list, show, delete."),
    ("vault", "vault:app", _LOOK, "The vault: status, checks, keys, copies, clearing up."),
    (
        "extension",
        "extension:app",
        _LOOK,
        "The backup extension in a VM: list, uninstall, reinstall.",
    ),
    ("network", "network:app", _LOOK, "The guest's way to the storage endpoint: test, allowlist."),
    ("doctor", "doctor:doctor", _LOOK, "What would make a backup fail, with the proof."),
    ("logs", "guest_logs:app", _LOOK, "A guest's logs in one archive, without secrets: collect."),
    ("explain", "explain:explain", _LOOK, "What a failure code means and what mends it."),
)

_NAMES = tuple(name for name, *_ in _COMMANDS)

_HELP = frozenset(("--help", "-h"))

_OVERVIEW = """\
Quiesce {version} – backs up running VMs, consistently, into a vault of its own.

Three commands to start with:
  quiesce server                              run the server (in a terminal of its own)
  quiesce vm add web1 --qmp /run/web1/qmp.sock --qga /run/web1/qga.sock
  quiesce backup web1 --wait                  and there is a recovery point

Then: quiesce policy create nightly --at 02:30, quiesce protect web1 --policy nightly.
All commands: quiesce --help. What went wrong: quiesce explain CODE."""


def build() -> App:
    """The command tree; groups are names until they are used."""
    app = App(
        name="quiesce",
        version=f"quiesce {quiesce.__version__}",
        help="Self-hosted VM backup.",
        help_epilogue="Exit codes are explained in docs/reference/exit-codes.md.",
        help_format="plaintext",
        # A flag is said or not said; only waiting has a --no-… form where it is the default.
        default_parameter=Parameter(negative=()),
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
    )
    for flag in ("--help", "--version"):
        app[flag].group = (_OPTIONS,)
    for name, target, group, text in _COMMANDS:
        app.command(f"quiesce.cli.{target}", name=name, help=text, group=group)

    @app.default
    def overview() -> None:
        """What to do first."""
        print(_OVERVIEW.format(version=quiesce.__version__))

    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and end the process with its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    sys.stdout, sys.stderr = (outlasting(stream) for stream in (sys.stdout, sys.stderr))
    raise SystemExit(run(words))


def run(words: Sequence[str]) -> int:
    """Run one command; every failure is shown and becomes its exit code."""
    # Looked for here and not among the parsed options: a command line that cannot be parsed
    # answers a program in JSON too.
    as_json = "--json" in words
    try:
        app = build()
        if _HELP.intersection(words):
            _tell_all(app, words)
        result = app(words)
    except Failure as failure:
        report = failure.report()
        if report.code == "input.usage" and not report.remedy:
            report = replace(report, remedy=_see_help(words))
        return _show(report, failure.exit_code, as_json=as_json)
    except CycloptsError as wrong:
        usage = InputFailure(
            "input.usage",
            _unknown_command(words) or _first_paragraph(str(wrong)),
            remedy=_see_help(words),
        )
        return _show(usage.report(), usage.exit_code, as_json=as_json)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as defect:
        if os.environ.get("QUIESCE_TRACEBACK"):
            raise
        return _show(report_of(defect), ExitCode.INTERNAL, as_json=as_json)
    return int(result) if isinstance(result, int) else ExitCode.OK


def _tell_all(app: App, words: Sequence[str]) -> None:
    """Have the command that is asked about say all that its function says of itself, and not only
    the line that stands in lists. The terminal breaks its lines."""
    *_, asked = app.parse_commands([word for word in words if word not in _HELP])[1]
    told = inspect.getdoc(asked.default_command) if asked.default_command else None
    if told and asked is not app:
        asked.help = "\n\n".join(" ".join(part.split()) for part in told.split("\n\n"))


def _show(report: FailureReport, code: ExitCode, *, as_json: bool) -> int:
    from quiesce.cli import screen

    if as_json:
        screen.print_json(screen.failure_json(report))
    else:
        screen.show_failure(report)
    return code


def _see_help(words: Sequence[str]) -> str:
    return f"See `quiesce {_command_of(words)}--help`."


def _command_of(words: Sequence[str]) -> str:
    """The command that a command line means, with a space behind it; empty if there is none."""
    if not words or words[0] not in _NAMES:
        return ""
    chain, *_ = build().parse_commands(list(words))
    return "".join(f"{word} " for word in chain)


def _unknown_command(words: Sequence[str]) -> str:
    """What to say when the first word is no command; empty when it is one."""
    if not words or words[0] in _NAMES or words[0].startswith("-"):
        return ""
    near = difflib.get_close_matches(words[0], _NAMES, n=1)
    return f"There is no command {words[0]!r}." + (f" Do you mean {near[0]!r}?" if near else "")


def _first_paragraph(text: str) -> str:
    return " ".join(text.strip().splitlines()) or "The command line is not understood."


if __name__ == "__main__":
    main()
