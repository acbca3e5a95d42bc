"""A reply as it comes: its pieces from the client library, and its facts from the events on the wire."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any, cast

from providers.base import Call, Piece
from providers.reply_facts import STREAMED, read_body
from tasks import Usage

if TYPE_CHECKING:
    from langchain_core.messages import AIMessageChunk

    from providers.transport import BoundedTransport

# Puts one event of a stream into the body that a plain reply would have had.
Fold = Callable[[dict[str, Any], Mapping[str, Any]], None]
# What a body says was used so far, and which model served it; the one that was asked where it says nothing.
Billed = Callable[[Mapping[str, Any], str], tuple[Usage | None, str]]
FIELD = b"data:"


class Events:
    """What the events of one stream have said so far: the client libraries leave out or make up some of it."""

    def __init__(self, transport: BoundedTransport, fold: Fold) -> None:
        self.transport, self._fold = transport, fold
        self._body: dict[str, Any] = {STREAMED: True}
        self._rest = b""

    def body(self) -> Mapping[str, Any]:
        """The body that a plain reply would have had, as far as it came."""
        *lines, self._rest = (self._rest + self.transport.take_body()).split(b"\n")
        for line in lines:
            if line.startswith(FIELD):
                self._fold(self._body, read_body(line.removeprefix(FIELD)))
        return self._body


def pieces(
    chunks: Iterator[AIMessageChunk], events: Events, billed: Billed, call: Call, ignored: tuple[str, ...]
) -> Generator[Piece, None, AIMessageChunk]:
    """What a client library streams, and at its end the message that a plain call would have brought."""
    came: list[AIMessageChunk] = []
    begun = False
    with closing(cast("Generator[AIMessageChunk, None, None]", chunks)):
        for chunk in chunks:
            came.append(chunk)
            # A call of a tool comes whole at the end; on the way it shows that the provider is at work.
            if not (chunk.text or chunk.tool_call_chunks):
                continue
            if not begun:
                events.transport.extend(call.grace)
                begun = True
            usage, model = billed(events.body(), call.model)
            yield Piece(str(chunk.text), model, usage, ignored)
    return came[0] + came[1:]
