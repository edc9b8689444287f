"""Mounts that make a freeze dangerous, and file systems with errors (mountinfo: Linux,
Documentation/filesystems/proc.rst, section 3.5), and other products that freeze."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from quiesce.diagnosis.reading.observed import observed, text_paper
from quiesce.model.diagnosis import Fact
from quiesce.model.papers import Papers

_MOUNTINFO = "/proc/self/mountinfo"
_OCTAL = re.compile(r"\\([0-7]{3})")
_FREEZABLE = (
    "ext2",
    "ext3",
    "ext4",
    "xfs",
    "btrfs",
    "f2fs",
    "jfs",
    "nilfs2",
    "reiserfs",
    "bcachefs",
)
_CLUSTER = ("gfs2", "ocfs2")
_REMOTE = re.compile(r"nfs|cifs|smb|9p|ceph|glusterfs|lustre|beegfs|gpfs|afs|virtiofs|fuse")


@dataclass(frozen=True, slots=True)
class Mount:
    id: str
    parent: str
    device: str
    point: str
    options: tuple[str, ...]
    file_system: str
    source: str
    super_options: tuple[str, ...]
    line: str


def mount_facts(papers: Papers) -> Iterator[Fact]:
    paper = text_paper(papers, _MOUNTINFO)
    if paper is not None and (mounts := parse(paper.text)):
        hazards = list(_hazards(mounts))
        value = "; ".join(dict.fromkeys(f"{mount.point}: {why}" for mount, why in hazards))
        words = f"Dangerous to freeze: {value}." if value else "No mount is dangerous to freeze."
        raw = "\n".join(mount.line for mount, _ in hazards)
        yield observed(papers, paper, "guest.hazards", value, words, raw=raw)
        broken = list(_broken(mounts))
        value = "; ".join(f"{mount.point}: {why}" for mount, why in broken)
        words = f"Not sound: {value}." if value else "No file system shows errors."
        raw = "\n".join(mount.line for mount, _ in broken)
        yield observed(papers, paper, "guest.mount-errors", value, words, raw=raw)
    found = papers.command("freezers")
    if found is not None and found.status in (0, None):
        names = sorted({line.split()[0] for line in found.text.splitlines() if line.strip()})
        value = ", ".join(names)
        words = (
            f"Another backup product is installed: {value}." if value else "No other is installed."
        )
        yield observed(papers, found, "guest.freezer", value, words, raw=found.text)


def parse(text: str) -> tuple[Mount, ...]:
    """The kernel's lines; what is none is left out."""
    found = []
    for line in text.splitlines():
        left, separator, right = line.partition(" - ")
        head, tail = left.split(" "), right.split(" ")
        if separator and len(head) >= 6 and len(tail) >= 3 and head[0].isdigit():
            found.append(
                Mount(
                    id=head[0],
                    parent=head[1],
                    device=head[2],
                    point=_plain(head[4]),
                    options=tuple(head[5].split(",")),
                    file_system=tail[0],
                    source=_plain(tail[1]),
                    super_options=tuple(tail[2].split(",")),
                    line=line,
                )
            )
    return tuple(found)


def _plain(field: str) -> str:
    plain = _OCTAL.sub(lambda match: chr(int(match[1], 8) & 0xFF), field)
    return "".join(each if each.isprintable() else "\ufffd" for each in plain)


def _hazards(mounts: tuple[Mount, ...]) -> Iterator[tuple[Mount, str]]:
    by_id = {mount.id: mount for mount in mounts}
    seen: set[str] = set()
    for mount in mounts:
        if "ro" in mount.super_options or mount.device in seen:
            continue
        kind = mount.file_system
        if kind in _CLUSTER:
            seen.add(mount.device)
            yield mount, "a cluster file system, whose freeze would stop the other nodes"
        elif kind in _FREEZABLE and re.match(r"/dev/loop\d", mount.source):
            seen.add(mount.device)
            yield mount, "in a loop file, which must still be writable while it is frozen"
        elif kind in _FREEZABLE and (remote := _remote_above(mount, by_id)):
            seen.add(mount.device)
            yield mount, f"its path leads through the remote mount {remote}"
        elif kind == "fuseblk":
            seen.add(mount.device)
            yield mount, "a process writes it, which no freeze reaches"


def _remote_above(mount: Mount, by_id: dict[str, Mount]) -> str:
    passed = {mount.id}
    above = by_id.get(mount.parent)
    while above is not None and above.id not in passed:
        if _REMOTE.match(above.file_system) and above.file_system != "fuseblk":
            return above.point
        passed.add(above.id)
        above = by_id.get(above.parent)
    return ""


def _broken(mounts: tuple[Mount, ...]) -> Iterator[tuple[Mount, str]]:
    """The kernel itself makes a file system read-only after an error: the superblock is, and the
    mount, which a person would have made so, is not."""
    seen: set[str] = set()
    for mount in mounts:
        if mount.file_system not in _FREEZABLE or mount.device in seen:
            continue
        if "shutdown" in mount.super_options or "emergency_ro" in mount.super_options:
            seen.add(mount.device)
            yield mount, "shut down by the kernel after an error"
        elif "ro" in mount.super_options and "rw" in mount.options:
            seen.add(mount.device)
            yield (
                mount,
                "read-only, though it was mounted writable: the kernel does so after an error",
            )
