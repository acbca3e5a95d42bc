"""`make bench-ledger`: a ledger of a million rows, and what hits, reports, exports and commands take beside it."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from benchmarks import ledger_exports, ledger_hits, ledger_reads, ledger_waits
from benchmarks.ledger_exports import Exported, exports
from benchmarks.ledger_hits import Hits, hits
from benchmarks.ledger_reads import Command, Looks, Oracle, commands, dashboard_looks, usage_looks
from benchmarks.ledger_waits import Waits, waits
from benchmarks.page import BIG_LEDGER, write_readme
from benchmarks.rounds import progress
from benchmarks.table import machine, table
from store.db import LEDGER_FILE, ledger_url
from tests.ledger_rows import Row, add_rows, made_rows, new_ledger

DAYS = 365
LONGEST_SECONDS = 590


@dataclass(frozen=True, slots=True)
class Effort:
    """How many rows, how many rounds of so many seconds a side, how many looks and new processes, seconds of waits."""

    rows: int
    rounds: int
    seconds: float
    looks: int
    starts: int
    waits_seconds: float
    connections: tuple[int, ...] = (1, 8, 64)


WHOLE = Effort(1_000_000, rounds=40, seconds=0.4, looks=50, starts=5, waits_seconds=50)
QUICK = Effort(100_000, rounds=8, seconds=0.3, looks=20, starts=3, waits_seconds=20)


class Measured(Protocol):
    @property
    def met(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that was measured of one ledger."""

    rows: int
    file_bytes: int
    filling_seconds: float
    looks: tuple[Looks, ...]
    exported: tuple[Exported, ...]
    commands: tuple[Command, ...]
    hits: tuple[Hits, ...]
    waits: tuple[Waits, ...]

    @property
    def met(self) -> bool:
        quantities = [each for one in self.hits for each in one.quantities]
        groups: tuple[Iterable[Measured], ...] = (self.looks, self.exported, self.commands, quantities)
        return all(part.met for group in groups for part in group)


def measure(effort: Effort) -> Findings:
    """Fill a ledger in a folder that goes away, and measure it. Raises where a reply is not what it should be."""
    with tempfile.TemporaryDirectory() as folder:
        big = Path(folder, "big")
        seconds = fill(big, effort.rows)
        oracle = Oracle(big)
        size = (big / LEDGER_FILE).stat().st_size
        return Findings(
            rows=oracle.since(0).rows,
            file_bytes=size,
            filling_seconds=seconds,
            looks=(*dashboard_looks(effort.starts, oracle), *usage_looks(effort.looks, oracle)),
            exported=tuple(exports(oracle)),
            commands=tuple(commands(oracle)),
            # Last, since hits are rows: until then the ledger stays as it was filled.
            hits=tuple(hits(effort.connections, effort.rounds, effort.seconds, folder, big)),
            waits=tuple(waits(effort.waits_seconds, folder, big)),
        )


def fill(data_dir: Path, rows: int) -> float:
    """So many rows of the last year into a new ledger; seconds."""
    began = time.monotonic()
    data_dir.mkdir()
    engine = new_ledger(ledger_url("", str(data_dir)))
    try:
        made = made_rows(rows, days=DAYS, now_us=time.time_ns() // 1000)
        add_rows(engine, told(made, rows))
    finally:
        engine.dispose()
    return time.monotonic() - began


def told(rows: Iterable[Row], whole: int) -> Iterator[Row]:
    """The same rows, with a word at each tenth of the way to whoever waits."""
    for number, row in enumerate(rows):
        if number % max(1, whole // 10) == 0:
            progress(f"filling: {number:,} of {whole:,} rows")
        yield row
    progress("filling: adding the sums up")


# What people read.


def markdown(facts: str, found: Findings) -> str:
    quantities = [each.cells() for one in found.hits for each in one.quantities]
    return "\n\n".join(
        (
            facts,
            f"The ledger: {found.rows:,} rows over {DAYS} days, {found.file_bytes / 1e6:,.0f} MB of SQLite, "
            f"filled in {found.filling_seconds:.0f} s. By the end of their rounds the empty ledgers had "
            f"up to {max(one.empty_rows for one in found.hits):,} rows of their own.",
            table(ledger_hits.HEAD, quantities),
            table(ledger_waits.HEAD, [each.cells() for each in found.waits]),
            table(ledger_reads.HEAD, [each.cells() for each in found.looks]),
            table(ledger_exports.HEAD, [each.cells() for each in found.exported]),
            table(ledger_reads.COMMAND_HEAD, [each.cells() for each in found.commands]),
        )
    )


# The command.


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.big_ledger", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK.rows:,} rows, in about two minutes")
    parser.add_argument("--rows", type=int, metavar="N", help="another number of rows")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every single reading besides")
    parser.add_argument("--write", action="store_true", help="put the tables into benchmarks/README.md")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """The exit code: 1 where a target is missed or something does not add up."""
    wanted = arguments(words)
    began, load = time.monotonic(), os.getloadavg()[0]
    effort = QUICK if wanted.quick else WHOLE
    found = measure(replace(effort, rows=wanted.rows or effort.rows))
    facts = machine(time.monotonic() - began, load, wanted.quick)
    block = markdown(facts, found)
    print(block)
    if wanted.json:
        readings = {"machine": facts, "met": found.met, **asdict(found)}
        wanted.json.write_text(json.dumps(readings, indent=1), "utf-8")
    if wanted.write:
        write_readme(block, BIG_LEDGER)
    return 0 if found.met else 1


def end_in_order() -> None:
    """However this ends, its servers and its folder end with it; and it ends."""

    def give_up(number: int, _: Any) -> None:
        sys.exit(f"Stopped by {signal.Signals(number).name}.")

    signal.signal(signal.SIGTERM, give_up)
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(LONGEST_SECONDS)


if __name__ == "__main__":
    end_in_order()
    sys.exit(main())
