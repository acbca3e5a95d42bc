"""Tokens of another issuer (OpenID Connect): RS256 under the keys that it publishes at the configured address."""

from __future__ import annotations

import base64
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from account_rules import YEAR_10000_US
from errors import IssuerUnavailable
from identity import OUTSIDE, SCOPES_OF, Identity, Role, Scope
from security.tokens import LONGEST_TOKEN, BadToken
from store.rows import MICRO

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    from store.account_rows import Organisation

log = logging.getLogger("llm_platform")

FETCH_SECONDS, MOST_BYTES = 5.0, 256 * 1024
# Keys are fetched again after an hour, and for a key that is not known at most once a minute.
KEEP_SECONDS, AGAIN_SECONDS = 3600.0, 60.0
LEEWAY_SECONDS = 10
FEWEST_BITS = 2048
CLAIMS = ("exp", "iat", "aud", "iss", "sub")
# The one thing that a token may say of the key is its name; addresses and keys of its own are not looked at.
HEADER_FIELDS = {"alg", "typ", "kid"}


class KeySet:
    """The issuer's keys by name, as far as they are for RS256."""

    def __init__(self, url: str, timer: Callable[[], float] = time.monotonic) -> None:
        self._url, self._timer = url, timer
        self._lock = threading.Lock()
        self._keys: dict[str, RSAPublicKey] = {}
        self._fetched = self._tried = -KEEP_SECONDS

    def key(self, name: str) -> RSAPublicKey:
        """Raises BadToken for a key that the issuer has not, and IssuerUnavailable where it was never heard."""
        found = self._keys.get(name)
        if found is None or self._timer() - self._fetched > KEEP_SECONDS:
            self._fetch()
            found = self._keys.get(name)
        if found is not None:
            return found
        if not self._keys:
            raise IssuerUnavailable()
        raise BadToken("kid")

    def _fetch(self) -> None:
        with self._lock:
            if self._timer() - self._tried < AGAIN_SECONDS:
                return
            self._tried = self._timer()
            try:
                self._keys = _keys_of(_fetched(self._url))
                self._fetched = self._timer()
            except (ValueError, KeyError, TypeError, RecursionError) as failure:
                log.warning("the keys of OIDC_JWKS_URL cannot be had: %s", failure)


class OutsideIssuer:
    """Its users are administrators, developers or viewers as a claim says. organisation_claim: the one that names their
    organisation; empty: whatever a token says, all of them are of `organisation`."""

    def __init__(
        self,
        keys: KeySet,
        organisation_named: Callable[[str], Organisation | None],
        *,
        issuer: str,
        audience: str,
        role_claim: str,
        organisation_claim: str,
        organisation: str,
    ) -> None:
        self._keys, self._organisation_named = keys, organisation_named
        self._issuer, self._audience = issuer, audience
        self._role_claim, self._organisation_claim = role_claim, organisation_claim
        self._organisation = organisation

    def speaks(self, token: str) -> bool:
        """Whether the token says that it is under RS256; ours never are."""
        import jwt

        try:
            return bool(jwt.get_unverified_header(token).get("alg") == "RS256")
        except (jwt.PyJWTError, ValueError):
            return False

    def identity(self, token: str) -> tuple[Identity, float]:
        """Who it is, and until when, in microseconds since 1970. Raises BadToken, IssuerUnavailable, LedgerUnavailable."""
        claims = self._verified(token)
        ends_us = _end_of(claims["exp"])
        found = self._organisation_of(claims)
        role = role_of(claims.get(self._role_claim))
        # A subject with half a surrogate pair is as good as another.
        subject = f"{self._issuer}\n{claims['sub']}".encode(errors="surrogatepass")
        user_id = OUTSIDE + hashlib.sha256(subject).hexdigest()[:24]
        # They are no users of ours, so that no key of ours would end with them.
        scopes = SCOPES_OF[role] if role is Role.ADMIN else SCOPES_OF[role] - {Scope.KEYS}
        budgets = (found.budget,) if found.budget else ()
        return Identity(found.id, scopes, user_id, role=role, budgets=budgets), ends_us

    def _organisation_of(self, claims: Mapping[str, Any]) -> Organisation:
        chosen = self._organisation_claim
        named = claims.get(chosen, self._organisation) if chosen else self._organisation
        found = self._organisation_named(named) if isinstance(named, str) and named.isprintable() else None
        if found is None:
            raise BadToken("organisation")
        if not found.active:
            raise BadToken("inactive")
        return found

    def _verified(self, token: str) -> dict[str, Any]:
        import jwt

        if len(token) > LONGEST_TOKEN:
            raise BadToken("length")
        try:
            header = jwt.get_unverified_header(token)
            if not header.keys() <= HEADER_FIELDS or not isinstance(header.get("kid"), str):
                raise BadToken("header")
            return jwt.decode(
                token,
                self._keys.key(header["kid"]),
                algorithms=["RS256"],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": list(CLAIMS)},
            )
        except jwt.ExpiredSignatureError:
            raise BadToken("expired") from None
        except (jwt.PyJWTError, ValueError):
            raise BadToken("token") from None


def role_of(claim: Any) -> Role:
    """The highest role that the claim names, alone or in a list; else that which can do least."""
    named = claim if isinstance(claim, list) else [claim]
    return next((role for role in Role if role.value in named), Role.VIEWER)


def _end_of(exp: Any) -> float:
    """When a token ends, in microseconds since 1970. PyJWT lets through text and numbers of any size."""
    if not isinstance(exp, int | float) or not exp * MICRO < YEAR_10000_US:
        raise BadToken("claims")
    return exp * MICRO


def _fetched(url: str) -> Any:
    """The document at the address, within bounds of time and size; no redirect is followed, no proxy used."""
    import httpcore
    import httpx

    from providers.transport import BoundedTransport, ReplyTooLarge

    lost = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, httpx.HTTPError)
    transport = BoundedTransport(1, max_bytes=MOST_BYTES)
    try:
        with httpx.Client(transport=transport, timeout=FETCH_SECONDS, trust_env=False) as client:
            reply = client.get(url)
    except (*lost, ReplyTooLarge, OSError) as failure:
        raise ValueError(type(failure).__name__) from failure
    if reply.status_code != 200:
        raise ValueError(f"status {reply.status_code}")
    return reply.json()


def _keys_of(document: Any) -> dict[str, RSAPublicKey]:
    """Entries that cannot be used are passed over, as RFC 7517 has it: the others are good as they are."""
    entries = [entry for entry in document["keys"] if isinstance(entry, dict) and _is_for_us(entry)]
    keys = {entry["kid"]: _public_key(entry) for entry in entries}
    return {name: key for name, key in keys.items() if key is not None and key.key_size >= FEWEST_BITS}


def _is_for_us(entry: Mapping[str, Any]) -> bool:
    use = entry.get("use", "sig"), entry.get("alg", "RS256")
    return entry.get("kty") == "RSA" and use == ("sig", "RS256") and isinstance(entry.get("kid"), str)


def _public_key(entry: Mapping[str, str]) -> RSAPublicKey | None:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

    try:
        exponent, modulus = (int.from_bytes(_bytes(entry[name])) for name in ("e", "n"))
        return RSAPublicNumbers(exponent, modulus).public_key()
    except (ValueError, KeyError, TypeError):
        return None


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
