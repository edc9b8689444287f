"""Which key slots a copy sends. To a vault that is there already one may be new, or one that was
taken away there for good reason: that is for a person to say."""

from __future__ import annotations

from collections.abc import Iterable

from quiesce.model.units import count_text
from quiesce.vault.stores.store import Store

_SHOWN = 10


def slots_to_send(
    source: Store, target: Store, *, new: bool, wanted: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Keys of objects, and what is to be said of it. `new`: the copy makes the vault."""
    here, there = (
        {info.key for info in source.list("keys/")},
        {info.key for info in target.list("keys/")},
    )
    lacking = sorted(here - there)
    if new:
        return tuple(lacking), ()
    notes = []
    if lacking and wanted:
        notes.append(
            f"Key slots that the target is sent, so that it opens with them: {_ids(lacking)}."
        )
    elif lacking:
        notes.append(
            f"Key slots of the source that the target lacks, and is not sent: {_ids(lacking)}. "
            "`--with-keys` sends them."
        )
    if there - here:
        notes.append(
            f"The target opens with {count_text(len(there - here), 'key')} that the source does "
            "not open with: removed at the source, or added at the target."
        )
    return tuple(lacking) if wanted else (), tuple(notes)


def _ids(keys: Iterable[str]) -> str:
    ids = [key.rpartition("slot-")[2] for key in keys]
    more = f", and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return ", ".join(ids[:_SHOWN]) + more
