"""Which points of a vault are copied."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from quiesce.model.failure import Evidence, NotFoundFailure, VaultFailure
from quiesce.vault.format.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Filters:
    """Which points: of these VMs (all, when empty), of these ids (all), and of each VM only the
    `newest`. `with_keys`: key slots are sent to a copy that is there already."""

    vms: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    newest: int | None = None
    with_keys: bool = False

    @property
    def any(self) -> bool:
        return bool(self.vms or self.points or self.newest is not None)


def check_vms(wanted: Iterable[str], known: Collection[str]) -> None:
    """
    :raise NotFoundFailure: vault.vm-unknown, when one that is `wanted` has no point
    """
    for vm in wanted:
        if vm not in known:
            names = ", ".join(sorted(known)[:20])
            raise NotFoundFailure(
                "vault.vm-unknown",
                f"The vault has no recovery point of a VM {vm!r}.",
                evidence=[Evidence(f"it has points of {names}", "vault")] if names else [],
            )


def chosen_of(
    manifests: Sequence[Manifest], damaged: Mapping[str, VaultFailure], filters: Filters
) -> list[Manifest]:
    """Newest first.

    :raise NotFoundFailure: vault.point-unknown, vault.vm-unknown
    """
    known = {m.point.id for m in manifests} | set(damaged)
    for point_id in filters.points:
        if point_id not in known:
            raise NotFoundFailure(
                "vault.point-unknown", f"The vault has no recovery point {point_id!r}."
            )
    check_vms(filters.vms, {m.point.vm for m in manifests})
    newest_first = sorted(manifests, key=lambda m: (m.point.taken_at, m.point.id), reverse=True)
    counts: dict[str, int] = {}
    chosen = []
    for manifest in newest_first:
        point = manifest.point
        if filters.vms and point.vm not in filters.vms:
            continue
        if filters.points and point.id not in filters.points:
            continue
        counts[point.vm] = counts.get(point.vm, 0) + 1
        if filters.newest is None or counts[point.vm] <= filters.newest:
            chosen.append(manifest)
    return chosen
