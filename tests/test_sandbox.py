"""The sandbox: deterministic, free, offline, and it never passes for a model."""

from __future__ import annotations

import ast
import base64
import json
import math
import random
import struct
from itertools import permutations
from operator import mul

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chats import Chat, Turn
from config import Settings
from errors import InvalidInput, ModelUnknown
from providers.base import Call
from providers.sandbox import DIMENSIONS, MODEL, QUOTE_CHARS, SandboxProvider, best_category, code_for
from providers.sandbox_json import fitting
from services import build_services
from tasks import EMBEDDINGS, Ask, Task
from tests.stream_contract import listen
from tests.test_pipeline import COST_HEADERS
from wording import read_reply, word

OBVIOUS = [
    ("I love this phone, it is great and fast!", ["negative", "neutral", "positive"], "positive"),
    ("Terrible service, the worst I have ever seen.", ["positive", "neutral", "negative"], "negative"),
    ("The package arrived on Tuesday.", ["positive", "negative", "neutral"], "neutral"),
    ("You have WON a FREE prize, click here to claim the cash!", ["not spam", "spam"], "spam"),
    ("You charged my card twice, I want the payment back.", ["technical", "billing", "shipping"], "billing"),
    ("The app crashes with an error after the update.", ["billing", "technical", "sales"], "technical"),
    ("The team scored twice and won the match.", ["politics", "business", "sports"], "sports"),
    ("The president lost the vote in parliament.", ["sports", "politics", "health"], "politics"),
    ("How do I change my address?", ["complaint", "question", "praise"], "question"),
    ("The doctor gave the patient a new medicine.", ["technology", "sports", "health"], "health"),
]
PROMPTS = [
    "Write a Python function that reverses a string.",
    "import",
    "class",
    "None",
    "'''",
    'quote """ and \\ and {braces} and %s',
    "sort\nthe\r\nlines\x0b\x0c\x85\u2028",
    "🙂🙂🙂",
    "日本語でソート",
    "\\",
    "\\N{BULLET}",
    "x" * 100_000,
    "lambda yield async await match case type",
]


@pytest.fixture
def sandbox(make_house, settings, tmp_path):
    quiet = Settings(
        log_dir=str(tmp_path / "logs"), data_dir=str(tmp_path / "data"), rate_limit="100000 per minute"
    )
    return make_house(build_services(quiet))


def said(ask: Ask) -> str:
    return SandboxProvider().call(Call(MODEL, word(ask), 100, 1.0)).text


# Text and code.


def test_text_says_what_it_is_quotes_the_ask_and_names_the_next_step(sandbox):
    response = sandbox.post("text", {"prompt": "Name three\n  rivers."})
    answer = response.get_json()["generated_text"]
    assert answer.startswith("[sandbox]")
    assert '"Name three rivers."' in answer
    assert "GOOGLE_API_KEY" in answer


def test_a_long_ask_is_quoted_in_part():
    answer = said(Ask(Task.TEXT, "word " * 1000, 0.0))
    assert len(answer) < QUOTE_CHARS + 200
    assert "…" in answer


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: ascii(prompt)[:30])
def test_code_is_one_function_that_compiles(prompt):
    (function,) = ast.parse(code_for(prompt)).body
    assert isinstance(function, ast.FunctionDef)
    assert "Sandbox code for" in (ast.get_docstring(function) or "")


@given(
    st.one_of(
        st.text(),
        st.text("imports \n\t'\"\\{}#", max_size=40),
        st.from_regex(r"(def|if|None|sum|max|add) ?\w*"),
    )
)
def test_code_compiles_whatever_is_asked_for(prompt):
    code = code_for(prompt)
    compile(code, "answer", "exec")
    assert code == code_for(prompt)


@pytest.mark.parametrize(
    ("prompt", "given_", "expected"),
    [
        ("Write a function that reverses a string", ("abc",), "cba"),
        ("Write a function that adds two numbers", (2, 3), 5),
        ("Compute the factorial", (5,), 120),
        ("Give me the fibonacci numbers", (10,), 55),
        ("Check whether a number is prime", (7,), True),
        ("Is it a palindrome?", ("A man, a plan, a canal: Panama",), True),
        ("Sort a list", ([3, 1, 2],), [1, 2, 3]),
        ("Count the vowels", ("banana",), 3),
        ("Count the words of a text", ("one two three",), 3),
        ("Write a sum function", ([1, 2, 3],), 6),
        ("Return the sum of a list", ([1, 2, 3],), 6),
        ("Write a max function", ([1, 3, 2],), 3),
        ("Say hello", (), "Hello, world!"),
    ],
)
def test_what_beginners_ask_for_runs_and_is_right(prompt, given_, expected):
    names: dict[str, object] = {}
    exec(code_for(prompt), names)
    (function,) = [value for name, value in names.items() if name != "__builtins__"]
    assert function(*given_) == expected


def test_what_it_cannot_write_it_says_instead_of_inventing():
    names: dict[str, object] = {}
    exec(code_for("Parse the weather report"), names)
    with pytest.raises(NotImplementedError, match="sandbox"):
        names["parse_weather_report"](1, 2)


# Classification.


def test_at_least_eight_of_ten_obvious_texts_get_their_category():
    right = [best_category(text, categories) == category for text, categories, category in OBVIOUS]
    assert sum(right) >= 8


def test_the_order_of_the_categories_decides_nothing():
    for text, categories, _ in OBVIOUS:
        assert len({best_category(text, order) for order in permutations(categories)}) == 1


@given(
    st.text(max_size=60),
    st.lists(st.text(min_size=1, max_size=12), min_size=2, max_size=6, unique=True),
    st.randoms(),
)
def test_the_order_decides_nothing_even_where_the_text_says_nothing(text, categories, chance):
    shuffled = list(categories)
    chance.shuffle(shuffled)
    assert best_category(text, categories) == best_category(text, shuffled)


@pytest.mark.parametrize(
    "categories",
    [
        ["null", "true"],
        ["42", "3.5"],
        ['{"category": "x"}', "[]"],
        ['"quoted"', '"other"'],
        ['{"a": 1}', "{}"],
        ["plain", "words"],
    ],
    ids=json.dumps,
)
def test_categories_that_look_like_json_are_categories(categories):
    for category in categories:
        ask = Ask(Task.CLASSIFY, f"About {category}", 0.0, tuple(categories))
        assert read_reply(ask, said(ask)) in categories


@given(
    st.text(max_size=40),
    st.lists(
        st.text(max_size=20).filter(str.strip), min_size=1, max_size=6, unique_by=lambda name: name.strip()
    ),
)
def test_any_classification_is_one_of_the_categories(text, categories):
    ask = Ask(Task.CLASSIFY, text, 0.0, tuple(categories))
    assert read_reply(ask, said(ask)) in categories


@given(
    st.text(max_size=40),
    st.lists(
        st.text(max_size=20).filter(str.strip), min_size=1, max_size=6, unique_by=lambda name: name.strip()
    ),
)
def test_several_categories_are_always_of_those_that_were_sent(text, categories):
    ask = Ask(Task.CLASSIFY, text, 0.0, tuple(categories), multi_label=True)
    assert set(json.loads(read_reply(ask, said(ask)))) <= set(categories)


# In the house.


@pytest.mark.parametrize(
    ("task", "body"),
    [
        ("text", {"prompt": "Hello"}),
        ("code", {"prompt": "Add two numbers"}),
        ("classify", {"text": "I love it", "categories": ["positive", "negative"]}),
    ],
)
def test_every_task_is_free_marked_and_the_same_each_time(sandbox, task, body):
    first = sandbox.post(task, body, Cache_Control="no-store")
    second = sandbox.post(task, body, Cache_Control="no-store")
    assert first.status_code == 200
    assert first.get_json() == second.get_json()
    for response in (first, second, sandbox.post(task, body), sandbox.post(task, body)):
        assert (response.headers["X-Provider"], response.headers["X-Model"]) == ("sandbox", MODEL)
        assert {response.headers[f"X-Cost-{name}"] for name in COST_HEADERS} == {"0.000000000"}
        assert "X-Cost-Known" not in response.headers
        assert int(response.headers["X-Tokens-Input"]) > 0
        assert response.headers["X-Tokens-Estimated"] == "true"
    assert response.headers["X-Cache-Status"] == "hit"
    assert sandbox.services.tracker.overall_nano == 0


def test_no_call_leaves_the_machine(sandbox, upstream):
    sandbox.post("text", {"prompt": "Hello"})
    assert upstream.connections == 0
    assert sandbox.client.get("/api/v1/health").get_json()["mode"] == "sandbox"


def test_a_model_that_the_sandbox_has_not_is_refused_with_the_one_that_it_has(sandbox):
    response = sandbox.post("text", {"prompt": "Hello", "model": "gemini-3.1-flash-lite"})
    assert (response.status_code, response.get_json()["field"]) == (400, "model")
    assert MODEL in response.get_json()["error"]
    assert sandbox.post("text", {"prompt": "Hello", "model": MODEL}).status_code == 200
    with pytest.raises(ModelUnknown):
        SandboxProvider().models("gpt")


def test_a_key_leaves_no_way_into_the_sandbox(make_house, upstream):
    house = make_house()
    upstream.script("forbidden")
    response = house.post("text", {"prompt": "Hello"})
    assert response.status_code == 502
    assert house.client.get("/api/v1/health").get_json()["mode"] == "live"


def test_chance_plays_no_part():
    random.seed(1)
    first = [said(Ask(Task.TEXT, "Hello", 0.0)), code_for("sort it"), best_category("x", ["a", "b"])]
    random.seed(2)
    assert first == [said(Ask(Task.TEXT, "Hello", 0.0)), code_for("sort it"), best_category("x", ["a", "b"])]


# Chats, JSON and embeddings.


def chatted(chat: Chat) -> str:
    """Plain and streamed, which must be the same."""
    call = Call(MODEL, word(Ask(Task.CHAT, chat.text, 0.0, chat=chat)), 100, 1.0)
    pieces, reply = listen(SandboxProvider().stream(call))
    assert "".join(piece.text for piece in pieces) == reply.text
    assert SandboxProvider().call(call) == reply
    return reply.text


def test_a_chat_is_answered_with_what_the_user_said_last():
    turns = (Turn("user", "First."), Turn("assistant", "Second."), Turn("user", "Third."))
    assert '"Third."' in chatted(Chat((*turns, Turn("assistant", "Fourth.")), system="Be brief."))
    assert chatted(Chat((Turn("assistant", "Nobody asked."),))).startswith("[sandbox]")


def test_a_chat_ends_before_the_first_of_its_stop_sequences():
    whole = chatted(Chat((Turn("user", "Hi"),)))
    stops = ("no such thing", "built-in", "No model")
    assert chatted(Chat((Turn("user", "Hi"),), stop=stops)) == whole[: whole.index("No model")]


PERSON = {
    "$defs": {"Level": {"enum": ["low", "high"]}, "Home": {"type": "object", "required": []}},
    "type": "object",
    "title": "Person",
    "properties": {
        "name": {"type": "string", "minLength": 9, "description": "In full."},
        "age": {"type": "integer", "minimum": 17.5},
        "debt": {"type": "number", "maximum": -1},
        "level": {"$ref": "#/$defs/Level"},
        "home": {"$ref": "#/$defs/Home"},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2},
        "spouse": {"anyOf": [{"type": "null"}, {"$ref": "#"}]},
        "kind": {"const": "person"},
        "happy": {"type": ["boolean", "null"]},
        "nickname": {"type": "string"},
    },
    "required": ["name", "age", "debt", "level", "home", "tags", "spouse", "kind", "happy"],
    "additionalProperties": False,
}


def test_json_that_was_asked_for_fits_its_schema():
    told = chatted(Chat((Turn("user", "Hi"),), schema=json.dumps({"name": "person", "schema": PERSON})))
    jsonschema.validate(json.loads(told), PERSON)
    assert json.loads(chatted(Chat((Turn("user", "Hi"),), schema="{}"))) == {}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^x$"},
        {"allOf": [{"type": "string"}]},
        {"$ref": "#"},
        {"$ref": "#/$defs/Nobody"},
        {"$ref": 5},
        {"type": "array", "minItems": 10**9},
        {"type": "array", "minItems": 999, "items": {"type": "array", "minItems": 999}},
        {"type": "array", "minItems": "many"},
        {"type": "strange"},
        {"type": []},
        {"type": {}},
        {"anyOf": []},
        {"enum": []},
        {"required": 5},
        {"required": ["a"], "properties": []},
        {"type": "number", "minimum": "x"},
        "text",
        [],
        5,
        None,
    ],
    ids=str,
)
def test_a_schema_that_is_not_simple_is_refused_and_the_field_named(schema):
    if schema:
        chat = Chat((Turn("user", "Hi"),), schema=json.dumps({"name": "x", "schema": schema}))
        with pytest.raises(InvalidInput) as failure:
            chatted(chat)
        assert failure.value.field == "response_format"
    with pytest.raises(InvalidInput):
        fitting(schema)


def test_texts_that_share_words_have_embeddings_that_are_close():
    texts = ("The cat sat on the mat.", "A cat on a mat", "Invoices are due in May.", "", "…")
    ask = Ask(Task.EMBED, "", 0.0, inputs=texts)
    reply = SandboxProvider().call(Call(MODEL, word(ask), 0, 1.0))
    vectors = [struct.unpack(f"<{DIMENSIONS}f", base64.b64decode(one)) for one in json.loads(reply.text)]
    alike, unlike = (sum(map(mul, vectors[0], other)) for other in vectors[1:3])
    assert alike > 0.3 > 0.1 > unlike
    assert all(math.isclose(math.hypot(*vector), 1.0, rel_tol=1e-6) for vector in vectors)


def test_it_offers_embeddings_and_no_tools():
    assert SandboxProvider().offers == {EMBEDDINGS}
