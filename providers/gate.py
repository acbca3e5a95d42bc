"""The gate before the providers: how many asks may be in the air, and how many of them may call at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace

from errors import ModelGone, Overloaded, PlatformError
from metrics import Metrics
from providers.base import Call, Piece, Provider, Reply

# A refused content, an empty answer or a model that it does not have: the service is at work.
AT_WORK = frozenset({"ok", "content_blocked", "upstream_empty", "invalid_input", "model_gone", "caller_left"})


class Gate:
    """Bulkheads, so that slow providers never take the threads that cache hits and health need.

    `calls` upstream calls run at once; further ones wait within their deadline. `asks` may be in the air
    in all, waiting ones included; one more is refused at once.
    """

    def __init__(self, calls: int, asks: int, *, timer: Callable[[], float] = time.monotonic) -> None:
        self._calls = threading.BoundedSemaphore(calls)
        self._asks = threading.BoundedSemaphore(asks)
        self._timer = timer
        self.in_air = 0
        self._counting = threading.Lock()

    @contextmanager
    def ask(self) -> Iterator[None]:
        """Hold a place in the air, or be refused."""
        if not self._asks.acquire(blocking=False):
            raise Overloaded()
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)
            self._asks.release()

    @contextmanager
    def call(self, seconds: float) -> Iterator[float]:
        """Hold one of the upstream calls; gives the seconds that remain after waiting for it."""
        began = self._timer()
        if not self._calls.acquire(timeout=seconds):
            raise Overloaded()
        try:
            yield seconds - (self._timer() - began)
        finally:
            self._calls.release()

    def _count(self, change: int) -> None:
        with self._counting:
            self.in_air += change


class GatedProvider:
    """A provider behind the gate, its calls timed and counted."""

    def __init__(
        self, provider: Provider, gate: Gate, metrics: Metrics, *, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = provider.name
        self.models, self.retired, self.warm = provider.models, provider.retired, provider.warm
        self.offers = provider.offers
        self._provider, self._gate, self._metrics, self._timer = provider, gate, metrics, timer
        self.failures_in_a_row = 0

    def call(self, call: Call) -> Reply:
        with self._gate.call(call.seconds) as seconds, self._noted(call.model):
            return self._provider.call(replace(call, seconds=seconds))

    def stream(self, call: Call) -> Generator[Piece, None, Reply]:
        with self._gate.call(call.seconds) as seconds, self._noted(call.model):
            return (yield from self._provider.stream(replace(call, seconds=seconds)))

    @contextmanager
    def _noted(self, model: str) -> Iterator[None]:
        began, outcome = self._timer(), "bug"
        try:
            yield
            outcome = "ok"
        except ModelGone:
            outcome = "model_gone"
            raise
        except PlatformError as fault:
            outcome = fault.code
            raise
        except GeneratorExit:
            outcome = "caller_left"
            raise
        finally:
            self._note(model, outcome, self._timer() - began)

    def _note(self, model: str, outcome: str, seconds: float) -> None:
        self._metrics.upstream(self.name, model, outcome, seconds)
        failed = outcome not in AT_WORK
        self.failures_in_a_row = self.failures_in_a_row + 1 if failed else 0
