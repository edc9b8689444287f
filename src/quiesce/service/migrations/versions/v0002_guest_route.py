"""The guest route: which agent a VM has, what is kept of it, and the packages shipped so far."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Columns are added one by one and not by a batch: that would write `vms` anew, and dropping
    # the old one would cascade into `protection`.
    op.add_column("vms", sa.Column("agent", sa.Text, nullable=False, server_default="qga"))
    op.add_column("vms", sa.Column("guest_address", sa.Text, nullable=False, server_default=""))
    op.add_column("vms", sa.Column("proxy", sa.Text))
    op.create_table(
        "agents",
        sa.Column("vm", sa.Text, sa.ForeignKey("vms.name", ondelete="CASCADE"), primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("seen_at", sa.DateTime),
    )
    op.create_table(
        "packages",
        sa.Column("build", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("digest", sa.Text, nullable=False, unique=True),
        sqlite_autoincrement=True,
    )
