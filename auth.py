"""Who is calling: from an API key or a token to the identity behind it."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from errors import Conflict, LedgerUnavailable, SwitchedOff, Unauthorized
from identity import ANONYMOUS, SCOPES_OF, UNBOUND, Budget, Identity, Scope
from lru_cache import LRUCache
from security.api_keys import Presented, mac_of, matches, read_key
from security.guesses import Audit, Guesses, unheard
from security.sign_ins import SignIns, Tokens
from security.tokens import ACCESS, BadToken, TokenSigner
from store.account_rows import Holder, Key, KeyFound
from store.rows import MICRO

if TYPE_CHECKING:
    from store.accounts import Accounts
    from store.credentials import Credentials

# An identity is looked up again after so long; by the latest, another thread that does so is not waited for.
FRESH_SECONDS, LATEST_SECONDS = 0.5, 0.9
# While the database is away an identity that was good so lately stays good, and this often somebody tries.
KNOWN_SECONDS, AWAY_SECONDS = 300.0, 4.0
MOST_IDENTITIES = 10_000
USED_EVERY_US = 60 * MICRO
LONGEST_CREDENTIAL = 4096
# What was good once is no guess: a program that still sends it must not lock out everybody at its address.
OVER = frozenset({"revoked", "expired", "inactive"})
# Whoever stole a secret could else take the key over after it was rotated against them.
NOT_WITH_OLD_SECRET = frozenset({Scope.KEYS, Scope.ADMIN})
_BEARER = re.compile(r"bearer +([\x21-\x7e]+)", re.IGNORECASE)
_PLAIN = re.compile(r"[\x21-\x7e]+")
# What clients send that insist on a key where none is needed. Keys of ours and tokens never look like that.
_STOPGAP = re.compile(r"(?!llm_|eyJ)[A-Za-z0-9_-]{1,128}")


class Outside(Protocol):
    """An issuer of tokens that is not us."""

    def speaks(self, token: str) -> bool: ...

    def identity(self, token: str) -> tuple[Identity, float]:
        """Who it is, and until when, in microseconds since 1970. Raises BadToken, LedgerUnavailable."""
        ...


@dataclass(slots=True)
class Known:
    """An identity as it was looked up; moments are those of the timer."""

    identity: Identity
    looked: float
    ends: float
    being_looked_up: bool = False


class Authenticator:
    """A key or token that is known costs a digest and a look into a map.

    It is looked up again twice a second, so that a revocation reaches every process within one.
    """

    def __init__(
        self,
        credentials: Credentials,
        accounts: Accounts,
        sign_ins: SignIns,
        signer: TokenSigner,
        guesses: Guesses,
        pepper: Callable[[], bytes],
        *,
        required: bool,
        bootstrap_token: str = "",
        outside: Outside | None = None,
        audit: Audit = unheard,
        later: Callable[[Callable[[], None]], object] = lambda work: work(),
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._credentials, self._accounts, self._sign_ins = credentials, accounts, sign_ins
        self._signer, self._guesses, self._pepper = signer, guesses, pepper
        self._required, self._bootstrap_token, self._outside = required, bootstrap_token, outside
        self._audit, self._later, self._clock, self._timer = audit, later, clock, timer
        self._known = LRUCache(MOST_IDENTITIES, KNOWN_SECONDS, timer=timer)
        self._away, self._next_try = False, 0.0

    def identify(self, authorization: str | None, api_key: str | None, address: str) -> Identity:
        """The caller behind these headers. Raises Unauthorized, LockedOut, LedgerUnavailable."""
        if api_key is not None and authorization is not None and not authorization.strip():
            authorization = None  # clients that have no token send the header all the same
        if authorization is None and api_key is None:
            if self._required:
                raise self._guesses.refusal("missing", address)
            return ANONYMOUS
        credential = self._credential(authorization, api_key)
        if credential is None:
            raise self._guesses.refusal("shape", address)
        if not self._required and api_key is None and _STOPGAP.fullmatch(credential):
            return ANONYMOUS
        digest = hashlib.sha256(credential.encode()).digest()
        known: Known | None = self._known.peek(digest)
        if known is not None and self._is_good(known):
            return known.identity
        return self._look_up(credential, digest, known, address)

    def warm(self) -> None:
        """Load what the first token would otherwise wait for."""
        import jwt  # noqa: F401

    def sign_in(self, name: str, password: str, address: str) -> Tokens:
        """Raises Unauthorized, LockedOut, LedgerUnavailable, Overloaded."""
        return self._sign_ins.sign_in(name, password, address)

    def refresh(self, token: str, address: str) -> Tokens:
        """The next pair for a refresh token, which is good once. Raises as `sign_in` does."""
        return self._sign_ins.refresh(token, address)

    def revoke(self, token: str, address: str = "") -> None:
        """End the session of an access or refresh token: here at once, elsewhere within a second."""
        self._sign_ins.revoke(token, address)
        self._known.clear()

    def bootstrap(self, token: str, address: str) -> tuple[Key, str]:
        """The first administrator's key and its text, for the ADMIN_BOOTSTRAP_TOKEN, which works once."""
        self._guesses.check(address)
        given, right = (hashlib.sha256(text.encode()) for text in (token, self._bootstrap_token))
        if not hmac.compare_digest(given.digest(), right.digest()) or not self._bootstrap_token:
            raise self._guesses.refusal("bootstrap", address, name="bootstrap")
        try:
            made = self._accounts.bootstrap(f"bootstrap:{right.hexdigest()}")
        except Conflict:
            raise self._guesses.refusal("bootstrap_used", address, name="bootstrap") from None
        self._audit("BOOTSTRAP_USED", "HIGH", {"id": made[0].id, "from": address})
        return made

    def _credential(self, authorization: str | None, api_key: str | None) -> str | None:
        """The one key or token that was sent; None where it cannot be one, or where there are two."""
        bearer = _BEARER.fullmatch(authorization) if authorization is not None else None
        if authorization is not None and bearer is None:
            return None
        sent = {text for text in (bearer and bearer[1], api_key) if text is not None}
        credential = sent.pop()
        if sent or len(credential) > LONGEST_CREDENTIAL or not _PLAIN.fullmatch(credential):
            return None
        return credential

    # Looking up.

    def _is_good(self, known: Known) -> bool:
        """Whether it may be used as it is: it is fresh, or somebody looks it up just now, or nobody can."""
        now = self._timer()
        age = now - known.looked
        if now >= known.ends:
            return False
        if age < FRESH_SECONDS or (known.being_looked_up and age < LATEST_SECONDS):
            return True
        return self._away and not self._is_my_try(now)

    def _is_my_try(self, now: float) -> bool:
        """While the database is away one request at a time finds out whether it still is."""
        if now < self._next_try:
            return False
        self._next_try = now + AWAY_SECONDS
        return True

    def _look_up(self, credential: str, digest: bytes, known: Known | None, address: str) -> Identity:
        looked = self._timer()
        if known is None:
            self._guesses.check(address)
            if self._away and not self._is_my_try(looked):
                raise LedgerUnavailable()
        else:
            known.being_looked_up = True
        try:
            identity, ends_us = self._found(credential)
        except LedgerUnavailable:
            self._away, self._next_try = True, self._timer() + AWAY_SECONDS
            if known is None or self._timer() >= known.ends:
                raise
            return known.identity
        except BadToken as bad:
            self._known.delete(digest)
            is_guess = bad.reason not in OVER
            raise self._guesses.refusal(bad.reason, address, credential, counts=is_guess) from None
        except SwitchedOff:
            raise self._guesses.refusal("switched_off", address) from None
        self._away = False
        ends = looked + ends_us / MICRO - self._clock()
        self._known.put(digest, Known(identity, looked, ends))
        return identity

    def _found(self, credential: str) -> tuple[Identity, float]:
        """The identity, and until when, in microseconds since 1970. Raises BadToken."""
        presented = read_key(credential)
        if presented is not None:
            return self._of_key(presented)
        if not credential.startswith("eyJ"):
            raise BadToken("shape")
        if self._outside is not None and self._outside.speaks(credential):
            return self._outside.identity(credential)
        claims = self._signer.read(credential, (ACCESS,))
        return identity_of_user(self._sign_ins.session_of(claims)[1]), claims.expires * MICRO

    def _of_key(self, presented: Presented) -> tuple[Identity, float]:
        """Every way to a refusal takes one query and two comparisons."""
        mac = mac_of(self._pepper(), presented.id, presented.secret)
        found = self._credentials.key(presented.id)
        is_now = matches(mac, found.mac if found else None)
        is_old = matches(mac, found.old_mac if found else None)
        if found is None or not (is_now or is_old):
            raise BadToken("secret" if found else "unknown")
        now_us, by_old_secret = self._clock() * MICRO, not is_now
        ends_us = _end_of(found.key, by_old_secret)
        if found.key.revoked_us is not None or ends_us <= now_us:
            raise BadToken("revoked" if found.key.revoked_us is not None else "expired")
        if not _is_held(found):
            raise BadToken("inactive")
        if (found.key.last_used_us or 0) + USED_EVERY_US < now_us:
            self._later(lambda: self._credentials.mark_used(presented.id))
        return identity_of_key(found, by_old_secret), ends_us


def _end_of(key: Key, by_old_secret: bool) -> float:
    ends = [key.expires_us, key.old_until_us if by_old_secret else None]
    return min((end for end in ends if end is not None), default=float("inf"))


def _is_held(found: KeyFound) -> bool:
    """A key is good as long as its organisation and its user are; one of no user stands by itself."""
    return found.holder.is_active and (found.holder.user is not None or not found.key.user_id)


def identity_of_key(found: KeyFound, by_old_secret: bool = False) -> Identity:
    """What the key allows, as far as its user is allowed it too; the secret of before a rotation manages nothing."""
    key, user = found.key, found.holder.user
    role = user.role if user and not SCOPES_OF[key.role] <= SCOPES_OF[user.role] else key.role
    scopes = key.scopes & (SCOPES_OF[role] | UNBOUND)
    return Identity(
        tenant=key.organisation,
        scopes=scopes - NOT_WITH_OLD_SECRET if by_old_secret else scopes,
        user_id=key.user_id,
        key_id=key.id,
        role=role,
        models=key.models,
        rate_limit=key.rate_limit,
        budgets=_budgets(key.budget, found.holder),
    )


def identity_of_user(holder: Holder) -> Identity:
    user = holder.user
    if user is None:
        raise Unauthorized("inactive")
    return Identity(
        tenant=holder.organisation.id,
        scopes=SCOPES_OF[user.role],
        user_id=user.id,
        role=user.role,
        budgets=_budgets(None, holder),
    )


def _budgets(own: Budget | None, holder: Holder) -> tuple[Budget, ...]:
    """All of them apply: the key's, its user's, and the organisation's."""
    allowed = (own, holder.user.budget if holder.user else None, holder.organisation.budget)
    return tuple(budget for budget in allowed if budget is not None)
