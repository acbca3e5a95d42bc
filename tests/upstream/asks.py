"""What a request of any protocol comes down to, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .answers import mark
from .journal import Tokens
from .wire import Reply

# Every provider's own names. A model sent to the wrong one is unknown there; any other name may be a local model's.
FAMILIES = {"gemini": "gemini-", "openai": "gpt-", "anthropic": "claude-"}


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the model calls, with a schema for its arguments."""

    name: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ask:
    """method is generate, stream, embed, or followed where a client went after a redirect.

    complete is False where something is missing that the provider insists on.
    """

    provider: str
    model: str
    method: str
    prompt: str
    system: str
    body: dict[str, Any]
    key: str
    key_in_url: bool = False
    limit: int | None = None
    schema: Mapping[str, Any] | None = None
    stops: tuple[str, ...] = ()
    tool: Tool | None = None
    writes_cache: bool = False
    complete: bool = True

    @property
    def streamed(self) -> bool:
        return self.method == "stream" or bool(self.body.get("stream"))

    @property
    def misled(self) -> bool:
        """Whether the model is one of another provider's."""
        others = [family for name, family in FAMILIES.items() if name != self.provider]
        return self.model.startswith(tuple(others))


@dataclass(frozen=True, slots=True)
class Outcome:
    """A reply, what it is billed at, and the usage a client has read after each of its pieces."""

    reply: Reply
    billed: Tokens | None = None
    usages: tuple[Tokens | None, ...] = ()

    def reported(self, pieces: int | None) -> Tokens | None:
        """The usage in the first so many pieces; none of them left when the head did not."""
        known = [usage for usage in self.usages[: pieces or 0] if usage is not None]
        return known[-1] if known else None


def json_object(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def dicts(value: Any) -> list[dict[str, Any]]:
    """The objects in what should be a list of objects."""
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def text_of(content: Any) -> str:
    """The words of a message as OpenAI and Anthropic have it: a string, or parts with a text each."""
    if isinstance(content, str):
        return content
    return "".join(str(part["text"]) for part in dicts(content) if isinstance(part.get("text"), str))


def last_words(said: Iterable[str]) -> str:
    """The prompt: what the user said last. A turn without words, such as a tool's result, is passed over."""
    return next((text for text in reversed(list(said)) if text), "")


def chosen(tools: Sequence[Tool], prompt: str, forced: str | None = None) -> Tool | None:
    """The tool that the model calls: the forced one, else the prompt decides."""
    candidates = [tool for tool in tools if tool.name == forced] or tools
    return candidates[int(mark(prompt), 16) % len(candidates)] if candidates else None


def words(value: Any) -> tuple[str, ...]:
    """Stop sequences: one, several or none."""
    return tuple(filter(None, [value] if isinstance(value, str) else value or ()))
