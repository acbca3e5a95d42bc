"""What a cached hit costs as history and cache grow, against a house that is new and empty."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from benchmarks.children import Child
from benchmarks.rounds import Effort, Figure, interleave, progress

HITS = 25
PREPARING_SECONDS = 150.0
LIMIT = "resolution: see the control"


def growth(effort: Effort, log_dir: str) -> Iterator[Figure]:
    """One process per house, or the collector's work for a large house would be shared by all."""
    with ExitStack() as stack:
        histories = [_grown(stack, log_dir, history=history) for history in effort.histories]
        caches = [_grown(stack, log_dir, entries=entries) for entries in effort.entries]
        empty, control = _grown(stack, log_dir), _grown(stack, log_dir)
        progress("growth: living through the histories")
        names = [_name(house) for house in (empty, control, *histories, *caches)]
        sides = (partial(house.ask, hits=HITS) for house in (empty, control, *histories, *caches))
        baseline, *others = interleave("growth", effort.growth_rounds, *sides)
        names[1] = "control: new house to new house"
        for name, turns in zip(names[1:], others, strict=True):
            yield Figure(f"CPU of a hit, {name}", "µs", baseline, turns, limit=LIMIT, at_most=1.1)


def _grown(stack: ExitStack, log_dir: str, history: int = 0, entries: int = 1) -> Child:
    own = tempfile.mkdtemp(dir=log_dir)  # one writer per log file
    arguments = (f"--log-dir={own}", f"--history={history}", f"--entries={entries}")
    return stack.enter_context(Child("-m", "benchmarks.grown", *arguments))


def _name(house: Child) -> str:
    """What the house has become, in its own words: a slow machine may have stopped before its goal."""
    became = json.loads(house.line(PREPARING_SECONDS))
    if became["history"]:
        return f"after {became['history']:,} requests"
    return f"beside {became['entries']:,} cache entries"
