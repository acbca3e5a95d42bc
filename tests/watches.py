"""Timers of tests: what a busy machine takes before the moment that counts is no part of a call's time."""

from __future__ import annotations

import time

from tests.upstream import Upstream


class SinceAsked:
    """A monotonic timer that stands until the upstream has been asked, and until it is asked again where it is told so."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self.stand()

    def __call__(self) -> float:
        if not self._asked and len(self._upstream.journal) > self._known:
            self._asked = time.monotonic()
        return self._stands + (time.monotonic() - self._asked if self._asked else 0.0)

    def stand(self) -> None:
        self._stands, self._known, self._asked = time.monotonic(), len(self._upstream.journal), 0.0


class Watch:
    """A timer that stands until it is set going, from whatever moment."""

    def __init__(self) -> None:
        self.moment, self._going = 0.0, 0.0

    def __call__(self) -> float:
        return self.moment + (time.monotonic() - self._going if self._going else 0.0)

    def go_from(self, moment: float) -> None:
        self.moment, self._going = moment, time.monotonic()
