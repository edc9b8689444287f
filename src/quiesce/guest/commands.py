"""The command line: one JSON object on standard output, status 0, or a failure and status 1.

What only some commands need is imported by them: each import is compiled anew on every start, and
a backup waits for it.
"""

import argparse
import json
import os
import time
from typing import Any, Callable, Dict, List, NoReturn

from . import scripts
from .detach import detach
from .failure import Fact, Failure, defect
from .folder import Folder, active_lock, already_active, make_run_folder, tasks
from .local_session import PROGRAM
from .log import Log
from .plan import Wishes
from .session import Order, Session, decide
from .version import VERSION

_LONGEST_HOLD_SECONDS = 300.0
_BIRTH_SECONDS = 10.0
_OTHER_PATIENCE_SECONDS = 10.0
_MOST_PAPERS_CHARS = 4 << 20


def main(arguments: List[str]) -> int:
    try:
        options = _parser().parse_args(arguments)
        run: Callable[[argparse.Namespace], Dict[str, Any]] = options.run
        answer, status = run(options), 0
    except Failure as failure:
        answer, status = {"failure": failure.as_json()}, 1
    except Exception as error:  # noqa: BLE001 - the host is owed JSON whatever happened
        answer, status = {"failure": defect(error).as_json()}, 1
    print(json.dumps(answer), flush=True)
    return status


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Failure("extension.usage", "The command is not understood: {}.".format(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="quiesce-extension", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.required = True

    def command(name: str, run: Callable[[argparse.Namespace], Dict[str, Any]]) -> Any:
        one = commands.add_parser(name, help=run.__doc__)
        one.set_defaults(run=run)
        return one

    command("version", _version)
    for one in (command("preflight", _preflight), command("session", _session)):
        one.add_argument("--skip", action="append", default=[], metavar="MOUNT")
        one.add_argument("--only", action="append", metavar="MOUNT")
    one.add_argument("--task", required=True)
    one.add_argument("--hold", required=True, type=float, metavar="SECONDS")
    one.add_argument("--wait", default=120.0, type=float, metavar="SECONDS")
    command("recover", _recover).add_argument("--task", required=True)
    command("examine", _examine)
    mend = command("mend", _mend)
    mend.add_argument("action")
    mend.add_argument("word", nargs="?", default="")
    command("uninstall", _uninstall)
    command("handler", _handler).add_argument("action")
    command("probe", _probe).add_argument("--settings", required=True, metavar="FILE|-")
    return parser


def _version(options: argparse.Namespace) -> Dict[str, Any]:
    """this extension, its Python, the guest's operating system"""
    import platform

    return {"version": VERSION, "python": platform.python_version(), "os": _operating_system()}


def _operating_system() -> str:
    import platform

    try:
        with open("/etc/os-release", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("PRETTY_NAME="):
                    return line.partition("=")[2].strip().strip("\"'")
    except OSError:
        return platform.platform()  # minimal systems have no such file
    return platform.platform()


def _preflight(options: argparse.Namespace) -> Dict[str, Any]:
    """what would be frozen or skipped, and why; changes nothing"""
    failure = None
    configured = scripts.Scripts()
    try:
        configured = scripts.read_config()
        for one in (configured.pre, configured.post):
            if one is not None:
                scripts.check(one)
    except Failure as found:
        failure = found.as_json()
    decisions, warnings = decide(_wishes(options), configured)
    return {
        "version": VERSION,
        "mounts": [one.as_json() for one in decisions],
        "scripts": {"configured": configured.configured, "failure": failure},
        "warnings": warnings,
    }


def _wishes(options: argparse.Namespace) -> Wishes:
    only = None if options.only is None else tuple(options.only)
    return Wishes(skip=tuple(options.skip), only=only)


def _session(options: argparse.Namespace) -> Dict[str, Any]:
    """begin a session; it detaches"""
    _require_root()
    if not 0 < options.hold <= _LONGEST_HOLD_SECONDS or not 0 < options.wait <= 86400:
        raise Failure(
            "extension.usage",
            "The hold must be above 0 and at most {:g} s, the wait at most a day.".format(
                _LONGEST_HOLD_SECONDS
            ),
        )
    folder = Folder(options.task)
    make_run_folder()
    log = Log(options.task)
    _end_other_attempt(options.task, log)
    active = active_lock()
    if not active.take():
        raise already_active()
    left = tasks()
    if left:
        from .recover import recover
    for task in left:  # no session is active, so these were left by dead ones
        recover(Folder(task), log)
    folder.make()
    order = Order(options.hold, options.wait, _wishes(options))
    if detach():
        code = 70  # EX_SOFTWARE; nobody waits for it
        try:
            Session(folder, order, log).run()
            code = 0
        finally:
            os._exit(code)
    _await_birth(folder)
    return {"state_file": folder.state, "control": folder.control}


def _end_other_attempt(task: str, log: Log) -> None:
    """The server that asks for a session here has given up what it asked of the other agent. A
    session of the attempt's own driver bears the attempt's name."""
    from . import attempts

    noted = attempts.noted()
    if noted is not None and noted.attempt != task:
        attempts.end(log, _OTHER_PATIENCE_SECONDS)


def _await_birth(folder: Folder) -> None:
    """What is printed exists when it is printed. :raise Failure: session.lost"""
    until = time.monotonic() + _BIRTH_SECONDS
    while not os.path.exists(folder.state):
        if time.monotonic() >= until:
            raise Failure(
                "session.lost",
                "The session's process in the guest did not come to life.",
                [Fact("no {} after {:g} s".format(folder.state, _BIRTH_SECONDS), "guest")],
                "Look at the guest's load and free memory, then back up again.",
                retryable=True,
            )
        time.sleep(0.01)


def _require_root() -> None:
    if os.geteuid() != 0:
        raise Failure(
            "extension.not-root",
            "Freezing file systems needs root.",
            [Fact("user id {}".format(os.geteuid()), "guest")],
            "Run the VM's agent as root.",
        )


def _recover(options: argparse.Namespace) -> Dict[str, Any]:
    """end a lost session: thaw, post-script, clean up"""
    from .recover import recover

    return recover(Folder(options.task), Log(options.task))


def _examine(options: argparse.Namespace) -> Dict[str, Any]:
    """what a diagnosis wants to read, packed"""
    from . import papers

    return {"papers": papers.collect().packed(_MOST_PAPERS_CHARS)}


def _mend(options: argparse.Namespace) -> Dict[str, Any]:
    """mend one thing in the guest"""
    from . import mending

    return {"mended": mending.mend(options.action, options.word)}


def _uninstall(options: argparse.Namespace) -> Dict[str, Any]:
    """end sessions, remove everything of ours"""
    from .uninstall import uninstall

    return {"removed": uninstall()}


def _handler(options: argparse.Namespace) -> Dict[str, Any]:
    """a command of the Azure Linux agent: install, enable, update, disable, uninstall"""
    from . import handler

    if options.action not in handler.ACTIONS:
        words = "The handler's commands are {}.".format(", ".join(handler.ACTIONS))
        raise Failure("extension.usage", words)
    return handler.run(options.action, PROGRAM, os.environ)


def _probe(options: argparse.Namespace) -> Dict[str, Any]:
    """the way to the storage endpoint, hop by hop"""
    from . import probe

    return {"hops": probe.run(probe.read_question(options.settings))}
