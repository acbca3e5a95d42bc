"""Answers as server-sent events: the first piece before the 200, a heartbeat in silences, the bill last."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import orjson
from flask import Response

from api.error_shapes import failure_json
from api.replies import answer_headers, bill_json, ignored_header
from api.visit import Visit, current_visit
from errors import PlatformError
from services import Services
from streams import Road, Stream
from taps import Beginning, Tap
from tasks import Answer, Ask

if TYPE_CHECKING:
    from store.replays import Claim

EVENTS = "text/event-stream; charset=utf-8"
# Nginx would hold events back.
UNBUFFERED = ("X-Accel-Buffering", "no")
# A comment: clients skip it, and a reader who has left is found out by it.
HEARTBEAT = b": heartbeat\n\n"


class Voice(Protocol):
    """How a version says the parts of a stream; each is one or more whole events."""

    def begin(self, beginning: Beginning, /) -> bytes: ...

    def piece(self, text: str) -> bytes: ...

    def last(self, answer: Answer) -> bytes:
        """After the last piece: the end and the bill."""
        ...

    def failed(self, failure: PlatformError) -> bytes:
        """In place of it, after pieces or none: what went wrong, and the bill of what came."""
        ...


class EventStream:
    """The body of a reply. Closing it, started or not, tells the road that nobody listens any more."""

    def __init__(self, stream: Stream, events: Iterator[bytes]) -> None:
        self._stream, self._events = stream, events

    def __iter__(self) -> Iterator[bytes]:
        return self._events

    def close(self) -> None:
        self._stream.leave()


def stream_answer(house: Services, ask: Ask, voice: Voice) -> Response:
    """The answer to an ask as events. Raises the PlatformError of an ask that fails before its first piece."""
    visit = current_visit()
    road: Road = functools.partial(house.pipeline.answer, ask)
    if visit.claim is not None:
        road = Tape(road, copy.deepcopy(voice), functools.partial(_keep, house, visit, visit.claim))
    stream = Stream(road, house.roads, goes_on=visit.claim is not None)
    first = stream.start()
    if isinstance(first, Answer):
        visit.answer = first
        visit.headers += answer_headers(first)
        return _reply(visit, EventStream(stream, iter((_whole(voice, first),))))
    visit.headers += _beginning_headers(first, visit)
    visit.stream = stream
    events = _events(stream, first, voice, house.settings.stream_heartbeat_seconds)
    return _reply(visit, EventStream(stream, events))


class Tape:
    """A road that is listened to as far as it goes, whoever reads: `keep` gets all that was to be heard.

    An answer without a beginning is no stream, and nothing of it is kept here.
    """

    def __init__(self, road: Road, voice: Voice, keep: Callable[[Beginning, bytes], None]) -> None:
        self._road, self._voice, self._keep = road, voice, keep
        self._beginning: Beginning | None = None
        self._said: list[bytes] = []

    def __call__(self, tap: Tap) -> Answer:
        self._tap = tap
        try:
            answer = self._road(self)
        except Exception as failure:
            self._end(self._voice.failed, shown(failure))
            raise
        self._end(self._voice.last, answer)
        return answer

    def begin(self, beginning: Beginning) -> None:
        self._beginning = beginning
        self._said.append(self._voice.begin(beginning))
        self._tap.begin(beginning)

    def say(self, text: str) -> None:
        self._said.append(self._voice.piece(text))
        self._tap.say(text)

    def end(self) -> None:
        self._tap.end()

    def _end(self, say: Callable[[Any], bytes], outcome: Answer | PlatformError) -> None:
        """The reader is told of the end only after that."""
        if self._beginning is not None:
            self._keep(self._beginning, b"".join([*self._said, say(outcome)]))


def _keep(house: Services, visit: Visit, claim: Claim, first: Beginning, body: bytes) -> None:
    headers = [("Content-Type", EVENTS), *_beginning_headers(first, visit), UNBUFFERED]
    house.replays.keep(claim, 200, headers, body)


def _reply(visit: Visit, body: EventStream) -> Response:
    visit.headers.append(UNBUFFERED)
    return Response(body, content_type=EVENTS)


def _beginning_headers(first: Beginning, visit: Visit) -> list[tuple[str, str]]:
    headers = [
        ("X-Cached", "false"),
        ("X-Cache-Status", first.cache_status),
        ("X-Model", first.model),
        ("X-Provider", first.provider),
        ("X-Upstream-Attempts", str(first.attempts)),
    ]
    return headers + ignored_header(first.ignored + visit.left_out)


def _whole(voice: Voice, answer: Answer) -> bytes:
    """An answer that was there already."""
    bill = answer.bill
    beginning = Beginning(bill.provider, bill.model, bill.attempts, answer.cache_status, answer.ignored)
    opening = voice.begin(beginning)
    return opening + (voice.piece(answer.text) if answer.text else b"") + voice.last(answer)


def _events(stream: Stream, first: Beginning, voice: Voice, patience: float) -> Iterator[bytes]:
    opening = voice.begin(first)
    if opening:
        yield opening
    for text in stream.pieces(patience):
        yield voice.piece(text) if text else HEARTBEAT
    failure = stream.failure()
    yield voice.last(stream.answer()) if failure is None else voice.failed(shown(failure))


def shown(failure: BaseException) -> PlatformError:
    """A failure as callers may see it: a bug of ours says nothing of itself."""
    return failure if isinstance(failure, PlatformError) else PlatformError()


def event(data: dict[str, Any], name: str = "") -> bytes:
    """One event; JSON holds no line breaks."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + orjson.dumps(data) + b"\n\n"


class TaskVoice:
    """Version 1: pieces in the field of the whole reply, then `bill`, with `error` before it if need be."""

    def __init__(self, field: str, request_id: str) -> None:
        self._field, self._request_id = field, request_id

    def begin(self, _: Beginning) -> bytes:
        return b""

    def piece(self, text: str) -> bytes:
        return event({self._field: text})

    def last(self, answer: Answer) -> bytes:
        facts = {"cached": answer.cached, "cache_status": answer.cache_status, "whole": answer.whole}
        ignored = {"params_ignored": list(answer.ignored)} if answer.ignored else {}
        return self._bill(bill_json(answer.bill, answer.overall_nano, answer.left_nano) | facts | ignored)

    def failed(self, failure: PlatformError) -> bytes:
        told = event(failure_json(failure, self._request_id), "error")
        if failure.bill is None:
            return told
        facts = {"cached": False, "cache_status": "failed", "whole": False}
        return told + self._bill(bill_json(failure.bill, failure.overall_nano, failure.left_nano) | facts)

    def _bill(self, bill: dict[str, Any]) -> bytes:
        return event({"request_id": self._request_id} | bill, "bill")
