"""log_lines.py: the quick way and the careful way write the same lines, and neither lets a secret through."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from log_lines import LineMaker, json_line

KEY = "AI" + "za" + "Sy" + "b" * 33
PLAIN = {
    "timestamp": datetime(2026, 7, 1, 12, 0, 0, 250_000, tzinfo=UTC),
    "event": "REQUEST_END",
    "status": 200,
    "duration_ms": 1.25,
    "cached": True,
    "key_id": None,
    "cost": {"cost_nanodollars": 1750525, "cache_status": "hit"},
    "rates": [{"model": "gemini-3.1-flash-lite", "input_nano": "250"}],
}

words = st.text(max_size=40)
values = st.one_of(
    words,
    st.integers(-(2**70), 2**70),
    st.booleans(),
    st.none(),
    st.dictionaries(words, words, max_size=4),
    st.lists(st.dictionaries(words, words, max_size=2), max_size=3),
)


@settings(derandomize=True, deadline=None, max_examples=500)
@given(st.dictionaries(st.sampled_from("abcdefgh"), values, max_size=6))
def test_the_quick_line_says_what_the_careful_line_says(record):
    assert json.loads(LineMaker().line(record)) == json.loads(json_line(record))


def test_a_plain_record_is_one_line_with_its_moment_in_milliseconds():
    line = LineMaker().line(PLAIN)
    assert line.count(b"\n") == 1
    assert json.loads(line) == {**PLAIN, "timestamp": "2026-07-01T12:00:00.250+00:00"}


@pytest.mark.parametrize(
    "record",
    [
        {"path": f"/x?key={KEY}"},
        {"details": {KEY: 1}},
        {"details": {"header": f"Bearer {KEY}"}},
        {"list": [{"note": KEY}]},
        {"deep": {"er": {"still": KEY}}},
    ],
    ids=lambda record: next(iter(record)),
)
def test_no_secret_leaves_by_the_quick_way(record):
    maker = LineMaker()
    for _ in range(2):  # the second time the words of the first are known
        line = maker.line(record).decode()
        assert not [KEY[i : i + 8] for i in range(len(KEY) - 7) if KEY[i : i + 8] in line]


@pytest.mark.parametrize(
    "text", ["a\nb", "\r\n", "\x1b[2J", "\u2028", "\x85", "\u202e", "\x7f", "é", "\ud800"]
)
def test_nothing_in_a_text_can_end_hide_or_forge_a_line(text):
    line = LineMaker().line({"path": text})
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert all(32 <= byte < 127 for byte in line[:-1])
    assert json.loads(line)["path"] in (text, text.encode("utf-8", "replace").decode())


def test_the_words_in_mind_are_bounded():
    maker = LineMaker()
    for number in range(20_000):
        maker.line({"request_id": f"id-{number}"})
    assert len(maker._harmless) <= 4096
