"""The circuit breaker: a service that is down gets one probe at a time, and is found again soon after it is back."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from errors import (
    ContentBlocked,
    DeadlineExceeded,
    EmptyReply,
    InvalidReply,
    KeyRefused,
    ModelGone,
    OptionDeclined,
    Overloaded,
    PromptTooLong,
    ProviderUnreachable,
    TurnedAway,
    UpstreamFault,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
)
from providers.breaker import (
    CLOSED,
    FAILURES_TO_OPEN,
    HALF_OPEN,
    MOST_JITTER,
    OPEN,
    PAUSE,
    WEIGHT_OF_A_REFUSED_KEY,
    Breaker,
)
from tests.cache_contract import run_together

DOWN = [
    UpstreamFault(transient=True),
    ProviderUnreachable(transient=True),
    DeadlineExceeded(transient=True, unknown=True),
    InvalidReply(transient=True),
    InvalidReply(),
]
NOT_FOR_US = KeyRefused()
NOT_FOR_US.of_model = True
AT_WORK = [
    None,
    NOT_FOR_US,
    OptionDeclined(transient=True, delay=0),
    UpstreamFault(),
    ContentBlocked(),
    EmptyReply(),
    PromptTooLong(),
    ModelGone(),
    UpstreamRateLimited(transient=True, delay=5),
    UpstreamQuotaExhausted(),
]
OURS = [RuntimeError("bug"), Overloaded(), KeyboardInterrupt()]


class Bench:
    """A breaker on a clock of ours, without jitter unless asked for."""

    def __init__(
        self, jitter: Callable[[float, float], float] = lambda low, high: 0.0, **options: Any
    ) -> None:
        self.now = 100.0
        self.breaker = Breaker("scripted", timer=lambda: self.now, jitter=jitter, **options)

    def call(self, outcome: BaseException | None = None, during: Callable[[], None] | None = None) -> str:
        """One call with this outcome: `made`, or `turned away`."""
        try:
            with self.breaker.call():
                if during is not None:
                    during()
                if outcome is not None:
                    raise outcome
        except TurnedAway:
            return "turned away"
        except BaseException as failure:  # noqa: BLE001 - it is the outcome itself
            assert failure is outcome  # noqa: PT017 - or there was none
        return "made"

    def opened(self) -> Bench:
        for _ in range(FAILURES_TO_OPEN):
            assert self.call(UpstreamFault(transient=True)) == "made"
        assert self.breaker.state == OPEN
        return self


def fail() -> UpstreamFault:
    return UpstreamFault(transient=True)


# Opening.


@pytest.mark.parametrize("fault", DOWN, ids=repr)
def test_it_opens_after_so_many_failures_in_a_row_and_not_one_before(fault):
    bench = Bench()
    for _ in range(FAILURES_TO_OPEN - 1):
        assert bench.call(fault) == "made"
    assert (bench.breaker.state, bench.breaker.shut) == (CLOSED, False)
    assert bench.call(fault) == "made"
    assert (bench.breaker.state, bench.breaker.shut) == (OPEN, True)
    assert bench.call() == "turned away"


@pytest.mark.parametrize("outcome", AT_WORK, ids=repr)
def test_one_sign_of_work_starts_the_count_anew(outcome):
    bench = Bench()
    for _ in range(3):
        for _ in range(FAILURES_TO_OPEN - 1):
            bench.call(fail())
        bench.call(outcome)
    assert bench.breaker.state == CLOSED


@pytest.mark.parametrize("outcome", [outcome for outcome in AT_WORK if outcome], ids=repr)
def test_callers_whose_asks_are_at_fault_open_nothing_however_many_they_are(outcome):
    bench = Bench()
    for _ in range(FAILURES_TO_OPEN * 5):
        assert bench.call(outcome) == "made"
    assert bench.breaker.state == CLOSED


@pytest.mark.parametrize("outcome", OURS, ids=repr)
def test_what_is_no_word_of_the_service_neither_counts_nor_forgives(outcome):
    bench = Bench()
    for _ in range(FAILURES_TO_OPEN - 1):
        bench.call(fail())
        bench.call(outcome)
    assert bench.breaker.state == CLOSED
    bench.call(fail())
    assert bench.breaker.state == OPEN


def test_a_refused_key_opens_it_sooner_but_not_a_single_refusal():
    bench, calls = Bench(), 0
    while bench.call(KeyRefused()) == "made":
        calls += 1
    assert calls == -(-FAILURES_TO_OPEN // WEIGHT_OF_A_REFUSED_KEY) == 7


def test_thirty_percent_of_independent_faults_never_open_it():
    dice, bench = random.Random(1), Bench()
    for _ in range(100_000):
        assert bench.call(fail() if dice.random() < 0.3 else None) == "made"


# Probing.


def test_turned_away_says_when_to_come_back_and_costs_no_call():
    bench = Bench().opened()
    bench.now += 0.5
    with pytest.raises(TurnedAway) as refusal, bench.breaker.call():
        pytest.fail("no call may be made")
    fault = refusal.value
    assert (fault.status, fault.code, fault.delay) == (503, "no_provider", PAUSE - 0.5)
    assert not fault.transient


def test_a_probe_goes_every_two_to_three_seconds_and_only_one():
    dice = random.Random(7)
    bench = Bench(jitter=dice.uniform).opened()
    probes = []
    for _ in range(600):  # a minute of ten asks a second
        bench.now += 0.1
        if bench.call(fail()) == "made":
            probes.append(bench.now)
    gaps = [later - earlier for earlier, later in pairwise(probes)]
    assert all(PAUSE <= gap <= PAUSE + MOST_JITTER + 0.11 for gap in gaps)
    assert len(probes) >= 60 / (PAUSE + MOST_JITTER + 0.11) - 1


def test_of_many_asks_at_once_exactly_one_is_the_probe():
    bench = Bench().opened()
    bench.now += PAUSE
    others_done, made = threading.Event(), []

    def ask(index: int) -> None:
        if bench.call(fail(), during=lambda: others_done.wait(10) and made.append(index)) == "turned away":
            turned.append(index)
        if len(turned) == 15:
            others_done.set()

    turned: list[int] = []
    run_together(16, ask)
    assert (len(made), len(turned)) == (1, 15)


@pytest.mark.parametrize("outcome", AT_WORK, ids=repr)
def test_a_probe_that_finds_the_service_at_work_closes_it_for_all(outcome):
    bench = Bench().opened()
    bench.now += PAUSE
    assert bench.call(outcome) == "made"
    assert bench.breaker.state == CLOSED
    assert [bench.call() for _ in range(3)] == ["made"] * 3


def test_the_state_while_a_probe_is_out_is_half_open():
    bench, seen = Bench().opened(), []
    bench.now += PAUSE
    assert bench.breaker.state == OPEN
    bench.call(fail(), during=lambda: seen.append((bench.breaker.state, bench.breaker.shut)))
    assert seen == [(HALF_OPEN, True)]
    assert bench.breaker.state == OPEN


def test_after_a_failed_probe_the_pause_counts_from_its_end():
    bench = Bench().opened()
    bench.now += PAUSE

    def take_a_second() -> None:
        bench.now += 1

    bench.call(fail(), during=take_a_second)
    bench.now += PAUSE - 0.01
    assert bench.call() == "turned away"
    bench.now += 0.01
    assert bench.call() == "made"


@pytest.mark.parametrize("outcome", OURS, ids=repr)
def test_a_probe_that_never_reached_the_service_leaves_the_next_one_to_its_time(outcome):
    bench = Bench().opened()
    bench.now += PAUSE
    bench.call(outcome)
    assert (bench.breaker.state, bench.call()) == (OPEN, "turned away")
    bench.now += PAUSE
    assert bench.call() == "made"
    assert bench.breaker.state == CLOSED


def test_a_probe_that_hangs_does_not_keep_the_next_one_from_finding_the_service_healed():
    bench = Bench().opened()
    bench.now += PAUSE
    hanging = bench.breaker.call()
    hanging.__enter__()
    bench.now += PAUSE
    assert bench.call() == "made"
    assert bench.breaker.state == CLOSED
    assert hanging.__exit__(DeadlineExceeded, DeadlineExceeded(transient=True), None) is False
    assert bench.breaker.state == CLOSED


def test_an_old_probe_that_ends_badly_does_not_put_off_the_next_one():
    bench = Bench().opened()
    bench.now += PAUSE
    hanging = bench.breaker.call()
    hanging.__enter__()
    bench.now += PAUSE
    bench.call(fail())
    bench.now += PAUSE - 0.1
    hanging.__exit__(DeadlineExceeded, DeadlineExceeded(transient=True), None)
    bench.now += 0.1
    assert bench.call() == "made"


def test_a_slow_probe_that_succeeds_after_a_newer_one_was_sent_still_closes_it():
    bench = Bench().opened()
    bench.now += PAUSE
    slow, newer = bench.breaker.call(), bench.breaker.call()
    slow.__enter__()
    bench.now += PAUSE
    newer.__enter__()
    slow.__exit__(None, None, None)
    assert bench.breaker.state == CLOSED


def test_calls_from_before_it_opened_say_nothing_about_now():
    bench = Bench()
    early = [bench.breaker.call() for _ in range(FAILURES_TO_OPEN + 1)]
    for call in early:
        call.__enter__()
    bench.opened()
    early[0].__exit__(None, None, None)
    assert bench.breaker.state == OPEN
    bench.now += PAUSE
    bench.call()
    for call in early[1:]:
        call.__exit__(UpstreamFault, fail(), None)
    assert bench.breaker.state == CLOSED


def test_the_first_success_comes_within_five_seconds_of_healing_whenever_that_is():
    for seed in range(50):
        dice = random.Random(seed)
        bench = Bench(jitter=dice.uniform).opened()
        healed_at = bench.now + dice.uniform(0, 20)
        while bench.breaker.state != CLOSED:
            bench.now += 0.02  # fifty asks a second
            bench.call(fail() if bench.now < healed_at else None)
        assert bench.now - healed_at < 3.1


def test_after_an_outage_the_count_starts_anew():
    bench = Bench()
    for _ in range(FAILURES_TO_OPEN):
        bench.call(DOWN[0])
    bench.now += PAUSE + MOST_JITTER
    assert bench.call() == "made"
    assert bench.call(DOWN[0]) == "made"
    assert bench.breaker.state == CLOSED


def test_opening_and_closing_are_logged_once_each(caplog):
    with caplog.at_level(logging.INFO):
        bench = Bench().opened()
        for _ in range(5):
            bench.now += PAUSE
            bench.call(fail())
            bench.call()
        bench.now += PAUSE
        bench.call()
    assert [(record.levelname, "scripted" in record.getMessage()) for record in caplog.records] == [
        ("ERROR", True),
        ("WARNING", True),
    ]
