"""Keys of providers that are kept in the database: always sealed, and read at the start of a process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
from sqlalchemy import delete, insert, select

from errors import NotThere
from security.sealing import SEALED, CannotOpen, Sealing
from store.account_tables import vault
from store.rows import MICRO

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

# Other things are kept in the same table under other names.
PREFIX = "provider-key:"


class NotItsKey(CannotOpen):
    """It opens, and was not sealed for this row."""

    sentence = (
        "was not kept for this provider: somebody changed or moved it in the database, or an earlier version kept it. "
        "Remove it with `python cli.py remove-provider-key`."
    )


@dataclass(frozen=True, slots=True)
class KeptKey:
    """What may be shown of a key. closed: why it cannot be used, if so."""

    provider: str
    changed_us: int
    closed: CannotOpen | None


class Vault:
    """The keys, on one connection."""

    def __init__(
        self, connection: Connection, sealing: Sealing, clock: Callable[[], float] = time.time
    ) -> None:
        self._connection, self._sealing, self._clock = connection, sealing, clock

    def put(self, provider: str, key: str) -> bool:
        """Keep a key; whether it took the place of another."""
        was_there = self._delete(provider)
        # Its name is sealed with it: one provider would else be sent another's key by whoever swaps two rows.
        kept = self._sealing.seal(orjson.dumps([PREFIX + provider, key]))
        now = round(self._clock() * MICRO)
        self._connection.execute(insert(vault).values(name=PREFIX + provider, sealed=kept, changed_us=now))
        return was_there

    def key(self, provider: str) -> str | None:
        """Raises CannotOpen."""
        query = select(vault.c.sealed).where(vault.c.name == PREFIX + provider)
        kept = self._connection.scalar(query)
        return None if kept is None else self._opened(bytes(kept), provider)

    def remove(self, provider: str) -> None:
        """Raises NotThere."""
        if not self._delete(provider):
            raise NotThere(f"No key of {provider} is kept.")

    def kept(self) -> list[KeptKey]:
        query = select(vault).where(vault.c.name.startswith(PREFIX, autoescape=True)).order_by(vault.c.name)
        names = [(row.name.removeprefix(PREFIX), row.changed_us) for row in self._connection.execute(query)]
        return [KeptKey(name, changed_us, self._closed(name)) for name, changed_us in names]

    def _closed(self, provider: str) -> CannotOpen | None:
        try:
            self.key(provider)
        except CannotOpen as closed:
            return closed
        return None

    def _opened(self, kept: bytes, provider: str) -> str:
        where = where_of(provider)
        if not kept.startswith(SEALED):  # we keep none that is not
            raise NotItsKey(where)
        key = _key_of(self._sealing.open(kept, where), PREFIX + provider)
        if key is None:
            raise NotItsKey(where)
        return key

    def _delete(self, provider: str) -> bool:
        gone = self._connection.execute(delete(vault).where(vault.c.name == PREFIX + provider))
        return gone.rowcount > 0


def _key_of(opened: bytes, name: str) -> str | None:
    """The key that was sealed under that name; None for anything else."""
    try:
        named, key = orjson.loads(opened)
    except (ValueError, TypeError):
        return None
    return key if named == name and isinstance(key, str) else None


def where_of(provider: str) -> str:
    return f"The key of {provider} in vault {PREFIX}{provider}"
