"""Kept replies on both databases: who may serve a request, what is kept of it, and what a dead process leaves."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.engine import URL, make_url

from errors import KeyReused, LedgerUnavailable
from security.sealing import CannotOpen, Sealing, new_key
from store.account_tables import replays
from store.db import ledger_url, migrate, open_engine
from store.patient import Patient
from store.replays import GRACE_SECONDS, AtWork, Claim, Kept, Replays, Wanted
from tests.ledger_house import Clock

HEADERS = [("Content-Type", "application/json"), ("X-Cost-Total", "0.000000123")]
BODY = b'{"generated_text": "caf\xc3\xa9\x00\xff"}\n'
HOUR = 3600


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    """Of a database with its tables, which hold nothing."""
    sqlite = ledger_url("", str(tmp_path / "data"))
    made = sqlite if request.param == "sqlite" else make_url(request.getfixturevalue("postgres_url"))
    engine = open_engine(made)
    migrate(engine)
    engine.dispose()
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def process(url: URL, clock: Clock) -> Iterator[Callable[..., Replays]]:
    """Makes what each process of a platform has for itself: connections, a queue, a memory."""
    made: list[Patient] = []

    def make(keys: tuple[str, ...] = (), **options: Any) -> Replays:
        made.append(Patient(url, options.pop("ready", lambda: None)))
        return Replays(made[-1], Sealing(keys), clock=clock, **options)

    yield make
    for database in made:
        database.close()


def wanted(name: str = "a", body: str = "b") -> Wanted:
    return Wanted(f"name-{name}", "tenant key:1", f"digest-{body}")


def stored(url: URL) -> list[dict[str, Any]]:
    engine = open_engine(url)
    with engine.connect() as connection:
        rows = [dict(row) for row in connection.execute(select(replays).order_by(replays.c.name)).mappings()]
    engine.dispose()
    return rows


def test_a_reply_is_given_to_every_process_as_it_was_and_names_the_request_that_it_was_made_for(process):
    claim = process().claim(wanted(), "first", 30)
    assert isinstance(claim, Claim)
    process().keep(claim, 502, HEADERS, BODY)
    assert process().claim(wanted(), "second", 30) == Kept(502, tuple(HEADERS), BODY, "first")


def test_a_reply_with_an_empty_body_is_a_reply(process):
    store = process()
    store.keep(store.claim(wanted(), "first", 30), 200, [], b"")
    assert store.claim(wanted(), "second", 30) == Kept(200, (), b"", "first")


def test_another_body_is_refused_at_work_and_afterwards_and_whoever_asks(process):
    claim = process().claim(wanted(), "first", 30)
    for _ in range(2):
        with pytest.raises(KeyReused) as refusal:
            process().claim(wanted(body="other"), "second", 30)
        assert refusal.value.field == "Idempotency-Key"
        process().keep(claim, 200, HEADERS, BODY)


def test_other_names_are_other_requests(process):
    store = process()
    assert isinstance(store.claim(wanted("a"), "first", 30), Claim)
    assert isinstance(store.claim(wanted("b", "other"), "second", 30), Claim)


def test_whoever_comes_meanwhile_is_told_how_long_the_first_one_may_take(process, clock):
    process().claim(wanted(), "first", 30)
    clock.now += 10
    assert process().claim(wanted(), "second", 30) == AtWork(20)
    assert process().at_work(wanted()) == AtWork(20)


def test_a_released_claim_is_free_for_everybody_even_with_another_body(process):
    store = process()
    store.release(store.claim(wanted(), "first", 30))
    assert process().at_work(wanted()) is None
    assert isinstance(process().claim(wanted(body="other"), "second", 30), Claim)


def test_a_dead_process_keeps_its_claim_until_its_request_must_be_over_and_a_minute_more(process, clock, url):
    dead, alive = process(), process()
    lost = dead.claim(wanted(), "first", 30)
    clock.now += 30 + GRACE_SECONDS - 1
    assert alive.claim(wanted(), "second", 30) == AtWork(1)
    clock.now += 1
    assert alive.at_work(wanted()) is None
    with pytest.raises(KeyReused):
        alive.claim(wanted(body="other"), "second", 30)
    taken = alive.claim(wanted(), "third", 30)
    assert isinstance(taken, Claim)
    assert stored(url)[0]["request_id"] == "third"

    dead.keep(lost, 200, HEADERS, b"too late")  # it was not dead, only stopped
    dead.release(lost)
    assert isinstance(process().claim(wanted(), "fourth", 30), AtWork)
    alive.keep(taken, 200, HEADERS, BODY)
    assert process().claim(wanted(), "fifth", 30).body == BODY


def test_a_reply_is_kept_for_its_hours_and_then_forgotten(process, clock, url):
    store = process(hours=24)
    store.keep(store.claim(wanted(), "first", 30), 200, HEADERS, BODY)
    clock.now += 24 * HOUR - 1
    store.tend()
    assert isinstance(store.claim(wanted(), "second", 30), Kept)
    clock.now += 1
    assert isinstance(store.claim(wanted(body="other"), "third", 30), Claim)  # though nobody has pruned yet
    clock.now += 24 * HOUR
    process().tend()
    assert stored(url) == []


def test_a_reply_that_is_over_is_not_given_again_while_its_name_is_served_anew(process, clock, url):
    store = process(hours=1)
    store.keep(store.claim(wanted(), "first", 30), 200, HEADERS, BODY)
    clock.now += HOUR
    assert isinstance(store.claim(wanted(), "second", 30), Claim)
    assert stored(url)[0]["reply"] is None
    assert isinstance(process().claim(wanted(), "third", 30), AtWork)


def test_the_hours_of_a_reply_begin_with_the_reply(process, clock):
    store = process(hours=1)
    claim = store.claim(wanted(), "first", 600)
    clock.now += 600
    store.keep(claim, 200, HEADERS, BODY)
    clock.now += HOUR - 1
    assert store.claim(wanted(), "second", 30).body == BODY


def test_a_reply_that_was_kept_is_not_released(process):
    store = process()
    claim = store.claim(wanted(), "first", 30)
    store.keep(claim, 200, HEADERS, BODY)
    store.release(claim)
    assert store.claim(wanted(), "second", 30).body == BODY


def test_what_is_not_yet_old_is_not_pruned(process, clock, url):
    store = process(hours=1)
    store.claim(wanted("old"), "first", 30)
    clock.now += 1800
    store.keep(store.claim(wanted("young"), "second", 30), 200, HEADERS, BODY)
    clock.now += 1800
    process(hours=1).tend()
    assert [row["request_id"] for row in stored(url)] == ["second"]


def test_of_many_that_claim_at_once_in_several_processes_one_serves(process, url):
    stores = [process(), process(), process()]
    barrier = threading.Barrier(24)

    def claim(number: int) -> list[str]:
        barrier.wait(60)
        found = [stores[number % 3].claim(wanted(str(place)), f"{number}", 30) for place in range(10)]
        return [type(each).__name__ for each in found]

    with ThreadPoolExecutor(24) as pool:
        outcomes = list(pool.map(claim, range(24)))
    assert [Counter(column) for column in zip(*outcomes, strict=True)] == [{"Claim": 1, "AtWork": 23}] * 10
    assert len(stored(url)) == 10


def test_many_keep_and_release_in_several_processes_and_nothing_is_mixed_up(process):
    stores = [process(), process()]

    def serve(number: int) -> None:
        store, name = stores[number % 2], wanted(str(number))
        claim = store.claim(name, f"id-{number}", 30)
        if number % 5:
            store.keep(claim, 200, HEADERS, b"%d" % number)
        else:
            store.release(claim)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(serve, range(100)))
    for number in range(100):
        found = stores[(number + 1) % 2].claim(wanted(str(number)), "again", 30)
        if number % 5:
            assert (found.body, found.request_id) == (b"%d" % number, f"id-{number}")
        else:
            assert isinstance(found, Claim)


# Sealed.


def test_a_sealed_reply_is_read_by_the_keys_that_it_was_sealed_with_and_by_no_other(process, url):
    old, new, strange = new_key(), new_key(), new_key()
    store = process((old,))
    store.keep(store.claim(wanted(), "first", 30), 200, HEADERS, BODY)
    (row,) = stored(url)
    assert b"generated_text" not in row["reply"]
    assert b"X-Cost-Total" not in row["reply"]
    assert process((new, old)).claim(wanted(), "second", 30).body == BODY
    for keys in ((strange,), ()):
        with pytest.raises(CannotOpen, match=f"replays {row['name']} cannot be opened"):
            process(keys).claim(wanted(), "third", 30)
    assert stored(url) == [row]


def test_what_was_kept_before_there_were_keys_stays_readable(process):
    store = process()
    store.keep(store.claim(wanted(), "first", 30), 200, HEADERS, BODY)
    assert process((new_key(),)).claim(wanted(), "second", 30).body == BODY


@pytest.mark.parametrize("keys", [(), (new_key(),)])
def test_a_reply_that_was_moved_to_the_row_of_another_is_given_to_nobody(process, url, keys):
    store = process(keys)
    for name in ("a", "b"):
        store.keep(store.claim(wanted(name), "first", 30), 200, HEADERS, name.encode())
    mine, others = stored(url)
    for reply in (others["reply"], store._sealing.seal(b"[]\nx"), b"neither headers nor body", b"", None):
        change(url, update(replays).where(replays.c.name == mine["name"]).values(reply=reply))
        with pytest.raises(CannotOpen, match=f"replays {mine['name']} is not what .* an earlier version"):
            store.claim(wanted("a"), "second", 30)
    change(url, update(replays).where(replays.c.name == mine["name"]).values(reply=mine["reply"]))
    assert store.claim(wanted("a"), "third", 30).body == b"a"


def change(url: URL, statement: Any) -> None:
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.execute(statement)
    engine.dispose()


# The database is away.


class Away:
    """A database that is there or is not, as the test likes it."""

    def __init__(self) -> None:
        self.is_away = False

    def __call__(self) -> None:
        if self.is_away:
            raise LedgerUnavailable()


@pytest.fixture
def away() -> Away:
    return Away()


def test_nobody_gets_a_claim_while_the_database_is_away_and_nothing_of_it_bars_the_way_afterwards(
    process, away
):
    store = process(ready=away)
    away.is_away = True
    with pytest.raises(LedgerUnavailable):
        store.claim(wanted(), "first", 30)
    with pytest.raises(LedgerUnavailable):
        store.at_work(wanted())
    away.is_away = False
    store.tend()
    assert store.owed == 0
    assert isinstance(process().claim(wanted(), "second", 30), Claim)


def test_a_claim_whose_commit_was_done_though_nobody_heard_of_it_is_given_up(process, away):
    class LostWord(Patient):
        @contextmanager
        def change(self) -> Iterator[Any]:
            with super().change() as connection:
                yield connection
            if away.is_away:
                raise LedgerUnavailable()

    store = process()
    store._database.__class__ = LostWord
    away.is_away = True
    with pytest.raises(LedgerUnavailable):
        store.claim(wanted(), "first", 30)
    assert isinstance(process().claim(wanted(), "second", 30), AtWork)
    away.is_away = False
    store.tend()
    assert isinstance(process().claim(wanted(), "third", 30), Claim)


def test_a_reply_that_cannot_be_kept_just_now_is_kept_as_soon_as_the_database_is_back(process, away):
    store = process(ready=away)
    claim = store.claim(wanted(), "first", 30)
    away.is_away = True
    store.keep(claim, 200, HEADERS, BODY)
    store.tend()
    assert store.owed == 1
    assert isinstance(process().claim(wanted(), "second", 30), AtWork)
    away.is_away = False
    store.tend()
    assert store.owed == 0
    assert process().claim(wanted(), "third", 30).body == BODY


def test_a_claim_that_cannot_be_released_just_now_is_released_later(process, away):
    store = process(ready=away)
    claim = store.claim(wanted(), "first", 30)
    away.is_away = True
    store.release(claim)
    away.is_away = False
    store.tend()
    assert isinstance(process().claim(wanted(), "second", 30), Claim)


def test_only_so_many_replies_wait_in_memory(process, away, monkeypatch):
    monkeypatch.setattr("store.replays.MOST_OWED", 2)
    store = process(ready=away)
    claims = [store.claim(wanted(str(number)), "x", 30) for number in range(3)]
    away.is_away = True
    for claim in claims:
        store.keep(claim, 200, HEADERS, BODY)
    assert store.owed == 2
