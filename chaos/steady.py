"""Callers that ask at planned moments, whatever becomes of the asks before: a slow platform does not slow them down."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from chaos.load import Asked, Caller
from chaos.plan import Wanted

# Above all that a platform holds at once.
MOST_AT_ONCE = 256
KNOWN = tuple(Wanted(f"known-{number}", "text", number) for number in range(10))


class Steady:
    """So many asks a second for prompts that nobody has asked for yet, and of five asks more one that is a hit.

    A context manager that ends with the last reply. The seconds of an ask count from its planned moment.
    """

    def __init__(self, port: int, rate: float, *, timeout: float, name: str) -> None:
        self.fresh: list[Asked] = []
        self.known: list[Asked] = []
        self._port, self._rate, self._timeout, self._name = port, rate, timeout, name
        self._over, self._own = threading.Event(), threading.local()
        self._planner = threading.Thread(target=self._plan, daemon=True)
        self._callers: list[Caller] = []

    def __enter__(self) -> Steady:
        self.began = time.monotonic()
        self._planner.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._planner.join(self._timeout + 30)
        for caller in self._callers:
            caller.close()

    @property
    def asked(self) -> list[Asked]:
        return [*self.fresh, *self.known]

    def until(self, seconds: float) -> None:
        """Wait until so many seconds after the beginning."""
        time.sleep(max(0.0, self.began + seconds - time.monotonic()))

    def _plan(self) -> None:
        with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
            for number, planned in enumerate(self._moments()):
                pool.submit(
                    self._ask, self.fresh, Wanted(f"{self._name}-{number}", "text", 10), number, planned
                )
                if number % 5 == 0:
                    pool.submit(self._ask, self.known, KNOWN[number // 5 % len(KNOWN)], number, planned)

    def _moments(self) -> Iterator[float]:
        planned = self.began
        while not self._over.wait(max(0.0, planned - time.monotonic())):
            yield planned
            planned += 1 / self._rate

    def _ask(self, kept: list[Asked], wanted: Wanted, number: int, planned: float) -> None:
        if not hasattr(self._own, "caller"):
            self._own.caller = Caller(self._port, self._timeout)
            self._callers.append(self._own.caller)
        kept.append(self._own.caller.ask(f"{wanted.marker}-{number}", wanted, planned=planned))
