"""What the tests of callers share: two organisations with people and keys in them, on a sandbox that is asked over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from conftest import House
from identity import OPERATOR
from store.account_rows import Key, Organisation, User

TEXT, CODE, CLASSIFY = "/api/v1/generate/text", "/api/v1/generate/code", "/api/v1/classify/text"
KEYS, USERS = "/api/v1/keys", "/api/v1/users"
PROMPT = {"prompt": "Say hello."}
# With a fixed id the bodies of two refusals can be compared whole.
ONE_ID = {"X-Request-ID": "one-id"}


@dataclass
class Tenant:
    """An organisation with one person of each role, each with a key."""

    organisation: Organisation
    people: dict[str, User] = field(default_factory=dict)
    keys: dict[str, tuple[Key, str]] = field(default_factory=dict)

    def text(self, role: str) -> str:
        return self.keys[role][1]


@dataclass
class Town:
    """A platform and its tenants `home` and `away`."""

    house: House
    home: Tenant
    away: Tenant

    def ask(
        self, method: str, path: str, key: str = "", body: Any = None, address: str = "", **headers: str
    ) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if key:
            named["Authorization"] = f"Bearer {key}"
        environ = {"REMOTE_ADDR": address} if address else {}
        return self.house.client.open(path, method=method, json=body, headers=named, environ_base=environ)

    def key(self, tenant: Tenant, role: str = "developer", owner: str = "", **fields: Any) -> tuple[Key, str]:
        """A key in that tenant; owner: the role of the person whose it is, if any."""
        user_id = tenant.people[owner].id if owner else ""
        return self.house.services.accounts.create_key(
            fields.pop("name", "made"),
            role,
            OPERATOR,
            organisation=tenant.organisation.id,
            user_id=user_id,
            **fields,
        )


def settle(house: House, name: str) -> Tenant:
    accounts = house.services.accounts
    tenant = Tenant(accounts.create_organisation(name, OPERATOR))
    for role in ("admin", "developer", "viewer"):
        tenant.people[role] = accounts.create_user(
            f"{name}-{role}", role, OPERATOR, organisation=tenant.organisation.id
        )
        tenant.keys[role] = accounts.create_key(
            role, role, OPERATOR, organisation=tenant.organisation.id, user_id=tenant.people[role].id
        )
    # Somebody with whom anything may be done.
    tenant.people["victim"] = accounts.create_user(
        f"{name}-victim", "viewer", OPERATOR, organisation=tenant.organisation.id
    )
    return tenant


def town(make_house: Callable[..., House], **changes: Any) -> Town:
    """A sandbox with two tenants; keys are needed unless the changes say otherwise."""
    plain = {"google_api_key": "", "gemini_base_url": "", "rate_limit_reads": "1000000 per minute"}
    house = make_house(**(plain | {"auth": "required"} | changes))
    return Town(house, settle(house, "home"), settle(house, "away"))
