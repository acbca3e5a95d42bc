"""Code is passed on as it comes, without the fence that models put around it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taps import Announced, Beginning, Unfenced
from wording import unfence

BEGINNING = Beginning("scripted", "model", 1)
CODE = "def f():\n    return 1\n"
ONE_BLOCK = [
    CODE,
    "x = 1",
    "",
    "\n\n",
    "```",
    "```python",
    f"```python\n{CODE}```",
    f"```\n{CODE}\n```\n",
    f"\n\n  ```py title=a\n{CODE}```   \n\n",
    "```python\n```",
    "```python\n\n```",
    "```python\nprint('```')\n```",
    f"Here you are:\n```python\n{CODE}```\nAs you wished.",
    "`one` word",
    "`" * 2,
    "x = `y`\n",
]


# Where fences are likely, and where they hide: inline, half, in a comment.
LINES = st.lists(
    st.sampled_from(["", "x = 1", "    return x", "`x`", "``", "a ``` b", "# ```", "`", "é\u2028ß", "\r"]),
    max_size=6,
).map("\n".join)
BLANKS, LANGUAGE = (
    st.sampled_from(["", "\n", " \n\n", "   "]),
    st.sampled_from(["", "py", "c++", " js ", "x" * 40]),
)
BLOCKS = st.builds("{}```{}\n{}\n```{}".format, BLANKS, LANGUAGE, LINES, BLANKS)


class Heard:
    """A tap that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.begun: list[Beginning] = []
        self.ended = 0

    def begin(self, beginning: Beginning) -> None:
        self.begun.append(beginning)

    def say(self, text: str) -> None:
        assert text
        assert not self.ended
        self.said.append(text)

    def end(self) -> None:
        self.ended += 1


def passed_on(pieces: list[str]) -> str:
    heard = Heard()
    tap = Unfenced(heard)
    tap.begin(BEGINNING)
    for piece in pieces:
        tap.say(piece)
    tap.end()
    assert (heard.begun, heard.ended) == ([BEGINNING], 1)
    return "".join(heard.said)


def cut(text: str, places: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in pairwise(edges)]


@pytest.mark.parametrize("text", ONE_BLOCK)
@given(places=st.lists(st.integers(0, 200)))
def test_however_code_is_cut_what_is_passed_on_is_what_is_answered(text, places):
    assert passed_on(cut(text, places)) == unfence(text)


@given(text=BLOCKS | LINES, places=st.lists(st.integers(0, 200)))
def test_the_same_holds_for_any_code_in_one_block_or_in_none(text, places):
    assert passed_on(cut(text, places)) == unfence(text)


@pytest.mark.parametrize("text", ONE_BLOCK)
def test_letter_by_letter_nothing_is_lost_or_added(text):
    assert passed_on(list(text)) == unfence(text)


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("```python\nunfinished = True", "unfinished = True"),
        ("```\nx = 1\n```\nand\n```\ny = 2\n```", "x = 1\n```\nand\n```\ny = 2"),
    ],
)
def test_where_a_fence_is_known_too_late_only_the_first_line_is_gone(text, passed):
    assert passed_on(list(text)) == passed
    assert unfence(text) == text


def test_code_is_not_held_back_until_its_end():
    heard = Heard()
    tap = Unfenced(heard)
    tap.say("```python\n")
    for line in CODE.splitlines(keepends=True):
        tap.say(line)
    assert "".join(heard.said).startswith("def f():\n    return 1")


def test_text_without_a_fence_is_passed_on_at_once():
    heard = Heard()
    Unfenced(heard).say("def")
    assert heard.said == ["def"]


def test_a_listener_hears_what_the_cache_had_to_do_with_it():
    heard = Heard()
    Announced(heard, "miss").begin(BEGINNING)
    assert [beginning.cache_status for beginning in heard.begun] == ["miss"]
