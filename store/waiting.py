"""Asks that wait for what calls in flight hold of their budget: few in all, and fewer of one budget."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class WaitingRoom:
    """So many seats, of which the asks of one budget may take so many. Each of them holds a thread."""

    def __init__(self, seats: int, of_one: int) -> None:
        self._seats, self._of_one = seats, of_one
        self._lock = threading.Lock()
        self._waiting: dict[str, list[threading.Event]] = {}
        self.taken = 0

    @contextmanager
    def seat(self, scope: str) -> Iterator[threading.Event | None]:
        """An event that is set whenever something of this budget is given back; None where no seat is free."""
        news = self._sit_down(scope)
        try:
            yield news
        finally:
            if news is not None:
                self._stand_up(scope, news)

    def _sit_down(self, scope: str) -> threading.Event | None:
        with self._lock:
            neighbours = self._waiting.get(scope, [])
            if self.taken >= self._seats or len(neighbours) >= self._of_one:
                return None
            news = threading.Event()
            self._waiting[scope] = [*neighbours, news]
            self.taken += 1
            return news

    def _stand_up(self, scope: str, news: threading.Event) -> None:
        with self._lock:
            self.taken -= 1
            left = [other for other in self._waiting[scope] if other is not news]
            if left:
                self._waiting[scope] = left
            else:
                del self._waiting[scope]

    def tell(self, scopes: Iterable[str]) -> None:
        """Something of these budgets was given back."""
        if self._waiting:
            for scope in scopes:
                for news in self._waiting.get(scope, ()):
                    news.set()
