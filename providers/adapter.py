"""What the adapters of all services share: one attempt through a client library, whole or piece by piece."""

from __future__ import annotations

import functools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from errors import AskRefused, InvalidInput, KeyRefused, PlatformError, UpstreamFault
from providers.base import Call, Piece, Reply
from providers.declined import Declined
from providers.line import Line, messages
from providers.pieces import Billed, Events, Fold, pieces
from providers.reply_facts import read_body, with_usage
from providers.wire_faults import status_of
from tasks import TOOLS

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage

    from providers.transport import BoundedTransport

Client = TypeVar("Client", bound="BaseChatModel")
# Of a chat's options, those that a model takes from everybody or nobody; a schema may be its caller's mistake.
REMEMBERED = frozenset({"temperature", "stop"})
REFUSED, NOT_FOR_US = frozenset({400, 422}), 403
TOO_MUCH = "The model provider does not take this input. Send fewer or shorter texts."
Body = Callable[[], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Reader:
    """How a service's replies are read, and its failures.

    failures: what its client library raises where the service is at fault. refused_option: which of the options that
    were sent a failure says the model does not take, if any.
    """

    read: Callable[[AIMessage, Mapping[str, Any], Call], Reply]
    billed: Billed
    fold: Fold
    failures: Callable[[], tuple[type[Exception], ...]]
    fault_of: Callable[[Exception], UpstreamFault]
    refused_option: Callable[[Exception, Mapping[str, Any]], str | None] = lambda _error, _options: None


@dataclass(frozen=True, slots=True)
class Sent:
    """What a client library gets beside the messages. ignored: what was asked for and is left out."""

    options: dict[str, Any]
    ignored: tuple[str, ...] = ()


class Adapter(ABC, Generic[Client]):
    """One service behind one shared client, built on first use; one attempt per call."""

    name: str
    offers: frozenset[str] = frozenset({TOOLS})

    def __init__(
        self, model: str, reader: Reader, connections: int, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._model, self._reader, self._timer = model, reader, timer
        self._declined = Declined(self.name, timer)
        self._line = Line(self._connect, connections, timer)

    def models(self, requested: str | None, _embeds: bool = False) -> Sequence[str]:
        return (self._model if requested is None else requested,)

    def retired(self, _model: str) -> None:
        """There is no second model to move on to."""
        return

    def warm(self) -> None:
        self._line.open()

    def call(self, call: Call) -> Reply:
        client, transport = self._client(call.model)
        body = functools.partial(whole_body, transport)
        with self._attempt(call, client, transport, body) as sent:
            message = client.invoke(messages(call), **sent.options)
            return replace(self._reader.read(message, body(), call), ignored=sent.ignored)

    def stream(self, call: Call) -> Generator[Piece, None, Reply]:
        client, transport = self._client(call.model)
        events = Events(transport, self._reader.fold)
        with self._attempt(call, client, transport, events.body) as sent:
            chunks = client.stream(messages(call), **sent.options)
            message = yield from pieces(chunks, events, self._reader.billed, call, sent.ignored)
            return replace(self._reader.read(message, events.body(), call), ignored=sent.ignored)

    @contextmanager
    def _attempt(self, call: Call, client: Client, transport: BoundedTransport, body: Body) -> Iterator[Sent]:
        """Around one attempt: whatever goes wrong is a fault, and nothing of it stays on the line."""
        sent = Sent({})
        transport.hang_up()
        try:
            sent = self._sent(call, client)
            yield sent
        except self._reader.failures() as error:
            if call.wording.chat is not None and not transport.called:
                raise self._unputtable(call) from error
            raise self._fault(error, call, sent, body()) from error
        finally:
            transport.hang_up()

    def _unputtable(self, call: Call) -> PlatformError:
        """A tool or a schema of the caller's on which the client library stumbled before it called anybody."""
        field = "tools" if call.offers_tools else "response_format"
        return InvalidInput(
            f"This cannot be put to {self.name} as it stands. Simplify `{field}`.", field=field
        )

    def _fault(self, error: Exception, call: Call, sent: Sent, raw: Mapping[str, Any]) -> UpstreamFault:
        fault = self._reader.fault_of(error)
        if isinstance(fault, KeyRefused):
            fault.of_model = status_of(error) == NOT_FOR_US and call.model not in self.models(None)
        if type(fault) is not UpstreamFault:
            return with_usage(fault, *self._reader.billed(raw, call.model))
        option = self._reader.refused_option(error, sent.options)
        if option is not None and (call.wording.chat is None or option in REMEMBERED):
            return self._declined.note(call.model, option)
        if status_of(error) in REFUSED and call.wording.inputs:
            return AskRefused(TOO_MUCH, field="input", detail=fault.detail)
        if status_of(error) in REFUSED and call.wording.chat is not None:
            refused = AskRefused(detail=fault.detail)
            refused.unexplained = fault.unexplained
            return refused
        return with_usage(fault, *self._reader.billed(raw, call.model))

    def _client(self, _model: str) -> tuple[Client, BoundedTransport]:
        return self._line.open()

    @abstractmethod
    def _connect(self, transport: BoundedTransport) -> Client:
        """The client; its library loads now and no earlier."""

    @abstractmethod
    def _sent(self, call: Call, client: Client) -> Sent: ...


def whole_body(transport: BoundedTransport) -> Mapping[str, Any]:
    return read_body(transport.last_body())
