"""The loopback providers: a thread with an event loop that answers, misbehaves on demand and keeps a journal."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .asks import Ask, Outcome
from .faults import OK, PLAIN, RETRYABLE, Choice, Fault
from .journal import Call, Journal
from .protocols import Speech, speech_of
from .replies import json_reply
from .wire import Connection, Reply, Request


class Upstream:
    """Three providers on 127.0.0.1, to be used as a context manager.

    latency (seconds), meet, held, fault_rate, seed and menu may be changed while it runs. With meet set,
    a call is answered only once that many have been in flight together; while held is set, none is. Either
    ends after MEETING seconds. They show who waits for whom without a look at any clock.
    """

    MEETING = 60.0
    # Of the loop: more than a connection and its request take from the kernel to the journal.
    TURNS = 20

    def __init__(
        self,
        *,
        seed: int = 0,
        fault_rate: float = 0.0,
        menu: Sequence[str | Fault] = RETRYABLE,
        latency: float = 0.0,
        port: int = 0,
    ) -> None:
        self.latency = latency
        self.meet, self.held = 0, False
        self.port = port
        self.connections = 0
        self._choice = Choice(seed, fault_rate, menu)
        self._journal = Journal()
        self._open: set[Connection] = set()

    # Running.

    def __enter__(self) -> Upstream:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="upstream", daemon=True)
        self._thread.start()
        try:
            self._run(self._listen())
        except OSError:
            self._end_loop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._end_loop()

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await self._loop.create_server(self._connect, "127.0.0.1", self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        tasks = [connection.task for connection in self._open if connection.task is not None]
        for connection in tuple(self._open):
            connection.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # An aborted transport closes its socket one turn later.

    def _connect(self) -> Connection:
        self.connections += 1
        connection = Connection(self._serve, self._open.discard)
        self._open.add(connection)
        return connection

    # Control.

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def fault_rate(self) -> float:
        return self._choice.rate

    @fault_rate.setter
    def fault_rate(self, rate: float) -> None:
        self._choice.rate = rate

    @property
    def seed(self) -> int:
        return self._choice.seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self._choice.seed = seed

    @property
    def menu(self) -> tuple[Fault, ...]:
        return self._choice.menu

    @menu.setter
    def menu(self, menu: Sequence[str | Fault]) -> None:
        self._choice.menu = menu

    def script(self, *faults: str | Fault | Mapping[str, Any], provider: str = "") -> None:
        """Faults for the next calls, one each in order of arrival; all of them for one provider where it is named."""
        named = [Fault.of(fault) for fault in faults]
        self._choice.script(replace(fault, provider=fault.provider or provider) for fault in named)

    def retire(self, *models: str) -> None:
        self._choice.retired.update(models)

    def reset(self) -> None:
        """Forget calls, counts, script and retired models; latency, rate, seed and menu stay."""
        self._choice.reset()
        self._journal.reset()
        self.connections = 0

    # Journal.

    @property
    def journal(self) -> list[Call]:
        """Every call so far in order of arrival, those that still run included."""
        return self._journal.calls()

    def calls(self, prompt: str | None = None, *, containing: str = "") -> list[Call]:
        """Calls whose prompt is, or contains, the given text."""
        return [c for c in self.journal if prompt in (None, c.prompt) and containing in c.prompt]

    @property
    def in_flight(self) -> int:
        return self._journal.in_flight

    @property
    def max_in_flight(self) -> int:
        return self._journal.max_in_flight

    def wait_idle(self, timeout: float = 5.0) -> bool:
        """Wait until all that was sent is in the journal and no call runs: a call whose client has left is told so a
        moment later, and one that was given up at once is read after that only."""
        self._run(self._read_on())
        return self._journal.wait_idle(timeout)

    async def _read_on(self) -> None:
        for _ in range(self.TURNS):
            await asyncio.sleep(0)

    # Serving, in the loop's thread.

    async def _serve(self, connection: Connection, request: Request) -> None:
        speech = speech_of(request)
        ask = speech.read_ask(request)
        if ask is not None:
            await self._answer(connection, speech, ask)
            return
        await connection.play(self._aside(request, speech), lambda _sent, _whole: None)

    async def _answer(self, connection: Connection, speech: Speech, ask: Ask) -> None:
        number = self._journal.next_number()
        fault = speech.objection(ask) or self._fault(number, ask)
        if not ask.streamed and fault.name in PLAIN:
            fault = replace(fault, name=PLAIN[fault.name])
        outcome = speech.outcome(ask, fault, number)
        call = Call(
            number=number,
            at=time.monotonic(),
            model=ask.model,
            method=ask.method,
            prompt=ask.prompt,
            system=ask.system,
            body=ask.body,
            fault=fault.name,
            billed=outcome.billed,
            key_in_url=ask.key_in_url,
            provider=ask.provider,
        )
        self._journal.open(call)
        try:
            await self._play(connection, call, outcome)
        finally:
            self._journal.leave()

    def _fault(self, number: int, ask: Ask) -> Fault:
        return OK if ask.method == "followed" else self._choice.pick(number, ask.model, ask.provider)

    async def _play(self, connection: Connection, call: Call, outcome: Outcome) -> None:
        def told(pieces: int | None, whole: bool) -> None:
            status = None if pieces is None else outcome.reply.status
            self._journal.finish(call, status=status, delivered=whole, reported=outcome.reported(pieces))

        await connection.rest(self.latency)
        await self._meet(connection)
        await connection.play(outcome.reply, told)

    async def _meet(self, connection: Connection) -> None:
        end = self._loop.time() + self.MEETING
        while (self.held or self._journal.max_in_flight < self.meet) and self._loop.time() < end:
            if connection.left:
                return
            await connection.rest(0.02)

    def _aside(self, request: Request, speech: Speech) -> Reply:
        """Everything but generate calls: the control of this server, and the models."""
        if (request.verb, request.target) == ("GET", "/journal"):
            return json_reply(self._state())
        if (request.verb, request.target) == ("POST", "/control"):
            return self._controlled(request.body)
        return speech.browse(request, self._choice.retired)

    def _state(self) -> dict[str, Any]:
        calls = [call.to_json() for call in self.journal]
        numbers = ("max_in_flight", "in_flight", "connections")
        return {"calls": calls, **{name: getattr(self, name) for name in numbers}}

    def _controlled(self, body: bytes) -> Reply:
        try:
            self.control(json.loads(body))
        except (AttributeError, TypeError, ValueError) as wrong:
            return Reply(400, (str(wrong).encode(),), "text/plain")
        return json_reply({"ok": True})

    def control(self, orders: Mapping[str, Any]) -> None:
        """The same control from JSON: reset first, then latency, fault_rate, seed, menu, script and retire."""
        unknown = set(orders) - {"reset", "latency", "fault_rate", "seed", "menu", "script", "retire"}
        if unknown:
            raise ValueError(f"Unknown orders: {', '.join(sorted(unknown))}.")
        if orders.get("reset"):
            self.reset()
        if "menu" in orders:
            self.menu = [Fault.of(fault) for fault in orders["menu"]]
        for name in {"latency", "fault_rate", "seed"} & set(orders):
            setattr(self, name, orders[name])
        self.script(*orders.get("script", ()))
        self.retire(*orders.get("retire", ()))
