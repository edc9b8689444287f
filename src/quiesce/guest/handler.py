"""The commands of the Azure Linux agent's handler contract: install, enable, update, disable and
uninstall. Each may be called again, and may be killed anywhere; the next one repairs.

The agent waits for the command: 300 s for enable and uninstall, 900 s for the others (WALinuxAgent,
ga/exthandlers.py). So `enable` starts a process of its own and returns.
"""

import os
import re
import select
import shutil
from typing import Any, Dict, List, Mapping, Optional, Tuple

from . import attempts
from .detach import detach, leave_control_group
from .failure import Fact, Failure, unexpected
from .folder import RUN_FOLDER, Folder, active_lock, make_run_folder, tasks
from .handler_settings import Environment, Order, newest_sequence, read_environment, read_order
from .hosts import host_address
from .log import Log
from .recover import recover
from .report import ENDED, Report, StatusFile
from .version import VERSION

ACTIONS = ("install", "enable", "update", "disable", "uninstall")
_PATIENCE_SECONDS = 200.0
_NAMED_SECONDS = 30.0
_KEPT_STATUS_FILES = 10
_STATUS_FILE = re.compile(r"([0-9]{1,10})\.status")


def run(action: str, package_folder: str, variables: Mapping[str, str]) -> Dict[str, Any]:
    """:raise Failure:"""
    log = Log("handler")
    log.say("{} (version {})".format(action, VERSION))
    try:
        if action == "install":
            _require_what_it_needs()
        elif action == "enable":
            _enable(package_folder, variables, log)
        elif action == "disable":
            attempts.end(log, _PATIENCE_SECONDS)
        elif action == "uninstall":
            _uninstall(log)
    except Failure as failure:
        log.say("{}: {} [{}]".format(action, failure, failure.code))
        raise
    except OSError as error:
        raise unexpected(error) from error
    finally:
        if action != "uninstall":
            log.flush()
    return {"version": VERSION, "action": action}


def _require_what_it_needs() -> None:
    """:raise Failure: extension.runtime-missing, session.folder-unsafe, extension.not-root"""
    if os.geteuid() != 0:
        raise Failure(
            "extension.not-root",
            "Freezing file systems needs root.",
            [Fact("user id {}".format(os.geteuid()), "guest")],
            "Run the VM's agent as root.",
        )
    if shutil.which("openssl") is None:
        raise Failure(
            "extension.runtime-missing",
            "The guest has no openssl, which the backup extension reads its settings with.",
            [Fact("openssl is not found", "guest", os.environ.get("PATH", ""))],
            "Install the distribution's openssl package.",
        )
    make_run_folder()


def _enable(package_folder: str, variables: Mapping[str, str], log: Log) -> None:
    environment = read_environment(package_folder)
    sequence = newest_sequence(environment, variables)
    if sequence is None:
        return  # the agent has not written any settings yet
    status = StatusFile(environment.status_file(sequence))
    try:
        order = read_order(environment, sequence)
    except Failure as failure:
        _say_that_it_failed(status, sequence, failure)
        raise
    _forget_old_status_files(environment, sequence)
    if order.command == "idle":
        _idle(order, status, log)
    elif _is_new(order, status, log):
        _start(order, status, _direct(environment, variables), log)


def _idle(order: Order, status: StatusFile, log: Log) -> None:
    """No driver lives when this returns. Ending what it left may take as long as its post-script,
    so that gets a process of its own."""
    left = attempts.stop()
    log.flush()
    if not left:
        _say_how_it_went(order, status, None)
    elif detach():
        code = 70  # EX_SOFTWARE; nobody waits for it
        try:
            leave_control_group()
            _say_how_it_went(order, status, _close(left, log))
            code = 0
        finally:
            log.flush()
            os._exit(code)


def _close(left: List[attempts.Left], log: Log) -> Optional[Failure]:
    try:
        attempts.close(left, log, _PATIENCE_SECONDS)
    except Failure as failure:
        log.say("idle: {} [{}]".format(failure, failure.code))
        return failure
    except Exception as error:  # noqa: BLE001 - the server is owed a word whatever happened
        log.say("idle: {!r}".format(error))
        return unexpected(error)
    return None


def _say_how_it_went(order: Order, status: StatusFile, failure: Optional[Failure]) -> None:
    report = Report.begun(order)
    report.document["stage"] = "done"
    if failure is not None:
        report.fail(failure)
    status.write(report)


def _is_new(order: Order, status: StatusFile, log: Log) -> bool:
    """Whether the attempt was never begun. One that was, and whose driver has died (it was killed,
    the guest was reset), is ended here and said to have failed."""
    running = attempts.running()
    runs = running is not None and running.attempt == order.attempt
    report = status.read()
    if report is None or report.attempt != order.attempt:
        if runs:  # the same attempt under a new number, or its status was removed
            status.write(Report.begun(order))
        return not runs
    if not runs and report.stage not in ENDED:
        attempts.end(log, _PATIENCE_SECONDS)  # what it had taken over, and it where /run knows it
        lost = attempts.driver_lost(order.attempt)
        attempts.close([attempts.Left(order.attempt, status.path, lost)], log, _PATIENCE_SECONDS)
    return False


def _start(order: Order, status: StatusFile, direct: Tuple[str, ...], log: Log) -> None:
    """When this returns, the driver can be seen by whoever is to end it."""
    from . import driver  # compiled before the fork, and only when it is needed

    status.write(Report.begun(order))  # from here on the attempt counts as begun, reset or not
    log.say("attempt {}: {}".format(order.attempt, order.command))
    log.flush()
    reader, writer = os.pipe()
    if detach():
        code = 70
        try:
            driver.begin(order, status, direct, lambda: os.close(writer))
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    select.select([reader], [], [], _NAMED_SECONDS)
    os.close(reader)


def _direct(environment: Environment, variables: Mapping[str, str]) -> Tuple[str, ...]:
    named = variables.get("AZURE_GUEST_AGENT_WIRE_PROTOCOL_ADDRESS", "")
    return (named or host_address(environment.agent_folder),)


def _say_that_it_failed(status: StatusFile, sequence: str, failure: Failure) -> None:
    order = Order(sequence, "idle", "", "", 0.0, (), 0.0, "", "")
    report = Report.begun(order)
    report.fail(failure)
    status.write(report)


def _forget_old_status_files(environment: Environment, sequence: str) -> None:
    """The agent never removes them. The newest are kept: they say which attempts were begun."""
    found = []
    for name in os.listdir(environment.status_folder):
        path = os.path.join(environment.status_folder, name)
        if _STATUS_FILE.fullmatch(name) and name != sequence + ".status":
            found.append((os.stat(path).st_mtime, path))
    for _, path in sorted(found)[: -_KEPT_STATUS_FILES or None]:
        os.unlink(path)


def _uninstall(log: Log) -> None:
    """The agent removes the package's folder itself. What the QEMU guest agent was given stays:
    that is its own installation."""
    from .uninstall import remove_traces

    attempts.end(log, _PATIENCE_SECONDS)
    if os.path.isdir(RUN_FOLDER) and not active_lock().take():
        return  # a session of the other agent's runs, and needs them
    for task in tasks():  # left by dead sessions
        recover(Folder(task), log, _PATIENCE_SECONDS / 4)
    remove_traces()
