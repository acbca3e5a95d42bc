"""What requests add up to: sums by endpoint and minute, and the statistics that are read from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prices import dollars

if TYPE_CHECKING:
    from cost_tracker import CostRecord


@dataclass(slots=True)
class Sum:
    """What the requests of one endpoint in one minute add up to."""

    requests: int = 0
    cached: int = 0
    coalesced: int = 0
    failed: int = 0
    unknown_cost: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    nano: int = 0
    saved: int = 0
    unknown_nano: int = 0

    def add(self, record: CostRecord) -> None:
        self.requests += 1
        self.cached += record.cached
        self.coalesced += record.cache_status == "coalesced"
        self.failed += record.status >= 400
        self.unknown_cost += record.cost_nanodollars is None
        self.nano += record.cost_nanodollars or 0
        self.saved += record.saved_nanodollars or 0
        self.unknown_nano += record.unknown_nano
        if not record.cached and record.cache_status != "coalesced":  # tokens count where they were paid
            self.input_tokens += record.input_tokens
            self.output_tokens += record.output_tokens

    def merge(self, other: Sum) -> None:
        for name in Sum.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def usage_stats(hours: float, ends: dict[str, Sum], overall_nano: int) -> dict[str, Any]:
    whole = Sum()
    for part in ends.values():
        whole.merge(part)
    return {
        "period_hours": hours,
        **_reading(whole),
        "overall_cost_nanodollars": overall_nano,
        "endpoints": {name: _reading(part) for name, part in sorted(ends.items())},
    }


def _reading(part: Sum) -> dict[str, Any]:
    asked = part.requests or 1
    return {
        "total_requests": part.requests,
        "cached_requests": part.cached,
        "coalesced_requests": part.coalesced,
        "failed_requests": part.failed,
        "unknown_cost_requests": part.unknown_cost,
        "cache_hit_rate": part.cached / asked,
        "total_input_tokens": part.input_tokens,
        "total_output_tokens": part.output_tokens,
        "total_cost": dollars_of(part.nano),
        "total_cost_nanodollars": part.nano,
        "average_cost_per_request": float(dollars(part.nano) / asked),
        "cost_savings_from_cache": dollars_of(part.saved),
        "saved_nanodollars": part.saved,
        "unknown_nanodollars": part.unknown_nano,
    }


def dollars_of(nano: int | None) -> Any:
    if not nano:  # most requests are hits: theirs are zeros
        return None if nano is None else 0.0
    return float(dollars(nano))
