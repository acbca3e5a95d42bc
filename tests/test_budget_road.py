"""Budgets on the road: who has one reads what is left of it, and nobody pays or waits for another's."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from bounds import most_given
from conftest import House
from errors import BudgetExceeded, ModelGone, UpstreamRateLimited
from identity import DAY, MONTH, OPERATOR, TOTAL, Budget
from pipeline import Pipeline
from prices import format_dollars
from providers.asking import Meter
from providers.base import Call, Piece, Reply
from services import build_services
from tasks import Answer, Ask, Task, Usage
from tests.ledger_house import assert_sums_agree, counters, rows
from wording import word

MODEL, DEAR, UNPRICED = "gemini-3.1-flash-lite", "gemini-2.5-pro", "gemini-of-no-price"
INPUT_NANO, OUTPUT_NANO = 250, 1500
USAGE, CAP = Usage(10, 4), 6
COST = 10 * INPUT_NANO + 4 * OUTPUT_NANO
BODY = {"prompt": "Name three rivers.", "max_tokens": CAP}
HOLD = {"prompt": "Hold all of the budget.", "max_tokens": CAP}


class Paid:
    """A provider that answers at a known cost, once its gate is open."""

    name = "gemini"
    offers: frozenset[str] = frozenset()

    def __init__(self, *models: str, text: str = "a river") -> None:
        self._models, self._text = models or (MODEL,), text
        self.calls: list[Call] = []
        self.faults: list[Exception] = []
        self.gate = threading.Event()
        self.gate.set()

    def models(self, requested: str | None, _embeds: bool = False) -> Sequence[str]:
        return self._models if requested is None else (requested,)

    def call(self, call: Call) -> Reply:
        self.calls.append(call)
        assert self.gate.wait(20)
        if self.faults:
            raise self.faults.pop(0)
        return Reply(self._text, USAGE, call.model)

    def stream(self, call: Call) -> Generator[Piece, None, Reply]:
        reply = self.call(call)
        yield Piece(reply.text, reply.model)
        return reply

    def retired(self, model: str) -> None:
        """Never."""

    def warm(self) -> None:
        """Nothing to load."""


class Known:
    """A road on which callers are whom their request ids say: `poor-1` is a request of the key `poor`."""

    def __init__(self, pipeline: Pipeline, budgets: dict[str, tuple[Budget, ...]]) -> None:
        self._pipeline, self._budgets = pipeline, budgets

    def answer(self, ask: Ask, *tap: Any) -> Answer:
        name = ask.request_id.partition("-")[0]
        wanted = self._budgets.get(name, ())
        return self._pipeline.answer(replace(ask, key_id=name, tenant="acme", budgets=wanted), *tap)


def key(name: str, limit: int | None, soft: int | None = None, period: str = TOTAL) -> Budget:
    return Budget(f"key:{name}", period, limit, soft)


@pytest.fixture
def provider() -> Paid:
    return Paid()


@pytest.fixture
def make(make_house: Callable[..., House], settings: Any, provider: Paid) -> Callable[..., House]:
    def build(*budgets: Budget, **changes: Any) -> House:
        known: dict[str, tuple[Budget, ...]] = {}
        for budget in budgets:
            name = budget.owner.partition(":")[2]
            known[name] = (*known.get(name, ()), budget)
        changed = replace(settings, **changes)
        services = build_services(changed, provider=provider)
        return make_house(replace(services, pipeline=Known(services.pipeline, known)), **changes)

    return build


def post(house: House, request_id: str, body: Any = BODY, task: str = "text", **headers: str) -> Any:
    own = replace(house, client=house.app.test_client())
    return own.post(task, body, X_Request_ID=request_id, **headers)


def left(response: Any) -> str | None:
    return response.headers.get("X-Budget-Remaining")


def bound_of(body: dict[str, Any] = BODY) -> int:
    asked = Ask(Task.TEXT, body["prompt"], 0.0)
    return most_given(word(asked)) * INPUT_NANO + CAP * OUTPUT_NANO


# What is left.


def test_every_answer_says_what_is_left_of_the_tightest_budget(make):
    house = make(key("rich", 10**9, period=DAY), key("rich", 10**6))
    bought, found = post(house, "rich-1"), post(house, "rich-2")
    assert (bought.headers["X-Cache-Status"], found.headers["X-Cache-Status"]) == ("miss", "hit")
    assert left(bought) == left(found) == format_dollars(10**6 - COST)
    assert left(post(house, "nobody-1")) is None


def test_a_stream_says_it_in_its_bill_and_a_hit_in_its_headers_too(make):
    house = make(key("rich", 10**6))
    streamed = {**BODY, "stream": True}
    bills = []
    for number in range(2):
        response = post(house, f"rich-{number}", streamed)
        told = response.get_data(as_text=True).split("event: bill\ndata: ")[1]
        bills.append(json.loads(told)["budget_remaining"])
    assert bills == [format_dollars(10**6 - COST)] * 2
    assert left(response) == bills[1]
    bill = post(house, "nobody-1", streamed).get_data(as_text=True).split("event: bill\ndata: ")[1]
    assert "budget_remaining" not in json.loads(bill)


CHAT = {"messages": [{"role": "user", "content": "Name three rivers."}], "max_tokens": CAP}


def chat(house: House, request_id: str, **more: Any) -> Any:
    return house.client.post(
        "/api/v2/chat/completions", json=CHAT | more, headers={"X-Request-ID": request_id}
    )


def test_openais_clients_find_it_beside_the_cost(make):
    house = make(key("rich", 10**6))
    whole = chat(house, "rich-1")
    assert (
        whole.get_json()["usage"]["cost"]["budget_remaining"] == left(whole) == format_dollars(10**6 - COST)
    )
    streamed = chat(house, "rich-2", stream=True).get_data(as_text=True)
    assert f'"budget_remaining":"{format_dollars(10**6 - COST)}"' in streamed
    assert "budget_remaining" not in chat(house, "nobody-1").get_json()["usage"]["cost"]


def test_openais_clients_are_refused_in_their_own_words(make):
    error = chat(make(key("poor", 1)), "poor-1").get_json()["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "budget_exceeded")


def test_a_key_brings_its_budget_its_users_and_its_organisations(make_house, settings, provider):
    """As an operator sets them, and read from the key that a request carries."""
    house = make_house(build_services(settings, provider=provider))
    accounts = house.services.accounts
    home = accounts.create_organisation("acme", OPERATOR, budget=Budget("", MONTH, 10**9))
    user = accounts.create_user(
        "ada", "developer", OPERATOR, organisation=home.id, budget=Budget("", DAY, 5 * 10**8)
    )
    _, text = accounts.create_key("k", "developer", OPERATOR, user_id=user.id, organisation=home.id)
    assert left(post(house, "one", Authorization=f"Bearer {text}")) == format_dollars(5 * 10**8 - COST)
    own = Budget("", TOTAL, 10**6)
    made, text = accounts.create_key(
        "k", "developer", OPERATOR, user_id=user.id, organisation=home.id, budget=own
    )
    assert left(post(house, "two", Authorization=f"Bearer {text}")) == format_dollars(10**6)
    spent = {scope for scope, _ in counters(house.services.ledger)}
    assert {f"user:{user.id}:day", f"tenant:{home.id}:month"} <= spent
    assert f"key:{made.id}:total" not in spent, "that one was a hit"


def test_a_browsers_script_may_read_it(make):
    house = make(cors_origins=("https://app.example.org",))
    response = post(house, "any-1", Origin="https://app.example.org")
    assert "X-Budget-Remaining" in response.headers["Access-Control-Expose-Headers"]


# Refused.


def test_what_does_not_fit_is_402_before_any_call_and_says_what_is_left(make, provider):
    house = make(key("poor", bound_of() - 1))
    response = post(house, "poor-1")
    assert (response.status_code, response.get_json()["code"]) == (402, "budget_exceeded")
    assert format_dollars(bound_of() - 1) in response.get_json()["error"]
    assert left(response) == format_dollars(bound_of() - 1)
    assert "Retry-After" not in response.headers
    assert provider.calls == []
    (row,) = rows(house.services.ledger)
    assert (row["status"], row["state"], row["cost_nano"], row["attempts"]) == (402, "settled", 0, 0)
    assert counters(house.services.ledger) == {}


def test_less_output_may_fit_where_more_does_not(make):
    house = make(key("poor", bound_of()))
    assert post(house, "poor-1", {**BODY, "max_tokens": CAP + 1}).status_code == 402
    assert post(house, "poor-2").status_code == 200


def test_a_key_with_a_cent_classifies_once_it_says_how_little_it_wants(make, provider):
    provider._text = "a"
    house = make(key("poor", 10**7))
    body = {"text": "x", "categories": ["a", "b"]}
    refused = post(house, "poor-1", body, "classify")
    assert (refused.status_code, "max_tokens" in refused.get_json()["error"]) == (402, True)
    assert post(house, "poor-2", body | {"max_tokens": 20}, "classify").status_code == 200
    assert [call.max_tokens for call in provider.calls] == [20]


def test_a_hit_is_served_whatever_is_left(make):
    house = make(key("poor", bound_of()))
    post(house, "poor-1")
    assert post(house, "poor-2", {**BODY, "prompt": "Name three hills."}).status_code == 402
    assert (post(house, "poor-3").status_code, left(post(house, "poor-4"))) == (
        200,
        format_dollars(bound_of() - COST),
    )


def test_a_model_without_a_price_is_refused_under_a_budget(make, provider):
    house = make(key("poor", 10**12))
    response = post(house, "poor-1", {**BODY, "model": UNPRICED})
    assert (response.status_code, response.get_json()["code"]) == (402, "model_without_price")
    assert provider.calls == []
    assert post(house, "nobody-1", {**BODY, "model": UNPRICED}).status_code == 200


def test_a_model_without_a_price_is_no_way_out_where_the_first_one_failed(make, make_house, settings):
    """The first call is known to have cost nothing, so nothing more has to be reserved for the second."""
    provider = Paid(MODEL, UNPRICED)
    provider.faults = [ModelGone()]
    services = build_services(settings, provider=provider)
    house = make_house(replace(services, pipeline=Known(services.pipeline, {"poor": (key("poor", 10**12),)})))
    assert post(house, "poor-1").status_code == 402
    assert [call.model for call in provider.calls] == [MODEL]
    assert_sums_agree(house.services.ledger)


def test_a_failed_ask_leaves_its_row_and_all_of_its_budget(make, provider):
    house = make(key("poor", bound_of()), llm_max_attempts=1)
    provider.faults = [UpstreamRateLimited(transient=True)]
    response = post(house, "poor-1")
    assert (response.status_code, left(response)) == (429, format_dollars(bound_of()))
    assert post(house, "poor-2").status_code == 200


def test_a_repaired_classification_reserves_both_of_its_calls(make, provider):
    provider._text = "none of them"
    house = make(key("rich", 10**9))
    body = {"text": "x", "categories": ["a", "b"]}
    assert post(house, "rich-1", body, "classify").status_code == 502
    (row,) = rows(house.services.ledger)
    assert (row["attempts"], row["cost_nano"]) == (2, 2 * COST)
    cap = house.settings.max_output_tokens
    assert row["reserved_nano"] > 2 * (cap * OUTPUT_NANO + 2 * most_given(word(Ask(Task.TEXT, "x", 0.0))))
    assert counters(house.services.ledger)["key:rich:total", 0] == (2 * COST, 0)


def test_refusals_are_counted_by_reason_and_audited_once_a_minute_for_each_budget(make):
    house = make(key("poor", 1), key("meagre", 1))
    for number in range(3):
        post(house, f"poor-{number}")
    post(house, "meagre-1")
    post(house, "meagre-2", {**BODY, "model": UNPRICED})
    audited = [json.loads(line) for line in house.lines("security_audit.log")]
    assert [(line["event"], line["severity"], line["details"]["who"]) for line in audited] == [
        ("BUDGET_REFUSED", "LOW", "key poor total"),
        ("BUDGET_REFUSED", "LOW", "key meagre total"),
        ("BUDGET_REFUSED", "LOW", "model_without_price"),
    ]
    scraped = house.client.get("/metrics").text
    assert 'llm_budget_refusals_total{reason="budget_exceeded"} 4.0' in scraped
    assert 'llm_budget_refusals_total{reason="model_without_price"} 1.0' in scraped
    assert "poor" not in scraped


# Together.


def wait_until(true: Callable[[], object]) -> None:
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.002)


def test_who_shares_a_flight_pays_nothing_and_reserves_nothing(make, provider):
    house = make(key("first", 10**9), key("second", 1))
    provider.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        paid = pool.submit(post, house, "first-1")
        wait_until(lambda: provider.calls)
        shared = pool.submit(post, house, "second-1")
        wait_until(house.services.flights.waiting)
        held = counters(house.services.ledger)
        provider.gate.set()
        assert (paid.result().status_code, shared.result().status_code) == (200, 200)
    assert "key:second:total" not in [scope for scope, _ in held]
    assert shared.result().headers["X-Cache-Status"] == "coalesced"
    assert left(shared.result()) == format_dollars(1)
    assert len(provider.calls) == 1


def test_a_leader_that_cannot_pay_keeps_nobody_else_from_an_answer(make, provider, monkeypatch):
    """The poor one leads and waits for its own call in flight; who follows is not refused with it."""
    monkeypatch.setattr("store.ledger.BUSY_SECONDS", 30.0)
    house = make(key("poor", bound_of(HOLD)))
    provider.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        pool.submit(post, house, "poor-1", HOLD)
        wait_until(lambda: provider.calls)
        leader = pool.submit(post, house, "poor-2")
        wait_until(lambda: house.services.ledger.waiting)
        followers = [pool.submit(post, house, name) for name in ("rich-1", "poor-3")]
        wait_until(lambda: house.services.flights.waiting() == 2)
        provider.gate.set()
        assert leader.result().status_code == 402
        rich, poor = (job.result() for job in followers)
    assert (rich.status_code, rich.headers["X-Cost-Total"]) == (200, format_dollars(COST))
    assert poor.status_code in (200, 402)  # with its leader, or by the flight of the one who can pay
    assert len(provider.calls) == 2
    assert_sums_agree(house.services.ledger)


def test_asks_that_wait_for_their_budget_leave_room_for_all_others(make, provider, monkeypatch):
    """Sixteen threads: 14 asks in the air, of which 7 may wait so, and 3 of one key."""
    monkeypatch.setattr("store.ledger.BUSY_SECONDS", 30.0)
    house = make(key("poor", bound_of(HOLD)), threads=16, upstream_concurrency=8)
    provider.gate.clear()
    with ThreadPoolExecutor(24) as pool:
        pool.submit(post, house, "poor-0", HOLD)
        wait_until(lambda: provider.calls)
        crowd = [pool.submit(post, house, f"poor-{n}", {**BODY, "prompt": f"{n}"}) for n in range(1, 13)]
        wait_until(lambda: sum(job.done() for job in crowd) == 9)
        assert house.services.ledger.waiting == 3
        refused = [job.result() for job in crowd if job.done()]
        assert {
            (each.status_code, "try again in a moment" in each.get_json()["error"]) for each in refused
        } == {(402, True)}
        others = [pool.submit(post, house, f"other-{n}", {**BODY, "prompt": f"o{n}"}) for n in range(7)]
        wait_until(lambda: len(provider.calls) == 8)
        provider.gate.set()
        assert {job.result().status_code for job in others} == {200}
        # Each of them costs less than its most, so some of those that waited fit after all.
        assert {job.result().status_code for job in crowd} <= {200, 402}
    assert house.services.ledger.waiting == 0
    spent, reserved = counters(house.services.ledger)["key:poor:total", 0]
    assert (spent <= bound_of(HOLD), reserved) == (True, 0)


def test_the_time_that_a_reservation_takes_is_taken_off_the_call(make, provider):
    clock = [100.0]

    def cover(*_: Any) -> None:
        clock[0] += 7

    meter = Meter(len, lambda *_: 1, cover, timer=lambda: clock[0])
    meter.run(provider, Call(MODEL, word(Ask(Task.TEXT, "x", 0.0)), 1, seconds=10.0))
    assert provider.calls[0].seconds == 3.0


def test_a_refusal_says_whose_budget_it_was(make):
    house = make(key("poor", 1))
    asked = Ask(Task.TEXT, "x", time.monotonic() + 5, request_id="poor-9", route="/x")
    with pytest.raises(BudgetExceeded) as refusal:
        house.services.pipeline.answer(asked)
    assert refusal.value.scope == "key:poor:total"


# Soft limits.


def test_a_soft_limit_is_one_audit_line_without_the_request_that_reached_it_and_one_metric(make):
    house = make(key("rich", 10**9, soft=2 * COST))  # of no period, which midnight could end between two asks
    for number in range(4):
        assert post(house, f"rich-{number}", {**BODY, "prompt": f"{number}"}).status_code == 200
    (line,) = [json.loads(line) for line in house.lines("security_audit.log")]
    assert (line["event"], line["severity"], line["request_id"]) == ("BUDGET_SOFT_LIMIT", "MEDIUM", None)
    assert line["details"] == {
        "owner": "key",
        "id": "rich",
        "period": "total",
        "spent": format_dollars(2 * COST),
        "soft_limit": format_dollars(2 * COST),
        "limit": "1.000000000",
    }
    assert 'llm_budget_soft_limits_total{period="total"} 1.0' in house.client.get("/metrics").text
