"""What a Claude reply says: its text, the model that wrote it, and what it is billed for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from errors import ContentBlocked, EmptyReply, InvalidReply
from providers.base import Call, Reply
from providers.reply_facts import (
    COUNTING,
    checked_usage,
    ended_early,
    ending,
    is_count,
    mapping,
    part_of,
    served_model,
    so_far,
)
from providers.turns import calls_of
from tasks import Usage

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

TOOLS = "tool_use"
WHOLE = frozenset({"end_turn", "stop_sequence", TOOLS})
CUT = frozenset({"max_tokens", "model_context_window_exceeded"})
REFUSED = "refusal"
SERVED_BY = "model"


def read_message(message: AIMessage, raw: Mapping[str, Any], call: Call) -> Reply:
    """A whole reply; a refusal or an empty reply is an error, not an answer."""
    usage, model = billed(raw, call.model)
    reason = message.response_metadata.get("stop_reason")
    facts: dict[str, Any] = {"usage": usage, "model": model, "unknown": usage is None}
    if reason == REFUSED:
        raise ContentBlocked(**facts)
    if reason is None:
        raise ended_early(usage, model)
    calls = calls_of(message)
    if not (calls or message.text.strip()):
        raise EmptyReply(**facts, detail=ending(reason))
    if reason not in WHOLE | CUT or (calls and not call.offers_tools):
        raise InvalidReply(**facts, detail=ending(reason))
    return Reply(str(message.text), usage, model, whole=reason in WHOLE, calls=calls)


def billed(raw: Mapping[str, Any], asked_model: str) -> tuple[Usage | None, str]:
    return so_far(read_usage(raw), raw), served_model(raw, SERVED_BY, asked_model)


def read_usage(raw: Mapping[str, Any]) -> Usage | None:
    """Anthropic's own counts: tokens read from and written to its cache come on top of the input."""
    counts = raw.get("usage")
    if not isinstance(counts, Mapping):
        return None
    cached = part_of(counts, "cache_read_input_tokens")
    parts = (counts.get("input_tokens"), cached, part_of(counts, "cache_creation_input_tokens"))
    if not all(map(is_count, parts)):
        return None
    thinking = part_of(counts, "output_tokens_details", "thinking_tokens")
    return checked_usage(sum(parts), counts.get("output_tokens"), cached, thinking)


def fold(body: dict[str, Any], event: Mapping[str, Any]) -> None:
    """Put an event of a stream into the body that a plain reply would have had."""
    if event.get("type") == "message_start":
        body.update(mapping(event.get("message")), **{COUNTING: True})
    elif event.get("type") == "message_delta":
        final = {name: count for name, count in mapping(event.get("usage")).items() if count is not None}
        if final:
            body.update({"usage": {**mapping(body.get("usage")), **final}, COUNTING: False})
