"""Keys of providers that are kept in the database: always sealed, and read at the start of a process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select

from errors import NotThere
from security.sealing import CannotOpen, Sealing
from store.account_tables import vault
from store.rows import MICRO

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

# Other things are kept in the same table under other names.
PREFIX = "provider-key:"


@dataclass(frozen=True, slots=True)
class KeptKey:
    """What may be shown of a key. opens: whether an encryption key at hand does so."""

    provider: str
    changed_us: int
    opens: bool


class Vault:
    """The keys, on one connection."""

    def __init__(
        self, connection: Connection, sealing: Sealing, clock: Callable[[], float] = time.time
    ) -> None:
        self._connection, self._sealing, self._clock = connection, sealing, clock

    def put(self, provider: str, key: str) -> bool:
        """Keep a key; whether it took the place of another."""
        was_there = self._delete(provider)
        kept = self._sealing.seal(key.encode())
        now = round(self._clock() * MICRO)
        self._connection.execute(insert(vault).values(name=PREFIX + provider, sealed=kept, changed_us=now))
        return was_there

    def key(self, provider: str) -> str | None:
        """Raises CannotOpen."""
        query = select(vault.c.sealed).where(vault.c.name == PREFIX + provider)
        kept = self._connection.scalar(query)
        return None if kept is None else self._sealing.open(bytes(kept), where_of(provider)).decode()

    def remove(self, provider: str) -> None:
        """Raises NotThere."""
        if not self._delete(provider):
            raise NotThere(f"No key of {provider} is kept.")

    def kept(self) -> list[KeptKey]:
        query = select(vault).where(vault.c.name.startswith(PREFIX, autoescape=True)).order_by(vault.c.name)
        names = [(row.name.removeprefix(PREFIX), row.changed_us) for row in self._connection.execute(query)]
        return [KeptKey(name, changed_us, self._opens(name)) for name, changed_us in names]

    def _opens(self, provider: str) -> bool:
        try:
            return self.key(provider) is not None
        except CannotOpen:
            return False

    def _delete(self, provider: str) -> bool:
        gone = self._connection.execute(delete(vault).where(vault.c.name == PREFIX + provider))
        return gone.rowcount > 0


def where_of(provider: str) -> str:
    return f"The key of {provider} in vault {PREFIX}{provider}"
