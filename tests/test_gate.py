"""The gate keeps slow providers from taking every thread."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from errors import ContentBlocked, EmptyReply, InvalidInput, Overloaded, PromptTooLong, UpstreamFault
from gemini_wrapper import GeminiProvider
from metrics import NullMetrics
from providers.base import Call, Reply
from providers.gate import Gate, GatedProvider
from providers.sandbox import SandboxProvider
from services import FAILING, asks_in_air, build_services
from tasks import Ask, Task, Usage
from tests.cache_contract import run_together
from tests.readers import LONG, wait_until
from tests.test_pipeline import ask_together, impatient, statuses
from wording import Wording

CALL = Call("model", Wording("", "x", 0.0), 10, 5.0)


class Told(SandboxProvider):
    """A provider that does as it is told."""

    outcome: BaseException | None = None
    seconds = 0.0

    def call(self, call: Call) -> Reply:
        self.seconds = call.seconds
        if self.outcome is not None:
            raise self.outcome
        return Reply("ok", Usage(1, 1), call.model)


class Noting(NullMetrics):
    """Metrics that are written down."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []

    def upstream(self, provider: str, model: str, outcome: str, seconds: float) -> None:
        assert seconds >= 0
        self.calls.append((provider, model, outcome))


def test_one_ask_too_many_is_refused_at_once_and_a_place_that_was_left_is_free():
    gate = Gate(calls=1, asks=2)
    with gate.ask():
        with gate.ask():
            assert gate.in_air == 2
            with pytest.raises(Overloaded) as refusal, gate.ask():
                pass
            assert (refusal.value.status, refusal.value.retry_after) == (503, 1)
        with gate.ask():
            assert gate.in_air == 2
    assert gate.in_air == 0


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, Overloaded])
def test_a_place_is_free_again_whatever_happened_in_it(failure):
    gate = Gate(calls=1, asks=1)
    for _ in range(3):
        with pytest.raises(failure), gate.ask():
            raise failure
        with pytest.raises(failure), gate.call(1.0):
            raise failure
    assert gate.in_air == 0
    with gate.ask(), gate.call(0.0):
        pass


def test_a_call_waits_for_its_turn_no_longer_than_its_time():
    gate = Gate(calls=1, asks=9)
    with gate.call(1.0):
        began = time.monotonic()
        with pytest.raises(Overloaded), gate.call(0.05):
            pass
        assert 0.05 <= time.monotonic() - began < 5.0
    with gate.call(0.0):
        pass


def test_what_waiting_took_is_no_longer_there_for_the_call():
    moments = iter([100.0, 103.0])
    gate = Gate(calls=1, asks=9, timer=lambda: next(moments))
    with gate.call(5.0) as seconds:
        assert seconds == 2.0


def test_no_more_calls_run_at_once_than_allowed():
    gate, running, most, counting = Gate(calls=3, asks=99), [0], [0], threading.Lock()
    all_three = threading.Event()

    def act(_: int) -> None:
        with gate.ask(), gate.call(LONG):
            with counting:
                running[0] += 1
                most[0] = max(most[0], running[0])
            if most[0] >= 3:
                all_three.set()
            assert all_three.wait(LONG)
            time.sleep(0.005)
            with counting:
                running[0] -= 1

    assert run_together(20, act) == [None] * 20
    assert most[0] == 3
    assert gate.in_air == 0


def test_a_provider_behind_the_gate_gets_the_time_that_is_left_and_its_calls_are_noted():
    provider, metrics = Told(), Noting()
    gated = GatedProvider(provider, Gate(2, 2), metrics)
    assert (gated.name, gated.models(None)) == ("sandbox", provider.models(None))
    gated.call(CALL)
    assert 4.0 < provider.seconds <= 5.0
    provider.outcome = ContentBlocked()
    with pytest.raises(ContentBlocked):
        gated.call(CALL)
    provider.outcome = UpstreamFault()
    with pytest.raises(UpstreamFault):
        gated.call(replace(CALL, model="other"))
    assert metrics.calls == [
        ("sandbox", "model", "ok"),
        ("sandbox", "model", "content_blocked"),
        ("sandbox", "other", "upstream_error"),
    ]


def test_a_stream_holds_its_place_until_it_ends_and_is_noted_then_however_it_ends():
    metrics, gate = Noting(), Gate(1, 1)
    gated = GatedProvider(SandboxProvider(), gate, metrics)
    whole, left = gated.stream(CALL), gated.stream(CALL)
    next(whole)
    with pytest.raises(Overloaded):
        next(gated.stream(replace(CALL, seconds=0.0)))
    assert list(whole)
    next(left)
    left.close()
    with gate.call(0.0):
        pass
    assert [outcome for _, _, outcome in metrics.calls] == ["ok", "caller_left"]
    assert gated.failures_in_a_row == 0


def test_an_ask_that_an_adapter_refuses_before_its_call_is_no_failure_of_the_service():
    provider, metrics = Told(), Noting()
    gated = GatedProvider(provider, Gate(2, 2), metrics)
    provider.outcome = InvalidInput("Simplify `tools`.")
    with pytest.raises(InvalidInput):
        gated.call(CALL)
    assert [outcome for _, _, outcome in metrics.calls] == ["invalid_input"]
    assert gated.failures_in_a_row == 0


@pytest.mark.parametrize("at_work", [None, ContentBlocked(), EmptyReply(), PromptTooLong()], ids=repr)
def test_failures_in_a_row_are_counted_until_the_service_works(at_work):
    provider = Told()
    gated = GatedProvider(provider, Gate(2, 2), NullMetrics())
    provider.outcome = UpstreamFault(transient=True)
    for count in (1, 2, 3):
        with pytest.raises(UpstreamFault):
            gated.call(CALL)
        assert gated.failures_in_a_row == count
    provider.outcome = at_work
    with nullcontext() if at_work is None else pytest.raises(type(at_work)):
        gated.call(CALL)
    assert gated.failures_in_a_row == 0


def test_a_bug_in_a_provider_is_not_counted_as_a_good_call():
    provider, metrics = Told(), Noting()
    gated = GatedProvider(provider, Gate(2, 2), metrics)
    provider.outcome = RuntimeError()
    with pytest.raises(RuntimeError):
        gated.call(CALL)
    assert metrics.calls[-1][2] != "ok"
    assert gated.failures_in_a_row == 1


def test_an_eighth_of_the_threads_stays_for_hits_and_health():
    assert [asks_in_air(threads) for threads in (4, 5, 8, 16, 96)] == [3, 4, 7, 14, 84]


# In the house.


def test_with_every_place_taken_new_asks_are_refused_while_hits_and_health_are_served(
    make_house, settings, upstream
):
    # The provider's own pool is wider than the gate, so that it is the gate that holds the calls back.
    provider = GeminiProvider("any-key", settings.gemini_model, base_url=upstream.url, connections=64)
    changed = replace(settings, threads=5, upstream_concurrency=2)
    house = make_house(build_services(changed, provider=provider))
    house.post("text", {"prompt": "known"})
    upstream.held, answered = True, []

    def ask(index: int) -> Any:
        own = replace(house, client=house.app.test_client())
        if index < 8:
            answered.append(own.post("text", {"prompt": f"{index}"}))
            return answered[-1]
        try:
            assert wait_until(lambda: len(answered) == house.services.gate.in_air == 4)
            assert wait_until(lambda: upstream.in_flight == 2)
            known, health = own.post("text", {"prompt": "known"}), own.client.get("/api/v1/health")
            return known.headers["X-Cache-Status"], health.status_code, house.services.gate.in_air
        finally:
            upstream.held = False

    *asked, aside = run_together(9, ask)
    assert aside == ("hit", 200, 4), "they must not have waited for the slow ones"
    assert statuses(asked) == {"miss": 4, "503": 4}
    refused = [response for response in asked if response.status_code == 503]
    assert {response.headers["Retry-After"] for response in refused} == {"1"}
    assert {response.get_json()["code"] for response in refused} == {"overloaded"}
    assert upstream.max_in_flight == 2
    assert len(upstream.journal) == 5


def test_asks_beyond_the_calls_wait_within_their_deadline_and_are_then_refused(
    make_house, settings, upstream
):
    services = build_services(replace(settings, threads=8, upstream_concurrency=1, llm_timeout_seconds=0.3))
    house = make_house(services)
    upstream.held = True
    with ThreadPoolExecutor(1) as pool:
        patient = Ask(Task.TEXT, "x", time.monotonic() + 3 * LONG)
        first = pool.submit(services.pipeline.answer, patient)
        try:
            assert wait_until(lambda: upstream.in_flight == 1)
            responses = ask_together(house, 4, "text", lambda index: {"prompt": f"{index}"})
        finally:
            upstream.held = False
        assert first.result(LONG).cache_status == "miss"
    assert {response.status_code for response in responses} <= {503, 504}
    assert len(upstream.journal) == 1
    assert house.services.gate.in_air == 0


def test_health_says_degraded_while_the_provider_fails_and_recovers(make_house, settings, upstream):
    house = make_house(impatient(build_services(settings), attempts=1))
    upstream.script(*["unavailable"] * FAILING)
    seen = []
    for number in range(FAILING + 1):
        house.post("text", {"prompt": f"{number}"})
        seen.append(house.client.get("/api/v1/health").get_json()["status"])
    assert seen == ["healthy"] * (FAILING - 1) + ["degraded", "healthy"]
