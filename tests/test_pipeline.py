"""The road keeps its promises: one call for identical asks, one record for each ask, one bill for each call."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from conftest import House
from errors import DeadlineExceeded
from gemini_wrapper import GeminiProvider
from lru_cache import ResponseCache
from pipeline import Pipeline
from prices import OwnPrice, PriceBook, Rates
from providers.asking import Terms
from providers.base import Call, Provider, Reply
from providers.retry import RetryPolicy
from providers.sandbox import SandboxProvider
from services import Services, build_services
from tasks import Ask, Task, Usage
from tests.cache_contract import run_together
from tests.ledger_house import locked_out
from tests.ledger_house import rows as ledger_rows
from tests.upstream import CANARY, Fault, Tokens

PROMPT = {"prompt": "Name three rivers."}
CHOICE = {"text": "I love this phone.", "categories": ["positive", "negative"]}
COST_HEADERS = ("Input", "Output", "Total", "Overall", "Saved")


def nano(response: Any, name: str = "Total") -> int:
    """A cost header in nano-dollars."""
    return int(Decimal(response.headers[f"X-Cost-{name}"]) * 10**9)


def statuses(responses: list[Any]) -> Counter[str]:
    return Counter(
        response.headers.get("X-Cache-Status", str(response.status_code)) for response in responses
    )


def rebuilt(services: Services, **parts: Any) -> Services:
    """The same services, the road built anew with some parts exchanged."""
    policy = parts.pop("policy", RetryPolicy(services.settings.llm_max_attempts))
    road = {
        "chain": services.chain,
        "terms": Terms(policy, services.settings.max_output_tokens),
        "cache": services.cache,
        "flights": services.flights,
        "gate": services.gate,
        "prices": services.prices,
        "tracker": services.tracker,
        "ledger": services.ledger,
        "metrics": services.metrics,
        "estimate": len,
    }
    return replace(services, pipeline=Pipeline(**(road | parts)))


def impatient(
    services: Services,
    waits: list[float] | None = None,
    attempts: int = 5,
    timer: Callable[[], float] = time.monotonic,
) -> Services:
    """The same services, whose road notes the waits between attempts and does not wait."""
    noted = [] if waits is None else waits
    policy = RetryPolicy(attempts, sleep=noted.append, jitter=lambda low, high: 0.0, timer=timer)
    return rebuilt(services, policy=policy, timer=timer)


def ask_together(house: House, count: int, task: str, body: Callable[[int], Any]) -> list[Any]:
    """`count` requests at once, each from a client of its own."""

    def ask(index: int) -> Any:
        return replace(house, client=house.app.test_client()).post(task, body(index))

    responses = run_together(count, ask)
    assert [type(response).__name__ for response in responses if isinstance(response, BaseException)] == []
    return responses


class Held:
    """A provider whose replies come back only when so many followers wait for them."""

    def __init__(self, provider: Provider) -> None:
        self.name, self.offers = provider.name, provider.offers
        self.models, self.retired, self.warm = provider.models, provider.retired, provider.warm
        self._provider = provider
        self.expected: list[int] = []
        self.waiting: Callable[[], int] = int

    def call(self, call: Call) -> Reply:
        try:
            return self._provider.call(call)
        finally:
            patience, wanted = time.monotonic() + 10, self.expected.pop(0) if self.expected else 0
            while self.waiting() < wanted and time.monotonic() < patience:
                time.sleep(0.001)


class Broken(SandboxProvider):
    """A provider with a bug, and with something that nobody may see."""

    def call(self, call: Call) -> Reply:
        raise RuntimeError(CANARY)


@pytest.fixture
def held_house(make_house, settings):
    def build(**changes: Any) -> tuple[House, Held]:
        changed = replace(settings, **changes)
        held = Held(GeminiProvider.from_settings(changed))
        services = build_services(changed, provider=held)
        held.waiting = services.flights.waiting
        return make_house(services), held

    return build


def records(house: House) -> list[dict[str, Any]]:
    return [json.loads(line) for line in house.lines("cost_tracking.log")]


# Identical asks.


def test_sixty_four_identical_cold_asks_make_one_call_and_one_bill(held_house, upstream):
    house, held = held_house()
    for number in range(4):
        held.expected = [63]
        prompt = f"Round {number} of the rivers."
        responses = ask_together(house, 64, "text", lambda _, prompt=prompt: {"prompt": prompt})
        assert len(upstream.calls(prompt)) == 1
        assert statuses(responses) == {"miss": 1, "coalesced": 63}
        (paid,) = [response for response in responses if response.headers["X-Cache-Status"] == "miss"]
        free = [response for response in responses if response is not paid]
        assert nano(paid) > 0
        assert {nano(response) for response in free} == {0}
        assert {nano(response, "Saved") for response in free} == {nano(paid)}
        assert {response.headers["X-Cached"] for response in responses} == {"false"}
        assert len({response.get_json()["generated_text"] for response in responses}) == 1
    assert house.services.tracker.overall_nano == sum(record["cost_nanodollars"] for record in records(house))
    assert len(records(house)) == 4 * 64


def test_a_leaders_passing_failure_costs_one_further_call_and_not_one_per_follower(held_house, upstream):
    house, held = held_house(llm_max_attempts=1)
    upstream.script("unavailable")
    held.expected = [15, 14]
    responses = ask_together(house, 16, "text", lambda _: PROMPT)
    assert [call.fault for call in upstream.journal] == ["unavailable", "ok"]
    assert statuses(responses) == {"502": 1, "miss": 1, "coalesced": 14}
    assert len(records(house)) == 16


def test_after_two_passing_failures_nobody_calls_a_third_time(held_house, upstream):
    house, held = held_house(llm_max_attempts=1)
    upstream.script("unavailable", "unavailable")
    held.expected = [15, 14]
    responses = ask_together(house, 16, "text", lambda _: PROMPT)
    assert len(upstream.journal) == 2
    assert statuses(responses) == {"502": 16}
    assert not [response for response in responses if "X-Cost-Total" in response.headers]


@pytest.mark.parametrize("fault", ["blocked_prompt", "blocked_answer", "recitation"])
def test_blocked_content_is_shared_without_a_further_call_and_only_the_leader_pays(
    held_house, upstream, fault
):
    house, held = held_house()
    upstream.script(fault)
    held.expected = [15]
    responses = ask_together(house, 16, "text", lambda _: PROMPT)
    assert len(upstream.journal) == 1
    assert {(response.status_code, response.get_json()["code"]) for response in responses} == {
        (422, "content_blocked")
    }
    paid = [response for response in responses if "X-Cost-Total" in response.headers]
    assert len(paid) == 1
    assert nano(paid[0]) == nano(paid[0], "Overall") == house.services.tracker.overall_nano > 0
    for response in responses:
        if response is not paid[0]:
            assert not [name for name in response.headers.keys() if name.startswith("X-Cost")]  # noqa: SIM118  not a dict
    assert len(records(house)) == 16


def test_a_bug_of_the_leader_is_a_bug_for_all_and_each_leaves_its_record(make_house, settings):
    held = Held(Broken())
    services = build_services(settings, provider=held)
    held.waiting, held.expected = services.flights.waiting, [7]
    house = make_house(services)
    responses = ask_together(house, 8, "text", lambda _: PROMPT)
    assert {response.status_code for response in responses} == {500}
    assert [record["status"] for record in records(house)] == [500] * 8


def test_a_follower_whose_time_is_up_gets_504_and_leaves_its_record(held_house):
    house, held = held_house()
    pipeline, flights = house.services.pipeline, house.services.flights
    held.expected, follower_left = [1], threading.Event()
    held.waiting = follower_left.is_set  # the leader's reply comes when its follower is gone

    def ask(index: int) -> Any:
        if index == 0:
            return pipeline.answer(Ask(Task.TEXT, "x", time.monotonic() + 30))
        while not flights.in_air():
            time.sleep(0.001)
        with pytest.raises(DeadlineExceeded) as failure:
            pipeline.answer(Ask(Task.TEXT, "x", time.monotonic() + 0.1))
        follower_left.set()
        return failure.value

    leader, follower = run_together(2, ask)
    assert leader.cache_status == "miss"
    assert (follower.status, follower.code, follower.bill) == (504, "deadline", None)
    assert sorted(record["status"] for record in records(house)) == [200, 504]


def test_fifty_different_asks_at_once_do_not_wait_for_each_other(make_house, settings, upstream):
    services = build_services(settings)
    services.warm()  # as serving does before the first request
    house = make_house(services)
    upstream.meet = 50
    responses = ask_together(house, 50, "text", lambda index: {"prompt": f"River number {index}."})
    assert statuses(responses) == {"miss": 50}
    assert len({response.get_json()["generated_text"] for response in responses}) == 50
    assert upstream.max_in_flight == 50


def test_one_category_and_all_that_fit_do_not_share_a_flight(make_house, settings, upstream):
    services = build_services(replace(settings, llm_timeout_seconds=5.0))
    services.warm()
    house = make_house(services)
    upstream.meet = 2
    responses = ask_together(house, 2, "classify", lambda index: CHOICE | {"multi_label": bool(index)})
    assert statuses(responses) == {"miss": 2}
    assert [[*response.get_json()] for response in responses] == [["classification"], ["classifications"]]
    assert upstream.max_in_flight == 2


# One record for each ask.


def test_every_ask_leaves_exactly_one_record_whatever_becomes_of_it(make_house, settings, upstream):
    house = make_house(impatient(build_services(settings)))
    upstream.script("ok", "blocked_prompt", "bad_request", *["unavailable"] * 5)
    answered = [house.post("text", PROMPT) for _ in range(2)]  # a miss and a hit
    failed = [house.post("text", {"prompt": f"{number}"}) for number in range(3)]
    bypassed = house.post("text", PROMPT, Cache_Control="no-cache")
    responses = [*answered, *failed, bypassed]
    assert [response.status_code for response in responses] == [200, 200, 422, 502, 502, 200]
    seen = records(house)
    assert [record["status"] for record in seen] == [200, 200, 422, 502, 502, 200]
    assert [record["cache_status"] for record in seen] == ["miss", "hit", "miss", "miss", "miss", "bypass"]
    assert [record["attempts"] for record in seen] == [1, 0, 1, 1, 5, 1]
    assert [record["request_id"] for record in seen] == [
        response.headers["X-Request-ID"] for response in responses
    ]
    assert seen[-1]["overall_nanodollars"] == sum(record["cost_nanodollars"] for record in seen)
    assert house.services.tracker.get_usage_stats()["total_requests"] == 6


def test_a_bug_is_500_with_a_record_and_without_its_text(make_house, settings):
    house = make_house(build_services(settings, provider=Broken()))
    response = house.post("text", PROMPT)
    assert response.status_code == 500
    assert response.get_json()["code"] == "internal_error"
    assert CANARY not in response.text
    (record,) = records(house)
    assert (record["status"], record["cost_nanodollars"]) == (500, 0)


def test_what_was_spent_before_a_bug_is_in_the_record(make_house, settings, upstream):
    """The first call is billed and names no category; the repair meets a bug."""

    class BreaksLater(GeminiProvider):
        calls = 0

        def call(self, call: Call) -> Reply:
            self.calls += 1
            if self.calls == 2:
                raise RuntimeError
            return super().call(call)

    house = make_house(build_services(settings, provider=BreaksLater.from_settings(settings)))
    upstream.script(Fault("says", text="nonsense", usage=Tokens(prompt=10, candidates=1)))
    assert house.post("classify", CHOICE).status_code == 500
    (record,) = records(house)
    assert (record["status"], record["cost_nanodollars"]) == (500, 10 * 250 + 1500)
    assert house.services.tracker.overall_nano == 4000


def full(house: House) -> ExitStack:
    """All four places that five threads leave in the air are taken."""
    places = ExitStack()
    for _ in range(4):
        places.enter_context(house.services.gate.ask())
    return places


def test_an_ask_that_finds_the_platform_full_is_refused_and_recorded(held_house):
    house, _ = held_house(threads=5, upstream_concurrency=4)
    with full(house):
        response = house.post("text", PROMPT)
    assert (response.status_code, response.get_json()["code"]) == (503, "overloaded")
    assert response.headers["Retry-After"] == "1"
    assert [record["status"] for record in records(house)] == [503]
    assert house.post("text", PROMPT).status_code == 200


def test_a_hit_needs_no_place_in_the_air(held_house):
    house, _ = held_house(threads=5, upstream_concurrency=4)
    house.post("text", PROMPT)
    with full(house):
        assert house.post("text", PROMPT).headers["X-Cache-Status"] == "hit"


# The cache on the road.


def test_no_cache_asks_anew_and_remembers_the_newer_answer(house, upstream):
    upstream.script(Fault("says", text="old"), Fault("says", text="new"))
    assert house.post("text", PROMPT).get_json()["generated_text"] == "old"
    fresh = house.post("text", PROMPT, Cache_Control="no-cache")
    assert (fresh.get_json()["generated_text"], fresh.headers["X-Cache-Status"]) == ("new", "bypass")
    later = house.post("text", PROMPT)
    assert (later.get_json()["generated_text"], later.headers["X-Cache-Status"]) == ("new", "hit")
    assert len(upstream.journal) == 2


def test_no_store_neither_reads_nor_leaves_an_answer(house, upstream):
    for _ in range(2):
        response = house.post("text", PROMPT, Cache_Control="max-age=0, No-Store")
        assert response.headers["X-Cache-Status"] == "bypass"
        assert nano(response) > 0
    assert house.services.cache.size() == 0
    assert house.post("text", PROMPT).headers["X-Cache-Status"] == "miss"
    assert len(upstream.journal) == 3


def test_identical_asks_that_bypass_the_cache_are_not_joined(house, upstream):
    upstream.latency = 0.1

    def ask(_: int) -> Any:
        own = replace(house, client=house.app.test_client())
        return own.post("text", PROMPT, Cache_Control="no-cache")

    assert statuses(run_together(4, ask)) == {"bypass": 4}
    assert len(upstream.journal) == 4


def test_an_answer_cut_by_the_token_limit_is_given_but_never_remembered(house, upstream):
    upstream.script("max_tokens")
    first = house.post("text", PROMPT)
    assert (first.status_code, first.headers["X-Cache-Status"]) == (200, "miss")
    second = house.post("text", PROMPT)
    assert second.headers["X-Cache-Status"] == "miss"
    assert len(second.get_json()["generated_text"]) > len(first.get_json()["generated_text"])
    assert house.post("text", PROMPT).headers["X-Cache-Status"] == "hit"


@pytest.mark.parametrize("fault", ["blocked_prompt", "empty", "no_candidates", "bad_request"])
def test_a_failure_is_never_remembered(house, upstream, fault):
    upstream.script(fault)
    assert house.post("text", PROMPT).status_code >= 400
    assert house.post("text", PROMPT).headers["X-Cache-Status"] == "miss"


def test_with_a_ttl_of_zero_every_ask_is_answered_anew(make_house, upstream):
    house = make_house(cache_ttl_seconds=0.0)
    assert [house.post("text", PROMPT).headers["X-Cache-Status"] for _ in range(2)] == ["miss", "miss"]
    assert house.services.cache.size() == 0


def test_an_answer_is_forgotten_when_its_time_is_up(make_house, settings):
    now = [0.0]
    services = build_services(settings)
    house = make_house(rebuilt(services, cache=ResponseCache(10, 60, timer=lambda: now[0])))
    seen = []
    for now[0] in (0.0, 59.9, 60.0):
        seen.append(house.post("text", PROMPT).headers["X-Cache-Status"])
    assert seen == ["miss", "hit", "miss"]


def test_asks_that_differ_anywhere_never_share_an_answer(house, upstream):
    asks = [
        ("text", {"prompt": "a"}),
        ("text", {"prompt": "a "}),
        ("text", {"prompt": "A"}),
        ("text", {"prompt": "a", "max_tokens": 500}),
        ("text", {"prompt": "a", "max_tokens": 501}),
        ("text", {"prompt": "a", "model": "gemini-3.1-flash-lite"}),
        ("text", {"prompt": "a", "model": "gemini-3.5-flash"}),
        ("code", {"prompt": "a"}),
        ("classify", {"text": "a", "categories": ["x", "y"]}),
        ("classify", {"text": "a", "categories": ["y", "x"]}),
        ("classify", {"text": "a", "categories": ["x,y"]}),
        ("classify", {"text": "a", "categories": ["x", "y", "z"]}),
        ("classify", {"text": "a", "categories": ['x", "y']}),
        ("classify", {"text": "a", "categories": ["x", "y"], "model": "gemini-3.5-flash"}),
        ("classify", {"text": "a", "categories": ["x", "y"], "max_tokens": 500}),
        ("classify", {"text": "a", "categories": ["x", "y"], "max_tokens": 501}),
    ]
    assert {house.post(task, body).headers["X-Cache-Status"] for task, body in asks} == {"miss"}
    assert len(upstream.journal) == len(asks)
    assert {house.post(task, body).headers["X-Cache-Status"] for task, body in asks} == {"hit"}


def test_tenants_never_share_an_answer(house):
    pipeline = house.services.pipeline
    asks = [Ask(Task.TEXT, "x", time.monotonic() + 30, tenant=tenant) for tenant in ("one", "other", "one")]
    assert [pipeline.answer(ask).cache_status for ask in asks] == ["miss", "miss", "hit"]


# The bill.


def test_the_fixture_with_cached_and_thinking_tokens_is_billed_to_the_nano_dollar(house, upstream):
    upstream.script(Fault("ok", usage=Tokens(prompt=11125, cached=7441, candidates=20, thoughts=409)))
    response = house.post("text", PROMPT)
    assert response.headers["X-Cost-Input"] == "0.001107025"
    assert response.headers["X-Cost-Output"] == "0.000643500"
    assert response.headers["X-Cost-Total"] == response.headers["X-Cost-Overall"] == "0.001750525"
    assert (response.headers["X-Tokens-Input"], response.headers["X-Tokens-Output"]) == ("11125", "429")
    assert "X-Tokens-Estimated" not in response.headers
    hit = house.post("text", PROMPT)
    assert [hit.headers[f"X-Cost-{name}"] for name in COST_HEADERS] == [
        "0.000000000", "0.000000000", "0.000000000", "0.001750525", "0.001750525",
    ]  # fmt: skip


def test_the_price_follows_the_model_that_served(house, upstream):
    upstream.script(Fault("other_model", usage=Tokens(prompt=1000, candidates=100)))
    response = house.post("text", PROMPT)
    assert response.headers["X-Model"] == "gemini-3.5-flash"
    rates = house.services.prices.cost("gemini", "gemini-3.5-flash", Usage(1000, 100), datetime.now(UTC))
    assert nano(response) == rates.total_nano != 1000 * 250 + 100 * 1500


def test_an_unknown_price_is_said_and_never_guessed_or_added(house, upstream):
    house.post("text", PROMPT)
    before = house.services.tracker.overall_nano
    upstream.script(Fault("ok", model="gemini-of-tomorrow"))
    body = {"prompt": "How much?"}
    response = house.post("text", body)
    assert response.status_code == 200
    assert response.headers["X-Cost-Known"] == "false"
    assert {response.headers[f"X-Cost-{name}"] for name in ("Input", "Output", "Total")} == {"unknown"}
    assert nano(response, "Overall") == before == house.services.tracker.overall_nano
    hit = house.post("text", body)
    assert (hit.headers["X-Cost-Total"], hit.headers["X-Cost-Saved"]) == ("0.000000000", "unknown")
    assert hit.headers["X-Cost-Known"] == "false"
    assert [record["cost_nanodollars"] for record in records(house)] == [before, None, 0]
    assert house.client.get("/api/v1/stats").get_json()["usage_stats"]["unknown_cost_requests"] == 1


def test_tokens_are_estimated_only_where_the_provider_gave_none_and_said_so(house, upstream):
    upstream.script("no_usage")
    response = house.post("text", PROMPT)
    assert response.headers["X-Tokens-Estimated"] == "true"
    count = house.services.tracker.overall_nano
    tokens_in, tokens_out = (int(response.headers[f"X-Tokens-{name}"]) for name in ("Input", "Output"))
    assert min(tokens_in, tokens_out) > 0
    assert nano(response) == count == tokens_in * 250 + tokens_out * 1500
    assert house.post("text", PROMPT).headers["X-Tokens-Estimated"] == "true"
    assert "X-Tokens-Estimated" not in house.post("text", {"prompt": "else"}).headers


def test_a_repaired_classification_is_billed_for_both_calls(house, upstream):
    usage = Tokens(prompt=100, candidates=10)
    upstream.script(
        Fault("says", text='{"category": "other"}', usage=usage),
        Fault("says", text='{"category": "negative"}', usage=usage),
    )
    response = house.post("classify", CHOICE)
    assert response.get_json() == {"classification": "negative"}
    assert nano(response) == 2 * (100 * 250 + 10 * 1500)
    assert (response.headers["X-Tokens-Input"], response.headers["X-Tokens-Output"]) == ("200", "20")
    assert nano(house.post("classify", CHOICE), "Saved") == nano(response)


def test_two_calls_by_different_models_are_each_billed_at_their_own_price(make_house, settings, upstream):
    own = (
        OwnPrice("gemini", Rates("dear", 10, 10, 10, "test")),
        OwnPrice("gemini", Rates("cheap", 1, 1, 1, "test")),
    )
    house = make_house(rebuilt(build_services(settings), prices=PriceBook(own)))
    usage = Tokens(prompt=100, candidates=10)
    upstream.script(
        Fault("says", text="nonsense", usage=usage, model="dear"),
        Fault("says", text="positive", usage=usage, model="cheap"),
    )
    response = house.post("classify", CHOICE)
    assert nano(response) == 1100 + 110
    assert response.headers["X-Model"] == "cheap"
    (record,) = records(house)
    assert [rates["model"] for rates in record["rates"]] == ["dear", "cheap"]


def test_a_hit_saves_what_its_answer_would_cost_today(make_house, settings, upstream):
    """The price rises tenfold between the answer and the hit."""
    clock = [datetime(2026, 11, 1, 12, tzinfo=UTC).timestamp()]
    rises = date(2026, 12, 1)
    own = (
        OwnPrice("gemini", Rates(settings.gemini_model, 1, 1, 1, "test"), ends=rises),
        OwnPrice("gemini", Rates(settings.gemini_model, 10, 10, 10, "test"), starts=rises),
    )
    parts = {"prices": PriceBook(own), "clock": lambda: clock[0]}
    house = make_house(rebuilt(build_services(settings), **parts))
    upstream.script(Fault("ok", usage=Tokens(prompt=90, candidates=10)))
    assert nano(house.post("text", PROMPT)) == 100
    clock[0] += 40 * 86_400
    assert nano(house.post("text", PROMPT), "Saved") == 1000


def test_a_failure_that_was_not_billed_carries_no_cost_headers(house, upstream):
    upstream.script("bad_request")
    response = house.post("text", PROMPT)
    assert response.status_code == 502
    assert not [name for name in response.headers.keys() if name.startswith("X-Cost")]  # noqa: SIM118  not a dict


# Where the ledger fails in the middle.


def test_a_further_call_that_cannot_be_covered_is_not_made_and_what_was_billed_is_owed(
    make_house, settings, upstream
):
    house = make_house(impatient(build_services(settings)))
    house.post("text", {"prompt": "first"})
    ledger, covered = house.services.ledger, []
    with ExitStack() as away:

        def hold_up(row: Any, nano: int | None, ask: Ask) -> None:
            covered.append(nano)
            away.enter_context(locked_out(ledger))
            type(ledger).extend(ledger, row, nano, ask)

        ledger.extend = hold_up
        upstream.script(Fault("ok", text="none of them"))
        response = house.post("classify", {"text": "x", "categories": ["a", "b"]})
    assert (response.status_code, response.get_json()["code"]) == (503, "ledger_unavailable")
    assert len(covered) == 1
    assert len(upstream.journal) == 2
    assert nano(response) > 0
    ledger.tend()
    (row,) = [row for row in ledger_rows(ledger) if row["request_id"] == response.headers["X-Request-ID"]]
    assert (row["state"], row["cost_nano"], row["status"]) == ("settled", nano(response), 503)


class Buggy:
    """A provider whose adapter breaks after its call."""

    name = "gemini"
    offers: frozenset[str] = frozenset()

    def models(self, requested: str | None, embeds: bool = False) -> list[str]:
        return ["gemini-3.1-flash-lite"]

    def call(self, call: Any) -> Any:
        raise ZeroDivisionError

    def retired(self, model: str) -> None:
        """Never."""

    def warm(self) -> None:
        """Nothing to load."""


def test_a_call_in_which_our_own_adapter_breaks_may_have_been_billed(make_house, settings):
    house = make_house(build_services(settings, provider=Buggy()))
    house.app.testing = False
    assert house.post("text", PROMPT).status_code == 500
    (row,) = ledger_rows(house.services.ledger)
    assert (row["state"], row["attempts"], row["unknown_attempts"]) == ("unknown", 1, 1)
    assert row["unknown_nano"] == row["reserved_nano"] > 0
