"""`python -m benchmarks.budgets`: what budgets add to the ledger's work for a miss and for a hit, side by side in one run."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy.engine import make_url

from benchmarks.table import table
from identity import DAY, MONTH, TOTAL, Budget
from store.db import ledger_url
from store.ledger import Ledger
from tests.ledger_house import NOON, ask, hit, record
from tests.servers.postgres import PostgresServer, binaries

ROOM, BOUND = 10**15, 99_000
WHO = {"key_id": "k1", "user_id": "u1", "tenant": "t1"}
ONE = (Budget("key:k1", DAY, ROOM),)
THREE = (*ONE, Budget("user:u1", TOTAL, ROOM), Budget("tenant:t1", MONTH, ROOM))
# Callers, the first of them the one whom the others are compared with.
SIDES: dict[str, tuple[dict[str, str], tuple[Budget, ...]]] = {
    "no account": ({}, ()),
    "a key without a budget": (WHO, ()),
    "one budget": (WHO, ONE),
    "three budgets": (WHO, THREE),
}
HEAD = ("ledger", "caller", "miss, CPU", "miss", "hit, CPU", "hit")

Clocks = tuple[float, float]


def miss(ledger: Ledger, name: str, side: str) -> Clocks:
    """CPU and wall seconds of both writes of a request that is bought."""
    who, budgets = SIDES[side]
    opening = timed(lambda: ledger.open(ask(name, budgets=budgets, **who), BOUND, "hash", NOON))
    done = record(name, opened=opening[1], budgets=budgets, **who)
    closing = timed(lambda: ledger.close(done))
    return opening[0][0] + closing[0][0], opening[0][1] + closing[0][1]


def found(ledger: Ledger, name: str, side: str) -> Clocks:
    who, budgets = SIDES[side]
    done = hit(name, budgets=budgets, **who)
    return timed(lambda: ledger.close(done))[0]


def timed(work: Callable[[], Any]) -> tuple[Clocks, Any]:
    cpu, wall = time.thread_time(), time.perf_counter()
    outcome = work()
    return (time.thread_time() - cpu, time.perf_counter() - wall), outcome


def measure(name: str, ledger: Ledger, rounds: int) -> list[list[str]]:
    """All callers in turns, so that what the machine does besides meets each of them alike."""
    times: dict[str, list[tuple[float, ...]]] = {side: [] for side in SIDES}
    for number in range(-10, rounds):
        for side in SIDES:
            taken = (*miss(ledger, f"m{number}-{side}", side), *found(ledger, f"h{number}-{side}", side))
            times[side] += [taken] if number >= 0 else []
    return [
        [name, side, *(f"{median(column) * 1e6:,.0f} µs" for column in zip(*taken, strict=True))]
        for side, taken in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budgets", description=__doc__)
    parser.add_argument("--rounds", type=int, default=600)
    rounds, rows = parser.parse_args().rounds, []
    with ExitStack() as stack:
        urls = {"SQLite": ""}
        if binaries() is not None:
            urls["PostgreSQL"] = stack.enter_context(PostgresServer()).new_database()
        for name, url in urls.items():
            folder = stack.enter_context(TemporaryDirectory())
            place = make_url(url) if url else ledger_url("", str(Path(folder)))
            ledger = Ledger(place, folder, lease_seconds=30)
            rows += measure(name, ledger, rounds)
            ledger.stop()
    print(table(HEAD, rows))


if __name__ == "__main__":
    main()
