"""The official OpenAI client and LangChain's, unchanged but for address and key, against a served platform."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

from tests.readers import LONG
from tests.test_serve import Platform, wait_until
from tests.test_v2 import nano, nano_of
from tests.upstream import Fault, Upstream

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
KEY = "not-a-key"
WEATHER: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]


class City(BaseModel):
    """A city."""

    name: str
    inhabitants: int


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, upstream_server: Upstream) -> Iterator[Platform]:
    """One platform for all; its provider is the loopback OpenAI."""
    served = Platform(
        tmp_path_factory.mktemp("platform"),
        OPENAI_API_KEY="any-key",
        OPENAI_BASE_URL=f"{upstream_server.url}/v1",
        RATE_LIMIT="100000 per minute",
        RATE_LIMIT_READS="100000 per minute",
        STREAM_HEARTBEAT_SECONDS="0.05",
        CACHE_TTL_SECONDS="0",
        LLM_MAX_ATTEMPTS="1",
    )
    yield served
    served.close()


@pytest.fixture
def address(platform: Platform, upstream: Upstream) -> str:
    """Of the platform; the upstream behind it is empty of faults and calls."""
    return f"http://127.0.0.1:{platform.port}/api/v2"


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=address, api_key=KEY) as opened:
        yield opened


@pytest.fixture
def hasty(client: openai.OpenAI) -> openai.OpenAI:
    """The same without the client's own retries, which wait."""
    return client.with_options(max_retries=0)


@pytest.fixture
def langchain(address: str) -> ChatOpenAI:
    return ChatOpenAI(base_url=address, api_key=KEY, model="gpt-5.4-nano")


def rows(platform: Platform) -> dict[str, dict[str, Any]]:
    """The ledger's rows by request."""
    _, _, raw = platform.request("GET", "/api/v1/usage/export?format=ndjson&hours=24")
    return {row["request_id"]: row for row in map(json.loads, raw.splitlines())}


# OpenAI's client.


def test_a_chat(client, upstream):
    reply = client.chat.completions.create(model="gpt-5.4-nano", messages=HELLO, temperature=0.2)
    assert reply.choices[0].message.content.startswith("gpt-5.4-nano answers")
    assert reply.choices[0].finish_reason == "stop"
    assert reply._request_id
    assert reply.id == f"chatcmpl-{reply._request_id}"
    (call,) = upstream.journal
    assert (call.prompt, call.body["temperature"]) == ("Hello", 0.2)
    assert nano(reply.usage.cost["total"]) == nano_of([call]) > 0


def test_headers_are_read_from_the_raw_response(client, upstream):
    raw = client.chat.completions.with_raw_response.create(model="default", messages=HELLO, seed=3)
    usage = raw.parse().usage
    assert raw.headers["X-Cost-Total"] == usage.cost["total"]
    assert Decimal(usage.cost["total"]) * 10**9 == nano_of(upstream.journal)
    assert raw.headers["X-Params-Ignored"] == "seed"


def test_a_stream_with_usage(client, upstream):
    chunks = list(
        client.chat.completions.create(
            model="default", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.startswith("gpt-5.4-nano answers")
    assert chunks[-1].choices == []
    (call,) = upstream.journal
    assert call.method == "stream"
    assert chunks[-1].usage.prompt_tokens == call.billed.prompt
    assert nano(chunks[-1].usage.cost["total"]) == nano_of([call]) > 0


def test_the_clients_own_stream_helper_and_parser(client):
    with client.chat.completions.stream(model="default", messages=HELLO) as stream:
        for _ in stream:
            pass
        whole = stream.get_final_completion()
    assert whole.choices[0].message.content.startswith("gpt-5.4-nano answers")
    assert whole.usage.cost["cached"] is False
    parsed = client.chat.completions.parse(model="default", messages=HELLO, response_format=City)
    assert isinstance(parsed.choices[0].message.parsed, City)


def test_models(client):
    names = {model.id: model.owned_by for model in client.models.list()}
    assert names == {"default": "platform", "gpt-5.4-nano": "openai", "text-embedding-3-small": "openai"}
    assert client.models.retrieve("gpt-5.4-nano").owned_by == "openai"


def test_embeddings_in_the_clients_packed_form(client, upstream):
    reply = client.embeddings.create(model="text-embedding-3-small", input=["one", "two"])
    assert [len(entry.embedding) for entry in reply.data] == [1536, 1536]
    (call,) = upstream.journal
    assert reply.usage.prompt_tokens == call.billed.prompt
    assert nano(reply.usage.cost["total"]) == nano_of([call]) > 0


@pytest.mark.parametrize("streamed", [False, True])
def test_tools_are_called_and_their_results_sent_back(client, upstream, streamed):
    if streamed:
        with client.chat.completions.stream(model="default", messages=HELLO, tools=WEATHER) as stream:
            for _ in stream:
                pass
            message = stream.get_final_completion().choices[0].message
    else:
        message = (
            client.chat.completions.create(model="default", messages=HELLO, tools=WEATHER).choices[0].message
        )
    (call,) = message.tool_calls
    assert call.function.name == "weather"
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    sent_back = [*HELLO, message, result]  # as the client's own object, and as plain data below
    assert client.chat.completions.create(model="default", messages=sent_back, tools=WEATHER).choices
    sent_back[1] = {
        "role": "assistant",
        "content": None,
        "tool_calls": [call.model_dump(exclude={"function": {"parsed_arguments"}})],
    }
    reply = client.chat.completions.create(model="default", messages=sent_back, tools=WEATHER)
    assert reply.choices[0].message.content
    assert upstream.journal[-1].body["messages"][-1]["content"] == "rain"


def test_bad_input_is_a_bad_request_error_that_names_the_parameter(client):
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="default", messages=HELLO, n=2)
    assert (raised.value.param, raised.value.code, raised.value.type) == (
        "n",
        "invalid_input",
        "invalid_request_error",
    )
    assert raised.value.request_id
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="claude-haiku-5-5", messages=HELLO)
    assert raised.value.param == "model"


def test_a_model_without_an_address_is_a_not_found_error(client):
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("gpt-9")
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.files.list()


def test_refused_content_is_an_unprocessable_entity_error(client, upstream):
    upstream.script("blocked_answer")
    with pytest.raises(openai.UnprocessableEntityError) as raised:
        client.chat.completions.create(model="default", messages=HELLO)
    assert raised.value.code == "content_blocked"
    assert nano(raised.value.response.headers["X-Cost-Total"]) == nano_of(upstream.journal) > 0


def test_a_limit_is_a_rate_limit_error_with_a_time_to_wait(hasty, upstream):
    upstream.script(Fault("rate_limited", delay="60s"))
    with pytest.raises(openai.RateLimitError) as raised:
        hasty.chat.completions.create(model="default", messages=HELLO)
    assert (raised.value.code, raised.value.type) == ("upstream_rate_limited", "rate_limit_error")
    assert int(raised.value.response.headers["Retry-After"]) >= 1


@pytest.mark.parametrize(
    ("fault", "status"), [("internal", 502), ("garbage", 502), ("no_credit", 503), ("empty", 502)]
)
def test_a_failing_provider_is_an_internal_server_error(hasty, upstream, fault, status):
    upstream.script(fault)
    with pytest.raises(openai.InternalServerError) as raised:
        hasty.chat.completions.create(model="default", messages=HELLO)
    assert (raised.value.status_code, raised.value.type) == (status, "server_error")


def test_an_error_in_mid_stream_is_an_api_error_after_what_came(hasty, upstream):
    upstream.script(Fault("stream_error", after=2))
    stream = iter(hasty.chat.completions.create(model="default", messages=HELLO, stream=True))
    texts = [next(stream).choices[0].delta.content for _ in range(3)]
    with pytest.raises(openai.APIError) as raised:
        list(stream)
    assert "".join(texts)
    assert raised.value.body["type"] == "server_error"
    assert not isinstance(raised.value, openai.APIStatusError)


def test_a_client_that_leaves_a_stream_is_billed_and_leaves_nothing_behind(client, upstream, platform):
    upstream.script(Fault("ok", pause=1.5))
    with client.chat.completions.create(model="default", messages=HELLO, stream=True) as stream:
        request_id = stream.response.headers["X-Request-ID"]
        next(iter(stream))
    assert upstream.wait_idle(LONG)
    assert wait_until(lambda: rows(platform).get(request_id, {}).get("status") == 499)
    row = rows(platform)[request_id]
    assert row["cost_nanodollars"] > 0
    assert client.chat.completions.create(model="default", messages=HELLO).choices


# LangChain's.


def test_langchain_invokes(langchain, upstream):
    answer = langchain.invoke([SystemMessage("Be brief."), HumanMessage("Hello")])
    (call,) = upstream.journal
    assert (call.system, call.prompt) == ("Be brief.", "Hello")
    assert answer.content.startswith("gpt-5.4-nano answers")
    assert answer.usage_metadata["input_tokens"] == call.billed.prompt
    assert nano(answer.response_metadata["token_usage"]["cost"]["total"]) == nano_of([call])
    assert answer.response_metadata["finish_reason"] == "stop"


@pytest.mark.parametrize("apart", [False, True])
def test_langchain_streams_with_usage(address, upstream, apart):
    model = ChatOpenAI(base_url=address, api_key=KEY, model="default", stream_usage=apart)
    chunks = list(model.stream("Hello"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    (call,) = upstream.journal
    assert len(chunks) > 3
    assert whole.content.startswith("gpt-5.4-nano answers")
    assert whole.usage_metadata["input_tokens"] == call.billed.prompt
    assert whole.usage_metadata["output_tokens"] == call.billed.candidates + call.billed.thoughts


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_langchain_gets_structured_output(langchain, method):
    if method == "json_mode":
        assert isinstance(langchain.with_structured_output(method=method).invoke("A city in JSON."), dict)
    else:
        city = langchain.with_structured_output(City, method=method).invoke("A city.")
        assert isinstance(city, City)


def test_langchain_calls_tools_and_sends_their_results_back(langchain, upstream):
    able = langchain.bind_tools([weather])
    asked = able.invoke("How is the weather?")
    (call,) = asked.tool_calls
    assert call["name"] == "weather"
    told = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
    answer = able.invoke(
        [HumanMessage("How is the weather?"), AIMessage(asked.content, tool_calls=asked.tool_calls), told]
    )
    assert answer.content
    assert upstream.journal[-1].body["messages"][-1]["content"].startswith("rain in ")
    streamed = list(able.stream("How is the weather?"))
    assert [chunk for chunk in streamed if chunk.tool_call_chunks]


def test_langchain_embeds(address, upstream):
    model = OpenAIEmbeddings(
        base_url=address, api_key=KEY, model="text-embedding-3-small", check_embedding_ctx_length=False
    )
    vectors = model.embed_documents(["one", "two"])
    assert [len(vector) for vector in vectors] == [1536, 1536]
    assert vectors[0] == model.embed_query("one")


def test_the_reply_the_ledger_and_the_journal_name_one_cost(client, platform, upstream):
    reply = client.chat.completions.create(
        model="default", messages=[{"role": "user", "content": "The last one"}]
    )
    row = rows(platform)[reply._request_id]
    assert row["cost_nanodollars"] == nano_of(upstream.journal) == nano(reply.usage.cost["total"])
