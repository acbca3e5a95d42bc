"""A row of the ledger, and the text in which it keeps what its upstream calls were billed."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import orjson

from prices import Rates
from store.tables import OPEN, SETTLED, UNKNOWN
from tasks import Charge, Usage

if TYPE_CHECKING:
    from cost_tracker import CostRecord

MICRO = 1_000_000


@dataclass(slots=True, kw_only=True)  # not frozen: that would triple what making one costs
class Row:
    """One row of `requests`, but for its sequence number. Its fields are the columns."""

    request_id: str
    mark: int
    instance: str
    state: str
    at_us: int
    expires_us: int | None = None
    route: str = ""
    task: str = ""
    tenant: str = ""
    address: str = ""
    key_id: str = ""
    user_id: str = ""
    provider: str = ""
    requested_model: str = ""
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    charges: str = "[]"
    cost_nano: int | None = 0
    saved_nano: int | None = 0
    saved_by: str = ""
    discount_nano: int = 0
    reserved_nano: int | None = None
    unknown_nano: int = 0
    attempts: int = 0
    unknown_attempts: int = 0
    cache_status: str = ""
    status: int = 0
    duration_us: int = 0
    prompt_hash: str = ""
    language: str = ""
    lines: int = 0
    prompt: str | None = None
    response: str | None = None
    classified: str | None = None
    holds: str = ""


COLUMNS = tuple(entry.name for entry in fields(Row))
# What a row says once, when it is opened; the rest is written when it is closed.
FIXED = (
    *("request_id", "mark", "instance", "at_us", "route", "task", "tenant", "address", "key_id", "user_id"),
    *("requested_model", "prompt_hash", "holds"),
)
CLOSING = tuple(name for name in COLUMNS if name not in FIXED)

# By what a row is found; the mark alone tells whose it is, where a tenant has sent an id twice.
NAME = ("request_id", "tenant", "mark")

values_of = attrgetter(*COLUMNS)
name_of = attrgetter(*NAME)
closing_values_of = attrgetter(*CLOSING, *NAME)
extending_values_of = attrgetter("reserved_nano", *NAME)
# Rows are locked in this order everywhere, so that two instances cannot wait for each other in a circle: callers may
# send one id to both.
place_of = attrgetter("request_id", "tenant")


def row_from(stored: Any) -> Row:
    """A row again from what the database or the spool holds of it, by column name."""
    # A line that an older version has spooled knows fewer columns.
    row = Row(**{name: stored[name] for name in COLUMNS if name in stored})
    row.estimated = bool(row.estimated)
    return row


def closed_row(record: CostRecord, mark: int, instance: str, kept_text: Callable[[str], str | None]) -> Row:
    """The row of a request that is over; `kept_text` is what is kept of a text. Long: it names every column once."""
    opened = record.opened
    free = record.cache_status if record.cache_status in ("hit", "coalesced") else ""
    lost = record.unknown_attempts
    return Row(
        request_id=record.request_id,
        mark=mark,
        instance=instance,
        state=UNKNOWN if lost and not record.charges else SETTLED,
        at_us=opened.at_us if opened else round(record.timestamp * MICRO),
        route=record.endpoint[:100],
        task=record.task,
        tenant=record.tenant,
        address=record.user_ip[:100],
        key_id=record.key_id,
        user_id=record.user_id,
        provider=record.provider,
        requested_model=record.requested_model[:100],
        model=record.model or (opened.model if opened else ""),
        input_tokens=record.input_tokens,
        output_tokens=record.output_tokens,
        cached_tokens=record.cached_tokens,
        reasoning_tokens=record.reasoning_tokens,
        estimated=record.estimated,
        charges=charges_text(record.charges),
        cost_nano=record.cost_nanodollars,
        saved_nano=record.saved_nanodollars,
        saved_by=free,
        discount_nano=0 if free else discount_of(record.charges),
        reserved_nano=opened.reserved_nano if opened else None,
        unknown_nano=record.unknown_nano,
        attempts=record.attempts,
        unknown_attempts=lost,
        cache_status=record.cache_status,
        status=record.status,
        duration_us=round(record.duration_ms * 1000),
        prompt_hash=record.prompt_hash,
        language=record.language,
        lines=record.lines,
        prompt=kept_text(record.prompt),
        response=kept_text(record.response),
        classified=record.classified,
        holds=opened.holds if opened else "",
    )


def given_up(row: Row) -> Row:
    """An open row whose process is gone: its call may have been billed, up to what was reserved."""
    row.state, row.expires_us = UNKNOWN, None
    row.attempts = row.unknown_attempts = 1
    row.unknown_nano = row.reserved_nano or 0
    return row


def is_open(row: Row) -> bool:
    return row.state == OPEN


def storable(text: str) -> str:
    return text.replace("\x00", "\ufffd")  # PostgreSQL takes every character but this one


@functools.lru_cache(maxsize=1024)  # the same answers are served again and again
def charges_text(charges: tuple[Charge, ...]) -> str:
    """Charges as JSON: a list of [model, input, output, cached, reasoning, the five parts of its rates, provider]."""
    return json.dumps([_charge_list(charge) for charge in charges], separators=(",", ":"))


def _charge_list(charge: Charge) -> list[Any]:
    usage, rates = charge.usage, charge.rates
    told = rates.as_text() if rates else {}
    parts = ("input_nano", "cached_nano", "output_nano", "model", "source")
    counts = (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens)
    return [charge.model, *counts, *(told.get(part) for part in parts), charge.provider]


def charges_from(text: str) -> tuple[Charge, ...]:
    """The charges of a row, as they were when it was written."""
    return tuple(_charge_from(entry) for entry in orjson.loads(text))


def _charge_from(entry: list[Any]) -> Charge:
    model, given, made, cached, reasoning, fresh_nano, cached_nano, output_nano, name, source, *later = entry
    usage, provider = Usage(given, made, cached, reasoning), later[0] if later else ""
    if name is None:
        return Charge(model, usage, None, provider)
    told = {"input_nano": fresh_nano, "cached_nano": cached_nano, "output_nano": output_nano}
    return Charge(model, usage, Rates.from_text({**told, "model": name, "source": source}), provider)


def discount_of(charges: tuple[Charge, ...]) -> int:
    """What the provider's own prompt cache took off the price of these calls."""
    return sum(charge.rates.discount(charge.usage) for charge in charges if charge.rates)
