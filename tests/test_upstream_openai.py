"""The loopback provider speaks OpenAI's protocol as OpenAI's own client and LangChain's expect it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import httpx2
import openai
import pytest
from langchain_core.messages import AIMessageChunk
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_openai.chat_models import base
from pydantic import BaseModel

from tests.upstream import CANARY, REFUSED, Fault, Tokens, Upstream, answer_text, mark

MODEL = "gpt-5.4-nano"
EMBEDDER = "text-embedding-3-small"
KEY = "loopback"
FIXTURE = Tokens(prompt=11125, cached=7441, candidates=20, thoughts=409)
RED = [{"role": "user", "content": "red"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


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
def client(upstream: Upstream, wire: httpx2.Client) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{upstream.url}/v1", api_key=KEY, max_retries=0, http_client=wire, timeout=5
    )


@pytest.fixture
def chat(upstream: Upstream, wire: httpx2.Client) -> ChatOpenAI:
    return ChatOpenAI(
        model=MODEL,
        api_key=KEY,
        base_url=f"{upstream.url}/v1",
        max_retries=0,
        stream_usage=True,
        http_client=wire,
        timeout=5,
    )


def ask(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(**{"model": MODEL, "messages": RED, **options})


def whole(chat: Any, prompt: str, **options: Any) -> AIMessageChunk:
    first, *rest = chat.stream(prompt, **options)
    for chunk in rest:
        first = first + chunk
    assert isinstance(first, AIMessageChunk)
    return first


# Good answers.


def test_an_answer_is_the_same_for_both_clients_and_quotes_the_hash_of_its_prompt(
    upstream: Upstream, client: openai.OpenAI, chat: ChatOpenAI
) -> None:
    reply = ask(client)
    assert reply.choices[0].message.content == chat.invoke("red").text == answer_text(MODEL, "", "red")
    assert mark("red") in reply.choices[0].message.content
    assert (reply.model, reply.choices[0].finish_reason) == (MODEL, "stop")
    assert [(call.provider, call.method) for call in upstream.journal] == [("openai", "generate")] * 2


def test_system_and_developer_messages_are_the_system(upstream: Upstream, client: openai.OpenAI) -> None:
    turns = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "x"}]
    parts = [{"type": "text", "text": "re"}, {"type": "text", "text": "d"}]
    ask(
        client,
        messages=[{"role": "system", "content": "Be kind."}, *turns, {"role": "user", "content": parts}],
    )
    assert (upstream.journal[0].system, upstream.journal[0].prompt) == ("Be kind.\nBe brief.", "red")


def test_cached_tokens_are_part_of_the_prompt_and_thoughts_of_the_completion(
    upstream: Upstream, client: openai.OpenAI
) -> None:
    upstream.script(Fault("ok", usage=FIXTURE))
    usage = ask(client).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (11125, 429, 11554)
    assert usage.prompt_tokens_details.cached_tokens == 7441
    assert usage.completion_tokens_details.reasoning_tokens == 409
    assert upstream.journal[0].billed == upstream.journal[0].reported == FIXTURE


def test_a_stream_adds_up_to_the_answer_and_ends_with_its_usage(
    upstream: Upstream, client: openai.OpenAI, chat: ChatOpenAI
) -> None:
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    texts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(texts) == answer_text(MODEL, "", "red")
    assert sum(map(bool, texts)) == 4
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    message = whole(chat, "red")
    assert message.text == answer_text(MODEL, "", "red")
    assert message.usage_metadata["total_tokens"] == chunks[-1].usage.total_tokens
    assert all(call.method == "stream" and call.usage_sent for call in upstream.journal)


def test_a_stream_tells_its_usage_only_to_whoever_asks(upstream: Upstream, client: openai.OpenAI) -> None:
    chunks = list(ask(client, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert upstream.journal[0].delivered
    assert upstream.journal[0].reported is None


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_takes_its_label_from_the_enum(chat: ChatOpenAI, method: Any) -> None:
    labelled = chat.with_structured_output(Label, method=method)
    labels = {labelled.invoke(str(number)).category for number in range(20)}
    assert labels == {"bill", "fault", "praise"}


def test_a_strict_schema_must_name_every_field_and_allow_no_others(client: openai.OpenAI) -> None:
    loose = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}

    def form(schema: dict[str, Any], strict: bool) -> dict[str, Any]:
        card = {"name": "a", "schema": schema, "strict": strict}
        return {"type": "json_schema", "json_schema": card}

    strict = {**loose, "required": ["a"]}
    assert list(json.loads(ask(client, response_format=form(strict, True)).choices[0].message.content)) == [
        "a"
    ]
    ask(client, response_format=form(loose, False))
    with pytest.raises(openai.BadRequestError):
        ask(client, response_format=form(loose, True))


def test_json_mode_answers_with_an_object(client: openai.OpenAI) -> None:
    text = ask(client, response_format={"type": "json_object"}).choices[0].message.content
    assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("streamed", [False, True], ids=["generate", "stream"])
def test_a_tool_is_called_and_its_result_answered_with_words(chat: ChatOpenAI, streamed: bool) -> None:
    able = chat.bind_tools([WEATHER])
    message = whole(able, "red") if streamed else able.invoke("red")
    (call,) = message.tool_calls
    assert (call["name"], list(call["args"])) == ("weather", ["city"])
    assert message.response_metadata["finish_reason"] == "tool_calls"
    done = able.invoke(
        [("human", "red"), message, {"role": "tool", "content": "sun", "tool_call_id": call["id"]}]
    )
    assert (done.text, done.tool_calls) == (answer_text(MODEL, "", "red"), [])


def test_the_callers_choice_of_a_tool_decides(client: openai.OpenAI) -> None:
    other = {"type": "function", "function": {"name": "news", "parameters": {"type": "object"}}}
    for name in ("weather", "news"):
        choice = {"type": "function", "function": {"name": name}}
        message = ask(client, tools=[WEATHER, other], tool_choice=choice).choices[0].message
        assert [call.function.name for call in message.tool_calls] == [name]
    assert ask(client, tools=[WEATHER], tool_choice="none").choices[0].message.tool_calls is None


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_the_output_limit_bounds_what_is_billed_and_cuts_the_text(
    upstream: Upstream, client: openai.OpenAI, field: str
) -> None:
    reply = ask(client, **{field: 8})
    assert (reply.choices[0].finish_reason, reply.usage.completion_tokens) == ("length", 8)
    assert upstream.journal[0].body[field] == 8


@pytest.mark.parametrize("stop", [" answers", ["nowhere", " answers"]], ids=["one", "several"])
def test_a_stop_sequence_ends_the_text(client: openai.OpenAI, stop: Any) -> None:
    choice = ask(client, stop=stop).choices[0]
    assert (choice.message.content, choice.finish_reason) == (MODEL, "stop")


# Embeddings and models.


def test_vectors_come_packed_or_plain_and_are_the_same(upstream: Upstream, client: openai.OpenAI) -> None:
    texts = ["red", "blue"]
    packed = client.embeddings.create(model=EMBEDDER, input=texts)
    assert upstream.journal[0].body["encoding_format"] == "base64"
    plain = client.embeddings.create(model=EMBEDDER, input=texts, encoding_format="float")
    assert [card.embedding for card in packed.data] == [card.embedding for card in plain.data]
    red, blue = (card.embedding for card in packed.data)
    assert len(red) == 1536
    assert red != blue
    assert sum(part * part for part in red) == pytest.approx(1)
    call = upstream.journal[0]
    assert (call.method, call.prompt, call.usage_sent) == ("embed", "red\nblue", True)
    assert packed.usage.prompt_tokens == call.billed.prompt


def test_fewer_dimensions_point_the_same_way(client: openai.OpenAI) -> None:
    long, short = (
        client.embeddings.create(model=EMBEDDER, input="red", dimensions=size).data[0].embedding
        for size in (16, 4)
    )
    assert len(short) == 4
    assert [part / short[0] for part in short] == pytest.approx(
        [part / long[0] for part in long[:4]], rel=1e-5
    )


def test_langchain_embeds_texts_and_a_list_of_tokens_is_one_text(
    upstream: Upstream, wire: httpx2.Client, client: openai.OpenAI
) -> None:
    embedder = OpenAIEmbeddings(
        model=EMBEDDER,
        api_key=KEY,
        base_url=f"{upstream.url}/v1",
        http_client=wire,
        check_embedding_ctx_length=False,
    )
    known = client.embeddings.create(model=EMBEDDER, input="red").data[0].embedding
    assert embedder.embed_documents(["red"]) == [known]
    assert len(client.embeddings.create(model=EMBEDDER, input=[1, 2, 3]).data) == 1
    assert upstream.journal[-1].billed == Tokens(prompt=3)


def test_models_are_listed_and_a_retired_one_is_gone(upstream: Upstream, client: openai.OpenAI) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL
    upstream.retire(MODEL)
    assert MODEL not in [model.id for model in client.models.list()]
    for gone in (lambda: client.models.retrieve(MODEL), lambda: ask(client)):
        with pytest.raises(openai.NotFoundError):
            gone()
    assert [call.fault for call in upstream.journal] == ["not_found"]


# Faults, as the real clients see them: class, status and code.

RAISED: list[tuple[str, str, int, str | None]] = [
    ("rate_limited", "RateLimit", 429, "rate_limit_exceeded"),
    ("quota_per_day", "RateLimit", 429, "insufficient_quota"),
    ("no_credit", "RateLimit", 429, "credit_balance_exhausted"),
    ("spend_limit", "RateLimit", 429, "organization_spend_limit_exceeded"),
    ("internal", "API", 500, None),
    ("unavailable", "API", 503, None),
    ("bad_gateway", "API", 502, None),
    ("gateway_timeout", "API", 504, None),
    ("request_timeout", "", 408, None),
    ("bad_request", "InvalidRequest", 400, None),
    ("bad_key", "Authentication", 401, "invalid_api_key"),
    ("too_long", "ContextOverflow", 400, "context_length_exceeded"),
    ("blocked_prompt", "InvalidRequest", 400, "invalid_prompt"),
    ("no_temperature", "InvalidRequest", 400, "unsupported_value"),
    ("forbidden", "PermissionDenied", 403, "unsupported_country_region_territory"),
    ("unauthorized", "Authentication", 401, None),
    ("not_found", "ModelNotFound", 404, "model_not_found"),
]


def test_the_table_of_refusals_is_complete() -> None:
    own = {"no_credit", "spend_limit", "blocked_prompt", "no_temperature"}
    assert {name for name, *_ in RAISED} | {"redirect"} == {*REFUSED, *own}


@pytest.mark.parametrize("streamed", [False, True], ids=["generate", "stream"])
@pytest.mark.parametrize(("name", "kind", "status", "code"), RAISED, ids=[row[0] for row in RAISED])
def test_a_refusal_raises_its_class_and_is_not_billed(
    upstream: Upstream, chat: ChatOpenAI, name: str, kind: str, status: int, code: str | None, streamed: bool
) -> None:
    upstream.script(name)
    raised = getattr(base, f"OpenAI{kind}Error") if kind else openai.APIStatusError
    with pytest.raises(raised) as caught:
        whole(chat, "red") if streamed else chat.invoke("red")
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert CANARY in caught.value.response.text
    (call,) = upstream.journal
    assert (call.fault, call.status, call.billed, call.delivered) == (name, status, None, True)


def test_a_rate_limit_says_its_delay_in_seconds_and_milliseconds_or_not_at_all(
    upstream: Upstream, client: openai.OpenAI
) -> None:
    upstream.script(Fault("rate_limited", delay="1.5s"), Fault("rate_limited", delay=""), "quota_per_day")
    told = []
    for _ in range(3):
        with pytest.raises(openai.RateLimitError) as caught:
            ask(client)
        told.append([caught.value.response.headers.get(name) for name in ("retry-after", "retry-after-ms")])
    assert told == [["2", "1500"], [None, None], [None, None]]


BROKEN: list[tuple[Fault, type[Exception]]] = [
    (Fault("reset_before"), openai.APIConnectionError),
    (Fault("cut_body"), openai.APIConnectionError),
    (Fault("half_close"), openai.APIConnectionError),
    (Fault("reset_body"), openai.APIConnectionError),
    (Fault("hang"), openai.APITimeoutError),
    (Fault("drip", seconds=5), openai.APITimeoutError),
    (Fault("garbage"), ValueError),
    (Fault("html"), ValueError),
]


@pytest.mark.parametrize("streamed", [False, True], ids=["generate", "stream"])
@pytest.mark.parametrize(("fault", "kind"), BROKEN, ids=[fault.name for fault, _ in BROKEN])
def test_a_broken_reply_raises_and_is_billed_without_the_client_knowing(
    upstream: Upstream, chat: ChatOpenAI, fault: Fault, kind: type[Exception], streamed: bool
) -> None:
    upstream.script(fault)
    seconds = 0.2 if fault.name in ("hang", "drip") else 5
    with pytest.raises(kind):
        whole(chat, "red", timeout=seconds) if streamed else chat.invoke("red", timeout=seconds)
    assert upstream.wait_idle()
    (call,) = upstream.journal
    assert call.billed is not None
    assert not call.usage_sent
    assert call.delivered is (fault.name in ("garbage", "html"))


SOFT: list[tuple[str, str, str]] = [
    ("blocked_answer", "", "content_filter"),
    ("recitation", "", "content_filter"),
    ("refusal", "", "stop"),
    ("empty", "", "length"),
    ("max_tokens", answer_text(MODEL, "", "red")[:20], "length"),
    ("no_usage", answer_text(MODEL, "", "red"), "stop"),
    ("other_model", answer_text(MODEL, "", "red"), "stop"),
]


@pytest.mark.parametrize("streamed", [False, True], ids=["generate", "stream"])
@pytest.mark.parametrize(("name", "start", "reason"), SOFT, ids=[row[0] for row in SOFT])
def test_a_soft_failure_raises_nothing_and_is_billed(
    upstream: Upstream, chat: ChatOpenAI, name: str, start: str, reason: str, streamed: bool
) -> None:
    upstream.script(name)
    message = whole(chat, "red") if streamed else chat.invoke("red")
    assert message.response_metadata["finish_reason"] == reason
    assert message.text.startswith(start)
    assert bool(message.text) is bool(start)
    billed = upstream.journal[0].billed
    if name == "no_usage":
        assert (message.usage_metadata, upstream.journal[0].reported) == (None, None)
    else:
        assert message.usage_metadata["output_tokens"] == billed.candidates + billed.thoughts
        assert upstream.journal[0].usage_sent


def test_a_refusal_message_stands_beside_the_content(upstream: Upstream, client: openai.OpenAI) -> None:
    upstream.script("refusal", "refusal")
    message = ask(client).choices[0].message
    assert message.content is None
    assert message.refusal.startswith("I'm sorry")
    with ask(client, stream=True) as chunks:
        assert next(chunks).choices[0].delta.refusal == message.refusal


def test_a_reply_may_have_no_choices(upstream: Upstream, client: openai.OpenAI) -> None:
    upstream.script("no_candidates", "no_candidates")
    assert ask(client).choices == []
    (last,) = ask(client, stream=True, stream_options={"include_usage": True})
    billed = upstream.journal[0].billed
    assert (last.choices, last.usage.total_tokens) == ([], billed.prompt)
    assert (billed.candidates, billed.thoughts) == (0, 0)


def test_another_model_may_serve(upstream: Upstream, client: openai.OpenAI) -> None:
    upstream.script("other_model", Fault("ok", model=f"{MODEL}-2026-03-17"))
    assert [ask(client).model for _ in range(2)] == ["gpt-5.4-mini", f"{MODEL}-2026-03-17"]


def test_an_error_inside_a_stream_is_raised_after_what_came_before_it(
    upstream: Upstream, client: openai.OpenAI
) -> None:
    upstream.script("stream_error")
    read = []
    with pytest.raises(openai.APIError) as caught:
        read.extend(ask(client, stream=True))
    assert len(read) == 2
    assert (caught.value.type, CANARY in caught.value.message) == ("server_error", True)


# Keys and other requests.


def test_a_key_is_required_and_a_bad_one_is_refused(
    upstream: Upstream, client: openai.OpenAI, wire: httpx2.Client
) -> None:
    upstream.script("ok")
    with pytest.raises(openai.AuthenticationError) as caught:
        ask(client.with_options(api_key="bad-key"))
    assert caught.value.code == "invalid_api_key"
    bare = wire.post(f"{upstream.url}/v1/chat/completions", json={"model": MODEL, "messages": RED})
    assert (bare.status_code, bare.json()["error"]["code"]) == (401, None)
    assert wire.get(f"{upstream.url}/v1/models").status_code == 401
    ask(client, extra_query={"api_key": KEY})
    assert [call.key_in_url for call in upstream.journal] == [False, False, True]


@pytest.mark.parametrize("model", ["gemini-3.1-flash-lite", "claude-haiku-5-5"])
def test_the_models_of_other_providers_are_unknown_here(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError):
        ask(client, model=model)
    assert ask(client, model="llama3:8b").model == "llama3:8b"


def test_gpt_6_takes_a_temperature_only_without_reasoning(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, model="gpt-6-luna", temperature=0.2)
    assert (caught.value.code, caught.value.param) == ("unsupported_value", "temperature")
    ask(client, model="gpt-6-luna", temperature=0.2, reasoning_effort="none")
    ask(client, temperature=0.2)


def test_a_redirect_that_is_followed_stands_in_the_journal(upstream: Upstream, client: openai.OpenAI) -> None:
    upstream.script("redirect", "redirect")
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client)
    assert caught.value.status_code == 307
    with openai.OpenAI(base_url=f"{upstream.url}/v1", api_key=KEY, max_retries=0) as follower:
        assert ask(follower).choices[0].message.content == answer_text(MODEL, "", "red")
    assert [call.method for call in upstream.journal] == ["generate", "generate", "followed"]


def test_the_responses_api_is_not_spoken_here(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(model=MODEL, input="red")
    assert caught.value.code == "unknown_url"
