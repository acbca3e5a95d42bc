"""A ledger full of rows, made up from a seed, with sums and totals that agree with them.

    fill(engine, 1_000_000, days=365)

The sums are added up by the database itself, from the rows: another way than the one by which the ledger keeps them.
"""

# Above 300 lines, because rows and the sums that must agree with them are made in one place.

from __future__ import annotations

import hashlib
import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import orjson
from sqlalchemy import BigInteger, case, delete, func, insert, literal_column, or_, select
from sqlalchemy.engine import URL, Connection, Engine, make_url

from identity import ANONYMOUS_TENANT, PERIODS, period_start
from prices import Rates
from store.account_tables import budgets
from store.db import migrate, open_engine
from store.tables import (
    DAY_US,
    HOUR_US,
    KEYS,
    OPEN,
    SETTLED,
    SUMS,
    UNKNOWN,
    language_days,
    requests,
    totals,
    usage_days,
    usage_hours,
)
from tasks import Usage

Row = dict[str, Any]

# 2026-11-23 10:34:56 UTC, a Monday.
NOW_US = 1_795_430_096_000_000
BATCH = 5000
ROUTES = {
    "/api/v1/generate/text": "text",
    "/api/v1/generate/code": "code",
    "/api/v1/classify/text": "classify",
}
LANGUAGES = ("python", "python", "python", "javascript", "sql", "rust", "go")
# None: a model without a price.
MODELS: dict[tuple[str, str], Rates | None] = {
    ("gemini", "gemini-3.1-flash-lite"): Rates("gemini-3.1-flash-lite", 250, 25, 1500, "made-up 1"),
    ("gemini", "gemini-3.5-flash"): Rates("gemini-3.5-flash", 1500, 150, 9000, "made-up 1"),
    ("openai", "gpt-5.4-nano"): Rates("gpt-5.4-nano", 200, Decimal("12.5"), 1250, "PRICES_FILE"),
    ("gemini", "gemini-unlisted"): None,
}
_MODELS, _ROUTES = tuple(MODELS), tuple(ROUTES)
_RATE_PARTS = ("input_nano", "cached_nano", "output_nano", "model", "source")
_RATES_TOLD = {
    model: [rates.as_text()[part] if rates else None for part in _RATE_PARTS]
    for model, rates in MODELS.items()
}
_DEFAULTS: Row = {
    column.name: None if column.nullable else 0 if not hasattr(column.type, "length") else ""
    for column in requests.c
    if column.name != "seq"
} | {
    "state": SETTLED,
    "estimated": False,
    "charges": "[]",
    "cost_nano": 0,
    "saved_nano": 0,
    "tenant": "anonymous",
    "instance": "test",
}


def new_ledger(url: str | URL) -> Engine:
    """An engine on a ledger that has its tables."""
    engine = open_engine(make_url(url))
    migrate(engine)
    return engine


def fill(engine: Engine, count: int, **options: Any) -> None:
    """Put so many rows, as `made_rows` makes them, into a database that has the tables."""
    add_rows(engine, made_rows(count, **options))


def add_rows(engine: Engine, rows: Iterable[Row]) -> None:
    """Put rows at the end of the ledger and bring the sums up to them. Columns left out have their defaults."""
    left = ({**_DEFAULTS, **row} for row in rows)
    with engine.begin() as connection:
        while batch := list(itertools.islice(left, BATCH)):
            _insert(connection, batch)
        _add_up(connection)


def made_rows(
    count: int,
    *,
    seed: int = 1,
    days: int = 30,
    now_us: int = NOW_US,
    keys: int = 4,
    tenants: Sequence[str] = ("anonymous",),
    still_open: int = 0,
) -> Iterator[Row]:
    """Rows of the days before now, oldest first, the last few of them open: fewer at night and at weekends."""
    dice = random.Random(seed)
    callers = [_caller(number) for number in range(keys)]
    for number, at_us in enumerate(_moments(count, days, now_us)):
        row = _ask(dice, number, at_us)
        row |= dice.choice(callers)
        row["tenant"] = tenants[int(dice.random() * len(tenants))]
        if number >= count - still_open:
            yield row | _left_open(row)
        else:
            yield row | _outcome(dice, row)


def _moments(count: int, days: int, now_us: int) -> Iterator[int]:
    first = now_us // HOUR_US - days * 24 + 1
    weights = [_busy(hour) for hour in range(first, now_us // HOUR_US + 1)]
    whole, made, passed = sum(weights), 0, 0
    for hour, weight in enumerate(weights, first):
        passed += weight
        due = count * passed // whole - made
        # The last hour is only as long as it has lasted.
        length = min(HOUR_US, now_us - hour * HOUR_US)
        yield from (hour * HOUR_US + place * length // due for place in range(due))
        made += due


def _busy(hour: int) -> int:
    at_work = 8 <= hour % 24 < 19
    weekend = (hour // 24 + 3) % 7 >= 5  # 1970 began on a Thursday
    return (10 if at_work else 2) // (3 if weekend else 1) + 1


def _caller(number: int) -> Row:
    named = {"key_id": f"key-{number}"} if number else {}
    return {"address": f"192.0.2.{number % 250 + 1}", **named}


def _ask(dice: random.Random, number: int, at_us: int) -> Row:
    route = dice.choice(_ROUTES)
    return {
        "request_id": f"{at_us:016x}-{number:08x}",
        "mark": dice.getrandbits(63),
        "at_us": at_us,
        "route": route,
        "task": ROUTES[route],
        "prompt_hash": hashlib.sha256(dice.randbytes(4)).hexdigest(),
        "reserved_nano": 5_000_000,
    }


def _left_open(row: Row) -> Row:
    return {"state": OPEN, "expires_us": row["at_us"] + 90_000_000}


def _outcome(dice: random.Random, row: Row) -> Row:
    model = _MODELS[min(int(dice.expovariate(1.2)), len(_MODELS) - 1)]
    luck = dice.random()
    if luck < 0.35:
        return _free(dice, row, model, "hit")
    if luck < 0.40:
        return _free(dice, row, model, "coalesced")
    if luck < 0.45:
        return _failed(dice, model, unknown=luck < 0.41)
    return _paid(dice, row, model, calls=2 if luck < 0.48 else 1)


def _paid(dice: random.Random, row: Row, model: tuple[str, str], calls: int = 1) -> Row:
    usages = [_usage(dice) for _ in range(calls)]
    nano = _cost(model, usages)
    return {
        **_answered(dice, row, model, usages),
        "cost_nano": nano,
        "discount_nano": _discount(model, usages),
        "attempts": calls,
        "estimated": dice.random() < 0.01,
        "cache_status": "bypass" if dice.random() < 0.05 else "miss",
        "duration_us": int(dice.lognormvariate(13.6, 0.5)),
    }


def _free(dice: random.Random, row: Row, model: tuple[str, str], how: str) -> Row:
    usages = [_usage(dice)]
    return {
        **_answered(dice, row, model, usages),
        "saved_nano": _cost(model, usages),
        "saved_by": how,
        "cache_status": how,
        "duration_us": int(dice.lognormvariate(6, 0.5) if how == "hit" else dice.lognormvariate(13, 0.5)),
    }


def _failed(dice: random.Random, model: tuple[str, str], unknown: bool) -> Row:
    return {
        "provider": model[0],
        "model": model[1],
        "state": UNKNOWN if unknown else SETTLED,
        "attempts": 3,
        "unknown_attempts": int(unknown),
        "unknown_nano": 5_000_000 * unknown,
        "cache_status": "miss",
        "status": dice.choice((502, 503, 504)) if not unknown else 504,
        "duration_us": int(dice.lognormvariate(15, 0.5)),
    }


def _answered(dice: random.Random, row: Row, model: tuple[str, str], usages: Sequence[Usage]) -> Row:
    usage = sum(usages[1:], usages[0])
    code = {"language": dice.choice(LANGUAGES), "lines": dice.randint(1, 200)}
    return {
        "provider": model[0],
        "model": model[1],
        "requested_model": model[1] if dice.random() < 0.2 else "",
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "charges": orjson.dumps([_charge(model, one) for one in usages]).decode(),
        "status": 200,
        **(code if row["task"] == "code" else {}),
    }


def _usage(dice: random.Random) -> Usage:
    given, made = int(dice.lognormvariate(6, 1)) + 1, int(dice.lognormvariate(5, 1)) + 1
    return Usage(given, made, given // 2 if dice.random() < 0.2 else 0, made // 4)


def _charge(model: tuple[str, str], usage: Usage) -> list[Any]:
    counts = (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens)
    return [model[1], *counts, *_RATES_TOLD[model]]


def _cost(model: tuple[str, str], usages: Iterable[Usage]) -> int | None:
    rates = MODELS[model]
    return sum(rates.cost(usage).total_nano for usage in usages) if rates else None


def _discount(model: tuple[str, str], usages: Iterable[Usage]) -> int:
    rates = MODELS[model]
    if rates is None:
        return 0
    full = Rates(rates.model, rates.input_nano, rates.input_nano, rates.output_nano, rates.source)
    return sum(full.cost(usage).input_nano - rates.cost(usage).input_nano for usage in usages)


# Into the database.


def _insert(connection: Connection, batch: list[Row]) -> None:
    names, rows = ", ".join(_DEFAULTS), [tuple(row[name] for name in _DEFAULTS) for row in batch]
    if connection.dialect.name != "postgresql":
        marks = ", ".join("?" * len(_DEFAULTS))
        connection.exec_driver_sql(f"INSERT INTO requests ({names}) VALUES ({marks})", rows)
        return
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(f"COPY requests ({names}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def _add_up(connection: Connection) -> None:
    for table, length in ((usage_hours, HOUR_US), (usage_days, DAY_US)):
        keys = [_since_1970(length), *(requests.c[key] for key in KEYS)]
        _replace(connection, table, keys, [*_sums(), func.max(requests.c.duration_us)])
    languages = [_since_1970(DAY_US), requests.c.tenant, requests.c.language]
    _replace(connection, language_days, languages, [func.count(), func.sum(requests.c.lines)])
    sums = [
        func.count(),
        *(func.coalesce(func.sum(requests.c[name]), 0) for name in ("cost_nano", "saved_nano")),
    ]
    _replace(connection, totals, [requests.c.tenant], sums)
    _count_budgets(connection)


def _count_budgets(connection: Connection) -> None:
    """What each key, user and tenant has spent in each period; of one day it is taken from the rows."""
    spent: Counter[tuple[str, int]] = Counter()
    for kind, column in (("key", "key_id"), ("user", "user_id"), ("tenant", "tenant")):
        owner, day = requests.c[column], _since_1970(DAY_US)
        paid = select(owner, day, func.sum(requests.c.cost_nano)).where(requests.c.cost_nano > 0)
        for name, number, nano in connection.execute(paid.group_by(owner, day)):
            for period in PERIODS if name not in ("", ANONYMOUS_TENANT) else ():
                spent[f"{kind}:{name}:{period}", period_start(period, number * DAY_US)] += int(nano)
    connection.execute(delete(budgets))
    for (scope, start), nano in spent.items():
        connection.execute(insert(budgets).values(scope=scope, start=start, spent_nano=nano))


def _replace(connection: Connection, table: Any, keys: list[Any], sums: list[Any]) -> None:
    query = select(*keys, *sums).where(requests.c.state != OPEN).group_by(*keys)
    if table is language_days:
        query = query.where(requests.c.language != "")
    connection.execute(delete(table))
    connection.execute(insert(table).from_select([column.name for column in table.c], query))


def _since_1970(length: int) -> Any:
    return requests.c.at_us // literal_column(str(length), BigInteger)


def _sums() -> list[Any]:
    row = requests.c
    counted = {
        "requests": func.count(),
        "hits": _count(row.saved_by == "hit"),
        "coalesced": _count(row.saved_by == "coalesced"),
        "failed": _count(or_(row.status >= 400, row.status == 0)),
        "unpriced": _count(row.cost_nano.is_(None)),
        "unknown": _count(row.state == UNKNOWN),
        "saved_hit_nano": _sum(row.saved_nano, row.saved_by == "hit"),
        "saved_coalesced_nano": _sum(row.saved_nano, row.saved_by == "coalesced"),
    }
    for name in ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"):
        counted[name] = _sum(row[name], row.saved_by == "")
    return [counted[name] if name in counted else func.coalesce(func.sum(row[name]), 0) for name in SUMS]


def _count(condition: Any) -> Any:
    return func.sum(case((condition, 1), else_=0))


def _sum(column: Any, condition: Any) -> Any:
    return func.coalesce(func.sum(case((condition, column), else_=0)), 0)
