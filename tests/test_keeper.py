"""Who looks after a ledger, how often and until when; what it owes meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as NoFreeConnection

from errors import LedgerUnavailable
from identity import TOTAL, Budget
from store.batch import Batch
from store.budgets import Crossing
from store.failures import is_our_mistake, is_outage
from store.keeper import ROUND_SECONDS
from store.ledger import Ledger
from store.rows import row_from
from store.writes import Write
from tests.ledger_house import (
    NOON,
    PRICE,
    Clock,
    ask,
    assert_sums_agree,
    buy,
    die,
    ledgers,
    locked_out,
    record,
    rows,
)


@pytest.fixture
def timer() -> Clock:
    return Clock()


@pytest.fixture
def crossings() -> list[Crossing]:
    return []


@pytest.fixture
def make(tmp_path: Path, timer: Clock, crossings: list[Crossing]) -> Iterator[Callable[..., Ledger]]:
    database = f"sqlite:///{tmp_path}/ledger.db"
    with ledgers(database, tmp_path, timer=timer, on_soft_limit=crossings.append) as made:
        yield made


def test_the_dead_are_looked_for_every_fifteen_seconds_and_then_forgotten(make, timer, tmp_path):
    living, dead = make(), make()
    for ledger in (living, dead):
        buy(ledger, "done")
    dead.open(ask("cut"), 99_000, "hash", NOON)
    living.tend()
    die(dead)
    timer.now += ROUND_SECONDS - 1
    living.tend()
    assert living.given_up == 0
    timer.now += 1
    living.tend()
    assert living.given_up == 1
    assert [path.stem for path in (tmp_path / "data" / "instances").iterdir()] == [living._instance.name]
    assert_sums_agree(living)


def test_the_dead_are_not_forgotten_before_their_rows_are_seen_to(make, timer):
    living, dead = make(), make()
    for ledger in (living, dead):
        buy(ledger, "done")
    dead.open(ask("cut"), 99_000, "hash", NOON)
    die(dead)
    living._heir.writer.close()
    with locked_out(living):
        living.tend()
    assert living.given_up == 0
    timer.now += ROUND_SECONDS
    living.tend()
    assert (living.given_up, living.keeper_errors) == (1, 0)


def test_chores_of_others_are_done_each_second_and_one_that_breaks_is_counted_and_ends_nothing(make):
    ledger, done = make(), []
    buy(ledger, "first")
    ledger.chores.append(lambda: done.append(1 / (2 - len(done))))
    for _ in range(4):
        ledger.tend()
    assert (len(done), ledger.keeper_errors, ledger.state) == (2, 2, "ok")


def test_its_thread_ends_with_its_ledger(make):
    ledger = make()
    before = set(threading.enumerate())
    ledger.start()
    (keeper,) = set(threading.enumerate()) - before
    ledger.stop()
    assert not keeper.is_alive()


def test_what_it_is_at_is_done_before_its_ledger_lets_go_of_its_lock(make):
    ledger, begun, held = make(), threading.Event(), []

    def chore() -> None:
        begun.set()
        ledger._keeper._stopped.wait(30)
        held.append(ledger._instance._file is not None)

    buy(ledger, "first")
    ledger.chores.append(chore)
    ledger.start()
    assert begun.wait(30)
    ledger.stop()
    assert held == [True]


def test_a_soft_limit_that_a_late_bill_reaches_is_told_of(make, crossings):
    ledger, soft = make(), Budget("key:k1", TOTAL, None, PRICE)
    opened = ledger.open(ask("paid", budgets=(soft,), key_id="k1"), 99_000, "hash", NOON)
    with locked_out(ledger), pytest.raises(LedgerUnavailable):
        ledger.close(record("paid", opened=opened, budgets=(soft,), key_id="k1"))
    assert not crossings
    ledger.tend()
    assert [crossing.spent_nano for crossing in crossings] == [PRICE]
    assert_sums_agree(ledger)


def test_bills_that_are_owed_are_kept_however_often_the_database_refuses_them(make):
    ledger = make()
    opened = [ledger.open(ask(name), 99_000, "hash", NOON) for name in ("first", "second", "third")]
    with locked_out(ledger):
        for each in opened:
            with pytest.raises(LedgerUnavailable):
                ledger.close(record(each.request_id, opened=each))
            ledger.tend()
    ledger.tend()
    assert [(row["state"], row["cost_nano"]) for row in rows(ledger)] == 3 * [("settled", PRICE)]
    assert_sums_agree(ledger)


def test_a_bill_that_is_paid_before_its_caller_has_looked_was_refused_all_the_same(make):
    ledger = make()
    opened = ledger.open(ask("paid"), 99_000, "hash", NOON)
    submit, away = ledger._intake._group.submit, ExitStack()

    def looks_late(write: Write) -> None:
        submit(write)
        away.close()
        ledger.tend()

    away.enter_context(locked_out(ledger))
    ledger._intake._group.submit = looks_late
    with pytest.raises(LedgerUnavailable):
        ledger.close(record("paid", opened=opened))
    (row,) = rows(ledger)
    assert (row["state"], row["status"], row["cost_nano"]) == ("settled", 503, PRICE)


def test_a_row_that_no_database_takes_says_nothing_of_the_database(make):
    ledger = make()
    with pytest.raises(OverflowError):
        ledger.close(record("absurd", attempts=2**70))
    assert ledger.state == "ok"
    assert buy(ledger, "next") == PRICE


AWAY = [
    psycopg.OperationalError("the connection is lost"),
    psycopg.InterfaceError("the connection is closed"),
    psycopg.errors.ReadOnlySqlTransaction("cannot execute INSERT in a read-only transaction"),
    psycopg.errors.DiskFull("could not extend file"),
    NoFreeConnection(),
    OSError("No space left on device"),
    OperationalError("SELECT 1", None, psycopg.OperationalError("the connection is lost")),
]
THERE = [psycopg.errors.UndefinedTable("requests"), psycopg.errors.InsufficientPrivilege("requests")]
ROWS = [psycopg.DataError("too long"), psycopg.IntegrityError("twice"), TypeError("a bug of ours")]


@pytest.mark.parametrize("failure", [*AWAY, *THERE, *ROWS], ids=lambda failure: type(failure).__name__)
def test_what_is_away_what_is_not_as_it_should_be_and_what_is_the_rows_own_fault(failure):
    assert (is_outage(failure), is_our_mistake(failure)) == (failure in AWAY, failure in ROWS)


def test_a_row_that_its_owner_closes_as_it_is_given_up_counts_once(make):
    ledger = make()
    opened = ledger.open(ask("paid"), 99_000, "hash", NOON)
    seen = row_from(rows(ledger)[0])
    ledger.close(record("paid", opened=opened))
    writer = ledger._heir.writer
    with writer._connection.transaction() as cursor:
        late = Batch(cursor, writer._sql)
        assert late.give_up([seen]) == 0
        late.settle()
    assert_sums_agree(ledger)
