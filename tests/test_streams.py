"""streams.py: a reader hears pieces, silences, the end and every failure; the road hears that its reader has left."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from errors import CallerLeft, ContentBlocked, DeadlineExceeded, Overloaded
from streams import Roads, Stream
from taps import Beginning, Tap
from tasks import Answer, Bill
from tests.readers import wait_until

FIRST = Beginning("gemini", "m-1", 1, "miss")
ANSWER = Answer("one two", Bill(), "miss")
# Far above what anything here takes; reached only where a promise is broken.
LONG = 10.0
SHORT = 0.005


@pytest.fixture
def roads() -> Iterator[Roads]:
    """None of a test's threads is left behind."""
    made = Roads()
    yield made
    assert made.wait(LONG)


class Road:
    """A road that takes its steps one by one, when the test says so."""

    def __init__(self) -> None:
        self.steps: list[tuple[Callable[[Tap], Any], threading.Event]] = []
        self.go = threading.Semaphore(0)
        self.done = threading.Semaphore(0)
        self.script: list[Callable[[Tap], Any]] = []

    def __call__(self, tap: Tap) -> Answer:
        for step in self.script:
            assert self.go.acquire(timeout=LONG)
            try:
                step(tap)
            finally:
                self.done.release()
        return ANSWER

    def walk(self, steps: int = 1) -> None:
        """Let it take so many steps, and wait until it has."""
        for _ in range(steps):
            self.go.release()
            assert self.done.acquire(timeout=LONG)


def road(*script: Callable[[Tap], Any]) -> Road:
    made = Road()
    made.script = list(script)
    return made


def begin(tap: Tap) -> None:
    tap.begin(FIRST)


def say(text: str) -> Callable[[Tap], None]:
    return lambda tap: tap.say(text)


def fail(failure: BaseException) -> Callable[[Tap], None]:
    def step(_: Tap) -> None:
        raise failure

    return step


# What a reader hears.


def test_a_reader_hears_the_beginning_each_piece_and_then_the_answer(roads):
    way = road(begin, say("one"), say(" two"))
    stream = Stream(way, roads)
    way.walk()
    assert stream.start() == FIRST
    way.walk()
    pieces = stream.pieces(LONG)
    assert next(pieces) == "one"
    way.walk()
    assert list(pieces) == [" two"]
    assert (stream.failure(), stream.answer()) == (None, ANSWER)


def test_an_answer_that_is_there_already_is_the_start(roads):
    assert Stream(lambda tap: ANSWER, roads).start() == ANSWER


def test_what_fails_before_the_first_piece_is_raised_at_the_start(roads):
    with pytest.raises(DeadlineExceeded):
        Stream(lambda tap: fail(DeadlineExceeded())(tap), roads).start()


def test_a_bug_before_the_first_piece_is_raised_as_it_is(roads):
    with pytest.raises(ZeroDivisionError):
        Stream(lambda tap: 1 / 0, roads).start()


@pytest.mark.parametrize("failure", [ContentBlocked(), RuntimeError("a bug of ours")], ids=["fault", "bug"])
def test_what_fails_after_the_first_piece_ends_the_pieces(roads, failure):
    def way(tap: Tap) -> Answer:
        begin(tap)
        tap.say("one")
        raise failure

    stream = Stream(way, roads)
    assert stream.start() == FIRST
    assert list(stream.pieces(LONG)) == ["one"]
    assert stream.failure() is failure
    with pytest.raises(type(failure)):
        stream.answer()


def test_a_silence_is_told_each_time_that_patience_ends(roads):
    way = road(begin, say("one"))
    stream = Stream(way, roads)
    way.walk()
    stream.start()
    pieces = stream.pieces(SHORT)
    assert [next(pieces), next(pieces), next(pieces)] == ["", "", ""]
    way.walk()
    assert [text for text in pieces if text] == ["one"]


def test_pieces_that_wait_already_are_told_without_a_silence_between_them(roads):
    stream = Stream(lambda tap: (begin(tap), *map(tap.say, "abcdefgh"), ANSWER)[-1], roads)
    assert stream.start() == FIRST
    assert roads.wait(LONG)
    assert "".join(stream.pieces(SHORT)) == "abcdefgh"


# A reader who leaves.


def test_a_reader_who_left_before_anything_came_is_found_out_by_the_first_piece(roads):
    way = road(begin)
    stream = Stream(way, roads)
    stream.leave()
    way.walk()
    assert isinstance(stream.failure(), CallerLeft)


def test_a_reader_who_leaves_in_the_middle_is_found_out_by_the_next_piece(roads):
    way = road(begin, say("one"), say("two"))
    stream = Stream(way, roads)
    way.walk(2)
    assert stream.start() == FIRST
    stream.leave()
    way.walk()
    assert isinstance(stream.failure(), CallerLeft)


def test_a_reader_who_leaves_once_the_last_piece_was_said_changes_nothing(roads):
    way = road(begin, say("one"), lambda tap: tap.end())
    stream = Stream(way, roads)
    way.walk(2)
    stream.leave()
    way.walk()
    assert stream.answer() == ANSWER


def test_a_slow_reader_never_holds_the_road_up(roads):
    stream = Stream(
        lambda tap: (begin(tap), *(tap.say("x" * 1000) for _ in range(10_000)), ANSWER)[-1], roads
    )
    assert roads.wait(LONG), "nobody has read anything yet"
    stream.start()
    assert sum(map(len, stream.pieces(LONG))) == 10_000_000


# The end of the road.


def test_whoever_wants_to_know_is_told_once_the_road_has_ended_or_at_once(roads):
    told: list[Future[Answer]] = []
    way = road(begin)
    stream = Stream(way, roads)
    stream.when_over(told.append)
    assert told == []
    way.walk()
    assert roads.wait(LONG)
    stream.when_over(told.append)
    assert [over.result() for over in told] == [ANSWER, ANSWER]


def test_roads_under_way_are_counted_and_waited_for_no_longer_than_was_said(roads):
    way = road(begin)
    Stream(way, roads)
    assert roads.under_way() == 1
    assert not roads.wait(0.01)
    way.walk()
    assert roads.wait(LONG)
    assert roads.under_way() == 0


def test_a_road_for_which_the_system_has_no_thread_is_refused_and_not_under_way(roads):
    more_than_there_is, before = 2**50, threading.stack_size()
    threading.stack_size(more_than_there_is)
    try:
        with pytest.raises(Overloaded):
            Stream(lambda tap: ANSWER, roads)
    finally:
        threading.stack_size(before)
    assert roads.under_way() == 0
    assert roads.wait(0.0)
    assert Stream(lambda tap: ANSWER, roads).start() == ANSWER


def test_a_road_leaves_no_thread_behind(roads):
    for _ in range(50):
        Stream(lambda tap: ANSWER, roads).start()
    assert roads.wait(LONG)
    # A thread that has done its work takes a moment to end.
    assert wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "stream"])
