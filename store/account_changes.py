"""A change of organisations, users and keys: its statements, and the audit lines that tell of it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import insert, select, update

from errors import NotThere
from identity import Identity, Role
from store.account_rows import Key, Organisation, Thing, User, organisation_from, told
from store.account_tables import organisations, sessions

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.engine import Connection

Columns = dict[str, Any]
Made = TypeVar("Made", Organisation, User, Key)
# Event, severity, details.
Line = tuple[str, str, dict[str, Any]]

_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")
_KINDS = {"organisations": "ORGANISATION", "users": "USER", "api_keys": "KEY"}


@dataclass(slots=True)
class Change:
    """One transaction, and who makes it."""

    connection: Connection
    by: Identity
    now_us: int
    lines: list[Line] = field(default_factory=list)

    def add(self, table: Table, columns: Columns, read: Callable[[Mapping[str, Any]], Made]) -> Made:
        columns = {"id": secrets.token_hex(8), "created_us": self.now_us, **columns}
        self.connection.execute(insert(table).values(columns))
        made = read(self.row(table, str(columns["id"])))
        self._note(f"{_KINDS[table.name]}_CREATED", made, None)
        return made

    def alter(
        self,
        table: Table,
        before: Made,
        columns: Columns,
        read: Callable[[Mapping[str, Any]], Made],
        *,
        event: str = "",
        unseen: str = "",
    ) -> Made:
        """unseen: what changes besides, and no line may show. What was like that before is no line."""
        if columns:
            self.connection.execute(update(table).where(table.c.id == before.id).values(columns))
        after = read(self.row(table, before.id))
        if event or unseen or after != before:
            self._note(event or f"{_KINDS[table.name]}_CHANGED", after, before, unseen)
        return after

    def row(self, table: Table, row_id: str) -> Columns:
        """One row, held against others who would change it meanwhile. Raises NotThere."""
        return row_of(self.connection, table, row_id, hold=True)

    def named_organisation(self, name: str) -> Organisation:
        """The organisation of that name, made if there is none."""
        query = select(organisations).where(organisations.c.name == name)
        found = self.connection.execute(query).mappings().one_or_none()
        if found is not None:
            return organisation_from(dict(found))
        return self.add(organisations, {"name": name}, organisation_from)

    def end_sessions(self, user_id: str) -> None:
        still_on = (sessions.c.user_id == user_id) & sessions.c.revoked_us.is_(None)
        self.connection.execute(update(sessions).where(still_on).values(revoked_us=self.now_us))

    def _note(self, event: str, after: Thing, before: Thing | None, unseen: str = "") -> None:
        was, now = told(before) if before else {}, told(after)
        changed = [name for name in now if was.get(name) != now[name]]
        details: dict[str, Any] = {
            "by": self.by.name.partition(":")[0],
            "by_id": self.by.key_id or self.by.user_id,
            "id": after.id,
            "from": {name: was[name] for name in changed if name in was},
            "to": {name: now[name] for name in changed},
        }
        if unseen:
            details["also"] = unseen
        roles = [getattr(each, "role", None) for each in (before, after)]
        is_locking = isinstance(after, Organisation) and before is not None and "active" in changed
        severity = "HIGH" if Role.ADMIN in roles or is_locking else "MEDIUM"
        self.lines.append((event, severity, details))


def row_of(connection: Connection, table: Table, row_id: str, *, hold: bool = False) -> Columns:
    """One row. Raises NotThere."""
    if not _ID.fullmatch(row_id):  # PostgreSQL would not even compare some of what stands in an address
        raise NotThere()
    query = select(table).where(table.c.id == row_id)
    found = connection.execute(query.with_for_update() if hold else query).mappings().one_or_none()
    if found is None:
        raise NotThere()
    return dict(found)
