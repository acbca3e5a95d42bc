"""What a reply in OpenAI's protocol says: its text, the model that wrote it, and what it is billed for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from errors import ContentBlocked, EmptyReply, InvalidReply, UpstreamFault
from providers.base import Reply
from providers.reply_facts import checked_usage, ending, part_of, served_model, with_usage
from tasks import Usage

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

WHOLE, BLOCKED = "stop", "content_filter"
# The model asks for tools that nobody offered it.
NO_ANSWER = frozenset({"tool_calls", "function_call"})
SERVED_BY = "model"


def read_message(message: AIMessage, raw: Mapping[str, Any], asked_model: str) -> Reply:
    """A whole reply; a refusal or an empty reply is an error, not an answer.

    Counts and model are read from the body: the client library fills in zeros where a server counts nothing.
    A finish reason that OpenAI does not have may mean a cut text, so it counts as one.
    """
    usage, model = read_usage(raw), served_model(raw, SERVED_BY, asked_model)
    reason = message.response_metadata.get("finish_reason")
    facts: dict[str, Any] = {"usage": usage, "model": model, "unknown": usage is None}
    if reason == BLOCKED or message.additional_kwargs.get("refusal"):
        raise ContentBlocked(**facts)
    if not message.text.strip():
        raise EmptyReply(**facts, detail=ending(reason))
    if reason in NO_ANSWER:
        raise InvalidReply(**facts, detail=ending(reason))
    return Reply(str(message.text), usage, model, whole=reason == WHOLE)


def read_usage(raw: Mapping[str, Any]) -> Usage | None:
    """The server's own counts: cached tokens are part of the prompt, reasoning is part of the completion."""
    counts = raw.get("usage")
    if not isinstance(counts, Mapping):
        return None
    return checked_usage(
        counts.get("prompt_tokens"),
        counts.get("completion_tokens"),
        part_of(counts, "prompt_tokens_details", "cached_tokens"),
        part_of(counts, "completion_tokens_details", "reasoning_tokens"),
    )


def unread(fault: UpstreamFault, raw: Mapping[str, Any], asked_model: str) -> UpstreamFault:
    """The fault of a reply that the client library could not read, with what the body still says of it."""
    usage, model = read_usage(raw), served_model(raw, SERVED_BY, asked_model)
    if isinstance(fault, InvalidReply) and raw.get("choices") == []:
        return EmptyReply(usage=usage, model=model, unknown=usage is None, detail="no choices")
    return with_usage(fault, usage, model)
