"""A ledger as it stands on disk, read with plain SQL: rows, the sums kept beside them, and SQLite's own check."""

from __future__ import annotations

import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

from chaos.goal import Problem

Row = dict[str, Any]
HOUR_US, DAY_US = 3_600_000_000, 86_400_000_000
KEYS = ("tenant", "route", "task", "provider", "model", "key_id")
TOKENS = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
PLAIN = ("attempts", "unknown_attempts", "discount_nano", "unknown_nano", "duration_us")
# What is added up, of whatever has no row at all.
COUNTED = {"requests", "spent_nano", "reserved_nano"}
# Enough of a row to see what is wrong with it.
SHOWN = (
    *("request_id", "state", "status", "cache_status", "cost_nano", "saved_nano", "attempts"),
    *("unknown_attempts", "unknown_nano", "reserved_nano", "model", "charges", "at_us", "instance"),
)


@dataclass(frozen=True, slots=True)
class Books:
    """Everything that one look at the ledger showed."""

    rows: list[Row]
    hours: list[Row]
    days: list[Row]
    totals: list[Row]
    counters: list[Row]

    @property
    def cost_nano(self) -> int:
        return sum(row["cost_nano"] or 0 for row in self.rows)


def read_books(url: str) -> Books:
    """One consistent look, also while the platform writes."""
    tables = ("requests", "usage_hours", "usage_days", "totals", "budgets")
    return Books(*_read(url, *(f"SELECT * FROM {table}" for table in tables)))


def open_rows(url: str) -> list[Row]:
    return _read(url, "SELECT * FROM requests WHERE state = 'open'")[0]


def _read(url: str, *queries: str) -> list[list[Row]]:
    engine = create_engine(reading_only(url))
    try:
        with engine.connect().execution_options(isolation_level=_isolation(url)) as connection:
            return [[dict(row) for row in connection.execute(text(query)).mappings()] for query in queries]
    finally:
        engine.dispose()


def reading_only(url: str) -> str:
    path = url.removeprefix("sqlite:///")
    return url if path == url else f"sqlite:///file:{path}?mode=ro&uri=true"


def _isolation(url: str) -> str:
    return "SERIALIZABLE" if url.startswith("sqlite") else "REPEATABLE READ"


def copy_of(ledger: Path, folder: Path) -> Path:
    """The file and its log as a dead process left them; whoever opened the original would repair it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for suffix in ("", "-wal"):
        source = ledger.with_name(ledger.name + suffix)
        if source.exists():
            shutil.copyfile(source, folder / source.name)
    return folder / ledger.name


def integrity(ledger: Path) -> Iterator[Problem]:
    connection = sqlite3.connect(ledger)
    try:
        said = [line for (line,) in connection.execute("PRAGMA integrity_check")]
    except sqlite3.DatabaseError as broken:
        said = [str(broken)]
    finally:
        connection.close()
    if said != ["ok"]:
        yield Problem("integrity_check is not ok", "\n".join(said[:20]))


def sums_problems(books: Books) -> Iterator[Problem]:
    """Whatever the sums say that their rows do not."""
    closed = [row for row in books.rows if row["state"] != "open"]
    for name, kept, length in (("an hour", books.hours, HOUR_US), ("a day", books.days, DAY_US)):
        yield from _differences(name, _added(closed, length), _kept(kept, ("start", *KEYS)))
    yield from _differences("a total", _totals(closed), _kept(books.totals, ("tenant",)))
    yield from _differences("a counter", _counters(books.rows), _kept(books.counters, ("scope", "start")))


def _added(rows: list[Row], length: int) -> dict[tuple[Any, ...], dict[str, int]]:
    added: dict[tuple[Any, ...], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        sums = added[(row["at_us"] // length, *(row[key] for key in KEYS))]
        for name, number in _counted(row).items():
            sums[name] += number
    return added


def _counted(row: Row) -> dict[str, int]:
    hit, coalesced = (row["saved_by"] == kind for kind in ("hit", "coalesced"))
    saved = row["saved_nano"] or 0
    return {
        "requests": 1,
        "hits": int(hit),
        "coalesced": int(coalesced),
        "unpriced": int(row["cost_nano"] is None),
        "unknown": int(row["state"] == "unknown"),
        "cost_nano": row["cost_nano"] or 0,
        "saved_hit_nano": saved * hit,
        "saved_coalesced_nano": saved * coalesced,
        **{name: 0 if row["saved_by"] else row[name] for name in TOKENS},
        **{name: row[name] for name in PLAIN},
    }


def _totals(rows: list[Row]) -> dict[tuple[Any, ...], dict[str, int]]:
    added: dict[tuple[Any, ...], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        sums = added[(row["tenant"],)]
        sums["requests"] += 1
        for name in ("cost_nano", "saved_nano"):
            sums[name] += row[name] or 0
    return added


def _counters(rows: list[Row]) -> dict[tuple[Any, ...], dict[str, int]]:
    """What every key, user and tenant has spent in each period, and what open rows hold of it."""
    added: dict[tuple[Any, ...], dict[str, int]] = defaultdict(lambda: {"spent_nano": 0, "reserved_nano": 0})
    for row in rows:
        if row["state"] == "open":
            for hold in row["holds"].split():
                scope, _, start = hold.rpartition("@")
                added[scope, int(start)]["reserved_nano"] += row["reserved_nano"]
            continue
        for owner in _owners(row):
            for period, start in _periods(row["at_us"]):
                added[f"{owner}:{period}", start]["spent_nano"] += row["cost_nano"] or 0
    return added


def _owners(row: Row) -> Iterator[str]:
    for kind, name in (("key", row["key_id"]), ("user", row["user_id"]), ("tenant", row["tenant"])):
        if name and name != "anonymous":
            yield f"{kind}:{name}"


def _periods(at_us: int) -> Iterator[tuple[str, int]]:
    at = datetime.fromtimestamp(at_us // 1_000_000, UTC)
    yield from (("day", at_us // DAY_US), ("month", 100 * at.year + at.month), ("total", 0))


def _kept(rows: list[Row], keys: tuple[str, ...]) -> dict[tuple[Any, ...], Row]:
    return {tuple(row[key] for key in keys): row for row in rows}


def _differences(
    name: str, added: dict[tuple[Any, ...], dict[str, int]], kept: dict[tuple[Any, ...], Row]
) -> Iterator[Problem]:
    for key in added.keys() | kept.keys():
        theirs, ours = kept.get(key, {}), added.get(key, {})
        wrong = {
            part: f"kept {int(theirs.get(part, 0))}, rows {ours.get(part, 0)}"
            for part in (ours or dict.fromkeys(COUNTED & theirs.keys(), 0))
            if int(theirs.get(part, 0)) != ours.get(part, 0)
        }
        if wrong:
            yield Problem(f"the sums of {name} are not those of its rows", f"  {key}: {wrong}")


def shown(row: Row) -> str:
    return "  row   " + " ".join(f"{name}={row[name]}" for name in SHOWN if row.get(name) not in (None, ""))
