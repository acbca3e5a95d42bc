"""What the tests of accounts share: a registry of accounts on a database, with a clock in hand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL

from account_services import build_accounts, build_auth
from auth import Authenticator
from config import Settings
from errors import Unauthorized
from identity import OPERATOR
from store.account_rows import Key, Organisation, User
from store.accounts import Accounts
from store.credentials import Credentials
from store.db import migrate, open_engine
from store.patient import Patient

ADDRESS = "192.0.2.1"
PASSWORD = "-".join(["a", "long", "enough", "one"])
# Of a budget without a hard limit.
UNUSED = {"spent_usd": "0.000000000", "reserved_usd": "0.000000000", "left_usd": None}


class Hands:
    """Wall clock and timer, which stand still unless they are moved."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass
class Registry:
    """Accounts and their authenticator on one database; `lines` is what was written to the audit log."""

    database: Patient
    accounts: Accounts
    auth: Authenticator
    credentials: Credentials
    home: Organisation
    hands: Hands
    lines: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    def key(self, role: str = "developer", **fields: Any) -> tuple[Key, str]:
        given = {"organisation": self.home.id, "user_id": ""} | fields
        return self.accounts.create_key(fields.pop("name", "k"), role, OPERATOR, **given)

    def user(self, name: str = "ada", role: str = "developer", **fields: Any) -> User:
        given = {"organisation": self.home.id, "password": PASSWORD} | fields
        return self.accounts.create_user(name, role, OPERATOR, **given)

    def who(self, text: str, address: str = ADDRESS) -> Any:
        return self.auth.identify(f"Bearer {text}", None, address)

    def events(self, name: str) -> list[dict[str, Any]]:
        return [details for event, _, details in self.lines if event == name]


def open_registry(url: URL, folder: Path, now: float, **changes: Any) -> Registry:
    """A registry of its own on that database, as one process would have it; `main` is its organisation."""
    settings = replace(Settings(data_dir=str(folder), auth="required"), **changes)
    engine = open_engine(url)
    migrate(engine)
    engine.dispose()
    hands, lines = Hands(now), []

    def audit(event: str, severity: str, details: dict[str, Any]) -> None:
        lines.append((event, severity, details))

    database = Patient(url, lambda: None)
    accounts = build_accounts(settings, database, audit)
    auth = build_auth(settings, database, accounts, audit, lambda work: work(), clock=hands, timer=hands)
    known = [each for each in accounts.organisations() if each.name == "main"]
    home = known[0] if known else accounts.create_organisation("main", OPERATOR)
    lines.clear()
    return Registry(database, accounts, auth, Credentials(database), home, hands, lines)


def refused(registry: Registry, credential: str, address: str = ADDRESS) -> str:
    """Why a credential was refused, which is for the audit log only."""
    with pytest.raises(Unauthorized) as refusal:
        registry.who(credential, address)
    assert str(refusal.value) == Unauthorized.sentence
    return refusal.value.reason
