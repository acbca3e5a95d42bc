"""The one policy of attempts: what is tried again, after which wait, and never beyond the deadline."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import (
    ContentBlocked,
    DeadlineExceeded,
    InvalidReply,
    Overloaded,
    TurnedAway,
    UpstreamFault,
    UpstreamRateLimited,
)
from providers.breaker import Breaker
from providers.retry import LEAST_SECONDS, Guard, RetryPolicy, is_transient
from providers.retry_budget import RetryBudget
from services import build_services
from tests.test_pipeline import impatient, nano, rebuilt, records
from tests.upstream import Fault

PROMPT = {"prompt": "Name three rivers."}


class Time:
    """A clock that moves when somebody sleeps or a call takes its time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def __call__(self) -> float:
        return self.now


def busy(delay: float | None = None) -> UpstreamFault:
    return UpstreamFault(transient=True, delay=delay)


def attempts_of(
    *outcomes: Any,
    deadline: float = 1000.0,
    most: int = 5,
    jitter: Callable[[float, float], float] = lambda low, high: 0.0,
    each: float = 0.0,
    guard: Guard | None = None,
) -> tuple[Any, Time, list[float]]:
    """What a policy makes of these outcomes (the last repeats): the result, its clock, the seconds it gave."""
    clock, given, left = Time(), [], list(outcomes)
    policy = RetryPolicy(most, sleep=clock.sleep, jitter=jitter, timer=clock)

    def attempt(seconds: float) -> Any:
        given.append(seconds)
        clock.now += each
        outcome = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    try:
        return policy.run(attempt, deadline, guard), clock, given
    except Exception as failure:  # noqa: BLE001 - what was raised is the result that a test judges
        return failure, clock, given


def test_five_passing_faults_are_five_calls_with_waits_of_1_2_4_and_8_seconds():
    fault = busy()
    result, clock, given = attempts_of(fault)
    assert result is fault
    assert clock.waits == [1, 2, 4, 8]
    assert given == [1000, 999, 997, 993, 985]


def test_a_good_answer_ends_it():
    result, clock, given = attempts_of(busy(), busy(), "answer")
    assert (result, clock.waits, len(given)) == ("answer", [1, 2], 3)


def test_waits_grow_to_sixty_seconds_and_no_further():
    _, clock, _ = attempts_of(busy(), most=10)
    assert clock.waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_the_providers_own_delay_takes_the_place_of_ours_with_jitter_on_top():
    _, clock, _ = attempts_of(busy(7), busy(0), busy(), "answer", jitter=lambda low, high: high)
    assert clock.waits == [7.5, 0.5, 4.5]


def test_jitter_is_never_negative_so_nobody_comes_back_too_early():
    seeded = random.Random(1)
    for _ in range(50):
        _, clock, _ = attempts_of(busy(3), "answer", jitter=seeded.uniform)
        assert 3 <= clock.waits[0] <= 3.5


def test_the_last_fault_comes_out_as_it_is_with_its_delay():
    first, last = busy(1), UpstreamRateLimited(transient=True, delay=47)
    result, clock, given = attempts_of(first, last, deadline=10)
    assert result is last
    assert result.delay == 47
    assert (clock.waits, len(given)) == ([1], 2)


@pytest.mark.parametrize("delay", [10, 47, 1e9, float("inf")])
def test_a_delay_that_ends_after_the_deadline_is_not_waited_for(delay):
    _, clock, given = attempts_of(busy(delay), deadline=10)
    assert (clock.waits, len(given)) == ([], 1)


@pytest.mark.parametrize(
    "failure",
    [UpstreamFault(), ContentBlocked(), Overloaded(), RuntimeError("bug"), ValueError("429 503")],
    ids=repr,
)
def test_what_is_not_known_to_pass_is_called_once(failure):
    result, clock, given = attempts_of(failure)
    assert result is failure
    assert (clock.waits, len(given)) == ([], 1)
    assert not is_transient(failure)


def test_a_reply_that_cannot_be_read_is_paid_for_twice_at_most():
    result, clock, given = attempts_of(InvalidReply(transient=True))
    assert type(result) is InvalidReply
    assert (clock.waits, len(given)) == ([1], 2)
    assert attempts_of(InvalidReply(transient=True), "answer")[0] == "answer"
    mixed = attempts_of(busy(), InvalidReply(transient=True), "answer")
    assert (mixed[0].code, len(mixed[2])) == ("upstream_invalid_response", 2)


def test_with_one_attempt_there_is_no_second():
    _, clock, given = attempts_of(busy(), most=1)
    assert (clock.waits, len(given)) == ([], 1)


def test_no_call_is_made_when_the_deadline_has_passed():
    for deadline in (0.0, -5.0, LEAST_SECONDS / 2):
        result, _, given = attempts_of("answer", deadline=deadline)
        assert type(result) is DeadlineExceeded
        assert given == []


def test_a_slow_provider_leaves_less_time_to_the_next_call():
    _, clock, given = attempts_of(busy(), deadline=10, each=3)
    assert given == [10, 6, 1]  # calls of 3 s with waits of 1 s and 2 s between them; no 4 s are left
    assert clock.waits == [1, 2]


def test_only_retries_that_are_made_are_paid_for():
    guard = Guard()
    attempts_of(busy(), guard=guard)
    assert (guard.budget.tokens, guard.budget.retries) == (500 - 4 * 5, 4)
    for refused in (
        attempts_of(busy(47), deadline=10, guard=guard),
        attempts_of(busy(), most=1, guard=guard),
        attempts_of(UpstreamFault(), guard=guard),
    ):
        assert len(refused[2]) == 1
    assert guard.budget.retries == 4


def test_without_tokens_the_first_call_is_still_free_and_its_fault_comes_out():
    guard, fault = Guard(budget=RetryBudget(4)), busy()
    result, clock, given = attempts_of(fault, guard=guard)
    assert (result, clock.waits, len(given)) == (fault, [], 1)
    assert attempts_of("answer", guard=guard)[0] == "answer"
    assert guard.budget.tokens == 4


def test_a_breaker_that_opens_ends_the_retries_at_once():
    guard = Guard(Breaker(failures_to_open=3))
    result, clock, given = attempts_of(busy(), guard=guard)
    assert (type(result), clock.waits, len(given)) == (UpstreamFault, [1, 2], 3)
    result, clock, given = attempts_of("answer", guard=guard)
    assert (type(result), clock.waits, given) == (TurnedAway, [], [])


def test_without_a_guard_nobody_elses_failures_count():
    for _ in range(30):
        assert len(attempts_of(busy())[2]) == 5


@given(
    delays=st.lists(st.one_of(st.none(), st.floats(0, 100)), min_size=1, max_size=8),
    deadline=st.floats(0, 120),
    each=st.floats(0, 20),
    most=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_no_wait_ever_ends_after_the_deadline_and_no_call_begins_after_it(delays, deadline, each, most, seed):
    clock, began = Time(), []

    def sleep(seconds: float) -> None:
        assert clock.now + seconds < deadline
        clock.sleep(seconds)

    def attempt(seconds: float) -> None:
        began.append(clock.now)
        assert seconds == pytest.approx(deadline - clock.now)
        assert seconds >= LEAST_SECONDS
        clock.now += min(each, seconds)
        raise busy(delays[len(began) % len(delays)])

    policy = RetryPolicy(most, sleep=sleep, jitter=random.Random(seed).uniform, timer=clock)
    with pytest.raises(UpstreamFault):
        policy.run(attempt, deadline)
    assert len(began) <= most
    assert len(clock.waits) == max(0, len(began) - 1)
    assert clock.now <= deadline or not began


# The same over the wire.


def test_the_providers_second_is_waited_for_and_one_bill_is_written(house, upstream):
    house.services.warm()
    upstream.script(Fault("rate_limited", delay="1s"))
    response = house.post("text", PROMPT)
    assert response.status_code == 200
    first, second = upstream.journal
    assert second.at - first.at >= 1.0
    (record,) = records(house)
    assert (record["attempts"], record["cost_nanodollars"]) == (2, nano(response))
    assert nano(response) == nano(response, "Overall") > 0


def test_a_wait_of_47_seconds_is_handed_to_a_caller_with_forty(make_house, upstream):
    house = make_house(llm_timeout_seconds=40.0)
    house.services.warm()
    upstream.script(Fault("rate_limited", delay="47s"))
    began = time.monotonic()
    response = house.post("text", PROMPT)
    assert (response.status_code, response.get_json()["code"]) == (429, "upstream_rate_limited")
    assert response.headers["Retry-After"] == "47"
    assert len(upstream.journal) == 1
    assert time.monotonic() - began < 20  # neither the delay nor all of the caller's time is waited for


def test_five_503s_are_five_calls_and_then_502(make_house, settings, upstream):
    waits: list[float] = []
    house = make_house(impatient(build_services(settings), waits))
    upstream.script(*["unavailable"] * 5)
    response = house.post("text", PROMPT)
    assert (response.status_code, response.get_json()["code"]) == (502, "upstream_error")
    assert (len(upstream.journal), waits) == (5, [1, 2, 4, 8])


def test_the_fifth_call_may_still_answer(make_house, settings, upstream):
    house = make_house(impatient(build_services(settings)))
    upstream.script("unavailable", "internal", "reset_before", "bad_gateway")
    response = house.post("text", PROMPT)
    assert (response.status_code, len(upstream.journal)) == (200, 5)
    assert nano(response) > 0


def test_llm_max_attempts_is_heard(make_house, settings, upstream):
    upstream.script(*["unavailable"] * 5)
    waits: list[float] = []
    policy = RetryPolicy(2, sleep=waits.append, jitter=lambda low, high: 0.0)
    limited = replace(settings, llm_max_attempts=1)
    assert make_house(build_services(limited)).post("text", PROMPT).status_code == 502
    assert len(upstream.journal) == 1
    assert (
        make_house(rebuilt(build_services(settings), policy=policy)).post("text", PROMPT).status_code == 502
    )
    assert (len(upstream.journal), waits) == (3, [1])
