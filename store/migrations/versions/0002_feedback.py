"""Feedback on classifications, and what is needed to judge them by it"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002_feedback"
down_revision = "0001_ledger"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Without a default, so that no row of a large ledger is touched.
    op.add_column("requests", sa.Column("classified", sa.Text(), nullable=True))
    op.create_table(
        "feedback",
        sa.Column("request_id", sa.String(length=160), nullable=False),
        sa.Column("category", sa.String(length=100), nullable=False),
        sa.Column("tenant", sa.String(length=100), nullable=False),
        sa.Column("correct", sa.Boolean(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("request_id", "category", name=op.f("pk_feedback")),
    )
    op.create_index(
        op.f("ix_feedback_tenant_category_correct"), "feedback", ["tenant", "category", "correct"]
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_feedback_tenant_category_correct"), table_name="feedback")
    op.drop_table("feedback")
    op.drop_column("requests", "classified")
