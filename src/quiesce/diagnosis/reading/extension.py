"""The backup extension in the guest: its files, its status, its Python, its sessions.

Through the Azure Linux agent it lies in /var/lib/waagent/Quiesce.VmBackup-VERSION.BUILD, through
the QEMU guest agent it is one file in /var/lib/quiesce.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from functools import cache
from typing import Any

from quiesce.agent.package import extension_package
from quiesce.diagnosis.reading.access import knows_absence
from quiesce.diagnosis.reading.observed import age_seconds, observed, text_paper
from quiesce.model.diagnosis import Fact
from quiesce.model.papers import Paper, Papers

OLDEST_PYTHON = (3, 6)
SCRIPTS = "/etc/azure/VMSnapshotScriptPluginConfig.json"
_FOLDER = re.compile(r"/var/lib/waagent/Quiesce\.VmBackup-(\d+(?:\.\d+)*)")
_ZIP = re.compile(r"/var/lib/quiesce/quiesce-extension-(\d+(?:\.\d+)*)\+([0-9a-f]{12})\.zip")
_CKSUM = re.compile(r"^([0-9]{1,10}) ([0-9]{1,12}) (\S+)$", re.MULTILINE)
_STATUS = re.compile(r".*/Quiesce\.VmBackup-[\d.]+/status/([0-9]{1,9})\.status")
_NOTED = re.compile(
    r"^.*\[Quiesce\.VmBackup-[\d.]+\] (?:Command: \S*handler\.sh (?:install|enable)"
    r"|(?P<removed>Remove extension handler directory|Command: \S*handler\.sh uninstall)).*$",
    re.MULTILINE,
)
_ENTRY = ("__main__.py", "handler.sh")
_ENDED = ("done", "failed")


def extension_facts(papers: Papers) -> Iterator[Fact]:
    yield from _files(papers)
    yield from _status(papers)
    yield from _python(papers)
    yield from _scripts(papers)
    yield from _sessions(papers)


def _files(papers: Papers) -> Iterator[Fact]:
    unpacked, ours = papers.command("extension"), papers.command("quiesce")
    folders = [] if unpacked is None else _FOLDER.findall(unpacked.text)
    packed = None if ours is None else _ZIP.search(ours.text)
    if unpacked is not None and folders:
        version = max(folders, key=_numbers)
        words = f"Version {version} of the extension lies in the agent's folder."
        raw = f"/var/lib/waagent/Quiesce.VmBackup-{version}"
        yield observed(papers, unpacked, "extension.installed", True, words, raw=raw)
        yield from _version(papers, unpacked, version, raw)
        yield from _intact(papers, unpacked, version)
    elif ours is not None and packed is not None:
        words = f"Version {packed[1]} of the extension lies in /var/lib/quiesce."
        yield observed(papers, ours, "extension.installed", True, words, raw=packed[0])
        yield from _version(papers, ours, packed[1], packed[0])
        yield from _zip_intact(papers, ours, packed)
    elif (
        unpacked is not None
        and ours is not None
        and ours.status in (0, None)
        and knows_absence(papers, "/var/lib/waagent", "/var/lib/quiesce")
    ):
        words = "No file of the extension is in the guest."
        yield observed(papers, unpacked, "extension.installed", False, words, raw=unpacked.text)
        yield from _vanished(papers)


def _vanished(papers: Papers) -> Iterator[Fact]:
    """By the agent's log: whether it has run the extension since it last removed it."""
    paper = text_paper(papers, "/var/log/waagent.log")
    found = list(_NOTED.finditer(paper.text)) if paper is not None else []
    if paper is None or not found:
        return
    last = found[-1]
    gone = last["removed"] is None
    words = (
        "The agent had installed the extension, and its files are gone."
        if gone
        else "The agent has removed the extension itself."
    )
    yield observed(papers, paper, "extension.vanished", gone, words, raw=last[0])


def _version(papers: Papers, paper: Paper, version: str, raw: str) -> Iterator[Fact]:
    words = f"The extension is version {version}."
    yield observed(papers, paper, "extension.version", version, words, raw=raw)
    newest = extension_package().version
    old = _numbers(version)[:3] < _numbers(newest)[:3]
    words = f"It is {'older than' if old else 'not older than'} {newest}."
    yield observed(papers, paper, "extension.outdated", old, words, raw=raw)


def _intact(papers: Papers, paper: Paper, version: str) -> Iterator[Fact]:
    """Against the package of this Quiesce, when it is the same version. A file of the same size
    with another content has been changed; one of another size may be another build's."""
    shipped = _shipped_sums()
    if _numbers(version)[:3] != _numbers(extension_package().version)[:3]:
        return
    prefix = f"/var/lib/waagent/Quiesce.VmBackup-{version}/"
    found = {
        path.removeprefix(prefix): (int(crc), int(size))
        for crc, size, path in _CKSUM.findall(paper.text)
        if path.startswith(prefix)
    }
    changed = [
        name
        for name, (crc, size) in found.items()
        if name in shipped and size == shipped[name][1] and crc != shipped[name][0]
    ]
    # Without any sum they were not asked for, or the output was cut.
    listed = set(re.findall(r"\S+$", paper.text, re.MULTILINE)) | set(found)
    missing = [name for name in _ENTRY if found and name in shipped and name not in listed]
    if changed or missing:
        words = f"Not as it was shipped: {', '.join(sorted(changed + missing)[:5])}."
        raw = "\n".join(
            match[0] for match in _CKSUM.finditer(paper.text) if match[3][len(prefix) :] in changed
        )
        yield observed(papers, paper, "extension.intact", False, words, raw=raw or "missing")
    elif found and all(found.get(name) == each for name, each in shipped.items() if name in found):
        words = f"All {len(found)} files are what was shipped."
        yield observed(papers, paper, "extension.intact", True, words)


def _zip_intact(papers: Papers, paper: Paper, packed: re.Match[str]) -> Iterator[Fact]:
    package = extension_package()
    found = next((match for match in _CKSUM.finditer(paper.text) if match[3] == packed[0]), None)
    if found is None or not package.digest.startswith(packed[2]):
        return
    good = (int(found[1]), int(found[2])) == (posix_cksum(package.content), len(package.content))
    words = "Its file is what was shipped." if good else "Its file is not what was shipped."
    yield observed(papers, paper, "extension.intact", good, words, raw=found[0])


def _status(papers: Papers) -> Iterator[Fact]:
    """The status with the highest sequence number, of the newest version."""
    found = [
        (_numbers(paper.path.split("VmBackup-")[1].split("/")[0]), int(match[1]), paper)
        for paper in papers.under("/var/lib/waagent/Quiesce.VmBackup-")
        if (match := _STATUS.fullmatch(paper.path)) and not paper.problem
    ]
    if not found:
        return
    paper = max(found, key=lambda each: each[:2])[2]
    status = status_of(paper.text)
    if status is None:
        return
    word = str(status.get("status", "")).lower()
    if word not in ("success", "warning", "transitioning", "error"):
        return
    message = status.get("formattedMessage")
    said = str(message.get("message", "")) if isinstance(message, dict) else ""
    words = f"The extension's own status is “{word}”."
    yield observed(papers, paper, "extension.status", word, words, raw=said or paper.text[:500])
    age = age_seconds(papers, paper.modified_at)
    if age is not None:
        words = f"It was written {age:.0f} s before."
        yield observed(papers, paper, "extension.status-age-seconds", age, words)


def status_of(text: str) -> dict[str, Any] | None:
    """The object `status` of a status file; None for what is no such file."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(document, list) and document:
        document = document[0]
    status = document.get("status") if isinstance(document, dict) else None
    return status if isinstance(status, dict) else None


def _python(papers: Papers) -> Iterator[Fact]:
    paper = papers.command("python")
    if paper is None or paper.status not in (0, None):
        return
    found = re.findall(r"^(/\S+) (\d+(?:\.\d+)?)$", paper.text, re.MULTILINE)
    good = [(path, version) for path, version in found if _numbers(version) >= OLDEST_PYTHON]
    if good:
        path, version = max(good, key=lambda each: _numbers(each[1]))
        words = f"Python {version} can run the extension."
        yield observed(papers, paper, "extension.python", version, words, raw=f"{path} {version}")
        yield observed(papers, paper, "extension.runtime", True, words, raw=f"{path} {version}")
    elif all("." in version for _, version in found):
        words = "No Python 3.6 or newer is in the guest."
        older = max((version for _, version in found), key=_numbers, default="")
        yield observed(papers, paper, "extension.python", older, words, raw=paper.text)
        yield observed(papers, paper, "extension.runtime", False, words, raw=paper.text)


def _scripts(papers: Papers) -> Iterator[Fact]:
    """The configuration of the operator's own scripts, as far as it can be told from outside."""
    paper = papers.get(SCRIPTS)
    if paper is None or paper.problem:
        return
    wrong = ""
    try:
        if not isinstance(json.loads(paper.text.removeprefix("\ufeff")), dict):
            wrong = "line 1: one object in braces is expected"
    except json.JSONDecodeError as error:
        wrong = f"line {error.lineno}: {error.msg}"
    except RecursionError:
        wrong = "line 1: it is nested too deeply"
    except ValueError:
        wrong = "a number in it is too long"
    if paper.cut:
        return
    if not wrong and paper.owner not in (0, None):
        wrong = f"it belongs to the user {paper.owner} and not to root"
    if not wrong and paper.mode is not None and paper.mode & 0o077:
        wrong = f"its mode is {paper.mode:o}, others may use it"
    words = f"{SCRIPTS}: {wrong}." if wrong else "The scripts' configuration is in order."
    yield observed(papers, paper, "extension.config-error", wrong, words, raw=paper.text[:500])


def _sessions(papers: Papers) -> Iterator[Fact]:
    states = [paper for paper in papers.under("/run/quiesce/") if paper.path.endswith("state.json")]
    listing = papers.command("quiesce")
    open_ones = []
    for paper in states:
        try:
            document = json.loads(paper.text)
        except (ValueError, RecursionError):
            continue
        if isinstance(document, dict) and document.get("state") not in _ENDED:
            open_ones.append((paper, str(document.get("state", ""))[:20]))
    source = open_ones[0][0] if open_ones else listing
    none_known = source is not None and source.status in (0, None)
    if source is not None and (open_ones or (none_known and knows_absence(papers, "/run/quiesce"))):
        words = f"{len(open_ones)} sessions of ours have not ended in the guest."
        raw = "\n".join(f"{paper.path}: {state}" for paper, state in open_ones)
        yield observed(papers, source, "extension.sessions", float(len(open_ones)), words, raw=raw)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]{1,9}", version))


@cache
def _shipped_sums() -> dict[str, tuple[int, int]]:
    """Name → (sum, size) of each file of the package. The agent writes the manifest anew."""
    with zipfile.ZipFile(io.BytesIO(extension_package().content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    return {
        name: (posix_cksum(content), len(content))
        for name, content in files.items()
        if name != "HandlerManifest.json" and "/" not in name
    }


@cache
def _table() -> tuple[int, ...]:
    made = []
    for byte in range(256):
        crc = byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
        made.append(crc)
    return tuple(made)


def posix_cksum(content: bytes) -> int:
    """The sum that cksum(1) prints (POSIX, IEEE Std 1003.1, cksum)."""
    table, crc = _table(), 0
    length = len(content)
    tail = length.to_bytes((length.bit_length() + 7) // 8, "little")
    for byte in content + tail:
        crc = (crc << 8 ^ table[crc >> 24 ^ byte]) & 0xFFFFFFFF
    return crc ^ 0xFFFFFFFF
