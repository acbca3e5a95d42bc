"""Sessions of users: a password for a pair of tokens, a refresh token for the next pair, and the end of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import account_rules
from errors import InvalidInput
from security.guesses import Audit, Guesses, unheard
from security.tokens import ACCESS, REFRESH, BadToken, Claims, TokenSigner
from store.account_rows import Holder, Session
from store.rows import MICRO

if TYPE_CHECKING:
    from security.passwords import Passwords
    from store.credentials import Credentials


@dataclass(frozen=True, slots=True)
class Tokens:
    """access: for the header Authorization, for expires_in seconds. refresh: good once, for the next pair."""

    access: str
    refresh: str
    expires_in: int


class SignIns:
    """What ends a session is seen by every process when it next looks."""

    def __init__(
        self,
        credentials: Credentials,
        signer: TokenSigner,
        passwords: Passwords,
        guesses: Guesses,
        *,
        access_seconds: int,
        refresh_seconds: int,
        audit: Audit = unheard,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._credentials, self._signer, self._passwords = credentials, signer, passwords
        self._guesses, self._audit, self._clock = guesses, audit, clock
        self._access_seconds, self._refresh_seconds = access_seconds, refresh_seconds

    def sign_in(self, name: str, password: str, address: str) -> Tokens:
        self._signer.keys()  # without them nobody can sign in, and none should try
        name = _folded(name)
        self._guesses.check(address, name)
        found = self._credentials.password(name) if name else None
        is_right = self._passwords.check(password, found[1] if found else None)
        if found is None or not is_right:
            raise self._guesses.refusal("password", address, name=name or "?")
        self._guesses.signed_in(name, address)
        session = self._credentials.open_session(found[0], self._refresh_seconds)
        self._audit("SIGNED_IN", "LOW", {"user_id": session.user_id, "session": session.id})
        return self._tokens(session, session.refresh_id)

    def refresh(self, token: str, address: str) -> Tokens:
        """A refresh token that comes a second time ends its session: one of the two who have it is a thief."""
        claims, (session, _) = self._session(token, (REFRESH,), address)
        following = self._credentials.turn_session(session.id, claims.token_id)
        if following is None:
            self._audit("TOKEN_REUSED", "HIGH", {"user_id": session.user_id, "session": session.id})
            raise self._guesses.refusal("reused", address)
        return self._tokens(session, following)

    def revoke(self, token: str, address: str) -> None:
        """The end of the session of an access or refresh token."""
        _, (session, _) = self._session(token, (ACCESS, REFRESH), address)
        self._credentials.end_session(session.id)
        self._audit("SESSION_ENDED", "MEDIUM", {"user_id": session.user_id, "session": session.id})

    def session_of(self, claims: Claims) -> tuple[Session, Holder]:
        """The session of a good token. Raises BadToken, where it is over."""
        found = self._credentials.session(claims.session_id)
        if found is None or found[0].user_id != claims.user_id:
            raise BadToken("unknown")
        session, holder = found
        if session.revoked_us is not None or session.expires_us <= self._clock() * MICRO:
            raise BadToken("revoked")
        if holder.user is None or not holder.is_active:
            raise BadToken("inactive")
        return session, holder

    def _session(
        self, token: str, uses: tuple[str, ...], address: str
    ) -> tuple[Claims, tuple[Session, Holder]]:
        try:
            claims = self._signer.read(token, uses)
            return claims, self.session_of(claims)
        except BadToken as bad:
            raise self._guesses.refusal(bad.reason, address) from None

    def _tokens(self, session: Session, refresh_id: str) -> Tokens:
        left = session.expires_us / MICRO - self._clock()
        seconds = int(min(self._access_seconds, left))
        return Tokens(
            self._signer.sign(ACCESS, session.user_id, session.id, seconds),
            self._signer.sign(REFRESH, session.user_id, session.id, left, refresh_id),
            seconds,
        )


def _folded(name: str) -> str:
    """The name as it is kept; empty where no user can have it."""
    try:
        return account_rules.user_name(name)
    except InvalidInput:
        return ""
