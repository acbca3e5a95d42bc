"""Callers of streams: some stay for the bill, the others leave at any moment, politely or not."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import errors
from chaos.load import Asked, Reply, nano
from chaos.plan import PATHS, Wanted
from tests.readers import Reader

# One of each provider, and what the chain chooses by itself.
MODELS = ("gemini-3.1-flash-lite", "gpt-5.4-nano", "claude-haiku-5-5", None)
BEFORE_THE_HEAD, TO_THE_END = -1, None
STATUSES = {
    kind.code: kind.status
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.PlatformError)
}


@dataclass(frozen=True, slots=True)
class WantedStream(Wanted):
    """leaves: after so many events, BEFORE_THE_HEAD, or not before the end. reset: how."""

    model: str | None = None
    leaves: int | None = TO_THE_END
    reset: bool = False

    def body(self) -> dict[str, Any]:
        text = f"[{self.marker}]" + " word" * self.words
        named = {} if self.model is None else {"model": self.model}
        return {"prompt": text, "stream": True, **named}


class StreamPlan:
    """What is streamed next, drawn by the seed: most prompts are new, some are asked for by several at once."""

    def __init__(self, seed: int, *, name: str = "", leaving: float = 0.5) -> None:
        self._chance, self._lock = Random(seed), threading.Lock()
        self._name, self._leaving, self._number = name, leaving, 0

    def next(self) -> WantedStream:
        with self._lock:
            self._number += 1
            chance, group = self._chance, self._number // 4
            shared = group % 8 == 0
            marker = f"{self._name}all-{group}" if shared else f"{self._name}new-{self._number}"
            place = group if shared else self._number
            model, task = MODELS[place % len(MODELS)], ("text", "text", "code")[place % 3]
            # Four pieces and the bill: the last of these leave with all but the bill in hand.
            leaves = chance.randrange(BEFORE_THE_HEAD, 5) if chance.random() < self._leaving else TO_THE_END
            bypass = chance.random() < 0.05
            return WantedStream(marker, task, place % 60, bypass, model, leaves, chance.random() < 0.5)


class StreamCaller:
    """One connection for each stream."""

    def __init__(self, port: int, timeout: float) -> None:
        self.port, self._timeout = port, timeout

    def ask(self, request_id: str, wanted: WantedStream, place: int = 0) -> Asked:
        asked = Asked(request_id, wanted, place, time.monotonic())
        headers = {"X-Request-ID": request_id} | ({"Cache-Control": "no-cache"} if wanted.bypass else {})
        try:
            reader = Reader(self.port, wanted.body(), PATHS[wanted.task], headers=headers)
        except OSError as trouble:
            asked.trouble = type(trouble).__name__
            return asked
        try:
            reader.socket.settimeout(self._timeout)
            asked.reply = self._read(reader, wanted)
            asked.trouble = "" if asked.reply else "left"
        except (OSError, AssertionError, ValueError) as trouble:
            asked.trouble = f"{type(trouble).__name__}: {trouble}"
        finally:
            reader.leave(reset=wanted.reset and asked.reply is None)
        asked.seconds = time.monotonic() - asked.began
        return asked

    def _read(self, reader: Reader, wanted: WantedStream) -> Reply | None:
        """None for one who left."""
        if wanted.leaves == BEFORE_THE_HEAD:
            time.sleep(wanted.words / 1000)
            return None
        status, headers = reader.head()
        if not headers["content-type"].startswith("text/event-stream"):
            return refused(status, headers, json.loads(reader.text()))
        return streamed(reader.events(), wanted.leaves)

    def close(self) -> None:
        """Each connection ends with its stream."""


def refused(status: int, headers: dict[str, str], facts: dict[str, Any]) -> Reply:
    money = [headers.get(f"x-cost-{part}", "0") for part in ("total", "saved", "overall")]
    cost, saved, overall = map(nano, money)
    return Reply(status, facts["code"], "x-cost-total" in headers, cost, saved, overall or 0, "")


def streamed(told: Iterator[tuple[str, Any]], leaves: int | None) -> Reply | None:
    """The reply as its bill tells it; None for a reader who has left before."""
    code, seen = "", 0
    for name, data in told:
        if name == "comment":
            continue
        if seen == leaves:
            return None
        seen += 1
        if name == "error":
            code = data["code"]
        elif name == "bill":
            return billed(code, data)
    raise ValueError(f"no bill after {seen} events, {code or 'no error'}")


def billed(code: str, data: dict[str, Any]) -> Reply:
    cost, saved, overall = (nano(data["cost"][part]) for part in ("total", "saved", "overall"))
    status = STATUSES[code] if code else 200
    return Reply(status, code, True, cost, saved, overall or 0, data["cache_status"])
