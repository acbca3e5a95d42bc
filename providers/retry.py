"""The one retry policy: which faults are worth another attempt, and how long to wait for it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, stop_any
from tenacity.stop import stop_base
from tenacity.wait import wait_base, wait_exponential

from errors import DeadlineExceeded, InvalidReply, TurnedAway, UpstreamFault
from providers.breaker import Breaker
from providers.retry_budget import Account, RetryBudget

T = TypeVar("T")

# Below this an attempt could not even connect, so the deadline counts as passed.
LEAST_SECONDS = 0.05


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later; adapters decide it by status and code, never by text."""
    return isinstance(error, UpstreamFault) and error.transient and not error.begun


class WaitAsTold(wait_base):
    """The provider's own delay where it named one, else exponential; jitter on top of either."""

    def __init__(self, jitter: Callable[[float, float], float]) -> None:
        self._exponential = wait_exponential(multiplier=1, min=1, max=60)
        self._jitter = jitter

    def __call__(self, state: RetryCallState) -> float:
        fault = _fault(state)
        told = None if fault is None else fault.delay
        return (self._exponential(state) if told is None else told) + self._jitter(0, 0.5)


class TooLate(stop_base):
    """Stops where the coming wait would end after the deadline: waiting in vain holds a thread."""

    def __init__(self, deadline: float, timer: Callable[[], float]) -> None:
        self._deadline, self._timer = deadline, timer

    def __call__(self, state: RetryCallState) -> bool:
        return self._timer() + state.upcoming_sleep + LEAST_SECONDS >= self._deadline


class PaidTwice(stop_base):
    """Stops after a second reply that cannot be read: each of them was paid for."""

    def __call__(self, state: RetryCallState) -> bool:
        return isinstance(_fault(state), InvalidReply) and state.attempt_number >= 2


@dataclass(frozen=True, slots=True)
class Guard:
    """What all asks to one provider share, so that it is not called in vain."""

    breaker: Breaker = field(default_factory=Breaker)
    budget: RetryBudget = field(default_factory=RetryBudget)


class NotWorthIt(stop_base):
    """Stops where the provider is down by now, or the retry cannot be paid. Asked last, because asking pays."""

    def __init__(self, breaker: Breaker, account: Account) -> None:
        self._breaker, self._account = breaker, account

    def __call__(self, state: RetryCallState) -> bool:
        fault = _fault(state)
        return self._breaker.shut or fault is None or not self._account.pay_retry_of(fault)


class RetryPolicy:
    """At most `max_attempts` calls within a deadline. Sleep, jitter and clock are parameters."""

    def __init__(
        self,
        max_attempts: int = 5,
        *,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[float, float], float] = random.uniform,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_attempts = max_attempts
        self._sleep, self._jitter, self._timer = sleep, jitter, timer

    def run(self, attempt: Callable[[float], T], deadline: float, guard: Guard | None = None) -> T:
        """Call `attempt(seconds_left)` until it answers, fails for good, or going on is forbidden or not worth it.

        The last fault is raised as it is: its `delay` tells the caller when to come back. Without a guard an ask
        stands for itself: nobody else's failures keep it from a call.
        """
        guard = guard or Guard()
        account = Account(guard.budget)

        def one() -> T:
            seconds = deadline - self._timer()
            if seconds < LEAST_SECONDS:
                raise DeadlineExceeded()
            with guard.breaker.call():
                return attempt(seconds)

        try:
            reply = self._attempts(deadline, NotWorthIt(guard.breaker, account))(one)
        except TurnedAway as refusal:
            # The library's frames hold what leads back to them: in an outage much for the collector.
            raise refusal.with_traceback(None) from None
        account.succeeded()
        return reply

    def _attempts(self, deadline: float, not_worth_it: NotWorthIt) -> Retrying:
        return Retrying(
            retry=retry_if_exception(is_transient),
            wait=WaitAsTold(self._jitter),
            stop=stop_any(
                *(stop_after_attempt(self._max_attempts), TooLate(deadline, self._timer), PaidTwice()),
                not_worth_it,
            ),
            sleep=self._sleep,
            reraise=True,
        )


def _fault(state: RetryCallState) -> UpstreamFault | None:
    error = state.outcome.exception() if state.outcome else None
    return error if isinstance(error, UpstreamFault) else None
