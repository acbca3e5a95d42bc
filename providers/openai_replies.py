"""What a reply in OpenAI's protocol says: its text, the model that wrote it, and what it is billed for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from chats import ToolCall
from errors import ContentBlocked, EmptyReply, InvalidReply, UpstreamFault
from providers.base import Call, Reply
from providers.reply_facts import (
    COUNTING,
    STREAMED,
    checked_usage,
    ended_early,
    ending,
    mapping,
    part_of,
    served_model,
    so_far,
    with_usage,
)
from providers.turns import calls_of
from providers.vectors import join_vectors
from tasks import Usage

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

WHOLE, BLOCKED = "stop", "content_filter"
TOOLS = frozenset({"tool_calls", "function_call"})
SERVED_BY = "model"
REFUSED = "refusal"


def read_message(message: AIMessage, raw: Mapping[str, Any], call: Call) -> Reply:
    """A whole reply; a refusal or an empty reply is an error, not an answer.

    Counts and model are read from the body: the client library fills in zeros where a server counts nothing.
    A finish reason that OpenAI does not have may mean a cut text, so it counts as one. A stream that says something
    and not why it ends was broken off on the way, whatever it has counted by then.
    """
    usage, model = billed(raw, call.model)
    reason = message.response_metadata.get("finish_reason")
    facts: dict[str, Any] = {"usage": usage, "model": model, "unknown": usage is None}
    if reason == BLOCKED or message.additional_kwargs.get("refusal") or raw.get(REFUSED):
        raise ContentBlocked(**facts)
    calls = _calls(message, raw)
    says_nothing = not (calls or message.text.strip())
    if reason is None and raw.get(STREAMED) and (usage is None or not says_nothing):
        raise ended_early(usage, model)
    if says_nothing:
        raise EmptyReply(**facts, detail=ending(reason))
    if (calls or reason in TOOLS) and not (calls and call.offers_tools):
        raise InvalidReply(**facts, detail=ending(reason))
    whole = reason == WHOLE or reason in TOOLS
    return Reply(str(message.text), usage, model, whole=whole, calls=calls)


def _calls(message: AIMessage, raw: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    """The calls with their arguments as the model wrote them, which the library keeps of a stream only."""
    if raw.get(STREAMED) or not (message.tool_calls or message.invalid_tool_calls):
        return calls_of(message)
    written = raw["choices"][0]["message"]["tool_calls"]
    return tuple(_call(call, call["function"]) for call in written)


def _call(call: Mapping[str, Any], function: Mapping[str, Any]) -> ToolCall:
    return ToolCall(str(call.get("id") or ""), str(function["name"]), str(function["arguments"]))


def read_embeddings(raw: Mapping[str, Any], call: Call) -> Reply:
    """One vector for each input, in their order; the reply's text is that of join_vectors."""
    told = sorted(raw["data"], key=lambda entry: int(entry["index"]))
    counts = mapping(raw.get("usage"))
    usage = checked_usage(counts.get("prompt_tokens"), 0, 0, 0)
    model = served_model(raw, SERVED_BY, call.model)
    if len(told) != len(call.wording.inputs):
        raise with_usage(InvalidReply(unknown=True, detail="embeddings of other inputs"), usage, model)
    return Reply(join_vectors([entry["embedding"] for entry in told]), usage, model)


def billed(raw: Mapping[str, Any], asked_model: str) -> tuple[Usage | None, str]:
    return so_far(read_usage(raw), raw), served_model(raw, SERVED_BY, asked_model)


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


def unread(fault: UpstreamFault, raw: Mapping[str, Any]) -> UpstreamFault:
    """The fault of a reply that the client library could not read; of one without choices, what it is."""
    if isinstance(fault, InvalidReply) and raw.get("choices") == []:
        return EmptyReply(usage=fault.usage, model=fault.model, unknown=fault.unknown, detail="no choices")
    return fault


def fold(body: dict[str, Any], event: Mapping[str, Any]) -> None:
    """Put an event of a stream into the body that a plain reply would have had; the library drops refusals.

    Some servers count with each event, and some with the first one and the last.
    """
    body.update({name: event[name] for name in (SERVED_BY, "usage") if event.get(name) is not None})
    if event.get("usage") is not None:
        body[COUNTING] = False
    choices = event.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        delta = mapping(mapping(choice).get("delta"))
        if delta.get("refusal"):
            body[REFUSED] = True
        if delta.get("content") and event.get("usage") is None:
            body[COUNTING] = True
