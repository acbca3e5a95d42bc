"""The body of a chat completion as an Ask, or a refusal that names the parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import rules
from api.chat_tools import read_choice, read_format, read_tools
from api.chat_turns import read_turns
from api.schemas import make_ask, read_body
from api.visit import current_visit
from chats import Chat
from config import Settings
from errors import InvalidInput
from tasks import Ask, Task

EXAMPLE = '{"model": "default", "messages": [{"role": "user", "content": "Hello"}]}'
# The model's name by which a caller leaves the choice to the platform.
OWN_CHOICE = "default"
TAKEN = frozenset(
    "model messages temperature max_tokens max_completion_tokens stop n stream stream_options response_format tools "
    "tool_choice".split()
)
# They only tune an answer, or name its sender: the reply says that they were left out.
LEFT_OUT = frozenset(
    "seed top_p presence_penalty frequency_penalty logit_bias user metadata store service_tier reasoning_effort "
    "verbosity prediction prompt_cache_key prompt_cache_options prompt_cache_retention safety_identifier "
    "parallel_tool_calls".split()
)
# Without them the reply would be another one than was asked for. Some have a value that asks for nothing.
REFUSED: dict[str, tuple[Any, ...]] = {
    "logprobs": (None, False),
    "top_logprobs": (None,),
    "audio": (None,),
    "modalities": (None, ["text"]),
    "functions": (None,),
    "function_call": (None,),
    "moderation": (None,),
    "web_search_options": (None,),
}
KNOWN = TAKEN | LEFT_OUT | REFUSED.keys()
MAX_STOPS = 4
MAX_STOP_CHARS = 256


@dataclass(frozen=True, slots=True)
class ChatAsk:
    """An ask and how its answer is to be told. usage_apart: in a chunk of its own, as `include_usage` wants it."""

    ask: Ask
    streamed: bool
    usage_apart: bool


def read_chat(settings: Settings) -> ChatAsk:
    """The Ask of a chat completion."""
    body = read_body(KNOWN, EXAMPLE)
    _refuse_what_we_lack(body)
    chat = _chat(body, settings.max_prompt_chars)
    streamed = rules.switch(body.get("stream"), "stream")
    usage_apart = _usage_apart(body.get("stream_options"), streamed)
    note_left_out(body, LEFT_OUT)
    if any(message.get("name") for message in body["messages"]):
        current_visit().left_out += ("messages.name",)
    ask = make_ask(
        Task.CHAT,
        chat.text,
        settings,
        chat=chat,
        model=read_model(body.get("model")),
        max_tokens=_token_limit(body, settings.max_output_tokens),
    )
    return ChatAsk(ask, streamed, usage_apart)


def read_model(value: Any) -> str | None:
    """A model id, or None for the platform's own choice."""
    return None if value == OWN_CHOICE else rules.model_name(value)


def note_left_out(body: dict[str, Any], names: frozenset[str]) -> None:
    """Parameters that were sent and that no provider is told."""
    current_visit().left_out = tuple(name for name in sorted(names) if body.get(name) is not None)


def _refuse_what_we_lack(body: dict[str, Any]) -> None:
    for name, nothing in REFUSED.items():
        if not any(_same(body.get(name), each) for each in nothing):
            raise InvalidInput(f"`{name}` is not taken here. Leave it out.", field=name)
    if not (_same(body.get("n"), None) or _same(body.get("n"), 1)):
        raise InvalidInput("`n` must be 1: one answer is made for each request.", field="n")


def _same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and bool(value == other)  # 1 is no truth, and 0 no falsehood


def _chat(body: dict[str, Any], max_chars: int) -> Chat:
    system, turns = read_turns(body.get("messages"), max_chars)
    tools, names = read_tools(body.get("tools"))
    chat = Chat(
        turns,
        system,
        rules.number(body.get("temperature"), "temperature", 0, 2),
        _stops(body.get("stop")),
        read_format(body.get("response_format")),
        tools,
        read_choice(body.get("tool_choice"), names),
    )
    _hold_together(chat, max_chars)
    return chat


def _hold_together(chat: Chat, max_chars: int) -> None:
    length = sum(map(len, (chat.system, chat.text, chat.schema, chat.tools)))
    if length > max_chars:
        raise InvalidInput(
            f"`messages`, `tools` and `response_format` have {length} characters together; send at most {max_chars}.",
            field="messages",
        )


def _stops(value: Any) -> tuple[str, ...]:
    if value is None or value == []:
        return ()
    if isinstance(value, list):
        entries = rules.a_list(value, "stop", MAX_STOPS)
        return tuple(_stop(entry, f"stop[{place}]") for place, entry in enumerate(entries))
    return (_stop(value, "stop"),)


def _stop(value: Any, field: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_STOP_CHARS:
        raise InvalidInput(f"`{field}` must be a string of 1 to {MAX_STOP_CHARS} characters.", field=field)
    rules.carriable(value, field)
    return value


def _token_limit(body: dict[str, Any], highest: int) -> int | None:
    """Of OpenAI's two names for it the newer one counts."""
    old = rules.token_limit(body.get("max_tokens"), highest)
    new = rules.token_limit(body.get("max_completion_tokens"), highest, "max_completion_tokens")
    return old if new is None else new


def _usage_apart(value: Any, streamed: bool) -> bool:
    if value is None:
        return False
    if not streamed:
        raise InvalidInput("`stream_options` needs `stream` to be true.", field="stream_options")
    options = rules.an_object(value, "stream_options", ("include_usage", "include_obfuscation"))
    rules.switch(options.get("include_obfuscation"), "stream_options.include_obfuscation")
    return rules.switch(options.get("include_usage"), "stream_options.include_usage")
