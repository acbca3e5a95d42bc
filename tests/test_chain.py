"""The chain: who answers, who is next, what it costs, and that an outage is neither amplified nor outlived."""

# Above 300 lines, because the order of providers is looked at from the unit up to a served outage.

from __future__ import annotations

import gc
import json
import logging
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from chats import Chat, Turn
from conftest import House
from errors import (
    AskRefused,
    ContentBlocked,
    DeadlineExceeded,
    EmptyReply,
    InvalidInput,
    InvalidReply,
    KeyRefused,
    ModelGone,
    ModelUnknown,
    Overloaded,
    PromptTooLong,
    ProviderUnreachable,
    TurnedAway,
    UpstreamFault,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
)
from gemini_wrapper import GeminiProvider
from metrics import NullMetrics
from prices import OwnPrice, PriceBook, Rates
from providers.anthropic import AnthropicProvider
from providers.asking import Meter, Terms
from providers.base import Billed, Call, Piece, Provider, Reply
from providers.breaker import FAILURES_TO_OPEN, OPEN, PAUSE, Breaker
from providers.chain import Chain, Link, is_worth_the_next
from providers.gate import Gate, GatedProvider
from providers.retry import Guard, RetryPolicy
from services import build_services
from store.rows import charges_from
from store.tables import requests
from tasks import TOOLS, Ask, Task, Usage
from tests.cache_contract import run_together
from tests.servers.ports import free_port
from tests.test_base import ONE, Listener, Scripted
from tests.test_metrics import scraped
from tests.test_pipeline import CHOICE, PROMPT, nano, rebuilt, records
from tests.test_retry import Time
from tests.upstream import Fault, Tokens, Upstream

MODEL = "gemini-3.1-flash-lite"


class Named(Scripted):
    """A scripted provider under a name of its own; it takes as long for a call as it is told."""

    def __init__(self, name: str, *script: Any, models: Sequence[str] = ("first",)) -> None:
        super().__init__(*script, models=models)
        self.name = name
        self.during: Callable[[Call], None] = lambda call: None

    def call(self, call: Call) -> Reply:
        self.during(call)
        return super().call(call)


class Bench:
    """A chain of scripted providers on a clock of ours."""

    def __init__(self, *providers: Provider, seconds: float = 30.0, **options: Any) -> None:
        self.clock = Time()
        self.links = [self._link(provider) for provider in providers]
        self.chain = Chain(self.links, timer=self.clock, **options)
        self.terms = Terms(RetryPolicy(sleep=self.clock.sleep, jitter=no_jitter, timer=self.clock), 100)
        self.seconds = seconds
        self.meter = Meter(len)

    def _link(self, provider: Provider) -> Link:
        breaker = Breaker(provider.name, timer=self.clock, jitter=no_jitter)
        return Link(GatedProvider(provider, Gate(8, 8), NullMetrics()), Guard(breaker))

    def ask(self, task: Task = Task.TEXT, **options: Any) -> Reply:
        self.meter = Meter(len)
        categories = ("yes", "no") if task is Task.CLASSIFY else ()
        ask = Ask(task, "the input", self.clock() + self.seconds, categories, **options)
        return self.chain.answer(ask, self.meter, self.terms)

    def failed(self, kind: type[Exception], **options: Any) -> Any:
        with pytest.raises(kind) as failure:
            self.ask(**options)
        return failure.value

    def shut(self, *names: str) -> None:
        """Open the breakers of these."""
        for link in self.links:
            for _ in range(FAILURES_TO_OPEN if link.name in names else 0):
                with pytest.raises(UpstreamFault), link.guard.breaker.call():
                    raise busy()


def no_jitter(low: float, high: float) -> float:
    return 0.0


def busy(**facts: Any) -> UpstreamFault:
    return UpstreamFault(transient=True, **facts)


WORTH_THE_NEXT = {
    "busy": ([busy()] * 5, 5),
    "unreachable": ([ProviderUnreachable(transient=True)] * 5, 5),
    "limited for longer than there is time": ([UpstreamRateLimited(transient=True, delay=47)], 1),
    "quota of the day": ([UpstreamQuotaExhausted(delay=3600)], 1),
    "key refused": ([KeyRefused()], 1),
    "no such model any more": ([ModelGone()], 1),
    "lost": ([busy(unknown=True)] * 5, 5),
    "unreadable twice": ([InvalidReply(transient=True)] * 2, 2),
    "time is up": ([DeadlineExceeded()], 1),
}
THE_CALLERS_OWN = [
    ContentBlocked(),
    EmptyReply(),
    PromptTooLong(),
    UpstreamFault(),
    InvalidReply(),
    AskRefused(),
    Overloaded(),
    RuntimeError("a bug"),
]


# Failing over.


def test_the_first_provider_answers_and_the_others_are_not_asked():
    first, second = Named("gemini", "hello"), Named("openai")
    bench = Bench(first, second)
    reply = bench.ask()
    assert (reply.text, reply.provider, reply.model) == ("hello", "gemini", "served-first")
    assert (len(first.calls), second.calls) == (1, [])
    assert bench.meter.charges == [Billed("gemini", "served-first", ONE)]
    assert [link.failovers for link in bench.links] == [0, 0]


@pytest.mark.parametrize(("script", "attempts"), WORTH_THE_NEXT.values(), ids=WORTH_THE_NEXT)
def test_a_fault_that_another_provider_may_not_have_goes_on_to_the_next(script, attempts):
    bench = Bench(Named("gemini", *script), Named("openai", "hello"), seconds=40)
    reply = bench.ask()
    assert (reply.text, reply.provider) == ("hello", "openai")
    assert (bench.meter.attempts, bench.meter.provider) == (attempts + 1, "openai")
    assert [link.failovers for link in bench.links] == [1, 0]


@pytest.mark.parametrize("fault", ["no_credit", "recitation"])
@pytest.mark.parametrize("chat", [None, Chat((Turn("user", "hello"),))], ids=["task", "chat"])
def test_a_400_that_only_words_explain_is_asked_of_the_next_and_believed_if_that_refuses_too(
    upstream, fault, chat
):
    provider = AnthropicProvider("any-key", "claude-haiku-5-5", base_url=upstream.url)
    upstream.script(fault, fault, provider="anthropic")
    bench = Bench(provider, Named("openai", "hello", AskRefused()))
    assert bench.ask(chat=chat).provider == "openai"
    assert type(bench.failed(AskRefused, chat=chat)) is AskRefused


@pytest.mark.parametrize("failure", THE_CALLERS_OWN, ids=repr)
def test_a_fault_of_the_ask_or_of_ours_is_no_other_providers_business(failure):
    second = Named("openai", "never")
    bench = Bench(Named("gemini", failure), second)
    assert bench.failed(type(failure)) is failure
    assert second.calls == []


def test_it_goes_on_down_the_whole_chain():
    bench = Bench(Named("gemini", KeyRefused()), Named("openai", ModelGone()), Named("anthropic", "here"))
    assert bench.ask().provider == "anthropic"
    assert bench.meter.attempts == 3


def test_what_was_billed_and_what_may_have_been_is_noted_for_each_provider():
    told = InvalidReply(transient=True, usage=Usage(3, 1), model="m")
    bench = Bench(Named("gemini", told, busy(unknown=True), KeyRefused()), Named("openai", "hello"))
    bench.ask()
    assert bench.meter.charges == [
        Billed("gemini", "m", Usage(3, 1)),
        Billed("openai", "served-first", ONE),
    ]
    assert (bench.meter.attempts, bench.meter.unknown_attempts) == (4, 1)


def test_the_next_provider_is_asked_in_the_words_of_the_task_and_not_in_those_of_the_repair():
    first, second = Named("gemini", "maybe", KeyRefused()), Named("openai", "yes")
    reply = Bench(first, second).ask(Task.CLASSIFY)
    assert (reply.text, reply.provider) == ("yes", "openai")
    assert second.calls[0].wording == first.calls[0].wording != first.calls[1].wording


def test_a_classification_that_stays_unreadable_is_not_bought_a_third_time_elsewhere():
    second = Named("openai", "yes")
    Bench(Named("gemini", "maybe", "perhaps"), second).failed(InvalidReply, task=Task.CLASSIFY)
    assert second.calls == []


# When all fail.


def test_with_no_provider_left_the_caller_hears_the_last_one():
    last = busy()
    bench = Bench(Named("gemini", KeyRefused()), Named("openai", *[last] * 5))
    assert bench.failed(UpstreamFault) is last


@pytest.mark.parametrize(
    ("first", "second", "kind", "delay"),
    [
        (UpstreamRateLimited(transient=True, delay=47), UpstreamQuotaExhausted(delay=3600), 503, 47),
        (UpstreamQuotaExhausted(delay=3600), UpstreamRateLimited(transient=True, delay=47), 429, 47),
        (UpstreamQuotaExhausted(delay=3600), KeyRefused(), 502, 3600),
        (KeyRefused(), UpstreamQuotaExhausted(delay=3600), 503, 3600),
        (KeyRefused(), ModelGone(), 502, None),
    ],
    ids=repr,
)
def test_retry_after_is_the_shortest_that_any_provider_asked_for(first, second, kind, delay):
    fault = Bench(Named("gemini", first), Named("openai", second)).failed(UpstreamFault)
    assert (fault.status, fault.delay) == (kind, delay)


def test_with_every_breaker_open_there_is_no_call_no_row_and_a_time_to_come_back():
    first, second = Named("gemini", "never"), Named("openai", "never")
    bench = Bench(first, second)
    bench.shut("gemini", "openai")
    bench.clock.now += 0.5
    bench.meter.cover = lambda nano: pytest.fail("no row is needed")
    fault = bench.failed(TurnedAway)
    assert (fault.status, fault.code, fault.delay) == (503, "no_provider", PAUSE - 0.5)
    assert (bench.meter.attempts, first.calls, second.calls) == (0, [], [])
    assert bench.clock.waits == []


def test_a_provider_whose_breaker_is_open_is_passed_over():
    first = Named("gemini", "never")
    bench = Bench(first, Named("openai", "hello"))
    bench.shut("gemini")
    assert (bench.ask().provider, bench.meter.attempts, first.calls) == ("openai", 1, [])


def test_the_fault_of_a_call_that_was_made_tells_more_than_a_breaker_that_is_open():
    bench = Bench(Named("gemini", UpstreamQuotaExhausted(delay=3600)), Named("openai"))
    bench.shut("openai")
    fault = bench.failed(UpstreamQuotaExhausted)
    assert fault.delay == PAUSE


def test_refusals_without_a_call_leave_nothing_for_the_collector():
    """An outage has many of them, and its full rounds are felt by everybody's next reply."""
    bench = Bench(Named("gemini", "never"), Named("openai", "never"))
    bench.shut("gemini", "openai")

    def refused() -> weakref.ref[TurnedAway]:
        try:
            bench.ask()
        except TurnedAway as refusal:
            return weakref.ref(refusal)
        pytest.fail("it was answered")

    gc.collect()
    gc.disable()
    try:
        assert [refused()() for _ in range(3)] == [None] * 3
    finally:
        gc.enable()


# Sharing the deadline.


def test_a_provider_with_another_behind_it_gets_half_of_the_time_that_is_left():
    providers = [Named(name, KeyRefused()) for name in ("gemini", "openai", "anthropic")]
    bench = Bench(*providers)
    for provider in providers:
        provider.during = lambda call: bench.clock.sleep(call.seconds)
    bench.failed(KeyRefused)
    assert [provider.calls[0].seconds for provider in providers] == pytest.approx([15, 7.5, 7.5], abs=0.01)


def test_a_provider_that_hangs_leaves_the_next_one_time_to_answer():
    first, second = Named("gemini", DeadlineExceeded(transient=True, unknown=True)), Named("openai", "here")
    bench = Bench(first, second)
    first.during = lambda call: bench.clock.sleep(call.seconds)
    assert bench.ask().provider == "openai"
    assert second.calls[0].seconds == pytest.approx(15, abs=0.01)
    assert (bench.meter.attempts, bench.meter.unknown_attempts) == (2, 1)


def test_a_provider_behind_which_all_breakers_are_open_gets_all_of_it():
    first = Named("gemini", "hello")
    bench = Bench(first, Named("openai"), Named("anthropic"))
    bench.shut("openai", "anthropic")
    bench.ask()
    assert first.calls[0].seconds == pytest.approx(30, abs=0.01)


def test_a_wait_that_would_take_the_next_ones_half_is_not_waited_for():
    limited = UpstreamRateLimited(transient=True, delay=20)
    bench = Bench(Named("gemini", limited, "later"), Named("openai", "at once"))
    assert bench.ask().text == "at once"
    assert bench.clock.waits == []
    alone = Bench(Named("gemini", limited, "later"))
    assert alone.ask().text == "later"
    assert alone.clock.waits == [20]


def test_nobody_is_called_once_the_deadline_has_passed():
    first, second = Named("gemini", busy()), Named("openai", "too late")
    bench = Bench(first, second)
    first.during = lambda call: bench.clock.sleep(30)
    assert bench.failed(DeadlineExceeded).status == 504
    assert second.calls == []


# Budgets and breakers belong to their provider.


def test_each_provider_pays_for_its_own_retries():
    bench = Bench(Named("gemini", *[busy()] * 5), Named("openai", busy(), "hello"), seconds=100)
    bench.ask()
    assert [link.guard.budget.tokens for link in bench.links] == [500 - 4 * 5, 500]
    assert [link.guard.budget.retries for link in bench.links] == [4, 1]


def test_without_tokens_the_next_provider_is_asked_at_once():
    bench = Bench(Named("gemini", busy(), "never"), Named("openai", "hello"))
    while bench.links[0].guard.budget.pay(5):
        pass
    assert (bench.ask().provider, bench.clock.waits) == ("openai", [])


def test_an_open_breaker_stops_the_retries_of_those_who_are_waiting_for_one():
    bench = Bench(Named("gemini", *[busy()] * 30))
    for _ in range(4):
        bench.failed(UpstreamFault)
    assert bench.links[0].guard.breaker.state == OPEN
    assert bench.meter.attempts == 5
    bench.clock.now += PAUSE
    bench.failed(UpstreamFault)
    assert bench.meter.attempts == 1, "a probe is not tried again"


def test_a_refused_key_is_told_to_the_operator_and_a_failover_too(caplog):
    bench = Bench(Named("gemini", KeyRefused(detail="answered 401")), Named("openai", "hello", "again"))
    with caplog.at_level(logging.WARNING):
        bench.ask()
        said = [(record.levelname, record.getMessage()) for record in caplog.records]
        caplog.clear()
        bench.shut("gemini")
        caplog.clear()
        bench.ask()
    assert [level for level, _ in said] == ["ERROR", "WARNING"]
    assert "gemini refuses our key" in said[0][1]
    assert "openai is next" in said[1][1]
    assert caplog.records == [], "an outage is told once and not with each ask"


# Models.


@pytest.mark.parametrize(
    ("requested", "provider", "sent"),
    [
        ("gemini-3.5-flash", "gemini", "gemini-3.5-flash"),
        ("gemma-3-27b", "gemini", "gemma-3-27b"),
        ("gpt-6-luna", "openai", "gpt-6-luna"),
        ("chatgpt-latest", "openai", "chatgpt-latest"),
        ("o1-mini", "openai", "o1-mini"),
        ("o3", "openai", "o3"),
        ("text-embedding-3-large", "openai", "text-embedding-3-large"),
        ("claude-haiku-5-5", "anthropic", "claude-haiku-5-5"),
        ("anthropic/claude-haiku-5-5", "anthropic", "claude-haiku-5-5"),
        ("gemini/whatever", "gemini", "whatever"),
        ("openai/claude-of-ours", "openai", "claude-of-ours"),
        ("openai/meta-llama/Llama-3.1-8B", "openai", "meta-llama/Llama-3.1-8B"),
        ("a-model-of-ours", "anthropic", "a-model-of-ours"),
    ],
)
def test_a_model_that_was_named_goes_to_the_provider_that_has_it_and_to_no_other(requested, provider, sent):
    providers = {name: Named(name, "hello") for name in ("gemini", "openai")}
    providers["anthropic"] = Named("anthropic", "hello", models=("a-model-of-ours",))
    reply = Bench(*providers.values()).ask(model=requested)
    assert reply.provider == provider
    assert {name: [call.model for call in each.calls] for name, each in providers.items() if each.calls} == {
        provider: [sent]
    }


@pytest.mark.parametrize(
    "requested", ["llama3.2", "mistral-large", "omni", "gpt4", "anthropic/", "sandbox/x"]
)
def test_an_unknown_model_is_refused_with_a_list_of_what_there_is(requested):
    first, second = Named("gemini", models=("g-1", "g-2")), Named("openai", models=("o-1",))
    fault = Bench(first, second).failed(ModelUnknown, model=requested)
    assert (fault.status, fault.field) == (400, "model")
    assert "gemini/g-1, gemini/g-2, openai/o-1" in str(fault)
    assert (first.calls, second.calls) == ([], [])


def test_an_ask_goes_only_to_providers_that_offer_what_it_needs():
    plain, able = Named("gemini", "never"), Named("openai", "hello")
    able.offers = frozenset({TOOLS})
    bench = Bench(plain, able)
    assert bench.ask(Task.CHAT, chat=Chat((Turn("user", "Hi"),), tools="[]")).provider == "openai"
    assert (plain.calls, len(able.calls)) == ([], 1)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"task": Task.CHAT, "chat": Chat((Turn("user", "Hi"),), tools="[]")}, "tools"),
        ({"task": Task.EMBED, "inputs": ("Hi",)}, "model"),
    ],
)
def test_what_no_provider_offers_is_refused_with_the_fields_name_and_without_a_call(options, field):
    providers = [Named("gemini", "never"), Named("openai", "never")]
    refusal = Bench(*providers).failed(InvalidInput, **options)
    assert refusal.field == field
    assert "gemini, openai" in str(refusal)
    assert [provider.calls for provider in providers] == [[], []]


def test_once_a_stream_has_begun_nobody_else_is_asked():
    first, second = Named("gemini", [Piece("one"), busy()]), Named("openai", "never")
    bench = Bench(first, second)
    meter = Meter(len, tap=Listener())
    with pytest.raises(UpstreamFault) as fault:
        bench.chain.answer(Ask(Task.TEXT, "the input", bench.clock() + 30), meter, bench.terms)
    assert fault.value.begun
    assert (len(first.calls), second.calls, bench.links[0].failovers) == (1, [], 0)
    assert [charge.usage.estimated for charge in meter.charges] == [True]


def test_before_a_stream_has_begun_the_next_provider_begins_it():
    listener = Listener()
    first, second = (
        Named("gemini", [UpstreamQuotaExhausted()]),
        Named("openai", [Piece("one"), Reply("one", ONE, "m")]),
    )
    bench = Bench(first, second)
    meter = Meter(len, tap=listener)
    bench.chain.answer(Ask(Task.TEXT, "the input", bench.clock() + 30), meter, bench.terms)
    assert [(beginning.provider, beginning.attempts) for beginning in listener.begun] == [("openai", 2)]
    # The first had half of the time, and the other half once it had begun; the last has all that is left.
    (tried,), (asked,) = first.calls, second.calls
    assert (round(tried.seconds), round(tried.grace), asked.grace) == (15, 15, 0)


def test_a_model_whose_maker_is_not_in_the_chain_is_unknown():
    Bench(Named("gemini")).failed(ModelUnknown, model="gpt-6-luna")


def test_a_server_of_ones_own_gets_the_models_that_fit_nobody_else():
    first, own = Named("gemini"), Named("openai", "one", "two")
    bench = Bench(first, own, catch_all="openai")
    assert bench.ask(model="llama3.2").provider == bench.ask(model="claude-like").provider == "openai"
    assert [call.model for call in own.calls] == ["llama3.2", "claude-like"]


def test_a_model_that_its_provider_does_not_know_is_refused_with_the_same_list():
    second = Named("openai", "never")
    fault = Bench(Named("gemini", ModelGone()), second).failed(ModelUnknown, model="gemini-1.0-pro")
    assert "gemini/first, openai/first" in str(fault)
    assert second.calls == []


def test_a_model_that_was_named_has_no_substitute_when_its_provider_is_down():
    second = Named("openai", "never")
    bench = Bench(Named("gemini", *[busy()] * 5), second)
    assert bench.failed(UpstreamFault, model="gemini-3.5-flash").status == 502
    bench.shut("gemini")
    bench.failed(TurnedAway, model="gemini-3.5-flash")
    assert second.calls == []


def test_the_offer_is_what_was_configured_whatever_is_retired_for_the_moment(upstream):
    provider = GeminiProvider("any-key", MODEL, ["other"], base_url=upstream.url)
    chain = Bench(provider).chain
    provider.retired(MODEL)
    assert chain.offer == (("gemini", (MODEL, "other")),)


def test_every_kind_of_fault_has_its_place():
    assert not [fault for fault in THE_CALLERS_OWN[:6] if is_worth_the_next(fault)]
    assert all(is_worth_the_next(script[0]) for script, _ in WORTH_THE_NEXT.values())
    assert is_worth_the_next(TurnedAway())


# In the house: several providers, each a loopback server of its own.


@pytest.fixture
def second() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


def provider_at(name: str, upstream: Upstream | str, *models: str) -> GeminiProvider:
    """Gemini's adapter under another name."""
    url = upstream if isinstance(upstream, str) else upstream.url
    provider = GeminiProvider("any-key", *(models or (MODEL,)), base_url=url)
    provider.name = name
    return provider


OWN_PRICES = PriceBook(
    [OwnPrice(name, Rates(MODEL, rate, rate, rate, "test")) for name, rate in (("gemini", 1), ("openai", 10))]
)


@pytest.fixture
def pair(make_house, settings, upstream, second) -> House:
    """A house with two providers, which does not wait between attempts."""
    providers = [provider_at("gemini", upstream), provider_at("openai", second)]
    services = build_services(settings, providers=providers)
    policy = RetryPolicy(sleep=lambda seconds: None, jitter=no_jitter)
    return make_house(rebuilt(services, policy=policy, prices=OWN_PRICES))


def test_the_reply_says_who_served_it_and_how_many_calls_it_took(pair, upstream, second):
    upstream.script("quota_per_day")
    response = pair.post("text", PROMPT)
    assert response.status_code == 200
    told = {name: response.headers[f"X-{name}"] for name in ("Provider", "Model", "Upstream-Attempts")}
    assert told == {"Provider": "openai", "Model": MODEL, "Upstream-Attempts": "2"}
    assert (len(upstream.journal), len(second.journal)) == (1, 1)
    hit = pair.post("text", PROMPT)
    told = {name: hit.headers[f"X-{name}"] for name in ("Provider", "Model", "Upstream-Attempts", "Cached")}
    assert told == {"Provider": "openai", "Model": MODEL, "Upstream-Attempts": "0", "Cached": "true"}
    assert pair.post("text", {"prompt": "else"}).headers["X-Provider"] == "gemini"


def test_each_call_is_billed_at_the_price_of_its_own_provider_and_its_row_says_so(pair, upstream, second):
    unreadable = {"candidates": 5, "usageMetadata": {"promptTokenCount": 90, "candidatesTokenCount": 10}}
    upstream.script(*[Fault("garbage", text=json.dumps(unreadable))] * 2)
    second.script(Fault("ok", usage=Tokens(prompt=90, candidates=10)))
    response = pair.post("text", PROMPT)
    assert response.headers["X-Provider"] == "openai"
    assert nano(response) == 2 * 100 * 1 + 100 * 10
    with pair.services.ledger.reader.connect() as connection:
        (row,) = connection.execute(select(requests.c.provider, requests.c.charges)).all()
    assert row.provider == "openai"
    assert [(charge.provider, charge.rates.output_nano) for charge in charges_from(row.charges)] == [
        ("gemini", 1),
        ("gemini", 1),
        ("openai", 10),
    ]
    assert nano(pair.post("text", PROMPT), "Saved") == nano(response)


def test_rows_from_before_there_were_several_providers_are_still_read():
    (charge,) = charges_from('[["m",10,5,2,1,"250","12.5","1500","m","a sheet"]]')
    assert (charge.provider, charge.model, charge.rates.output_nano) == ("", "m", 1500)
    (unpriced,) = charges_from('[["m",10,5,2,1,null,null,null,null,null]]')
    assert (unpriced.provider, unpriced.usage) == ("", Usage(10, 5, 2, 1))


def test_attempts_that_may_have_been_billed_are_in_the_bill_as_unknown(pair, upstream):
    upstream.script(*["reset_before"] * 5)
    response = pair.post("text", PROMPT)
    assert (response.headers["X-Provider"], response.headers["X-Upstream-Attempts"]) == ("openai", "6")
    (record,) = records(pair)
    assert (record["attempts"], record["unknown_attempts"], record["provider"]) == (6, 5, "openai")


def test_a_failure_says_how_many_calls_it_took_and_one_without_calls_says_nothing(pair, upstream, second):
    upstream.script("quota_per_day")
    second.script("bad_request")
    failed = pair.post("text", PROMPT)
    assert (failed.status_code, failed.headers["X-Upstream-Attempts"]) == (502, "2")
    refused = pair.post("text", PROMPT | {"model": "llama"})
    assert (refused.status_code, refused.get_json()["field"]) == (400, "model")
    assert f"gemini/{MODEL}, openai/{MODEL}" in refused.get_json()["error"]
    assert "X-Upstream-Attempts" not in refused.headers
    assert "X-Upstream-Attempts" not in pair.post("text", {"prompt": ""}).headers


def test_blocked_content_is_not_offered_to_the_next_provider(pair, upstream, second):
    upstream.script("blocked_prompt")
    response = pair.post("text", PROMPT)
    assert (response.status_code, response.get_json()["code"]) == (422, "content_blocked")
    assert response.headers["X-Upstream-Attempts"] == "1"
    assert second.journal == []


def test_a_model_with_its_provider_before_it_goes_there(pair, upstream, second):
    response = pair.post("text", PROMPT | {"model": f"openai/{MODEL}"})
    assert (response.status_code, response.headers["X-Provider"]) == (200, "openai")
    assert [call.model for call in second.journal] == [MODEL]
    assert upstream.journal == []


def test_health_and_metrics_tell_of_each_provider(pair, upstream):
    upstream.script(*["unavailable"] * FAILURES_TO_OPEN)
    for number in range(FAILURES_TO_OPEN // 5 + 1):
        assert pair.post("text", {"prompt": f"{number}"}).headers["X-Provider"] == "openai"
    health = pair.client.get("/api/v1/health").get_json()
    assert health["status"] == "degraded"
    assert {name: state for name, state in health["checks"].items() if name.startswith("provider")} == {
        "provider": "ok",
        "provider.gemini": "open",
        "provider.openai": "ok",
    }
    value = scraped(pair)
    assert (
        value("llm_breaker_state", provider="gemini"),
        value("llm_breaker_state", provider="openai"),
    ) == (2, 0)
    assert value("llm_retries_total", provider="gemini") == FAILURES_TO_OPEN // 5 * 4
    assert value("llm_failovers_total", provider="gemini") == 5
    assert value("llm_failovers_total", provider="openai") == 0
    assert value("llm_answers_total", provider="openai") == 5


def test_the_settings_alone_build_a_chain_of_the_three_real_providers(make_house, settings, upstream):
    house = make_house(
        openai_api_key="any-key",
        openai_base_url=f"{upstream.url}/v1",
        anthropic_api_key="any-key",
        anthropic_base_url=upstream.url,
        llm_providers=("openai", "anthropic", "gemini"),
    )
    upstream.script("unauthorized", "quota_per_day", "ok")
    response = house.post("text", PROMPT)
    assert (response.headers["X-Provider"], response.headers["X-Upstream-Attempts"]) == ("gemini", "3")
    assert [call.model for call in upstream.journal] == [
        settings.openai_model,
        settings.anthropic_model,
        settings.gemini_model,
    ]
    assert house.post("text", PROMPT | {"model": "claude-opus-5-5"}).headers["X-Provider"] == "anthropic"
    assert house.post("text", PROMPT | {"model": "llama3"}).headers["X-Provider"] == "openai"
    (record, *_) = records(house)
    assert (record["provider"], record["cost_nanodollars"]) == ("gemini", nano(response))


class Choosy(Scripted):
    """A provider whose model takes no temperature."""

    def call(self, call: Call) -> Reply:
        return Reply("hello", ONE, call.model, ignored=("temperature", "stop"))


def test_parameters_that_a_model_does_not_take_are_named_with_the_answer_and_with_its_hits(
    make_house, settings, house
):
    choosy = make_house(build_services(settings, provider=Choosy()))
    for _ in range(2):
        assert choosy.post("text", PROMPT).headers["X-Params-Ignored"] == "temperature, stop"
    assert "X-Params-Ignored" not in house.post("text", PROMPT).headers


@pytest.mark.parametrize(
    ("names", "models", "shared"),
    [
        (("gemini", "openai"), (MODEL, MODEL), True),
        (("openai", "gemini"), (MODEL, MODEL), False),
        (("gemini", "openai"), (MODEL, "gemini-3.5-flash"), False),
        (("gemini",), (MODEL,), False),
    ],
    ids=["the same", "another order", "another model", "one less"],
)
def test_a_cached_answer_belongs_to_the_chain_that_gave_it(make_house, settings, pair, names, models, shared):
    pair.post("text", PROMPT)
    providers = [
        provider_at(name, settings.gemini_base_url, model) for name, model in zip(names, models, strict=True)
    ]
    other = rebuilt(build_services(settings, providers=providers), cache=pair.services.cache)
    status = make_house(other).post("text", PROMPT).headers["X-Cache-Status"]
    assert status == ("hit" if shared else "miss")


def test_who_happened_to_serve_does_not_decide_whose_answer_is_found(pair, upstream, second):
    upstream.script("quota_per_day")
    assert pair.post("classify", CHOICE).headers["X-Provider"] == "openai"
    assert pair.post("classify", CHOICE).headers["X-Cache-Status"] == "hit"


# An outage.

ASKS = 200
MOST_CALLS = ASKS * 1.05 + 100 * ASKS / 3000


def dead(count: int) -> list[str]:
    """Addresses at which nobody listens."""
    return [f"http://127.0.0.1:{free_port()}" for _ in range(count)]


def healed(address: str) -> Upstream:
    return Upstream(port=int(address.rpartition(":")[2]))


@pytest.mark.parametrize("count", [1, 3])
def test_a_total_outage_is_not_amplified_and_ends_with_the_first_probe_after_healing(
    make_house, settings, upstream, count
):
    clock, addresses = Time(), dead(count)
    names = ("gemini", "openai", "anthropic")[:count]
    services = build_services(
        settings, providers=[provider_at(name, at) for name, at in zip(names, addresses, strict=True)]
    )
    links = [
        Link(link.provider, Guard(Breaker(link.name, timer=clock, jitter=no_jitter)))
        for link in services.chain.links
    ]
    policy = RetryPolicy(sleep=lambda seconds: None, jitter=no_jitter)
    services = replace(services, chain=Chain(links))
    house = make_house(rebuilt(services, policy=policy))
    responses = []
    for number in range(ASKS):
        clock.now += 0.02  # fifty asks a second
        responses.append(house.post("text", {"prompt": f"number {number}"}))
    assert {(response.status_code, response.get_json()["code"]) for response in responses} == {
        (503, "no_provider")
    }
    assert all(1 <= int(response.headers["Retry-After"]) <= PAUSE for response in responses)
    calls = sum(record["attempts"] for record in records(house))
    assert FAILURES_TO_OPEN * count <= calls <= FAILURES_TO_OPEN * count + 2 * count <= MOST_CALLS
    assert {record["attempts"] for record in records(house)[-20:]} <= {0, count}
    with healed(addresses[-1]) as back:
        clock.now += PAUSE
        response = house.post("text", PROMPT)
        assert (response.status_code, response.headers["X-Provider"]) == (200, names[-1])
        assert len(back.journal) == 1


def test_a_real_outage_fails_fast_keeps_serving_hits_and_is_over_soon_after_healing(make_house, settings):
    """On real clocks: asks on eight threads against nobody, then a provider that is there again."""
    (address,) = dead(1)
    changed = replace(settings, gemini_base_url=address)
    services = build_services(changed)
    services.warm()
    house = make_house(services)
    with healed(address) as before:
        known = house.post("text", PROMPT)
        assert (known.status_code, len(before.journal)) == (200, 1)

    def ask(index: int) -> list[Any]:
        own = replace(house, client=house.app.test_client())
        return [timed(own, {"prompt": f"{index} of {number}"}) for number in range(ASKS // 8)]

    asked = [pair for pairs in run_together(8, ask) for pair in pairs]
    assert {response.status_code for response, _ in asked} == {503}
    attempts = [int(response.headers.get("X-Upstream-Attempts", "0")) for response, _ in asked]
    assert sum(attempts) <= MOST_CALLS
    turned_away = sorted(seconds for (_, seconds), made in zip(asked, attempts, strict=True) if not made)
    assert len(turned_away) > ASKS * 0.8
    assert turned_away[len(turned_away) // 2] < 0.5  # who waits for a next attempt waits a second at least
    assert house.post("text", PROMPT).headers["X-Cache-Status"] == "hit"
    with healed(address) as after:
        began = time.monotonic()
        while house.post("text", {"prompt": f"{time.monotonic()}"}).status_code != 200:
            assert time.monotonic() - began < 15  # two seconds of pause, one of jitter
            time.sleep(0.02)
        assert len(after.journal) == 1, "the first call is the probe, and it heals"
    assert house.client.get("/api/v1/health").get_json()["status"] == "healthy"


def timed(house: House, body: Any) -> tuple[Any, float]:
    began = time.monotonic()
    return house.post("text", body), time.monotonic() - began
