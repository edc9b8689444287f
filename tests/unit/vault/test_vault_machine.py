"""Any order of backups, restores, deletions, collections, copies, crashes and waits, call by call:
every committed point that was not deleted restores bit for bit, after every step. With locks,
rotten records, lost answers and a clock that is off, too; and with packs that are damaged, as far
as the damage lets it. The long version is `make vault-proof`."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from vault_damage import DamagedVault
from vault_model import TOLD
from vault_trouble import TroubledVault

TroubledVault.TestCase.settings = DamagedVault.TestCase.settings = settings(
    max_examples=15,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class TestAnyHistoryKeepsEveryPoint(TroubledVault.TestCase):
    def tearDown(self) -> None:
        print(", ".join(f"{count} {what}" for what, count in sorted(TOLD.items())))


class TestDamageHurtsWhatItHitAndNothingElse(DamagedVault.TestCase):
    def tearDown(self) -> None:
        print(", ".join(f"{count} {what}" for what, count in sorted(TOLD.items())))
