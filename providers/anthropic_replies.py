"""What a Claude reply says: its text, the model that wrote it, and what it is billed for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from errors import ContentBlocked, EmptyReply, InvalidReply
from providers.base import Reply
from providers.reply_facts import checked_usage, ending, is_count, part_of, served_model
from tasks import Usage

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

WHOLE = frozenset({"end_turn", "stop_sequence"})
CUT = frozenset({"max_tokens", "model_context_window_exceeded"})
REFUSED = "refusal"
SERVED_BY = "model"


def read_message(message: AIMessage, raw: Mapping[str, Any], asked_model: str) -> Reply:
    """A whole reply; a refusal or an empty reply is an error, not an answer."""
    usage, model = read_usage(raw), served_model(raw, SERVED_BY, asked_model)
    reason = message.response_metadata.get("stop_reason")
    facts: dict[str, Any] = {"usage": usage, "model": model, "unknown": usage is None}
    if reason == REFUSED:
        raise ContentBlocked(**facts)
    if not message.text.strip():
        raise EmptyReply(**facts, detail=ending(reason))
    if reason not in WHOLE | CUT:
        raise InvalidReply(**facts, detail=ending(reason))
    return Reply(str(message.text), usage, model, whole=reason in WHOLE)


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
