"""First tables: vms, policies, protection, jobs, job_log."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "vms",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("qmp_socket", sa.Text, nullable=False),
        sa.Column("qga_socket", sa.Text),
        sa.Column("image_files", sa.Text, nullable=False),
        sa.Column("added_at", sa.DateTime, nullable=False),
        sa.Column("last_seen", sa.Text),
        sa.Column("seen_at", sa.DateTime),
    )
    op.create_table(
        "policies",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("rules", sa.Text, nullable=False),
    )
    op.create_table(
        "protection",
        sa.Column("vm", sa.Text, sa.ForeignKey("vms.name", ondelete="CASCADE"), primary_key=True),
        sa.Column("policy", sa.Text, sa.ForeignKey("policies.name"), nullable=False),
        sa.Column("served_until", sa.DateTime, nullable=False),
    )
    op.create_index("ix_protection_policy", "protection", ["policy"])
    op.create_table(
        "jobs",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("vm", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("slot", sa.Text, unique=True),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_jobs_vm", "jobs", ["vm"])
    op.create_index("ix_jobs_status", "jobs", ["status"])
    op.create_table(
        "job_log",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("job", sa.Text, sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("level", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
    )
    op.create_index("job_log_by_job", "job_log", ["job", "number"])
