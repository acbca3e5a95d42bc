"""A conversation as a caller sends it: its turns and what it asks of the model beside them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of the caller's own tool that a model asks for; `arguments` is JSON as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. role: user, assistant or tool; `answers` names the tool call that a tool's message is for."""

    role: str
    text: str
    calls: tuple[ToolCall, ...] = ()
    answers: str = ""


@dataclass(frozen=True, slots=True)
class Chat:
    """Turns in order, never empty. A temperature of None is the model's own; tools and tool_choice are JSON or empty,
    in the shape of OpenAI's protocol; so is `schema`, {"name", "schema", "strict"?}, and "{}" for JSON of any shape."""

    turns: tuple[Turn, ...]
    system: str = ""
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    schema: str = ""
    tools: str = ""
    tool_choice: str = ""

    @property
    def text(self) -> str:
        """The conversation as one text, for records and estimates."""
        return "\n".join(f"{turn.role}: {_written(turn)}" for turn in self.turns)

    def canonical(self) -> str:
        """Everything that can change the answer: equal for equal chats, and for no others."""
        turns = [
            [turn.role, turn.text, turn.answers, [_call(call) for call in turn.calls]] for turn in self.turns
        ]
        told: list[Any] = [turns, self.system, self.temperature, self.stop]
        return json.dumps([*told, self.schema, self.tools, self.tool_choice])


def _written(turn: Turn) -> str:
    return turn.text + "".join(f" {call.name}({call.arguments})" for call in turn.calls)


def _call(call: ToolCall) -> list[str]:
    return [call.id, call.name, call.arguments]
