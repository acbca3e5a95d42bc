"""What the tests of the ledger share: asks and records, and a look at what has been stored."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event, select
from sqlalchemy.engine import make_url

from cost_tracker import CostRecord
from prices import Rates
from store.account_tables import budgets
from store.ledger import Ledger
from store.rows import row_from
from store.sums import Sums
from store.tables import KEYS, OPEN, SUMS, language_days, requests, totals, usage_days, usage_hours
from tasks import Ask, Charge, Task, Usage

RATES = Rates("m-1", 250, 25, 1500, "made-up 1")
# 2026-11-23 12:00 UTC.
NOON = 1_795_435_200.0
# What `record` costs: 10 tokens in, 5 out.
PRICE = 10_000


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


def ask(request_id: str, **facts: Any) -> Ask:
    return Ask(Task.TEXT, "x", 0.0, route="/api/v1/generate/text", request_id=request_id, **facts)


def record(request_id: str, **facts: Any) -> CostRecord:
    """A paid request of 10 tokens in and 5 out, unless said otherwise."""
    charges = facts.pop("charges", (Charge("m-1", Usage(10, 5), RATES),))
    cost = sum(charge.rates.cost(charge.usage).total_nano for charge in charges if charge.rates)
    fields: dict[str, Any] = {
        "timestamp": NOON,
        "endpoint": "/api/v1/generate/text",
        "user_ip": "127.0.0.1",
        "prompt": "",
        "response": "",
        "input_tokens": 10,
        "output_tokens": 5,
        "input_cost": 0.0,
        "output_cost": 0.0,
        "total_cost": 0.0,
        "cached": False,
        "cost_nanodollars": cost,
        "provider": "gemini",
        "model": "m-1",
        "attempts": 1,
        "charges": charges,
        "request_id": request_id,
        "task": "text",
        "cache_status": "miss",
        "duration_ms": 12.5,
    }
    return CostRecord(**(fields | facts))


def hit(request_id: str, **facts: Any) -> CostRecord:
    free = {"cost_nanodollars": 0, "saved_nanodollars": PRICE, "attempts": 0, "cached": True}
    return record(request_id, **(free | {"cache_status": "hit"} | facts))


@contextmanager
def ledgers(database: str, tmp_path: Path, **usual: Any) -> Iterator[Callable[..., Ledger]]:
    """Makes ledgers of several instances on one database; their keepers run only where a test lets them."""
    made: list[Ledger] = []

    def make(folder: str = "data", **changes: Any) -> Ledger:
        options = {"lease_seconds": 30.0, "clock": Clock()} | usual | changes
        made.append(Ledger(make_url(database), str(tmp_path / folder), **options))
        return made[-1]

    yield make
    for ledger in made:
        ledger.stop()


def buy(ledger: Ledger, request_id: str, **facts: Any) -> int:
    """A row that is opened before its call and closed after it."""
    opened = ledger.open(ask(request_id), 99_000, "hash", NOON)
    return ledger.close(record(request_id, opened=opened, **facts))


def rows(ledger: Ledger) -> list[Any]:
    with ledger.reader.connect() as connection:
        return list(connection.execute(select(requests).order_by(requests.c.seq)).mappings())


def die(ledger: Ledger) -> None:
    """As after kill -9: its lock and its connections are gone, and nothing else was done."""
    ledger._instance._file.close()
    ledger._instance._file = None
    ledger._keeper._stopped.set()
    ledger._intake._writer.close()


@contextmanager
def locked_out(ledger: Ledger) -> Iterator[None]:
    """SQLite takes no row of this ledger, as on a full disk; where it would wait ten seconds first, it is told so at once."""

    def refused(*_: object) -> None:
        raise sqlite3.OperationalError("database is locked")

    ledger._intake._writer._connection.cursor().execute("PRAGMA busy_timeout=0")
    event.listen(ledger._engine, "do_connect", refused)
    with closing(sqlite3.connect(ledger.reader.url.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
    event.remove(ledger._engine, "do_connect", refused)


def counters(ledger: Ledger) -> dict[tuple[str, int], tuple[int, int]]:
    """Spent and reserved of each counter in which there is anything."""
    columns = (budgets.c.scope, budgets.c.start, budgets.c.spent_nano, budgets.c.reserved_nano)
    with ledger.reader.connect() as connection:
        return {
            key: (sums[0], sums[1]) for key, sums in _by_key(connection.execute(select(*columns)), 2).items()
        }


def expected_counters(ledger: Ledger) -> dict[tuple[str, int], tuple[int, int]]:
    """The same, added up from the rows: what closed ones cost, and what open ones hold."""
    spent, held = Sums(), Sums()
    for row in map(row_from, rows(ledger)):
        if row.state == OPEN:
            held.give_back(row)
        else:
            spent.add(row)
    found = {
        key: (spent.budgets.get(key, [0, 0])[0], held.budgets.get(key, [0, 0])[1])
        for key in {*spent.budgets, *held.budgets}
    }
    return {key: sums for key, sums in found.items() if any(sums)}


def assert_sums_agree(ledger: Ledger) -> None:
    """Sums, totals and counters are what a second look at the rows adds up to."""
    assert counters(ledger) == expected_counters(ledger)
    expected = Sums()
    for row in rows(ledger):
        if row["state"] != OPEN:
            expected.add(row_from(row))
    with ledger.reader.connect() as connection:
        for table, sums in ((usage_hours, expected.hours), (usage_days, expected.days)):
            columns = [table.c[name] for name in ("start", *KEYS, *SUMS)]
            stored = _by_key(connection.execute(select(*columns)), 1 + len(KEYS))
            assert stored == {key: counted[:-1] for key, counted in sums.items()}
        spent = {tenant: sums for (tenant,), sums in _by_key(connection.execute(select(totals)), 1).items()}
        assert spent == expected.totals
        assert _by_key(connection.execute(select(language_days)), 3) == expected.languages


def _by_key(found: Any, keys: int) -> dict[Any, list[int]]:
    """Sums that are nothing but zeros are as good as none."""
    read = {tuple(row[:keys]): [int(part) for part in row[keys:]] for row in found}
    return {key: sums for key, sums in read.items() if any(sums)}
