"""Organisations, users and API keys: create-admin, create-key, rotate-key, revoke-key, list-keys and their like."""

from __future__ import annotations

import argparse
import getpass
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from account_services import build_accounts
from commands import account_options as options
from commands.desk import desk
from commands.terminal import Refused, say, table
from config import Settings
from errors import NotThere
from identity import OPERATOR
from store.account_rows import Organisation, Thing, told
from store.accounts import FIRST_ORGANISATION, Accounts
from store.budget_use import USE_FIELDS
from store.rows import MICRO

DAY_US = 86_400 * MICRO

Command = argparse.ArgumentParser
Work = Callable[[Accounts, argparse.Namespace], int]


def add_commands(commands: argparse._SubParsersAction[Command]) -> None:
    """The commands of accounts; each sets `run`, which takes the settings and the arguments."""

    def command(name: str, work: Work, text: str) -> Command:
        added = commands.add_parser(name, help=text)
        added.add_argument("--json", action="store_true", help="the outcome as JSON")
        added.set_defaults(run=_running(work))
        return added

    options.admin_command(
        command("create-admin", create_admin, "a first administrator, who signs in with a password")
    )
    options.organisation_command(command("create-organisation", create_organisation, "a tenant"))
    options.lock_command(
        command("change-organisation", change_organisation, "lock a whole organisation, or serve it again")
    )
    options.user_command(command("create-user", create_user, "a user of an organisation"))
    options.change_command(
        command("change-user", change_user, "another role or password, or no access any more")
    )
    options.key_command(command("create-key", create_key, "an API key; it is shown once"))
    options.rotate_command(
        command("rotate-key", rotate_key, "a new secret for a key; the old one stays good for a while")
    )
    command("revoke-key", revoke_key, "an end to a key, at once").add_argument("id", metavar="ID")
    options.budget_command(command("set-budget", set_budget, "what a key, user or organisation may spend"))
    command("list-keys", list_keys, "all keys, without their secrets")
    command("list-users", list_users, "all users")
    command("list-organisations", list_organisations, "all organisations")


# What they do.


def create_admin(accounts: Accounts, chosen: argparse.Namespace) -> int:
    password = _password()
    home = organisation_of(accounts, chosen.organisation)
    user = accounts.create_user(chosen.name, "admin", OPERATOR, organisation=home.id, password=password)
    return _told(chosen, accounts, user, f"Administrator {user.name} of {home.name} is made and can sign in.")


def create_organisation(accounts: Accounts, chosen: argparse.Namespace) -> int:
    made = accounts.create_organisation(chosen.name, OPERATOR, budget=options.budget_of(chosen))
    return _told(chosen, accounts, made, f"Organisation {made.name} is made ({made.id}).")


def change_organisation(accounts: Accounts, chosen: argparse.Namespace) -> int:
    home, active = _named(accounts.organisations(), chosen.name), chosen.active == "yes"
    changed = accounts.change_organisation(home.id, OPERATOR, active=active)
    became = "served" if active else "locked: none of its keys, users and tokens is served"
    return _told(
        chosen, accounts, changed, f"Organisation {changed.name} is {became}, everywhere within a second."
    )


def create_user(accounts: Accounts, chosen: argparse.Namespace) -> int:
    password = "" if chosen.no_password else _password()
    home = organisation_of(accounts, chosen.organisation)
    user = accounts.create_user(
        chosen.name,
        chosen.role,
        OPERATOR,
        organisation=home.id,
        password=password,
        budget=options.budget_of(chosen),
    )
    return _told(
        chosen, accounts, user, f"User {user.name}, {user.role} of {home.name}, is made ({user.id})."
    )


def change_user(accounts: Accounts, chosen: argparse.Namespace) -> int:
    fields: dict[str, Any] = {"role": chosen.role} if chosen.role else {}
    if chosen.active:
        fields["active"] = chosen.active == "yes"
    if chosen.password:
        fields["password"] = _password()
    if not fields:
        raise Refused("Say what to change: --role, --password or --active.")
    user = accounts.change_user(accounts.user_named(chosen.name).id, OPERATOR, **fields)
    return _told(chosen, accounts, user, f"User {user.name} is changed.")


def create_key(accounts: Accounts, chosen: argparse.Namespace) -> int:
    user = accounts.user_named(chosen.user) if chosen.user else None
    if user and not chosen.organisation:
        chosen.organisation = user.organisation
    key, text = accounts.create_key(
        chosen.name,
        chosen.role,
        OPERATOR,
        organisation=organisation_of(accounts, chosen.organisation).id,
        user_id=user.id if user else "",
        scopes=chosen.scopes,
        models=chosen.models,
        rate_limit=chosen.rate_limit,
        expires_us=time.time_ns() // 1000 + chosen.expires_days * DAY_US if chosen.expires_days else None,
        budget=options.budget_of(chosen),
    )
    return _told(chosen, accounts, key, "This is the key; it is shown this once:", text, key=text)


def rotate_key(accounts: Accounts, chosen: argparse.Namespace) -> int:
    key, text = accounts.rotate_key(chosen.id, OPERATOR, grace_seconds=chosen.grace_hours * 3600)
    until = told(key)["old_secret_until"]
    said = f"The old secret is good until {until}. This is the new key; it is shown this once:"
    return _told(chosen, accounts, key, said, text, key=text)


def revoke_key(accounts: Accounts, chosen: argparse.Namespace) -> int:
    key = accounts.revoke_key(chosen.id, OPERATOR)
    return _told(chosen, accounts, key, f"Key {key.id} ({key.name}) is revoked, everywhere within a second.")


def set_budget(accounts: Accounts, chosen: argparse.Namespace) -> int:
    kind, _, name = chosen.owner.partition(":")
    owner, change = _owner(accounts, kind, name)
    if chosen.none == options.names_budget(chosen):
        raise Refused("Say what may be spent with --budget-usd or --soft-usd, or else --none.")
    allowed = None if chosen.none else options.budget_of(chosen, owner.budget)
    changed = change(owner.id, OPERATOR, budget=allowed)
    money = _money(told(changed)["budget"]) or "none"
    return _told(chosen, accounts, changed, f"The budget of {kind} {changed.name} is {money}.")


def _owner(accounts: Accounts, kind: str, name: str) -> tuple[Thing, Callable[..., Thing]]:
    """Whose budget it is, and how it is changed."""
    if kind == "key":
        return accounts.key(name), accounts.change_key
    if kind == "user":
        return accounts.user_named(name), accounts.change_user
    if kind == "organisation":
        return _named(accounts.organisations(), name), accounts.change_organisation
    raise Refused("Whose budget? Write key:ID, user:NAME or organisation:NAME.")


def list_keys(accounts: Accounts, chosen: argparse.Namespace) -> int:
    homes = {each.id: each.name for each in accounts.organisations()}
    people = {each.id: each.name for each in accounts.users()}
    keys = accounts.shown(*accounts.keys())
    rows = [
        [
            key["id"],
            key["name"],
            homes.get(key["organisation"], ""),
            people.get(key["user_id"], ""),
            key["role"],
            "revoked" if key["revoked"] else key["expires"] or "",
            key["last_used"] or "",
        ]
        for key in keys
    ]
    heads = ["id", "name", "organisation", "user", "role", "ends", "last used"]
    return _listed(chosen, keys, heads, rows)


def list_users(accounts: Accounts, chosen: argparse.Namespace) -> int:
    homes = {each.id: each.name for each in accounts.organisations()}
    users = accounts.shown(*accounts.users())
    rows = [
        [
            each["name"],
            homes.get(each["organisation"], ""),
            each["role"],
            "yes" if each["active"] else "no",
        ]
        for each in users
    ]
    return _listed(chosen, users, ["name", "organisation", "role", "active"], rows)


def list_organisations(accounts: Accounts, chosen: argparse.Namespace) -> int:
    found = accounts.shown(*accounts.organisations())
    rows = [[each["name"], each["id"], "yes" if each["active"] else "no"] for each in found]
    return _listed(chosen, found, ["name", "id", "active"], rows)


# What they share.


def _running(work: Work) -> Callable[[Settings, argparse.Namespace], int]:
    def run(settings: Settings, chosen: argparse.Namespace) -> int:
        with opened(settings) as accounts:
            return work(accounts, chosen)

    return run


@contextmanager
def opened(settings: Settings) -> Iterator[Accounts]:
    """The accounts in the database of the settings, which is made if there is none."""
    with desk(settings) as (database, audit):
        yield build_accounts(settings, database, audit)


def organisation_of(accounts: Accounts, name: str | None) -> Organisation:
    """The one of that name or id; without a name the only one there is, which is made if there is none."""
    known = accounts.organisations()
    if name:
        return _named(known, name)
    if len(known) > 1:
        raise Refused(
            f"Which organisation? Use --organisation with one of: {', '.join(each.name for each in known)}."
        )
    return known[0] if known else accounts.create_organisation(FIRST_ORGANISATION, OPERATOR)


def _named(known: Sequence[Organisation], name: str) -> Organisation:
    found = [each for each in known if name in (each.name, each.id)]
    if not found:
        raise NotThere(f"There is no organisation {name}. Make it with create-organisation.")
    return found[0]


def _password() -> str:
    """From the terminal, twice, or from standard input: an argument could be read by everybody on the machine."""
    if not sys.stdin.isatty():
        given = sys.stdin.readline().rstrip("\r\n")
    else:
        given = getpass.getpass("Password: ")
        if getpass.getpass("The same again: ") != given:
            raise Refused("The two differ. Try again.")
    if not given:
        raise Refused("A password is needed: type it, or send it as the first line of standard input.")
    return given


def _money(budget: dict[str, Any] | None) -> str:
    if budget is None:
        return ""
    limits = [
        f"{budget['limit_usd']} $" if budget["limit_usd"] else "",
        f"soft {budget['soft_usd']} $" if budget["soft_usd"] else "",
    ]
    return f"{', '.join(filter(None, limits))} a {budget['period']}".replace(" a total", " in total")


def _used(budget: dict[str, Any] | None) -> list[str]:
    return [(budget or {}).get(name) or "" for name in USE_FIELDS]


def _told(chosen: argparse.Namespace, accounts: Accounts, thing: Thing, *lines: str, **more: str) -> int:
    say(json.dumps({"id": thing.id} | more | accounts.shown(thing)[0]) if chosen.json else "\n".join(lines))
    return 0


def _listed(
    chosen: argparse.Namespace, facts: list[dict[str, Any]], heads: list[str], rows: list[list[str]]
) -> int:
    """With budgets, and what is used of them."""
    budgets = [each["budget"] for each in facts]
    whole = [[*row, _money(each), *_used(each)] for row, each in zip(rows, budgets, strict=True)]
    heads = [*heads, "budget", "spent", "reserved", "left"]
    say(json.dumps(facts) if chosen.json else "\n".join(table(heads, whole, len(heads) - len(USE_FIELDS))))
    return 0
