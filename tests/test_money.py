"""The ledger is exact: headers, running total, records and the provider's own journal agree to the nano-dollar."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from conftest import House
from services import build_services
from tasks import Usage
from tests.cache_contract import run_together
from tests.readers import wait_until
from tests.test_pipeline import impatient, nano, records
from tests.upstream import RETRYABLE, Call, Fault, Upstream

# Nano-dollars per token: fresh input, cached input, output with thoughts. As Google's price list has them.
PRICES = {"gemini-3.1-flash-lite": (250, 25, 1500), "gemini-3.5-flash": (1500, 150, 9000)}
CHOICE = ["positive", "negative", "neutral"]
NONSENSE = Fault("says", text="none of these")

# kind of ask: how many, and what the provider does with its calls
SINGLES: dict[str, tuple[int, tuple[str | Fault, ...]]] = {
    "fresh": (330, ()),
    "again": (180, ()),
    "bypass": (50, ()),
    "other model": (30, ("other_model",)),
    "cut": (20, ("max_tokens",)),
    "blocked prompt": (20, ("blocked_prompt",)),
    "blocked answer": (20, ("blocked_answer",)),
    "recitation": (10, ("recitation",)),
    "empty": (15, ("empty",)),
    "no candidates": (15, ("no_candidates",)),
    "refused": (20, ("bad_request",)),
    "forbidden": (10, ("forbidden",)),
    "limited": (10, ("quota_per_day",)),
    "second try": (30, ("unavailable", "ok")),
    "fifth try": (10, ("internal", "bad_gateway", "rate_limited", "request_timeout", "ok")),
    "gave up": (10, ("unavailable",) * 5),
    "lost and found": (10, ("reset_before", "cut_body", "ok")),
    "unreadable": (10, ("garbage", "html")),
    "repaired": (30, (NONSENSE, "ok")),
    "not repaired": (10, (NONSENSE, NONSENSE)),
}
BURSTS: tuple[tuple[str | Fault, ...], ...] = (
    *((),) * 12,
    *(("blocked_answer",),) * 4,
    *(("unavailable", "ok"),) * 4,
)
BURST = 8


def billed_by_hand(journal: list[Call]) -> int:
    """What the provider charges for the calls whose counts it has told."""
    total = 0
    for call in journal:
        if call.billed is not None and call.usage_sent:
            served = "gemini-3.5-flash" if call.fault == "other_model" else call.model
            fresh, cached, output = PRICES[served]
            tokens = call.billed
            total += (tokens.prompt - tokens.cached) * fresh + tokens.cached * cached
            total += (tokens.candidates + tokens.thoughts) * output
    return total


def billed_unseen(journal: list[Call]) -> int:
    """Calls that the provider charges for although its counts never arrived."""
    return sum(call.billed is not None and not call.usage_sent for call in journal)


def assert_all_agree(house: House, upstream: Upstream, responses: list[Any]) -> None:
    assert upstream.wait_idle()
    paid = [response for response in responses if "X-Cost-Total" in response.headers]
    total = sum(nano(response) for response in paid)
    seen = records(house)
    stats = house.client.get("/api/v1/stats").get_json()["usage_stats"]
    assert total == max(nano(response, "Overall") for response in paid)
    assert total == house.services.tracker.overall_nano == stats["total_cost_nanodollars"]
    assert total == sum(record["cost_nanodollars"] for record in seen)
    assert total == billed_by_hand(upstream.journal)
    assert sum(record["unknown_attempts"] for record in seen) == billed_unseen(upstream.journal)
    assert sum(record["attempts"] for record in seen) == len(upstream.journal)
    assert sum(nano(response, "Saved") for response in paid) == sum(
        record["saved_nanodollars"] for record in seen
    )
    assert_one_record_each(responses, seen)
    assert stats["total_requests"] == len(responses)


def assert_one_record_each(responses: list[Any], seen: list[dict[str, Any]]) -> None:
    asked = {response.headers["X-Request-ID"]: response.status_code for response in responses}
    assert len(asked) == len(responses) == len(seen)
    assert {record["request_id"]: record["status"] for record in seen} == asked
    assert 500 not in asked.values()
    for response in responses:
        if "X-Cost-Total" in response.headers:
            assert nano(response, "Input") + nano(response, "Output") == nano(response)


class Callers:
    """Callers of every kind, seeded."""

    def __init__(self, house: House, upstream: Upstream, seed: int) -> None:
        self._house, self._upstream = house, upstream
        self._chance = random.Random(seed)
        self._known: list[tuple[str, Any]] = []
        self._number = 0

    def plan(self) -> list[Callable[[], list[Any]]]:
        singles = [
            (lambda kind=kind, faults=faults: [self._single(kind, faults)])
            for kind, (count, faults) in SINGLES.items()
            for _ in range(count)
        ]
        bursts = [(lambda faults=faults: self._burst(faults)) for faults in BURSTS]
        plan = [*singles, *bursts]
        self._chance.shuffle(plan)
        return plan

    def _new(self, kind: str = "") -> tuple[str, Any]:
        self._number += 1
        words = f"Ask {self._number}: " + "word " * self._chance.randrange(200)
        if kind.endswith("repaired"):
            return "classify", {"text": words, "categories": CHOICE}
        task = self._chance.choice(
            ["text", "text", "code"] if kind in ("cut", "") else ["text", "code", "classify"]
        )
        return task, {"text": words, "categories": CHOICE} if task == "classify" else {"prompt": words}

    def _single(self, kind: str, faults: tuple[str | Fault, ...]) -> Any:
        self._upstream.script(*faults)
        if kind == "again" and self._known:
            return self._house.post(*self._chance.choice(self._known))
        if kind == "bypass" and self._known:
            directive = self._chance.choice(["no-cache", "no-store"])
            return self._house.post(*self._chance.choice(self._known), Cache_Control=directive)
        ask = self._new(kind)
        response = self._house.post(*ask)
        if kind == "fresh":
            self._known.append(ask)
        return response

    def _burst(self, faults: tuple[str | Fault, ...]) -> list[Any]:
        self._upstream.script(*faults)
        return burst(self._house, self._upstream, *self._new())


def burst(house: House, upstream: Upstream, task: str, body: Any) -> list[Any]:
    """Identical asks, of which the provider answers none before all but one wait for the first."""

    def act(index: int) -> Any:
        if index < BURST:
            return replace(house, client=house.app.test_client()).post(task, body)
        try:
            return wait_until(lambda: house.services.flights.waiting() == BURST - 1)
        finally:
            upstream.held = False

    upstream.held = True
    *responses, all_waited = run_together(BURST + 1, act)
    assert all_waited is True
    return responses


@pytest.mark.parametrize("seed", [20261123])
def test_a_thousand_mixed_requests_cost_what_the_provider_billed(make_house, settings, upstream, seed):
    house = make_house(impatient(build_services(replace(settings, cache_max_size=10_000))))
    plan = Callers(house, upstream, seed).plan()
    responses = [response for act in plan for response in act()]
    assert len(responses) == 1000
    statuses = Counter(response.status_code for response in responses)
    assert set(statuses) == {200, 422, 502, 503}
    kinds = Counter(response.headers.get("X-Cache-Status") for response in responses)
    assert min(kinds[kind] for kind in ("miss", "hit", "bypass")) >= 40
    assert kinds["coalesced"] == sum(BURST - 1 for faults in BURSTS if "blocked_answer" not in faults)
    assert_all_agree(house, upstream, responses)


def test_many_callers_at_once_of_a_failing_provider_pay_exactly_what_it_billed(
    make_house, settings, upstream
):
    house = make_house(impatient(build_services(settings)))
    menu = upstream.menu
    upstream.menu = [
        *RETRYABLE,
        "blocked_prompt",
        "blocked_answer",
        "empty",
        "other_model",
        "garbage",
        NONSENSE,
    ]
    upstream.fault_rate, upstream.seed = 0.4, 7
    try:
        answered = [burst(house, upstream, "text", {"prompt": "The same of all"})]
        answered += run_together(8, lambda index: caller(house, index))
    finally:
        upstream.menu, upstream.fault_rate = menu, 0.0
    responses = [response for own in answered for response in own]
    assert len(responses) == BURST + 320
    assert len({response.headers.get("X-Cache-Status") for response in responses}) == 5
    assert_all_agree(house, upstream, responses)


def caller(house: House, index: int) -> list[Any]:
    """Forty asks of one caller, most of them the same as those of the others."""
    own, chance = replace(house, client=house.app.test_client()), random.Random(index)
    responses = []
    for _ in range(40):
        task = chance.choice(["text", "code", "classify"])
        words = f"Ask {chance.randrange(60)}"
        body = {"text": words, "categories": CHOICE} if task == "classify" else {"prompt": words}
        headers = {"Cache_Control": "no-cache"} if chance.random() < 0.1 else {}
        responses.append(own.post(task, body, **headers))
    return responses


def test_the_prices_by_hand_are_those_of_the_price_book(house):
    for model, (fresh, cached, output) in PRICES.items():
        cost = house.services.prices.cost("gemini", model, Usage(3, 1, cached_tokens=1), datetime.now(UTC))
        assert (cost.input_nano, cost.output_nano) == (2 * fresh + cached, output)
