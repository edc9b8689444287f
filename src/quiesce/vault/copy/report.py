"""What a copy did, and what stands between it and a whole one."""

from __future__ import annotations

from dataclasses import dataclass

from quiesce.model.failure import Evidence, VaultFailure
from quiesce.model.units import count_text
from quiesce.vault.copy.packs import Bad
from quiesce.vault.copy.plan import Unfit

_SHOWN = 100
_WITH_THE_KEY = (
    "Only with the key can it be told what is whole in a damaged pack, and what has healed by now. "
    "Where the key is, copy once to the same place: "
    "`quiesce vault copy --at SOURCE --key-file KEY --to COPY`. It brings the rest."
)


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What was done. `points` are ids of those that arrived now, `unfit` those that could not,
    `bad` the source's objects that are damaged or missing. `keyless`: made without the key."""

    vault_id: str
    points: tuple[str, ...] = ()
    points_there: int = 0
    packs: int = 0
    size_bytes: int = 0
    unfit: tuple[Unfit, ...] = ()
    bad: tuple[Bad, ...] = ()
    notes: tuple[str, ...] = ()
    keyless: bool = False

    @property
    def complete(self) -> bool:
        """The target has everything that was asked for."""
        return not self.unfit and not self.bad


def shortfall(report: CopyReport) -> VaultFailure | None:
    """What stands between a report and a whole copy; None when nothing does."""
    if report.complete:
        return None
    return VaultFailure(
        "vault.copy-incomplete",
        f"Copied: {count_text(len(report.points), 'point')}; not copied, for damage: "
        f"{len(report.unfit)}.",
        evidence=[
            *(
                Evidence(f"point {u.point_id} of {u.vm or 'an unknown VM'}: {u.reason}", "source")
                for u in report.unfit[:_SHOWN]
            ),
            *(Evidence(f"{bad.detail} [{bad.code}]", bad.object) for bad in report.bad[:_SHOWN]),
        ],
        remedy=_WITH_THE_KEY if report.keyless else "",
    )
