"""OpenAI's `messages` as the turns of a chat, or a refusal that names the place in the list."""

from __future__ import annotations

from typing import Any

import rules
from api.schemas import STRICT
from chats import ToolCall, Turn
from errors import InvalidInput

MAX_MESSAGES = 2048
MAX_PARTS = 256
MAX_CALLS = 128
MAX_NAME_CHARS = 256
NO_ARGUMENTS = "{}"
# OpenAI's client sends back what it made of an answer by itself: `annotations`, `parsed` and `parsed_arguments`.
FIELDS = {
    "system": frozenset({"role", "content", "name"}),
    "developer": frozenset({"role", "content", "name"}),
    "user": frozenset({"role", "content", "name"}),
    "assistant": frozenset(
        {
            "role",
            "content",
            "name",
            "tool_calls",
            "refusal",
            "annotations",
            "parsed",
            "audio",
            "function_call",
        }
    ),
    "tool": frozenset({"role", "content", "name", "tool_call_id"}),
}
CALL_FIELDS = frozenset({"id", "type", "function", "index"})
FUNCTION_FIELDS = frozenset({"name", "arguments", "parsed_arguments"})


def read_turns(value: Any, max_chars: int) -> tuple[str, tuple[Turn, ...]]:
    """The instructions, wherever in the list they stand, and the other messages in order."""
    system: list[str] = []
    turns: list[Turn] = []
    waiting: set[str] = set()
    messages = rules.a_list(value, "messages", MAX_MESSAGES)
    for place, message in enumerate(messages):
        field = f"messages[{place}]"
        role = _role(message, field)
        if role in ("system", "developer"):
            system.append(_text(message, field, max_chars, may_be_blank=True))
            continue
        turn = _READ[role](message, field, max_chars)
        _keep_order(turn, waiting, field)
        if (
            turn.role != "assistant" or turn.calls or turn.text.strip()
        ):  # one that was broken off says nothing
            turns.append(turn)
    if waiting:
        raise InvalidInput(_unanswered(waiting), field=f"messages[{len(messages) - 1}]")
    if not any(turn.role == "user" for turn in turns):
        raise InvalidInput(
            "`messages` holds nothing of a user. Add a message of role `user`.", field="messages"
        )
    return "\n\n".join(text for text in system if text.strip()), tuple(turns)


def _role(message: Any, field: str) -> str:
    if not isinstance(message, dict):
        raise InvalidInput(f"`{field}` must be an object with `role` and `content`.", field=field)
    role = rules.one_of(message.get("role"), f"{field}.role", FIELDS)
    rules.an_object(message, field, FIELDS[role])
    rules.optional_text(message.get("name"), f"{field}.name", MAX_NAME_CHARS)
    return role


def _keep_order(turn: Turn, waiting: set[str], field: str) -> None:
    """Each call of a tool is answered before anything else is said, and no other call is."""
    if turn.role != "tool":
        if waiting:
            raise InvalidInput(_unanswered(waiting), field=field)
        waiting.update(call.id for call in turn.calls)
    elif turn.answers in waiting:
        waiting.remove(turn.answers)
    else:
        raise InvalidInput(
            f"`{field}.tool_call_id` names no call of the assistant's message before it that is still unanswered.",
            field=f"{field}.tool_call_id",
        )


def _unanswered(waiting: set[str]) -> str:
    named = rules.short(min(waiting))
    return f"The call `{named}` has no answer. Put a message of role `tool` right after the assistant's."


def _user(message: dict[str, Any], field: str, max_chars: int) -> Turn:
    return Turn("user", _text(message, field, max_chars))


def _tool(message: dict[str, Any], field: str, max_chars: int) -> Turn:
    answers = rules.text_field(message.get("tool_call_id"), f"{field}.tool_call_id", MAX_NAME_CHARS)
    return Turn("tool", _text(message, field, max_chars, may_be_blank=True), answers=answers)


def _assistant(message: dict[str, Any], field: str, max_chars: int) -> Turn:
    for legacy in ("audio", "function_call"):
        if message.get(legacy) is not None:
            raise InvalidInput(
                f"`{field}.{legacy}` is not taken here. Leave it out.", field=f"{field}.{legacy}"
            )
    calls = _calls(message.get("tool_calls"), f"{field}.tool_calls", max_chars)
    refusal = rules.optional_text(message.get("refusal"), f"{field}.refusal", max_chars)
    if refusal and message.get("content") is None:
        return Turn("assistant", refusal, calls)
    if message.get("content") is None:
        return Turn("assistant", "", calls)
    return Turn("assistant", _text(message, field, max_chars, may_be_blank=True), calls)


_READ = {"user": _user, "assistant": _assistant, "tool": _tool}


def _text(message: dict[str, Any], field: str, max_chars: int, *, may_be_blank: bool = False) -> str:
    """The content: a string, or texts in a list, which become lines."""
    text, field = message.get("content"), f"{field}.content"
    if isinstance(text, list):
        parts = rules.a_list(text, field, MAX_PARTS)
        text = "\n".join(_part(part, f"{field}[{place}]", max_chars) for place, part in enumerate(parts))
    if may_be_blank and isinstance(text, str) and not text.strip():
        rules.carriable(text, field)
        return text
    return rules.text_field(text, field, max_chars)


def _part(part: Any, field: str, max_chars: int) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind != "text":
        raise InvalidInput(
            f"`{field}` is of type `{rules.short(kind)}`. Only text is taken here: "
            '{"type": "text", "text": "..."}.',
            field=field,
        )
    known = rules.an_object(part, field, ("type", "text"))
    rules.one_of(known.get("type"), f"{field}.type", ("text",))
    return _raw_text(known.get("text"), f"{field}.text", max_chars)


def _raw_text(value: Any, field: str, max_chars: int) -> str:
    """A string that may be blank; what the parts come to together is looked at later."""
    if not isinstance(value, str):
        raise InvalidInput(f"`{field}` must be a string. Put the text in quotes.", field=field)
    if len(value) > max_chars:
        raise InvalidInput(f"`{field}` has {len(value)} characters; send at most {max_chars}.", field=field)
    return value


def _calls(value: Any, field: str, max_chars: int) -> tuple[ToolCall, ...]:
    """What the assistant asked for earlier, as it is sent back to it."""
    if value is None:
        return ()
    calls = rules.a_list(value, field, MAX_CALLS)
    read = tuple(_call(call, f"{field}[{place}]", max_chars) for place, call in enumerate(calls))
    if len({call.id for call in read}) < len(read):
        raise InvalidInput(f"`{field}` holds one id twice. Give each call its own.", field=field)
    return read


def _call(value: Any, field: str, max_chars: int) -> ToolCall:
    call = rules.an_object(value, field, CALL_FIELDS)
    rules.one_of(call.get("type"), f"{field}.type", ("function",))
    wanted = rules.an_object(call.get("function"), f"{field}.function", FUNCTION_FIELDS)
    return ToolCall(
        rules.text_field(call.get("id"), f"{field}.id", MAX_NAME_CHARS),
        rules.plain_word(wanted.get("name"), f"{field}.function.name"),
        _arguments(wanted.get("arguments"), f"{field}.function.arguments", max_chars),
    )


def _arguments(value: Any, field: str, max_chars: int) -> str:
    """JSON as a model wrote it. What is no object was called in vain, and the tool's answer will say so."""
    written = _raw_text(value, field, max_chars)
    rules.carriable(written, field)
    try:
        arguments = STRICT.decode(written)
    except (ValueError, RecursionError, InvalidInput):
        return NO_ARGUMENTS
    rules.carriable_json(arguments, field)
    return written if isinstance(arguments, dict) else NO_ARGUMENTS
