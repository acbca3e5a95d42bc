"""What every goal is given and what it leaves: figures, problems, and a result that can be published."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.table import commit, processor

PASSED, FAILED, LACKS_A_TOOL = 0, 1, 77
SHOWN_OF_A_KIND = 5


class LacksTool(Exception):
    """The machine has not what this goal needs; the message says what that is."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One broken promise: its kind in a few words, and the rows, replies or calls that show it."""

    kind: str
    details: str


@dataclass
class Run:
    """One run of one goal. `folder` is empty and goes away afterwards."""

    goal: str
    seed: int
    short: bool
    folder: Path
    figures: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    load_at_start: float = field(default_factory=lambda: round(os.getloadavg()[0], 1))

    def say(self, text: str) -> None:
        seconds = time.monotonic() - self.began
        print(f"{self.goal:<9}{seconds:5.0f} s  {text}", file=sys.stderr, flush=True)

    def within(self, seconds: float) -> float:
        """What may take so long on a machine of its own; a short run is for any, whatever else that does."""
        return seconds * 5 if self.short else seconds

    @property
    def rest(self) -> float:
        """Seconds that callers rest between asks: short runs share the machine with one another."""
        return 0.1 if self.short else 0.0

    def found(self, problems: Iterable[Problem]) -> None:
        """Take note of problems, and show the first ones of each kind while the run goes on."""
        for problem in problems:
            self.problems.append(problem)
            known = sum(other.kind == problem.kind for other in self.problems)
            if known <= SHOWN_OF_A_KIND:
                self.say(f"PROBLEM {problem.kind}\n{problem.details}")

    def demand(self, true: object, kind: str, details: str = "") -> None:
        if not true:
            self.found([Problem(kind, details)])

    def result(self) -> dict[str, Any]:
        """Without names of hosts or folders: it is published."""
        return {
            "goal": self.goal,
            "passed": not self.problems,
            "seed": self.seed,
            "short": self.short,
            "seconds": round(time.monotonic() - self.began, 1),
            "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            "commit": commit(),
            "machine": {**machine(), "load_at_start": self.load_at_start},
            "figures": self.figures,
            "problems": dict(Counter(problem.kind for problem in self.problems)),
        }


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "processor": processor(),
        "system": platform.system(),
        "python": platform.python_version(),
    }
