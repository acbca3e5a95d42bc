"""Whatever is sent as a body: an answer, or a refusal in one shape that names the field and costs nothing."""

# Above 300 lines, because the lists of bad bodies are long, and splitting them would hide what is missing.

from __future__ import annotations

import gzip
import json
import time
import unicodedata

import pytest

TEXT, CODE, CLASSIFY = "/api/v1/generate/text", "/api/v1/generate/code", "/api/v1/classify/text"
JSON = "application/json"
LONG = "longword" * 40


def assert_refused(response, status: int, code: str, field: str | None = None) -> dict:
    """One shape: a sentence, a stable word, the request's id, the field where one is at fault."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    reply = response.get_json()
    assert set(reply) == {"error", "code", "request_id"} | ({"field"} if field else set())
    assert (reply["code"], reply.get("field")) == (code, field)
    assert reply["request_id"] == response.headers["X-Request-ID"]
    assert reply["error"][0].isupper() or reply["error"][0] == "`"
    assert reply["error"].endswith(".")
    assert not [name for name, _ in response.headers if name.startswith("X-Cost")]
    return reply


NOT_JSON = {
    "nothing": b"",
    "blank": b" \n",
    "words": b"hello",
    "half an object": b'{"prompt": "x"',
    "two objects": b'{"prompt": "x"} {"prompt": "y"}',
    "NaN": b'{"prompt": "x", "max_tokens": NaN}',
    "Infinity": b'{"prompt": "x", "max_tokens": Infinity}',
    "-Infinity": b'{"prompt": "x", "max_tokens": -Infinity}',
    "100,000 nested lists": b"[" * 100_000,
    "100,000 nested and closed lists": b"[" * 100_000 + b"]" * 100_000,
    "100,000 nested objects": b'{"prompt":' * 100_000,
    "nested inside a field": b'{"prompt": ' + b"[" * 100_000,
    "an integer of 5,000 digits": b'{"prompt": "x", "max_tokens": ' + b"9" * 5000 + b"}",
    "invalid UTF-8": b'{"prompt": "\xff\xfe"}',
    "overlong UTF-8": b'{"prompt": "\xc0\xaf"}',
    "UTF-8 surrogates": b'{"prompt": "\xed\xa0\x80"}',
    "UTF-16": '{"prompt": "x"}'.encode("utf-16"),
    "UTF-16 without a mark": '{"prompt": "x"}'.encode("utf-16-le"),
    "UTF-32": '{"prompt": "x"}'.encode("utf-32"),
    "a byte order mark": b'\xef\xbb\xbf{"prompt": "x"}',
    "a raw newline in a string": b'{"prompt": "a\nb"}',
    "a raw NUL in a string": b'{"prompt": "a\x00b"}',
    "single quotes": b"{'prompt': 'x'}",
    "a trailing comma": b'{"prompt": "x",}',
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
@pytest.mark.parametrize("path", [TEXT, CLASSIFY])
def test_what_is_not_json_is_refused_with_an_example(house, upstream, path, body):
    reply = assert_refused(house.client.post(path, data=body, content_type=JSON), 400, "invalid_input")
    assert '{"prompt": "Hello"}' in reply["error"]
    assert upstream.journal == []


@pytest.mark.parametrize("body", ["null", "[]", '"x"', "5", "1.5", "true", '[{"prompt": "x"}]'])
def test_a_body_that_is_no_object_is_refused(house, upstream, body):
    for path in (TEXT, CODE, CLASSIFY):
        reply = assert_refused(house.client.post(path, data=body, content_type=JSON), 400, "invalid_input")
        assert "object" in reply["error"]
    assert upstream.journal == []


BAD_TEXTS = {
    "missing": {},
    "null": {"prompt": None},
    "a number": {"prompt": 5},
    "a truth": {"prompt": True},
    "a list": {"prompt": ["x"]},
    "an object": {"prompt": {"x": "y"}},
    "a list nested deeply": {"prompt": json.loads("[" * 400 + "]" * 400)},
    "empty": {"prompt": ""},
    "blank": {"prompt": " \t\r\n\u2003"},
    "over-long": {"prompt": "x" * 100_001},
    "NUL": {"prompt": "a\0b"},
    "a high surrogate": {"prompt": "a\ud800b"},
    "a low surrogate": {"prompt": "\udc00"},
    "surrogates in the wrong order": {"prompt": "\udc00\ud800"},
}


@pytest.mark.parametrize("body", BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_a_prompt_that_is_none_is_refused_by_name(house, upstream, body):
    for path in (TEXT, CODE):
        reply = assert_refused(house.client.post(path, json=body), 400, "invalid_input", "prompt")
        assert "`prompt`" in reply["error"]
    text = {"text": body["prompt"]} if body else {}
    response = house.client.post(CLASSIFY, json={"categories": ["a", "b"], **text})
    assert_refused(response, 400, "invalid_input", "text")
    assert upstream.journal == []


def test_the_longest_prompt_that_is_allowed_goes_through(make_house, upstream):
    house = make_house(max_prompt_chars=20)
    assert house.post("text", {"prompt": "é" * 20}).status_code == 200
    assert_refused(house.post("text", {"prompt": "é" * 21}), 400, "invalid_input", "prompt")
    assert len(upstream.journal) == 1


def test_a_whole_surrogate_pair_is_a_character_and_goes_through(house, upstream):
    response = house.client.post(TEXT, data=b'{"prompt": "\\ud83d\\ude00 hi"}', content_type=JSON)
    assert response.status_code == 200
    assert upstream.journal[0].prompt == "\U0001f600 hi"


COMPOSED, DECOMPOSED = "caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9")
BAD_CATEGORIES = {
    "missing": None,
    "a bare string": "abc",
    "an object": {"a": 1},
    "a number": 5,
    "none": [],
    "51 of them": [f"c{n}" for n in range(51)],
    "a number among them": ["a", 5],
    "null among them": ["a", None],
    "a list among them": ["a", ["b"]],
    "an empty name": ["a", ""],
    "a blank name": ["a", "  "],
    "a name of 101 characters": ["a", "b" * 101],
    "NUL": ["a", "b\0"],
    "a lone surrogate": ["a", "\ud800"],
    "one twice": ["a", "b", "a"],
    "one twice but for the form of Unicode": [COMPOSED, DECOMPOSED],
    "one twice but for spaces": ["a", " a "],
    "one twice but for both": [COMPOSED, f" {DECOMPOSED}\t"],
}


@pytest.mark.parametrize("categories", BAD_CATEGORIES.values(), ids=BAD_CATEGORIES)
def test_categories_that_are_none_are_refused_by_name(house, upstream, categories):
    body = {"text": "x", "categories": categories}
    if categories is None:
        del body["categories"]
    reply = assert_refused(house.client.post(CLASSIFY, json=body), 400, "invalid_input", "categories")
    assert "`categories`" in reply["error"]
    assert upstream.journal == []


@pytest.mark.parametrize("multi_label", ["true", 1, 0, [], {}], ids=repr)
def test_multi_label_is_true_or_false_and_nothing_else(house, upstream, multi_label):
    body = {"text": "x", "categories": ["a", "b"], "multi_label": multi_label}
    assert_refused(house.client.post(CLASSIFY, json=body), 400, "invalid_input", "multi_label")
    assert_refused(
        house.client.post(TEXT, json={"prompt": "x", "multi_label": True}),
        400,
        "invalid_input",
        "multi_label",
    )
    assert upstream.journal == []


def test_fifty_categories_of_a_hundred_characters_are_allowed_and_case_tells_them_apart(house):
    many = [f"{n:02}" + "c" * 98 for n in range(50)]
    assert house.post("classify", {"text": "x", "categories": many}).get_json()["classification"] in many
    assert house.post("classify", {"text": "x", "categories": ["A", "a"]}).status_code == 200
    assert house.post("classify", {"text": "x", "categories": ["one"]}).get_json()["classification"] == "one"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", 5),
        ("model", ""),
        ("model", "../etc/passwd"),
        ("model", "a b"),
        ("model", "x\n"),
        ("model", "m" * 101),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", 1.0),
        ("max_tokens", 10**400),
        ("max_tokens", "5"),
        ("max_tokens", True),
        ("max_tokens", 8193),
        ("max_tokens", []),
        ("stream", "false"),
        ("stream", 0),
    ],
)
def test_an_option_of_the_wrong_kind_is_refused_by_name(house, upstream, name, value):
    reply = assert_refused(house.post("text", {"prompt": "x", name: value}), 400, "invalid_input", name)
    assert f"`{name}`" in reply["error"]
    assert upstream.journal == []


@pytest.mark.parametrize(
    "value", [0, -1, 1.0, 10**400, "5", True, 8193, []], ids=lambda value: str(value)[:5]
)
def test_the_cap_of_a_classification_has_the_rules_of_every_other(house, upstream, value):
    body = {"text": "x", "categories": ["a"], "max_tokens": value}
    reply = assert_refused(house.post("classify", body), 400, "invalid_input", "max_tokens")
    assert "`max_tokens`" in reply["error"]
    assert upstream.journal == []
    assert house.post("classify", body | {"max_tokens": None}).status_code == 200
    assert house.post("classify", body | {"max_tokens": 19}).status_code == 200
    caps = [call.body["generationConfig"]["maxOutputTokens"] for call in upstream.journal]
    assert caps == [8192, 19]


def test_options_that_are_right_reach_the_provider(house, upstream):
    body = {"prompt": "x", "model": "gemini-3.5-flash", "max_tokens": 17, "stream": False}
    assert house.post("text", body).status_code == 200
    (call,) = upstream.journal
    assert (call.model, call.body["generationConfig"]["maxOutputTokens"]) == ("gemini-3.5-flash", 17)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (TEXT, '{"prompt": "x", "temperature": 1}', "temperature"),
        (TEXT, '{"text": "x"}', "text"),
        (TEXT, '{"Prompt": "x"}', "Prompt"),
        (CLASSIFY, '{"text": "x", "categories": ["a"], "prompt": "x"}', "prompt"),
        (CLASSIFY, '{"text": "x", "categories": ["a"], "stream": false}', "stream"),
        (CODE, '{"prompt": "x", "": 1}', ""),
    ],
)
def test_an_unknown_field_is_refused_and_the_known_ones_are_listed(house, upstream, path, body, field):
    response = house.client.post(path, data=body, content_type=JSON)
    assert response.status_code == 400
    assert response.get_json()["field"] == field
    assert ("`categories`" if path == CLASSIFY else "`max_tokens`") in response.get_json()["error"]
    assert upstream.journal == []


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (TEXT, '{"prompt": "x", "prompt": "y"}', "prompt"),
        (TEXT, '{"prompt": "x", "prompt": "x"}', "prompt"),
        (TEXT, '{"prompt": "x", "\\u0070rompt": "y"}', "prompt"),
        (CLASSIFY, '{"text": "x", "categories": ["a"], "categories": ["b"]}', "categories"),
        (TEXT, '{"prompt": {"a": 1, "a": 2}}', "a"),
    ],
)
def test_a_field_that_stands_twice_is_refused_by_name(house, upstream, path, body, field):
    reply = assert_refused(house.client.post(path, data=body, content_type=JSON), 400, "invalid_input", field)
    assert "twice" in reply["error"]
    assert upstream.journal == []


def test_thousands_of_field_names_are_refused_in_no_time(house):
    """Looking for the name that stands twice must not take the square of the names."""
    names = ",".join(f'"{number:x}":1' for number in range(30_000))
    body = f'{{{names},"z":1,"z":1}}'
    started = time.thread_time()
    assert_refused(house.client.post(TEXT, data=body, content_type=JSON), 400, "invalid_input", "z")
    assert time.thread_time() - started < 3


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"prompt": [LONG]}),
        json.dumps({"prompt": "x", LONG: 1}),
        json.dumps({"prompt": "x", "\u2028\ud800" + LONG: 1}),
        f'{{"{LONG}": 1, "{LONG}": 2}}',
        json.dumps({"prompt": "x", "model": LONG + "/"}),
        json.dumps({"prompt": "x", "stream": LONG}),
        json.dumps({"prompt": "x", "max_tokens": LONG}),
        json.dumps({"text": "x", "categories": LONG}),
        LONG,
        f'"{LONG}"',
    ],
)
def test_a_refusal_repeats_at_most_64_characters_of_what_was_sent(house, body):
    for path in (TEXT, CLASSIFY):
        response = house.client.post(path, data=body, content_type=JSON)
        assert response.status_code == 400
        whole = response.text + str(response.headers)
        assert not any(LONG[start : start + 65] in whole for start in range(8))
        assert len(response.get_json().get("field", "")) <= 64


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json", ""],
)
def test_another_content_type_is_415(house, upstream, kind):
    response = house.client.post(TEXT, data=b'{"prompt": "x"}', content_type=kind)
    reply = assert_refused(response, 415, "unsupported_media_type")
    assert "Content-Type: application/json" in reply["error"]
    assert upstream.journal == []


def test_a_missing_content_type_is_415(house, upstream):
    response = house.client.post(TEXT, data=b'{"prompt": "x"}')
    assert_refused(response, 415, "unsupported_media_type")
    assert upstream.journal == []


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, gzip", "x"])
def test_a_coded_body_is_415_and_never_unpacked(house, upstream, coding):
    bomb = gzip.compress(b'{"prompt": "' + b"x" * 50_000_000 + b'"}')
    started = time.thread_time()
    response = house.client.post(TEXT, data=bomb, content_type=JSON, headers={"Content-Encoding": coding})
    assert_refused(response, 415, "unsupported_media_type")
    assert time.thread_time() - started < 3
    assert upstream.journal == []


def test_json_with_a_charset_parameter_is_json(house):
    for kind in ("application/json; charset=utf-8", "Application/JSON"):
        assert house.client.post(TEXT, data=b'{"prompt": "x"}', content_type=kind).status_code == 200


def test_one_mebibyte_is_read_and_one_byte_more_is_413(house, upstream):
    empty = len('{"prompt": ""}')
    for length, status in ((1024 * 1024, 400), (1024 * 1024 + 1, 413)):
        body = '{"prompt": "' + "x" * (length - empty) + '"}'
        assert len(body) == length
        response = house.client.post(TEXT, data=body, content_type=JSON)
        assert response.status_code == status
    reply = assert_refused(response, 413, "too_large")
    assert "1 MiB" in reply["error"]
    assert upstream.journal == []


def test_refused_bodies_leave_no_bill_and_no_answer_behind(house, upstream):
    for body in (b"null", b'{"prompt": 5}', b"[" * 100_000, b'{"prompt": "x", "prompt": "y"}'):
        house.client.post(TEXT, data=body, content_type=JSON)
    stats = house.client.get("/api/v1/stats").get_json()
    assert stats["usage_stats"]["total_requests"] == stats["cache_stats"]["size"] == 0
    assert house.lines("cost_tracking.log") == upstream.journal == []
