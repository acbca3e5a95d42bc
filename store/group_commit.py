"""Threads that have something to commit at the same moment share one commit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

MOST_IN_A_BATCH = 500
# Where the last batch had several items more are on their way, and to wait for them costs less than a commit for each.
LINGER_SECONDS = 0.001


class Waiting(Protocol):
    """Something to commit. The latch is held until it is done, or until its thread is to lead."""

    latch: threading.Lock
    done: bool
    failure: BaseException | None


Item = TypeVar("Item", bound=Waiting)


class GroupCommit(Generic[Item]):
    """Whoever finds nobody committing leads: it commits what has been queued, its own item first.

    `commit` takes a batch and must not raise: what became of each item it notes in the item.
    """

    def __init__(
        self, commit: Callable[[list[Item]], None], sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._commit, self._sleep = commit, sleep
        self._queue: list[Item] = []
        self._lock = threading.Lock()
        self._led = self._crowded = False

    def submit(self, item: Item) -> None:
        """Returns once the item has been committed, by this thread or by another one."""
        with self._lock:
            self._queue.append(item)
            leads, self._led = not self._led, True
        if not leads:
            item.latch.acquire()
        if not item.done:
            self._lead()

    def _lead(self) -> None:
        """Commit one batch and let the next thread lead: a leader's own caller waits too."""
        if self._crowded:
            self._sleep(LINGER_SECONDS)
        with self._lock:
            batch, self._queue = self._queue[:MOST_IN_A_BATCH], self._queue[MOST_IN_A_BATCH:]
        self._crowded = len(batch) > 1
        try:
            self._commit(batch)
        except BaseException as bug:
            for item in batch:
                item.failure = bug
            raise
        finally:
            for item in batch:
                item.done = True
                item.latch.release()
            self._hand_on()

    def _hand_on(self) -> None:
        with self._lock:
            following = self._queue[0] if self._queue else None
            self._led = following is not None
        if following is not None:
            following.latch.release()
