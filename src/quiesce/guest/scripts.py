"""The operator's pre- and post-script: configuration, trust, one run.

The format is the one that VM backup users have: /etc/azure/VMSnapshotScriptPluginConfig.json,
described in learn.microsoft.com, "Application-consistent backup of Azure Linux VMs". Scripts run
as root, so the file and the scripts must belong to root and be closed to everybody else.
`ScriptsExecutionPollTimeSeconds` is understood and not needed: the end of a script is awaited.
"""

import codecs
import json
import os
import select
import signal
import stat
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, NamedTuple, Optional, Tuple

from .failure import Fact, Failure

if TYPE_CHECKING:
    import subprocess

CONFIG_PATH = "/etc/azure/VMSnapshotScriptPluginConfig.json"
LONGEST_TIMEOUT_SECONDS = 1800
_DEFAULT_TIMEOUT_SECONDS = 30
_STDERR_TAIL_BYTES = 4096
_GRACE_SECONDS = 2.0
_POLL_SECONDS = 0.02


class Script(NamedTuple):
    path: str
    arguments: Tuple[str, ...] = ()
    retries: int = 0
    timeout_seconds: float = _DEFAULT_TIMEOUT_SECONDS


class Scripts(NamedTuple):
    """What the operator configured. `pre` and `post` are None when no path is given."""

    pre: Optional[Script] = None
    post: Optional[Script] = None
    continue_on_failure: bool = True
    freeze: bool = True

    @property
    def configured(self) -> bool:
        return self.pre is not None or self.post is not None


class Run(NamedTuple):
    """One script that ran. `exit_code` is None when it never came to its own end; `code` is the
    failure's when it did not end with 0."""

    path: str
    exit_code: Optional[int]
    seconds: float
    stderr: str
    code: str = ""


def read_config(path: str = CONFIG_PATH) -> Scripts:
    """The configuration, or "nothing configured" when there is no such file.

    :raise Failure: script.permissions when others could have written it, script.config-invalid
        with the line when it is not understood
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return Scripts()
    except OSError as error:
        raise _invalid(path, 0, "it cannot be opened: {}".format(error)) from error
    with os.fdopen(fd, "rb") as file:
        _require_closed(path, os.fstat(fd), "chown root:root '{0}' && chmod 600 '{0}'")
        raw = file.read(1 << 20)
    return parse_config(raw, path)


def parse_config(raw: bytes, path: str = CONFIG_PATH) -> Scripts:
    """:raise Failure: script.config-invalid, with the line and what was expected there"""
    text = _decode(raw, path)
    try:
        found = json.loads(text)
    except ValueError as error:
        line = getattr(error, "lineno", 0)
        raise _invalid(path, line, "it is not JSON: {}".format(error)) from error
    except RecursionError as error:
        raise _invalid(path, 1, "it is nested too deeply") from error
    if not isinstance(found, dict):
        raise _invalid(path, 1, "expected one object in braces")
    fields = _Fields(found, text, path)
    timeout = fields.number("timeoutInSeconds", _DEFAULT_TIMEOUT_SECONDS, LONGEST_TIMEOUT_SECONDS)
    fields.number("ScriptsExecutionPollTimeSeconds", 1, 3600)
    return Scripts(
        pre=fields.script("pre", timeout),
        post=fields.script("post", timeout),
        continue_on_failure=fields.flag("continueBackupOnFailure"),
        freeze=fields.flag("fsFreezeEnabled"),
    )


def _decode(raw: bytes, path: str) -> str:
    for mark, name in (
        (codecs.BOM_UTF8, "UTF-8 with a byte order mark"),
        (codecs.BOM_UTF16_LE, "UTF-16"),
        (codecs.BOM_UTF16_BE, "UTF-16"),
    ):
        if raw.startswith(mark):
            raise _invalid(path, 1, "it is {}, expected plain UTF-8".format(name), raw[:16])
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _invalid(path, line, "it is not UTF-8", raw[error.start :][:16]) from error


class _Fields:
    """Typed access to the object, with the line of a wrong value."""

    def __init__(self, found: Dict[str, Any], text: str, path: str) -> None:
        self._found = found
        self._text = text
        self._path = path

    def script(self, kind: str, timeout: int) -> Optional[Script]:
        location = self._found.get(kind + "ScriptLocation", "")
        if not isinstance(location, str) or "\0" in location:
            raise self._wrong(kind + "ScriptLocation", "a path")
        if not location.strip():
            return None
        if not location.startswith("/"):
            raise self._wrong(kind + "ScriptLocation", "an absolute path")
        params = self._found.get(kind + "ScriptParams") or []
        texts = isinstance(params, list) and all(
            isinstance(one, str) and "\0" not in one for one in params
        )
        if not texts:
            raise self._wrong(kind + "ScriptParams", "a list of texts")
        retries = self.number(kind + "ScriptNoOfRetries", 0, 100)
        # The format's own template holds "" where no parameter is meant.
        arguments = tuple(one for one in params if one)
        return Script(location, arguments, retries, timeout)

    def number(self, key: str, default: int, most: int) -> int:
        value = self._found.get(key, default)
        if isinstance(value, str) and value.isdigit():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise self._wrong(key, "a whole number from 0 to {}".format(most))
        return value

    def flag(self, key: str) -> bool:
        value = self._found.get(key, True)
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def _wrong(self, key: str, expected: str) -> Failure:
        at = self._text.find('"{}"'.format(key))
        line = self._text.count("\n", 0, at) + 1
        return _invalid(self._path, line, "{} must be {}".format(key, expected))


def _invalid(path: str, line: int, why: str, raw: bytes = b"") -> Failure:
    where = "{} line {}".format(path, line) if line else path
    return Failure(
        "script.config-invalid",
        "The script configuration {} is not valid: {}.".format(where, why),
        [Fact("{}: {}".format(where, why), path, repr(raw) if raw else "")],
        "Correct the file. To turn it into plain UTF-8: "
        "iconv -f UTF-16 -t UTF-8, or sed -i '1s/^\\xEF\\xBB\\xBF//'; "
        "to check it: python3 -m json.tool '{}'".format(path),
    )


def _require_closed(path: str, status: os.stat_result, remedy: str) -> None:
    """:raise Failure: script.permissions, when anybody but root could have written or read it"""
    if stat.S_ISREG(status.st_mode) and status.st_uid == 0 and not status.st_mode & 0o077:
        return
    shown = "owner {}, mode {:o}".format(status.st_uid, stat.S_IMODE(status.st_mode))
    raise Failure(
        "script.permissions",
        "{} must be a file of root's that nobody else may touch ({}).".format(path, shown),
        [Fact("{} has {}".format(path, shown), "guest")],
        remedy.format(path),
    )


def check(script: Script) -> None:
    """:raise Failure: script.not-found or script.permissions"""
    try:
        status = os.stat(script.path)
    except OSError as error:
        raise Failure(
            "script.not-found",
            "The script {} cannot be found.".format(script.path),
            [Fact("stat {}".format(script.path), "guest", str(error))],
            "Put the script there, or correct its location in {}.".format(CONFIG_PATH),
        ) from error
    remedy = "chown root:root '{0}' && chmod 700 '{0}'"
    _require_closed(script.path, status, remedy)
    if not status.st_mode & stat.S_IXUSR:
        raise Failure(
            "script.permissions",
            "{} is not executable.".format(script.path),
            [Fact("mode {:o}".format(stat.S_IMODE(status.st_mode)), script.path)],
            remedy.format(script.path),
        )


def run(
    script: Script, kind: str, born: Optional[Callable[[], None]] = None
) -> Tuple[Run, Optional[Failure]]:
    """Run the script, again after a failure as often as configured. Never raises: the run that
    was last is returned, with the failure when it did not end with 0. `kind`: "pre" or "post".

    `born` is called in each new process before it becomes the script. That process is a fork of
    this one, which must have one thread only.
    """
    began = time.monotonic()
    try:
        check(script)
    except Failure as failure:
        return Run(script.path, None, 0.0, failure.message, failure.code), failure
    last, failed = _run_once(script, kind, born)
    for _ in range(script.retries):
        if failed is None:
            break
        last, failed = _run_once(script, kind, born)
    code = failed.code if failed is not None else ""
    return last._replace(seconds=round(time.monotonic() - began, 3), code=code), failed


def _run_once(
    script: Script, kind: str, born: Optional[Callable[[], None]]
) -> Tuple[Run, Optional[Failure]]:
    import subprocess  # few guests have scripts, and every backup would wait for the import

    began = time.monotonic()
    try:
        process = subprocess.Popen(
            [script.path] + list(script.arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
            preexec_fn=born,
        )
    except (OSError, subprocess.SubprocessError) as error:
        ran = Run(script.path, None, 0.0, str(error))
        return ran, _failed(script, kind, "it cannot be started", ran)
    tail, in_time = _follow(process, began + script.timeout_seconds)
    if not in_time:
        end_group(process.pid, lambda: process.poll() is not None)
        process.wait()
    code = process.wait() if in_time else None
    stderr = tail.decode("utf-8", "replace")
    own_end = code is not None and code >= 0
    ran = Run(script.path, code if own_end else None, 0.0, stderr)
    if not in_time:
        return ran, Failure(
            "script.timeout",
            "The {}-script {} did not end within {:g} s.".format(
                kind, script.path, script.timeout_seconds
            ),
            [Fact("killed with its process group", script.path, stderr)],
            "Make the script faster, or raise timeoutInSeconds (at most {}) in {}.".format(
                LONGEST_TIMEOUT_SECONDS, CONFIG_PATH
            ),
        )
    if code:
        how = "ended with {}".format(code) if code > 0 else "was killed by signal {}".format(-code)
        return ran, _failed(script, kind, how, ran)
    return ran, None


def _failed(script: Script, kind: str, how: str, ran: Run) -> Failure:
    return Failure(
        "script.pre-failed" if kind == "pre" else "script.post-failed",
        "The {}-script {} {}.".format(kind, script.path, how),
        [Fact("{} {}".format(script.path, how), "guest", ran.stderr)],
        "Run it by hand as root and mend what it reports: {}".format(
            " ".join([script.path] + list(script.arguments))
        ),
    )


def _follow(process: "subprocess.Popen[bytes]", deadline: float) -> Tuple[bytes, bool]:
    """The end of standard error, and whether the script ended before `deadline`. A child that
    the script leaves behind may hold the pipe open; only the script itself is waited for."""
    assert process.stderr is not None
    tail = b""
    with process.stderr as pipe:
        os.set_blocking(pipe.fileno(), False)
        more = True
        while True:
            ended = process.poll() is not None
            late = time.monotonic() >= deadline
            pause = 0.0 if ended else min(0.1, max(0.0, deadline - time.monotonic()))
            chunk = b""
            if select.select([pipe] if more else [], [], [], pause)[0]:
                chunk = os.read(pipe.fileno(), 65536)
                more = bool(chunk)
            tail = (tail + chunk)[-_STDERR_TAIL_BYTES:]
            if late or (ended and not chunk):
                return tail, ended


def end_group(leader: int, ended: Callable[[], bool]) -> None:
    """End a script and all that it started and did not detach, by force after 2 s. Returns when
    the script has `ended`, or does not even obey the kernel."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(leader, number)
        except ProcessLookupError:
            return
        until = time.monotonic() + _GRACE_SECONDS
        while not ended() and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)


def end_running(running: Callable[[], int]) -> bool:
    """End the script whose process id `running` tells, 0 for none; whether there was one."""
    leader = running()
    if leader:
        end_group(leader, lambda: running() != leader)
    return leader != 0
