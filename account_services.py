"""Where the objects of accounts meet: for the platform, and for its commands, which need nothing else."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from auth import Authenticator
from config import Settings
from errors import LedgerUnavailable, SwitchedOff
from security.guesses import Audit, Guesses
from security.kept_secret import kept_secret
from security.oidc import KeySet, OutsideIssuer
from security.passwords import Passwords
from security.sign_ins import SignIns
from security.tokens import TokenSigner
from store.accounts import Accounts
from store.credentials import Credentials

if TYPE_CHECKING:
    from store.patient import Patient


def build_accounts(settings: Settings, database: Patient, audit: Audit) -> Accounts:
    return Accounts(database, pepper_of(settings), audit=audit)


def build_auth(
    settings: Settings,
    database: Patient,
    accounts: Accounts,
    audit: Audit,
    later: Callable[[Callable[[], None]], object],
    *,
    clock: Callable[[], float] = time.time,
    timer: Callable[[], float] = time.monotonic,
) -> Authenticator:
    """later: carries out what no request should wait for."""
    credentials, guesses = Credentials(database, clock), Guesses(audit, timer)
    signer = TokenSigner(signing_keys_of(settings), clock)
    sign_ins = SignIns(
        credentials,
        signer,
        Passwords(),
        guesses,
        access_seconds=settings.access_token_seconds,
        refresh_seconds=settings.refresh_token_seconds,
        audit=audit,
        clock=clock,
    )
    return Authenticator(
        credentials,
        accounts,
        sign_ins,
        signer,
        guesses,
        pepper_of(settings),
        required=settings.auth == "required",
        bootstrap_token=settings.admin_bootstrap_token,
        outside=_outside(settings, credentials),
        audit=audit,
        later=later,
        clock=clock,
        timer=timer,
    )


def pepper_of(settings: Settings) -> Callable[[], bytes]:
    """The pepper of API keys, made at first use where one process has the database to itself."""
    return lambda: _secret_of(settings, "API_KEY_PEPPER", settings.api_key_pepper, "API keys are")


def signing_keys_of(settings: Settings) -> Callable[[], Sequence[bytes]]:
    """The keys that sign tokens, the newest first."""
    if settings.jwt_secret_key:
        keys = [key.encode() for key in settings.jwt_secret_key]
        return lambda: keys
    return lambda: [_secret_of(settings, "JWT_SECRET_KEY", "", "Signing in is")]


def _secret_of(settings: Settings, name: str, value: str, what: str) -> bytes:
    if value:
        return value.encode()
    if settings.on_postgresql:
        raise SwitchedOff(f"{what} switched off here: with PostgreSQL the operator has to set {name}.")
    return _kept(Path(settings.data_dir) / name.lower())


@functools.cache
def _kept(path: Path) -> bytes:
    try:
        return kept_secret(path)
    except OSError as failure:
        raise LedgerUnavailable() from failure


def _outside(settings: Settings, credentials: Credentials) -> OutsideIssuer | None:
    if not settings.oidc_issuer:
        return None
    return OutsideIssuer(
        KeySet(settings.oidc_jwks_url),
        credentials.organisation_named,
        issuer=settings.oidc_issuer,
        audience=settings.oidc_audience,
        role_claim=settings.oidc_role_claim,
        organisation_claim=settings.oidc_organisation_claim,
        organisation=settings.oidc_organisation,
    )
