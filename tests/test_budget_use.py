"""What is spent, reserved and left of budgets, as keys, users, organisations and lists of them tell it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import event, insert
from sqlalchemy.engine import make_url

from conftest import House
from identity import DAY, MONTH, OPERATOR, TOTAL, Budget
from store.account_tables import budgets
from store.budget_use import AT_ONCE, USE_FIELDS, shown
from store.db import ledger_url
from store.patient import Patient
from store.rows import MICRO
from tests.account_house import Registry, open_registry
from tests.ledger_house import NOON, counters
from tests.readers import wait_until
from tests.tenants import KEYS, PROMPT, TEXT, USERS, Town, town

# 2026-11-23, a Monday.
TODAY, THIS_MONTH = 20_780, 202_611
NOON_US = round(NOON * MICRO)


@pytest.fixture
def live(make_house: Callable[..., House], settings: Any) -> Town:
    """Two tenants on the loopback provider, whose model has a price."""
    return town(make_house, google_api_key="any-key", gemini_base_url=settings.gemini_base_url)


def count(registry: Registry, scope: str, start: int, spent: int, reserved: int) -> None:
    counter = {"scope": scope, "start": start, "spent_nano": spent, "reserved_nano": reserved}
    with registry.database.change() as connection:
        connection.execute(insert(budgets).values(counter))


def use_of(budget: dict[str, Any]) -> tuple[str | None, ...]:
    return tuple(budget[name] for name in USE_FIELDS)


@pytest.mark.parametrize(("period", "start"), [(DAY, TODAY), (MONTH, THIS_MONTH), (TOTAL, 0)])
def test_the_counter_of_this_period_is_told_to_the_nano_dollar_and_no_earlier_one(registry, period, start):
    key, _ = registry.key(budget=Budget("", period, 10**9, 5 * 10**8))
    count(registry, f"key:{key.id}:{period}", start - 1, 10**9, 10**9)
    (fresh,) = shown(registry.database, [key], NOON_US)
    assert use_of(fresh["budget"]) == ("0.000000000", "0.000000000", "1.000000000")
    count(registry, f"key:{key.id}:{period}", start, 123_456_789, 1)
    count(registry, f"user:{key.id}:{period}", start, 7, 7)
    (used,) = shown(registry.database, [key], NOON_US)
    assert use_of(used["budget"]) == ("0.123456789", "0.000000001", "0.876543210")


def test_nothing_is_left_of_a_limit_that_was_lowered_and_what_is_left_of_a_soft_one_is_not_told(registry):
    key, _ = registry.key(budget=Budget("", TOTAL, 5))
    count(registry, f"key:{key.id}:total", 0, 9, 0)
    assert use_of(shown(registry.database, [key], NOON_US)[0]["budget"])[2] == "0.000000000"
    soft = registry.accounts.change_key(key.id, OPERATOR, budget=Budget("", TOTAL, None, 3))
    assert use_of(shown(registry.database, [soft], NOON_US)[0]["budget"]) == (
        "0.000000009",
        "0.000000000",
        None,
    )
    none = registry.accounts.change_key(key.id, OPERATOR, budget=None)
    assert shown(registry.database, [none], NOON_US)[0]["budget"] is None


def test_a_page_asks_for_its_counters_once_and_a_longer_list_some_hundred_at_a_time(registry):
    key, _ = registry.key(budget=Budget("", DAY, 10**9))
    user = registry.user(budget=Budget("", TOTAL, 10**9))
    count(registry, f"user:{user.id}:total", 0, 5, 0)
    asked: list[str] = []
    event.listen(registry.database._engine, "before_cursor_execute", lambda *told: asked.append(told[2]))
    told = shown(registry.database, [key, user, registry.home] * 100, NOON_US)
    assert [use_of(each["budget"])[0] for each in told[:2]] == ["0.000000000", "0.000000005"]
    assert len([sql for sql in asked if "budgets" in sql]) == 1
    shown(registry.database, [key] * (AT_ONCE + 1), NOON_US)
    assert len([sql for sql in asked if "budgets" in sql]) == 3


def test_counters_are_found_by_their_key_however_many_there_are(tmp_path):
    url = ledger_url("", str(tmp_path))
    registry = open_registry(url, tmp_path, NOON)
    key, _ = registry.key(budget=Budget("", DAY, 10**9))
    asked: list[tuple[str, Any]] = []
    event.listen(
        registry.database._engine, "before_cursor_execute", lambda *told: asked.append((told[2], told[3]))
    )
    shown(registry.database, [key] * 3, NOON_US)
    ((sql, parameters),) = [each for each in asked if "budgets" in each[0]]
    with registry.database.look() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters).all()
    registry.database.close()
    assert [step[3] for step in plan] == ["SEARCH budgets USING PRIMARY KEY (scope=? AND start=?)"]


def test_a_secret_that_was_made_is_told_though_nobody_can_look_at_the_counters_any_more(registry):
    key, _ = registry.key(budget=Budget("", DAY, 10**9))
    gone = Patient(make_url("postgresql+psycopg://nobody@127.0.0.1:1/none"), lambda: None)
    (told,) = shown(gone, [key], NOON_US)
    gone.close()
    assert (told["id"], told["budget"]["limit_usd"], use_of(told["budget"])) == (
        key.id,
        "1.000000000",
        (None, None, None),
    )


def test_over_http_a_call_in_flight_is_reserved_and_then_spent_as_the_ledger_has_it(live, upstream):
    budget = {"period": "total", "limit_usd": "0.5"}  # no midnight ends it while the call is in flight
    admin = live.home.text("admin")
    made = live.ask("POST", KEYS, admin, {"name": "spender", "budget": budget}).get_json()
    assert use_of(made["budget"]) == ("0.000000000", "0.000000000", "0.500000000")
    upstream.held = True
    asking = threading.Thread(target=live.ask, args=("POST", TEXT, made["key"], PROMPT))
    asking.start()
    try:
        assert wait_until(lambda: upstream.in_flight == 1)
        flying = live.ask("GET", f"{KEYS}/{made['id']}", admin).get_json()["budget"]
    finally:
        upstream.held = False
        asking.join(30)
    assert (flying["spent_usd"], Decimal(flying["reserved_usd"]) > 0) == ("0.000000000", True)
    assert Decimal(flying["left_usd"]) + Decimal(flying["reserved_usd"]) == Decimal("0.5")
    (page,) = [key for key in live.ask("GET", KEYS, admin).get_json()["keys"] if key["id"] == made["id"]]
    spent = next(
        sums[0] for (scope, _), sums in counters(live.house.services.ledger).items() if made["id"] in scope
    )
    assert (Decimal(page["budget"]["spent_usd"]) * 10**9, page["budget"]["reserved_usd"]) == (
        spent,
        "0.000000000",
    )
    assert Decimal(page["budget"]["left_usd"]) == Decimal("0.5") - Decimal(page["budget"]["spent_usd"])


def test_users_have_it_too_when_they_are_made_changed_and_listed(live):
    admin, budget = live.home.text("admin"), {"period": "month", "limit_usd": 5, "soft_usd": 4}
    made = live.ask("POST", USERS, admin, {"name": "grace", "role": "viewer", "budget": budget})
    changed = live.ask("PATCH", f"{USERS}/{made.get_json()['id']}", admin, {"role": "developer"})
    listed = live.ask("GET", f"{USERS}?limit=200", admin).get_json()["users"]
    for told in (made.get_json(), changed.get_json(), listed[-1]):
        assert use_of(told["budget"]) == ("0.000000000", "0.000000000", "5.000000000")


def test_a_budget_that_was_read_may_be_sent_back_and_what_was_used_of_it_counts_for_nothing(live):
    admin = live.home.text("admin")
    made = live.ask(
        "POST", KEYS, admin, {"name": "k", "budget": {"period": "day", "limit_usd": 2}}
    ).get_json()
    line = f"{KEYS}/{made['id']}"
    told = live.ask("GET", line, admin).get_json()["budget"]
    before = live.house.lines("security_audit.log")
    again = live.ask("PATCH", line, admin, {"budget": told | {"spent_usd": "1.5", "left_usd": 7}})
    assert (again.status_code, again.get_json()["budget"]) == (200, told)
    assert live.house.lines("security_audit.log") == before
    raised = live.ask("PATCH", line, admin, {"budget": told | {"limit_usd": "3"}}).get_json()["budget"]
    assert (raised["limit_usd"], raised["left_usd"]) == ("3.000000000", "3.000000000")
    assert "spent_usd" not in live.house.lines("security_audit.log")[-1]
    strange = live.ask("PATCH", line, admin, {"budget": {"period": "day", "limit_usd": 1, "used_usd": 1}})
    assert (strange.status_code, strange.get_json()["field"]) == (400, "budget.used_usd")


def test_swagger_says_that_they_are_answers_only(live):
    described = live.ask("GET", "/api/v1/swagger.json", live.home.text("admin")).get_json()
    told = described["definitions"]["Budget"]["properties"]
    assert {name for name, facts in told.items() if facts.get("readOnly")} == set(USE_FIELDS)
