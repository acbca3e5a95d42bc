"""All rows of a big ledger through the export, counted as they come by, and the memory that the platform took."""

from __future__ import annotations

import csv
import http.client
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import orjson

from benchmarks.ledger_reads import Oracle, Truth, serving, visit
from benchmarks.memory import forget_highest, idle_memory, memory
from benchmarks.rounds import progress

ALL_HOURS = 87_600
AT_MOST_MB = 50
HEAD = ("export", "rows", "seconds", "rows/s", "MB sent", "idle MB", "highest MB", "above idle", "target")
COST = "cost_nanodollars"


@dataclass(frozen=True, slots=True)
class Exported:
    """One export of everything. Memory is resident, in KiB; None where the system does not tell it."""

    form: str
    counted: Truth
    expected: Truth
    sent_bytes: int
    seconds: float
    idle_kib: int | None
    highest_kib: int | None

    @property
    def exact(self) -> bool:
        """Every row came, and what the client added up is what they cost."""
        return self.counted == self.expected

    @property
    def above_idle_mb(self) -> float | None:
        if self.idle_kib is None or self.highest_kib is None:
            return None
        return (self.highest_kib - self.idle_kib) / 1024

    @property
    def met(self) -> bool:
        return self.exact and (self.above_idle_mb is None or self.above_idle_mb <= AT_MOST_MB)

    def cells(self) -> list[str]:
        rows = f"{self.counted.rows:,}"
        return [
            self.form,
            rows if self.exact else f"{rows} and not the {self.expected.rows:,} of the ledger",
            f"{self.seconds:.1f}",
            f"{self.counted.rows / self.seconds:,.0f}",
            f"{self.sent_bytes / 1e6:,.0f}",
            *(_mb(kib and kib / 1024) for kib in (self.idle_kib, self.highest_kib)),
            _mb(self.above_idle_mb),
            f"≤ {AT_MOST_MB} MB: {'met' if self.met else 'missed'}",
        ]


def _mb(megabytes: float | None) -> str:
    return "unknown" if megabytes is None else f"{megabytes:.1f}"


def exports(oracle: Oracle) -> Iterator[Exported]:
    """A new process for each form, so that each has its own highest mark."""
    for form in FORMS:
        progress(f"export: {form}")
        with tempfile.TemporaryDirectory() as logs, serving(logs, oracle.data_dir) as server:
            port = server.port()
            idle = idle_memory(server.pid)
            forget_highest(server.pid)
            counted, sent, seconds = taken(port, form)
            yield Exported(form, counted, oracle.since(0), sent, seconds, idle, memory(server.pid, "VmHWM"))


def taken(port: int, form: str) -> tuple[Truth, int, float]:
    """Rows and their cost as the client counts them, bytes, seconds. No row is kept."""
    sizes: list[int] = [0]
    began = time.perf_counter()
    with visit(port) as get:
        reply = get(f"/api/v1/usage/export?hours={ALL_HOURS}&format={form}")
        rows = cost = 0
        for spent in FORMS[form](lines(reply, sizes)):
            rows, cost = rows + 1, cost + spent
    return Truth(rows, cost), sizes[0], time.perf_counter() - began


def lines(reply: http.client.HTTPResponse, sizes: list[int]) -> Iterator[bytes]:
    """Whole lines; `sizes[0]` grows by what was received. A reply that breaks off raises."""
    left = b""
    while got := reply.read1(1 << 18):
        sizes[0] += len(got)
        *whole, left = (left + got).split(b"\n")
        yield from whole
    if left:
        raise ValueError(f"The export ends in the middle of a line: {left[:200]!r}")


# The cost of each row, in nano-dollars, out of an export's lines. A cost that is unknown counts as nothing.


def _csv(told: Iterable[bytes]) -> Iterator[int]:
    rows = csv.reader(line.decode() for line in told)
    place = next(rows).index(COST)
    for row in rows:
        yield int(row[place] or 0)


def _ndjson(told: Iterable[bytes]) -> Iterator[int]:
    for line in told:
        yield orjson.loads(line)[COST] or 0


def _json(told: Iterator[bytes]) -> Iterator[int]:
    """A row a line, between brackets; whoever reads it whole needs the memory for it."""
    if next(told, b"") != b"[":
        raise ValueError("The export does not begin as a JSON list.")
    line, more = b"", True
    for line in told:
        if line == b"]" or not more:
            break
        more = line.endswith(b",")
        yield orjson.loads(line.removesuffix(b","))[COST] or 0
    if line != b"]" or more or next(told, None) is not None:
        raise ValueError("The export does not go on, or does not end, as a JSON list.")


FORMS: dict[str, Callable[[Iterator[bytes]], Iterator[int]]] = {
    "csv": _csv,
    "ndjson": _ndjson,
    "json": _json,
}
