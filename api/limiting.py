"""Rate limits: Flask-Limiter over a `limits` storage, lru://, that keeps its windows in our RateLimitCache."""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass
from typing import Any, cast

from flask import Flask, Request, request
from flask_limiter import Limiter
from limits import RateLimitItem, parse_many
from limits.storage import MovingWindowSupport, Storage

from addresses import caller_of
from config import Settings
from errors import PlatformError
from identity import Identity
from lru_cache import RateLimitCache
from services import Services

# In place of a route, where all of them are one count.
EVERYWHERE = "*"


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a caller has left on a route: the limit, the calls that remain, seconds until the oldest is forgotten."""

    limit: int
    remaining: int
    reset: int
    admitted: bool = True

    def headers(self) -> list[tuple[str, str]]:
        return [
            ("RateLimit-Limit", str(self.limit)),
            ("RateLimit-Remaining", str(self.remaining)),
            ("RateLimit-Reset", str(self.reset)),
        ]


class LRUStorage(Storage, MovingWindowSupport):
    """Moving windows in this process. Importing this class registers the scheme lru:// with `limits`."""

    STORAGE_SCHEME = ["lru"]  # noqa: RUF012  the library's name for it, on the class

    def __init__(
        self,
        uri: str | None = None,
        wrap_exceptions: bool = False,
        cache: RateLimitCache | None = None,
        **options: Any,
    ) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions, **options)
        self._cache = cache or RateLimitCache()

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        return ()  # memory is never down

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        return self._cache.admit(key, limit, window_size=expiry, amount=amount)

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:  # noqa: ARG002  the port names it
        oldest_age, count = self._cache.window(key, window_size=expiry)
        return time.time() - oldest_age, count  # the cache counts ages, `limits` wants an epoch

    def charge(self, item: RateLimitItem, caller: str, route: str) -> Allowance:
        """acquire_entry and get_moving_window in one look, a fifth of what the library's strategy takes for both."""
        admitted, remaining, seconds = self._cache.charge(
            _key(item, caller, route), item.amount, item.get_expiry()
        )
        return Allowance(item.amount, remaining, max(1, math.ceil(seconds)), admitted)

    def look(self, item: RateLimitItem, caller: str, route: str) -> Allowance:
        """The same without counting."""
        age, count = self._cache.window(_key(item, caller, route), item.get_expiry())
        remaining = max(0, item.amount - count)
        return Allowance(item.amount, remaining, max(1, math.ceil(item.get_expiry() - age)))

    # The base class wants the methods of fixed windows too; here they count in the same windows.

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        for _ in range(amount - 1):
            self._cache.increment_count(key, expiry)
        return self._cache.increment_count(key, expiry)

    def get(self, key: str) -> int:
        return self._cache.get_count(key)

    def get_expiry(self, key: str) -> float:
        return time.time() + self._cache.seconds_left(key)

    def check(self) -> bool:
        return True

    def reset(self) -> int | None:
        self._cache.clear()
        return None

    def clear(self, key: str) -> None:
        self._cache.forget(key)


@functools.lru_cache(maxsize=1024)
def _key(item: RateLimitItem, caller: str, route: str) -> str:
    """The key under which the library's strategy counts, so that either way finds the same window."""
    return item.key_for(caller, route)


@functools.lru_cache(maxsize=1024)
def _own(rates: str) -> tuple[RateLimitItem, ...]:
    """The limits that a key has in place of the platform's."""
    return tuple(parse_many(rates))


def caller_key() -> str:
    """Who is counted, for the library's own way; ours is told of the identity."""
    return caller_of(request.remote_addr or "unknown")


def counted_as(identity: Identity, asked: Request) -> str:
    """Whose requests are one count: those of a key, else of a tenant, else of an address."""
    if identity.key_id:
        return f"key:{identity.key_id}"
    if not identity.is_anonymous:
        return f"tenant:{identity.tenant}"
    return caller_of(asked.remote_addr or "unknown")


class Limits:
    """Charges each request to its caller and route.

    Flask-Limiter makes the storage. Its own hooks stay off: they resolve limits anew for each request, which
    costs a third of a cache hit, and they write Retry-After on every reply.
    """

    def __init__(self, storage: LRUStorage, settings: Settings) -> None:
        self._storage = storage
        self._tasks = tuple(parse_many(settings.rate_limit))
        self._reads = tuple(parse_many(settings.rate_limit_reads))

    def charge(self, identity: Identity, asked: Request, route: str) -> Allowance:
        """What is left to the caller after this request. Raises RateLimited.

        A limit of a key's own is one count for all that it posts, wherever it posts it.
        """
        caller = counted_as(identity, asked)
        if asked.method != "POST":
            return self._charge(self._reads, caller, route)
        if identity.rate_limit:
            return self._charge(_own(identity.rate_limit), caller, EVERYWHERE)
        return self._charge(self._tasks, caller, route)

    def _charge(self, items: tuple[RateLimitItem, ...], caller: str, route: str) -> Allowance:
        """Where it raises it charges nothing (of several limits, two racers may)."""
        if len(items) == 1:
            return _admitted(self._storage.charge(items[0], caller, route))
        full = [left for item in items if not (left := self._storage.look(item, caller, route)).remaining]
        if full:
            raise RateLimited(max(full, key=lambda left: left.reset))
        charged = [_admitted(self._storage.charge(item, caller, route)) for item in items]
        return min(charged, key=lambda left: left.remaining)


def _admitted(allowance: Allowance) -> Allowance:
    if not allowance.admitted:
        raise RateLimited(allowance)
    return allowance


class RateLimited(PlatformError):
    status, code = 429, "rate_limited"
    sentence = "You sent too many requests. Wait as long as Retry-After says, then try again."

    def __init__(self, allowance: Allowance) -> None:
        super().__init__(retry_after=allowance.reset)
        self.allowance = allowance


def build_limits(app: Flask, house: Services) -> Limits:
    """The limits of the settings over house.limits."""
    limiter = Limiter(
        caller_key,
        strategy="moving-window",
        storage_uri="lru://",
        storage_options={"cache": house.limits},  # type: ignore[dict-item]  # typed for Redis; ours takes an object
    )
    app.extensions.setdefault("limiter", set()).add(limiter)  # as if its hooks were there already
    limiter.init_app(app)
    return Limits(cast(LRUStorage, limiter.storage), house.settings)
