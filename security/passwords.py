"""Passwords: scrypt, a few at a time, because each takes 32 MB and a tenth of a second on purpose."""

from __future__ import annotations

import functools
import secrets
import threading

from werkzeug.security import check_password_hash, generate_password_hash

from errors import Overloaded

AT_ONCE, PATIENCE_SECONDS = 4, 5.0


def hashed(password: str) -> str:
    return generate_password_hash(password, "scrypt")


class Passwords:
    """Checks them; Overloaded where too many wait for it."""

    def __init__(self, patience: float = PATIENCE_SECONDS) -> None:
        self._room, self._patience = threading.BoundedSemaphore(AT_ONCE), patience

    def check(self, password: str, kept: str | None) -> bool:
        """Takes as long where there is nothing to compare with."""
        if not self._room.acquire(timeout=self._patience):
            raise Overloaded()
        # JSON can carry half a surrogate pair, scrypt cannot; no password that is kept has one.
        password = password.encode(errors="backslashreplace").decode()
        try:
            return check_password_hash(kept or _somebodys(), password) and kept is not None
        finally:
            self._room.release()


@functools.cache
def _somebodys() -> str:
    return hashed(secrets.token_urlsafe())
