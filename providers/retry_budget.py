"""A provider's retry budget: a bucket of tokens that all asks share, so that an outage is not answered with more load."""

from __future__ import annotations

import threading

from errors import DeadlineExceeded, OptionDeclined, UpstreamFault

CAPACITY = 500
PRICE = 5
# A timeout has held the provider, and us, much longer than a quick refusal.
PRICE_AFTER_TIMEOUT = 10
FIRST_TRY_INCOME = 1


class RetryBudget:
    """A bucket of tokens, full at the start. What does not fit is lost."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = self._tokens = capacity
        self._lock = threading.Lock()
        self.retries = 0

    @property
    def tokens(self) -> int:
        return self._tokens

    def pay(self, price: int) -> bool:
        """Take the price of a retry, if it is there."""
        with self._lock:
            if self._tokens < price:
                return False
            self._tokens -= price
            self.retries += 1
            return True

    def earn(self, tokens: int) -> None:
        with self._lock:
            self._tokens = min(self._capacity, self._tokens + tokens)


class Account:
    """What one ask pays for its retries, and gets back. The first call is free."""

    def __init__(self, budget: RetryBudget) -> None:
        self._budget, self._paid = budget, 0

    def pay_retry_of(self, fault: UpstreamFault) -> bool:
        """Pay for one more call after this fault; False where the bucket does not hold its price.

        To leave an option out is no retry: the service is well, and one burst of first asks would empty the bucket.
        """
        if isinstance(fault, OptionDeclined):
            return True
        price = PRICE_AFTER_TIMEOUT if isinstance(fault, DeadlineExceeded) else PRICE
        if not self._budget.pay(price):
            return False
        self._paid = price
        return True

    def succeeded(self) -> None:
        """A good first try earns; a good retry gets its own price back, not that of those before it."""
        self._budget.earn(self._paid or FIRST_TRY_INCOME)
