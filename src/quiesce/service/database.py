"""The service's own tables. Portal, API and CLI read these, never the workflow engine's.

SQLite in WAL mode: readers never wait for the writer. `synchronous=NORMAL` may lose the last
commits in a power cut but never tears the file; the job that loses them is recovered by its
workflow, and the vault's points do not depend on these tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeDecorator

from quiesce.model.failure import Evidence, ServerFailure


class UtcTime(TypeDecorator[datetime]):
    """Aware datetimes, kept as UTC without a zone so that they sort as text."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


metadata = sa.MetaData()

vms = sa.Table(
    "vms",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("qmp_socket", sa.Text, nullable=False),
    sa.Column("qga_socket", sa.Text),
    sa.Column("image_files", sa.Text, nullable=False),  # JSON {disk: path}, given by the operator
    sa.Column("added_at", UtcTime, nullable=False),
    sa.Column("last_seen", sa.Text),  # JSON of VmState
    sa.Column("seen_at", UtcTime),
    sa.Column("agent", sa.Text, nullable=False, server_default="qga"),
    sa.Column("guest_address", sa.Text, nullable=False, server_default=""),
    sa.Column("proxy", sa.Text),  # JSON of Proxy, with its passwords; null: the server's
)

agents = sa.Table(
    "agents",
    metadata,
    sa.Column("vm", sa.Text, sa.ForeignKey("vms.name", ondelete="CASCADE"), primary_key=True),
    sa.Column("body", sa.Text, nullable=False),  # the waagent room's own; private keys are in it
    sa.Column("seen_at", UtcTime),
)

packages = sa.Table(
    "packages",
    metadata,
    sa.Column("build", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("digest", sa.Text, nullable=False, unique=True),
    sqlite_autoincrement=True,
)

policies = sa.Table(
    "policies",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("rules", sa.Text, nullable=False),  # JSON of Policy
)

protection = sa.Table(
    "protection",
    metadata,
    sa.Column("vm", sa.Text, sa.ForeignKey("vms.name", ondelete="CASCADE"), primary_key=True),
    sa.Column("policy", sa.Text, sa.ForeignKey("policies.name"), nullable=False, index=True),
    sa.Column("served_until", UtcTime, nullable=False),  # runs due until then are settled
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),  # order, clock or not
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("vm", sa.Text, nullable=False, index=True),
    sa.Column("status", sa.Text, nullable=False, index=True),
    sa.Column("slot", sa.Text, unique=True),  # what only one active job may hold; null when ended
    sa.Column("cancel_requested", sa.Boolean, nullable=False, default=False),
    sa.Column("request", sa.Text, nullable=False, default="{}"),  # JSON, what was asked for
    sa.Column("body", sa.Text, nullable=False),  # JSON of Job, without its log
    sqlite_autoincrement=True,
)

job_log = sa.Table(
    "job_log",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("job", sa.Text, sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("level", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Index("job_log_by_job", "job", "number"),
)


class Database:
    """One SQLite file, shared by all threads of the server."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Parameters hold proxies' passwords and private keys: no error may carry them.
        self._engine = sa.create_engine(
            f"sqlite:///{path}", pool_size=20, max_overflow=40, hide_parameters=True
        )
        sa.event.listen(self._engine, "connect", _on_connect)
        sa.event.listen(self._engine, "begin", _on_begin)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A consistent view; many at once."""
        with _failures(self.path), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that owns the file's write lock from its start, so that what it read
        cannot have changed when it writes. Committed at the end, rolled back on an exception."""
        with _failures(self.path), self._engine.connect() as connection:
            connection = connection.execution_options(writes=True)
            with connection.begin():
                yield connection

    def migrate(self) -> None:
        """Bring the tables to this version's shape; new databases too."""
        with as_file(files("quiesce.service") / "migrations") as folder, _failures(self.path):
            config = Config()
            config.set_main_option("script_location", str(folder).replace("%", "%%"))
            with self._engine.connect() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                connection.commit()

    def close(self) -> None:
        self._engine.dispose()


def tune(connection: Any) -> None:
    """The pragmas for every SQLite connection of the server, the workflow engine's included."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA busy_timeout=30000")
    connection.execute("PRAGMA foreign_keys=ON")


def _on_connect(connection: Any, _: Any) -> None:
    # SQLAlchemy says BEGIN itself (below): the driver's own begins only before the first write.
    connection.isolation_level = None
    tune(connection)


def _on_begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _failures(path: Path) -> Iterator[None]:
    try:
        yield
    except sa.exc.IntegrityError:
        raise  # a rule of the tables; the caller knows which and says it
    except DBAPIError as error:
        raise ServerFailure(
            "server.database-failed",
            "The server's database cannot be read or written.",
            evidence=[Evidence("SQLite refused", str(path), raw=str(error.orig))],
            remedy="Check free space and permissions of the data folder.",
            retryable=True,
        ) from error
