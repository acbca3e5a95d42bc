"""Sealing what is kept: under the newest of the operator's encryption keys, opened by any of them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.fernet import Fernet, MultiFernet

# What is sealed begins with the first; what is not, and would be taken for it, with the second.
SEALED, PLAIN = b"sealed:", b"plain:"


class CannotOpen(Exception):
    """No key at hand opens it; the message is a sentence for operators that says what and where."""

    sentence = (
        "cannot be opened by any key of ENCRYPTION_KEYS. Put the key that sealed it back into the list."
    )

    def __init__(self, where: str) -> None:
        super().__init__(f"{where} {self.sentence}")
        self.where = where


class Displaced(CannotOpen):
    """It opens, and is not what was kept there."""

    sentence = (
        "is not what was kept there: an earlier version kept it, or somebody changed or moved it in the database. "
        "Delete that row if its caller may be served anew, which costs again."
    )


class Sealing:
    """Without keys things are kept as they are, and what was sealed before stays closed."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._keys = tuple(keys)

    def seal(self, data: bytes) -> bytes:
        if self._keys:
            return SEALED + self._all.encrypt(data)
        return PLAIN + data if data.startswith((SEALED, PLAIN)) else data

    def open(self, kept: bytes, where: str) -> bytes:
        """What was sealed; `where` names its place. Raises CannotOpen."""
        if not kept.startswith(SEALED):
            return kept.removeprefix(PLAIN)
        data = self._opened(kept.removeprefix(SEALED), self._all if self._keys else None)
        if data is None:
            raise CannotOpen(where)
        return data

    def seal_text(self, text: str) -> str:
        return self.seal(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")

    def open_text(self, kept: str, where: str) -> str:
        """Raises CannotOpen."""
        return self.open(kept.encode("utf-8", "surrogatepass"), where).decode("utf-8", "surrogatepass")

    def is_newest(self, kept: bytes) -> bool:
        """Whether the newest key sealed it."""
        return kept.startswith(SEALED) and self._opened(kept.removeprefix(SEALED), self._newest) is not None

    @staticmethod
    def _opened(token: bytes, keys: Fernet | MultiFernet | None) -> bytes | None:
        from cryptography.fernet import InvalidToken

        try:
            return keys.decrypt(token) if keys else None
        except InvalidToken:
            return None

    @functools.cached_property
    def _newest(self) -> Fernet:
        from cryptography.fernet import Fernet

        return Fernet(self._keys[0])

    @functools.cached_property
    def _all(self) -> MultiFernet:
        from cryptography.fernet import Fernet, MultiFernet

        return MultiFernet([Fernet(key) for key in self._keys])


def new_key() -> str:
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode()
