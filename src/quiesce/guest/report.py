"""What the extension tells the server about one attempt, and the agent's status file around it.

The report is one JSON object of at most 64 KiB (docs/explanation/guest-route.md). It travels as the
content of the report blob and, as a string, in `status/<seq>.status`:

    [{"version": 1.0, "timestampUTC": …,
      "status": {"name", "operation", "status", "code", "formattedMessage": {"lang", "message"},
                 "substatus": [{"name": "quiesce", "status", "code", "formattedMessage": {…}}]}}]

The agent cuts substatus texts to 10 KiB once the file has more than 128 KiB, so it never has.
Source: WALinuxAgent, ga/exthandlers.py, parse_ext_status and collect_ext_status.
"""

import json
import os
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional

from .failure import Failure
from .handler_settings import NAME, Order
from .version import VERSION

if TYPE_CHECKING:  # compiled anew on every start, and few need it
    from .papers import Collection

LARGEST_REPORT_BYTES = 64 * 1024
_LARGEST_EXAMINATION_BYTES = 120 * 1024
_REST_BYTES = 4 * 1024
"""Of a report, without its papers. An examination has neither session nor hops."""
_LARGEST_FILE_BYTES = 120 * 1024
_MOST_ENTRIES = 50
ENDED = ("done", "failed")


class Report:
    """One attempt as it stands. `document` has the fields of the contract, without the papers."""

    def __init__(self, document: Dict[str, Any]) -> None:
        self.document = document
        self.papers: "Optional[Collection]" = None

    @classmethod
    def begun(cls, order: Order) -> "Report":
        return cls(
            {
                "attempt": order.attempt,
                "task": order.task,
                "command": order.command,
                "version": VERSION,
                "stage": "preparing",
                "taken_at": None,
                "session": None,
                "hops": [],
                "failure": None,
            }
        )

    @property
    def attempt(self) -> str:
        return str(self.document.get("attempt") or "")

    @property
    def command(self) -> str:
        return str(self.document.get("command") or "")

    @property
    def stage(self) -> str:
        return str(self.document.get("stage") or "")

    @property
    def failure(self) -> Optional[Dict[str, Any]]:
        found = self.document.get("failure")
        return found if isinstance(found, dict) else None

    def fail(self, failure: Failure) -> None:
        self.document.update(stage="failed", failure=failure.as_json())

    def as_blob(self) -> bytes:
        """The content of the report blob, with all of the papers that it can take."""
        if self.papers is None:
            return _fitting(self.document, _fits_alone).encode("ascii")
        packed = self.papers.packed(_LARGEST_EXAMINATION_BYTES - _REST_BYTES)
        return json.dumps(dict(self.document, papers=packed)).encode("ascii")

    def shorten_papers(self) -> None:
        """For a report that has only the status file to travel by."""
        if self.papers is not None:
            self.document["papers"] = self.papers.packed(LARGEST_REPORT_BYTES - _REST_BYTES)


class StatusFile:
    """`status/<seq>.status`. Replaced as a whole, so that the agent never reads half of one."""

    def __init__(self, path: str) -> None:
        self.path = path

    def write(self, report: Report) -> None:
        """On the disk when this returns. :raise OSError:"""
        state = {"done": "success", "failed": "error"}.get(report.stage, "transitioning")
        text = self._text(report, state)
        new = self.path + ".new"
        with open(new, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(new, self.path)
        folder = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)  # else the old name's content may come back with the power
        finally:
            os.close(folder)

    def _text(self, report: Report, state: str) -> str:
        def around(inner: str) -> str:
            return _status_text(report.command, state, _sentence(report), inner)

        return around(_fitting(report.document, lambda text: _fits_file(text, around)))

    def read(self) -> Optional[Report]:
        """The report in it; None when there is none of ours."""
        try:
            with open(self.path, encoding="ascii") as file:
                status = json.loads(file.read(_LARGEST_FILE_BYTES * 2))[0]["status"]
            (inner,) = [one for one in status["substatus"] if one["name"] == "quiesce"]
            found = json.loads(inner["formattedMessage"]["message"])
        except (OSError, ValueError, LookupError, TypeError):
            return None  # missing, cut short by a crash, or the agent's own placeholder
        return Report(found) if isinstance(found, dict) else None


def _status_text(operation: str, state: str, sentence: str, inner: str) -> str:
    def message(text: str) -> Dict[str, str]:
        return {"lang": "en-US", "message": text}

    code = 1 if state == "error" else 0
    substatus = {"name": "quiesce", "status": state, "code": code}
    status = {
        "name": NAME,
        "operation": operation,
        "status": state,
        "code": code,
        "formattedMessage": message(sentence),
        "substatus": [dict(substatus, formattedMessage=message(inner))],
    }
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return json.dumps([{"version": 1.0, "timestampUTC": now, "status": status}])


def _sentence(report: Report) -> str:
    if report.failure is not None:
        return "{message} [{code}]".format(**report.failure)[:1000]
    return "{}: {}".format(report.command, report.stage)


def _fits_alone(text: str) -> bool:
    return len(text) <= LARGEST_REPORT_BYTES


def _fits_file(text: str, around: Callable[[str], str]) -> bool:
    return _fits_alone(text) and len(around(text)) <= _LARGEST_FILE_BYTES


def _fitting(document: Dict[str, Any], fits: Callable[[str], bool]) -> str:
    """As JSON text, shortened where it hurts least until it fits."""
    text = json.dumps(document)
    for shorten in (_cut_texts, _drop_harmless_mounts, _cut_lists, _cut_hard):
        if fits(text):
            return text
        document = shorten(document)
        text = json.dumps(document)
    return text


def _cut_texts(value: Any, longest: int = 1000) -> Any:
    """Ends of long texts, since that is where errors stand."""
    if isinstance(value, dict):
        return {key: _cut_texts(one, longest) for key, one in value.items()}
    if isinstance(value, list):
        return [_cut_texts(one, longest) for one in value]
    if isinstance(value, str) and len(value) > longest:
        return "… " + value[-longest:]
    return value


def _drop_harmless_mounts(document: Dict[str, Any]) -> Dict[str, Any]:
    """Mounts that were skipped and cost no consistency are the least that a report needs."""
    session = dict(document.get("session") or {})
    if isinstance(session.get("mounts"), list):
        kept = [one for one in session["mounts"] if one["action"] != "skip" or one["downgrades"]]
        session["mounts"] = kept
    return dict(document, session=session or None)


def _cut_lists(document: Dict[str, Any]) -> Dict[str, Any]:
    """What is left out of the frozen mounts counts as a loss: never a greener report for it."""
    document = _cut_texts(document, 200)
    session = dict(document.get("session") or {})
    for key in ("mounts", "warnings"):
        if isinstance(session.get(key), list):
            session[key] = session[key][:_MOST_ENTRIES]
    freeze = session.get("freeze")
    if isinstance(freeze, dict) and len(freeze["mounts"]) > _MOST_ENTRIES:
        rest = freeze["mounts"][_MOST_ENTRIES:]
        more = {
            "mount": "({} more)".format(len(rest)),
            "file_system": "",
            "freeze_ms": 0.0,
            "frozen_ms": max(one["frozen_ms"] for one in rest),
            "skipped": "left out of the report, which was too long",
            "downgrades": True,
        }
        session["freeze"] = dict(freeze, mounts=freeze["mounts"][:_MOST_ENTRIES] + [more])
    return dict(document, session=session or None)


def _cut_hard(document: Dict[str, Any]) -> Dict[str, Any]:
    document = _cut_texts(document, 40)
    failure = dict(document.get("failure") or {})
    if failure:
        failure["evidence"] = failure.get("evidence", [])[:5]
    return dict(document, failure=failure or None, hops=document.get("hops", [])[:20])
