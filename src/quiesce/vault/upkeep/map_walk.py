"""A walk through the maps of all points, oldest first, within a budget and in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from blake3 import blake3

from quiesce.vault.contents.contents import Contents
from quiesce.vault.format.manifest import Manifest
from quiesce.vault.upkeep.health import Examination, Examiner, newest_of_each_vm
from quiesce.vault.upkeep.pace import Pace
from quiesce.vault.upkeep.verify_report import Cursor

NOTHING_SEEN = Examination((), frozenset(), unplaced=False)
_BEFORE_ALL = "00"
"""In the place of a point's id: no point has been looked at."""


class Spent(Exception):  # noqa: N818 - no error: the budget ended the walk
    """Which limit it was."""


@dataclass(frozen=True, slots=True)
class Walk:
    """`reached`: the last point that was looked at. `known` stands for the damage that was known
    meanwhile. `stopped_by`: which limit ended it, "" when it came to the last point."""

    found: Examination
    reached: str
    known: str
    stopped_by: str


def not_begun(cursor: Cursor | None, stopped_by: str) -> Walk:
    """One that its budget does not let begin, or go on from there."""
    if cursor is None:
        return Walk(NOTHING_SEEN, _BEFORE_ALL, "", stopped_by)
    return Walk(NOTHING_SEEN, cursor.after, cursor.known, stopped_by)


def walk_maps(
    contents: Contents,
    manifests: Sequence[Manifest],
    cursor: Cursor | None,
    unreadable: Iterable[str],
    *,
    pace: Pace,
    check: Callable[[int], None],
    stop: Callable[[], None],
) -> Walk:
    """From the point behind the cursor, if what was known as damaged is the same as then: else
    from the first, since what has become known may hurt any. `unreadable`: packs that the index
    cannot tell of. `check` is called before so many parts of maps are read, and raises `Spent`;
    `stop` before what is read beyond the budget."""
    known = _known_damage(contents, unreadable)
    after = cursor.after if cursor is not None and cursor.known == known else ""
    ordered = sorted(manifests, key=lambda m: (m.point.taken_at, m.point.id))
    numbers = [number for number, m in enumerate(ordered) if m.point.id == after]
    todo = ordered[numbers[0] + 1 :] if numbers else ordered
    examiner = Examiner(contents, contents.index.snapshot(), check)
    pace.begin("maps", sum(m.point.size_bytes for m in todo))
    reached = after or _BEFORE_ALL
    stopped_by = ""
    try:
        for manifest in todo:
            examiner.look_at(manifest)
            reached = manifest.point.id
            pace.advance(manifest.point.size_bytes)
    except Spent as spent:
        stopped_by = str(spent)
    # What heals is told of all damage that was found, also when the limit is reached by now.
    examiner.look_for_what_heals(newest_of_each_vm(ordered), lambda parts: stop())
    return Walk(examiner.result(), reached, known, stopped_by)


def _known_damage(contents: Contents, unreadable: Iterable[str]) -> str:
    """Equal as long as the same is known as damaged or missing; "" while nothing is."""
    snapshot = contents.index.snapshot()
    known = {snapshot.names[number] + short for number, short in snapshot.damaged}
    known.update(contents.index.missing_packs(), (key.encode() for key in unreadable))
    return blake3(b"".join(sorted(known))).hexdigest(length=8) if known else ""
