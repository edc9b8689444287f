"""Any order of backups, restores, deletions, collections, copies, crashes and waits, call by call:
every committed point that was not deleted restores bit for bit, after every step. The long version
is `make vault-proof`."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from vault_machine import TOLD, VaultMachine

VaultMachine.TestCase.settings = settings(
    max_examples=15,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class TestAnyHistoryKeepsEveryPoint(VaultMachine.TestCase):
    def tearDown(self) -> None:
        print(", ".join(f"{count} {what}" for what, count in sorted(TOLD.items())))
