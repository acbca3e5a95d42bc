"""What a provider is: what a call to one holds, and what comes back."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from chats import ToolCall
from code_facts import CodeFacts
from tasks import Usage
from wording import Wording

# Of every answer that is no code.
NO_CODE = CodeFacts("", 0)


@dataclass(frozen=True, slots=True)
class Call:
    """One upstream call. `seconds` is all the time it may take, from connecting to the last byte; a stream has
    `grace` seconds more once its first piece is there."""

    model: str
    wording: Wording
    max_tokens: int
    seconds: float
    grace: float = 0.0

    @property
    def offers_tools(self) -> bool:
        return self.wording.chat is not None and bool(self.wording.chat.tools)


@dataclass(frozen=True, slots=True)
class Reply:
    """One good reply. `usage` is None where the provider gave no counts; `whole` is False for a cut text.

    ignored: parameters that were asked for and that the model does not take. provider: noted by the meter. calls:
    tools of the caller's that the model wants to be called; then the text may be empty.
    """

    text: str
    usage: Usage | None
    model: str
    whole: bool = True
    code: CodeFacts = NO_CODE
    provider: str = ""
    ignored: tuple[str, ...] = ()
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a reply as it comes; its text is empty where a call of a tool is being written. usage: all that was counted so far, if the provider
    says it on the way; its `estimated` means that the output may be more by now. model: what serves it."""

    text: str
    model: str = ""
    usage: Usage | None = None
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Billed:
    """One upstream call that was billed: who served it, with which model, and its token counts."""

    provider: str
    model: str
    usage: Usage


_NOT_PLAIN = re.compile(r"[^\x21-\x7e]")


class Provider(Protocol):
    """One LLM service behind one adapter. offers: which of TOOLS and EMBEDDINGS it has."""

    name: str
    offers: frozenset[str]

    def models(self, requested: str | None, embeds: bool = False, /) -> Sequence[str]:
        """Model ids to try in order, for texts or embeddings; raises ModelUnknown where the caller named one that cannot be."""
        ...

    def call(self, call: Call) -> Reply:
        """Make one attempt. Raises an UpstreamFault, whatever went wrong."""
        ...

    def stream(self, call: Call) -> Generator[Piece, None, Reply]:
        """The same attempt, piece by piece; the reply that it returns has their texts, joined.

        Closing it hangs up. Where it fails after a piece, the fault has the usage if the provider told it.
        """
        ...

    def retired(self, model: str) -> None:
        """Take note that the service no longer knows this model."""
        ...

    def warm(self) -> None:
        """Load what the first call would otherwise wait for."""
        ...


def plain_name(name: str) -> str:
    """A model id that a provider chose, as headers, labels and logs may carry it."""
    return _NOT_PLAIN.sub("?", name)[:100]


def whole_characters(text: str) -> str:
    """The text without halves of surrogate pairs, which JSON may carry but no reply of ours can."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
