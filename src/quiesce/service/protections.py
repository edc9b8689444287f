"""The table that says which VM is protected by which policy, as the schedule reads it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from quiesce.model.policy import Policy
from quiesce.service.codec import from_json
from quiesce.service.database import Database, policies, protection


@dataclass(frozen=True, slots=True)
class Protection:
    """`served_until` is the due instant (UTC) of the run started last, or when protection began."""

    vm: str
    policy: Policy
    served_until: datetime


class Protections:
    def __init__(self, database: Database) -> None:
        self._database = database

    def scheduled(self) -> tuple[Protection, ...]:
        """Every protected VM whose policy has a time of day."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(protection.c.vm, protection.c.served_until, policies.c.rules)
                .join(policies, policies.c.name == protection.c.policy)
                .order_by(protection.c.vm)
            ).all()
        rules = {text: from_json(Policy, text) for text in {row.rules for row in rows}}
        return tuple(
            Protection(row.vm, rules[row.rules], row.served_until)
            for row in rows
            if rules[row.rules].at is not None
        )

    def serve(self, vm: str, until: datetime) -> None:
        """Settle every run of `vm` due until then."""
        with self._database.write() as connection:
            connection.execute(
                sa.update(protection).where(protection.c.vm == vm).values(served_until=until)
            )
