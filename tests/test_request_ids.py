"""Request ids on both databases: each is its tenant's own, and a ledger of before keeps its rows and their names."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, insert, inspect, select, text, update
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import DBAPIError

from store.db import is_current, ledger_url, migrate, open_engine
from store.feedback import WHOLE, Score, classified, keep, scores
from store.instances import Instance
from store.ledger import Ledger
from store.rows import Row, row_from
from store.spool import Spool
from store.tables import feedback, requests
from store.writes import CLOSES, EXTENDS, NEW, WITHDRAWS, Write
from store.writing import LONG_PATIENCE_SECONDS
from tasks import Ask, Task
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

BEFORE = "0003_accounts"
HOLDS = "key:k1:total@0"


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(ledger_url("", str(tmp_path / "data")))
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def make_ledger(database: str, tmp_path: Path) -> Iterator[Callable[..., Ledger]]:
    with ledgers(database, tmp_path) as make:
        yield make


@pytest.fixture
def before(database: str) -> Iterator[Engine]:
    """A ledger as the version before had it."""
    engine = open_engine(make_url(database))
    migrate(engine)
    _alembic(engine, "downgrade", BEFORE)
    yield engine
    engine.dispose()


def _alembic(engine: Engine, way: str, revision: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "store/migrations")
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        getattr(command, way)(config, revision)
        connection.commit()


def named(ledger: Ledger) -> dict[tuple[str, str], str]:
    """The state of each row, by its tenant and its name."""
    return {(row["tenant"], row["request_id"]): row["state"] for row in rows(ledger)}


# Two tenants, one id.


def test_tenants_that_send_the_same_id_have_a_row_of_that_name_each(ledger):
    for tenant in ("away", "home"):
        opened = ledger.open(ask("order-1", tenant=tenant), 99_000, "hash", NOON)
        assert ledger.close(record("order-1", opened=opened, tenant=tenant)) == PRICE
        ledger.close(hit("order-2", tenant=tenant))
    assert named(ledger) == dict.fromkeys(
        [(tenant, name) for tenant in ("away", "home") for name in ("order-1", "order-2")], "settled"
    )
    assert_sums_agree(ledger)


def test_only_a_tenants_own_second_request_under_an_id_gets_another_name(ledger):
    for tenant in ("away", "home", "home"):
        ledger.close(hit("order-1", tenant=tenant))
    names = [(row["tenant"], row["request_id"].partition("~")) for row in rows(ledger)]
    assert [(tenant, name[:2]) for tenant, name in names] == [
        ("away", ("order-1", "")),
        ("home", ("order-1", "")),
        ("home", ("order-1", "~")),
    ]
    assert_sums_agree(ledger)


def test_open_rows_of_one_id_are_extended_withdrawn_given_up_and_closed_each_by_itself(make_ledger):
    living, dying = make_ledger("data1"), make_ledger("data2")
    away = living.open(ask("order-1", tenant="away"), 99_000, "hash", NOON)
    dying.open(ask("order-1", tenant="home"), 10_000, "hash", NOON)
    living.open(ask("order-1", tenant="third"), 5_000, "hash", NOON)
    living.extend(away, 198_000, ask("order-1", tenant="away"))
    die(dying)
    make_ledger("data2").start()
    assert {row["tenant"]: (row["state"], row["reserved_nano"], row["unknown_nano"]) for row in rows(living)} == {
        "away": ("open", 198_000, 0),
        "home": ("unknown", 10_000, 10_000),
        "third": ("open", 5_000, 0),
    }  # fmt: skip
    (third,) = [row_from(row) for row in rows(living) if row["tenant"] == "third"]
    living._heir.writer.write([Write(third, WITHDRAWS)])
    living.close(record("order-1", opened=away, tenant="away"))
    assert named(living) == {("away", "order-1"): "settled", ("home", "order-1"): "unknown"}
    assert_sums_agree(living)


def test_a_mark_finds_the_row_of_its_own_tenant_and_no_other(ledger):
    """Marks are drawn at random; here two are the same."""
    mine, theirs = (
        Row(request_id="order-1", tenant=tenant, mark=7, instance="i", state="open", at_us=0, reserved_nano=9)
        for tenant in ("home", "away")
    )
    ledger.reader  # noqa: B018  makes the tables
    ledger._heir.writer.write([Write(mine), Write(theirs)])
    mine.reserved_nano = 20
    ledger._heir.writer.write([Write(mine, EXTENDS)])
    assert {row["tenant"]: row["reserved_nano"] for row in rows(ledger)} == {"home": 20, "away": 9}
    mine.state = "settled"
    for _ in range(2):  # the second time it is looked at row by row
        ledger._heir.writer.write([Write(mine, CLOSES)])
    assert named(ledger) == {("home", "order-1"): "settled", ("away", "order-1"): "open"}
    ledger._heir.writer.write([Write(theirs, WITHDRAWS)])
    assert named(ledger) == {("home", "order-1"): "settled"}
    assert_sums_agree(ledger)


def test_instances_that_many_tenants_send_one_id_to_do_not_lock_each_other_out(make_ledger):
    ledgers, start = [make_ledger("data1"), make_ledger("data2")], threading.Barrier(2, timeout=60)
    for ledger in ledgers:
        ledger._intake._get_ready()
        # They wait for each other's batches, which may take long here; in a deadlock PostgreSQL ends one by itself.
        ledger._intake._writer._connection._patience = LONG_PATIENCE_SECONDS

    def work(place: int) -> None:
        tenants = [f"tenant-{number:03}" for number in range(300)]
        for turn in range(3):
            batch = [_settled(f"order-{turn}", tenant) for tenant in tenants[:: 1 - 2 * place]]
            start.wait()
            ledgers[place]._intake._commit(batch)
            assert [write.failure for write in batch] == [None] * 300

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    assert {ledger.state for ledger in ledgers} == {"ok"}
    found = named(ledgers[0])
    assert len(found) == 1800
    assert sum("~" in name for _, name in found) == 900
    assert_sums_agree(ledgers[0])


def _settled(name: str, tenant: str) -> Write:
    row = Row(request_id=name, tenant=tenant, mark=0, instance="i", state="settled", at_us=0, cost_nano=3)
    row.mark = id(row)
    return Write(row, NEW)


# What is said of them.


def test_feedback_is_of_ones_own_request_and_replaces_nobody_elses(ledger):
    kept = classified(Ask(Task.CLASSIFY, "x", 0.0, ("a", "b")), "a")
    for tenant in ("away", "home"):
        ledger.close(hit("order-1", tenant=tenant, task="classify", classified=kept))
    engine = ledger.writable
    assert keep(engine, "away", "order-1", "a", 1)
    assert not keep(engine, "home", "order-1", "b", 2)
    assert keep(engine, "home", "order-1", "a", 3)
    for tenant in ("away", "home"):
        assert scores(ledger.reader, tenant) == {WHOLE: Score(1, 1), "a": Score(1, 1)}


# A ledger of the version before.


def _old_rows(engine: Engine, instance: str) -> None:
    """`order-1` came from two tenants, so that the second one's row has got another name; its call is in the air."""
    plain = {"instance": instance, "at_us": round(NOON * 1e6), "state": "settled", "task": "classify"}
    kept = classified(Ask(Task.CLASSIFY, "x", 0.0, ("a", "b")), "a")
    with engine.begin() as connection:
        for facts in (
            {"request_id": "order-1", "tenant": "away", "mark": 1, "classified": kept},
            {"request_id": "order-1~2f", "tenant": "home", "mark": 0x2F, "state": "open", "reserved_nano": 9},
        ):
            connection.execute(insert(requests).values(plain | facts))
        verdict = {"request_id": "order-1", "tenant": "away", "correct": True, "at_us": 1}
        for category in (WHOLE, "a"):
            connection.execute(insert(feedback).values(verdict | {"category": category}))


def _all(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        query = select(requests).order_by(requests.c.seq)
        return [list(connection.execute(query).mappings()), list(connection.execute(select(feedback)))]


def test_rows_of_before_keep_their_names_and_all_that_is_in_them(before):
    _old_rows(before, "x")
    was = _all(before)
    migrate(before)
    assert _all(before) == was
    indexes = {index["name"]: index for index in inspect(before).get_indexes("requests")}
    assert {"ix_requests_at_us", "ix_requests_open"} < indexes.keys()
    (condition,) = (
        value for name, value in indexes["ix_requests_open"]["dialect_options"].items() if "where" in name
    )
    assert "state" in str(condition)
    assert keep(before, "away", "order-1", "b", 2) is False
    assert scores(before, "away") == {WHOLE: Score(1, 0), "b": Score(1, 0)}


def test_what_the_version_before_has_spooled_closes_its_rows_once(before, make_ledger, tmp_path):
    """The spool knows a row by the id that was sent, also where the database knows it by another name."""
    dead = Instance(str(tmp_path / "data"))
    dead.enter()
    _old_rows(before, dead.name)
    facts = {"instance": dead.name, "at_us": round(NOON * 1e6), "tenant": "home"}
    closing = Row(request_id="order-1", mark=0x2F, state="settled", cost_nano=PRICE, reserved_nano=9, **facts)
    renamed = Row(request_id="order-3~30", mark=0x30, state="settled", cost_nano=PRICE, **facts)
    opened = Row(request_id="order-2", mark=0x31, state="open", reserved_nano=7, **facts)
    spool = Spool(tmp_path / "data", dead.name)
    spool.append([Write(closing, CLOSES), Write(renamed, NEW), Write(closing, CLOSES), Write(opened, NEW)])
    spool.append([Write(renamed, NEW), Write(opened, NEW)])
    dead.leave()
    ledger = make_ledger()
    ledger.start()
    assert named(ledger) == {
        ("away", "order-1"): "settled",
        ("home", "order-1~2f"): "settled",
        ("home", "order-3~30"): "settled",
        ("home", "order-2"): "unknown",
    }
    assert ledger.overall_nano("home") == 2 * PRICE
    assert not list((tmp_path / "data" / "spool").glob("*.jsonl*"))


def test_texts_of_the_table_that_was_there_before_do_not_stay_in_the_file(before):
    """Or they could be read there when the rows themselves have long been sealed."""
    if before.dialect.name != "sqlite":
        pytest.skip("PostgreSQL makes no table anew here")
    event.listen(before, "connect", lambda driver, _: driver.execute("PRAGMA secure_delete=OFF"))
    before.dispose()
    canary = "canary" * 1000
    with before.begin() as connection:
        facts = {"request_id": "one", "mark": 1, "instance": "x", "state": "settled", "at_us": 0}
        connection.execute(insert(requests).values(facts | {"prompt": canary}))
    migrate(before)
    with before.begin() as connection:
        connection.exec_driver_sql("PRAGMA secure_delete=ON")
        connection.execute(update(requests).values(prompt="sealed"))
    with before.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").all()
    assert b"canarycanary" not in Path(before.url.database).read_bytes()


def test_a_migration_that_is_broken_off_leaves_the_ledger_as_it_was(before):
    """A later step meets an index of its name: all that was done until then is undone."""
    _old_rows(before, "x")
    was = _all(before)
    with before.begin() as connection:
        connection.execute(text("CREATE INDEX ix_requests_request_id_tenant ON totals (cost_nano)"))
    with pytest.raises(DBAPIError):
        migrate(before)
    assert _all(before) == was
    assert [unique["column_names"] for unique in inspect(before).get_unique_constraints("requests")] == [
        ["request_id"]
    ]
    with before.begin() as connection:
        assert not is_current(connection)
        connection.execute(text("DROP INDEX ix_requests_request_id_tenant"))
    migrate(before)
    assert _all(before) == was


def test_back_at_the_version_before_each_row_has_a_name_of_its_own_and_its_feedback(ledger):
    buy(ledger, "alone")
    kept = classified(Ask(Task.CLASSIFY, "x", 0.0, ("a", "b")), "a")
    for tenant in ("away", "home"):
        ledger.close(hit("order-1", tenant=tenant, task="classify", classified=kept))
        keep(ledger.writable, tenant, "order-1", "a", 1)
    mark = rows(ledger)[-1]["mark"]
    ledger.stop()
    engine = open_engine(ledger._engine.url)
    _alembic(engine, "downgrade", BEFORE)
    stored, told = _all(engine)
    assert [row["request_id"] for row in stored] == ["alone", "order-1", f"order-1~{mark:x}"]
    assert {(row.tenant, row.request_id) for row in told} == {
        ("away", "order-1"),
        ("home", f"order-1~{mark:x}"),
    }
    migrate(engine)
    assert _all(engine) == [stored, told]
    engine.dispose()
