"""Everything that is kept sealed, sealed anew with the newest key: in small transactions, as often as one likes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, or_, select, update

from security.sealing import SEALED, CannotOpen, Sealing
from store.account_tables import replays, vault
from store.tables import requests
from store.vault import PREFIX

if TYPE_CHECKING:
    from sqlalchemy import Column, Table
    from sqlalchemy.engine import Connection

    from store.patient import Patient

# Rows in one transaction: requests that write meanwhile wait for no more than that.
PAGE = 50

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Columns whose values are sealed, and the key of their table, by which it is walked."""

    table: Table
    key: Column[Any]
    columns: tuple[Column[Any], ...]
    # What else tells a row's name to people.
    named: tuple[Column[Any], ...] = ()

    @property
    def rows(self) -> Any:
        """Those that hold something to be sealed."""
        held = or_(*(column.is_not(None) for column in self.columns))
        return held & self.key.startswith(PREFIX, autoescape=True) if self.table is vault else held

    def name_of(self, row: Any) -> str:
        more = "".join(f" ({row[column.name]})" for column in self.named)
        return f"{self.table.name} {row[self.key.name]}{more}"


PLACES = (
    Place(vault, vault.c.name, (vault.c.sealed,)),
    Place(replays, replays.c.name, (replays.c.reply,)),
    Place(requests, requests.c.seq, (requests.c.prompt, requests.c.response), (requests.c.request_id,)),
)


@dataclass(slots=True)
class Resealed:
    """What a round came to. unopened: names of rows that no key opens; they stay as they are."""

    looked_at: int = 0
    resealed: int = 0
    unopened: list[str] = field(default_factory=list)


def reseal(database: Patient, sealing: Sealing, progress: Progress) -> Resealed:
    """What the newest key has sealed already is left alone, so a round that was broken off is soon made up for."""
    found = Resealed()
    with database.look() as connection:
        whole = sum(_count(connection, place) for place in PLACES)
    for place in PLACES:
        last: Any = None
        while True:
            with database.change() as connection:
                _wipe_what_is_replaced(connection)
                last = _page(connection, place, last, sealing, found)
            progress(found.looked_at, whole)
            if last is None:
                break
    with database.look() as connection:
        if connection.dialect.name == "sqlite":  # the journal may hold it too
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").all()
    return found


def _wipe_what_is_replaced(connection: Connection) -> None:
    """SQLite would leave it in its file, where it might be read."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA secure_delete=ON")


def _count(connection: Connection, place: Place) -> int:
    return int(connection.scalar(select(func.count()).select_from(place.table).where(place.rows)) or 0)


def _page(connection: Connection, place: Place, last: Any, sealing: Sealing, found: Resealed) -> Any:
    """The key of the last row that was looked at; None where no page of them is left: a few new ones come all the time."""
    query = select(place.key, *place.named, *place.columns).where(place.rows)
    if last is not None:
        query = query.where(place.key > last)
    page = connection.execute(query.order_by(place.key).limit(PAGE).with_for_update()).mappings().all()
    for row in page:
        _row(connection, place, row, sealing, found)
    return page[-1][place.key.name] if len(page) == PAGE else None


def _row(connection: Connection, place: Place, row: Any, sealing: Sealing, found: Resealed) -> None:
    found.looked_at += 1
    if place.table is vault and not bytes(row[vault.c.sealed.name]).startswith(SEALED):
        return  # none of ours: to seal it would vouch for it
    try:
        values = {
            column.name: _anew(row[column.name], place.name_of(row), sealing) for column in place.columns
        }
    except CannotOpen as closed:
        found.unopened.append(closed.where)
        return
    changed = {name: value for name, value in values.items() if value is not None}
    if changed:
        connection.execute(update(place.table).where(place.key == row[place.key.name]).values(changed))
        found.resealed += 1


def _anew(kept: str | bytes | None, where: str, sealing: Sealing) -> str | bytes | None:
    """The same under the newest key; None where there is nothing to do. Raises CannotOpen."""
    if kept is None:
        return None
    if isinstance(kept, str):
        fresh = _anew(kept.encode("utf-8", "surrogatepass"), where, sealing)
        return fresh.decode() if isinstance(fresh, bytes) else None
    kept = bytes(kept)
    return None if sealing.is_newest(kept) else sealing.seal(sealing.open(kept, where))
