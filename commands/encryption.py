"""Encryption at rest: keys for it, everything sealed anew, keys of providers in the database, and what was sealed to read."""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from analytics.export import iso
from commands.desk import desk
from commands.ledger import opened
from commands.terminal import Progress, Refused, say, table
from config import PROVIDERS, ConfigError, Settings, plain_key
from provider_keys import FIELDS
from security.sealing import CannotOpen, Sealing, new_key
from store.resealing import Resealed, reseal
from store.tables import requests
from store.vault import KeptKey, NotItsKey, Vault

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

FAILED = 1
MOST_NAMED = 20
# A page of long texts is let take its time: nobody waits for the answer of a command.
PATIENCE_SECONDS = 60.0


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The commands of encryption; each sets `run`, which takes the settings and the arguments."""

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text)
        added.set_defaults(run=run)
        return added

    def as_json(added: argparse.ArgumentParser) -> None:
        added.add_argument("--json", action="store_true", help="the outcome as JSON")

    command("new-encryption-key", run_new_key, "a key for ENCRYPTION_KEYS")
    as_json(command("rotate-encryption", run_rotate, "seal everything anew with the newest key"))
    put = command("set-provider-key", run_set, "keep a provider's key in the database, sealed")
    put.add_argument("provider", choices=PROVIDERS)
    gone = command("remove-provider-key", run_remove, "forget it again")
    gone.add_argument("provider", choices=PROVIDERS)
    as_json(command("list-provider-keys", run_list, "which keys are kept; never the keys themselves"))
    shown = command("show-texts", run_show, "prompt and answer of a request, where PROMPT_LOG has kept them")
    shown.add_argument("request_id", metavar="ID")
    shown.add_argument("--tenant", help="whose, where several have sent that id; as an export names it")
    as_json(shown)


def run_new_key(_settings: Settings, _chosen: argparse.Namespace) -> int:
    say(new_key())
    return 0


# Sealing anew.


def run_rotate(settings: Settings, chosen: argparse.Namespace) -> int:
    sealing, shown = _sealing(settings), Progress("rows looked at")
    # Also before: what is drained meanwhile may come to rows that were looked at already.
    waited = _spool_files(settings)
    with desk(settings, PATIENCE_SECONDS) as (database, audit):
        found = reseal(database, sealing, shown)
        spooled = len(waited | _spool_files(settings))
        audit("ENCRYPTION_ROTATED", "HIGH", _by_operator() | {"resealed": found.resealed})
    shown.end(found.looked_at)
    done = not found.unopened and not spooled
    facts = {
        "rows": found.looked_at,
        "resealed": found.resealed,
        "cannot_be_opened": found.unopened,
        "spool_files": spooled,
        "old_keys_can_go": done,
    }
    say(json.dumps(facts) if chosen.json else "\n".join(rotation_lines(found, spooled)))
    return 0 if done else FAILED


def _spool_files(settings: Settings) -> set[str]:
    return {path.name for path in (Path(settings.data_dir) / "spool").glob("*.jsonl*")}


def rotation_lines(found: Resealed, spooled: int) -> list[str]:
    """What a round came to; the last line says whether the older keys may go."""
    lines = [f"{found.resealed:,} of {found.looked_at:,} rows were sealed anew with the newest key."]
    lines += [
        f"{name} cannot be opened by any key, and stays as it is." for name in found.unopened[:MOST_NAMED]
    ]
    if len(found.unopened) > MOST_NAMED:
        lines.append(f"... and {len(found.unopened) - MOST_NAMED:,} more rows.")
    if found.unopened:
        return [
            *lines,
            "Keep all keys: put the one that is missing back into ENCRYPTION_KEYS and run this again.",
        ]
    if spooled:
        return [
            *lines,
            "Keep all keys: rows wait in DATA_DIR/spool, or did when this began. Run this again when the platform has "
            "written them.",
        ]
    return [
        *lines,
        "All of it is sealed with the newest key: the others can be removed from ENCRYPTION_KEYS, once no process "
        "runs with an older list.",
    ]


# Keys of providers.


def run_set(settings: Settings, chosen: argparse.Namespace) -> int:
    sealing, name = _sealing(settings), FIELDS[chosen.provider].upper()
    key = _key_given(chosen.provider)
    with desk(settings) as (database, audit):
        with database.change() as connection:
            was_there = Vault(connection, sealing).put(chosen.provider, key)
        audit("PROVIDER_KEY_SET", "HIGH", _changed(chosen.provider, was_there, True))
    say(f"The key of {chosen.provider} is kept. The platform uses it from its next start on.")
    if getattr(settings, FIELDS[chosen.provider]):
        say(f"{name} is set in the environment, and wins as long as it is.")
    return 0


def run_remove(settings: Settings, chosen: argparse.Namespace) -> int:
    with desk(settings) as (database, audit):
        with database.change() as connection:
            Vault(connection, Sealing()).remove(chosen.provider)
        audit("PROVIDER_KEY_REMOVED", "HIGH", _changed(chosen.provider, True, False))
    say(f"The key of {chosen.provider} is forgotten. The platform goes on with it until its next start.")
    return 0


def run_list(settings: Settings, chosen: argparse.Namespace) -> int:
    with desk(settings) as (database, _), database.look() as connection:
        kept = Vault(connection, Sealing(settings.encryption_keys)).kept()
    facts = [
        {
            "provider": key.provider,
            "changed": iso(key.changed_us),
            "use": _use(settings, key),
        }
        for key in kept
    ]
    heads = ["provider", "changed", "use"]
    rows = [[fact[head] for head in heads] for fact in facts]
    say(json.dumps(facts) if chosen.json else "\n".join(table(heads, rows, len(heads))))
    return 0


def _use(settings: Settings, key: KeptKey) -> str:
    if getattr(settings, FIELDS[key.provider]):
        return "none: the environment has one"
    if isinstance(key.closed, NotItsKey):
        return "none: it was not kept for this provider"
    if key.closed is not None:
        return "none: no key of ENCRYPTION_KEYS opens it"
    return "yes" if key.provider in settings.llm_providers else "none: LLM_PROVIDERS leaves it out"


def _key_given(provider: str) -> str:
    """From the terminal, unseen, or from standard input: an argument could be read by everybody on the machine."""
    given = getpass.getpass(f"Key of {provider}: ") if sys.stdin.isatty() else sys.stdin.readline()
    if not given.strip():
        raise Refused("A key is needed: type it, or send it as the first line of standard input.")
    try:
        return plain_key(f"The key of {provider}", given.strip())
    except ConfigError as wrong:
        raise Refused(str(wrong)) from None


# Texts.


def run_show(settings: Settings, chosen: argparse.Namespace) -> int:
    with opened(settings) as engine, engine.connect() as connection:
        row = _row_of(connection, chosen.request_id, chosen.tenant)
    sealing, where = Sealing(settings.encryption_keys), f"requests {row['seq']} ({row['request_id']})"
    try:
        texts = {name: _opened(row[name], sealing, where) for name in ("prompt", "response")}
    except CannotOpen as closed:
        raise Refused(str(closed)) from None
    named = {"request_id": row["request_id"], "tenant": row["tenant"]}
    facts = {**named, "at": iso(row["at_us"]), "route": row["route"], **texts}
    say(json.dumps(facts) if chosen.json else "\n".join(_text_lines(facts)))
    return 0


def _row_of(connection: Connection, request_id: str, tenant: str | None) -> Any:
    query = select(requests).where(requests.c.request_id == request_id).order_by(requests.c.tenant)
    if tenant is not None:
        query = query.where(requests.c.tenant == tenant)
    rows = connection.execute(query).mappings().all()
    if not rows:
        raise Refused("There is no request of that id in the ledger.")
    if len(rows) > 1:
        tenants = ", ".join(row["tenant"] for row in rows)
        raise Refused(f"Several tenants have a request of that id. Use --tenant with one of: {tenants}.")
    return rows[0]


def _opened(kept: str | None, sealing: Sealing, where: str) -> str | None:
    return None if kept is None else sealing.open_text(kept, where)


def _text_lines(facts: dict[str, Any]) -> list[str]:
    return [f"{name}: {'(not kept)' if value is None else value}" for name, value in facts.items()]


# What they share.


def _sealing(settings: Settings) -> Sealing:
    if not settings.encryption_keys:
        raise ConfigError(
            "ENCRYPTION_KEYS must be set for this. `python cli.py new-encryption-key` prints a key for it."
        )
    return Sealing(settings.encryption_keys)


def _by_operator() -> dict[str, Any]:
    return {"by": "user", "by_id": "operator"}


def _changed(provider: str, was_there: bool, is_there: bool) -> dict[str, Any]:
    """Who changed what, from and to; never the key."""
    return _by_operator() | {"id": provider, "from": {"kept": was_there}, "to": {"kept": is_there}}
