"""Lines of the audit log that a caller can cause at will: so many a minute about one address, and the rest is counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from addresses import caller_of
from lru_cache import EvictingCounts

MOST_LINES, WINDOW_SECONDS = 100, 60.0
# Counted at once; who has more addresses makes the oldest of their counts go.
MOST_COUNTS = 10_000
# The log keeps so many bytes and no more: with these lines a caller could else drive out what others did. The log of
# requests has all of those requests anyway. Changes of keys and users are not among them: each of those is told.
AT_WILL = frozenset(
    {"AUTH_FAILURE", "AUTHZ_DENIED", "BODY_TOO_LARGE", "EXPORT_WRITTEN", "SESSION_ENDED", "SIGNED_IN"}
    | {"THREAT_BODY", "THREAT_ENVELOPE"}
)


class AuditBound:
    """Each event is counted by itself, so that no kind of line hides another."""

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._counts = EvictingCounts(MOST_COUNTS, timer=timer)
        self._lock = threading.Lock()
        self.left_out = 0

    def admits(self, event: str, address: str | None) -> bool:
        """Whether the line is written. address: None where no caller is behind it."""
        if event not in AT_WILL or address is None:
            return True
        if self._counts.admit((event, caller_of(address)), MOST_LINES, WINDOW_SECONDS):
            return True
        with self._lock:
            self.left_out += 1
        return False
