"""THE road of every LLM call: cache, flight, provider, bill, record, cache. Knows no Flask."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime

from bills import Bills
from cost_tracker import CostTracker
from errors import (
    BudgetExceeded,
    CallerLeft,
    DeadlineExceeded,
    LedgerUnavailable,
    PlatformError,
    Unpriced,
)
from lru_cache import ResponseCache
from metrics import Metrics
from prices import PriceBook
from providers.asking import Meter, Terms, no_cover
from providers.base import NO_CODE, Call, Reply
from providers.chain import Chain
from providers.gate import Gate
from remembered import Kept, Keys, kept_of
from single_flight import FlightTimeout, SharedFailure, SingleFlight
from store.feedback import classified
from store.ledger import Ledger
from store.rows import Row
from taps import Announced, Tap, Unfenced
from tasks import Answer, Ask, Bill, Task

HIT, MISS, COALESCED, BYPASS, FAILED = "hit", "miss", "coalesced", "bypass", "failed"


@dataclass(slots=True)
class Trip:
    """One ask on the road, with what it has used so far."""

    ask: Ask
    key: str
    meter: Meter
    started: float
    # The same moment on the wall clock: hour and day of the ledger's row.
    at: float
    prompt_hash: str
    # Who listens while the answer comes, if it was asked for as a stream.
    tap: Tap | None = None
    opened: Row | None = None
    recorded: bool = False

    @property
    def day(self) -> date:
        """The one whose prices hold for it: a bill must not exceed what was reserved because midnight has passed."""
        return datetime.fromtimestamp(self.at, UTC).date()


class Pipeline:
    """Takes an Ask, gives an Answer; every ask leaves exactly one record, whatever happens to it."""

    def __init__(
        self,
        *,
        chain: Chain,
        terms: Terms,
        cache: ResponseCache,
        flights: SingleFlight,
        gate: Gate,
        prices: PriceBook,
        tracker: CostTracker,
        ledger: Ledger,
        metrics: Metrics,
        estimate: Callable[[str], int],
        timer: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._chain, self._terms = chain, terms
        self._cache, self._flights, self._gate = cache, flights, gate
        self._tracker, self._ledger, self._metrics = tracker, ledger, metrics
        self._estimate, self._timer, self._clock = estimate, timer, clock
        self._keys, self._bills = Keys(chain.offer), Bills(prices, chain.name)

    def answer(self, ask: Ask, tap: Tap | None = None) -> Answer:
        """The answer and its bill. Raises a PlatformError, billed if upstream calls were.

        A tap is told the answer as a provider writes it; one that is there already, or that another ask waits for,
        is only returned.
        """
        meter = Meter(self._estimate, timer=self._timer)
        trip = Trip(ask, self._keys.of(ask), meter, self._timer(), self._clock(), prompt_hash(ask.text), tap)
        try:
            return self._answer_or_fail(trip)
        except LedgerUnavailable as failure:
            _count(failure, trip.meter)
            self._close_unwritten(trip, failure.status)
            if trip.meter.charges:
                failure.bill = self._bill(trip)
                failure.overall_nano = self._ledger.overall_nano(ask.tenant)
            raise
        finally:
            if not trip.recorded:  # a bug of ours must not lose what was spent
                self._record(trip, "", self._bill(trip), MISS, status=500)

    def _close_unwritten(self, trip: Trip, status: int) -> None:
        """A row that was opened gets its bill even where a further call could not be covered: the ledger owes it."""
        if trip.opened is not None and not trip.recorded:
            with suppress(LedgerUnavailable):
                self._record(trip, "", self._bill(trip), MISS, status=status)
        trip.recorded = True

    def _answer_or_fail(self, trip: Trip) -> Answer:
        try:
            return self._answer(trip)
        except LedgerUnavailable:
            raise
        except PlatformError as failure:
            self._fail(trip, failure)
            raise

    def _answer(self, trip: Trip) -> Answer:
        kept: Kept | None = self._cache.get(trip.key) if trip.ask.reads_cache else None
        if kept is not None:
            return self._free(trip, kept, HIT)
        with self._gate.ask():
            if not trip.ask.reads_cache:
                return self._buy(trip, BYPASS)[1]
            return self._share(trip)

    def _share(self, trip: Trip) -> Answer:
        """Lead a flight or follow one; a follower pays nothing, and nothing for another's failure either."""
        try:
            landing = self._flights.fly(trip.key, lambda: self._lead(trip), trip.ask.deadline)
        except FlightTimeout:
            raise DeadlineExceeded() from None
        except SharedFailure as shared:
            if _is_another_callers(shared.cause, trip.ask):
                return self._share(trip)
            raise _as_ones_own(shared) from None
        kept, answer = landing.value
        return self._free(trip, kept, COALESCED) if landing.coalesced else answer

    def _lead(self, trip: Trip) -> tuple[Kept, Answer]:
        # An earlier flight may have landed between our look into the cache and this take-off.
        kept: Kept | None = self._cache.peek(trip.key)
        if kept is not None:
            return kept, self._free(trip, kept, HIT)
        return self._buy(trip, MISS)

    def _buy(self, trip: Trip, status: str) -> tuple[Kept, Answer]:
        reply = self._reply(trip, status)
        shown = self._tracker.shown(reply.text)  # once: hits are many
        kept = kept_of(reply, trip.meter, shown, classified(trip.ask, reply.text))
        answer = self._record(trip, reply.text, self._bill(trip, reply.model), status, kept=kept)
        if kept.whole and trip.ask.writes_cache:
            self._cache.put(trip.key, kept)
        return kept, answer

    def _reply(self, trip: Trip, status: str) -> Reply:
        trip.meter.bound = functools.partial(self._bills.most, trip.day)
        trip.meter.cover = functools.partial(self._cover, trip)
        trip.meter.tap = _tap_of(trip, status)
        try:
            return self._chain.answer(trip.ask, trip.meter, self._terms)
        finally:
            trip.meter.cover = (
                no_cover  # a trip and its meter that know each other would be left to the collector
            )

    def _free(self, trip: Trip, kept: Kept, status: str) -> Answer:
        """An answer that cost nothing; it saved what its calls would cost at today's prices."""
        bill = self._bills.free(kept.provider, kept.model, kept.charges, trip.day)
        return self._record(trip, kept.text, bill, status, kept=kept)

    def _bill(self, trip: Trip, model: str = "") -> Bill:
        return self._bills.paid(trip.meter, trip.day, model)

    def _cover(self, trip: Trip, provider: str, call: Call, reserved_nano: int | None) -> None:
        """The row is opened before the first call, and holds more before a call that may add to its cost."""
        if trip.opened is None:
            asked = provider, call.model
            trip.opened = self._ledger.open(trip.ask, reserved_nano, trip.prompt_hash, trip.at, asked)
        else:
            self._ledger.extend(trip.opened, reserved_nano, trip.ask)

    def _record(
        self,
        trip: Trip,
        text: str,
        bill: Bill,
        cache_status: str,
        *,
        status: int = 200,
        kept: Kept | None = None,
    ) -> Answer:
        trip.recorded = True
        ask, code = trip.ask, kept.code if kept else NO_CODE
        record = self._tracker.track_request(
            ask.route,
            ask.address,
            ask.text,
            text,
            cache_status == HIT,
            bill=bill,
            response_shown=kept.shown if kept else None,
            at=trip.at,
            request_id=ask.request_id,
            requested_model=ask.model or (trip.opened.requested_model if trip.opened else ""),
            tenant=ask.tenant,
            key_id=ask.key_id,
            user_id=ask.user_id,
            task=ask.task.value,
            prompt_hash=trip.prompt_hash,
            language=code.language,
            lines=code.lines,
            classified=kept.classified if kept else None,
            cache_status=cache_status,
            status=status,
            opened=trip.opened,
            budgets=ask.budgets,
            duration_ms=round((self._timer() - trip.started) * 1000, 3),
        )
        self._metrics.answered(cache_status if status == 200 else FAILED, bill)
        overall, left = record.overall_nanodollars, record.left_nano
        if kept is None:
            return Answer(text, bill, cache_status, overall, left_nano=left)
        return Answer(text, bill, cache_status, overall, kept.ignored, kept.whole, kept.calls, left)

    def _fail(self, trip: Trip, failure: PlatformError) -> None:
        """Record a failed ask; what its upstream calls were billed goes out with the error."""
        if trip.recorded:
            return
        status = MISS if trip.ask.reads_cache else BYPASS
        _count(failure, trip.meter)
        answer = self._record(trip, "", self._bill(trip), status, status=failure.status)
        failure.left_nano = answer.left_nano
        if trip.meter.charges:
            failure.bill, failure.overall_nano = answer.bill, answer.overall_nano


def _tap_of(trip: Trip, status: str) -> Tap | None:
    """The listener as providers' calls know it: told the text that the task promises."""
    if trip.tap is None:
        return None
    tap = Announced(trip.tap, status)
    return Unfenced(tap) if trip.ask.task is Task.CODE else tap


def prompt_hash(text: str) -> str:
    """The mark by which equal prompts are known in the ledger: half of their SHA-256, in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _is_another_callers(failure: Exception, ask: Ask) -> bool:
    """Whether a flight ended because of its leader: who hung up, or could not pay. Whoever else wants it may go on."""
    if isinstance(failure, BudgetExceeded):
        return failure.scope not in [budget.scope for budget in ask.budgets]
    return isinstance(failure, CallerLeft) or (isinstance(failure, Unpriced) and not ask.budgets)


def _count(failure: PlatformError, meter: Meter) -> None:
    """Note what this ask's own calls came to; a failure of a shared flight was another's before."""
    failure.attempts = meter.attempts
    failure.may_cost = bool(meter.charges or meter.unknown_attempts)


def _as_ones_own(shared: SharedFailure) -> Exception:
    """The failure for one follower to raise: the bill of it stays with the leader."""
    if isinstance(shared.cause, PlatformError):
        shared.cause.bill = None
    return shared.cause
