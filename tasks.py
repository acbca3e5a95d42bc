"""The tasks and what travels the road for them: Ask, Usage, Bill, Answer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from chats import Chat, ToolCall
from identity import ANONYMOUS_TENANT, Budget

if TYPE_CHECKING:
    from prices import Rates


class Task(StrEnum):
    """What a caller may ask for."""

    TEXT = "text"
    CODE = "code"
    CLASSIFY = "classify"
    CHAT = "chat"
    EMBED = "embed"


# Of a chat: what the caller says, else the model's own.
TEMPERATURES = {Task.TEXT: 0.7, Task.CODE: 0.2, Task.CLASSIFY: 0.0}

TEXT_FIELDS = {
    Task.TEXT: "prompt",
    Task.CODE: "prompt",
    Task.CLASSIFY: "text",
    Task.CHAT: "messages",
    Task.EMBED: "input",
}
# What not every provider offers.
TOOLS, EMBEDDINGS = "tools", "embeddings"

# Part of every cache key: answers to an older wording must not be served for a newer one.
WORDING_VERSION = 1


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one or more upstream calls; input includes cached, output includes reasoning."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.estimated or other.estimated,
        )


NO_USAGE = Usage(0, 0)


@dataclass(frozen=True, slots=True)
class Ask:
    """What one caller wants. `deadline` is a reading of the monotonic clock, in seconds; a stream that has begun by
    then has `grace` seconds more. inputs: texts to embed, for that task alone."""

    task: Task
    text: str
    deadline: float
    categories: tuple[str, ...] = ()
    # Every category that fits, in place of the one that fits best.
    multi_label: bool = False
    model: str | None = None
    max_tokens: int | None = None
    tenant: str = ANONYMOUS_TENANT
    key_id: str = ""
    user_id: str = ""
    # What the caller may spend, and the only models it may use (any, if there are none).
    budgets: tuple[Budget, ...] = ()
    models: tuple[str, ...] = ()
    address: str = ""
    route: str = ""
    request_id: str = ""
    reads_cache: bool = True
    writes_cache: bool = True
    chat: Chat | None = None
    inputs: tuple[str, ...] = ()
    grace: float = 0.0

    @property
    def text_field(self) -> str:
        """The field in which callers send the text."""
        return TEXT_FIELDS[self.task]

    @property
    def key_text(self) -> str:
        """What two asks must have in common to share an answer, beside their options."""
        if self.chat is not None:
            return self.chat.canonical()
        return json.dumps(self.inputs) if self.inputs else self.text

    def may_use(self, provider: str, model: str) -> bool:
        """Whether the caller's key allows this model, named alone or after its provider."""
        return not self.models or model in self.models or f"{provider}/{model}" in self.models

    @property
    def needs(self) -> frozenset[str]:
        """What its provider must offer beside answers in text."""
        if self.task is Task.EMBED:
            return frozenset({EMBEDDINGS})
        return frozenset({TOOLS}) if self.chat is not None and self.chat.tools else frozenset()


@dataclass(frozen=True, slots=True)
class Charge:
    """One upstream call that was billed, and the rates that priced it; None where its model has no price."""

    model: str
    usage: Usage
    rates: Rates | None
    # "" in rows from before there were several.
    provider: str = ""


@dataclass(frozen=True, slots=True)
class Bill:
    """What an ask cost, in nano-dollars. A cost of None is unknown: its model has no price."""

    usage: Usage = NO_USAGE
    model: str = ""
    provider: str = ""
    input_nano: int | None = 0
    output_nano: int | None = 0
    saved_nano: int | None = 0
    attempts: int = 0
    unknown_attempts: int = 0
    # At most so much for the calls of unknown outcome; never part of a cost.
    unknown_nano: int = 0
    charges: tuple[Charge, ...] = ()

    @property
    def known(self) -> bool:
        return self.input_nano is not None and self.output_nano is not None and self.saved_nano is not None

    @property
    def total_nano(self) -> int | None:
        if self.input_nano is None or self.output_nano is None:
            return None
        return self.input_nano + self.output_nano


@dataclass(frozen=True, slots=True)
class Answer:
    """The text of an answer with its bill; `overall_nano` is the ledger's total once it was recorded."""

    text: str
    bill: Bill
    cache_status: str
    overall_nano: int = field(default=0)
    # Parameters that were asked for and that the model does not take.
    ignored: tuple[str, ...] = ()
    # False where the output limit cut the text.
    whole: bool = True
    calls: tuple[ToolCall, ...] = ()
    # What is left under the caller's tightest budget, in nano-dollars; None without one, or where it cannot be told.
    left_nano: int | None = None

    @property
    def cached(self) -> bool:
        return self.cache_status == "hit"
