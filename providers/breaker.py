"""A provider's circuit breaker: while the service is down it gets one probe every few seconds and no other call."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from errors import (
    InvalidReply,
    KeyRefused,
    OptionDeclined,
    TurnedAway,
    UpstreamFault,
    UpstreamRateLimited,
)

log = logging.getLogger(__name__)

CLOSED, HALF_OPEN, OPEN = "closed", "half-open", "open"
# In a row. Of independent faults at 50 % so many in a row come once in a million calls.
FAILURES_TO_OPEN = 20
# A key that is refused fails every call, and seven in a row are proof enough. One is none: it may be the service's slip,
# or a model that our key may not use, and then one caller who names it would close the provider to all others.
WEIGHT_OF_A_REFUSED_KEY = 3
# Seconds until the next probe, with up to a second of jitter on top.
PAUSE, MOST_JITTER = 2.0, 1.0


class Breaker:
    """Opens after failures in a row, then lets one call through every two to three seconds until one succeeds.

    A probe that hangs does not hold up the next one: the pause counts from the moment it was sent.
    """

    def __init__(
        self,
        name: str = "the provider",
        *,
        failures_to_open: int = FAILURES_TO_OPEN,
        timer: Callable[[], float] = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._name, self._failures_to_open = name, failures_to_open
        self._timer, self._jitter = timer, jitter
        self._lock = threading.Lock()
        self._failures = 0
        # When the next probe may go; None while the breaker is closed.
        self._next_probe: float | None = None
        # Number of the newest probe of this outage, and whether it is in the air.
        self._probe, self._probing = 0, False
        # Counts openings and closings: a call that began in another era says nothing about this one.
        self._era = 0

    @property
    def state(self) -> str:
        if self._next_probe is None:
            return CLOSED
        return HALF_OPEN if self._probing else OPEN

    @property
    def shut(self) -> bool:
        """Whether a call would be turned away now."""
        next_probe = self._next_probe
        return next_probe is not None and self._timer() < next_probe

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around one call, whose end is noted. Raises TurnedAway where none may be made."""
        era, probe = self._admit()
        weight: int | None = None
        try:
            yield
            weight = 0
        except UpstreamFault as fault:
            weight = weight_of(fault)
            raise
        finally:
            with self._lock:
                if era == self._era:
                    self._note(probe, weight)

    def _admit(self) -> tuple[int, int]:
        """Era and number of the probe; the number is 0 for an ordinary call."""
        with self._lock:
            if self._next_probe is None:
                return self._era, 0
            wait = self._next_probe - self._timer()
            if wait > 0:
                raise TurnedAway(delay=wait, detail=f"the circuit breaker of {self._name} is open")
            self._pause()
            self._probe, self._probing = self._probe + 1, True
            return self._era, self._probe

    def _note(self, probe: int, weight: int | None) -> None:
        if probe:
            self._note_probe(probe, weight)
        elif weight is not None:
            self._failures = self._failures + weight if weight else 0
            if self._failures >= self._failures_to_open:
                self._open()

    def _note_probe(self, probe: int, weight: int | None) -> None:
        if weight == 0:
            self._close()
        elif probe == self._probe:  # an older one has hung for so long that another was sent
            self._probing = False
            if weight:
                self._pause()

    def _open(self) -> None:
        log.error("%s keeps failing: it gets no calls now but a probe every few seconds", self._name)
        self._era, self._failures = self._era + 1, 0
        self._pause()

    def _close(self) -> None:
        log.warning("%s answers again", self._name)
        self._era, self._next_probe, self._probing = self._era + 1, None, False

    def _pause(self) -> None:
        self._next_probe = self._timer() + PAUSE + self._jitter(0, MOST_JITTER)


def weight_of(fault: UpstreamFault) -> int:
    """How much a fault says that the service is down; 0 where it shows that the service is at work."""
    if isinstance(fault, OptionDeclined):
        return 0
    if isinstance(fault, KeyRefused):
        return 0 if fault.of_model else WEIGHT_OF_A_REFUSED_KEY
    down = fault.transient and not isinstance(fault, UpstreamRateLimited)
    return 1 if down or isinstance(fault, InvalidReply) else 0
