"""What every provider's reply holds: a body, counts of tokens, and the model that served it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from errors import InvalidReply, UpstreamFault
from tasks import Usage

# No call has more tokens than this; a larger count is nonsense and must not become money.
MOST_TOKENS = 10**9
NO_COUNT = -1
# In the body that a stream adds up to: what it counts may be more by its end.
COUNTING = "counting"
# Whether the body is such a sum.
STREAMED = "streamed"


def read_body(body: bytes) -> Mapping[str, Any]:
    """A reply's body as an object; an empty one where it is something else."""
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return raw if isinstance(raw, dict) else {}


def served_model(raw: Mapping[str, Any], field: str, asked_model: str) -> str:
    named = raw.get(field)
    return named if isinstance(named, str) and named else asked_model


def so_far(usage: Usage | None, raw: Mapping[str, Any]) -> Usage | None:
    """The counts, marked as no more than an estimate while a stream still counts."""
    return replace(usage, estimated=True) if usage and raw.get(COUNTING) else usage


def mapping(value: Any) -> Mapping[str, Any]:
    """An object as it is, and an empty one in place of anything else."""
    return value if isinstance(value, Mapping) else {}


def ending(reason: Any) -> str:
    """Why the model stopped, for the log: a word of the provider's, so not to be trusted to be short."""
    return f"finish reason {str(reason)[:40]!r}"


def part_of(counts: Any, *path: str) -> Any:
    """A count that is a part of another one; 0 where the provider leaves it out or says null."""
    for name in path:
        if counts is None:
            return 0
        if not isinstance(counts, Mapping):
            return NO_COUNT
        counts = counts.get(name)
    return 0 if counts is None else counts


def checked_usage(asked: Any, answered: Any, cached: Any, reasoning: Any) -> Usage | None:
    """The counts as a Usage, or None where one of them is no count: money is made of them."""
    if not all(map(is_count, (asked, answered, cached, reasoning))):
        return None
    return Usage(asked, answered, cached, reasoning) if cached <= asked and reasoning <= answered else None


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST_TOKENS


def ended_early(usage: Usage | None, model: str) -> UpstreamFault:
    """What a reply is that does not say why it ends."""
    return with_usage(InvalidReply(transient=True, unknown=True, detail="no finish reason"), usage, model)


def with_usage(fault: UpstreamFault, usage: Usage | None, model: str) -> UpstreamFault:
    """The fault with what its unreadable reply was billed for, where the body still says so.

    Counts that may be more by now say too little of a reply that was lost on the way.
    """
    if usage is not None and not (usage.estimated and fault.unknown):
        fault.usage, fault.model, fault.unknown = usage, model, False
    return fault
