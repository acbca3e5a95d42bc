"""Whatever is sent to version 2: an answer, or a refusal in OpenAI's shape that names the parameter and costs nothing."""

# Above 300 lines, because the lists of bad bodies are long, and splitting them would hide what is missing.

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from api.chat_tools import read_tools
from api.schema_size import unfolded_size
from errors import InvalidInput

CHAT, EMBED = "/api/v2/chat/completions", "/api/v2/embeddings"
JSON = "application/json"
HELLO = {"role": "user", "content": "Hello"}
FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": FUNCTION}]
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
ASKED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
TOLD = {"role": "tool", "tool_call_id": "call_1", "content": "rain"}


@pytest.fixture
def sandbox(make_house):
    return make_house(google_api_key="", gemini_base_url="")


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "default", "messages": [HELLO], **fields}


def assert_refused(response, status: int, code: str, param: str | None = None, kind: str = "") -> dict:
    """OpenAI's shape: a sentence, the kind of error, the parameter, a stable word; the id stands in the header."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    reply = response.get_json()
    assert set(reply) == {"error"}
    assert set(reply["error"]) == {"message", "type", "param", "code"}
    assert (reply["error"]["code"], reply["error"]["param"]) == (code, param), reply
    assert reply["error"]["type"] == (kind or "invalid_request_error")
    assert reply["error"]["message"].endswith(".")
    assert response.headers["X-Request-ID"]
    assert not [name for name, _ in response.headers if name.startswith("X-Cost")]
    return reply["error"]


def deep(levels: int) -> Any:
    return json.loads('{"a": ' * levels + "1" + "}" * levels)


BAD_MESSAGES: dict[str, tuple[Any, str]] = {
    "missing": (None, "messages"),
    "no list": ("Hello", "messages"),
    "none": ([], "messages"),
    "too many": ([HELLO] * 2049, "messages"),
    "a string among them": ([HELLO, "Hello"], "messages[1]"),
    "no role": ([{"content": "x"}], "messages[0].role"),
    "a strange role": ([{"role": "wizard", "content": "x"}], "messages[0].role"),
    "a role that is a list": ([{"role": ["user"], "content": "x"}], "messages[0].role"),
    "OpenAI's old role": ([HELLO, {"role": "function", "content": "x", "name": "f"}], "messages[1].role"),
    "a strange field": ([HELLO | {"colour": "red"}], "messages[0].colour"),
    "a user's tool calls": ([HELLO | {"tool_calls": [CALL]}], "messages[0].tool_calls"),
    "a name that is a number": ([HELLO | {"name": 5}], "messages[0].name"),
    "no content": ([{"role": "user"}], "messages[0].content"),
    "content that is a number": ([{"role": "user", "content": 5}], "messages[0].content"),
    "content that is an object": ([{"role": "user", "content": {"text": "x"}}], "messages[0].content"),
    "blank content": ([{"role": "user", "content": " \n"}], "messages[0].content"),
    "NUL": ([{"role": "user", "content": "a\0b"}], "messages[0].content"),
    "half a character": ([{"role": "user", "content": "a\ud800"}], "messages[0].content"),
    "half a character of the system": (
        [{"role": "system", "content": "\udc00"}, HELLO],
        "messages[0].content",
    ),
    "no parts": ([{"role": "user", "content": []}], "messages[0].content"),
    "a part that is a string": ([{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
    "a part without type": ([{"role": "user", "content": [{"text": "x"}]}], "messages[0].content[0].type"),
    "a part without text": (
        [{"role": "user", "content": [{"type": "text"}]}],
        "messages[0].content[0].text",
    ),
    "blank parts": (
        [{"role": "user", "content": [{"type": "text", "text": " "}]}],
        "messages[0].content",
    ),
    "an image": (
        [HELLO, HELLO, {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        "messages[2].content[0]",
    ),
    "a sound": (
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": "x"}, {"type": "input_audio", "input_audio": {}}],
            }
        ],
        "messages[0].content[1]",
    ),
    "instructions alone": ([{"role": "system", "content": "Be brief."}], "messages"),
    "an assistant's sound": (
        [HELLO, {"role": "assistant", "content": "x", "audio": {"id": "a"}}],
        "messages[1].audio",
    ),
    "an assistant's old call": (
        [HELLO, {"role": "assistant", "content": "x", "function_call": {"name": "f"}}],
        "messages[1].function_call",
    ),
    "calls that are none": (
        [HELLO, {"role": "assistant", "content": "x", "tool_calls": []}],
        "messages[1].tool_calls",
    ),
    "a call without id": (
        [HELLO, ASKED | {"tool_calls": [{**CALL, "id": None}]}],
        "messages[1].tool_calls[0].id",
    ),
    "one id twice": ([HELLO, ASKED | {"tool_calls": [CALL, CALL]}], "messages[1].tool_calls"),
    "a call of another type": (
        [HELLO, ASKED | {"tool_calls": [CALL | {"type": "custom"}]}],
        "messages[1].tool_calls[0].type",
    ),
    "a call with a strange name": (
        [HELLO, ASKED | {"tool_calls": [CALL | {"function": {"name": "a b", "arguments": "{}"}}]}],
        "messages[1].tool_calls[0].function.name",
    ),
    **{
        f"arguments like {written!r:.30}": (
            [HELLO, ASKED | {"tool_calls": [CALL | {"function": {"name": "f", "arguments": written}}]}],
            "messages[1].tool_calls[0].function.arguments",
        )
        for written in (None, {}, "\0", "\ud800", '{"a": "\\u0000"}', '{"a": "\\ud800"}', '{"a": 1e999}', json.dumps(deep(40)))
    },
    "a call without an answer": ([HELLO, ASKED], "messages[1]"),
    "a call answered too late": ([HELLO, ASKED, HELLO, TOLD], "messages[2]"),
    "one answer of two": (
        [HELLO, ASKED | {"tool_calls": [CALL, CALL | {"id": "call_2"}]}, TOLD],
        "messages[2]",
    ),
    "an answer to nothing": ([HELLO, TOLD], "messages[1].tool_call_id"),
    "an answer given twice": ([HELLO, ASKED, TOLD, TOLD], "messages[3].tool_call_id"),
    "an answer to another call": (
        [HELLO, ASKED, TOLD | {"tool_call_id": "call_9"}],
        "messages[2].tool_call_id",
    ),
    "an answer without id": ([HELLO, ASKED, {"role": "tool", "content": "x"}], "messages[2].tool_call_id"),
}  # fmt: skip


@pytest.mark.parametrize(("messages", "param"), BAD_MESSAGES.values(), ids=BAD_MESSAGES)
def test_messages_that_are_none_are_refused_by_their_place(house, upstream, messages, param):
    sent = body() if messages is not None else {"model": "default"}
    response = house.client.post(CHAT, json=sent | ({"messages": messages} if messages is not None else {}))
    error = assert_refused(response, 400, "invalid_input", param)
    assert "`" in error["message"]
    assert upstream.journal == []


@pytest.mark.parametrize("written", ["", "x", "[]", '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 50_000, "5"])
def test_arguments_that_a_model_got_wrong_do_not_end_the_conversation(sandbox, written):
    asked = ASKED | {"tool_calls": [CALL | {"function": {"name": "f", "arguments": written}}]}
    told = TOLD | {"content": "These are no arguments."}
    assert sandbox.client.post(CHAT, json=body(messages=[HELLO, asked, told])).status_code == 200


def function(**fields: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": FUNCTION | fields}]


BAD_FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "temperature in words": ({"temperature": "warm"}, "temperature"),
    "too warm": ({"temperature": 2.1}, "temperature"),
    "too cold": ({"temperature": -0.1}, "temperature"),
    "a temperature beyond floats": ({"temperature": 10**400}, "temperature"),
    "a true temperature": ({"temperature": True}, "temperature"),
    "no tokens": ({"max_tokens": 0}, "max_tokens"),
    "half a token": ({"max_tokens": 1.5}, "max_tokens"),
    "too many tokens": ({"max_completion_tokens": 10**6 + 1}, "max_completion_tokens"),
    "too many tokens by the old name": ({"max_tokens": 8193, "max_completion_tokens": 5}, "max_tokens"),
    "two answers": ({"n": 2}, "n"),
    "no answer": ({"n": 0}, "n"),
    "a true answer": ({"n": True}, "n"),
    "a stream in words": ({"stream": "yes"}, "stream"),
    "options of no stream": ({"stream_options": {"include_usage": True}}, "stream_options"),
    "strange options": (
        {"stream": True, "stream_options": {"usage": True}},
        "stream_options.usage",
    ),
    "options that are none": ({"stream": True, "stream_options": True}, "stream_options"),
    "usage in words": (
        {"stream": True, "stream_options": {"include_usage": "yes"}},
        "stream_options.include_usage",
    ),
    "an empty stop": ({"stop": ""}, "stop"),
    "a stop that is a number": ({"stop": 5}, "stop"),
    "five stops": ({"stop": list("abcde")}, "stop"),
    "an empty stop of two": ({"stop": ["a", ""]}, "stop[1]"),
    "a long stop": ({"stop": "x" * 257}, "stop"),
    "NUL as stop": ({"stop": ["\0"]}, "stop[0]"),
    "a model that is a number": ({"model": 5}, "model"),
    "a model with spaces": ({"model": "gpt 5"}, "model"),
    "a model that nobody has": ({"model": "llama-9"}, "model"),
    "a model of a provider that is not there": ({"model": "anthropic/claude-haiku-5-5"}, "model"),
    "log probabilities": ({"logprobs": True}, "logprobs"),
    "none of them, in a number": ({"logprobs": 0}, "logprobs"),
    "top log probabilities": ({"top_logprobs": 3}, "top_logprobs"),
    "sound": ({"audio": {"voice": "x"}}, "audio"),
    "sound and text": ({"modalities": ["text", "audio"]}, "modalities"),
    "OpenAI's old tools": ({"functions": [FUNCTION]}, "functions"),
    "OpenAI's old choice": ({"function_call": "auto"}, "function_call"),
    "the web": ({"web_search_options": {}}, "web_search_options"),
    "a strange field": ({"colour": "red"}, "colour"),
    "version 1's field": ({"prompt": "x"}, "prompt"),
    "a format in words": ({"response_format": "json"}, "response_format"),
    "a strange format": ({"response_format": {"type": "xml"}}, "response_format.type"),
    "a format without type": ({"response_format": {}}, "response_format.type"),
    "a schema without its type": (
        {"response_format": {"type": "json_object", "json_schema": {}}},
        "response_format.type",
    ),
    "no schema": ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    "a schema without name": (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        "response_format.json_schema.name",
    ),
    "a schema that is a list": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": []}}},
        "response_format.json_schema.schema",
    ),
    "a deep schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": deep(40)}}},
        "response_format.json_schema",
    ),
    "strictness in words": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "strict": 1}}},
        "response_format.json_schema.strict",
    ),
    "tools that are no list": ({"tools": {}}, "tools"),
    "a tool that is a word": ({"tools": ["weather"]}, "tools[0]"),
    "a tool of another type": ({"tools": [*TOOLS, {"type": "custom", "custom": {}}]}, "tools[1]"),
    "a tool without function": ({"tools": [{"type": "function"}]}, "tools[0].function"),
    "a tool without name": ({"tools": function(name=None)}, "tools[0].function.name"),
    "a tool with a strange name": ({"tools": function(name="a.b")}, "tools[0].function.name"),
    "a tool with a strange field": ({"tools": function(code="x")}, "tools[0].function.code"),
    "parameters that are a list": ({"tools": function(parameters=[])}, "tools[0].function.parameters"),
    "deep parameters": ({"tools": function(parameters=deep(40))}, "tools"),
    "NUL in parameters": ({"tools": function(parameters={"a": "\0"})}, "tools"),
    "half a character as a key": ({"tools": function(parameters={"\ud800": 1})}, "tools"),
    "a description that is a number": ({"tools": function(description=5)}, "tools[0].function.description"),
    "one tool twice": ({"tools": TOOLS * 2}, "tools"),
    "129 tools": ({"tools": [function(name=f"f{n}")[0] for n in range(129)]}, "tools"),
    "a choice without tools": ({"tool_choice": "required"}, "tool_choice"),
    "a strange choice": ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice"),
    "a choice that is a number": ({"tools": TOOLS, "tool_choice": 5}, "tool_choice"),
    "a choice of a strange kind": ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
    "a choice of no tool": (
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}},
        "tool_choice.function.name",
    ),
    "a choice that is a list": (
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": ["weather"]}}},
        "tool_choice.function.name",
    ),
}


@pytest.mark.parametrize(("fields", "param"), BAD_FIELDS.values(), ids=BAD_FIELDS)
def test_a_parameter_that_is_wrong_or_would_change_the_reply_is_refused_by_name(
    house, upstream, fields, param
):
    assert_refused(house.client.post(CHAT, json=body(**fields)), 400, "invalid_input", param)
    assert upstream.journal == []


def test_what_is_refused_beyond_floats_is_refused_on_the_wire_too(sandbox):
    for sent in ('{"messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',):
        response = sandbox.client.post(CHAT, data=sent, content_type=JSON)
        assert_refused(response, 400, "invalid_input", "temperature")
    schema = '{"type": "json_schema", "json_schema": {"name": "x", "schema": {"maximum": 1e999}}}'
    sent = '{"messages": [{"role": "user", "content": "x"}], "response_format": ' + schema + "}"
    response = sandbox.client.post(CHAT, data=sent, content_type=JSON)
    assert_refused(response, 400, "invalid_input", "response_format.json_schema")


def test_nulls_are_what_was_left_out(sandbox):
    names = (
        "model temperature max_tokens max_completion_tokens stop n stream stream_options response_format tools tool_choice "
        "seed top_p user logprobs audio modalities functions function_call web_search_options"
    )
    response = sandbox.client.post(CHAT, json=body(**dict.fromkeys(names.split())))
    assert response.status_code == 200, response.text
    assert "X-Params-Ignored" not in response.headers


def doubling(levels: int) -> dict[str, Any]:
    """A schema of some hundred bytes whose references, written out, are 2 to the power of `levels` objects."""
    defs = {
        f"d{n}": {"type": "object", "properties": {name: {"$ref": f"#/$defs/d{n + 1}"} for name in "ab"}}
        for n in range(levels)
    }
    return {"$ref": "#/$defs/d0", "$defs": defs | {f"d{levels}": {"type": "string"}}}


def chained(levels: int) -> dict[str, Any]:
    return {"$ref": "#/$defs/d0", "$defs": {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(levels)}}


@pytest.mark.parametrize("schema", [doubling(24), chained(20_000)], ids=["doubling", "chained"])
def test_a_schema_that_grows_without_bound_is_refused_before_anybody_unfolds_it(house, upstream, schema):
    began = time.process_time()
    tools = [{"type": "function", "function": {"name": "t", "parameters": schema}}]
    shape = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    assert_refused(
        house.client.post(CHAT, json=body(tools=tools)), 400, "invalid_input", "tools[0].function.parameters"
    )
    assert_refused(
        house.client.post(CHAT, json=body(response_format=shape)),
        400,
        "invalid_input",
        "response_format.json_schema.schema",
    )
    assert upstream.journal == []
    assert time.process_time() - began < 5


def test_many_schemas_are_bounded_together_and_small_or_recursive_ones_are_taken():
    many = [{"type": "function", "function": {"name": f"t{n}", "parameters": doubling(8)}} for n in range(20)]
    with pytest.raises(InvalidInput) as refusal:
        read_tools(many)
    assert refusal.value.field == "tools"
    tree = {"$ref": "#/$defs/node", "$defs": {"node": {"properties": {"left": {"$ref": "#/$defs/node"}}}}}
    assert unfolded_size(tree) < 10
    assert read_tools(many[:2])[1] == {"t0", "t1"}


@pytest.mark.parametrize("content", ["", " ", None, []], ids=repr)
def test_an_answer_that_was_broken_off_before_its_first_word_does_not_end_the_conversation(
    house, upstream, content
):
    said = [{"role": "user", "content": "One."}, {"role": "assistant", "content": content}]
    if content == []:
        said[1] = {"role": "assistant"}
    reply = house.client.post(
        "/api/v2/chat/completions", json=body(messages=[*said, {"role": "user", "content": "Two."}])
    )
    assert reply.status_code == 200, reply.text
    (call,) = upstream.journal
    assert "model" not in [turn["role"] for turn in call.body["contents"]]


def test_values_that_ask_for_nothing_are_taken(sandbox):
    fields = {
        "n": 1,
        "logprobs": False,
        "modalities": ["text"],
        "tools": [],
        "tool_choice": "auto",
        "stop": [],
    }
    response = sandbox.client.post(CHAT, json=body(**fields, response_format={"type": "text"}, stream=False))
    assert response.status_code == 200, response.text


def test_parameters_that_no_provider_is_told_are_named_in_a_header(sandbox):
    fields = {"seed": 7, "top_p": 0.5, "user": "u", "metadata": {"a": "b"}, "parallel_tool_calls": False}
    named = [HELLO | {"name": "Ada"}]
    for streamed in (False, True):
        response = sandbox.client.post(CHAT, json=body(**fields, messages=named, stream=streamed))
        assert response.status_code == 200
        ignored = response.headers["X-Params-Ignored"].split(", ")
        assert {"seed", "top_p", "user", "metadata", "parallel_tool_calls", "messages.name"} <= set(ignored)


def test_all_texts_together_are_held_under_the_limit(make_house):
    house = make_house(google_api_key="", gemini_base_url="", max_prompt_chars=100)
    fits = [{"role": "system", "content": "s" * 40}, {"role": "user", "content": "u" * 40}]
    assert house.client.post(CHAT, json=body(messages=fits)).status_code == 200
    for fields in (
        {"messages": [*fits, {"role": "user", "content": "u" * 40}]},
        {"messages": fits, "tools": function(description="d" * 40)},
        {"messages": fits, "response_format": {"type": "json_schema", "json_schema": {"name": "x" * 40, "schema": {}}}},
    ):  # fmt: skip
        error = assert_refused(house.client.post(CHAT, json=body(**fields)), 400, "invalid_input", "messages")
        assert "100" in error["message"]
    long = [{"role": "user", "content": [{"type": "text", "text": "u" * 101}]}]
    assert_refused(
        house.client.post(CHAT, json=body(messages=long)), 400, "invalid_input", "messages[0].content[0].text"
    )


NOT_JSON = [b"", b"hello", b'{"messages": NaN}', b"[" * 100_000, b'{"model": "\xff"}', b"null", b"[]", b"5"]


@pytest.mark.parametrize("sent", NOT_JSON)
@pytest.mark.parametrize("path", [CHAT, EMBED])
def test_what_is_no_json_object_is_refused_with_an_example(sandbox, path, sent):
    response = sandbox.client.post(path, data=sent, content_type=JSON)
    error = assert_refused(response, 400, "invalid_input")
    assert ('"messages"' if path == CHAT else '"input"') in error["message"]


def test_a_field_that_stands_twice_is_refused(sandbox):
    response = sandbox.client.post(CHAT, data='{"model": "a", "model": "b"}', content_type=JSON)
    assert_refused(response, 400, "invalid_input", "model")


BAD_INPUTS: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({}, "input"),
    "blank": ({"input": " "}, "input"),
    "a number": ({"input": 5}, "input"),
    "none": ({"input": []}, "input"),
    "tokens": ({"input": [1, 2, 3]}, "input"),
    "lists of tokens": ({"input": [[1, 2], [3]]}, "input"),
    "a blank one": ({"input": ["a", ""]}, "input[1]"),
    "a number among them": ({"input": ["a", 5]}, "input[1]"),
    "NUL": ({"input": ["a\0"]}, "input[0]"),
    "257 of them": ({"input": ["a"] * 257}, "input"),
    "too long together": ({"input": ["a" * 60_000] * 2}, "input"),
    "a strange form": ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
    "dimensions": ({"input": "a", "dimensions": 64}, "dimensions"),
    "a strange field": ({"input": "a", "colour": "red"}, "colour"),
}


@pytest.mark.parametrize(("fields", "param"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_texts_to_embed_that_are_none_are_refused_by_name(sandbox, fields, param):
    response = sandbox.client.post(EMBED, json={"model": "default", **fields})
    assert_refused(response, 400, "invalid_input", param)


def test_refused_bodies_leave_no_bill_and_no_row(house, upstream):
    for fields in ({"n": 2}, {"messages": []}, {"colour": "red"}, {"temperature": 9}):
        house.client.post(CHAT, json=body(**fields))
    assert house.client.get("/api/v1/stats").get_json()["usage_stats"]["total_requests"] == 0
    assert house.lines("cost_tracking.log") == upstream.journal == []
