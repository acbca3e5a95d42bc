"""The ledger on both databases: one row for every ask, whatever happens to process, disk and database."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event, inspect, select, text
from sqlalchemy.engine import make_url

from config import ConfigError
from errors import LedgerUnavailable
from prices import Rates
from store.db import _locked, is_current, ledger_url, migrate, open_engine
from store.instances import Instance
from store.ledger import Ledger
from store.rows import charges_from, charges_text, storable
from store.tables import REVISION, language_days, metadata
from tasks import Charge, Usage
from tests.ledger_house import (
    NOON,
    PRICE,
    RATES,
    Clock,
    ask,
    assert_sums_agree,
    buy,
    die,
    hit,
    ledgers,
    locked_out,
    record,
    rows,
)

MICRO = 1_000_000


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(ledger_url("", str(tmp_path / "data")))
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_ledger(database: str, tmp_path: Path, clock: Clock) -> Iterator[Callable[..., Ledger]]:
    with ledgers(database, tmp_path, clock=clock) as make:
        yield make


# Migrations.


def test_migrations_make_exactly_the_tables_and_take_them_away_again(database):
    engine = open_engine(make_url(database))
    if engine.dialect.name == "sqlite":
        Path(engine.url.database).parent.mkdir(parents=True)
    migrate(engine)
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        assert MigrationContext.configure(connection).get_current_revision() == REVISION
        assert is_current(connection)
    migrate(engine)  # a second time changes nothing
    assert set(inspect(engine).get_table_names()) == {*metadata.tables, "alembic_version"}
    engine.dispose()


def test_many_that_start_at_once_on_an_empty_database_all_get_their_tables(make_ledger):
    ledgers = [make_ledger(f"data{number}" if number % 2 else "data") for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda ledger: ledger.close(record(ledger._instance.name)), ledgers))
    assert len(rows(ledgers[0])) == 6
    assert {ledger.state for ledger in ledgers} == {"ok"}


# One row for every ask.


def test_a_row_is_open_while_its_call_is_made_and_settled_with_its_bill(ledger):
    opened = ledger.open(ask("one", address="10.0.0.1", model="m-1"), 99_000, "hash", NOON)
    (row,) = rows(ledger)
    assert (row["state"], row["reserved_nano"], row["at_us"]) == ("open", 99_000, round(NOON * MICRO))
    assert (row["requested_model"], row["prompt_hash"], row["address"]) == ("m-1", "hash", "10.0.0.1")
    assert ledger.close(record("one", opened=opened)) == 10_000
    (row,) = rows(ledger)
    assert (row["state"], row["cost_nano"], row["status"], row["expires_us"]) == (
        "settled",
        10_000,
        200,
        None,
    )
    assert (row["input_tokens"], row["output_tokens"], row["duration_us"]) == (10, 5, 12_500)
    assert (row["requested_model"], row["prompt_hash"], row["address"]) == ("m-1", "hash", "10.0.0.1")
    assert_sums_agree(ledger)


def test_a_lost_call_is_lost_to_a_named_provider_and_model(make_ledger):
    first = make_ledger()
    opened = first.open(ask("lost"), 99_000, "hash", NOON, ("gemini", "m-1"))
    first.close(record("lost", opened=opened, charges=(), model="", unknown_attempts=1, status=504))
    first.open(ask("cut"), 99_000, "hash", NOON, ("gemini", "m-1"))
    die(first)
    again = make_ledger()
    again.start()
    named = {(row["state"], row["provider"], row["model"], row["requested_model"]) for row in rows(again)}
    assert named == {("unknown", "gemini", "m-1", "m-1")}


def test_a_row_may_come_to_hold_more_before_a_further_call(ledger):
    opened = ledger.open(ask("one"), 99_000, "hash", NOON)
    ledger.extend(opened, 198_000, ask("one"))
    (row,) = rows(ledger)
    assert (row["state"], row["reserved_nano"]) == ("open", 198_000)
    ledger.close(record("one", opened=opened))
    (row,) = rows(ledger)
    assert (row["state"], row["reserved_nano"], row["cost_nano"]) == ("settled", 198_000, PRICE)
    ledger.extend(opened, 297_000, ask("one"))  # too late: it changes nothing
    assert rows(ledger) == [row]
    assert_sums_agree(ledger)


def test_what_was_saved_and_by_what_is_told_apart_from_what_was_spent(ledger):
    buy(ledger, "paid")
    assert ledger.close(hit("hit")) == 10_000
    assert ledger.close(hit("shared", cache_status="coalesced", cached=False)) == 10_000
    stored = {
        row["request_id"]: (row["cost_nano"], row["saved_nano"], row["saved_by"]) for row in rows(ledger)
    }
    assert stored == {"paid": (10_000, 0, ""), "hit": (0, 10_000, "hit"), "shared": (0, 10_000, "coalesced")}
    assert_sums_agree(ledger)


def test_the_discount_of_the_providers_own_cache_is_shown_and_not_claimed_as_saved(ledger):
    buy(ledger, "one", charges=(Charge("m-1", Usage(1000, 0, cached_tokens=800), RATES),), cached_tokens=800)
    (row,) = rows(ledger)
    assert (row["discount_nano"], row["saved_nano"], row["cost_nano"]) == (800 * 225, 0, 200 * 250 + 800 * 25)


def test_a_call_that_may_have_been_billed_is_unknown_and_no_cost(ledger):
    buy(ledger, "lost", charges=(), attempts=2, unknown_attempts=2, unknown_nano=198_000, status=504)
    buy(ledger, "late", unknown_attempts=1, unknown_nano=99_000, attempts=2)
    lost, late = rows(ledger)
    assert (lost["state"], lost["cost_nano"], lost["unknown_nano"]) == ("unknown", 0, 2 * 99_000)
    assert (late["state"], late["cost_nano"], late["unknown_nano"]) == ("settled", 10_000, 99_000)
    assert ledger.overall_nano("anonymous") == 10_000
    assert_sums_agree(ledger)


def test_a_model_without_a_price_is_unpriced_and_not_free(ledger):
    buy(ledger, "one", charges=(Charge("m-2", Usage(10, 5), None),), cost_nanodollars=None)
    (row,) = rows(ledger)
    assert row["cost_nano"] is None
    assert_sums_agree(ledger)


def test_the_same_request_id_twice_makes_two_rows(ledger):
    buy(ledger, "twice")
    buy(ledger, "twice")
    ledger.close(hit("twice"))
    names = [row["request_id"] for row in rows(ledger)]
    assert names[0] == "twice"
    assert len(set(names)) == 3
    assert all(name.startswith("twice~") for name in names[1:])
    assert {row["state"] for row in rows(ledger)} == {"settled"}
    assert_sums_agree(ledger)


def test_texts_are_kept_only_where_that_was_allowed(make_ledger):
    silent, keeping = make_ledger(), make_ledger(kept_text=storable)
    silent.close(record("silent", prompt="p", response="r"))
    keeping.close(record("keeping", prompt="p\x00q", response="r"))
    kept = {row["request_id"]: (row["prompt"], row["response"]) for row in rows(silent)}
    assert kept == {"silent": (None, None), "keeping": ("p\ufffdq", "r")}


def test_code_counts_by_day_and_language(ledger):
    buy(ledger, "one", language="python", lines=12)
    ledger.close(hit("two", language="python", lines=12))
    buy(ledger, "three", language="go", lines=3)
    with ledger.reader.connect() as connection:
        found = {row.language: (row.answers, row.lines) for row in connection.execute(select(language_days))}
    assert found == {"python": (2, 24), "go": (1, 3)}


# Many at once.


def test_a_thousand_rows_of_64_threads_are_all_there_once_with_running_totals(ledger):
    def work(number: int) -> list[int]:
        return [buy(ledger, f"{number}-{count}") for count in range(16)]

    with ThreadPoolExecutor(64) as pool:
        seen = [total for totals_ in pool.map(work, range(64)) for total in totals_]
    stored = rows(ledger)
    assert len(stored) == len({row["request_id"] for row in stored}) == 1024
    assert {row["state"] for row in stored} == {"settled"}
    assert sorted(seen) == [PRICE * count for count in range(1, 1025)]
    assert ledger.commits < 2048, "threads must share commits"
    assert_sums_agree(ledger)


def test_instances_on_one_database_agree_on_what_was_spent(make_ledger):
    first, second = make_ledger("data1"), make_ledger("data2")
    seen = [buy(first, "a"), buy(second, "b"), first.close(hit("c")), second.close(hit("d")), buy(first, "e")]
    assert seen == [10_000, 20_000, 20_000, 20_000, 30_000]


def test_instances_that_write_the_same_sums_do_not_lock_each_other_out(make_ledger):
    ledgers = [make_ledger(f"data{number}") for number in range(4)]

    def work(number: int) -> None:
        for count in range(20):
            buy(ledgers[number % 4], f"{number}-{count}", model=f"m-{(number + count) % 3}")

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(12)))
    assert len(rows(ledgers[0])) == 240
    assert {ledger.state for ledger in ledgers} == {"ok"}
    assert_sums_agree(ledgers[0])


def test_a_new_file_is_not_opened_by_others_before_it_is_in_wal_mode(tmp_path):
    url, opened = ledger_url("", str(tmp_path)), threading.Event()
    with closing(sqlite3.connect(url.database)) as half_made:
        half_made.execute("CREATE TABLE anything (x)")
    engine = open_engine(url)
    event.listen(engine, "connect", lambda *_: opened.set())
    with _locked(Path(url.database)):
        other = threading.Thread(target=migrate, args=(engine,))
        other.start()
        assert not opened.wait(0.5)
    other.join(30)
    assert opened.is_set()
    engine.dispose()


def test_a_row_that_cannot_be_stored_fails_alone_and_stops_nobody(ledger):
    buy(ledger, "first")
    opened = ledger.open(ask("broken"), 99_000, "hash", NOON)
    start = threading.Barrier(9)

    def work(number: int) -> Any:
        start.wait()
        if number:
            return buy(ledger, f"fine-{number}")
        with pytest.raises((OverflowError, psycopg.DataError)):
            ledger.close(record("broken", opened=opened, attempts=2**70))
        return None

    with ThreadPoolExecutor(9) as pool:
        list(pool.map(work, range(9)))
    assert ledger.state == "ok"
    states = {row["request_id"]: row["state"] for row in rows(ledger)}
    assert states.pop("broken") == "open"
    assert set(states.values()) == {"settled"}
    assert len(states) == 9
    assert_sums_agree(ledger)


def test_open_rows_are_found_by_their_index_and_not_by_walking_the_ledger(small):
    with small.reader.connect() as connection:
        plan = connection.execute(text(f"EXPLAIN QUERY PLAN {small._intake._writer._sql.all_open}")).all()
    assert any("ix_requests_open" in step[-1] for step in plan)


# A disk that takes nothing for a while.


@pytest.fixture
def small(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    """A ledger on SQLite."""
    ledger = Ledger(ledger_url("", str(tmp_path)), str(tmp_path), lease_seconds=30.0, clock=clock)
    buy(ledger, "first")
    yield ledger
    ledger.stop()


def test_a_bill_that_could_not_be_written_is_owed_and_written_when_it_can_be(small):
    opened = small.open(ask("paid"), 99_000, "hash", NOON)
    with locked_out(small):
        with pytest.raises(LedgerUnavailable):
            small.close(record("paid", opened=opened))
        assert small.state == "down"
        assert small.overall_nano("anonymous") == PRICE
    small.tend()
    assert small.state == "ok"
    (row,) = [row for row in rows(small) if row["request_id"] == "paid"]
    assert (row["state"], row["cost_nano"], row["status"]) == ("settled", PRICE, 503)
    assert small.close(hit("next")) == 2 * PRICE
    assert_sums_agree(small)


def test_a_bill_that_is_owed_is_written_at_the_end_of_the_process(small, tmp_path):
    opened = small.open(ask("paid"), 99_000, "hash", NOON)
    with locked_out(small), pytest.raises(LedgerUnavailable):
        small.close(record("paid", opened=opened))
    small.stop()
    again = Ledger(ledger_url("", str(tmp_path)), str(tmp_path), lease_seconds=30.0)
    assert again.close(hit("next")) == 2 * PRICE
    assert_sums_agree(again)
    again.stop()


def test_a_bill_that_can_never_be_written_holds_nobody_up(small):
    opened = small.open(ask("absurd"), 99_000, "hash", NOON)
    with locked_out(small), pytest.raises(LedgerUnavailable):
        small.close(record("absurd", opened=opened, attempts=2**70))
    small.tend()
    assert small.state == "ok"
    assert buy(small, "next") == 2 * PRICE
    assert_sums_agree(small)


def test_what_is_refused_leaves_no_row_and_no_debt(small):
    with locked_out(small):
        with pytest.raises(LedgerUnavailable):
            small.open(ask("refused"), 99_000, "hash", NOON)
        with pytest.raises(LedgerUnavailable):
            small.close(hit("refused too"))
    small.tend()
    assert [row["request_id"] for row in rows(small)] == ["first"]
    assert_sums_agree(small)


def test_while_rows_are_spooled_nobody_else_waits_for_the_database(tmp_path):
    away = Ledger(make_url("postgresql+psycopg://a@127.0.0.1:1/b"), str(tmp_path), lease_seconds=30.0)
    away.close(record("one"))
    assert away.state == "degraded"
    with pytest.raises(LedgerUnavailable):
        away.check_database()
    away.stop()


def test_a_ledger_of_a_newer_version_is_refused_in_words(small, tmp_path):
    small.stop()
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999_later'")
    newer = Ledger(ledger_url("", str(tmp_path)), str(tmp_path), lease_seconds=30.0)
    with pytest.raises(ConfigError, match="newer version of the platform"):
        newer.start()
    newer.stop()


def test_a_dead_instance_is_taken_over_by_one_only(tmp_path):
    dead, first, second = Instance(tmp_path), Instance(tmp_path), Instance(tmp_path)
    for each in (dead, first, second):
        each.enter()
    dead.leave()
    claims = first.claim_dead()
    assert (list(claims), second.claim_dead()) == ([dead.name], {})
    first.bury(claims)
    for claim in claims.values():
        claim.close()
    assert second.claim_dead() == {}
    first.leave()
    second.leave()


# What survives.


def test_totals_and_rows_survive_a_restart(make_ledger):
    first = make_ledger()
    buy(first, "one")
    first.stop()
    again = make_ledger()
    assert again.close(hit("two")) == 10_000
    assert [row["request_id"] for row in rows(again)] == ["one", "two"]


def test_rows_that_a_dead_process_left_open_become_unknown_at_their_bound(make_ledger):
    first = make_ledger()
    buy(first, "done")
    first.open(ask("cut"), 99_000, "hash", NOON)
    die(first)
    again = make_ledger()
    again.start()
    assert again.given_up == 1
    done, cut = rows(again)
    assert (done["state"], cut["state"]) == ("settled", "unknown")
    assert (cut["cost_nano"], cut["unknown_nano"], cut["unknown_attempts"]) == (0, 99_000, 1)
    assert again.overall_nano("anonymous") == 10_000
    assert_sums_agree(again)


def test_rows_of_a_living_instance_stay_open_until_their_lease_is_over(make_ledger, clock):
    living, other = make_ledger("data1"), make_ledger("data2")
    opened = living.open(ask("slow"), 99_000, "hash", NOON)
    other.start()
    assert rows(other)[0]["state"] == "open"
    clock.now += 30 + 61
    other.tend()
    assert rows(other)[0]["state"] == "unknown"
    assert_sums_agree(other)
    # Its process was only very slow: the bill that comes after all replaces what was given up.
    assert living.close(record("slow", opened=opened)) == 10_000
    (row,) = rows(other)
    assert (row["state"], row["cost_nano"], row["unknown_nano"]) == ("settled", 10_000, 0)
    assert_sums_agree(other)


# The text of charges.

whole = st.integers(0, 10**9)
nano = st.one_of(st.integers(0, 10**6), st.decimals(0, 10**6, places=3, allow_nan=False))
rates = st.builds(Rates, st.text(max_size=20), nano, nano, nano, st.text(max_size=20))
usages = st.builds(Usage, whole, whole, whole, whole)


@given(st.lists(st.builds(Charge, st.text(max_size=20), usages, st.none() | rates), max_size=3))
def test_charges_come_back_from_their_text_with_the_same_costs(charges):
    back = charges_from(charges_text(tuple(charges)))
    assert len(back) == len(charges)
    for old, new in zip(charges, back, strict=True):
        assert (old.model, old.usage) == (new.model, new.usage)
        assert (old.rates is None) == (new.rates is None)
        if old.rates:
            assert old.rates.cost(old.usage).total_nano == new.rates.cost(new.usage).total_nano
