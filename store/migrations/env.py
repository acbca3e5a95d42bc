"""How Alembic runs our migrations: on the connection that store/db.py hands it, never on one of its own."""

from alembic import context

import store.account_tables  # noqa: F401  its tables belong to the same metadata
from store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
