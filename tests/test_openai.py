"""providers/openai.py: the contract of every provider, and what servers that only speak its protocol lack."""

from __future__ import annotations

import base64
import json
import logging
import struct
from typing import Any, ClassVar

import httpx2
import openai
import pytest
from langchain_openai.data._profiles import _PROFILES

from chats import Chat, ToolCall, Turn
from config import Settings
from errors import (
    AskRefused,
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
from providers.base import Call, Reply
from providers.declined import ASKED_AGAIN_SECONDS, MOST_REMEMBERED, Declined
from providers.openai import OPENAI, OpenAIProvider
from providers.openai_faults import fault_of, refused_option
from providers.openai_models import is_openais, takes_temperature
from tasks import Ask, Task, Usage
from tests.chat_contract import BOTH, ChatContract
from tests.provider_contract import FAULTS, ProviderContract
from tests.stream_contract import StreamContract, broken
from tests.streamed import counting_stream
from tests.upstream import CANARY, Fault, Upstream
from tests.watches import SinceAsked
from wording import word


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


def refusal_of(status: int, headers: dict[str, str] | None = None, **facts: Any) -> openai.APIStatusError:
    request = httpx2.Request("POST", "http://127.0.0.1:9/v1")
    response = httpx2.Response(status, headers=headers, request=request)
    kind = openai.BadRequestError if status == 400 else openai.APIStatusError
    return kind(f"429 503 {CANARY}", response=response, body=facts)


def refused(status: int, headers: dict[str, str] | None = None, **facts: Any) -> UpstreamFault:
    return fault_of(refusal_of(status, headers, **facts))


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


# Errors inside of a stream have no status.


def cut_off(upstream: Upstream, event: str) -> UpstreamFault:
    upstream.script(Fault("garbage", text=event))
    return broken(at(upstream).stream(call_of()))[1]


@pytest.mark.parametrize(
    ("error", "kind", "transient"),
    [
        ({"type": "server_error", "code": None}, UpstreamFault, True),
        ({"type": "server_error", "code": 503}, UpstreamFault, True),
        ({"type": "BadRequestError", "code": 400}, UpstreamFault, False),
        ({"type": "invalid_request_error", "code": None}, UpstreamFault, False),
        ({"type": "requests", "code": "rate_limit_exceeded"}, UpstreamRateLimited, True),
        ({"type": "tokens", "code": None}, UpstreamRateLimited, True),
        ({"type": "insufficient_quota", "code": "insufficient_quota"}, UpstreamQuotaExhausted, False),
        ({"type": "invalid_request_error", "code": "context_length_exceeded"}, PromptTooLong, False),
        ({"type": "invalid_request_error", "code": "content_filter"}, ContentBlocked, False),
        ({"type": "authentication_error"}, KeyRefused, False),
        ({"code": ["x"], "type": {"y": 1}}, UpstreamFault, True),
        ({}, InvalidReply, True),
        ("words only", UpstreamFault, True),
    ],
    ids=str,
)
def test_an_error_event_is_judged_by_its_type_and_code(upstream, error, kind, transient):
    fault = cut_off(upstream, f"data: {json.dumps({'error': error})}\n\n")
    assert (type(fault), fault.transient) == (kind, transient)
    assert fault.unknown is (kind is InvalidReply)


@pytest.mark.parametrize(
    "choices",
    [5, [5], [{}], [{"delta": 5}], [{"delta": {"refusal": 5, "content": "x"}}], {"delta": {}}, [[]], [None]],
    ids=str,
)
def test_events_of_another_shape_are_a_fault_and_no_bug(upstream, choices):
    event = json.dumps({"choices": choices, "model": 5, "usage": "x"})
    assert cut_off(upstream, f"data: {event}\n\ndata: [DONE]\n\n")


def test_a_refusal_that_streams_is_content_blocked(upstream):
    """The client library drops its words."""
    upstream.script("refusal")
    assert type(broken(at(upstream).stream(call_of()))[1]) is ContentBlocked


@pytest.mark.parametrize("end", ["", "data: [DONE]\n\n"], ids=["cut", "with its mark"])
def test_a_stream_without_a_reason_to_end_is_a_broken_one_billed_as_far_as_it_counted(upstream, end):
    upstream.script(Fault("garbage", text=counting_stream(("one", 3), (" two", 7)) + end))
    pieces, fault = broken(at(upstream).stream(call_of()))
    assert [piece.text for piece in pieces] == ["one", " two"]
    assert (type(fault), fault.transient, fault.unknown) == (InvalidReply, True, False)
    assert (fault.usage, fault.model) == (Usage(10, 7, 4), "gpt-5.4-nano")


def test_counts_of_the_beginning_are_no_more_than_an_estimate_of_what_comes_after_them(upstream):
    upstream.script(Fault("garbage", text=counting_stream(("one", 1), (" two", None))))
    pieces, fault = broken(at(upstream).stream(call_of()))
    assert pieces[-1].usage == Usage(10, 1, 4, estimated=True)
    assert (fault.usage, fault.unknown) == (None, True)


# What chats have of their own.


def test_a_stop_sequence_that_the_model_does_not_take_is_left_out_at_the_next_attempt(upstream):
    provider = at(upstream, "o3")
    call = TestOpenAI().chat(Chat((Turn("user", "Hi"),), stop=("x",)), "o3")
    error = {"type": "invalid_request_error", "param": "stop", "code": "unsupported_parameter"}
    assert refused_option(refusal_of(400, **error), {"extra_body": {"stop": ["x"]}}) == "stop"
    provider._declined.note("o3", "stop")
    assert provider.call(call).ignored == ("stop",)
    assert "stop" not in upstream.journal[0].body


def test_the_arguments_of_a_call_are_passed_on_as_the_model_wrote_them(upstream):
    written = '{ "city":"Z\\u00fcrich" , "days": 1.0}'
    calls = [{"id": "call_9", "type": "function", "function": {"name": "get_weather", "arguments": written}}]
    chat = TestOpenAI().chat(Chat((Turn("user", "Hi"),), tools=BOTH))
    for arguments in (written, '{"city": "cut o'):
        calls[0]["function"]["arguments"] = arguments
        upstream.script(Fault("garbage", text=reply_json("tool_calls", content=None, tool_calls=calls)))
        reply = at(upstream).call(chat)
        assert reply.calls == (ToolCall("call_9", "get_weather", arguments),)


def test_calls_of_tools_that_nobody_offered_are_no_answer(upstream):
    calls = [{"id": "call_9", "type": "function", "function": {"name": "x", "arguments": "{}"}}]
    upstream.script(Fault("garbage", text=reply_json("tool_calls", content=None, tool_calls=calls)))
    with pytest.raises(InvalidReply):
        at(upstream).call(call_of())


# Embeddings.


def embed(upstream: Upstream, *texts: str, seconds: float = 5.0) -> Reply:
    provider = at(upstream, embedding_model="text-embedding-3-small", timer=SinceAsked(upstream))
    provider.warm()
    (model,) = provider.models(None, True)
    return provider.call(Call(model, word(Ask(Task.EMBED, "", 0.0, inputs=texts)), 0, seconds))


def vectors(reply: Reply) -> list[bytes]:
    return [base64.b64decode(one) for one in json.loads(reply.text)]


def test_embeddings_come_in_the_order_of_their_texts_with_the_providers_counts(upstream):
    both, first, second = (
        embed(upstream, "a cat", "a dog"),
        embed(upstream, "a cat"),
        embed(upstream, "a dog"),
    )
    assert vectors(both) == vectors(first) + vectors(second)
    assert [len(vector) for vector in vectors(both)] == [1536 * 4] * 2
    assert (both.usage, both.model) == (Usage(2, 0), "text-embedding-3-small")
    assert all(sent.body["encoding_format"] == "base64" for sent in upstream.journal)


def test_a_model_for_embeddings_may_be_set_and_named(upstream):
    provider = OpenAIProvider.from_settings(Settings(openai_embedding_model="mine"))
    assert provider.models(None, True) == ("mine",)
    assert provider.models("named", True) == ("named",)
    assert provider.models(None) == ("gpt-5.4-nano",)


def embeddings_json(*entries: Any) -> str:
    return json.dumps({"object": "list", "data": list(entries), "model": "m", "usage": {"prompt_tokens": 3}})


def test_a_server_that_answers_in_numbers_and_out_of_order_is_understood(upstream):
    """Not all of them know the packed form."""
    entries = ({"index": 1, "embedding": [0.5, -1]}, {"index": 0, "embedding": [0.25, 2]})
    upstream.script(Fault("garbage", text=embeddings_json(*entries)))
    reply = embed(upstream, "a", "b")
    assert vectors(reply) == [struct.pack("<2f", 0.25, 2), struct.pack("<2f", 0.5, -1)]
    assert reply.usage == Usage(3, 0)


@pytest.mark.parametrize(
    "entries",
    [
        (),
        ({"index": 0, "embedding": [1.0]},) * 2,
        ({"index": 0, "embedding": []},),
        ({"index": 0, "embedding": "AAA"},),
        ({"index": 0, "embedding": "AAAA"},),
        ({"index": 0, "embedding": ["x"]},),
        ({"index": 0, "embedding": [1e300]},),
        ({"index": 0, "embedding": None},),
        ({"index": "x", "embedding": [1.0]},),
        ({"embedding": [1.0]},),
        (5,),
    ],
    ids=str,
)
def test_embeddings_that_are_none_are_a_fault(upstream, entries):
    upstream.script(Fault("garbage", text=embeddings_json(*entries)))
    with pytest.raises(InvalidReply):
        embed(upstream, "a")


@pytest.mark.parametrize(
    "name", sorted(set(FAULTS) - {"empty", "no_candidates", "blocked_answer", "blocked_prompt", "recitation"})
)
def test_embeddings_fail_as_texts_do(upstream, name):
    kind, transient, unknown = FAULTS[name]
    upstream.script(Fault(name, seconds=0.05 if name == "drip" else None))
    with pytest.raises(UpstreamFault) as fault:
        embed(upstream, "a cat", seconds=0.4 if name in ("drip", "hang") else 5.0)
    if name == "bad_request":
        assert (type(fault.value), fault.value.field) == (AskRefused, "input")
    else:
        assert type(fault.value) is kind
        assert (fault.value.transient, fault.value.unknown) == (transient, unknown)
    assert CANARY not in str(fault.value) + fault.value.detail
