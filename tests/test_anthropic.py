"""providers/anthropic.py: the contract of every provider, and what is Anthropic's own."""

from __future__ import annotations

import contextlib
import json
from typing import Any, ClassVar

import anthropic
import httpx2
import pytest
from langchain_anthropic.data._profiles import _PROFILES

from chats import Chat, Turn
from config import Settings
from errors import (
    ContentBlocked,
    EmptyReply,
    InvalidReply,
    KeyRefused,
    ModelGone,
    PromptTooLong,
    UpstreamFault,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
)
from providers.anthropic import ANTHROPIC, AnthropicProvider, takes_temperature
from providers.anthropic_faults import fault_of
from tasks import TEMPERATURES, Task, Usage
from tests.chat_contract import ChatContract
from tests.provider_contract import ProviderContract
from tests.stream_contract import StreamContract, broken
from tests.upstream import CANARY, Fault, Tokens, Upstream


class TestAnthropic(ProviderContract, StreamContract, ChatContract):
    name, model, family = "anthropic", "claude-haiku-4-5", "claude-opus-4-5"
    cool_model, any_json, counts_early = "claude-haiku-5-5", False, True
    # Its filter answers with a plain 400, of which only the words tell what it is.
    own_faults: ClassVar = {"recitation": (UpstreamFault, False, False)}
    unbilled = frozenset({"recitation"})
    counts: ClassVar = {
        "input_tokens": 5,
        "cache_read_input_tokens": 4,
        "cache_creation_input_tokens": 1,
        "output_tokens": 7,
        "output_tokens_details": {"thinking_tokens": 2},
    }

    def provider(self, upstream: Upstream, **options: Any) -> AnthropicProvider:
        return at(upstream, **options)

    def at(self, address: str) -> AnthropicProvider:
        return AnthropicProvider("any-key", self.model, base_url=address)

    def temperature(self, body: dict[str, Any]) -> float | None:
        return body.get("temperature")

    def limit(self, body: dict[str, Any]) -> int:
        return body["max_tokens"]

    def schema(self, body: dict[str, Any]) -> dict[str, Any] | None:
        asked = body.get("output_config")
        if asked is None:
            return None
        assert asked["format"]["type"] == "json_schema"
        assert asked["format"]["schema"]["additionalProperties"] is False
        return asked["format"]["schema"]

    def body_with(self, counts: Any) -> str:
        return reply_json(usage=counts)


def reply_json(stop: str = "end_turn", usage: Any = None, content: Any = None, **more: Any) -> str:
    said = [{"type": "text", "text": "hi"}] if content is None else content
    body = {"id": "x", "type": "message", "role": "assistant", "model": "claude-haiku-4-5", "content": said}
    return json.dumps({**body, "stop_reason": stop, "usage": usage, **more})


def at(upstream: Upstream, model: str = "claude-haiku-4-5", **options: Any) -> AnthropicProvider:
    return AnthropicProvider("any-key", model, base_url=upstream.url, **options)


call_of = TestAnthropic().call_of


def test_settings_make_it_and_anthropics_own_address_is_the_default():
    settings = Settings(anthropic_api_key="a-key", anthropic_model="mine", upstream_concurrency=7)
    provider = AnthropicProvider.from_settings(settings)
    assert provider.models(None) == ("mine",)
    client, transport = provider._line.open()
    assert str(client._client.base_url).rstrip("/") == ANTHROPIC == "https://api.anthropic.com"
    assert client._client._client._transport is transport


# Models.


@pytest.mark.parametrize("model", sorted(name for name, facts in _PROFILES.items() if "temperature" in facts))
def test_the_library_agrees_which_models_take_a_temperature(model):
    assert takes_temperature(model) == _PROFILES[model]["temperature"]


@pytest.mark.parametrize(
    ("model", "warm"),
    [
        ("claude-3-7-sonnet-20250219", True),
        ("claude-opus-4-20250514", True),
        ("claude-opus-4-1-20250805", True),
        ("claude-opus-4-7-20260414", False),
        ("claude-mythos-5", False),
        ("claude-haiku-6", False),
        ("qwen3", True),
    ],
)
def test_other_models_are_known_by_their_names(model, warm):
    assert takes_temperature(model) is warm


@pytest.mark.parametrize("task", list(TEMPERATURES))
def test_the_default_model_gets_no_temperature_and_the_reply_says_so(upstream, task):
    """It answers 400 to one."""
    default = Settings().anthropic_model
    reply = at(upstream).call(call_of(model=default, task=task))
    assert (reply.model, reply.ignored) == (default, ("temperature",))
    assert "temperature" not in upstream.journal[0].body
    assert at(upstream).call(call_of()).ignored == ()


def test_a_model_without_schemas_is_asked_without_one_at_the_next_attempt(upstream):
    provider = at(upstream)
    upstream.script("bad_request")
    with pytest.raises(UpstreamFault) as fault:
        provider.call(call_of(task=Task.CLASSIFY))
    assert (fault.value.transient, fault.value.delay) == (True, 0)
    provider.call(call_of(task=Task.CLASSIFY))
    assert ["output_config" in call.body for call in upstream.journal] == [True, False]


@pytest.mark.parametrize("name", ["too_long", "not_found", "bad_key"])
def test_a_refusal_with_a_reason_of_its_own_says_nothing_about_schemas(upstream, name):
    provider = at(upstream)
    upstream.script(name)
    with pytest.raises(UpstreamFault) as fault:
        provider.call(call_of(task=Task.CLASSIFY))
    assert not fault.value.transient
    provider.call(call_of(task=Task.CLASSIFY))
    assert all("output_config" in call.body for call in upstream.journal)


# Replies.


def test_tokens_read_from_the_cache_and_written_to_it_are_input_tokens(upstream):
    """On the wire they come on top of it."""
    upstream.script(Fault("ok", usage=Tokens(prompt=1000, cached=300, written=200, candidates=40)))
    assert at(upstream).call(call_of()).usage == Usage(1000, 40, 300)
    upstream.script(Fault("garbage", text=reply_json(usage={"input_tokens": 5, "output_tokens": 1})))
    assert at(upstream).call(call_of()).usage == Usage(5, 1)


def test_thoughts_are_no_part_of_the_text(upstream):
    content = [
        {"type": "thinking", "thinking": "a thought", "signature": "x"},
        {"type": "text", "text": "one "},
        {"type": "text", "text": "two"},
    ]
    upstream.script(Fault("garbage", text=reply_json(content=content)))
    assert at(upstream).call(call_of()).text == "one two"


@pytest.mark.parametrize(
    ("stop", "whole"),
    [
        ("end_turn", True),
        ("stop_sequence", True),
        ("max_tokens", False),
        ("model_context_window_exceeded", False),
    ],
)
def test_only_a_text_that_came_to_its_end_is_whole(upstream, stop, whole):
    upstream.script(Fault("garbage", text=reply_json(stop)))
    assert at(upstream).call(call_of()).whole is whole


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (reply_json("refusal", content=[]), ContentBlocked),
        (reply_json("refusal"), ContentBlocked),
        (reply_json("end_turn", content=[]), EmptyReply),
        (
            reply_json("max_tokens", content=[{"type": "thinking", "thinking": "a", "signature": "x"}]),
            EmptyReply,
        ),
        (reply_json("pause_turn"), InvalidReply),
        (reply_json("x" * 5000), InvalidReply),
    ],
)
def test_what_is_no_answer_is_a_fault_that_may_have_been_billed(upstream, body, kind):
    upstream.script(Fault("garbage", text=body))
    with pytest.raises(kind) as fault:
        at(upstream).call(call_of())
    assert (fault.value.transient, fault.value.unknown) == (False, True)
    assert len(fault.value.detail) < 100


@pytest.mark.parametrize(
    "change",
    [
        {"content": [{"type": CANARY, "text": CANARY}]},
        {"content": CANARY},
        {"usage": CANARY},
        {"stop_details": CANARY},
    ],
    ids=str,
)
def test_a_reply_that_does_not_fit_is_quoted_in_no_warning(upstream, capfd, change):
    """Warnings are errors here; in production they would go to the standard error."""
    upstream.script(Fault("garbage", text=json.dumps(json.loads(reply_json()) | change)))
    with contextlib.suppress(UpstreamFault):
        at(upstream).call(call_of())
    assert CANARY not in "".join(capfd.readouterr())


# Faults.


def refused(status: int, headers: dict[str, str] | None = None, code: str | None = None) -> UpstreamFault:
    request = httpx2.Request("POST", "http://127.0.0.1:9/v1")
    response = httpx2.Response(status, headers=headers, request=request)
    details = {} if code is None else {"details": {"error_code": code}}
    body = {"error": {"type": "x", "message": CANARY, **details}}
    return fault_of(anthropic.APIStatusError(f"429 503 {CANARY}", response=response, body=body))


@pytest.mark.parametrize(
    ("status", "headers", "code", "kind"),
    [
        (429, {"Retry-After": "7"}, None, UpstreamRateLimited),
        (429, {"Retry-After": "soon"}, None, UpstreamRateLimited),
        (429, {}, "ramp_limit_exceeded", UpstreamRateLimited),
        (429, {}, None, UpstreamQuotaExhausted),
        (429, {"Retry-After": "7"}, "enforced_spend_limit_reached", UpstreamQuotaExhausted),
        (429, {"Retry-After": "7"}, "contract_spend_limit_reached", UpstreamQuotaExhausted),
        (402, {}, None, UpstreamQuotaExhausted),
        (402, {}, "linked_organization_spend_limit_reached", UpstreamQuotaExhausted),
    ],
    ids=str,
)
def test_a_limit_on_spending_is_told_from_a_limit_on_the_rate(status, headers, code, kind):
    fault = refused(status, headers, code)
    assert type(fault) is kind
    assert fault.transient is (kind is UpstreamRateLimited)
    assert CANARY not in str(fault) + fault.detail


def test_only_the_passing_statuses_are_worth_another_attempt():
    """An overload (529) and a conflict (409) pass too."""
    for status in range(300, 600):
        worth = status in {408, 409, 500, 502, 503, 504, 529}
        assert refused(status, {"Retry-After": "1"}).transient == (worth or status == 429)


def test_an_overloaded_service_is_tried_again(upstream):
    upstream.script("overloaded")
    with pytest.raises(UpstreamFault) as fault:
        at(upstream).call(call_of())
    assert (fault.value.transient, fault.value.unknown) == (True, False)


# Streams.


def events(*told: dict[str, Any]) -> str:
    return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in told)


def cut_off(upstream: Upstream, *told: dict[str, Any]) -> UpstreamFault:
    upstream.script(Fault("garbage", text=events(*told)))
    return broken(at(upstream).stream(call_of()))[1]


START = {
    "type": "message_start",
    "message": json.loads(reply_json(usage={"input_tokens": 9, "output_tokens": 1})),
}


@pytest.mark.parametrize(
    ("name", "kind", "transient"),
    [
        ("overloaded_error", UpstreamFault, True),
        ("api_error", UpstreamFault, True),
        ("timeout_error", UpstreamFault, True),
        ("a_new_error", UpstreamFault, True),
        ("invalid_request_error", UpstreamFault, False),
        ("rate_limit_error", UpstreamRateLimited, True),
        ("billing_error", UpstreamQuotaExhausted, False),
        ("request_too_large", PromptTooLong, False),
        ("authentication_error", KeyRefused, False),
        ("permission_error", KeyRefused, False),
        ("not_found_error", ModelGone, False),
    ],
)
def test_an_error_event_is_judged_by_its_type(upstream, name, kind, transient):
    """It comes with status 200. What was counted before it was billed."""
    fault = cut_off(upstream, START, {"type": "error", "error": {"type": name, "message": CANARY}})
    assert (type(fault), fault.transient, fault.unknown) == (kind, transient, False)
    assert fault.usage == Usage(9, 1, estimated=True)
    assert CANARY not in str(fault) + fault.detail


def test_first_counts_say_too_little_of_a_reply_that_was_lost(upstream):
    """It may have been thinking, or writing the arguments of a call, for long."""
    assert (cut_off(upstream, START).usage, cut_off(upstream, START).unknown) == (None, True)


@pytest.mark.parametrize(
    "told",
    [
        {"type": "message_start", "message": 5},
        {"type": "message_start", "message": {"usage": 5, "model": 5}},
        {"type": "message_delta", "usage": 5, "delta": {}},
        {"type": "message_delta", "usage": {"output_tokens": "x"}, "delta": 5},
        {"type": "content_block_delta", "delta": 5, "index": "x"},
        {"type": 5},
        {"type": "error"},
        {"type": "error", "error": 5},
    ],
    ids=str,
)
def test_events_of_another_shape_are_a_fault_and_no_bug(upstream, told):
    assert cut_off(upstream, told)


def test_a_temperature_above_its_scale_is_left_out_which_is_as_warm_as_it_gets(upstream):
    contract = TestAnthropic()
    replies = [
        at(upstream).call(contract.chat(Chat((Turn("user", "Hi"),), temperature=warmth)))
        for warmth in (1.0, 1.5)
    ]
    assert [reply.ignored for reply in replies] == [(), ("temperature",)]
    assert [call.body.get("temperature") for call in upstream.journal] == [1.0, None]
