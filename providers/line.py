"""The line to a provider: one client of its library and the wire below, shared by all threads and models."""

from __future__ import annotations

import functools
import threading
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from chats import Chat
from config import disarm_libraries
from providers.turns import turns_of

if TYPE_CHECKING:
    import ssl

    from langchain_core.messages import MessageLikeRepresentation

    from providers.base import Call
    from providers.transport import BoundedTransport

Client = TypeVar("Client")
NO_CHAT = Chat(())


class Line(Generic[Client]):
    """Built on first use: loading a library takes 2 s, building a client 60 ms and a connection of its own."""

    def __init__(
        self,
        connect: Callable[[BoundedTransport], Client],
        connections: int,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect, self._connections, self._timer = connect, connections, timer
        self._built: tuple[Client, BoundedTransport] | None = None
        self._building = threading.Lock()

    def open(self) -> tuple[Client, BoundedTransport]:
        with self._building:  # 64 first callers build one client, not 64
            if self._built is None:
                self._built = self._build()
            return self._built

    def _build(self) -> tuple[Client, BoundedTransport]:
        from providers.transport import BoundedTransport

        disarm_libraries()
        _silence_libraries()
        transport = BoundedTransport(self._connections, ssl_context=tls(), timer=self._timer)
        return self._connect(transport), transport


@functools.cache
def tls() -> ssl.SSLContext:
    """One for all lines, with the authorities that httpx ships: reading them takes 30 ms."""
    import httpx

    return httpx.create_ssl_context(trust_env=False)


def _silence_libraries() -> None:
    """Their warnings quote replies that do not fit; a provider's words belong into no output of ours."""
    warnings.filterwarnings("ignore", "Pydantic serializer warnings", UserWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="langchain_openai")


def messages(call: Call) -> list[MessageLikeRepresentation]:
    """The words of a call as LangChain's clients take them."""
    wording = call.wording
    system: list[MessageLikeRepresentation] = [("system", wording.system)] if wording.system else []
    return [*system, *(turns_of(wording.chat) if wording.chat else [("human", wording.text)])]


def left_out(call: Call, **taken: bool) -> tuple[str, ...]:
    """Which of these options was asked for and is not taken."""
    chat = call.wording.chat or NO_CHAT
    asked = {
        "temperature": call.wording.temperature is not None,
        "stop": bool(chat.stop),
        "response_format": bool(chat.schema),
    }
    return tuple(name for name, goes in taken.items() if asked[name] and not goes)


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A reply's schema that allows nothing beside it, which strict modes insist on."""
    return {**schema, "additionalProperties": False}
