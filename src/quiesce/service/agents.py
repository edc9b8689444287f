"""What outlives the server of each VM's Azure Linux agent, and the numbers of its packages."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import IntegrityError

from quiesce.agent.waagent.ports import AgentRecord
from quiesce.service.database import Database, agents, packages


class AgentRecords:
    """Fulfils `quiesce.agent.waagent.ports.AgentBook`. Thread-safe: each call is a transaction.

    Records hold private keys; the database file is the server's user's alone.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self, vm: str) -> AgentRecord | None:
        with self._database.read() as connection:
            row = connection.execute(sa.select(agents).where(agents.c.vm == vm)).one_or_none()
        return None if row is None else AgentRecord(row.vm, row.body, row.seen_at)

    def save(self, record: AgentRecord) -> None:
        """Keep it in place of any other. Of a VM that was removed meanwhile nothing is kept."""
        values = {"body": record.body, "seen_at": record.seen_at}
        try:
            with self._database.write() as connection:
                connection.execute(
                    insert(agents)
                    .values(vm=record.vm, **values)
                    .on_conflict_do_update(index_elements=[agents.c.vm], set_=values)
                )
        except IntegrityError:
            return

    def forget(self, vm: str) -> None:
        with self._database.write() as connection:
            connection.execute(sa.delete(agents).where(agents.c.vm == vm))

    def package_build(self, digest: str) -> int:
        """The number of a package, from 1: greater than those of all that were asked for before
        it, and the same for the same digest ever after."""
        with self._database.write() as connection:
            known = sa.select(packages.c.build).where(packages.c.digest == digest)
            build = connection.scalar(known)
            if build is None:
                connection.execute(sa.insert(packages).values(digest=digest))
                build = connection.scalar(known)
        assert isinstance(build, int), "just inserted"
        return build
