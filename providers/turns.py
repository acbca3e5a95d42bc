"""A conversation as LangChain's clients take it, and the calls of tools that come back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from chats import Chat, ToolCall, Turn
from providers.reply_facts import read_body

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, MessageLikeRepresentation

# "Any of them" has another name outside of OpenAI's protocol.
CHOICES = {"required": "any"}
NO_PARAMETERS = {"type": "object", "properties": {}}


def turns_of(chat: Chat) -> list[MessageLikeRepresentation]:
    """The turns as messages. A tool's name stands with its call only; some services want it with the result too."""
    names = {call.id: call.name for turn in chat.turns for call in turn.calls}
    return [_message(turn, names) for turn in chat.turns]


def _message(turn: Turn, names: Mapping[str, str]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": turn.role, "content": turn.text}
    if turn.role == "tool":
        return {**message, "tool_call_id": turn.answers, "name": names.get(turn.answers, turn.answers)}
    if turn.calls:
        message["tool_calls"] = [_call(call) for call in turn.calls]
    return message


def _call(call: ToolCall) -> dict[str, Any]:
    arguments = read_body(call.arguments.encode("utf-8", "replace"))
    return {"id": call.id, "name": call.name, "args": arguments, "type": "tool_call"}


def tool_options(client: BaseChatModel, chat: Chat, none: Any = "none") -> dict[str, Any]:
    """The chat's tools, as options of this client's calls. none: how it is told to call none of them."""
    if not chat.tools:
        return {}
    choice = tool_choice(chat)
    choices = {**CHOICES, "none": none}
    named = choice["function"]["name"] if isinstance(choice, dict) else choices.get(choice, choice)
    tools = [_whole(tool) for tool in json.loads(chat.tools)]
    bound: Any = client.bind_tools(tools, tool_choice=named or None)
    return dict(bound.kwargs)


def _whole(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool without parameters may leave them out, but not everywhere."""
    return {**tool, "function": {"parameters": NO_PARAMETERS, **tool["function"]}}


def tool_choice(chat: Chat) -> Any:
    return json.loads(chat.tool_choice) if chat.tool_choice else ""


def calls_of(message: AIMessage) -> tuple[ToolCall, ...]:
    """The calls in a message, their arguments as they were streamed, else written anew."""
    streamed: Sequence[Any] = getattr(message, "tool_call_chunks", ())
    if streamed:
        return tuple(
            ToolCall(call["id"] or "", call["name"] or "", call["args"] or "{}") for call in streamed
        )
    return tuple(
        ToolCall(call["id"] or "", call["name"], json.dumps(call["args"], ensure_ascii=False))
        for call in message.tool_calls
    )
