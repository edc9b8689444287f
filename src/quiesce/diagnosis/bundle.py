"""Log bundles of any Linux VM become papers, without a byte of them being written anywhere.

Memory: at most 128 MiB more than the process had, whatever the bundle claims (measured by a test):
4 MiB of text are kept, and decoders may hold 80 MiB. Time: 60 s.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from quiesce.agent.collection import MAX_RAW_BYTES, parse
from quiesce.diagnosis import bundle_archive as archive
from quiesce.diagnosis import bundle_index
from quiesce.diagnosis import bundle_stream as stream
from quiesce.diagnosis.bundle_archive import LeftOut, Member
from quiesce.diagnosis.bundle_paths import (
    UNKNOWN_HANDLER,
    Place,
    keep_bytes,
    leads_out,
    place_of,
)
from quiesce.diagnosis.bundle_stream import Budget, Damage, Ends, Forward, OverLimit
from quiesce.diagnosis.bundle_text import name_of, text_of
from quiesce.model.failure import Evidence, InputFailure
from quiesce.model.papers import COMMAND, Paper, Papers

_MOST_TEXT_BYTES = 4 << 20
_MOST_PAPERS = 500
_COLLECTED = re.compile(rb"#([0-9a-f]{32}) (?:file|command|missing|end) ")
_STRANGERS = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"MZ": "a Windows program",
    b"\x7fELF": "a program",
    b"%PDF": "a PDF document",
    b"\x89PNG": "a picture",
    b"QFI\xfb": "a disk image",
}
_LOGS = (
    # What a single file of any name holds, by its first and last lines.
    (
        re.compile(r"^[-/0-9]{10}[ T][0-9:.]+Z? (?:INFO|WARNING|ERROR|VERBOSE) ", re.M),
        "waagent.log",
    ),
    (re.compile(r'"timestampUTC"'), "0.status"),
    (re.compile(r"^\d+ \d+ \d+:\d+ / / ", re.M), "mountinfo"),
    (re.compile(r"^(?:Extensions|Provisioning|ResourceDisk)\.\w+ *=", re.M), "waagent.conf"),
    (re.compile(r"RecoveryServices|Quiesce\.VmBackup"), "extension.log"),
)


def read_bundle(path: Path) -> Papers:
    """What of a log bundle the readers know: a folder, a tar archive (also compressed with gzip,
    xz, bzip2 or zstd), a zip archive, what `collect.sh` printed, or one log file.

    A bundle that is damaged or goes beyond the limits is what could be read of it, with warnings.

    :raise InputFailure: input.bundle-not-found, input.bundle-unreadable,
        input.bundle-not-understood, input.bundle-empty
    """
    budget = Budget()
    try:
        shelf = _Shelf(path)
        if path.is_dir():
            shelf.take(archive.folder_members(path, budget), budget)
        elif (whole := _from_file(path, shelf, budget)) is not None:
            return whole
    except FileNotFoundError as inner:
        raise InputFailure("input.bundle-not-found", f"There is no {path}.") from inner
    except OSError as inner:
        raise InputFailure(
            "input.bundle-unreadable", f"{path} cannot be read: {inner.strerror or inner}."
        ) from inner
    return shelf.papers()


def _from_file(path: Path, shelf: _Shelf, budget: Budget) -> Papers | None:
    with stream.open_file(path, follow=True) as file:
        magic = file.read(8)
        size = file.seek(0, 2)
        file.seek(0)
        for mark, what in _STRANGERS.items():
            if magic.startswith(mark):
                raise _not_understood(path, f"it is {what}")
        if magic.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            shelf.take(archive.zip_members(file, size, budget), budget)
            return None
        source = stream.unpacked(file, magic, budget)
        try:
            head = source.peek(stream.HEAD_BYTES)
        except Damage as inner:
            raise _not_understood(path, f"it cannot be unpacked: {inner}") from inner
        if _COLLECTED.match(head):
            return _collected(path, source)
        if archive.is_tar(head):
            shelf.take(archive.tar_members(source), budget)
        else:
            shelf.take_one(path, source, size if source.is_file else None)
        return None


def _collected(path: Path, source: Forward) -> Papers:
    try:
        raw = source.read(MAX_RAW_BYTES)
    except (*Damage, OverLimit) as inner:
        raise _not_understood(path, f"it cannot be unpacked: {inner}") from inner
    token = raw[1:33].decode("ascii")
    found = parse(raw, token, name_of(str(path)))
    return Papers(found.papers, found.source, found.taken_at, None, found.warnings)


def _not_understood(path: Path, why: str) -> InputFailure:
    return InputFailure(
        "input.bundle-not-understood",
        f"{path} is no log bundle that can be read.",
        evidence=[Evidence(name_of(why), name_of(str(path)))],
    )


class _Shelf:
    """What has been read so far, and why the rest has not."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # A folder's own path tells where its files belong: somebody gives `/mnt/rescue/var/log`.
        self._above = f"{os.path.abspath(path)}/" if path.is_dir() else ""
        self._papers: dict[Place, Paper] = {}
        self._bytes = 0
        self._warnings: list[str] = []
        self._left_out: Counter[str] = Counter()
        self._example: dict[str, str] = {}
        self._unknown = 0

    def take(self, members: Iterator[Member | LeftOut], budget: Budget) -> None:
        """All that the readers know, up to the first damage.

        :raise OSError: the folder cannot be listed at all
        """
        seen = 0
        try:
            for member in members:
                seen += 1
                budget.spend(0)
                if seen > archive.MOST_MEMBERS:
                    raise OverLimit(f"it has more than {archive.MOST_MEMBERS:,} members")
                if isinstance(member, LeftOut):
                    self._leave_out(member.name, member.why)
                else:
                    self._put(member)
        except OverLimit as limit:
            self._warnings.append(f"Not all of it was read: {limit}.")
        except Damage as damage:
            if not seen and isinstance(damage, OSError) and damage.errno:
                raise
            self._warnings.append(
                f"It is damaged, and was read up to there: {name_of(str(damage))}."
            )

    def take_one(self, path: Path, source: Forward, size: int | None) -> None:
        """A file that is no archive. `size` of what is not compressed, of which the end is sought.

        :raise InputFailure: input.bundle-not-understood
        """
        name = re.sub(r"\.(?:gz|xz|bz2|zst)$", "", path.name)
        place = place_of(str(path.parent.absolute() / name)) or place_of(name)
        keep = keep_bytes("/var/log/waagent.log")
        try:
            ends = stream.rest_of(source, keep, size)
        except OverLimit as limit:
            raise _not_understood(path, f"not all of it could be read: {limit}") from limit
        except Damage as damage:
            raise _not_understood(path, f"it is damaged: {damage}") from damage
        text = _text(ends)
        if text is None:
            raise _not_understood(path, "it is neither text nor an archive that is known")
        if place is None:
            sample = text_of(ends.head, ends.head) or ""
            known = (
                name for pattern, name in _LOGS if pattern.search(text) or pattern.search(sample)
            )
            place = place_of(next(known, ""))
        if place is not None:
            self._papers[place] = Paper(
                place.path, text, ends.size_bytes, cut=ends.size_bytes > len(ends.end)
            )
        else:
            self._unknown += 1

    def papers(self) -> Papers:
        """:raise InputFailure: input.bundle-empty"""
        name = name_of(str(self._path))
        self._note_left_out()
        of_one = self._of_one_machine()
        index = next((paper for paper in of_one if paper.path == bundle_index.PATH), None)
        files = [paper for paper in of_one if paper is not index]
        papers = bundle_index.indexed(files, index)
        if not papers:
            raise InputFailure(
                "input.bundle-empty",
                f"{name} holds no file that tells anything about backups.",
                evidence=[
                    Evidence(f"{self._unknown} files of other kinds", name),
                    *(Evidence(each, name) for each in self._warnings),
                ],
            )
        taken_at = bundle_index.taken_at(papers)
        return Papers(papers, name, taken_at, None, tuple(self._warnings))

    def _put(self, member: Member) -> None:
        if leads_out(member.name):
            self._leave_out(member.name, "names that lead out of the bundle")
            return
        place = place_of(self._above + member.name)
        if place is None:
            self._unknown += 1
            return
        if len(self._papers) >= _MOST_PAPERS and place not in self._papers:
            self._leave_out(member.name, "files beyond the limit")
            return
        try:
            ends = member.ends(keep_bytes(place.path))
        except Damage as damage:
            if isinstance(damage, EOFError):
                raise
            words = damage.strerror if isinstance(damage, OSError) else ""
            self._leave_out(member.name, f"files that cannot be read ({words or 'damaged'})")
            return
        old = self._papers.pop(place, None)
        if old is not None:
            self._bytes -= len(old.text)
            self._leave_out(member.name, "second files of a name (the last one counts)")
        if self._bytes + len(ends.end) > _MOST_TEXT_BYTES:
            self._leave_out(member.name, "files beyond the limit")
            return
        text = _text(ends)
        self._bytes += len(text or "")
        self._papers[place] = Paper(
            path=place.path,
            text=text or "",
            size_bytes=ends.size_bytes,
            modified_at=member.modified_at,
            mode=member.mode,
            owner=member.owner,
            cut=ends.size_bytes > len(ends.end),
            status=0 if place.path.startswith(COMMAND) else None,
            problem="" if text is not None else "it is not text",
        )

    def _of_one_machine(self) -> tuple[Paper, ...]:
        """The papers of the machine with the most of them when two have a file of the same name:
        facts of two guests in one heap would prove what is true of neither."""
        machines = Counter(place.machine for place in self._papers)
        paths = Counter(place.path for place in self._papers)
        twice = {path for path, count in paths.items() if count > 1}
        clashing = {
            place.machine
            for place in self._papers
            if place.path in twice and UNKNOWN_HANDLER not in place.path
        }
        if len(clashing) < 2:
            return tuple(self._papers.values())
        # The alphabet decides between equals, so that the same bundle gives the same answer.
        chosen = min(clashing, key=lambda machine: (-machines[machine], machine))
        others = ", ".join(sorted(name_of(each) or "(top)" for each in clashing - {chosen})[:5])
        self._warnings.append(
            f"It holds files of several machines. These are of {name_of(chosen) or 'its top'};"
            f" left out: {others}. Give the folder of one machine to see another."
        )
        return tuple(
            paper
            for place, paper in self._papers.items()
            if place.machine not in clashing - {chosen}
        )

    def _leave_out(self, name: str, why: str) -> None:
        self._left_out[why] += 1
        self._example.setdefault(why, name_of(name[:200]))

    def _note_left_out(self) -> None:
        for why, count in self._left_out.most_common(20):
            self._warnings.append(f"Left out: {why} ({count}), such as {self._example[why]}.")


def _text(ends: Ends) -> str | None:
    return text_of(ends.head, ends.end, offset=ends.size_bytes - len(ends.end))
