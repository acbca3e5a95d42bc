"""What a Gemini reply says: its text, the model that wrote it, and what it is billed for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from errors import ContentBlocked, EmptyReply, InvalidReply, UpstreamFault
from providers.base import Reply
from tasks import Usage

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

WHOLE, CUT = "STOP", "MAX_TOKENS"
REFUSALS = frozenset(
    {"SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY"}
)
# No call has more tokens than this; a larger count is nonsense and must not become money.
MOST_TOKENS = 10**9

Body = Callable[[], bytes]


def read_message(message: AIMessage, asked_model: str, body: Body) -> Reply:
    """A whole reply; a refusal or an empty reply is an error, not an answer.

    The client drops counts of zero, and all counts of a reply without candidates, although the prompt was
    billed: then they are read from the body itself.
    """
    facts = message.response_metadata
    reason = facts.get("finish_reason")
    raw = {} if message.usage_metadata else read_body(body())
    usage = read_usage(message.usage_metadata) or raw_usage(raw)
    model = facts.get("model_name") or _served(raw, asked_model)
    if (facts.get("prompt_feedback") or {}).get("block_reason") or reason in REFUSALS:
        raise ContentBlocked(usage=usage, model=model)
    if not message.text.strip():
        _refuse_empty(reason, usage, model)
    if reason not in (WHOLE, CUT):
        raise InvalidReply(
            usage=usage, model=model, unknown=usage is None, detail=f"finish reason {reason!r}"
        )
    return Reply(str(message.text), usage, model, whole=reason == WHOLE)


def _refuse_empty(reason: Any, usage: Usage | None, model: str) -> NoReturn:
    if reason is None and usage is None:
        raise InvalidReply(transient=True, unknown=True, detail="a reply of another shape")
    raise EmptyReply(usage=usage, model=model, detail=f"finish reason {reason!r}")


def with_usage(fault: UpstreamFault, asked_model: str, body: bytes) -> UpstreamFault:
    """The fault with what its unreadable reply was billed for, where the body still says so."""
    if isinstance(fault, InvalidReply):
        raw = read_body(body)
        fault.usage = raw_usage(raw)
        fault.model = _served(raw, asked_model)
        fault.unknown = fault.usage is None
    return fault


def read_usage(counts: Mapping[str, Any] | None) -> Usage | None:
    """The client library's counts, or None where there are none that make sense."""
    if counts is None:
        return None
    return checked_usage(
        counts.get("input_tokens"),
        counts.get("output_tokens"),
        (counts.get("input_token_details") or {}).get("cache_read") or 0,
        (counts.get("output_token_details") or {}).get("reasoning") or 0,
    )


def raw_usage(raw: Mapping[str, Any]) -> Usage | None:
    """Gemini's own counts: its output excludes the thoughts, which are billed as output."""
    counts = raw.get("usageMetadata")
    if not isinstance(counts, dict):
        return None
    thoughts, candidates = counts.get("thoughtsTokenCount", 0), counts.get("candidatesTokenCount", 0)
    if not (_is_count(thoughts) and _is_count(candidates)):
        return None
    prompt, cached = counts.get("promptTokenCount", 0), counts.get("cachedContentTokenCount", 0)
    return checked_usage(prompt, candidates + thoughts, cached, thoughts)


def checked_usage(asked: Any, answered: Any, cached: Any, reasoning: Any) -> Usage | None:
    """The counts as a Usage, or None where one of them is no count: money is made of them."""
    if not all(map(_is_count, (asked, answered, cached, reasoning))):
        return None
    return Usage(asked, answered, cached, reasoning) if cached <= asked and reasoning <= answered else None


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST_TOKENS


def read_body(body: bytes) -> Mapping[str, Any]:
    """A reply's body as an object; an empty one where it is something else."""
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return raw if isinstance(raw, dict) else {}


def _served(raw: Mapping[str, Any], asked_model: str) -> str:
    version = raw.get("modelVersion")
    return version if isinstance(version, str) and version else asked_model
