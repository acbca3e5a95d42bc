"""Bounded stores in memory: answers by key, and the counters behind the rate limits."""

# Above 300 lines, because the three stores are promised under this one name and share their base.

import copy
import hashlib
import json
import math
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from itertools import islice
from typing import Any

KEY_SCHEMA = 1
ENTRY_OVERHEAD = 512
EXACT_HITS = 1000
EVICTION_LOOKS = 8
_SCALARS = frozenset({str, int, float, bool, type(None)})
_WINDOW = object()  # Private, so that no key of a caller can ever name a window.


class _Entry:
    __slots__ = ("expires_at", "size", "value")

    def __init__(self, value: Any, expires_at: float, size: int) -> None:
        self.value = value
        self.expires_at = expires_at
        self.size = size


class LRUCache:
    """A bounded map that forgets the least recently used item, and any item whose time is up.

    An item expires when it is touched after its time, so every operation is O(1): `size()` may count expired items
    that nobody touched. `ttl=None` means the default, `ttl=0` means do not keep (an older value under that key goes
    too), `math.inf` keeps an item until it is evicted. `sizeof(value)` gives whole bytes (the default is shallow);
    an item larger than `max_bytes` alone is not kept. Values are handed out as they were put in, not copied.
    """

    default_sizeof: Callable[[Any], int] = staticmethod(sys.getsizeof)

    def __init__(
        self,
        max_size: int = 1000,
        default_ttl: float = 3600,
        *,
        timer: Callable[[], float] = time.monotonic,
        max_bytes: int | None = None,
        sizeof: Callable[[Any], int] | None = None,
    ) -> None:
        self.max_size = _at_least_one("max_size", max_size)
        self.default_ttl = _checked_ttl("default_ttl", default_ttl)
        self.max_bytes = None if max_bytes is None else _at_least_one("max_bytes", max_bytes)
        self._timer = timer
        self._sizeof = sizeof or self.default_sizeof
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        # Reentrant, because dropping a value may run its finalizer, and that may come back to this cache.
        self._lock = threading.RLock()
        self._bytes = self._hits = self._misses = self._evictions = self._expirations = 0

    def get(self, key: Hashable) -> Any:
        """Return the value, or None when it is missing or expired; counts a hit or a miss."""
        with self._lock:
            entry = self._live(key, self._timer())
            if entry is None:
                self._misses += 1
                return None
            self._hits += 1
            self._entries.move_to_end(key)
            return entry.value

    def peek(self, key: Hashable) -> Any:
        """Look without being counted and without making the item younger."""
        with self._lock:
            entry = self._live(key, self._timer())
            return None if entry is None else entry.value

    def put(self, key: Hashable, value: Any, ttl: float | None = None) -> None:
        seconds = self.default_ttl if ttl is None else _checked_ttl("ttl", ttl)
        size = self._sizeof(value)
        with self._lock:
            self._remove(key)
            now = self._timer()
            if seconds > 0 and self._room_for(size, now):
                self._entries[key] = _Entry(value, now + seconds, size)
                self._bytes += size

    def delete(self, key: Hashable) -> bool:
        """Drop the item; True when there was one that had not expired."""
        with self._lock:
            if self._live(key, self._timer()) is None:
                return False
            self._remove(key)
            return True

    def clear(self) -> None:
        """Drop every item; the counts of hits and misses go on."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def size(self) -> int:
        return len(self._entries)

    def get_stats(self) -> dict[str, Any]:
        with self._lock:
            gets = self._hits + self._misses
            return {
                "size": len(self._entries),
                "max_size": self.max_size,
                "hit_ratio": self._hits / gets if gets else 0.0,
                "default_ttl": self.default_ttl,
                "hits": self._hits,
                "misses": self._misses,
                "evictions": self._evictions,
                "expirations": self._expirations,
                "bytes": self._bytes,
                "max_bytes": self.max_bytes,
            }

    # The caller of every method below holds the lock.

    def _live(self, key: Hashable, now: float) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is not None and entry.expires_at <= now:
            self._remove(key)
            self._expirations += 1
            return None
        return entry

    def _remove(self, key: Hashable) -> _Entry | None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry.size
        return entry

    def _room_for(self, size: int, now: float) -> bool:
        budget = math.inf if self.max_bytes is None else self.max_bytes
        if size > budget:
            return False
        while len(self._entries) >= self.max_size or self._bytes + size > budget:
            if not self._evict_one(now):
                return False
        return True

    def _evict_one(self, now: float) -> bool:
        self._evict(next(iter(self._entries)), now)
        return True

    def _evict(self, key: Hashable, now: float) -> None:
        entry = self._remove(key)
        if entry is not None and entry.expires_at <= now:
            self._expirations += 1
        else:
            self._evictions += 1


def answer_size(value: Any) -> int:
    """Return the bytes that a remembered answer takes: its own `size_bytes`, or its UTF-8 text and an overhead."""
    declared = getattr(value, "size_bytes", None)
    if declared is not None:
        return int(declared)
    text = value.get("response") if isinstance(value, dict) else value
    if not isinstance(text, str):
        return ENTRY_OVERHEAD
    return ENTRY_OVERHEAD + (len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")))


class ResponseCache(LRUCache):
    """Answers by what was asked. The road uses `get` and `put` with its own keys and frozen values."""

    default_sizeof = staticmethod(answer_size)

    def get_cached_response(self, prompt: str, task_type: str, **options: Any) -> dict[str, Any] | None:
        """Return a copy that the caller may change, or None."""
        found: dict[str, Any] | None = self.get(response_key(prompt, task_type, **options))
        return copy.deepcopy(found)

    def cache_response(
        self,
        prompt: str,
        task_type: str,
        response: str,
        input_tokens: int,
        output_tokens: int,
        cost: Any,
        ttl: float | None = None,
        *,
        options: dict[str, Any] | None = None,
        **details: Any,
    ) -> None:
        """Remember an answer; `options` belong to the key, `details` to the value."""
        value = {
            "response": response,
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "cost": cost,
        }
        self.put(response_key(prompt, task_type, **options or {}), copy.deepcopy(value | details), ttl)

    def get_stats(self) -> dict[str, Any]:
        stats = super().get_stats()
        return stats | {
            "hit_count": stats["hits"],
            "miss_count": stats["misses"],
            "total_requests": stats["hits"] + stats["misses"],
            "cache_hit_ratio": stats["hit_ratio"],
        }


class _Window(_Entry):
    """The hits of one caller in the last `span` seconds, oldest first, as runs of (moment, amount).

    Beyond `EXACT_HITS` runs, new hits share a run for a thousandth of the span and leave with its end. So memory is
    bounded at about twice that many runs, and a count may be high for a moment, but never too low.
    """

    __slots__ = ("hits", "span", "total")

    def __init__(self, span: float, now: float) -> None:
        super().__init__(None, now, 0)
        self.span = span
        self.total = 0
        self.hits: deque[tuple[float, int]] = deque()

    def count(self, now: float) -> int:
        while self.hits and self.hits[0][0] + self.span <= now:
            self.total -= self.hits.popleft()[1]
        return self.total

    def add(self, now: float, amount: int) -> None:
        self.total += amount
        if self.hits and now <= self.hits[-1][0]:
            moment, earlier = self.hits.pop()
            amount += earlier
        else:
            moment = now if len(self.hits) < EXACT_HITS else now + self.span / EXACT_HITS
        self.hits.append((moment, amount))
        self.expires_at = moment + self.span


class RateLimitCache(LRUCache):
    """Moving-window counters, one per key and window size, in a store that a flood of fresh keys cannot flush.

    A live window is never evicted. When the store is full of them, newcomers share one overflow counter per window
    size, and a plain `put` of a new key is not kept. Window sizes come from settings, so the overflow stays small.
    """

    def __init__(
        self, max_size: int = 1000, default_ttl: float = 3600, *, timer: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(max_size, default_ttl, timer=timer)
        self._overflow: dict[float, _Window] = {}
        self._spans: set[float] = set()
        self._windows = self._overflow_hits = 0

    def increment_count(self, key: Hashable, window_size: float = 60) -> int:
        """Add one hit and return the hits within the window, this one included."""
        with self._lock:
            now = self._timer()
            window = self._open(key, window_size, now)
            window.add(now, 1)
            return window.count(now)

    def get_count(self, key: Hashable, window_size: float = 60) -> int:
        return self.window(key, window_size)[1]

    def admit(self, key: Hashable, limit: int, window_size: float, amount: int = 1) -> bool:
        """Count `amount` hits if they fit under `limit`; refused hits are not counted."""
        if amount < 0:
            raise ValueError(f"amount must be zero or more hits, not {amount!r}.")
        with self._lock:
            now = self._timer()
            if not amount <= limit:
                return False
            window = self._open(key, window_size, now)
            if window.count(now) + amount > limit:
                return False
            window.add(now, amount)
            return True

    def charge(self, key: Hashable, limit: int, window_size: float) -> tuple[bool, int, float]:
        """`admit` and `window` in one: (whether one hit was counted, hits left, seconds until the oldest leaves)."""
        with self._lock:
            now = self._timer()
            window = self._open(key, window_size, now)
            count = window.count(now)
            admitted = count < limit
            if admitted:
                window.add(now, 1)
                count += 1
            oldest = window.hits[0][0] if window.hits else now
            return admitted, max(0, limit - count), max(0.0, window_size - (now - oldest))

    def window(self, key: Hashable, window_size: float) -> tuple[float, int]:
        """Return the age in seconds of the oldest hit still in the window (0.0 without one) and the count."""
        with self._lock:
            now = self._timer()
            window = self._seen(key, window_size, now)
            if window is None or not window.count(now):
                return 0.0, 0
            return max(0.0, now - window.hits[0][0]), window.total

    def seconds_left(self, key: Hashable, window_size: float = 60) -> float:
        """Return the seconds until the oldest hit leaves the window; 0.0 without one."""
        age, count = self.window(key, window_size)
        return window_size - age if count else 0.0

    def forget(self, key: Hashable) -> None:
        """Drop the counters of one key, of every window size that is in use."""
        with self._lock:
            for span in self._spans:
                self._remove((_WINDOW, key, span))

    def clear(self) -> None:
        """Drop every item and every counter, the overflow included."""
        with self._lock:
            super().clear()
            self._overflow.clear()
            self._windows = 0

    def get_stats(self) -> dict[str, Any]:
        """`windows` are in the store now; `overflow` hits, refused ones too, had to share a counter so far."""
        with self._lock:
            return super().get_stats() | {"windows": self._windows, "overflow": self._overflow_hits}

    def _seen(self, key: Hashable, span: float, now: float) -> _Window | None:
        own = self._live((_WINDOW, key, span), now)
        if own is None and len(self._entries) >= self.max_size:
            return self._overflow.get(span)
        return own if isinstance(own, _Window) else None

    def _open(self, key: Hashable, span: float, now: float) -> _Window:
        if not 0 < span < math.inf:
            raise ValueError(f"window_size must be a number of seconds above zero, not {span!r}.")
        name = (_WINDOW, key, span)
        own = self._live(name, now)
        if isinstance(own, _Window):
            self._entries.move_to_end(name)
            return own
        if not self._room_for(0, now):
            self._overflow_hits += 1
            return self._overflow.setdefault(span, _Window(span, now))
        self._windows += 1
        self._spans.add(span)
        self._entries[name] = window = _Window(span, now)
        return window

    def _remove(self, key: Hashable) -> _Entry | None:
        entry = super()._remove(key)
        self._windows -= isinstance(entry, _Window)
        return entry

    def _evict_one(self, now: float) -> bool:
        # Live windows go to the back, so the next newcomer looks at others and an expired one is found in the end.
        for key in list(islice(self._entries, EVICTION_LOOKS)):
            entry = self._entries[key]
            if entry.expires_at <= now or not isinstance(entry, _Window):
                self._evict(key, now)
                return True
            self._entries.move_to_end(key)
        return False


class EvictingCounts(RateLimitCache):
    """Counters of which the one that was idle longest makes room for a newcomer, so that nobody shares another's."""

    def _evict_one(self, now: float) -> bool:
        return LRUCache._evict_one(self, now)


def response_key(prompt: str, task_type: str, **options: Any) -> str:
    """Return one SHA-256 for one ask: equal exactly when task, text and options are equal as JSON.

    A tuple is a list, but a string is not; 1, 1.0, "1" and True differ. Options must be plain JSON values.
    """
    for value in options.values():
        if type(value) not in _SCALARS:
            _require_text_names(value)
    text = _canonical([KEY_SCHEMA, task_type, options, prompt])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# Not ASCII: escaped, the two halves of a surrogate pair would read the same as the character that they spell.
_canonical = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def _require_text_names(value: Any) -> None:
    if isinstance(value, dict):
        # JSON would write the name 1 as "1", and two asks would share an answer.
        if not all(isinstance(name, str) for name in value):
            raise TypeError(
                "A dictionary among the options needs text as its names; convert them before asking."
            )
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            if not isinstance(item, str):
                _require_text_names(item)


def _at_least_one(name: str, value: int) -> int:
    if not value >= 1:
        raise ValueError(f"{name} must be 1 or more, not {value!r}.")
    return value


def _checked_ttl(name: str, seconds: float) -> float:
    # Written as a negation, so that NaN is refused too.
    if not seconds >= 0:
        raise ValueError(f"{name} must be zero or more seconds, not {seconds!r}; zero means do not keep.")
    return seconds
