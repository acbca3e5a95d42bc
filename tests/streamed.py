"""What the tests of streams share: a provider that says what the test wants when it wants, and a served house."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Generator
from typing import Any

from waitress import wasyncore

from conftest import House
from errors import UpstreamFault
from providers.base import Call, Piece, Reply
from providers.sandbox import SandboxProvider
from serve import open_server
from tasks import Usage
from tests.readers import LONG
from wire import speak_for_the_house

MODEL = "gemini-3.1-flash-lite"
USAGE = Usage(10, 5)


# A provider under direction.


class Directed(SandboxProvider):
    """Says what it is told to, piece by piece; closed in the middle it notes that somebody hung up on it."""

    name = "gemini"

    def __init__(self, usage: Usage | None = USAGE, *, name: str = "gemini") -> None:
        self.name, self._usage = name, usage
        self._lines: queue.SimpleQueue[str | UpstreamFault | None] = queue.SimpleQueue()
        self.calls: list[Call] = []
        self.called = threading.Semaphore(0)
        self.hung_up = threading.Event()
        self.closed = threading.Event()

    def say(self, *texts: str) -> None:
        for text in texts:
            self._lines.put(text)

    def fail(self, fault: BaseException) -> None:
        self._lines.put(fault)

    def end(self) -> None:
        self._lines.put(None)

    def models(self, requested: str | None, _embeds: bool = False) -> tuple[str, ...]:
        return (requested or MODEL,)

    def call(self, call: Call) -> Reply:
        pieces = self.stream(call)
        while True:
            try:
                next(pieces)
            except StopIteration as end:
                return end.value

    def stream(self, call: Call) -> Generator[Piece, None, Reply]:
        text = ""
        self.calls.append(call)
        self.called.release()
        try:
            while (line := self._lines.get(timeout=LONG)) is not None:
                if isinstance(line, BaseException):
                    raise line
                text += line
                yield Piece(line, MODEL)
            return Reply(text, self._usage, MODEL)
        except GeneratorExit:
            self.hung_up.set()
            raise
        finally:
            self.closed.set()


# A server that speaks OpenAI's protocol loosely.


def counting_stream(*told: tuple[str, int | None]) -> str:
    """Events of texts, each with the output that is counted by then if any, and no reason to end: 10 tokens in, 4 cached."""
    return "".join(_counting(text, output) for text, output in told)


def _counting(text: str, output: int | None) -> str:
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
    input_counts = {"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 4}}
    usage = None if output is None else input_counts | {"completion_tokens": output}
    known = {"object": "chat.completion.chunk", "model": "gpt-5.4-nano"}
    return f"data: {json.dumps({**known, 'choices': [choice], 'usage': usage})}\n\n"


# A real socket.


class Served:
    """A house on a real socket, as serve.py serves it, inside this process; a context manager."""

    def __init__(self, house: House, **keywords: Any) -> None:
        self.house = house
        self.server = open_server(house.app, house.settings)
        speak_for_the_house(self.server, house.services.load, **keywords)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> Served:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.server.pull_trigger()
        self._thread.join(LONG)
        self.server.task_dispatcher.shutdown(timeout=1)
        wasyncore.close_all(self.server._map)

    def _loop(self) -> None:
        while not self._over.is_set():
            wasyncore.loop(timeout=0.05, map=self.server._map, use_poll=True, count=1)

    @property
    def port(self) -> int:
        return int(self.server.effective_port)

    @property
    def at_work(self) -> int:
        """Threads that serve somebody."""
        return int(self.server.task_dispatcher.active_count)

    def quiet(self) -> bool:
        """Whether nothing of any stream is left: no road, thread, flight, or place at the gate."""
        services = self.house.services
        left = (services.roads.under_way(), services.gate.in_air, services.flights.in_air(), self.at_work)
        return not any(left)
