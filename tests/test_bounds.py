"""What a call may cost at most: no bill of a provider that keeps to the cap is above it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices.data_snapshot import get_snapshot
from hypothesis import given
from hypothesis import strategies as st

from bounds import SHAPES_TOKENS, WRAPPING_TOKENS, most_given, most_nano
from chats import Chat, ToolCall, Turn
from prices import PACKAGE_NAMES, OwnPrice, PriceBook, Rates, Sheet
from tasks import Ask, Task, Usage
from wording import Wording, word

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
BOOK = PriceBook()
MODELS = [
    (provider, model.id)
    for provider, name in PACKAGE_NAMES.items()
    for listed in get_snapshot().providers
    if listed.id == name
    for model in listed.models
    if BOOK.sheet(provider, model.id, NOW) is not None
]


def wording(text: str) -> Wording:
    return Wording("", text, None)


def most(sheet: Sheet, given_tokens: int, max_tokens: int) -> int | None:
    """The bound of a plain prompt that cannot be more than so many tokens."""
    text = "x" * (given_tokens - most_given(wording("")))
    return most_nano(sheet, wording(text), max_tokens)


def test_the_book_has_models_of_every_provider_and_some_with_steps():
    assert {provider for provider, _ in MODELS} == set(PACKAGE_NAMES)
    assert sum(len(BOOK.sheet(*model, NOW).steps) > 1 for model in MODELS) > 3


@given(
    st.sampled_from(MODELS),
    st.integers(17, 1_200_000),
    st.integers(1, 70_000),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_no_bill_within_the_cap_is_above_the_bound(
    model, given_tokens, cap, input_share, output_share, cached_share
):
    """Of any priced model, at any step of its prices, however much of the prompt was cached."""
    sheet = BOOK.sheet(*model, NOW)
    tokens = round(given_tokens * input_share)
    usage = Usage(tokens, round(cap * output_share), cached_tokens=round(tokens * cached_share))
    cost, bound = sheet.cost(usage), most(sheet, given_tokens, cap)
    if bound is None:
        assert not sheet.has_output
    else:
        assert cost.total_nano <= bound


def test_a_prompt_above_a_step_is_bound_at_the_dearer_price():
    sheet = BOOK.sheet("gemini", "gemini-2.5-pro", NOW)
    below, above = most(sheet, 200_000, 1000), most(sheet, 200_001, 1000)
    assert below == 200_000 * 1250 + 1000 * 10_000
    assert above == 200_001 * 2500 + 1000 * 15_000


def test_a_call_that_ends_on_a_dearer_step_below_is_covered_too():
    """Above 100 tokens everything is cheaper: the dearest call is not the longest."""
    dear, cheap = (Rates("m", nano, nano, nano, "test") for nano in (10, 1))
    sheet = Sheet(((-1, dear), (100, cheap)))
    assert most(sheet, 300, 50) == 100 * 10 + 50 * 10


def test_cached_tokens_that_cost_more_than_fresh_ones_are_covered():
    book = PriceBook([OwnPrice("gemini", Rates("m", 1, 9, 1, "test"))])
    assert most(book.sheet("gemini", "m", NOW), 100, 1) == 901


def test_embeddings_have_no_output_and_need_no_price_for_it():
    sheet = Sheet(((-1, Rates("m", 20, 20, 0, "test")),), has_output=False)
    texts = Wording("", "ab", None, inputs=("a", "b"))
    assert most_nano(sheet, texts, 8192) == most_given(texts) * 20
    assert most_nano(sheet, wording("ab"), 8192) is None


@pytest.mark.parametrize(
    "text", ["plain", "naïve", "中文字符", "👩‍👩‍👧", "\ufdfa" * 100, "ﬃ" * 100, "x\ud800"]
)
def test_no_token_is_shorter_than_a_byte_in_whichever_spelling_it_is_read(text):
    import unicodedata

    for spelled in (text, unicodedata.normalize("NFKC", text)):
        assert most_given(wording(text)) > len(spelled.encode("utf-8", "surrogatepass"))


def test_all_that_a_provider_reads_is_counted():
    """The system prompt, each turn, the tools and what they were called with, and the schema of the reply."""
    turns = (
        Turn("user", "q" * 1000),
        Turn("assistant", "a" * 1000, calls=(ToolCall("i" * 1000, "n" * 1000, "g" * 1000),)),
        Turn("tool", "t" * 1000, answers="r" * 1000),
    )
    chat = Chat(turns, system="s" * 1000, schema="h" * 1000, tools="o" * 1000)
    asked = Ask(Task.CHAT, chat.text, 0.0, chat=chat)
    assert most_given(word(asked)) > 9 * 1000 + SHAPES_TOKENS


def test_a_classification_is_bound_with_its_list_and_its_schema():
    asked = Ask(Task.CLASSIFY, "x", 0.0, categories=("c" * 100, "d" * 100))
    assert most_given(word(asked)) > 4 * 200 + SHAPES_TOKENS
    assert most_given(word(asked, repair=True)) > most_given(word(asked))


FULL = Chat(
    (
        Turn("user", "q"),
        Turn("assistant", "a", calls=(ToolCall("i", "n", "g"),)),
        Turn("tool", "t", answers="r"),
    ),
    system="s",
    schema="h",
    tools="o",
    tool_choice="c",
)
LONG = "x" * 1001


@pytest.mark.parametrize(
    ("longer", "more"),
    [
        (replace(FULL, turns=(replace(FULL.turns[0], text=LONG), *FULL.turns[1:])), 1000),
        (replace(FULL, turns=(*FULL.turns[:2], replace(FULL.turns[2], text=LONG))), 1000),
        (replace(FULL, turns=(*FULL.turns[:2], replace(FULL.turns[2], answers=LONG))), 2000),
        (replace(FULL, turns=(*FULL.turns[:1], replace(FULL.turns[1], calls=(ToolCall(LONG, "n", "g"),)), FULL.turns[2])), 2000),
        (replace(FULL, turns=(*FULL.turns[:1], replace(FULL.turns[1], calls=(ToolCall("i", LONG, "g"),)), FULL.turns[2])), 1000),
        (replace(FULL, turns=(*FULL.turns[:1], replace(FULL.turns[1], calls=(ToolCall("i", "n", LONG),)), FULL.turns[2])), 1000),
        (replace(FULL, system=LONG), 1000),
        (replace(FULL, schema=LONG), 2000),
        (replace(FULL, tools=LONG), 2000),
        (replace(FULL, tool_choice=LONG), 2000),
    ],
)  # fmt: skip
def test_each_part_that_is_longer_by_itself_raises_the_bound(longer, more):
    assert bound_of(longer) >= bound_of(FULL) + more


def bound_of(chat: Chat) -> int:
    return most_given(word(Ask(Task.CHAT, chat.text, 0.0, chat=chat)))


def test_each_message_each_call_and_each_text_has_room_for_its_wrapping():
    empty = ToolCall("", "", "")
    calls = [Chat((Turn("assistant", "", calls=(empty,) * count),)) for count in (1, 5)]
    turns = [Chat((Turn("user", ""),) * count) for count in (1, 5)]
    for few, many in (calls, turns):
        assert bound_of(many) >= bound_of(few) + 4 * WRAPPING_TOKENS
    one, five = (most_given(Wording("", "x" * count, None, inputs=("x",) * count)) for count in (1, 5))
    assert five == one + 4 + 4 * WRAPPING_TOKENS


def test_parts_of_a_nano_dollar_are_rounded_up_on_either_side():
    third = Rates("m", Decimal("0.3"), Decimal("0.1"), Decimal("0.3"), "test")
    assert most(Sheet(((-1, third),)), 101, 11) == 31 + 4


def test_a_prompt_below_a_step_is_not_bound_at_the_height_of_the_step():
    rates = Rates("m", 10, 10, 10, "test")
    assert most(Sheet(((-1, rates), (100_000, rates))), 300, 50) == 3_500
