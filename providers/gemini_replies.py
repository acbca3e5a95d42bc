"""What a Gemini reply says: its text, the model that wrote it, and what it is billed for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from errors import ContentBlocked, EmptyReply, InvalidReply
from providers.base import Reply
from providers.reply_facts import checked_usage, ending, is_count, served_model
from tasks import Usage

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

WHOLE, CUT = "STOP", "MAX_TOKENS"
REFUSALS = frozenset(
    {"SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY"}
)
SERVED_BY = "modelVersion"


def read_message(message: AIMessage, raw: Mapping[str, Any], asked_model: str) -> Reply:
    """A whole reply; a refusal or an empty reply is an error, not an answer.

    Counts and model are read from the body: the client library drops counts of zero, and all counts of a reply
    without candidates, although the prompt was billed.
    """
    usage, model = read_usage(raw), served_model(raw, SERVED_BY, asked_model)
    told = message.response_metadata
    reason = told.get("finish_reason")
    facts: dict[str, Any] = {"usage": usage, "model": model, "unknown": usage is None}
    if (told.get("prompt_feedback") or {}).get("block_reason") or reason in REFUSALS:
        raise ContentBlocked(**facts)
    if not message.text.strip():
        if reason is None and usage is None:
            raise InvalidReply(transient=True, unknown=True, detail="a reply of another shape")
        raise EmptyReply(**facts, detail=ending(reason))
    if reason not in (WHOLE, CUT):
        raise InvalidReply(**facts, detail=ending(reason))
    return Reply(str(message.text), usage, model, whole=reason == WHOLE)


def read_usage(raw: Mapping[str, Any]) -> Usage | None:
    """Gemini's own counts: its output excludes the thoughts, which are billed as output."""
    counts = raw.get("usageMetadata")
    if not isinstance(counts, dict):
        return None
    thoughts, candidates = counts.get("thoughtsTokenCount", 0), counts.get("candidatesTokenCount", 0)
    if not (is_count(thoughts) and is_count(candidates)):
        return None
    prompt, cached = counts.get("promptTokenCount", 0), counts.get("cachedContentTokenCount", 0)
    return checked_usage(prompt, candidates + thoughts, cached, thoughts)
