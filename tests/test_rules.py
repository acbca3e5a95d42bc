"""What may come in: each refusal names its field and the next step, and lets nothing else through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import InvalidInput
from rules import MAX_CATEGORIES, MAX_CATEGORY_CHARS, category_list, model_name, text_field, token_limit

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)


def refusal(act, *given_):
    with pytest.raises(InvalidInput) as failure:
        act(*given_)
    assert (failure.value.status, failure.value.code) == (400, "invalid_input")
    assert str(failure.value).endswith(".")
    return failure.value


@pytest.mark.parametrize(
    "text", ["x", " x ", "x" * 10, "\n.", "日本語", "🙂", "e\u0301", "\u200b", "\x1b[0m"]
)
def test_a_text_is_taken_letter_by_letter(text):
    assert text_field(text, "prompt", 10) == text


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (None, "missing"),
        (5, "string"),
        (True, "string"),
        ([], "string"),
        ({"a": 1}, "string"),
        (b"bytes", "string"),
        ("", "empty"),
        (" \t\n\u2003", "empty"),
        ("x" * 11, "11 characters"),
        ("a\0b", "NUL"),
        ("\ud800", "surrogate"),
        ("a\udc00b", "surrogate"),
    ],
)
def test_every_other_text_is_refused_by_name(value, word):
    failure = refusal(text_field, value, "prompt", 10)
    assert word in str(failure)
    assert "`prompt`" in str(failure)
    assert failure.field == "prompt"


def test_a_refusal_never_repeats_what_was_sent():
    assert "secret" not in str(refusal(text_field, "secret " * 100, "prompt", 10))
    assert "secret" not in str(refusal(category_list, ["secret", "secret"]))
    assert "secret" not in str(refusal(model_name, "secret!"))


@pytest.mark.parametrize(
    "names",
    [
        ["a"],
        ["a", "A"],
        [" a", "b"],
        ['"quoted"', "a,b", "null", "{}"],
        [f"{number}" for number in range(MAX_CATEGORIES)],
        ["x" * MAX_CATEGORY_CHARS, "y"],
        ("a", "tuple"),
    ],
)
def test_categories_keep_names_and_order(names):
    assert category_list(names) == tuple(names)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "abc",
        {"a": 1},
        pytest.param({"a", "b"}, id="a set"),  # whose words come in any order
        5,
        [],
        [f"{number}" for number in range(MAX_CATEGORIES + 1)],
        ["a", 5],
        ["a", None],
        ["a", ["b"]],
        ["a", ""],
        ["a", "  "],
        ["x" * (MAX_CATEGORY_CHARS + 1)],
        ["a", "a"],
        ["a", " a "],
        ["\u00e9", "e\u0301"],
        ["a", "\ud800"],
        ["a\0", "b"],
    ],
    ids=ascii,
)
def test_every_other_list_of_categories_is_refused(value):
    assert refusal(category_list, value).field == "categories"


@pytest.mark.parametrize("value", [["a", 2], [None], [["a"]]], ids=ascii)
def test_a_category_that_is_no_string_is_not_taken_for_the_whole_list(value):
    assert "`categories` must be a list of strings" in str(refusal(category_list, value))


@pytest.mark.parametrize("name", ["gemini-3.1-flash-lite", "a", "7b", "Model_1.5-x", "x" * 100])
def test_a_model_id_is_taken_as_it_is_alone_or_after_its_provider(name):
    assert model_name(name) == name
    for provider in ("gemini", "openai", "anthropic", "sandbox"):
        assert model_name(f"{provider}/{name}") == f"{provider}/{name}"


@pytest.mark.parametrize("name", ["openai/llama3.2:3b", "openai/meta-llama/Llama-3.1-8B-Instruct"])
def test_servers_that_speak_openais_language_may_name_their_models_as_they_do(name):
    assert model_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a b",
        "../x",
        "a/b",
        "a:b",
        "-a",
        ".a",
        "a\n",
        "models/x",
        "gemini/",
        "gemini/a/b",
        "gemini/a:b",
        "gemini/../x",
        "anthropic/a:b",
        "openai/",
        "openai/../x",
        "openai//x",
        "Gemini/x",
        "openai/" + "x" * 101,
        "x" * 101,
        "größe",
        "a?key=b",
        "a%2e",
        5,
        [],
    ],
    ids=ascii,
)
def test_a_model_id_that_could_lead_elsewhere_in_an_address_is_refused(name):
    assert refusal(model_name, name).field == "model"


def test_what_was_left_out_is_the_platforms_choice():
    assert model_name(None) is None
    assert token_limit(None, 100) is None


@pytest.mark.parametrize("value", [1, 50, 100])
def test_a_token_limit_within_the_bounds_is_taken(value):
    assert token_limit(value, 100) == value


@pytest.mark.parametrize("value", [0, -1, 101, True, False, 1.0, "5", [], float("nan"), 10**100])
def test_every_other_token_limit_is_refused(value):
    failure = refusal(token_limit, value, 100)
    assert failure.field == "max_tokens"
    assert "1 to 100" in str(failure)


@given(ANYTHING)
def test_anything_at_all_is_taken_or_refused_in_our_words(value):
    checks = (
        lambda: text_field(value, "prompt", 50),
        lambda: category_list(value),
        lambda: model_name(value),
        lambda: token_limit(value, 100),
    )
    for check in checks:
        try:
            check()
        except InvalidInput as failure:
            assert failure.field in ("prompt", "categories", "model", "max_tokens")  # noqa: PT017  both ends are good
            str(failure).encode()


@given(st.text())
def test_what_was_taken_can_be_carried_as_utf8(text):
    try:
        text_field(text, "prompt", 1000).encode()
    except InvalidInput:
        return
