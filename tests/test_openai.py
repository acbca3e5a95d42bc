"""providers/openai.py: the contract of every provider, and what servers that only speak its protocol lack."""

from __future__ import annotations

import json
import logging
from typing import Any, ClassVar

import httpx2
import openai
import pytest
from langchain_openai.data._profiles import _PROFILES

from config import Settings
from errors import (
    ContentBlocked,
    EmptyReply,
    InvalidReply,
    ModelGone,
    PromptTooLong,
    UpstreamFault,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
)
from providers.declined import ASKED_AGAIN_SECONDS, MOST_REMEMBERED, Declined
from providers.openai import OPENAI, OpenAIProvider
from providers.openai_faults import fault_of
from providers.openai_models import is_openais, takes_temperature
from tasks import Task, Usage
from tests.chat_contract import ChatContract
from tests.provider_contract import ProviderContract
from tests.stream_contract import StreamContract
from tests.upstream import CANARY, Fault, Upstream


class TestOpenAI(ProviderContract, StreamContract, ChatContract):
    name, model, family = "openai", "gpt-5.4-nano", "gpt-4.1"
    cool_model = "gpt-6-luna"
    unbilled = frozenset({"blocked_prompt"})
    counts: ClassVar = {
        "prompt_tokens": 10,
        "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }

    def provider(self, upstream: Upstream, **options: Any) -> OpenAIProvider:
        return OpenAIProvider("any-key", self.model, base_url=f"{upstream.url}/v1", **options)

    def at(self, address: str) -> OpenAIProvider:
        return OpenAIProvider("any-key", self.model, base_url=f"{address}/v1")

    def temperature(self, body: dict[str, Any]) -> float | None:
        return body.get("temperature")

    def limit(self, body: dict[str, Any]) -> int:
        assert "max_tokens" not in body
        return body["max_completion_tokens"]

    def schema(self, body: dict[str, Any]) -> dict[str, Any] | None:
        asked = body.get("response_format")
        if asked is None:
            return None
        assert (asked["type"], asked["json_schema"]["strict"]) == ("json_schema", True)
        assert asked["json_schema"]["schema"]["additionalProperties"] is False
        return asked["json_schema"]["schema"]

    def body_with(self, counts: Any) -> str:
        return reply_json(usage=counts)


def reply_json(finish: Any = "stop", usage: Any = None, **message: Any) -> str:
    said = {"role": "assistant", "content": "hi", **message}
    choice = {"index": 0, "finish_reason": finish, "message": said}
    body = {"id": "x", "object": "chat.completion", "model": "gpt-5.4-nano", "choices": [choice]}
    return json.dumps(body if usage is None else {**body, "usage": usage})


def at(
    upstream: Upstream, model: str = "gpt-5.4-nano", key: str = "any-key", **options: Any
) -> OpenAIProvider:
    return OpenAIProvider(key, model, base_url=f"{upstream.url}/v1", **options)


call_of = TestOpenAI().call_of


def test_settings_make_it_and_openais_own_address_is_the_default():
    settings = Settings(openai_api_key="a-key", openai_model="mine", upstream_concurrency=7)
    provider = OpenAIProvider.from_settings(settings)
    assert provider.models(None) == ("mine",)
    client, _ = provider._line.open()
    assert client.openai_api_base == OPENAI == "https://api.openai.com/v1"
    assert str(client.root_client.base_url) == OPENAI + "/"


# Models.


@pytest.mark.parametrize(
    "model", sorted(name for name, facts in _PROFILES.items() if facts.get("tool_calling"))
)
def test_the_library_agrees_which_models_take_a_temperature(model):
    """A model of which it is not known gets none: a missing temperature never fails a call."""
    if takes_temperature(model):
        assert _PROFILES[model]["temperature"]
    elif _PROFILES[model]["temperature"]:
        assert "codex" in model


@pytest.mark.parametrize(
    ("model", "openais", "warm"),
    [
        ("gpt-4o-mini", True, True),
        ("ft:gpt-4o-mini-2024-07-18:us::1", True, True),
        ("gpt-5.4-nano-2026-03-17", True, True),
        ("gpt-5-nano", True, False),
        ("gpt-5.4-pro", True, False),
        ("gpt-6-luna", True, False),
        ("gpt-10", True, False),
        ("o4-mini", True, False),
        ("gpt-oss:20b", False, True),
        ("openai/gpt-oss-120b", False, True),
        ("llama3.1:8b", False, True),
        ("olmo-2", False, True),
    ],
)
def test_openais_models_are_known_by_their_names(model, openais, warm):
    assert (is_openais(model), takes_temperature(model)) == (openais, warm)


def test_a_model_with_fixed_sampling_gets_no_temperature_and_the_reply_says_so(upstream):
    provider = at(upstream)
    assert provider.call(call_of(model="gpt-6-luna")).ignored == ("temperature",)
    assert provider.call(call_of()).ignored == ()
    assert ["temperature" in call.body for call in upstream.journal] == [False, True]


def test_models_of_others_get_the_older_name_of_the_token_limit(upstream):
    """Ollama ignores the newer one without a word, and would write on until the deadline."""
    at(upstream).call(call_of(model="llama3.1:8b"))
    (sent,) = upstream.journal
    assert sent.body["max_tokens"] == 500
    assert "max_completion_tokens" not in sent.body


def test_a_model_that_the_library_would_ask_in_another_protocol_is_asked_in_this_one(upstream):
    at(upstream).call(call_of(model="gpt-5.6-sol"))
    assert [call.method for call in upstream.journal] == ["generate"]


# Servers of one's own.


def test_a_server_without_keys_is_asked_with_a_placeholder(upstream):
    """The loopback refuses calls without any key; servers of one's own look at none."""
    assert at(upstream, key="").call(call_of()).text


def test_an_option_that_the_service_names_as_refused_is_left_out_at_the_next_attempt(upstream, caplog):
    provider = at(upstream)
    upstream.script("no_temperature")
    with caplog.at_level(logging.WARNING), pytest.raises(UpstreamFault) as fault:
        provider.call(call_of())
    assert (fault.value.transient, fault.value.delay, fault.value.unknown) == (True, 0, False)
    assert "openai takes no temperature with gpt-5.4-nano" in caplog.text
    assert CANARY not in caplog.text
    assert provider.call(call_of()).ignored == ("temperature",)
    assert provider.call(call_of(model="gpt-4o")).ignored == ()
    assert ["temperature" in call.body for call in upstream.journal] == [True, False, True]


def test_a_server_without_schemas_is_asked_without_one_and_later_again(upstream):
    """It refuses with a bare 400; the system prompt asks for the same JSON, and the answer is checked anyway."""
    now = [0.0]
    provider = at(upstream, timer=lambda: now[0])
    upstream.script("bad_request")
    with pytest.raises(UpstreamFault) as fault:
        provider.call(call_of(task=Task.CLASSIFY))
    assert fault.value.transient
    upstream.script(Fault("says", text="positive"))
    assert provider.call(call_of(task=Task.CLASSIFY)).text == "positive"
    now[0] = ASKED_AGAIN_SECONDS
    provider.call(call_of(task=Task.CLASSIFY))
    assert ["response_format" in call.body for call in upstream.journal] == [True, False, True]
    assert "JSON" in upstream.journal[1].system


def test_a_bare_refusal_of_a_call_without_a_schema_is_final(upstream):
    upstream.script("bad_request")
    with pytest.raises(UpstreamFault) as fault:
        at(upstream).call(call_of())
    assert not fault.value.transient


@pytest.mark.parametrize("name", ["too_long", "blocked_prompt", "not_found", "bad_key"])
def test_a_refusal_with_a_reason_of_its_own_says_nothing_about_schemas(upstream, name):
    provider = at(upstream)
    upstream.script(name)
    with pytest.raises(UpstreamFault) as fault:
        provider.call(call_of(task=Task.CLASSIFY))
    assert not fault.value.transient
    provider.call(call_of(task=Task.CLASSIFY))
    assert all("response_format" in call.body for call in upstream.journal)


def test_only_so_many_refused_options_are_remembered():
    declined = Declined("openai", lambda: 0.0)
    for number in range(3 * MOST_REMEMBERED):
        declined.note(f"model-{number}", "temperature")
    assert len(declined._until) == MOST_REMEMBERED
    assert declined.has(f"model-{3 * MOST_REMEMBERED - 1}", "temperature")


# Replies.


@pytest.mark.parametrize(
    ("body", "whole"),
    [
        (reply_json("stop"), True),
        (reply_json("length"), False),
        (reply_json(None), False),
        (reply_json("abort"), False),
        (reply_json(content=[{"type": "text", "text": "hi"}]), True),
        (reply_json(reasoning_content="a thought"), True),
    ],
)
def test_only_a_text_that_says_it_is_whole_is_one(upstream, body, whole):
    upstream.script(Fault("garbage", text=body))
    reply = at(upstream).call(call_of())
    assert (reply.text, reply.whole, reply.usage) == ("hi", whole, None)


@pytest.mark.parametrize("task", [Task.TEXT, Task.CLASSIFY])
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (reply_json("content_filter"), ContentBlocked),
        (reply_json("stop", content=None, refusal="no"), ContentBlocked),
        (reply_json("length", content=""), EmptyReply),
        (reply_json("stop", content=None, reasoning_content="a thought"), EmptyReply),
        (reply_json("tool_calls"), InvalidReply),
    ],
)
def test_what_is_no_answer_is_a_fault_that_may_have_been_billed(upstream, body, kind, task):
    upstream.script(Fault("garbage", text=body))
    with pytest.raises(kind) as fault:
        at(upstream).call(call_of(task=task))
    assert (fault.value.transient, fault.value.unknown) == (False, True)


def test_the_counts_of_another_service_tier_are_counts_too(upstream):
    """The library files them under other names."""
    body = json.loads(reply_json(usage=TestOpenAI.counts)) | {"service_tier": "flex"}
    upstream.script(Fault("garbage", text=json.dumps(body)))
    assert at(upstream).call(call_of()).usage == Usage(10, 7, 4, 2)


@pytest.mark.parametrize(
    ("details", "usage"),
    [
        (None, Usage(10, 7)),
        ({}, Usage(10, 7)),
        ({"cached_tokens": None}, Usage(10, 7)),
        ({"cached_tokens": 11}, None),
    ],
)
def test_details_may_be_missing_but_not_larger_than_the_whole(upstream, details, usage):
    counts: ClassVar = {"prompt_tokens": 10, "completion_tokens": 7, "prompt_tokens_details": details}
    upstream.script(Fault("garbage", text=reply_json(usage=counts)))
    assert at(upstream).call(call_of()).usage == usage


# Faults.


def refused(status: int, headers: dict[str, str] | None = None, **facts: Any) -> UpstreamFault:
    request = httpx2.Request("POST", "http://127.0.0.1:9/v1")
    response = httpx2.Response(status, headers=headers, request=request)
    return fault_of(openai.APIStatusError(f"429 503 {CANARY}", response=response, body=facts))


@pytest.mark.parametrize(
    ("status", "facts", "kind"),
    [
        (429, {"code": "rate_limit_exceeded"}, UpstreamRateLimited),
        (429, {}, UpstreamRateLimited),
        (429, {"code": "insufficient_quota"}, UpstreamQuotaExhausted),
        (429, {"type": "insufficient_quota"}, UpstreamQuotaExhausted),
        (429, {"code": "organization_spend_limit_exceeded"}, UpstreamQuotaExhausted),
        (429, {"code": "credit_balance_exhausted"}, UpstreamQuotaExhausted),
        (429, {"message": "insufficient_quota"}, UpstreamRateLimited),
        (402, {}, UpstreamQuotaExhausted),
        (400, {"code": "context_length_exceeded"}, PromptTooLong),
        (400, {"code": 400, "type": "exceed_context_size_error"}, PromptTooLong),
        (413, {}, PromptTooLong),
        (400, {"message": "context_length_exceeded"}, UpstreamFault),
        (400, {"code": "content_filter"}, ContentBlocked),
        (400, {"code": "invalid_prompt"}, ContentBlocked),
        (403, {"code": "model_not_found"}, ModelGone),
        (404, {}, ModelGone),
        (400, {"code": ["x"], "type": {"y": 1}}, UpstreamFault),
    ],
    ids=str,
)
def test_a_refusal_is_judged_by_its_status_and_code_and_never_by_its_text(status, facts, kind):
    fault = refused(status, **facts)
    assert type(fault) is kind
    assert CANARY not in str(fault) + fault.detail


def test_only_the_passing_statuses_are_worth_another_attempt():
    for status in range(300, 600):
        assert refused(status).transient == (status in {408, 429, 500, 502, 503, 504, 529})


@pytest.mark.parametrize(
    ("headers", "delay"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After-Ms": "1500", "Retry-After": "2"}, 1.5),
        ({"Retry-After": "1e999"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"Retry-After": "1e300"}, 86_400),
        ({}, None),
    ],
    ids=str,
)
def test_the_delay_is_the_headers(headers, delay):
    assert refused(429, headers).delay == delay
    spent = refused(429, headers, code="insufficient_quota")
    assert spent.delay == (3600 if delay is None else delay)


def test_a_fault_that_the_library_only_names_may_have_been_billed():
    unnamed = openai.APIConnectionError(request=httpx2.Request("POST", "http://127.0.0.1:9/v1"))
    fault = fault_of(unnamed)
    assert (type(fault), fault.transient, fault.unknown) == (UpstreamFault, True, True)
