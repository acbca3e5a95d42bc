"""What a Gemini reply says: its text, the model that wrote it, and what it is billed for."""

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
    served_model,
    so_far,
)
from providers.turns import calls_of
from tasks import Usage

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

WHOLE, CUT = "STOP", "MAX_TOKENS"
REFUSALS = frozenset(
    {"SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY"}
)
SERVED_BY = "modelVersion"


def read_message(message: AIMessage, raw: Mapping[str, Any], call: Call) -> Reply:
    """A whole reply; a refusal or an empty reply is an error, not an answer.

    Counts and model are read from the body: the client library drops counts of zero, and all counts of a reply
    without candidates, although the prompt was billed.
    """
    usage, model = billed(raw, call.model)
    told = message.response_metadata
    reason = told.get("finish_reason")
    facts: dict[str, Any] = {"usage": usage, "model": model, "unknown": usage is None}
    if (told.get("prompt_feedback") or {}).get("block_reason") or reason in REFUSALS:
        raise ContentBlocked(**facts)
    if reason is None and (raw.get("candidates") or usage is None):
        raise ended_early(usage, model)
    calls = calls_of(message)
    if not (calls or message.text.strip()):
        raise EmptyReply(**facts, detail=ending(reason))
    if reason not in (WHOLE, CUT) or (calls and not call.offers_tools):
        raise InvalidReply(**facts, detail=ending(reason))
    return Reply(str(message.text), usage, model, whole=reason == WHOLE, calls=calls)


def billed(raw: Mapping[str, Any], asked_model: str) -> tuple[Usage | None, str]:
    return so_far(read_usage(raw), raw), served_model(raw, SERVED_BY, asked_model)


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


def fold(body: dict[str, Any], event: Mapping[str, Any]) -> None:
    """Put an event of a stream into the body that a plain reply would have had; each counts all so far.

    While text comes, its count may be left out.
    """
    facts = (SERVED_BY, "usageMetadata", "candidates")
    body.update({name: event[name] for name in facts if event.get(name) is not None})
    candidates, counts = event.get("candidates"), mapping(event.get("usageMetadata"))
    if candidates and counts:
        ended = isinstance(candidates, list) and "finishReason" in mapping(candidates[0])
        body[COUNTING] = not (ended or "candidatesTokenCount" in counts)
