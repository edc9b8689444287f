"""Which bitmap a disk counts from, and what happens to bitmaps at the instant and afterwards.

One generation bitmap per recovery point starts at the point's instant and is never disabled, so
whatever happens to a session, the dirty set of a kept generation is a superset of what changed.
At the instant the base's content is copied into a bitmap of the session's own, which stands
still and is what the reader sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quiesce.hypervisor import names
from quiesce.hypervisor.inventory import Attachment, Bitmap, Inventory
from quiesce.hypervisor.qmp import Monitor

GRANULARITY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Base:
    """What an incremental read counts from: a generation, or none and the reason why."""

    generation: str = ""
    full_read_reason: str = ""


def choose_base(attachment: Attachment, bases: Sequence[str]) -> Base:
    """The newest of `bases` (newest first) whose bitmap can be trusted."""
    if not bases:
        return Base(
            full_read_reason="first point: the vault holds no point of this disk to build on"
        )
    present = {bitmap.name: bitmap for bitmap in attachment.bitmaps}
    reasons: list[str] = []
    for generation in bases:
        bitmap = present.get(generation)
        if bitmap is None:
            continue
        reason = _why_unusable(bitmap, attachment.disk.size_bytes)
        if not reason:
            return Base(generation)
        reasons.append(reason)
    return Base(full_read_reason=reasons[0] if reasons else _why_missing(attachment))


def _why_unusable(bitmap: Bitmap, size_bytes: int) -> str:
    if bitmap.inconsistent:
        return (
            f"bitmap.inconsistent: {bitmap.name} was in use when QEMU last ended, so it may lack "
            "changes (the VM's process was killed or the host failed)"
        )
    if not bitmap.recording:
        return f"bitmap.inconsistent: {bitmap.name} was disabled by somebody and may lack changes"
    if bitmap.busy:
        return f"bitmap.busy: {bitmap.name} is held by another operation of QEMU"
    if names.generation_size(bitmap.name) != size_bytes:
        return f"bitmap.resized: the disk has {size_bytes} bytes now and had another size then"
    return ""


def _why_missing(attachment: Attachment) -> str:
    if attachment.disk.note:
        return f"bitmap.missing: {attachment.disk.note}"
    return (
        "bitmap.missing: the disk has none of the bitmaps that the vault's points began (an "
        "external snapshot, a restored or replaced image, or a QEMU killed before it stored them)"
    )


def at_the_instant(
    task_id: str, index: int, node: str, *, base: str, generation: str, persistent: bool
) -> list[dict[str, Any]]:
    """The transaction actions that close the base's count for disk `index` and begin a new one."""
    actions: list[dict[str, Any]] = []
    if base:
        frozen = names.node(task_id, "d", index)
        actions += [
            _action("add", node=node, name=frozen, granularity=GRANULARITY_BYTES, disabled=True),
            _action("merge", node=node, target=frozen, bitmaps=[base]),
        ]
    actions.append(
        _action(
            "add",
            node=node,
            name=generation,
            granularity=GRANULARITY_BYTES,
            persistent=persistent,
        )
    )
    return actions


def _action(verb: str, **data: Any) -> dict[str, Any]:
    return {"type": f"block-dirty-bitmap-{verb}", "data": data}


def settle(monitor: Monitor, inventory: Inventory, task_id: str, *, committed: bool) -> None:
    """Remove the bitmaps that the end of a task makes useless.

    After a commit those are the older generations, inconsistent ones included, of every disk on
    which this task's own is present; without a commit it is this task's own generation.
    """
    for attachment in inventory.attachments:
        own = [b for b in attachment.bitmaps if names.generation_task(b.name) == task_id]
        generations = [b for b in attachment.bitmaps if b.name.startswith(names.GENERATION_PREFIX)]
        useless = [b for b in attachment.bitmaps if names.owner(b.name) == task_id]
        if not committed:
            useless += own
        elif own:
            useless += [b for b in generations if b not in own]
        else:
            useless += [b for b in generations if b.inconsistent]
        for bitmap in useless:
            monitor.execute(
                "block-dirty-bitmap-remove",
                {"node": attachment.disk.node, "name": bitmap.name},
            )
