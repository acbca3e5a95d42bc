"""Budgets on both databases: what is reserved before a call is never overshot, and never lost or given back twice."""

# Above 300 lines, because every way in which a reservation may come to its end is proven here, on one house.

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from errors import BudgetExceeded, LedgerUnavailable, Unpriced
from identity import DAY, MONTH, TOTAL, Budget
from store.budgets import Crossing, holds_for
from store.db import ledger_url
from store.ledger import Ledger
from store.rows import Row
from store.upkeep import prune
from store.writes import CLOSES, EXTENDS, NEW, Write
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

# 2026-11-23, a Monday.
TODAY, THIS_MONTH = 20_780, 202_611
MIDNIGHT = NOON + 12 * 3600
BOUND = 30_000
WHO = {"key_id": "k1", "user_id": "u1", "tenant": "t1"}


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(ledger_url("", str(tmp_path / "data")))
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def crossings() -> list[Crossing]:
    return []


@pytest.fixture
def make_ledger(
    database: str, tmp_path: Path, clock: Clock, crossings: list[Crossing]
) -> Iterator[Callable[..., Ledger]]:
    with ledgers(database, tmp_path, clock=clock, on_soft_limit=crossings.append) as make:
        yield make


def key(limit: int | None, period: str = TOTAL, soft: int | None = None) -> Budget:
    return Budget("key:k1", period, limit, soft)


def reserve(
    ledger: Ledger, name: str, *budgets: Budget, nano: int = BOUND, at: float = NOON, **who: Any
) -> Row:
    return ledger.open(ask(name, budgets=budgets, **(WHO | who)), nano, "hash", at)


def settle(ledger: Ledger, opened: Row, *budgets: Budget, **facts: Any) -> Any:
    """The record of a request that is over, as the ledger has seen it."""
    facts = {name: getattr(opened, name) for name in WHO} | {"timestamp": opened.at_us / 1e6} | facts
    done = record(opened.request_id, opened=opened, budgets=budgets, **facts)
    ledger.close(done)
    return done


def buy(ledger: Ledger, name: str, *budgets: Budget, **options: Any) -> Any:
    return settle(ledger, reserve(ledger, name, *budgets, **options), *budgets)


def in_key(ledger: Ledger, period: str = TOTAL, start: int = 0) -> tuple[int, int]:
    return counters(ledger).get((f"key:k1:{period}", start), (0, 0))


# The life of a reservation.


def test_the_bound_is_reserved_before_the_call_and_the_rest_of_it_is_given_back_after(ledger):
    opened = reserve(ledger, "one", key(100_000))
    assert in_key(ledger) == (0, BOUND)
    assert settle(ledger, opened, key(100_000)).left_nano == 100_000 - PRICE
    assert in_key(ledger) == (PRICE, 0)
    assert_sums_agree(ledger)


def test_what_does_not_fit_is_refused_and_leaves_nothing_behind(ledger):
    with pytest.raises(
        BudgetExceeded, match=r"0\.000029999 \$ of the key's budget are left.*max_tokens"
    ) as refusal:
        reserve(ledger, "one", key(BOUND - 1))
    assert (refusal.value.status, refusal.value.busy, refusal.value.scope) == (402, False, "key:k1:total")
    assert (rows(ledger), counters(ledger)) == ([], {})
    reserve(ledger, "two", key(BOUND))


@pytest.mark.parametrize(
    ("owner", "period", "said"),
    [
        ("key:k1", DAY, "of the key's budget for today are left"),
        ("user:u1", MONTH, "of the user's budget for this month are left"),
        ("tenant:t1", TOTAL, "of the organisation's budget are left"),
    ],
)
def test_a_refusal_says_whose_budget_has_to_be_raised(ledger, owner, period, said):
    with pytest.raises(BudgetExceeded, match=said):
        reserve(ledger, "one", Budget(owner, period, BOUND - 1), key(BOUND))


def test_a_refusal_says_whether_calls_in_flight_hold_what_it_needs(ledger):
    opened = reserve(ledger, "one", key(BOUND + PRICE))
    with pytest.raises(BudgetExceeded, match="in flight hold the rest") as refusal:
        reserve(ledger, "two", key(BOUND + PRICE))
    assert refusal.value.busy
    settle(ledger, opened, key(BOUND + PRICE))
    buy(ledger, "three", key(BOUND + PRICE))
    with pytest.raises(BudgetExceeded) as refusal:
        reserve(ledger, "four", key(BOUND + PRICE))
    assert not refusal.value.busy


@pytest.mark.parametrize("tight", range(3))
def test_a_refusal_by_one_of_several_budgets_leaves_nothing_held_in_the_others(ledger, tight):
    owners = ("key:k1", "tenant:t1", "user:u1")  # in the order in which they are asked
    wanted = [Budget(owner, MONTH, BOUND - (place == tight)) for place, owner in enumerate(owners)]
    with pytest.raises(BudgetExceeded) as refusal:
        reserve(ledger, "one", *wanted)
    assert refusal.value.scope == wanted[tight].scope
    assert (rows(ledger), counters(ledger)) == ([], {})


def test_key_user_and_tenant_hold_and_count_in_every_period_at_once(ledger):
    wanted = [
        Budget(owner, period, 10 * BOUND)
        for owner in ("key:k1", "user:u1", "tenant:t1")
        for period in (DAY, MONTH, TOTAL)
    ]
    opened = reserve(ledger, "one", *wanted)
    starts = {DAY: TODAY, MONTH: THIS_MONTH, TOTAL: 0}
    assert counters(ledger) == {(each.scope, starts[each.period]): (0, BOUND) for each in wanted}
    settle(ledger, opened, *wanted)
    assert counters(ledger) == {(each.scope, starts[each.period]): (PRICE, 0) for each in wanted}


def test_the_tightest_budget_is_what_is_left(ledger):
    wanted = key(90_000), Budget("tenant:t1", DAY, 50_000), Budget("user:u1", MONTH, 70_000)
    assert buy(ledger, "one", *wanted).left_nano == 50_000 - PRICE


def test_a_call_that_turns_out_dearer_reserves_more_or_is_not_made(ledger):
    opened = reserve(ledger, "one", key(50_000))
    wish = ask("one", budgets=(key(50_000),), **WHO)
    ledger.extend(opened, 50_000, wish)
    assert in_key(ledger) == (0, 50_000)
    with pytest.raises(BudgetExceeded) as refusal:
        ledger.extend(opened, 50_001, wish)
    assert not refusal.value.busy, "its own reservation is nothing that it could wait for"
    assert (opened.reserved_nano, rows(ledger)[0]["reserved_nano"]) == (50_000, 50_000)
    assert in_key(ledger) == (0, 50_000)
    settle(ledger, opened, key(50_000))
    assert in_key(ledger) == (PRICE, 0)


def test_a_second_request_under_a_known_id_keeps_a_reservation_of_its_own(ledger):
    first, second = (reserve(ledger, "twin", key(100_000)) for _ in range(2))
    wish = ask("twin", budgets=(key(100_000),), **WHO)
    with pytest.raises(BudgetExceeded):
        ledger.extend(second, 90_000, wish)
    assert in_key(ledger) == (0, 2 * BOUND)
    assert_sums_agree(ledger)
    ledger.extend(second, 40_000, wish)
    assert [row["reserved_nano"] for row in rows(ledger)] == [BOUND, 40_000]
    assert in_key(ledger) == (0, BOUND + 40_000)
    for opened in (second, first):
        settle(ledger, opened, key(100_000))
    assert in_key(ledger) == (2 * PRICE, 0)


def test_a_failed_call_gives_back_all_of_it(ledger):
    opened = reserve(ledger, "one", key(BOUND))
    failed = settle(ledger, opened, key(BOUND), charges=(), status=502)
    assert (in_key(ledger), failed.left_nano) == ((0, 0), BOUND)


def test_hits_cost_nothing_reserve_nothing_and_know_what_is_left(ledger):
    buy(ledger, "one", key(BOUND))
    free = hit("two", budgets=(key(BOUND),), **WHO)
    before = counters(ledger)
    ledger.close(free)
    assert free.left_nano == BOUND - PRICE
    assert counters(ledger) == before


def test_what_is_left_is_never_less_than_nothing(ledger):
    buy(ledger, "one", key(BOUND))
    free = hit("two", budgets=(key(PRICE - 1),), **WHO)  # lowered since
    ledger.close(free)
    assert free.left_nano == 0


def test_a_budget_that_is_set_later_counts_what_was_spent_before(ledger):
    for number in range(3):
        buy(ledger, f"{number}")
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "one", key(3 * PRICE + BOUND - 1, MONTH))
    reserve(ledger, "two", key(3 * PRICE + BOUND, MONTH))


def test_a_model_without_a_price_is_refused_where_a_limit_is_and_only_there(ledger):
    with pytest.raises(Unpriced):
        ledger.open(ask("one", budgets=(key(10**12),), **WHO), None, "hash", NOON)
    soft = key(None, soft=1)
    opened = ledger.open(ask("two", budgets=(soft,), **WHO), None, "hash", NOON)
    settle(ledger, opened, soft, cost_nanodollars=None)
    opened = reserve(ledger, "three", key(10**12))
    with pytest.raises(Unpriced):
        ledger.extend(opened, None, ask("three", budgets=(key(10**12),), **WHO))
    settle(ledger, opened, key(10**12))
    assert in_key(ledger) == (PRICE, 0)


def test_owners_of_any_name_are_counted(ledger):
    who = {"key_id": 'a"b\\c', "user_id": "{d},e", "tenant": "ü 'f'"}
    settle(ledger, reserve(ledger, "one", **who))
    assert len(counters(ledger)) == 9
    assert_sums_agree(ledger)


def test_callers_without_an_account_have_no_counters(ledger):
    opened = ledger.open(ask("one"), BOUND, "hash", NOON)
    ledger.close(record("one", opened=opened))
    assert counters(ledger) == {}


# Periods.


def test_a_period_turns_over_by_itself(ledger):
    buy(ledger, "monday", key(BOUND, DAY))
    buy(ledger, "tuesday", key(BOUND, DAY), at=MIDNIGHT)
    assert in_key(ledger, DAY, TODAY) == in_key(ledger, DAY, TODAY + 1) == (PRICE, 0)
    december = MIDNIGHT + 7 * 86_400
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "november", key(BOUND, MONTH), at=december - 1)
    buy(ledger, "december", key(BOUND, MONTH), at=december)
    assert in_key(ledger, MONTH, THIS_MONTH + 1) == (PRICE, 0)


def test_a_call_that_began_before_midnight_is_settled_in_its_own_day(ledger, clock):
    opened = reserve(ledger, "late", key(BOUND, DAY), at=MIDNIGHT - 0.001)
    clock.now = MIDNIGHT + 5
    reserve(ledger, "early", key(BOUND, DAY), at=clock.now)
    settle(ledger, opened, key(BOUND, DAY))
    assert in_key(ledger, DAY, TODAY) == (PRICE, 0)
    assert in_key(ledger, DAY, TODAY + 1) == (0, BOUND)
    assert_sums_agree(ledger)


def test_pruning_forgets_periods_that_are_over_and_no_others(ledger):
    for name, at in (("october", NOON - 40 * 86_400), ("yesterday", NOON - 86_400), ("today", NOON)):
        buy(ledger, name, at=at)
    held = reserve(ledger, "for ever", key(BOUND, DAY), at=NOON - 50 * 86_400)
    prune(ledger._engine, round(NOON * 1e6), lambda done, whole: None)
    kept = {(scope, start) for scope, start in counters(ledger) if scope.startswith("key")}
    assert kept == {
        ("key:k1:total", 0),
        ("key:k1:month", THIS_MONTH),
        ("key:k1:day", TODAY),
        ("key:k1:day", held.at_us // 86_400_000_000),
    }


# Soft limits.


def test_a_soft_limit_is_told_of_once_in_each_period_and_refuses_nobody(ledger, crossings):
    soft = key(None, DAY, soft=2 * PRICE)
    for number in range(4):
        buy(ledger, f"monday {number}", soft)
        assert len(crossings) == int(number >= 1)
    assert crossings == [Crossing(("key:k1:day", TODAY), 2 * PRICE, None, 2 * PRICE)]
    assert (crossings[0].owner, crossings[0].period) == ("key:k1", DAY)
    buy(ledger, "tuesday", replace(soft, soft_nano=1), at=MIDNIGHT)
    assert len(crossings) == 2
    assert_sums_agree(ledger)


def test_a_soft_limit_that_is_raised_is_told_of_again(ledger, crossings):
    for soft in (PRICE, PRICE, 3 * PRICE, 2 * PRICE):
        buy(ledger, f"{len(rows(ledger))}", key(10**9, soft=soft))
    assert [crossing.soft_nano for crossing in crossings] == [PRICE, 3 * PRICE]
    assert crossings[1].limit_nano == 10**9


def test_instances_tell_of_a_soft_limit_once_among_them(make_ledger, crossings):
    ledgers = [make_ledger(f"data{number}") for number in range(2)]

    def work(number: int) -> None:
        buy(ledgers[number % 2], f"{number}", key(10**9, soft=5 * PRICE))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(24)))
    assert len(crossings) == 1


def test_a_soft_limit_that_is_set_below_what_was_spent_is_told_of_by_the_next_that_spends(ledger, crossings):
    """What changes no counter holds no lock on it: two processes could both tell."""
    soft = key(None, soft=PRICE)
    buy(ledger, "before")
    ledger.close(hit("free", budgets=(soft,), **WHO))
    assert crossings == []
    buy(ledger, "after", soft)
    assert [crossing.spent_nano for crossing in crossings] == [2 * PRICE]


# Ends that are none.


def test_what_a_dead_process_held_is_given_back_once_by_whoever_comes_next(make_ledger):
    first = make_ledger()
    buy(first, "done", key(BOUND + PRICE))
    reserve(first, "cut", key(BOUND + PRICE))
    die(first)
    again = make_ledger()
    again.start()
    assert again.given_up == 1
    assert in_key(again) == (PRICE, 0)
    again.tend()
    assert in_key(again) == (PRICE, 0)
    buy(again, "next", key(BOUND + PRICE))
    assert_sums_agree(again)


def test_what_another_instance_held_is_given_back_when_its_lease_is_over_and_its_late_bill_counts(
    make_ledger, clock
):
    living, other = make_ledger("data1"), make_ledger("data2")
    opened = reserve(living, "slow", key(BOUND))
    other.start()
    assert in_key(other) == (0, BOUND)
    clock.now += 30 + 61
    other.tend()
    assert in_key(other) == (0, 0)
    assert_sums_agree(other)
    with pytest.raises(LedgerUnavailable):  # what it held may be somebody else's by now
        living.extend(opened, 2 * BOUND, ask("slow", budgets=(key(10**9),), **WHO))
    for _ in range(2):
        settle(living, opened, key(BOUND))
        assert in_key(other) == (PRICE, 0)
        assert_sums_agree(other)


def test_a_lease_is_over_a_minute_after_the_request_must_have_ended_and_nobody_ends_their_own(
    make_ledger, clock
):
    living, other = make_ledger("data1"), make_ledger("data2")
    reserve(living, "slow", key(BOUND))
    other.start()
    clock.now += 30 + 59
    other.tend()
    assert in_key(other) == (0, BOUND)
    clock.now += 2
    living.tend()
    assert in_key(living) == (0, BOUND)
    other._keeper._next_round = 0.0
    other.tend()
    assert in_key(other) == (0, 0)


def test_a_row_that_is_extended_while_others_give_it_up_gives_back_what_it_holds_then(make_ledger, clock):
    """The lease is over, and its process is there all the same: whatever comes first, the counter is right."""
    for attempt in range(5):
        living, other = make_ledger(f"living{attempt}"), make_ledger(f"other{attempt}")
        opened = reserve(living, f"row {attempt}", key(10**9))
        other._intake.ensure_tables()
        clock.now += 30 + 61
        with ThreadPoolExecutor(2) as pool:
            wish = ask(opened.request_id, budgets=(key(10**9),), **WHO)
            extending = pool.submit(living.extend, opened, 2 * BOUND, wish)
            pool.submit(other._heir.take_over).result()
        assert isinstance(extending.exception(), (LedgerUnavailable, type(None)))
        assert_sums_agree(other)
        assert in_key(other)[1] == 0


def commit(ledger: Ledger, *writes: Write) -> list[Any]:
    """As the ledger's own batches."""
    ledger._intake._writer.write(writes)
    return [write.failure for write in writes]


def test_a_batch_that_comes_again_changes_nothing(ledger):
    limit = key(4 * BOUND)
    opened = [reserve(ledger, f"{number}", limit) for number in range(2)]
    holds = ledger_holds(limit)
    new = replace(opened[0], request_id="2", mark=2)

    def batch() -> list[Write]:
        closed = replace(opened[1], state="settled", cost_nano=PRICE, status=200, expires_us=None)
        return [
            Write(replace(new), NEW, holds),
            Write(replace(opened[0], reserved_nano=2 * BOUND), EXTENDS, holds),
            Write(closed, CLOSES, holds),
        ]

    assert commit(ledger, *batch()) == [None, None, None]
    assert in_key(ledger) == (PRICE, 3 * BOUND)
    for _ in range(2):
        assert commit(ledger, *batch()) == [None, None, None]
        assert in_key(ledger) == (PRICE, 3 * BOUND)
    assert_sums_agree(ledger)


def ledger_holds(*budgets: Budget) -> Any:
    return holds_for(budgets, round(NOON * 1e6))


def test_what_a_batch_gives_back_is_there_for_the_asks_of_the_same_batch(ledger):
    limit = key(BOUND + PRICE)
    opened = reserve(ledger, "one", limit)
    closed = replace(opened, state="settled", cost_nano=PRICE, status=200, expires_us=None)
    new = replace(opened, request_id="two", mark=2)
    writes = [Write(each, kind, ledger_holds(limit)) for each, kind in ((closed, CLOSES), (new, NEW))]
    assert commit(ledger, *writes) == [None, None]
    assert in_key(ledger) == (PRICE, BOUND)
    assert_sums_agree(ledger)


def test_a_bill_that_is_settled_is_settled_whatever_comes_after_it(ledger):
    opened = reserve(ledger, "one", key(BOUND))
    settle(ledger, opened, key(BOUND))
    for late in ({"cost_nano": 2 * PRICE, "state": "settled"}, {"cost_nano": None, "state": "unknown"}):
        commit(ledger, Write(replace(opened, expires_us=None, **late), CLOSES, ledger_holds(key(BOUND))))
        assert in_key(ledger) == (PRICE, 0)
        assert [row["cost_nano"] for row in rows(ledger)] == [PRICE]
        assert_sums_agree(ledger)


def test_a_reservation_that_comes_again_is_kept_where_nothing_is_left(ledger):
    limit = key(BOUND)
    opened = reserve(ledger, "one", limit)
    buy(ledger, "dear", nano=10**9)  # of no budget yet: the counter is above the limit now
    assert commit(ledger, Write(replace(opened), NEW, ledger_holds(limit))) == [None]
    assert in_key(ledger) == (PRICE, BOUND)
    assert_sums_agree(ledger)


# Waiting for calls in flight.


def patient(name: str, *budgets: Budget, **who: Any) -> Any:
    return replace(ask(name, budgets=budgets, **(WHO | who)), deadline=time.monotonic() + 30)


def wait_until(true: Callable[[], object]) -> None:
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.002)


def test_an_ask_is_told_when_a_call_in_flight_gives_something_back(make_ledger, monkeypatch):
    monkeypatch.setattr("store.ledger.BUSY_SECONDS", 30.0)
    monkeypatch.setattr("store.ledger.BUSY_ROUND_SECONDS", 30.0)  # by itself it would not look in time
    ledger = make_ledger(seats=(2, 2))
    limit = key(BOUND + PRICE)
    opened = reserve(ledger, "one", limit)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(ledger.open, patient("two", limit), BOUND, "hash", NOON)
        wait_until(lambda: ledger.waiting)
        settle(ledger, opened, limit)
        assert second.result(20).request_id == "two"
    assert ledger.waiting == 0
    assert_sums_agree(ledger)


def test_an_ask_waits_for_what_another_instance_gives_back(make_ledger, monkeypatch):
    monkeypatch.setattr("store.ledger.BUSY_SECONDS", 30.0)
    ledger, other = make_ledger("data1", seats=(2, 2)), make_ledger("data2")
    limit = key(BOUND + PRICE)
    opened = reserve(other, "one", limit)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(ledger.open, patient("two", limit), BOUND, "hash", NOON)
        wait_until(lambda: ledger.waiting)
        settle(other, opened, limit)
        assert second.result(20).request_id == "two"


def test_nobody_waits_where_the_budget_is_spent(make_ledger):
    ledger = make_ledger(seats=(2, 2))
    buy(ledger, "one", key(BOUND))
    with pytest.raises(BudgetExceeded) as refusal:
        ledger.open(patient("two", key(BOUND)), BOUND, "hash", NOON)
    assert not refusal.value.busy


def test_nobody_waits_beyond_their_deadline(make_ledger, monkeypatch):
    monkeypatch.setattr("store.ledger.BUSY_SECONDS", 60.0)
    ledger = make_ledger(seats=(2, 2))
    limit = key(BOUND)
    reserve(ledger, "one", limit)
    begun = time.monotonic()
    with pytest.raises(BudgetExceeded) as refusal:
        ledger.open(replace(patient("two", limit), deadline=begun + 0.3), BOUND, "hash", NOON)
    assert refusal.value.busy
    assert time.monotonic() < begun + 30


def test_a_call_that_holds_something_waits_for_nobody(make_ledger, monkeypatch):
    """Two that hold a part each, and wait for the other's, would both wait in vain, and keep all others waiting."""
    monkeypatch.setattr("store.ledger.BUSY_SECONDS", 30.0)
    ledger = make_ledger(seats=(2, 2))
    limit = key(2 * BOUND)
    held = [reserve(ledger, f"{number}", limit) for number in range(2)]
    with ThreadPoolExecutor(2) as pool:
        wishes = [(opened, 2 * BOUND, patient(opened.request_id, limit)) for opened in held]
        refusals = [job.exception(20) for job in [pool.submit(ledger.extend, *wish) for wish in wishes]]
    assert [refusal.busy for refusal in refusals] == [True, True]
    for opened in held:
        settle(ledger, opened, limit)
    assert in_key(ledger) == (2 * PRICE, 0)


def test_few_asks_of_one_budget_wait_and_leave_seats_for_others(make_ledger, monkeypatch):
    monkeypatch.setattr("store.ledger.BUSY_SECONDS", 30.0)
    ledger = make_ledger(seats=(3, 2))
    mine, theirs = key(BOUND), Budget("key:k2", TOTAL, BOUND)
    held = [reserve(ledger, "one", mine), reserve(ledger, "other", theirs, key_id="k2")]
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(ledger.open, patient(f"mine {n}", mine), BOUND, "h", NOON) for n in range(2)]
        wait_until(lambda: ledger.waiting == 2)
        with pytest.raises(
            BudgetExceeded
        ) as refusal:  # at once, although it might have waited for half a minute
            ledger.open(patient("third", mine), BOUND, "hash", NOON)
        assert refusal.value.busy
        waiting.append(pool.submit(ledger.open, patient("t", theirs, key_id="k2"), BOUND, "h", NOON))
        wait_until(lambda: ledger.waiting == 3)
        with pytest.raises(BudgetExceeded):
            ledger.open(patient("fourth", theirs, key_id="k2"), BOUND, "hash", NOON)
        for opened, limit in zip(held, (mine, theirs), strict=True):
            settle(ledger, opened, limit)
        for job in waiting:  # what was settled has left too little
            assert isinstance(job.exception(20), BudgetExceeded)
    assert ledger.waiting == 0
    assert_sums_agree(ledger)


# Many at once.

ROOM = 10


@pytest.mark.parametrize("instances", [1, 2])
def test_of_many_callers_as_many_are_served_as_there_is_room_for(make_ledger, monkeypatch, instances):
    """A burst of 100 on each of five keys with room for ten: bounds are three times what calls cost."""
    monkeypatch.setattr("store.ledger.BUSY_SECONDS", 30.0)
    ledgers = [make_ledger(f"data{number}", seats=(64, 32)) for number in range(instances)]
    limit = 9 * PRICE + BOUND

    def work(number: int) -> bool:
        name, ledger = f"k{number % 5}", ledgers[number % instances]
        budget = Budget(f"key:{name}", TOTAL, limit)
        try:
            opened = ledger.open(patient(f"{number}", budget, key_id=name), BOUND, "hash", NOON)
        except BudgetExceeded:
            return False
        settle(ledger, opened, budget, key_id=name)
        return True

    with ThreadPoolExecutor(48) as pool:
        served = list(pool.map(work, range(500)))
    for number in range(5):
        assert sum(served[number::5]) == ROOM
        assert counters(ledgers[0])[f"key:k{number}:total", 0] == (ROOM * PRICE, 0)
    assert {ledger.state for ledger in ledgers} == {"ok"}
    assert_sums_agree(ledgers[0])


def test_instances_with_overlapping_counters_in_any_order_never_lock_each_other_out(make_ledger, database):
    """A deadlock would send rows to the spool, and their callers away."""
    ledgers = [make_ledger(f"data{number}", seats=(16, 16)) for number in range(2)]
    owners = ["key:a", "key:b", "tenant:t1", "user:u1", "user:u2"]

    def work(number: int) -> None:
        ledger = ledgers[number % 2]
        mine = [Budget(owner, period, 10**12, 1) for owner in owners for period in (DAY, MONTH, TOTAL)]
        chosen = mine[number % 7 :: 2] if number % 3 else mine[:: -1 - number % 4]
        who = {"key_id": "ab"[number % 2], "user_id": f"u{1 + number % 3}", "tenant": f"t{1 + number % 2}"}
        for count in range(6):
            # Some ids come to both instances.
            name = f"{(number // 2 if count == 5 else number, count)}"
            opened = reserve(ledger, name, *chosen, **who)
            ledger.extend(opened, 2 * BOUND, ask("x", budgets=tuple(chosen), **who))
            settle(ledger, opened, *chosen)

    before = deadlocks(ledgers[0])
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(48)))
    assert {ledger.state for ledger in ledgers} == {"ok"}
    assert deadlocks(ledgers[0]) == before
    assert len(rows(ledgers[0])) == 48 * 6
    assert_sums_agree(ledgers[0])


def test_ids_that_come_to_two_instances_in_opposite_order_never_lock_them_out(make_ledger):
    ledgers = [make_ledger(f"data{number}") for number in range(2)]
    before = deadlocks(ledgers[0])

    together = threading.Barrier(24)

    def work(number: int) -> None:
        for count in range(40):
            together.wait(20)  # new ids in each round, all of them at both instances at once
            ledgers[number % 2].close(hit(f"{count}-{number // 2}"))

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(work, range(24)))
    assert deadlocks(ledgers[0]) == before
    assert {ledger.state for ledger in ledgers} == {"ok"}
    assert len(rows(ledgers[0])) == 24 * 40


def deadlocks(ledger: Ledger) -> int:
    if ledger.reader.dialect.name == "sqlite":
        return 0
    with ledger.reader.connect() as connection:
        connection.execute(text("SELECT pg_stat_clear_snapshot()"))
        query = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int(connection.scalar(query) or 0)


def test_threads_that_come_and_go_leave_counters_that_equal_their_rows(make_ledger, clock):
    """Reserve, extend, settle, fail, hit and be refused, with instances that die and leases that end."""
    limit = key(40 * PRICE)
    stop = threading.Event()
    ledgers = [make_ledger(f"data{number}", seats=(8, 4)) for number in range(2)]

    def work(number: int) -> None:
        for count in range(12):
            ledger, name = ledgers[count % 2], f"{number}-{count}"
            try:
                opened = reserve(ledger, name, limit)
                if count % 3 == 0:
                    ledger.extend(opened, BOUND + 5000, ask(name, budgets=(limit,), **WHO))
            except (BudgetExceeded, LedgerUnavailable):
                continue
            if count % 4:
                settle(ledger, opened, limit, **({} if count % 2 else {"charges": (), "status": 502}))
            ledger.close(hit(f"hit {name}", budgets=(limit,), **WHO))

    for ledger in ledgers:
        ledger._intake.ensure_tables()

    def keep() -> None:
        while not stop.wait(0.01):
            clock.now += 40
            for ledger in ledgers:
                ledger._heir.take_over()

    with ThreadPoolExecutor(9) as pool:
        keeper = pool.submit(keep)
        list(pool.map(work, range(8)))
        stop.set()
        keeper.result()
    clock.now += 200
    ledgers[0]._heir.take_over()
    ledgers[1]._heir.take_over()
    assert_sums_agree(ledgers[0])
    assert in_key(ledgers[0])[1] == 0
