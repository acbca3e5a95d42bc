"""A request id is one tenant's own: another tenant may send the same"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004_request_ids"
down_revision = "0003_accounts"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _lock()
    with op.batch_alter_table("requests") as rows:
        rows.drop_constraint("uq_requests_request_id", type_="unique")
    # Built when the rows are there, which takes a fraction of the time; and SQLite can drop an index of its own.
    op.create_index(op.f("ix_requests_request_id_tenant"), "requests", ["request_id", "tenant"], unique=True)
    with op.batch_alter_table("feedback") as feedback:
        feedback.drop_constraint("pk_feedback", type_="primary")
        feedback.create_primary_key(op.f("pk_feedback"), ["request_id", "tenant", "category"])


def downgrade() -> None:
    _lock()
    _rename_what_meets()
    op.drop_index(op.f("ix_requests_request_id_tenant"), table_name="requests")
    with op.batch_alter_table("requests") as rows:
        rows.create_unique_constraint(op.f("uq_requests_request_id"), ["request_id"])
    # The key of feedback stays: a longer one is in no older version's way.


def _lock() -> None:
    """From the start: two locks, one after the other, could wait in a circle with a living instance."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("LOCK TABLE requests, feedback IN ACCESS EXCLUSIVE MODE")
    else:  # a table is made anew, and texts of the old one would stay in the file, whatever is sealed later
        op.execute("PRAGMA secure_delete=ON")


def _rename_what_meets() -> None:
    """The first keeps the id; the others get the name that they would have had before, with what was said of them."""
    connection = op.get_bind()
    meeting = sa.text(
        "SELECT seq, request_id, tenant, mark FROM requests AS later WHERE EXISTS (SELECT 1 FROM requests AS first "
        "WHERE first.request_id = later.request_id AND first.seq < later.seq)"
    )
    for seq, request_id, tenant, mark in connection.execute(meeting).all():
        told = {"seq": seq, "id": request_id, "tenant": tenant, "name": f"{request_id}~{mark:x}"}
        connection.execute(sa.text("UPDATE requests SET request_id = :name WHERE seq = :seq"), told)
        connection.execute(
            sa.text("UPDATE feedback SET request_id = :name WHERE request_id = :id AND tenant = :tenant"),
            told,
        )
