"""Looks at a big ledger: usage, the dashboard's first data and the commands, each reply held against plain SQL."""

from __future__ import annotations

import http.client
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.children import ROOT, UNLIMITED, Child, environment, platform
from benchmarks.memory import idle_memory
from benchmarks.rounds import progress
from benchmarks.start import LIVE
from store.db import LEDGER_FILE

HEAD = ("milliseconds", "looks", "median", "worst", "target")
COMMAND_HEAD = ("command", "seconds", "found", "")
DASHBOARD = "/dashboard/data?hours=24"
# The path, and the milliseconds that its worst look may take, if that was promised.
USAGE: tuple[tuple[str, float | None], ...] = (
    ("/api/v1/usage?hours=720&group_by=day", 100.0),
    ("/api/v1/usage?hours=8760&group_by=model", None),
    ("/api/v1/usage?hours=8760&group_by=hour", None),
)
FIRST_DATA_MS = 300.0
YEAR_OF_DAYS = ("usage", "--hours", "8760", "--group-by", "day", "--json")


@dataclass(frozen=True, slots=True)
class Truth:
    """How many rows, and what they cost."""

    rows: int
    cost_nano: int


@dataclass(frozen=True, slots=True)
class Oracle:
    """What the ledger in a folder really holds, by SQL on its file; shares nothing with what is measured."""

    data_dir: Path

    def since(self, at_us: int) -> Truth:
        """Of all rows from that moment on."""
        with closing(sqlite3.connect(f"file:{self.data_dir / LEDGER_FILE}?mode=ro", uri=True)) as ledger:
            query = "SELECT count(*), coalesce(sum(cost_nano), 0) FROM requests WHERE at_us >= ?"
            return Truth(*ledger.execute(query, (at_us,)).fetchone())


@dataclass(frozen=True, slots=True)
class Looks:
    """One path, looked at so many times. It is met where the worst look was within the promise."""

    name: str
    milliseconds: tuple[float, ...]
    at_most: float | None = None

    @property
    def met(self) -> bool:
        return self.at_most is None or max(self.milliseconds) <= self.at_most

    def cells(self) -> list[str]:
        times = (f"{of(self.milliseconds):,.1f} ms" for of in (median, max))
        target = f"≤ {self.at_most:g} ms: {'met' if self.met else 'missed'}" if self.at_most else ""
        return [self.name, str(len(self.milliseconds)), *times, target]


@dataclass(frozen=True, slots=True)
class Command:
    """One command of `cli.py` over the ledger: how long it took, what it found, and whether that is right."""

    name: str
    seconds: float
    found: str
    met: bool

    def cells(self) -> list[str]:
        return [self.name, f"{self.seconds:.1f}", self.found, "met" if self.met else "MISSED"]


def serving(logs: str, data_dir: Path) -> Child:
    """The platform on this ledger, with its real client and no limits; nothing is asked of a provider."""
    return platform(logs, DATA_DIR=str(data_dir), RATE_LIMIT_READS=UNLIMITED, **LIVE)


@contextmanager
def visit(port: int) -> Iterator[Callable[[str], http.client.HTTPResponse]]:
    """A function that gets a path over one connection; any reply but a 200 is an error."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def get(path: str) -> http.client.HTTPResponse:
        connection.request("GET", path)
        reply = connection.getresponse()
        if reply.status != 200:
            raise ValueError(f"{path} answered {reply.status}: {reply.read(2000)!r}")
        return reply

    try:
        yield get
    finally:
        connection.close()


def look(get: Callable[[str], http.client.HTTPResponse], path: str, oracle: Oracle) -> float:
    """Milliseconds from the question to the last byte of an answer that is right."""
    began = time.perf_counter()
    body = get(path).read()
    milliseconds = (time.perf_counter() - began) * 1000
    check(path, json.loads(body), oracle)
    return milliseconds


def check(path: str, told: dict[str, Any], oracle: Oracle) -> None:
    """Raises ValueError unless the report counts and prices the rows of its own window as they are."""
    if "window" in told:
        since_us, sums = told["window"]["since_us"], told["sums"]
        counted = Truth(sums["requests"], int(sums["cost_nano"]))
    else:
        since_us = round(datetime.fromisoformat(told["since"]).timestamp()) * 1_000_000
        counted = Truth(told["total"]["requests"], told["total"]["cost_nanodollars"])
    expected = oracle.since(since_us)
    if counted != expected:
        raise ValueError(f"{path} told {counted}, and its window holds {expected}.")


def usage_looks(times: int, oracle: Oracle) -> Iterator[Looks]:
    """Of a process that has loaded everything and has answered one look before."""
    with tempfile.TemporaryDirectory() as logs, serving(logs, oracle.data_dir) as server:
        port = server.port()
        idle_memory(server.pid)
        with visit(port) as get:
            for path, at_most in USAGE:
                progress(f"GET {path}: {times} looks")
                look(get, path, oracle)
                took = tuple(look(get, path, oracle) for _ in range(times))
                yield Looks(f"GET {path}", took, at_most)


def dashboard_looks(starts: int, oracle: Oracle) -> Iterator[Looks]:
    """Of so many new processes, each at the moment when it says its address: its first look, and its second."""
    progress(f"GET {DASHBOARD}: {starts} new processes")
    first, second = zip(*(_two_looks(oracle) for _ in range(starts)), strict=True)
    yield Looks(f"GET {DASHBOARD}, a process's first", first, FIRST_DATA_MS)
    yield Looks(f"GET {DASHBOARD}, its second", second)


def _two_looks(oracle: Oracle) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as logs, serving(logs, oracle.data_dir) as server:
        port = server.port()
        with visit(port) as get:
            return look(get, DASHBOARD, oracle), look(get, DASHBOARD, oracle)


def commands(oracle: Oracle) -> Iterator[Command]:
    progress("cli.py recost")
    whole = oracle.since(0)
    seconds, found = run(oracle.data_dir, "recost", "--json")
    told = f"{found['equal']:,} of {whole.rows:,} rows equal, {found['cost_nanodollars']:,} nano-dollars"
    yield Command("recost", seconds, told, _is_exact(found, whole))
    progress("cli.py usage")
    seconds, report = run(oracle.data_dir, *YEAR_OF_DAYS)
    check(" ".join(YEAR_OF_DAYS), report, oracle)
    told = f"{report['total']['requests']:,} requests on {len(report['groups']):,} days"
    yield Command(" ".join(YEAR_OF_DAYS[:-1]), seconds, told, True)


def _is_exact(found: dict[str, Any], whole: Truth) -> bool:
    """Every row was looked at and is equal, and so are the sums that are kept by day."""
    looked_at = Truth(found["equal"], found["cost_nanodollars"])
    return looked_at == whole and found["rows"] == whole.rows and found["days_equal"] is True


def run(data_dir: Path, *words: str) -> tuple[float, dict[str, Any]]:
    """Seconds from the start of the command to its end, and the JSON that it printed."""
    began = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "cli.py", *words],
        cwd=ROOT,
        env=environment(DATA_DIR=str(data_dir)),
        stdout=subprocess.PIPE,
        timeout=300,
        check=False,  # recost ends with 1 where rows differ, and says so in what it prints
    )
    return time.perf_counter() - began, dict(json.loads(ran.stdout))
