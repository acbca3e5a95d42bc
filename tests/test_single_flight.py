"""Identical asks in the air make one call, whatever becomes of it."""

import ast
import gc
import math
import threading
import time
import traceback
import weakref
from collections import Counter
from pathlib import Path

import pytest

import single_flight
from single_flight import FlightTimeout, Landing, SharedFailure, SingleFlight
from tests.cache_contract import run_together


class BusyError(Exception):
    """A failure whose constructor wants more than its message, as those of client libraries do."""

    retryable = True

    def __init__(self, message, *, status):
        super().__init__(message)
        self.status = status


class RefusedError(BusyError):
    retryable = False


def soon():
    return time.monotonic() + 30


def wait_for_followers(flights, count):
    patience = soon()
    while flights.waiting() < count:
        assert time.monotonic() < patience
        time.sleep(0.0005)


class Upstream:
    """Fails as often as told, each time only when all the expected followers wait for it."""

    def __init__(self, flights, followers, failures=()):
        self.flights, self.followers, self.failures = flights, followers, list(failures)
        self.calls = 0
        self.together = 0
        self.most_together = 0

    def __call__(self):
        self.calls += 1
        self.together += 1
        self.most_together = max(self.most_together, self.together)
        wait_for_followers(self.flights, self.followers)
        self.followers -= 1  # Whoever takes the free seat no longer waits.
        self.together -= 1
        if self.failures:
            raise self.failures.pop(0)
        return f"answer {self.calls}"


def fly_together(count, failures=()):
    flights = SingleFlight()
    upstream = Upstream(flights, count - 1, failures)
    results = run_together(count, lambda _: flights.fly("key", upstream, soon()))
    assert (flights.in_air(), flights.waiting()) == (0, 0)
    assert upstream.most_together == 1
    return upstream, results


def kinds(results):
    return Counter(type(result) for result in results)


def test_a_lone_ask_leads_its_own_flight():
    flights = SingleFlight()
    assert flights.fly("key", lambda: flights.in_air(), soon()) == Landing(value=1, coalesced=False)
    assert flights.in_air() == 0


def test_sixty_four_identical_asks_make_one_call():
    for _ in range(20):
        upstream, results = fly_together(64)
        assert upstream.calls == 1
        assert Counter(results) == {Landing("answer 1", False): 1, Landing("answer 1", True): 63}


def test_with_a_cache_inside_even_late_comers_make_no_second_call():
    for _ in range(20):
        flights, cache, calls = SingleFlight(), {}, []

        def call(cache=cache, calls=calls):
            if "key" not in cache:
                calls.append(1)
                cache["key"] = "answer"
            return cache["key"]

        results = run_together(
            64, lambda _, flights=flights, call=call: flights.fly("key", call, soon()).value
        )
        assert results == ["answer"] * 64
        assert len(calls) == 1


def test_different_asks_fly_at_the_same_time():
    flights = SingleFlight()
    both_in_the_air = threading.Barrier(2)
    results = run_together(2, lambda index: flights.fly(index, lambda: both_in_the_air.wait(30), soon()))
    assert [result.coalesced for result in results] == [False, False]


def test_an_ask_after_the_landing_starts_a_new_flight():
    flights = SingleFlight()
    assert flights.fly("key", lambda: 1, soon()) == (1, False)
    assert flights.fly("key", lambda: 2, soon()) == (2, False)


def test_a_failed_leader_causes_one_further_call_and_all_others_get_its_answer():
    for _ in range(20):
        upstream, results = fly_together(16, [BusyError("busy", status=503)])
        assert upstream.calls == 2
        assert kinds(results) == {BusyError: 1, Landing: 15}
        landed = [result for result in results if isinstance(result, Landing)]
        assert Counter(landed) == {Landing("answer 2", False): 1, Landing("answer 2", True): 14}


def test_after_two_failures_there_is_no_third_call():
    for _ in range(20):
        upstream, results = fly_together(
            16, [BusyError("first", status=503), BusyError("second", status=503)]
        )
        assert upstream.calls == 2
        assert kinds(results) == {BusyError: 2, SharedFailure: 14}
        assert {str(result.cause) for result in results if isinstance(result, SharedFailure)} == {"second"}


def test_a_permanent_failure_is_shared_without_a_further_call():
    for failure in (RefusedError("refused", status=422), ValueError("no attribute at all")):
        upstream, results = fly_together(16, [failure])
        assert upstream.calls == 1
        assert kinds(results) == {type(failure): 1, SharedFailure: 15}


def test_the_leader_gets_its_own_exception_and_each_follower_a_copy_of_its_own():
    failure = RefusedError("refused", status=422)
    failure.details = {"attempts": 3}
    _, results = fly_together(8, [failure])
    causes = [result.cause for result in results if isinstance(result, SharedFailure)]
    assert failure in results
    assert len({id(cause) for cause in (*causes, failure)}) == 8
    for cause in causes:
        assert (type(cause), str(cause), cause.status) == (RefusedError, "refused", 422)
        assert cause.details == {"attempts": 3}
        assert cause.__traceback__ is None
    assert len(traceback.extract_tb(failure.__traceback__)) <= 6  # one way up, the leader's


def test_a_failure_that_cannot_be_copied_is_shared_as_it_is():
    class OddError(Exception):
        def __new__(cls, *, code):
            return super().__new__(cls, code)

        def __init__(self, *, code):
            super().__init__(code)

    failure = OddError(code=1)
    _, results = fly_together(4, [failure])
    assert [result.cause is failure for result in results if isinstance(result, SharedFailure)] == [True] * 3


def test_a_landed_failure_leaves_nothing_in_memory():
    class Prompt:
        pass

    flights = SingleFlight()
    left = []

    def call():
        prompt = Prompt()
        left.append(weakref.ref(prompt))
        wait_for_followers(flights, 3)
        raise RefusedError("refused", status=422)

    def ask(_):
        try:
            flights.fly("key", call, soon())
        except (RefusedError, SharedFailure) as failure:
            return type(failure)

    gc.disable()
    try:
        assert Counter(run_together(4, ask)) == {RefusedError: 1, SharedFailure: 3}
        assert [prompt() for prompt in left] == [None]
    finally:
        gc.enable()


def test_a_follower_waits_no_longer_than_its_own_deadline():
    flights = SingleFlight()
    leader_may_land = threading.Event()

    def call():
        leader_may_land.wait(30)
        return "late"

    def ask(index):
        if index == 0:
            return flights.fly("key", call, soon())
        while not flights.in_air():
            time.sleep(0.0005)
        begun = time.monotonic()
        try:
            return flights.fly("key", call, begun + 0.05)
        except FlightTimeout:
            leader_may_land.set()
            return time.monotonic() - begun

    leader, waited = run_together(2, ask)
    assert leader == ("late", False)
    assert 0.05 <= waited < 5
    assert flights.in_air() == 0


def test_a_deadline_already_past_and_one_that_never_comes_are_both_kept():
    flights = SingleFlight()
    asked = threading.Event()

    def call():
        with pytest.raises(FlightTimeout):
            flights.fly("key", call, time.monotonic() - 1)
        asked.set()
        wait_for_followers(flights, 1)
        return "answer"

    def ask(index):
        if index:
            asked.wait(30)
        return flights.fly("key", call, math.inf)

    assert run_together(2, ask) == [("answer", False), ("answer", True)]


def test_a_free_seat_is_not_taken_after_the_deadline_and_is_not_left_behind():
    now = [0.0]
    flights = SingleFlight(timer=lambda: now[0])

    def call():
        wait_for_followers(flights, 1)
        now[0] = 100.0
        raise BusyError("busy", status=503)

    results = run_together(2, lambda _: flights.fly("key", call, deadline=50.0))
    assert kinds(results) == {BusyError: 1, FlightTimeout: 1}
    assert flights.in_air() == 0


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_leader_leaves_nobody_hanging(interruption):
    upstream, results = fly_together(8, [interruption()])
    assert upstream.calls == 2
    assert kinds(results) == {interruption: 1, Landing: 7}
    upstream, results = fly_together(8, [interruption(), interruption()])
    assert upstream.calls == 2
    assert kinds(results) == {interruption: 2, FlightTimeout: 6}


def test_many_keys_many_rounds_leak_no_flight():
    flights = SingleFlight()
    calls = Counter()
    counting = threading.Lock()

    def call(key):
        with counting:
            calls[key] += 1
            turn = calls[key]
        if turn % 3 == 0:
            raise BusyError("busy", status=503)
        return key

    def ask(index):
        for step in range(200):
            key = (index + step) % 5
            try:
                assert flights.fly(key, lambda key=key: call(key), soon()).value == key
            except (BusyError, SharedFailure):
                continue

    assert run_together(8, ask) == [None] * 8
    assert (flights.in_air(), flights.waiting()) == (0, 0)


def test_flights_read_no_wall_clock():
    tree = ast.parse(Path(single_flight.__file__).read_text(encoding="utf-8"))
    asked = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "time"
    }
    assert asked == {"monotonic"}
