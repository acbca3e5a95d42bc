"""Lists of keys and users, a page at a time, in the order in which they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, false, or_, select, tuple_

from errors import InvalidInput
from identity import Identity, Scope
from store.account_tables import api_keys, users

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Table

    from store.patient import Patient

Rows = Sequence[Mapping[str, Any]]


def keys_page(database: Patient, by: Identity, after: str, size: int) -> tuple[Rows, str]:
    """The keys that `by` may see and change, after the one of that id; and the id after which there are more, if any."""
    mine: list[ColumnElement[bool]] = [api_keys.c.organisation == by.tenant]
    if Scope.ADMIN not in by.scopes:
        mine.append(_own(by))
    return _page(database, api_keys, mine, after, size)


def _own(by: Identity) -> ColumnElement[bool]:
    """The keys of one's user, else the key itself, and those of no user that it made."""
    columns = api_keys.c
    if by.user_id:
        return columns.user_id == by.user_id
    if not by.key_id:
        return false()
    return and_(columns.user_id == "", or_(columns.id == by.key_id, columns.made_by == by.key_id))


def users_page(database: Patient, by: Identity, after: str, size: int) -> tuple[Rows, str]:
    """The same for the users of the organisation."""
    return _page(database, users, [users.c.organisation == by.tenant], after, size)


def _page(
    database: Patient, table: Table, mine: list[ColumnElement[bool]], after: str, size: int
) -> tuple[Rows, str]:
    place = tuple_(table.c.created_us, table.c.id)
    query = select(table).where(*mine).order_by(table.c.created_us, table.c.id).limit(size + 1)
    with database.look() as connection:
        if after:
            last = select(table.c.created_us, table.c.id).where(*mine, table.c.id == after)
            seen = connection.execute(last).one_or_none()
            if seen is None:
                raise InvalidInput(
                    "`after` must be the `next` of the page before. Leave it out to begin.", field="after"
                )
            query = query.where(place > tuple_(*seen))
        rows = [dict(row) for row in connection.execute(query).mappings()]
    return rows[:size], str(rows[size - 1]["id"]) if len(rows) > size else ""
