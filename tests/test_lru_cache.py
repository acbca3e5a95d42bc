"""What the three bounded stores promise: contract, model, keys, and limits that hold."""

import ast
import math
import unicodedata
from decimal import Decimal
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import lru_cache
from lru_cache import EXACT_HITS, LRUCache, RateLimitCache, ResponseCache, answer_size, response_key
from tests.cache_contract import ByteBoundContract, CacheContract, FakeClock, lines_run, run_together

STEADY = settings(derandomize=True, deadline=None)


class TestLRUCache(CacheContract):
    make = LRUCache


class TestResponseCacheAsAMap(CacheContract):
    make = ResponseCache


class TestRateLimitCacheAsAMap(CacheContract):
    make = RateLimitCache


class TestLRUCacheBytes(ByteBoundContract):
    make = LRUCache


class TestResponseCacheBytes(ByteBoundContract):
    make = ResponseCache


# The model: a list from the oldest to the youngest, and the rules in plain words.


class CacheAgainstModel(RuleBasedStateMachine):
    keys = st.sampled_from("abcdef")

    @initialize(max_size=st.integers(1, 4), max_bytes=st.one_of(st.none(), st.integers(1, 12)))
    def start(self, max_size, max_bytes):
        self.clock = FakeClock()
        self.max_size, self.max_bytes = max_size, max_bytes
        self.cache = LRUCache(max_size, 10, timer=self.clock, max_bytes=max_bytes, sizeof=len)
        self.model: list[tuple[str, str, float]] = []
        self.counts = {"hits": 0, "misses": 0, "evictions": 0, "expirations": 0}

    def touch(self, key):
        """Return the live value; an expired one leaves the model now."""
        for item in self.model:
            if item[0] == key:
                if item[2] > self.clock.now:
                    return item
                self.model.remove(item)
                self.counts["expirations"] += 1
        return None

    def is_full_for(self, value):
        held = sum(len(item[1]) for item in self.model)
        return len(self.model) >= self.max_size or (self.max_bytes and held + len(value) > self.max_bytes)

    @rule(key=keys, value=st.text("x", max_size=8), ttl=st.sampled_from([None, 0, 1, 3, 10, 30]))
    def put(self, key, value, ttl):
        self.cache.put(key, value, ttl)
        self.model = [item for item in self.model if item[0] != key]
        if ttl == 0 or (self.max_bytes and len(value) > self.max_bytes):
            return
        while self.is_full_for(value):
            leaver = self.model.pop(0)
            self.counts["evictions" if leaver[2] > self.clock.now else "expirations"] += 1
        self.model.append((key, value, self.clock.now + (10 if ttl is None else ttl)))

    @rule(key=keys)
    def get(self, key):
        found = self.touch(key)
        self.counts["hits" if found else "misses"] += 1
        assert self.cache.get(key) == (found[1] if found else None)
        if found:
            self.model.remove(found)
            self.model.append(found)

    @rule(key=keys)
    def peek(self, key):
        found = self.touch(key)
        assert self.cache.peek(key) == (found[1] if found else None)

    @rule(key=keys)
    def delete(self, key):
        found = self.touch(key)
        assert self.cache.delete(key) is (found is not None)
        if found:
            self.model.remove(found)

    @rule()
    def clear(self):
        self.cache.clear()
        self.model = []

    @rule(seconds=st.sampled_from([0.5, 1, 2, 7, 10]))
    def wait(self, seconds):
        self.clock.advance(seconds)

    @invariant()
    def the_cache_is_its_model(self):
        stats = self.cache.get_stats()
        assert self.cache.size() == stats["size"] == len(self.model) <= self.max_size
        assert stats["bytes"] == sum(len(item[1]) for item in self.model) <= (self.max_bytes or math.inf)
        assert {name: stats[name] for name in self.counts} == self.counts


TestCacheAgainstModel = CacheAgainstModel.TestCase
TestCacheAgainstModel.settings = settings(STEADY, max_examples=150, stateful_step_count=40)


# Keys

PIECES = [
    "",
    ",",
    "|",
    '"',
    "[",
    "]",
    "null",
    "1",
    "a",
    "b",
    " ",
    "\\u00e9",
    "\u00e9",
    "e\u0301",
    "\ud83d",
    "\ude00",
]
texts = st.lists(st.sampled_from([*PIECES, "\U0001f600"]), max_size=3).map("".join)
plain = st.one_of(st.none(), st.booleans(), st.sampled_from([0, 1, 0.0, 1.0, 0.7]), texts)
lists = st.lists(texts, max_size=3)
values = st.one_of(plain, lists, lists.map(tuple), st.dictionaries(texts, plain, max_size=2))
asks = st.tuples(
    texts, st.sampled_from(["text", "code"]), st.dictionaries(st.sampled_from(["a", "b"]), values, max_size=2)
)


def canonical(value):
    """Say what an ask is, without JSON: kind and content of every part."""
    if isinstance(value, (list, tuple)):
        return ("list", *map(canonical, value))
    if isinstance(value, dict):
        return ("dict", frozenset((name, canonical(item)) for name, item in value.items()))
    return (type(value), value)


@settings(STEADY, max_examples=60)
@given(st.lists(asks, min_size=20, max_size=20))
def test_two_keys_are_equal_exactly_when_the_asks_are(batch):  # 190 pairs in each of 60 batches
    known = [(canonical(list(ask)), response_key(ask[0], ask[1], **ask[2])) for ask in batch]
    for (one, key), (other, other_key) in combinations(known, 2):
        assert (key == other_key) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["a,b"], ["a", "b"]),
        (["a|b"], ["a", "b"]),
        ("abc", ["a", "b", "c"]),
        ("a", ["a"]),
        ([], None),
        ("", None),
        ("None", None),
        ("1", 1),
        (1, 1.0),
        (1, True),
        (["b", "a"], ["a", "b"]),
        (unicodedata.normalize("NFC", "\u00e9"), unicodedata.normalize("NFD", "\u00e9")),
        ("\U0001f600", "\ud83d\ude00"),
    ],
)
def test_what_looks_alike_has_its_own_key(one, other):
    assert response_key("p", "classify", categories=one) != response_key("p", "classify", categories=other)


def test_a_text_cannot_pretend_to_be_an_option():
    forged = response_key('p","categories":["x"]', "classify")
    assert forged != response_key("p", "classify", categories=["x"])
    assert response_key("|x", "text") != response_key("x", "text|")


def test_tuples_and_the_order_of_options_do_not_matter():
    one = response_key("p", "classify", categories=("a", "b"), model="m")
    assert one == response_key("p", "classify", model="m", categories=["a", "b"])


def test_options_that_json_would_bend_are_refused():
    with pytest.raises(TypeError, match="text as its names"):
        response_key("p", "text", schema=[{1: "a"}])
    with pytest.raises(TypeError):
        response_key("p", "text", stop={"a", "b"})


# ResponseCache


def test_a_cached_response_comes_back_with_all_that_was_said_about_it():
    cache = ResponseCache(timer=FakeClock())
    cache.cache_response(
        "p", "text", "answer", 3, 5, Decimal("0.1"), options={"model": "m"}, provider="gemini"
    )
    assert cache.get_cached_response("p", "text", model="m") == {
        "response": "answer",
        "input_tokens": 3,
        "output_tokens": 5,
        "cost": Decimal("0.1"),
        "provider": "gemini",
    }
    assert cache.get_cached_response("p", "text") is None
    assert cache.get_cached_response("p", "code", model="m") is None


def test_nobody_can_change_a_cached_response_from_outside():
    cache = ResponseCache(timer=FakeClock())
    names = ["x"]
    cache.cache_response("p", "text", "answer", 1, 1, 0.0, names=names)
    names.append("mine")
    found = cache.get_cached_response("p", "text")
    found["response"] = "forged"
    found["names"].append("forged")
    again = cache.get_cached_response("p", "text")
    assert (again["response"], again["names"]) == ("answer", ["x"])


def test_a_response_expires_by_its_own_ttl():
    clock = FakeClock()
    cache = ResponseCache(timer=clock)
    cache.cache_response("p", "text", "answer", 1, 1, 0.0, 5)
    cache.cache_response("q", "text", "answer", 1, 1, 0.0, ttl=0)
    assert cache.get_cached_response("q", "text") is None
    clock.advance(5)
    assert cache.get_cached_response("p", "text") is None


def test_the_stats_of_responses_count_hits_misses_and_their_ratio():
    cache = ResponseCache(timer=FakeClock())
    cache.cache_response("p", "text", "answer", 1, 1, 0.0)
    for prompt in ("p", "p", "p", "q"):
        cache.get_cached_response(prompt, "text")
    stats = cache.get_stats()
    assert (stats["hit_count"], stats["miss_count"], stats["total_requests"]) == (3, 1, 4)
    assert stats["cache_hit_ratio"] == stats["hit_ratio"] == 0.75
    assert {"size", "max_size", "default_ttl"} <= stats.keys()


def test_a_response_weighs_its_utf8_text_and_a_fixed_overhead():
    class Answer:
        size_bytes = 77

    empty = answer_size({"response": ""})
    assert answer_size({"response": "abc"}) == answer_size("abc") == empty + 3
    assert answer_size({"response": "\u00e9\U0001f600\ud83d"}) == empty + 2 + 4 + 3
    assert answer_size(Answer()) == 77
    cache = ResponseCache(max_bytes=2 * empty + 10)
    for prompt in ("p", "q", "r"):
        cache.cache_response(prompt, "text", "12345", 1, 1, 0.0)
    assert cache.size() == 2


# RateLimitCache


@pytest.fixture
def clock():
    return FakeClock()


def test_hits_are_counted_per_key_and_window(clock):
    limits = RateLimitCache(timer=clock)
    assert [limits.increment_count("a") for _ in range(3)] == [1, 2, 3]
    assert limits.increment_count("b") == 1
    assert limits.increment_count("a", window_size=10) == 1
    assert (limits.get_count("a"), limits.get_count("a", 10), limits.get_count("c")) == (3, 1, 0)


def test_each_hit_leaves_when_its_own_window_ends(clock):
    limits = RateLimitCache(timer=clock)
    for _ in range(3):
        limits.increment_count("a", 60)
        clock.advance(20)
    assert limits.window("a", 60) == (40.0, 2)
    assert limits.seconds_left("a") == 20.0
    clock.advance(40)
    assert (limits.window("a", 60), limits.seconds_left("a")) == ((0.0, 0), 0.0)


def test_refused_hits_are_not_counted(clock):
    limits = RateLimitCache(timer=clock)
    assert [limits.admit("a", 3, 60) for _ in range(5)] == [True] * 3 + [False] * 2
    assert limits.get_count("a") == 3


def test_an_amount_is_admitted_whole_or_not_at_all(clock):
    limits = RateLimitCache(timer=clock)
    assert limits.admit("a", 10, 60, amount=7)
    assert not limits.admit("a", 10, 60, amount=4)
    assert limits.admit("a", 10, 60, amount=3)
    assert not limits.admit("b", 10, 60, amount=11)
    assert limits.get_stats()["windows"] == 1


def test_there_is_no_double_burst_at_the_minutes_edge(clock):
    limits = RateLimitCache(timer=clock)
    clock.now = 59.5
    assert sum(limits.admit("a", 10, 60) for _ in range(20)) == 10
    clock.now = 60.5
    assert sum(limits.admit("a", 10, 60) for _ in range(20)) == 0
    clock.now = 119.5
    assert sum(limits.admit("a", 10, 60) for _ in range(20)) == 10


@settings(STEADY, max_examples=200)
@given(
    gaps=st.lists(st.sampled_from([0, 0.25, 1, 5, 29.75, 59.75, 60]), max_size=60),
    limit=st.integers(0, 5),
)
def test_no_window_holds_more_than_its_limit_and_none_is_refused_too_soon(gaps, limit):
    clock, admitted = FakeClock(), []
    limits = RateLimitCache(timer=clock)
    for gap in gaps:
        clock.advance(gap)
        within = sum(moment > clock.now - 60 for moment in admitted)
        assert limits.get_count("a") == within
        fits = limits.admit("a", limit, 60)
        assert fits is (within < limit)
        if fits:
            admitted.append(clock.now)


def test_sixteen_threads_admit_exactly_the_limit():
    for _ in range(20):
        limits = RateLimitCache(timer=FakeClock())
        admitted = run_together(
            16, lambda _, limits=limits: sum(limits.admit("a", 50, 60) for _ in range(13))
        )
        assert sum(admitted) == 50


def test_a_flood_of_fresh_keys_gives_a_limited_caller_no_new_allowance(clock):
    limits = RateLimitCache(max_size=100, timer=clock)
    assert sum(limits.admit("mallory", 10, 60) for _ in range(12)) == 10
    clock.advance(1)
    for number in range(101):
        limits.admit(f"fresh {number}", 10, 60)
        limits.put(f"plain {number}", number)
        assert limits.size() <= 100
    assert limits.get_count("mallory") == 10
    assert not limits.admit("mallory", 10, 60)


def test_newcomers_to_a_full_store_share_one_counter(clock):
    limits = RateLimitCache(max_size=20, timer=clock)
    for number in range(20):
        limits.admit(number, 10, 60)
    admitted = sum(limits.admit(f"newcomer {number}", 10, 60) for number in range(50))
    assert admitted == 10
    assert limits.window("newcomer 3", 60) == (0.0, 10)
    assert limits.seconds_left("newcomer 49") == 60.0
    assert limits.admit("newcomer 1", 10, 3600)  # another window size has a counter of its own
    stats = limits.get_stats()
    assert (stats["windows"], stats["overflow"], stats["size"]) == (20, 51, 20)


def test_when_windows_have_ended_newcomers_get_their_own_again(clock):
    limits = RateLimitCache(max_size=20, timer=clock)
    for number in range(20):
        limits.admit(number, 1, 60)
    assert [limits.admit("late", 1, 60), limits.admit("later", 1, 60)] == [True, False]
    clock.advance(60)
    assert all(limits.admit(f"new {number}", 1, 60) for number in range(20))
    assert limits.get_stats()["windows"] == limits.size() == 20


def test_one_ended_window_among_many_live_ones_is_found(clock):
    limits = RateLimitCache(max_size=50, timer=clock)
    for number in range(50):
        limits.admit(number, 1, 10 if number == 30 else 3600)
    clock.advance(10)
    admitted = [limits.admit(f"new {number}", 1, 3600) for number in range(10)]
    assert sum(admitted) == 2  # the shared counter's one hit, and the freed place
    assert limits.get_count(30, 10) == 0


def test_a_plain_item_makes_way_for_a_window_and_never_the_other_way_round(clock):
    limits = RateLimitCache(max_size=3, timer=clock)
    limits.put("plain", 1)
    for key in "abc":
        limits.admit(key, 5, 60)
    assert limits.get("plain") is None
    limits.put("plain", 1)
    assert limits.get("plain") is None
    assert [limits.get_count(key) for key in "abc"] == [1, 1, 1]
    clock.advance(60)
    limits.put("plain", 1)
    assert limits.get("plain") == 1


def test_no_plain_key_can_name_a_window(clock):
    limits = RateLimitCache(timer=clock)
    limits.admit("a", 1, 60)
    for key in ("a", ("a", 60), ("window", "a", 60)):
        assert limits.get(key) is None
        assert limits.delete(key) is False
    assert not limits.admit("a", 1, 60)


def test_clear_gives_every_caller_a_fresh_start(clock):
    limits = RateLimitCache(max_size=1, timer=clock)
    for key in "ab":
        limits.admit(key, 1, 60)
    limits.clear()
    assert (limits.get_stats()["windows"], limits.get_count("a"), limits.get_count("b")) == (0, 0, 0)
    assert [limits.admit(key, 1, 60) for key in "abc"] == [True, True, False]  # "b" shares an emptied counter


def test_a_very_busy_window_stays_small_and_never_counts_too_low(clock):
    limits = RateLimitCache(timer=clock)
    step = 60 / 4096  # 8,192 hits in two windows
    for number in range(8192):
        clock.advance(step)
        counted = limits.increment_count("a")
        assert counted >= min(number + 1, 4096)
        assert counted <= 4096 + 4096 * 2 / EXACT_HITS + 1
    (window,) = limits._entries.values()
    assert len(window.hits) <= 2 * EXACT_HITS + 2
    clock.advance(60 + 60 / EXACT_HITS)
    assert limits.get_count("a") == 0


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf])
def test_a_window_without_an_end_or_a_beginning_is_refused(wrong):
    with pytest.raises(ValueError, match="window_size must be a number of seconds above zero"):
        RateLimitCache().increment_count("a", wrong)


def test_a_negative_amount_and_a_limit_that_is_no_number_open_no_door():
    with pytest.raises(ValueError, match="amount must be zero or more"):
        RateLimitCache().admit("a", 1, 60, amount=-1)
    assert not RateLimitCache().admit("a", math.nan, 60)


def test_a_newcomer_to_a_full_store_costs_the_same_however_large_it_is(clock):
    def work(size):
        limits = RateLimitCache(max_size=size, timer=clock)
        for number in range(size):
            limits.admit(number, 5, 60)
        return [
            lines_run(act, "lru_cache.py")
            for act in (lambda: limits.admit("new", 5, 60), lambda: limits.window("new", 60))
        ]

    assert work(10) == work(2000)


def test_the_stores_read_no_wall_clock():
    tree = ast.parse(Path(lru_cache.__file__).read_text(encoding="utf-8"))
    asked = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "time"
    }
    imported = {
        name.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in node.names
    }
    assert asked == {"monotonic"}
    assert not imported & {"datetime", "time_ns"}
