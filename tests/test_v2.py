"""Version 2 as curl sees it: OpenAI's wire format, the same road, the same bill."""

from __future__ import annotations

import base64
import json
import struct
from decimal import Decimal
from typing import Any

import pytest

from tests.test_chat_asks import ASKED, CHAT, EMBED, HELLO, TOLD, TOOLS, assert_refused, body
from tests.test_pipeline import records
from tests.upstream import Call, Fault

MODELS = "/api/v2/models"
# Nano-dollars per token: fresh input, cached input, output with thoughts. As the makers' price lists have them.
PRICES = {
    "gpt-5.4-nano": (200, 20, 1250),
    "text-embedding-3-small": (20, 20, 0),
    "gemini-3.1-flash-lite": (250, 25, 1500),
    "claude-haiku-5-5": (100, 10, 500),
}
SYSTEM = {"role": "system", "content": "Be brief."}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture
def openai_house(make_house, upstream):
    """A platform whose one provider is the loopback OpenAI."""
    return make_house(
        google_api_key="",
        gemini_base_url="",
        openai_api_key="any-key",
        openai_base_url=f"{upstream.url}/v1",
    )


@pytest.fixture
def sandbox(make_house):
    return make_house(google_api_key="", gemini_base_url="")


def ask(house, path: str = CHAT, headers: Any = None, **fields: Any) -> Any:
    return house.client.post(path, json=body(**fields) if path == CHAT else fields, headers=headers)


def events(response) -> list[dict[str, Any]]:
    """The data of a stream's events, which ends with [DONE]."""
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    *told, last, rest = response.text.split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    return [json.loads(one.removeprefix("data: ")) for one in told if not one.startswith(":")]


def text_of(chunks: list[dict[str, Any]]) -> str:
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


def nano_of(calls: list[Call]) -> int:
    """What the provider charges for these calls."""
    total = 0
    for call in calls:
        fresh, cached, output = PRICES[call.model]
        tokens = call.billed
        total += (tokens.prompt - tokens.cached) * fresh + tokens.cached * cached
        total += (tokens.candidates + tokens.thoughts) * output
    return total


def nano(dollars: str) -> int:
    return int(Decimal(dollars) * 10**9)


def assert_bill(house, upstream, usage: dict[str, Any], headers: Any = None) -> None:
    """The body's bill is that of the ledger's last row, of the headers where there are some, and of the journal."""
    cost, row = usage["cost"], records(house)[-1]
    assert nano(cost["input"]) + nano(cost["output"]) == nano(cost["total"]) == row["cost_nanodollars"]
    assert nano(cost["overall"]) == nano_of(upstream.journal)
    assert nano(cost["saved"]) == row["saved_nanodollars"]
    if headers is not None:
        for name in ("input", "output", "total", "overall", "saved"):
            assert headers[f"X-Cost-{name.title()}"] == cost[name]
        assert headers["X-Tokens-Input"] == str(usage["prompt_tokens"])
        assert headers["X-Cached"] == str(cost["cached"]).lower()


# A whole answer.


def test_a_completion_has_openais_form_and_its_bill_in_body_and_headers(openai_house, upstream):
    response = ask(openai_house, messages=[SYSTEM, HELLO])
    assert response.status_code == 200, response.text
    reply = response.get_json()
    assert reply["id"] == f"chatcmpl-{response.headers['X-Request-ID']}"
    assert (reply["object"], reply["model"]) == ("chat.completion", "gpt-5.4-nano")
    assert isinstance(reply["created"], int)
    (choice,) = reply["choices"]
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "stop", None)
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"].startswith("gpt-5.4-nano answers")
    assert choice["message"]["refusal"] is None
    assert "tool_calls" not in choice["message"]
    (call,) = upstream.journal
    assert (call.prompt, call.system) == ("Hello", "Be brief.")
    usage = reply["usage"]
    assert usage["prompt_tokens"] == call.billed.prompt
    assert usage["completion_tokens"] == call.billed.candidates + call.billed.thoughts
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": call.billed.cached}
    assert usage["completion_tokens_details"] == {"reasoning_tokens": call.billed.thoughts}
    assert nano(usage["cost"]["total"]) > 0
    assert_bill(openai_house, upstream, usage, response.headers)


def test_cached_and_thought_tokens_are_told_as_openai_tells_them(openai_house, upstream):
    for number in range(40):  # the loopback's prompts differ in what is cached and thought
        ask(openai_house, messages=[{"role": "user", "content": f"Prompt {number}"}])
    assert any(call.billed.cached for call in upstream.journal)
    assert any(call.billed.thoughts for call in upstream.journal)
    usage = ask(openai_house, messages=[HELLO]).get_json()["usage"]
    assert_bill(openai_house, upstream, usage)


def test_the_same_conversation_again_is_a_hit_that_costs_nothing(openai_house, upstream):
    first, second = (ask(openai_house, messages=[SYSTEM, HELLO]) for _ in range(2))
    assert (first.headers["X-Cache-Status"], second.headers["X-Cache-Status"]) == ("miss", "hit")
    assert len(upstream.journal) == 1
    paid, saved = first.get_json()["usage"], second.get_json()["usage"]
    assert saved["cost"] | {"overall": "", "saved": ""} == {
        "input": "0.000000000", "output": "0.000000000", "total": "0.000000000", "overall": "", "saved": "",
        "cached": True,
    }  # fmt: skip
    assert saved["cost"]["saved"] == paid["cost"]["total"]
    assert saved["prompt_tokens"] == paid["prompt_tokens"]
    assert first.get_json()["choices"] == second.get_json()["choices"]
    assert first.get_json()["id"] != second.get_json()["id"]
    assert_bill(openai_house, upstream, saved, second.headers)


@pytest.mark.parametrize(
    "other",
    [
        {"messages": [HELLO]},
        {"messages": [SYSTEM, HELLO, {"role": "assistant", "content": "Hi"}, HELLO]},
        {"messages": [SYSTEM, HELLO], "temperature": 0.1},
        {"messages": [SYSTEM, HELLO], "stop": "x"},
        {"messages": [SYSTEM, HELLO], "max_tokens": 50},
        {"messages": [SYSTEM, HELLO], "model": "gpt-5.4-mini"},
        {"messages": [SYSTEM, HELLO], "response_format": {"type": "json_object"}},
        {"messages": [SYSTEM, HELLO], "tools": TOOLS},
    ],
)
def test_an_answer_is_served_again_for_the_very_same_conversation_only(openai_house, other):
    ask(openai_house, messages=[SYSTEM, HELLO])
    assert ask(openai_house, **other).headers["X-Cache-Status"] == "miss"


def test_cache_control_holds_for_version_2_too(openai_house, upstream):
    ask(openai_house)
    assert ask(openai_house, headers={"Cache-Control": "no-cache"}).headers["X-Cache-Status"] == "bypass"
    assert len(upstream.journal) == 2


def test_versions_and_tasks_do_not_share_answers(openai_house, upstream):
    openai_house.post("text", {"prompt": "Hello"})
    assert ask(openai_house).headers["X-Cache-Status"] == "miss"


def test_an_answer_cut_by_the_limit_says_so_and_is_not_kept(openai_house, upstream):
    for _ in range(2):
        reply = ask(openai_house, max_completion_tokens=3, max_tokens=4000)
        assert reply.get_json()["choices"][0]["finish_reason"] == "length"
        assert reply.headers["X-Cache-Status"] == "miss"
    assert [call.body["max_completion_tokens"] for call in upstream.journal] == [3, 3]


def test_a_conversation_reaches_the_provider_as_it_was_sent(openai_house, upstream):
    developer = {
        "role": "developer",
        "content": [{"type": "text", "text": "In"}, {"type": "text", "text": "rhyme."}],
    }
    turns = [SYSTEM, developer, HELLO, ASKED, TOLD, {"role": "user", "content": "Thanks"}]
    response = ask(
        openai_house, messages=turns, tools=TOOLS, tool_choice="none", temperature=0.3, stop=["\n\n", "END"]
    )
    assert response.status_code == 200, response.text
    (call,) = upstream.journal
    assert call.system == "Be brief.\n\nIn\nrhyme."
    assert [turn["role"] for turn in call.body["messages"]][1:] == ["user", "assistant", "tool", "user"]
    assert call.body["messages"][2]["tool_calls"] == ASKED["tool_calls"]
    assert call.body["messages"][3]["tool_call_id"] == "call_1"
    assert call.body["temperature"] == 0.3
    assert call.body["stop"] == ["\n\n", "END"]
    assert call.body["tools"] == TOOLS
    assert call.body["tool_choice"] == "none"


def test_no_temperature_is_sent_where_none_was(openai_house, upstream):
    response = ask(openai_house)
    assert "temperature" not in upstream.journal[0].body
    assert "X-Params-Ignored" not in response.headers


@pytest.mark.parametrize("named", ["gpt-5.4-nano", "openai/gpt-5.4-nano", "default", None])
def test_a_model_may_be_named_alone_or_after_its_provider_or_left_to_the_platform(openai_house, named):
    response = ask(openai_house, model=named)
    assert (response.status_code, response.get_json()["model"]) == (200, "gpt-5.4-nano")


def test_json_is_answered_where_it_is_asked_for(openai_house, upstream):
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}
    content = ask(openai_house, response_format=wanted).get_json()["choices"][0]["message"]["content"]
    assert set(json.loads(content)) == {"city"}
    sent = upstream.journal[0].body["response_format"]["json_schema"]
    assert (sent["name"], sent["schema"]) == ("place", SCHEMA)
    content = ask(openai_house, response_format={"type": "json_object"}).get_json()["choices"][0]["message"]
    assert isinstance(json.loads(content["content"]), dict)


# Tools.


def test_a_tools_call_is_an_answer_and_is_kept_like_one(openai_house, upstream):
    for status in ("miss", "hit"):
        response = ask(openai_house, tools=TOOLS)
        assert response.headers["X-Cache-Status"] == status
        choice = response.get_json()["choices"][0]
        assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
        (call,) = choice["message"]["tool_calls"]
        assert call["type"] == "function"
        assert call["function"]["name"] == "weather"
        assert isinstance(json.loads(call["function"]["arguments"]), dict)
        assert call["id"]
    assert len(upstream.journal) == 1


def test_a_tools_call_streams_as_one_whole_delta(openai_house, upstream):
    for _ in range(2):  # as it comes, then from the cache
        chunks = events(ask(openai_house, tools=TOOLS, stream=True))
        calls = [
            c["choices"][0]["delta"]["tool_calls"] for c in chunks if "tool_calls" in c["choices"][0]["delta"]
        ]
        ((call,),) = calls
        assert (call["index"], call["function"]["name"]) == (0, "weather")
        assert isinstance(json.loads(call["function"]["arguments"]), dict)
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert len(upstream.journal) == 1


@pytest.mark.parametrize("streamed", [False, True])
def test_calls_that_a_server_wrote_badly_can_still_be_answered(openai_house, upstream, streamed):
    """No ids, one id twice, halves of characters: servers of one's own do that."""
    function = {"name": "weather", "arguments": '{"city": "\ud83d"}'}
    for ids in (("", ""), ("a", "a"), ("a\ud800", "b"), (None, "c")):
        calls = [
            {"index": n, "id": name, "type": "function", "function": function} for n, name in enumerate(ids)
        ]
        upstream.script(Fault("wrong_schema", text=reply_with(calls, streamed)))
        said = [{"role": "user", "content": repr(ids)}]
        response = ask(openai_house, messages=said, tools=TOOLS, stream=streamed)
        told = called(response, streamed)
        assert len({call["id"] for call in told}) == 2
        results = [{"role": "tool", "tool_call_id": call["id"], "content": "x"} for call in told]
        again = [*said, {"role": "assistant", "content": None, "tool_calls": told}, *results]
        assert ask(openai_house, messages=again, tools=TOOLS).status_code == 200


def reply_with(calls: list[dict[str, Any]], streamed: bool) -> str:
    said = {"role": "assistant", "content": None, "tool_calls": calls}
    choice = {"index": 0, "finish_reason": "tool_calls", "delta" if streamed else "message": said}
    kind = "chat.completion.chunk" if streamed else "chat.completion"
    reply = json.dumps(
        {"id": "x", "object": kind, "model": "gpt-5.4-nano", "created": 1, "choices": [choice]}
    )
    return f"data: {reply}\n\ndata: [DONE]\n\n" if streamed else reply


def called(response, streamed: bool) -> list[dict[str, Any]]:
    if not streamed:
        return response.get_json()["choices"][0]["message"]["tool_calls"]
    deltas = [chunk["choices"][0]["delta"] for chunk in events(response)]
    return [call for delta in deltas for call in delta.get("tool_calls", ())]


def test_tools_are_refused_by_name_where_no_provider_has_them(sandbox, make_house):
    response = ask(sandbox, tools=TOOLS)
    if response.status_code != 200:  # the sandbox may learn to call tools
        assert_refused(response, 400, "invalid_input", "tools")


# Streams.


def test_chunks_join_to_the_whole_answer_and_the_last_one_has_the_bill(openai_house, upstream):
    chunks = events(ask(openai_house, stream=True))
    whole = ask(openai_house)
    assert whole.headers["X-Cache-Status"] == "hit"
    assert text_of(chunks) == whole.get_json()["choices"][0]["message"]["content"]
    assert len(chunks) > 3
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    first, last = chunks[0], chunks[-1]
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "stop")
    assert not [chunk for chunk in chunks[:-1] if "usage" in chunk]
    assert last["usage"]["cost"]["cached"] is False
    assert nano(last["usage"]["cost"]["total"]) == nano_of(upstream.journal) > 0


def test_usage_comes_in_a_chunk_of_its_own_where_that_is_asked_for(openai_house, upstream):
    chunks = events(ask(openai_house, stream=True, stream_options={"include_usage": True}))
    *others, last = chunks
    assert last["choices"] == []
    assert {json.dumps(chunk["usage"]) for chunk in others} == {"null"}
    assert others[-1]["choices"][0]["finish_reason"] == "stop"
    assert_bill(openai_house, upstream, last["usage"])


def test_a_streams_head_says_what_is_known_by_then(openai_house):
    headers = ask(openai_house, stream=True, seed=5).headers
    told = {name: headers[name] for name in ("X-Provider", "X-Model", "X-Cache-Status", "X-Params-Ignored")}
    assert told == {
        "X-Provider": "openai", "X-Model": "gpt-5.4-nano", "X-Cache-Status": "miss", "X-Params-Ignored": "seed",
    }  # fmt: skip
    assert headers["X-Accel-Buffering"] == "no"
    assert headers["X-Request-ID"]


@pytest.mark.parametrize("streamed", [False, True])
def test_what_the_model_and_what_no_provider_takes_is_named_with_an_answer_and_with_its_hits(
    openai_house, streamed
):
    for status in ("miss", "hit"):
        response = ask(openai_house, model="gpt-6-luna", temperature=0.3, seed=5, stream=streamed)
        assert response.status_code == 200
        assert response.headers["X-Cache-Status"] == status
        assert response.headers["X-Params-Ignored"] == "temperature, seed"
        assert response.text  # a stream's answer is kept once it was read


def test_a_cached_answer_streams_too_and_costs_nothing(openai_house, upstream):
    whole = ask(openai_house).get_json()
    response = ask(openai_house, stream=True)
    chunks = events(response)
    assert (response.headers["X-Cache-Status"], len(upstream.journal)) == ("hit", 1)
    assert text_of(chunks) == whole["choices"][0]["message"]["content"]
    assert chunks[-1]["usage"]["cost"]["cached"] is True
    assert chunks[-1]["usage"]["cost"]["saved"] == whole["usage"]["cost"]["total"]


def test_a_stream_that_fails_before_its_first_piece_is_a_plain_error(openai_house, upstream):
    upstream.script("blocked_answer")
    response = ask(openai_house, stream=True)
    assert response.status_code == 422
    assert response.get_json()["error"]["code"] == "content_blocked"


@pytest.mark.parametrize("fault", ["stream_error", "stream_garbage", "reset_body"])
def test_a_stream_that_breaks_ends_with_an_error_and_the_bill_of_what_came(openai_house, upstream, fault):
    upstream.script(Fault(fault, after=2))
    response = ask(openai_house, stream=True)
    assert response.status_code == 200
    *pieces, last, rest = response.text.split("\n\n")
    assert rest == ""
    assert text_of([json.loads(piece.removeprefix("data: ")) for piece in pieces])
    told = json.loads(last.removeprefix("data: "))
    assert set(told) == {"error", "usage"}
    assert set(told["error"]) == {"message", "type", "param", "code"}
    assert told["error"]["type"] == "server_error"
    (row,) = records(openai_house)
    assert row["cost_nanodollars"] == nano(told["usage"]["cost"]["total"]) > 0
    assert len(upstream.journal) == 1
    assert ask(openai_house).headers["X-Cache-Status"] == "miss"


def bill_told(response) -> int:
    """What a reply says that it cost, in its headers or in its last event."""
    if "X-Cost-Total" in response.headers:
        return nano(response.headers["X-Cost-Total"])
    told = [
        json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n") if "usage" in line
    ]
    return nano(told[-1]["usage"]["cost"]["total"]) if told else 0


def test_bodies_headers_ledger_and_journal_agree_to_the_nano_dollar(openai_house, upstream):
    faults = ("ok", "ok", "blocked_answer", "ok", "empty", "bad_request", "max_tokens", "no_credit")
    responses = []
    for number in range(64):
        upstream.script(Fault(faults[number % len(faults)]))
        fields = {"tools": TOOLS} if number % 3 == 0 else {"response_format": {"type": "json_object"}}
        said = [{"role": "user", "content": f"Number {number}"}]
        responses += [ask(openai_house, messages=said, stream=number % 2 == 0, **fields) for _ in range(2)]
    assert {200, 400, 422, 502, 503} == {response.status_code for response in responses}
    rows = {row["request_id"]: row["cost_nanodollars"] for row in records(openai_house)}
    told = {response.headers["X-Request-ID"]: bill_told(response) for response in responses}
    assert told == rows
    assert sum(rows.values()) == nano_of([call for call in upstream.journal if call.billed is not None]) > 0
    assert openai_house.services.tracker.overall_nano == sum(rows.values())


# Embeddings.


def vectors_of(response) -> list[list[float]]:
    data = response.get_json()["data"]
    assert [entry["index"] for entry in data] == list(range(len(data)))
    assert {entry["object"] for entry in data} == {"embedding"}
    return [
        list(struct.unpack(f"<{len(raw) // 4}f", raw))
        if isinstance(entry["embedding"], str) and (raw := base64.b64decode(entry["embedding"])) is not None
        else entry["embedding"]
        for entry in data
    ]


def test_texts_become_vectors_in_their_order_and_cost_what_the_provider_charges(openai_house, upstream):
    model = "text-embedding-3-small"
    response = ask(openai_house, EMBED, model=model, input=["one", "two", "one"])
    assert response.status_code == 200, response.text
    one, two, again = vectors_of(response)
    assert one == again != two
    assert len(one) == 1536
    assert sum(part * part for part in one) == pytest.approx(1, abs=1e-3)
    reply = response.get_json()
    assert (reply["object"], reply["model"]) == ("list", model)
    (call,) = upstream.journal
    assert reply["usage"]["prompt_tokens"] == reply["usage"]["total_tokens"] == call.billed.prompt
    assert nano(reply["usage"]["cost"]["total"]) > 0
    assert_bill(openai_house, upstream, reply["usage"], response.headers)


def test_vectors_come_as_numbers_or_packed_and_both_are_one_answer(openai_house, upstream):
    model = "text-embedding-3-small"
    packed = ask(openai_house, EMBED, model=model, input="one", encoding_format="base64")
    numbers = ask(openai_house, EMBED, model=model, input="one", encoding_format="float")
    assert isinstance(packed.get_json()["data"][0]["embedding"], str)
    assert vectors_of(packed) == vectors_of(numbers)
    assert (numbers.headers["X-Cache-Status"], len(upstream.journal)) == ("hit", 1)


def test_embeddings_are_refused_by_name_where_no_provider_has_them(make_house):
    house = make_house(google_api_key="", gemini_base_url="", anthropic_api_key="any-key")
    assert_refused(ask(house, EMBED, model="default", input="one"), 400, "invalid_input", "model")


# Models.


def test_the_models_are_those_that_are_configured_and_each_may_be_asked(openai_house):
    listed = openai_house.client.get(MODELS).get_json()
    assert listed["object"] == "list"
    cards = {card["id"]: card for card in listed["data"]}
    assert cards["default"]["owned_by"] == "platform"
    assert cards["gpt-5.4-nano"]["owned_by"] == "openai"
    for name, card in cards.items():
        assert (card["object"], card["created"]) == ("model", 0)
        assert openai_house.client.get(f"{MODELS}/{name}").get_json() == card


def test_every_provider_of_the_chain_is_in_the_list(make_house):
    house = make_house(openai_api_key="any-key", anthropic_api_key="any-key")
    owners = {card["owned_by"] for card in house.client.get(MODELS).get_json()["data"]}
    assert owners == {"platform", "gemini", "openai", "anthropic"}
    assert house.client.get(f"{MODELS}/anthropic/claude-haiku-5-5").get_json()["id"] == "claude-haiku-5-5"


def test_a_model_that_is_not_configured_has_no_address(sandbox):
    for name in ("gpt-9", "sandbox/other", "openai/sandbox-1", "a/b/c"):
        assert_refused(
            sandbox.client.get(f"{MODELS}/{name}"), 404, "model_not_found", "model", "not_found_error"
        )


# Whoever answers.


@pytest.fixture
def all_house(make_house, upstream):
    """A platform with every provider, each of them the loopback's."""
    return make_house(
        openai_api_key="any-key",
        openai_base_url=f"{upstream.url}/v1",
        anthropic_api_key="any-key",
        anthropic_base_url=upstream.url,
    )


@pytest.mark.parametrize("model", ["gpt-5.4-nano", "claude-haiku-5-5", "gemini-3.1-flash-lite"])
def test_every_provider_is_spoken_to_in_the_same_words(all_house, upstream, model):
    said = [SYSTEM, HELLO, ASKED, TOLD, {"role": "user", "content": "And tomorrow?"}]
    whole = ask(all_house, model=model, messages=said, tools=TOOLS, tool_choice="none").get_json()
    assert whole["model"] == model
    assert whole["choices"][0]["finish_reason"] == "stop"
    assert_bill(all_house, upstream, whole["usage"])
    chunks = events(ask(all_house, model=model, messages=said[:2], stream=True))
    assert text_of(chunks).startswith(f"{model} answers")
    assert_bill(all_house, upstream, chunks[-1]["usage"])
    called = ask(all_house, model=model, tools=TOOLS, tool_choice="required").get_json()
    (call,) = called["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert_bill(all_house, upstream, called["usage"])
    assert {call.provider for call in upstream.journal} == {provider_of(model)}
    assert len(upstream.journal) == 3


def provider_of(model: str) -> str:
    return {"gpt": "openai", "cla": "anthropic", "gem": "gemini"}[model[:3]]


@pytest.mark.parametrize("streamed", [False, True])
def test_the_platforms_own_choice_goes_on_to_the_next_provider(all_house, upstream, streamed):
    upstream.script(Fault("forbidden", provider="gemini"))
    response = ask(all_house, stream=streamed)
    assert response.status_code == 200, response.text
    assert (response.headers["X-Provider"], response.headers["X-Upstream-Attempts"]) == ("openai", "2")


# Errors.


@pytest.mark.parametrize(
    ("fault", "status", "code", "kind"),
    [
        ("blocked_answer", 422, "content_blocked", "invalid_request_error"),
        ("rate_limited", 429, "upstream_rate_limited", "rate_limit_error"),
        ("no_credit", 503, "upstream_quota_exhausted", "server_error"),
        ("bad_request", 400, "invalid_input", "invalid_request_error"),
        ("bad_key", 502, "upstream_error", "server_error"),
        ("empty", 502, "upstream_empty", "server_error"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_each_failure_keeps_its_status_and_code_and_speaks_as_openai_does(
    openai_house, upstream, fault, status, code, kind, streamed
):
    upstream.script(*[Fault(fault, delay="60s")] * 5)
    response = ask(openai_house, stream=streamed)
    assert response.status_code == status, response.text
    error = response.get_json()["error"]
    assert (error["code"], error["type"], error["param"]) == (code, kind, None)
    assert ("Retry-After" in response.headers) == (status in (429, 503))
    (row,) = records(openai_house)
    assert (row["status"], row["request_id"]) == (status, response.headers["X-Request-ID"])
    if "X-Cost-Total" in response.headers:
        assert nano(response.headers["X-Cost-Total"]) == row["cost_nanodollars"] == nano_of(upstream.journal)
    else:
        assert row["cost_nanodollars"] == 0


def test_what_flask_refuses_under_version_2_has_openais_shape_too(sandbox):
    client = sandbox.client
    assert_refused(client.get("/api/v2/nowhere"), 404, "not_found", kind="not_found_error")
    assert_refused(client.get("/api/v2/"), 404, "not_found", kind="not_found_error")
    refused = client.get(CHAT)
    assert_refused(refused, 405, "method_not_allowed")
    assert "POST" in refused.headers["Allow"]
    assert_refused(client.post(CHAT, data="x"), 415, "unsupported_media_type")
    big = client.post(CHAT, data=b"x" * (1024 * 1024 + 1), content_type="application/json")
    assert_refused(big, 413, "too_large")
    strange = client.get(MODELS, headers={"Host": "evil.example"})
    assert_refused(strange, 400, "unknown_host")


def test_our_own_bug_is_a_500_in_openais_shape_that_says_nothing(make_house):
    house = make_house(google_api_key="", gemini_base_url="")
    house.app.testing = False
    house.app.view_functions["api_v2.models_models"] = lambda: 1 / 0
    error = assert_refused(house.client.get("/api/v2/models"), 500, "internal_error", kind="server_error")
    assert "division" not in error["message"]


def test_version_1_keeps_its_own_shape(sandbox):
    for path in ("/api/v1/nowhere", "/api/v22", "/api/v3/chat"):
        assert set(sandbox.client.get(path).get_json()) == {"error", "code", "request_id"}


# Limits, documents, records.


def test_the_routes_of_version_2_are_limited_each_for_itself(make_house):
    house = make_house(google_api_key="", gemini_base_url="", rate_limit="2 per minute")
    for _ in range(2):
        response = ask(house)
        assert response.status_code == 200
    assert response.headers["RateLimit-Remaining"] == "0"
    response = ask(house)
    assert_refused(response, 429, "rate_limited", kind="rate_limit_error")
    assert 1 <= int(response.headers["Retry-After"]) <= 60
    assert ask(house, EMBED, model="default", input="x").status_code != 429
    assert house.post("text", {"prompt": "x"}).status_code == 200
    assert house.client.get(MODELS).status_code == 200


def test_a_row_says_which_task_and_route_it_was(openai_house):
    ask(openai_house)
    (row,) = records(openai_house)
    assert (row["task"], row["endpoint"], row["status"]) == ("chat", CHAT, 200)


def test_swagger_shows_version_2_without_an_outside_host(sandbox):
    page = sandbox.client.get("/api/v2/swagger/")
    assert page.status_code == 200
    assert "/api/v2/swagger.json" in page.text
    assert "unsafe-inline" in page.headers["Content-Security-Policy"].split("script-src")[1].split(";")[0]
    assert sandbox.client.get("/api/v2/swagger").status_code == 200
    document = sandbox.client.get("/api/v2/swagger.json").get_json()
    assert document["basePath"] == "/api/v2"
    assert set(document["paths"]) == {"/chat/completions", "/embeddings", "/models", "/models/{model}"}
    assert {"error"} == set(document["definitions"]["OpenAIFailure"]["properties"])


def test_swaggers_own_example_is_accepted(sandbox):
    document = sandbox.client.get("/api/v2/swagger.json").get_json()
    example = document["definitions"]["Chat"]["example"]
    assert sandbox.client.post(CHAT, json=example).status_code == 200
