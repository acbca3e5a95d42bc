"""`make savings`: one workload with the cache on and off, and the proof that paid + saved is the cost without."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.page import SAVINGS, write_readme
from benchmarks.replay import Run, replay
from benchmarks.rounds import progress
from benchmarks.table import machine, table
from benchmarks.workload import Shape, workload
from prices import format_dollars
from tests.upstream import UpstreamProcess

PROMISED_PERCENT = 30


@dataclass(frozen=True, slots=True)
class Effort:
    """The workload, how many entries its cache has, and the exponents that the second table tries."""

    shape: Shape
    entries: int
    exponents: tuple[float, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """A cache too small, the one of the proof, and one with room for everything."""
        return self.entries // 10, self.entries, self.shape.catalogue


WHOLE = Effort(Shape(), 1000, (0.6, 0.8, 1.0, 1.2))
QUICK = Effort(Shape(requests=800, catalogue=2000), 200, (0.6, 1.0))


@dataclass(frozen=True, slots=True)
class Proof:
    """The same workload with the cache on and off."""

    on: Run
    off: Run

    @property
    def exact(self) -> bool:
        whole = self.on.paid_nano + self.on.saved_nano == self.off.paid_nano
        return whole and self.on.exact and self.off.exact and not self.off.saved_nano

    @property
    def met(self) -> bool:
        return self.on.reduction >= PROMISED_PERCENT


@dataclass(frozen=True, slots=True)
class Cell:
    """One shape with one size of the cache."""

    exponent: float
    entries: int
    run: Run


def prove(shape: Shape, entries: int, upstream: UpstreamProcess) -> Proof:
    moments = workload(shape)
    progress(f"cache on: {shape.requests:,} requests")
    on = replay(moments, upstream, entries)
    progress("cache off: the same requests")
    return Proof(on, replay(moments, upstream, entries, cache=False))


def sensitivity(effort: Effort, upstream: UpstreamProcess) -> Iterator[Cell]:
    """Without crowds: what repetition saves by itself."""
    for exponent in effort.exponents:
        moments = workload(replace(effort.shape, exponent=exponent, crowd_share=0.0))
        for entries in effort.sizes:
            progress(f"exponent {exponent:g}, {entries:,} cache entries")
            yield Cell(exponent, entries, replay(moments, upstream, entries))


# What people read.


def proof_table(proof: Proof) -> str:
    runs = proof.off, proof.on
    answered = [
        [f"- answered: {kind}", *(f"{run.statuses.get(kind, 0):,}" for run in runs)]
        for kind in ("hit", "coalesced", "miss", "bypass")
    ]
    money = {
        "paid, by the headers": "paid_nano",
        "paid, by the upstream's journal": "billed_nano",
        "saved, by the headers": "saved_nano",
        "the provider's own cache discount, not claimed": "discount_nano",
    }
    rows = [
        ["requests", *(f"{run.requests:,}" for run in runs)],
        *answered,
        ["upstream calls", *(f"{run.calls:,}" for run in runs)],
        *([name, *(dollars(getattr(run, field)) for run in runs)] for name, field in money.items()),
    ]
    return table(("", "cache off", "cache on"), rows)


def verdict(proof: Proof) -> str:
    whole, cost = proof.on.paid_nano + proof.on.saved_nano, proof.off.paid_nano
    return (
        f"Paid + saved with the cache on: {whole:,} nano-dollars. Paid with the cache off: {cost:,}, "
        f"{_equal(proof.exact)}.\n"
        f"Reduction: {proof.on.reduction:.1f} %. Promised: {PROMISED_PERCENT} %, "
        f"{'met' if proof.met else 'MISSED'}."
    )


def cells_table(cells: Iterable[Cell]) -> str:
    head = "exponent, cache entries, different asks, hits, coalesced, calls, cost without, paid, saved, reduction, paid + saved"
    rows = [[f"{cell.exponent:g}", f"{cell.entries:,}", *_sums(cell.run)] for cell in cells]
    return table(head.split(", "), rows)


def _sums(run: Run) -> list[str]:
    counts = run.asks, run.statuses.get("hit", 0), run.statuses.get("coalesced", 0), run.calls
    money = run.alone_nano, run.paid_nano, run.saved_nano
    return [
        *(f"{count:,}" for count in counts),
        *(dollars(amount) for amount in money),
        f"{run.reduction:.1f} %",
        _equal(run.exact),
    ]


def _equal(exact: bool) -> str:
    return "equal" if exact else "NOT EQUAL"


def dollars(nano: int) -> str:
    return f"${format_dollars(nano)}"


# The command.


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.savings", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="forty seconds in place of five minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every sum besides, in nano-dollars")
    parser.add_argument("--write", action="store_true", help="put the tables into benchmarks/README.md")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """The exit code: 1 where a sum is not equal, or where less is saved than promised."""
    wanted = arguments(words)
    began, load = time.monotonic(), os.getloadavg()[0]
    effort = QUICK if wanted.quick else WHOLE
    with UpstreamProcess() as upstream:
        proof = prove(effort.shape, effort.entries, upstream)
        cells = list(sensitivity(effort, upstream))
    facts = machine(time.monotonic() - began, load, wanted.quick)
    block = "\n\n".join((facts, proof_table(proof), verdict(proof), cells_table(cells)))
    print(block)
    if wanted.json:
        wanted.json.write_text(json.dumps(_readings(facts, effort, proof, cells), indent=1), "utf-8")
    if wanted.write:
        write_readme(block, SAVINGS)
    return exit_code(proof, cells)


def exit_code(proof: Proof, cells: Iterable[Cell]) -> int:
    return 0 if proof.exact and proof.met and all(cell.run.exact for cell in cells) else 1


def _readings(facts: str, effort: Effort, proof: Proof, cells: Iterable[Cell]) -> dict[str, Any]:
    return {
        "machine": facts,
        "shape": asdict(effort.shape),
        "proof": asdict(proof),
        "sensitivity": [asdict(cell) for cell in cells],
    }


if __name__ == "__main__":
    sys.exit(main())
