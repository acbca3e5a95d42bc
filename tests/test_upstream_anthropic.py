"""The loopback provider speaks Anthropic's protocol as Anthropic's own client and LangChain's expect it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import httpx2
import pytest
from langchain_anthropic import ChatAnthropic, chat_models
from langchain_core.messages import AIMessageChunk
from pydantic import BaseModel

from tests.upstream import CANARY, REFUSED, Fault, Tokens, Upstream, answer_text, mark

MODEL = "claude-haiku-5-5"
KEY = "loopback"
FIXTURE = Tokens(prompt=11125, cached=7441, candidates=20, thoughts=409, written=1000)
RED = [{"role": "user", "content": "red"}]
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


class Label(BaseModel):
    category: Literal["bill", "fault", "praise"]


@pytest.fixture(scope="module")
def running() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def upstream(running: Upstream) -> Upstream:
    assert running.wait_idle()
    running.reset()
    return running


@pytest.fixture(scope="module")
def wire() -> Iterator[httpx2.Client]:
    with httpx2.Client(trust_env=False, timeout=5) as client:
        yield client


@pytest.fixture
def client(upstream: Upstream, wire: httpx2.Client) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=upstream.url, api_key=KEY, max_retries=0, http_client=wire, timeout=5)


@pytest.fixture(scope="module")
def shared_chat(running: Upstream) -> Iterator[ChatAnthropic]:
    chat = ChatAnthropic(
        model=MODEL, api_key=KEY, base_url=running.url, max_retries=0, max_tokens=1000, timeout=5
    )
    yield chat
    chat._client.close()


@pytest.fixture
def chat(upstream: Upstream, shared_chat: ChatAnthropic) -> ChatAnthropic:
    return shared_chat


def ask(client: anthropic.Anthropic, **options: Any) -> Any:
    return client.messages.create(**{"model": MODEL, "messages": RED, "max_tokens": 1000, **options})


def whole(chat: Any, prompt: str, **options: Any) -> AIMessageChunk:
    first, *rest = chat.stream(prompt, **options)
    for chunk in rest:
        first = first + chunk
    assert isinstance(first, AIMessageChunk)
    return first


# Good answers.


def test_an_answer_is_the_same_for_both_clients_and_quotes_the_hash_of_its_prompt(
    upstream: Upstream, client: anthropic.Anthropic, chat: ChatAnthropic
) -> None:
    reply = ask(client)
    assert reply.content[0].text == chat.invoke("red").text == answer_text(MODEL, "", "red")
    assert mark("red") in reply.content[0].text
    assert (reply.model, reply.stop_reason) == (MODEL, "end_turn")
    assert [(call.provider, call.method) for call in upstream.journal] == [("anthropic", "generate")] * 2


def test_the_system_and_the_prompt_may_come_in_blocks(
    upstream: Upstream, client: anthropic.Anthropic
) -> None:
    blocks = [{"type": "text", "text": "re"}, {"type": "text", "text": "d"}]
    ask(
        client, system=[{"type": "text", "text": "Be brief."}], messages=[{"role": "user", "content": blocks}]
    )
    assert (upstream.journal[0].system, upstream.journal[0].prompt) == ("Be brief.", "red")


def test_the_tokens_of_the_cache_come_on_top_of_the_input(
    upstream: Upstream, client: anthropic.Anthropic, chat: ChatAnthropic
) -> None:
    upstream.script(*[Fault("ok", usage=FIXTURE)] * 4)
    with client.messages.stream(model=MODEL, messages=RED, max_tokens=1000) as stream:
        final = stream.get_final_message()
    for usage in (ask(client).usage, final.usage):
        assert (usage.input_tokens, usage.cache_read_input_tokens) == (11125 - 7441 - 1000, 7441)
        assert (usage.cache_creation_input_tokens, usage.output_tokens) == (1000, 429)
        assert usage.output_tokens_details.thinking_tokens == 409
    for message in (chat.invoke("red"), whole(chat, "red")):
        assert message.usage_metadata["input_tokens"] == 11125
        assert message.usage_metadata["output_tokens"] == 429
    assert (
        {call.billed for call in upstream.journal}
        == {call.reported for call in upstream.journal}
        == {FIXTURE}
    )


def test_the_cache_is_written_only_for_whoever_asks(upstream: Upstream, client: anthropic.Anthropic) -> None:
    assert ask(client).usage.cache_creation_input_tokens == 0
    rule = {"type": "text", "text": "A long rule. " * 50, "cache_control": {"type": "ephemeral"}}
    usage = ask(client, system=[rule]).usage
    assert 0 < usage.cache_creation_input_tokens == upstream.journal[1].billed.written


def test_a_stream_comes_as_named_events_and_adds_up_to_the_answer(
    upstream: Upstream, client: anthropic.Anthropic, chat: ChatAnthropic
) -> None:
    events = list(ask(client, stream=True))
    kinds = ["content_block_delta"] * 4
    kinds = [
        "message_start",
        "content_block_start",
        *kinds,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert [event.type for event in events] == kinds
    assert "".join(event.delta.text for event in events[2:6]) == answer_text(MODEL, "", "red")
    assert events[0].message.usage.output_tokens == 1
    assert whole(chat, "red").text == answer_text(MODEL, "", "red")
    assert all(call.method == "stream" and call.usage_sent for call in upstream.journal)


def test_a_stream_sends_a_ping_before_its_first_words(upstream: Upstream, wire: httpx2.Client) -> None:
    headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
    body = {"model": MODEL, "messages": RED, "max_tokens": 1000, "stream": True}
    text = wire.post(f"{upstream.url}/v1/messages", json=body, headers=headers).text
    assert (
        text.index("message_start") < text.index('event: ping\ndata: {"type": "ping"}') < text.index("delta")
    )


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_takes_its_label_from_the_enum(chat: ChatAnthropic, method: Any) -> None:
    labelled = chat.with_structured_output(Label, method=method)
    labels = {labelled.invoke(str(number)).category for number in range(20)}
    assert labels == {"bill", "fault", "praise"}


@pytest.mark.parametrize("streamed", [False, True], ids=["generate", "stream"])
def test_a_tool_is_called_and_its_result_answered_with_words(chat: ChatAnthropic, streamed: bool) -> None:
    able = chat.bind_tools([{"name": "weather", "input_schema": WEATHER}])
    message = whole(able, "red") if streamed else able.invoke("red")
    (call,) = message.tool_calls
    assert (call["name"], list(call["args"])) == ("weather", ["city"])
    assert message.response_metadata["stop_reason"] == "tool_use"
    done = able.invoke(
        [("human", "red"), message, {"role": "tool", "content": "sun", "tool_call_id": call["id"]}]
    )
    assert (done.text, done.tool_calls) == (answer_text(MODEL, "", "red"), [])


def test_the_callers_choice_of_a_tool_decides(client: anthropic.Anthropic) -> None:
    tools = [{"name": name, "input_schema": WEATHER} for name in ("weather", "news")]
    for name in ("weather", "news"):
        (block,) = ask(client, tools=tools, tool_choice={"type": "tool", "name": name}).content
        assert (block.type, block.name) == ("tool_use", name)
    assert ask(client, tools=tools, tool_choice={"type": "none"}).content[0].type == "text"


def test_the_output_limit_bounds_what_is_billed_and_cuts_the_text(client: anthropic.Anthropic) -> None:
    reply = ask(client, max_tokens=8)
    assert (reply.stop_reason, reply.usage.output_tokens) == ("max_tokens", 8)


def test_a_stop_sequence_ends_the_text_and_is_named(client: anthropic.Anthropic) -> None:
    reply = ask(client, stop_sequences=["nowhere", " answers"])
    assert (reply.content[0].text, reply.stop_reason, reply.stop_sequence) == (
        MODEL,
        "stop_sequence",
        " answers",
    )


def test_models_are_listed_and_a_retired_one_is_gone(upstream: Upstream, client: anthropic.Anthropic) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).lifecycle == "active"
    upstream.retire(MODEL)
    assert MODEL not in [model.id for model in client.models.list()]
    for gone in (lambda: client.models.retrieve(MODEL), lambda: ask(client)):
        with pytest.raises(anthropic.NotFoundError):
            gone()
    assert [call.fault for call in upstream.journal] == ["not_found"]


# Faults, as the real clients see them: class, status and type.

RAISED: list[tuple[str, type[Exception], int, str | None]] = [
    ("rate_limited", chat_models.AnthropicRateLimitError, 429, "rate_limit_error"),
    ("quota_per_day", chat_models.AnthropicRateLimitError, 429, "rate_limit_error"),
    ("spend_limit", chat_models.AnthropicRateLimitError, 429, "rate_limit_error"),
    ("no_credit", chat_models.AnthropicInvalidRequestError, 400, "invalid_request_error"),
    ("internal", chat_models.AnthropicAPIError, 500, "api_error"),
    ("unavailable", chat_models.AnthropicAPIError, 503, "api_error"),
    ("bad_gateway", chat_models.AnthropicAPIError, 502, None),
    ("gateway_timeout", chat_models.AnthropicAPIError, 504, "timeout_error"),
    ("overloaded", chat_models.AnthropicOverloadedError, 529, "overloaded_error"),
    ("request_timeout", anthropic.APIStatusError, 408, "timeout_error"),
    ("bad_request", chat_models.AnthropicInvalidRequestError, 400, "invalid_request_error"),
    ("no_temperature", chat_models.AnthropicInvalidRequestError, 400, "invalid_request_error"),
    ("recitation", chat_models.AnthropicInvalidRequestError, 400, "invalid_request_error"),
    ("too_long", chat_models.AnthropicContextOverflowError, 400, "invalid_request_error"),
    ("bad_key", chat_models.AnthropicAuthenticationError, 401, "authentication_error"),
    ("unauthorized", chat_models.AnthropicAuthenticationError, 401, "authentication_error"),
    ("forbidden", chat_models.AnthropicPermissionDeniedError, 403, "permission_error"),
    ("not_found", chat_models.AnthropicModelNotFoundError, 404, "not_found_error"),
]


def test_the_table_of_refusals_is_complete() -> None:
    own = {"spend_limit", "no_credit", "overloaded", "no_temperature", "recitation"}
    assert {name for name, *_ in RAISED} | {"redirect"} == {*REFUSED, *own}


@pytest.mark.parametrize("streamed", [False, True], ids=["generate", "stream"])
@pytest.mark.parametrize(("name", "kind", "status", "error"), RAISED, ids=[row[0] for row in RAISED])
def test_a_refusal_raises_its_class_and_is_not_billed(
    upstream: Upstream,
    chat: ChatAnthropic,
    name: str,
    kind: type[Exception],
    status: int,
    error: str | None,
    streamed: bool,
) -> None:
    upstream.script(name)
    with pytest.raises(kind) as caught:
        whole(chat, "red") if streamed else chat.invoke("red")
    assert (caught.value.status_code, caught.value.type) == (status, error)
    assert CANARY in caught.value.response.text
    (call,) = upstream.journal
    assert (call.fault, call.status, call.billed, call.delivered) == (name, status, None, True)


def test_only_a_rate_limit_says_when_to_come_back(upstream: Upstream, client: anthropic.Anthropic) -> None:
    upstream.script(Fault("rate_limited", delay="1.5s"), "quota_per_day", "spend_limit")
    told = []
    for _ in range(3):
        with pytest.raises(anthropic.RateLimitError) as caught:
            ask(client)
        told.append((caught.value.response.headers.get("retry-after"), caught.value.error_code))
    assert told == [("2", None), (None, None), (None, "enforced_spend_limit_reached")]


# What LangChain raises for them; while a stream runs it passes the wire's own errors on.
BROKEN: list[tuple[Fault, type[Exception], type[Exception]]] = [
    (Fault("reset_before"), anthropic.APIConnectionError, anthropic.APIConnectionError),
    (Fault("cut_body"), anthropic.APIConnectionError, httpx2.RemoteProtocolError),
    (Fault("half_close"), anthropic.APIConnectionError, httpx2.RemoteProtocolError),
    (Fault("reset_body"), anthropic.APIConnectionError, httpx2.ReadError),
    (Fault("hang"), anthropic.APITimeoutError, anthropic.APITimeoutError),
    (Fault("drip", seconds=5), anthropic.APITimeoutError, httpx2.ReadTimeout),
    (Fault("garbage"), json.JSONDecodeError, ValueError),
    (Fault("html"), AttributeError, ValueError),
]


@pytest.mark.parametrize("streamed", [False, True], ids=["generate", "stream"])
@pytest.mark.parametrize(("fault", "plain", "stream"), BROKEN, ids=[fault.name for fault, *_ in BROKEN])
def test_a_broken_reply_raises_and_is_billed_without_the_client_knowing(
    upstream: Upstream,
    chat: ChatAnthropic,
    fault: Fault,
    plain: type[Exception],
    stream: type[Exception],
    streamed: bool,
) -> None:
    upstream.script(fault)
    # What a drip raises depends on its head, which has to be there before the time is up.
    seconds = {"hang": 0.2, "drip": 2.0}.get(fault.name, 5)
    with pytest.raises(stream if streamed else plain):
        whole(chat, "red", timeout=seconds) if streamed else chat.invoke("red", timeout=seconds)
    assert upstream.wait_idle()
    (call,) = upstream.journal
    assert call.billed is not None
    assert not call.usage_sent
    assert call.delivered is (fault.name in ("garbage", "html"))


SOFT: list[tuple[str, str, str]] = [
    ("blocked_prompt", "", "refusal"),
    ("blocked_answer", "", "refusal"),
    ("refusal", "", "refusal"),
    ("no_candidates", "", "end_turn"),
    ("empty", "", "max_tokens"),
    ("max_tokens", answer_text(MODEL, "", "red")[:20], "max_tokens"),
    ("no_usage", answer_text(MODEL, "", "red"), "end_turn"),
    ("other_model", answer_text(MODEL, "", "red"), "end_turn"),
]


@pytest.mark.parametrize("streamed", [False, True], ids=["generate", "stream"])
@pytest.mark.parametrize(("name", "start", "reason"), SOFT, ids=[row[0] for row in SOFT])
def test_a_soft_failure_raises_nothing_and_is_billed(
    upstream: Upstream, chat: ChatAnthropic, name: str, start: str, reason: str, streamed: bool
) -> None:
    upstream.script(name)
    message = whole(chat, "red") if streamed else chat.invoke("red")
    assert message.response_metadata["stop_reason"] == reason
    assert message.text.startswith(start)
    assert bool(message.text) is bool(start)
    billed = upstream.journal[0].billed
    if name == "no_usage":  # LangChain makes zeros of it.
        assert (message.usage_metadata["total_tokens"], upstream.journal[0].reported) == (0, None)
    else:
        assert message.usage_metadata["output_tokens"] == billed.candidates + billed.thoughts
        assert upstream.journal[0].usage_sent


def test_a_refusal_says_so_in_its_details(upstream: Upstream, client: anthropic.Anthropic) -> None:
    upstream.script("refusal")
    reply = ask(client)
    assert (reply.content, reply.stop_details.type) == ([], "refusal")


def test_another_model_may_serve(upstream: Upstream, client: anthropic.Anthropic) -> None:
    upstream.script("other_model", Fault("ok", model=f"{MODEL}-20261007"))
    assert [ask(client).model for _ in range(2)] == ["claude-haiku-4-5", f"{MODEL}-20261007"]


def test_an_overload_inside_a_stream_has_status_200(upstream: Upstream, client: anthropic.Anthropic) -> None:
    upstream.script("stream_error")
    read = []
    with pytest.raises(anthropic.APIStatusError) as caught:
        read.extend(ask(client, stream=True))
    assert (caught.value.status_code, caught.value.type) == (200, "overloaded_error")
    assert [event.type for event in read][-2:] == ["content_block_delta"] * 2


# Keys and other requests.


def test_a_key_comes_in_either_header(
    upstream: Upstream, wire: httpx2.Client, client: anthropic.Anthropic
) -> None:
    bearer = anthropic.Anthropic(base_url=upstream.url, auth_token=KEY, max_retries=0, http_client=wire)
    assert ask(bearer).content == ask(client).content
    for path in ("/v1/messages", "/v1/models"):
        bare = wire.request(
            "POST" if "messages" in path else "GET", upstream.url + path, json={"model": MODEL}
        )
        assert bare.status_code == 401
    with pytest.raises(anthropic.AuthenticationError):
        ask(client.with_options(api_key="bad-key"))
    ask(client, extra_query={"api_key": KEY})
    assert [call.key_in_url for call in upstream.journal][-2:] == [False, True]


@pytest.mark.parametrize("missing", ["model", "max_tokens", "messages"])
def test_what_the_api_insists_on_must_be_there(upstream: Upstream, wire: httpx2.Client, missing: str) -> None:
    body: dict[str, Any] = {"model": MODEL, "messages": RED, "max_tokens": 1000}
    headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
    assert wire.post(f"{upstream.url}/v1/messages", json=body, headers=headers).status_code == 200
    del body[missing]
    reply = wire.post(f"{upstream.url}/v1/messages", json=body, headers=headers)
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")


def test_a_new_model_takes_no_temperature(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError):
        ask(client, extra_body={"temperature": 0.2})
    ask(client, extra_body={"temperature": 1})
    ask(client, model="claude-haiku-4-5", extra_body={"temperature": 0.2})


@pytest.mark.parametrize("model", ["gemini-3.1-flash-lite", "gpt-5.4-nano"])
def test_the_models_of_other_providers_are_unknown_here(client: anthropic.Anthropic, model: str) -> None:
    with pytest.raises(anthropic.NotFoundError):
        ask(client, model=model)


def test_a_redirect_that_is_followed_stands_in_the_journal(
    upstream: Upstream, chat: ChatAnthropic, client: anthropic.Anthropic
) -> None:
    upstream.script("redirect", "redirect")
    assert chat.invoke("red").text == answer_text(MODEL, "", "red")
    with pytest.raises(anthropic.APIStatusError) as caught:
        ask(client)
    assert caught.value.status_code == 307
    assert [call.method for call in upstream.journal] == ["generate", "followed", "generate"]
