"""Run by Alembic for `Database.migrate`, which hands over its connection."""

from alembic import context

from quiesce.service.database import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite alters a table by writing it anew.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
