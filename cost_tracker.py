"""What every request cost: token counts, records, the running total and the usage statistics."""

# Above 300 lines, because counter, record and tracker are promised under this one name.

from __future__ import annotations

import functools
import hashlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from log_writer import LogChannel, LogWriter
from tasks import Bill, Charge, Usage
from token_estimate import estimate_tokens
from tokenizer import load_encoding
from usage_sums import Sum, dollars_of, usage_stats

if TYPE_CHECKING:
    from identity import Budget
    from store.rows import Row

MAX_RECORDS = 10_000
LOG_BYTES, LOG_BACKUPS = 10 * 1024 * 1024, 5
MAX_MINUTES = 31 * 24 * 60
MAX_ENDPOINTS = 64
MAX_COUNTED_CHARS = 100_000


class TokenCounter:
    """Counts tokens where the provider gave no count. Never touches the network.

    With tiktoken's file in `cache_dir` it counts as cl100k_base does; without, it estimates
    (docs/token-estimate.md states the error).
    """

    INPUT_COST_PER_MILLION = 0.10
    OUTPUT_COST_PER_MILLION = 0.40
    _INPUT_NANO, _OUTPUT_NANO = 100, 400

    def __init__(self, cache_dir: str = ".tiktoken") -> None:
        self._cache_dir = cache_dir

    def count_tokens(self, text: str) -> int:
        """Tokens in the text; only its first 100,000 characters are looked at, the rest is scaled."""
        if len(text) > MAX_COUNTED_CHARS:
            return self.count_tokens(text[:MAX_COUNTED_CHARS]) * len(text) // MAX_COUNTED_CHARS
        encoding = load_encoding(self._cache_dir)
        if encoding is None:
            return estimate_tokens(text)
        try:
            return len(encoding.encode_ordinary(text))
        except BaseException as panic:
            if isinstance(panic, KeyboardInterrupt | SystemExit):
                raise
            return estimate_tokens(text)

    def calculate_cost(self, input_tokens: int, output_tokens: int) -> tuple[float, float, float]:
        """(input, output, total) in US dollars at this class's two prices; the road uses prices.py instead."""
        input_nano, output_nano = input_tokens * self._INPUT_NANO, output_tokens * self._OUTPUT_NANO
        return dollars_of(input_nano), dollars_of(output_nano), dollars_of(input_nano + output_nano)

    def bill(self, prompt: str, response: str, cached: bool) -> Bill:
        """An estimated bill for callers who have no provider's counts."""
        usage = Usage(self.count_tokens(prompt), self.count_tokens(response), estimated=True)
        input_nano = usage.input_tokens * self._INPUT_NANO
        output_nano = usage.output_tokens * self._OUTPUT_NANO
        if cached:
            return Bill(usage, saved_nano=input_nano + output_nano)
        return Bill(usage, input_nano=input_nano, output_nano=output_nano)


@dataclass(slots=True, kw_only=True)  # not frozen: that would triple what making one costs
class CostRecord:
    """One request. Dollars are for reading; the nano-dollars are exact. None: the model has no known price."""

    timestamp: float
    endpoint: str
    user_ip: str
    prompt: str
    response: str
    input_tokens: int
    output_tokens: int
    input_cost: float | None
    output_cost: float | None
    total_cost: float | None
    cached: bool
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    cost_nanodollars: int | None = 0
    saved_nanodollars: int | None = 0
    overall_nanodollars: int = 0
    provider: str = ""
    model: str = ""
    attempts: int = 0
    unknown_attempts: int = 0
    unknown_nano: int = 0
    charges: tuple[Charge, ...] = ()
    requested_model: str = ""
    request_id: str = ""
    tenant: str = "anonymous"
    key_id: str = ""
    user_id: str = ""
    task: str = ""
    prompt_hash: str = ""
    language: str = ""
    lines: int = 0
    cache_status: str = ""
    status: int = 200
    duration_ms: float = 0.0
    # Of a classification, what feedback is judged by; for the ledger alone.
    classified: str | None = None
    # The ledger's open row of this request, where it has one; the caller's budgets, and what is left of them.
    opened: Row | None = None
    budgets: tuple[Budget, ...] = ()
    left_nano: int | None = None


def _nothing(_: CostRecord) -> None:
    """The sink where none is given."""


@dataclass(slots=True)
class _Book:
    """Everything in a tracker that a lock must hold together."""

    overall_nano: int = 0
    records: deque[CostRecord] = field(default_factory=lambda: deque(maxlen=MAX_RECORDS))
    minutes: dict[int, dict[str, Sum]] = field(default_factory=dict)
    endpoints: set[str] = field(default_factory=set)


class CostTracker:
    """Records each request once: in the running total, in the statistics, in the log, and in `sink`.

    Memory is bounded: the last 10,000 records and one sum per endpoint and minute of the last 31 days.
    `sink` keeps the record for good and may return what has been spent by then, in nano-dollars.
    """

    def __init__(
        self,
        log_file: str | Path = "logs/cost_tracking.log",
        *,
        channel: LogChannel | None = None,
        counter: TokenCounter | None = None,
        sink: Callable[[CostRecord], int | None] = _nothing,
        shown: Callable[[str], str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._channel = channel or LogWriter().channel(Path(log_file), LOG_BYTES, LOG_BACKUPS)
        self._counter = counter or TokenCounter()
        self._sink, self.shown, self._clock = sink, shown or digest, clock
        self._book = _Book()
        self._lock = threading.Lock()

    def track_request(
        self,
        endpoint: str,
        user_ip: str,
        prompt: str,
        response: str,
        cached: bool = False,
        *,
        bill: Bill | None = None,
        response_shown: str | None = None,
        at: float | None = None,
        **facts: Any,
    ) -> CostRecord:
        """Record one request; `facts` are further fields of CostRecord. Without a bill it is estimated.

        `response_shown` is what `shown` made of the response, where the caller knows it already; `at` is
        when the request came (UTC seconds; now). Raises whatever the sink raises, once log and statistics have it.
        """
        bill = bill or self._counter.bill(prompt, response, cached)
        # One long call: merging dictionaries of fields would double what a record costs.
        usage, total = bill.usage, bill.total_nano
        told, now = self.shown(prompt), self._clock() if at is None else at
        answered = self.shown(response) if response_shown is None else response_shown
        record = CostRecord(
            timestamp=now,
            endpoint=endpoint,
            user_ip=user_ip,
            prompt=told,
            response=answered,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            input_cost=dollars_of(bill.input_nano),
            output_cost=dollars_of(bill.output_nano),
            total_cost=dollars_of(total),
            cached=cached,
            cached_tokens=usage.cached_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            estimated=usage.estimated,
            cost_nanodollars=total,
            saved_nanodollars=bill.saved_nano,
            provider=bill.provider,
            model=bill.model,
            attempts=bill.attempts,
            unknown_attempts=bill.unknown_attempts,
            unknown_nano=bill.unknown_nano,
            charges=bill.charges,
            **facts,
        )
        try:
            spent = self._sink(record)
        finally:
            record.overall_nanodollars = self._note(record)
            self._channel.write(functools.partial(_line, record), must_keep=True)
        if spent is not None:
            record.overall_nanodollars = spent
        return record

    def _note(self, record: CostRecord) -> int:
        """Add a record to what is remembered; what this tracker has seen spent by then."""
        with self._lock:
            self._book.overall_nano += record.cost_nanodollars or 0
            self._remember(record)
            return self._book.overall_nano

    def _remember(self, record: CostRecord) -> None:
        book = self._book
        book.records.append(record)
        minute = int(record.timestamp // 60)
        if minute not in book.minutes and len(book.minutes) >= MAX_MINUTES:
            del book.minutes[next(iter(book.minutes))]
        name = record.endpoint
        if name not in book.endpoints:
            name = name if len(book.endpoints) < MAX_ENDPOINTS else "<other>"
            book.endpoints.add(name)
        book.minutes.setdefault(minute, {}).setdefault(name, Sum()).add(record)

    @property
    def overall_nano(self) -> int:
        """Nano-dollars spent since this tracker began."""
        return self._book.overall_nano

    def get_usage_stats(self, hours: float = 24, *, tenant: str | None = None) -> dict[str, Any]:
        """What the last hours add up to, whole minutes; dollars as numbers, nano-dollars as integers.

        Of one tenant it is what the last records add up to: sums know no tenants.
        """
        since = int((self._clock() - hours * 3600) // 60)
        if tenant is not None:
            return self._stats_of(tenant, hours, since)
        ends: dict[str, Sum] = {}
        with self._lock:
            for minute, sums in self._book.minutes.items():
                if minute > since:
                    for name, part in sums.items():
                        ends.setdefault(name, Sum()).merge(part)
            overall = self._book.overall_nano
        return usage_stats(hours, ends, overall)

    def _stats_of(self, tenant: str, hours: float, since: int) -> dict[str, Any]:
        ends: dict[str, Sum] = {}
        with self._lock:
            records = [record for record in self._book.records if record.tenant == tenant]
        for record in records:
            if record.timestamp // 60 > since:
                ends.setdefault(record.endpoint, Sum()).add(record)
        return usage_stats(hours, ends, sum(record.cost_nanodollars or 0 for record in records))

    def export_records(self, output_file: str | Path, hours: float | None = None) -> int:
        """Write the remembered records of the last hours as a JSON list, whole or not at all; how many."""
        since = 0.0 if hours is None else self._clock() - hours * 3600
        with self._lock:
            kept = [record for record in self._book.records if record.timestamp >= since]
        output = Path(output_file)
        output.parent.mkdir(parents=True, exist_ok=True)
        part = output.with_name(output.name + ".part")
        part.write_text(json.dumps([_told(record) for record in kept], indent=1), encoding="utf-8")
        part.replace(output)
        return len(kept)

    def cleanup_old_records(self, days: float = 30) -> int:
        """Forget records and sums older than this; how many records. The running total stays."""
        oldest = self._clock() - days * 86_400
        with self._lock:
            book = self._book
            before = len(book.records)
            kept = [record for record in book.records if record.timestamp >= oldest]
            book.records = deque(kept, maxlen=MAX_RECORDS)
            book.minutes = {minute: sums for minute, sums in book.minutes.items() if minute >= oldest // 60}
            return before - len(kept)


def digest(text: str) -> str:
    """What a record says of a text that may not be kept: how long it was, and a mark to know it again."""
    if not text:
        return ""
    mark = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"[{len(text)} characters, sha256 {mark}]"


_UNTOLD = ("opened", "charges", "classified", "budgets", "left_nano")
_LOGGED = tuple(name for name in CostRecord.__slots__ if name not in _UNTOLD)


def _told(record: CostRecord) -> dict[str, Any]:
    """A record as logs and exports show it."""
    fields = {name: getattr(record, name) for name in _LOGGED}
    fields["rates"] = _rates_text(record.charges)
    return fields


def _line(record: CostRecord) -> dict[str, Any]:
    return {**_told(record), "timestamp": datetime.fromtimestamp(record.timestamp, UTC)}


@functools.lru_cache(maxsize=256)
def _rates_text(charges: tuple[Charge, ...]) -> list[dict[str, str]]:
    rates = dict.fromkeys(charge.rates for charge in charges if charge.rates)
    return [each.as_text() for each in rates]
