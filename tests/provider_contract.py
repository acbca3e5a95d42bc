"""What every adapter of a provider promises, through its real client library and over the wire.

A test class inherits the contract and says how its provider's protocol writes the things that are asserted here.
"""

from __future__ import annotations

import json
import time
import traceback
from typing import Any, ClassVar

import pytest

from errors import (
    ContentBlocked,
    DeadlineExceeded,
    EmptyReply,
    InvalidReply,
    KeyRefused,
    ModelGone,
    PromptTooLong,
    ProviderUnreachable,
    UpstreamFault,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
)
from providers.base import Call, Provider
from providers.reply_facts import MOST_TOKENS
from tasks import TEMPERATURES, Ask, Task, Usage
from tests.cache_contract import run_together
from tests.readers import wait_until
from tests.upstream import CANARY, NAMES, Fault, Tokens, Upstream
from tests.watches import SinceAsked
from wording import word

CATEGORIES = ("positive", "negative")
SHORT = 0.4  # seconds, where a fault ends by the deadline only
LATE = 15.0  # on a busy machine; without the deadline a fault lasts a minute

# fault: class, transient, unknown. Classes are compared exactly.
FAULTS: dict[str, tuple[type[UpstreamFault], bool, bool]] = {
    "rate_limited": (UpstreamRateLimited, True, False),
    "quota_per_day": (UpstreamQuotaExhausted, False, False),
    "request_timeout": (UpstreamFault, True, False),
    "internal": (UpstreamFault, True, False),
    "bad_gateway": (UpstreamFault, True, False),
    "unavailable": (UpstreamFault, True, False),
    "gateway_timeout": (UpstreamFault, True, False),
    "reset_before": (UpstreamFault, True, True),
    "cut_body": (UpstreamFault, True, True),
    "half_close": (UpstreamFault, True, True),
    "reset_body": (UpstreamFault, True, True),
    "hang": (DeadlineExceeded, True, True),
    "drip": (DeadlineExceeded, True, True),
    "garbage": (InvalidReply, True, True),
    "wrong_schema": (InvalidReply, True, True),
    "html": (InvalidReply, True, True),
    "huge": (InvalidReply, False, True),
    "gzip_bomb": (InvalidReply, False, True),
    "no_candidates": (EmptyReply, False, False),
    "empty": (EmptyReply, False, False),
    "blocked_prompt": (ContentBlocked, False, False),
    "blocked_answer": (ContentBlocked, False, False),
    "recitation": (ContentBlocked, False, False),
    "bad_request": (UpstreamFault, False, False),
    "too_long": (PromptTooLong, False, False),
    "bad_key": (KeyRefused, False, False),
    "unauthorized": (KeyRefused, False, False),
    "forbidden": (KeyRefused, False, False),
    "not_found": (ModelGone, False, False),
    "redirect": (UpstreamFault, False, False),
}
# Readable 200s that are answers.
ANSWERS = frozenset({"ok", "slow", "says", "other_model", "no_usage", "max_tokens"})
# Billed although there is no answer.
BILLED = frozenset({"no_candidates", "empty", "blocked_prompt", "blocked_answer", "recitation"})
PATIENCE = {"hang": SHORT, "drip": SHORT, "half_close": 5.0}


def usage_of(tokens: Tokens) -> Usage:
    return Usage(tokens.prompt, tokens.candidates + tokens.thoughts, tokens.cached, tokens.thoughts)


class ProviderContract:
    """Inherited by one class per provider; it must say what stands between these lines."""

    name: str
    # Models that take a temperature, and the first words of invented names that the service would serve.
    model: str
    family: str
    # Where this provider's faults differ from the table, what it adds to it, and which of them it bills.
    own_faults: ClassVar[dict[str, tuple[type[UpstreamFault], bool, bool]]] = {}
    unbilled: frozenset[str] = frozenset()

    def provider(self, upstream: Upstream, **options: Any) -> Provider:
        raise NotImplementedError

    def at(self, address: str) -> Provider:
        """A provider at an address where nobody listens."""
        raise NotImplementedError

    def temperature(self, body: dict[str, Any]) -> float | None:
        raise NotImplementedError

    def limit(self, body: dict[str, Any]) -> int:
        raise NotImplementedError

    def schema(self, body: dict[str, Any]) -> dict[str, Any] | None:
        raise NotImplementedError

    def body_with(self, counts: Any) -> str:
        """The JSON of a good reply with these counts."""
        raise NotImplementedError

    # Counts of a good reply in the provider's words: 10 asked, 4 of them cached, 7 answered, 2 of them thought.
    counts: ClassVar[dict[str, Any]]

    # Helpers of the tests below.

    def call_of(
        self,
        text: str = "Hello",
        *,
        model: str = "",
        seconds: float = 10.0,
        task: Task = Task.TEXT,
        multi_label: bool = False,
    ) -> Call:
        categories = CATEGORIES if task is Task.CLASSIFY else ()
        ask = Ask(task, text, 0.0, categories, multi_label=multi_label)
        return Call(model or self.model, word(ask), 500, seconds)

    def failed(self, upstream: Upstream, fault: str | Fault, **options: Any) -> UpstreamFault:
        provider = self.provider(upstream, timer=SinceAsked(upstream))
        provider.warm()
        upstream.script(fault)
        with pytest.raises(UpstreamFault) as failure:
            provider.call(self.call_of(**options))
        return failure.value

    # What goes over the wire.

    def test_it_has_a_name_and_takes_the_configured_model_or_the_requested_one(self, upstream):
        provider = self.provider(upstream)
        assert provider.name == self.name
        assert provider.models(None)[0] == self.model
        assert tuple(provider.models("another")) == ("another",)

    @pytest.mark.parametrize("task", list(TEMPERATURES))
    def test_a_call_goes_out_with_its_words_temperature_and_token_limit(self, upstream, task):
        call = self.call_of("The text.", task=task)
        self.provider(upstream).call(call)
        (sent,) = upstream.journal
        assert (sent.model, sent.prompt, sent.system) == (self.model, "The text.", call.wording.system)
        assert self.temperature(sent.body) == call.wording.temperature
        assert self.limit(sent.body) == 500

    def test_a_classification_is_held_to_its_categories_by_a_schema(self, upstream):
        provider = self.provider(upstream)
        reply = provider.call(self.call_of(task=Task.CLASSIFY))
        assert json.loads(reply.text)["category"] in CATEGORIES
        provider.call(self.call_of())
        classified, plain = (self.schema(sent.body) for sent in upstream.journal)
        assert plain is None
        assert classified is not None
        assert classified["properties"]["category"]["enum"] == list(CATEGORIES)
        assert classified["required"] == ["category"]

    def test_several_categories_are_asked_for_by_a_schema_that_leaves_none_of_it_out(self, upstream):
        call = self.call_of("The text.", task=Task.CLASSIFY, multi_label=True)
        reply = self.provider(upstream).call(call)
        assert set(json.loads(reply.text)["categories"]) <= set(CATEGORIES)
        (sent,) = upstream.journal
        schema = self.schema(sent.body)
        assert schema is not None
        assert schema["properties"]["categories"]["items"]["enum"] == list(CATEGORIES)
        assert schema["required"] == ["categories"]
        assert sent.system == call.wording.system

    def test_the_key_travels_in_a_header_and_never_in_the_address(self, upstream):
        self.provider(upstream).call(self.call_of())
        assert [call.key_in_url for call in upstream.journal] == [False]

    def test_neither_proxies_nor_switches_of_the_environment_move_or_change_a_call(
        self, upstream, monkeypatch
    ):
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "OPENAI_PROXY", "ANTHROPIC_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        for name in ("OPENAI_API_BASE", "ANTHROPIC_API_URL", "GOOGLE_GEMINI_BASE_URL", "LANGSMITH_GATEWAY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        for name in ("GOOGLE_GENAI_USE_VERTEXAI", "LANGSMITH_TRACING"):
            monkeypatch.setenv(name, "true")
        monkeypatch.setenv("LC_OUTPUT_VERSION", "responses/v1")
        for name in ("OPENAI_CUSTOM_HEADERS", "ANTHROPIC_CUSTOM_HEADERS"):
            monkeypatch.setenv(name, "Accept: text/html")
        assert self.provider(upstream).call(self.call_of()).text
        assert len(upstream.journal) == 1

    # What a good reply says.

    def test_a_reply_has_its_text_and_the_providers_own_counts(self, upstream):
        """Over prompts some of which are partly cached, and some take thought."""
        provider = self.provider(upstream)
        replies = [provider.call(self.call_of(f"Prompt {number}.")) for number in range(12)]
        for reply, sent in zip(replies, upstream.journal, strict=True):
            assert sent.billed is not None
            assert reply.usage == usage_of(sent.billed)
            assert (reply.model, reply.whole) == (self.model, True)
            assert reply.text.startswith(f"{self.model} answers")
        assert any(reply.usage.cached_tokens for reply in replies if reply.usage)
        assert any(reply.usage.reasoning_tokens for reply in replies if reply.usage)

    def test_every_kind_of_token_is_counted_once(self, upstream):
        tokens = Tokens(prompt=1000, cached=300, candidates=40, thoughts=9)
        upstream.script(Fault("ok", usage=tokens))
        reply = self.provider(upstream).call(self.call_of())
        assert reply.usage == Usage(1000, 49, 300, 9)

    def test_where_the_provider_counts_nothing_there_is_no_usage(self, upstream):
        upstream.script("no_usage")
        reply = self.provider(upstream).call(self.call_of())
        assert reply.text
        assert reply.usage is None

    def test_zeros_that_the_provider_counted_are_zeros(self, upstream):
        zeros = {name: 0 for name, count in self.counts.items() if isinstance(count, int)}
        upstream.script(Fault("garbage", text=self.body_with(zeros)))
        assert self.provider(upstream).call(self.call_of()).usage == Usage(0, 0)

    def test_the_providers_counts_become_ours(self, upstream):
        upstream.script(Fault("garbage", text=self.body_with(self.counts)))
        assert self.provider(upstream).call(self.call_of()).usage == Usage(10, 7, 4, 2)

    @pytest.mark.parametrize("count", [-1, True, 1.5, "7", [], 10**30, MOST_TOKENS + 1], ids=str)
    def test_a_count_that_makes_no_sense_never_becomes_money(self, upstream, count):
        provider = self.provider(upstream)
        for name in (name for name, good in self.counts.items() if isinstance(good, int)):
            upstream.script(Fault("garbage", text=self.body_with(self.counts | {name: count})))
            try:
                usage = provider.call(self.call_of()).usage
            except InvalidReply as fault:
                usage = fault.usage
            assert usage is None

    def test_the_served_model_is_the_one_that_the_provider_names(self, upstream):
        upstream.script(Fault("ok", model="served-by-this"))
        assert self.provider(upstream).call(self.call_of()).model == "served-by-this"

    def test_a_text_cut_by_the_output_limit_is_an_answer_but_not_a_whole_one(self, upstream):
        upstream.script("max_tokens")
        reply = self.provider(upstream).call(self.call_of())
        assert reply.text
        assert not reply.whole

    def test_an_answer_that_speaks_of_a_rate_limit_is_an_answer(self, upstream):
        said = "429 rate_limit_exceeded insufficient_quota context_length_exceeded: retry in 5s"
        upstream.script(Fault("says", text=said))
        assert self.provider(upstream).call(self.call_of()).text == said

    # What failures become.

    def test_the_table_knows_every_fault(self):
        assert set(FAULTS) >= NAMES - ANSWERS

    @pytest.mark.parametrize("name", sorted(FAULTS))
    def test_each_fault_comes_out_as_what_it_is(self, upstream, name):
        kind, transient, unknown = self.own_faults.get(name, FAULTS[name])
        seconds = 0.05 if name == "drip" else None
        fault = self.failed(upstream, Fault(name, seconds=seconds), seconds=PATIENCE.get(name, 5.0))
        assert type(fault) is kind
        assert (fault.transient, fault.unknown) == (transient, unknown)
        assert wait_until(lambda: upstream.journal)  # who hangs may have read the call after its time
        assert [call.fault for call in upstream.journal] == [name]
        assert CANARY not in str(fault) + fault.detail

    @pytest.mark.parametrize("name", sorted(BILLED))
    def test_what_was_billed_without_an_answer_is_on_the_fault(self, upstream, name):
        usage = Tokens(prompt=40, cached=8, thoughts=5 if name == "empty" else 0)
        fault = self.failed(upstream, Fault(name, usage=usage, model="served-by-this"))
        if name in self.unbilled:
            assert (fault.usage, fault.unknown) == (None, False)
        else:
            assert (fault.usage, fault.model) == (usage_of(usage), "served-by-this")

    def test_an_unreadable_reply_that_says_what_it_cost_is_billed(self, upstream):
        good = json.loads(self.body_with(self.counts))
        holds_text = {"candidates", "choices", "content"} & set(good)
        broken = json.dumps(good | dict.fromkeys(holds_text, 5))
        fault = self.failed(upstream, Fault("garbage", text=broken))
        assert type(fault) is InvalidReply
        assert (fault.usage, fault.unknown) == (Usage(10, 7, 4, 2), False)

    @pytest.mark.parametrize(
        "text", ["", "null", "[]", "5", '"x"', "{}", "[" * 100_000, '{"usage": 5}', '{"choices": [{}]}']
    )
    @pytest.mark.parametrize("task", [Task.TEXT, Task.CLASSIFY])
    def test_whatever_json_comes_in_place_of_a_reply_is_a_fault(self, upstream, text, task):
        fault = self.failed(upstream, Fault("garbage", text=text), task=task)
        assert isinstance(fault, InvalidReply | EmptyReply)
        assert (fault.usage, fault.unknown) == (None, True)

    def test_the_delay_of_a_limit_is_the_providers(self, upstream):
        assert self.failed(upstream, Fault("rate_limited", delay="47s")).delay == 47

    @pytest.mark.parametrize("name", ["quota_per_day", "spend_limit", "no_credit"])
    def test_what_waiting_does_not_cure_is_never_worth_another_call(self, upstream, name):
        if self.name in ("openai", "anthropic") or name == "quota_per_day":
            assert not self.failed(upstream, Fault(name, delay="")).transient

    def test_the_words_of_the_provider_stay_in_the_cause_for_the_log(self, upstream):
        fault = self.failed(upstream, "forbidden")
        assert CANARY not in str(fault) + fault.detail
        assert CANARY in "".join(traceback.format_exception(fault.__cause__))

    def test_a_redirect_is_not_followed(self, upstream):
        self.failed(upstream, "redirect")
        assert [call.method for call in upstream.journal] == ["generate"]

    def test_one_call_is_one_attempt_because_the_librarys_own_retries_are_off(self, upstream):
        for name in ("unavailable", "rate_limited", "reset_before"):
            upstream.reset()
            assert self.failed(upstream, name).transient
            assert len(upstream.journal) == 1

    def test_a_service_that_is_not_there_was_not_billed(self):
        with pytest.raises(ProviderUnreachable) as failure:
            self.at("http://127.0.0.1:9").call(self.call_of(seconds=2.0))
        assert (failure.value.transient, failure.value.unknown) == (True, False)

    # Time.

    @pytest.mark.parametrize(("name", "seconds"), [("hang", 60.0), ("drip", 0.05)])
    def test_a_call_ends_with_its_time_in_all(self, upstream, name, seconds):
        provider = self.provider(upstream, timer=SinceAsked(upstream))
        provider.warm()
        upstream.script(Fault(name, seconds=seconds))
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            provider.call(self.call_of(seconds=SHORT))
        assert SHORT * 0.9 < time.monotonic() - began < SHORT + LATE
        upstream.reset()
        assert provider.call(self.call_of()).text

    @pytest.mark.parametrize("seconds", [0.0004, 0.0, -0.0004, -1.0])
    def test_a_call_with_hardly_any_time_left_ends_at_once(self, upstream, seconds):
        """One client library takes whole milliseconds, and zero of them for no limit at all."""
        provider = self.provider(upstream)
        provider.warm()
        upstream.script(Fault("hang"))
        began = time.monotonic()
        with pytest.raises(UpstreamFault) as fault:
            provider.call(self.call_of(seconds=seconds))
        assert fault.value.status in (503, 504)
        assert time.monotonic() - began < LATE
        upstream.reset()
        assert provider.call(self.call_of()).text

    # One client.

    def test_fifty_first_callers_share_one_client_and_its_few_connections(self, upstream):
        provider = self.provider(upstream, connections=4)
        upstream.latency = 0.02
        replies = run_together(50, lambda index: provider.call(self.call_of(f"{index}")))
        assert len({reply.text for reply in replies}) == 50
        assert upstream.max_in_flight <= 4
        assert upstream.connections < 25  # its pool now and then replaces one; a client each would open fifty

    def test_all_models_share_the_connections(self, upstream):
        provider = self.provider(upstream, connections=4)
        for number in range(40):
            model = f"{self.family}-test-{number}"
            assert provider.call(self.call_of("x", model=model)).model == model
        assert upstream.connections == 1

    def test_warming_up_calls_nobody(self, upstream):
        self.provider(upstream).warm()
        assert upstream.connections == 0

    def test_a_body_of_another_thread_or_call_is_never_read_and_none_stays(self, upstream):
        """Blocked and good replies side by side: each is billed by its own body."""
        provider: Any = self.provider(upstream, connections=8)
        provider.warm()
        upstream.latency = 0.01

        def call(index: int) -> Usage | None:
            try:
                return provider.call(self.call_of(f"{index}" * (index % 7 + 1) * 20)).usage
            except ContentBlocked as fault:
                return fault.usage

        blocked = "blocked_answer" if "blocked_prompt" in self.unbilled else "blocked_prompt"
        upstream.script(*[blocked, "ok"] * 20)
        seen = run_together(40, call)
        assert [failed for failed in seen if isinstance(failed, BaseException)] == []
        billed = {call.prompt: call.billed for call in upstream.journal}
        assert len(billed) == 40
        for index, usage in enumerate(seen):
            assert usage == usage_of(billed[f"{index}" * (index % 7 + 1) * 20])
        provider.call(self.call_of())
        assert provider._line.open()[1].last_body() == b""
