"""Keys of providers that the environment does not name, from the database: they stand there sealed."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import inspect
from sqlalchemy.exc import SQLAlchemyError

from config import ConfigError, Settings, check_providers
from security.sealing import CannotOpen, Sealing
from store.account_tables import vault
from store.db import ledger_url, open_engine
from store.refusals import refusal_of
from store.vault import Vault

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

log = logging.getLogger("llm_platform")

# The setting that holds a provider's key.
FIELDS = {"gemini": "google_api_key", "openai": "openai_api_key", "anthropic": "anthropic_api_key"}


def with_kept_keys(settings: Settings) -> Settings:
    """The settings with the keys that are kept. Raises ConfigError where one is needed and cannot be had."""
    if not settings.encryption_keys:
        return settings
    missing = [name for name in settings.llm_providers if not getattr(settings, FIELDS[name])]
    try:
        kept = _kept(settings, missing) if missing else {}
    except CannotOpen as closed:
        raise ConfigError(f"{closed} Or keep it anew with `python cli.py set-provider-key`.") from None
    except (SQLAlchemyError, OSError, ValueError) as failure:
        if refusal := refusal_of(failure):
            raise ConfigError(refusal) from None
        if not settings.providers_at_hand:
            raise ConfigError(
                "DATABASE_URL names a database that cannot be read now, and keys of providers may be kept there. "
                "Start when it is back, or set a key in the environment."
            ) from None
        log.warning("kept keys of providers cannot be read: %s", type(failure).__name__)
        return settings
    named: dict[str, Any] = {FIELDS[name]: key for name, key in kept.items()}
    changed = replace(settings, **named)
    check_providers(changed)
    return changed


def _kept(settings: Settings, names: list[str]) -> dict[str, str]:
    url = ledger_url(settings.database_url, settings.data_dir)
    if _is_missing(url):
        return {}
    engine = open_engine(url, reads_only=True)
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table(vault.name):
                return {}
            kept = Vault(connection, Sealing(settings.encryption_keys))
            found = {name: kept.key(name) for name in names}
    finally:
        engine.dispose()
    return {name: key for name, key in found.items() if key is not None}


def _is_missing(url: URL) -> bool:
    """To look for a file of SQLite would make it."""
    return url.get_backend_name() == "sqlite" and not Path(url.database or "").exists()
