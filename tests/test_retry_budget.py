"""The retry budget: faults are repaired while they are few, and an outage is not answered with more load."""

from __future__ import annotations

import random
from statistics import mean

import pytest

from errors import DeadlineExceeded, OptionDeclined, ProviderUnreachable, UpstreamFault, UpstreamRateLimited
from providers.breaker import Breaker
from providers.retry import Guard, RetryPolicy
from providers.retry_budget import CAPACITY, PRICE, PRICE_AFTER_TIMEOUT, Account, RetryBudget
from tests.cache_contract import run_together

SEEDS, ASKS, ATTEMPTS = 40, 5_000, 3


def fault() -> UpstreamFault:
    return UpstreamFault(transient=True)


def test_the_prices_are_those_of_the_page_on_reliability():
    assert (CAPACITY, PRICE, PRICE_AFTER_TIMEOUT) == (500, 5, 10)


def test_it_starts_full_and_holds_no_more_than_that():
    budget = RetryBudget()
    assert budget.tokens == 500
    budget.earn(1)
    assert budget.tokens == 500


def test_a_hundred_retries_empty_it_and_then_there_are_none():
    budget = RetryBudget()
    paid = [Account(budget).pay_retry_of(fault()) for _ in range(150)]
    assert paid == [True] * 100 + [False] * 50
    assert (budget.tokens, budget.retries) == (0, 100)


@pytest.mark.parametrize(
    ("failed", "price"),
    [
        (fault(), 5),
        (ProviderUnreachable(transient=True), 5),
        (UpstreamRateLimited(transient=True), 5),
        (DeadlineExceeded(transient=True), 10),
    ],
    ids=repr,
)
def test_a_retry_after_a_timeout_costs_twice_as_much(failed, price):
    budget = RetryBudget()
    Account(budget).pay_retry_of(failed)
    assert budget.tokens == 500 - price


def test_what_is_not_enough_is_left_in_the_bucket():
    budget = RetryBudget(9)
    assert not budget.pay(10)
    assert (budget.tokens, budget.retries) == (9, 0)
    assert budget.pay(5)
    assert not budget.pay(5)
    assert budget.tokens == 4


def test_a_good_first_try_earns_one():
    budget = RetryBudget()
    budget.pay(100)
    Account(budget).succeeded()
    assert budget.tokens == 401


@pytest.mark.parametrize(("last", "back"), [(fault(), 5), (DeadlineExceeded(transient=True), 10)], ids=repr)
def test_a_good_retry_gets_its_own_price_back_and_not_that_of_the_failed_one_before_it(last, back):
    budget = RetryBudget()
    account = Account(budget)
    account.pay_retry_of(fault())
    account.pay_retry_of(last)
    account.succeeded()
    assert budget.tokens == 500 - 5 - back + back


def test_no_token_is_lost_or_made_by_many_at_once():
    budget = RetryBudget()

    def ask(index: int) -> int:
        paid = sum(budget.pay(5) for _ in range(20))
        for _ in range(paid):
            budget.earn(5)
        return paid

    paid = run_together(16, ask)
    assert budget.tokens == 500
    assert budget.retries == sum(paid)


# The simulation of the page on reliability.


def simulated(fault_rate: float, seed: int) -> tuple[float, float]:
    """Share of asks that were answered, and calls per ask: asks one after another, independent faults, price 5."""
    dice, budget = random.Random(seed), RetryBudget()
    answered = calls = 0
    for _ in range(ASKS):
        account = Account(budget)
        for attempt in range(1, ATTEMPTS + 1):
            calls += 1
            if dice.random() >= fault_rate:
                account.succeeded()
                answered += 1
                break
            if attempt == ATTEMPTS or not account.pay_retry_of(FAULT):
                break
    return answered / ASKS, calls / ASKS


FAULT = fault()


@pytest.mark.parametrize(
    ("fault_rate", "success", "lowest", "calls"),
    [
        (0.05, 1.0, 1.0, 1.052),
        (0.10, 0.999, 0.998, 1.109),
        (0.20, 0.992, 0.988, 1.239),
        (0.30, 0.972, 0.967, 1.389),
        (0.32, 0.967, 0.961, 1.422),
        (0.35, 0.924, 0.892, 1.424),
        (0.40, 0.808, 0.782, 1.348),
        (0.50, 0.619, 0.597, 1.239),
        (0.80, 0.216, 0.205, 1.075),
        (1.00, 0.0, 0.0, 1.020),
    ],
)
def test_success_and_load_are_those_of_the_page_on_reliability(fault_rate, success, lowest, calls):
    """Means of forty seeds; the lowest of forty moves a little with the seeds."""
    runs = [simulated(fault_rate, seed) for seed in range(SEEDS)]
    assert mean(run[0] for run in runs) == pytest.approx(success, abs=0.003)
    assert mean(run[1] for run in runs) == pytest.approx(calls, abs=0.003)
    assert min(run[0] for run in runs) == pytest.approx(lowest, abs=0.02)


@pytest.mark.parametrize(("fault_rate", "success", "calls"), [(0.3, 0.967, 1.45), (1.0, 0.0, 1.021)])
def test_the_policy_itself_does_what_the_simulation_says(fault_rate, success, calls):
    dice, made, answered = random.Random(1), 0, 0
    policy = RetryPolicy(ATTEMPTS, sleep=lambda seconds: None, jitter=lambda low, high: 0, timer=lambda: 0.0)
    # Its breaker stays closed, so that it is the budget alone that is looked at.
    guard = Guard(Breaker(failures_to_open=10**9))

    def attempt(seconds: float) -> bool:
        nonlocal made
        made += 1
        if dice.random() < fault_rate:
            raise fault()
        return True

    for _ in range(ASKS):
        try:
            answered += policy.run(attempt, 1000.0, guard)
        except UpstreamFault:
            continue
    assert answered / ASKS >= success
    assert made / ASKS <= calls
    assert guard.budget.retries == made - ASKS


def test_to_leave_an_option_out_costs_nothing():
    budget = RetryBudget(0)
    account = Account(budget)
    assert account.pay_retry_of(OptionDeclined(transient=True, delay=0))
    assert not account.pay_retry_of(UpstreamFault(transient=True))
    assert budget.retries == 0
