"""Organisations that are locked"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005_locked_organisations"
down_revision = "0004_request_ids"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "organisations", sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False)
    )


def downgrade() -> None:
    op.drop_column("organisations", "active")
