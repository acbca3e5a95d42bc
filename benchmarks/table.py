"""The figures as Markdown, and the machine that they come from."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.children import ROOT
from benchmarks.rounds import Figure, Reading
from benchmarks.start import row

HEAD = ("figure", "baseline", "platform", "ratio", "min to max", "target", "CPU ms, both", "limited by")
START_HEAD = ("seconds", "median", "min to max", "target")


def markdown(machine: str, figures: Iterable[Figure], starts: Iterable[dict[str, Any]]) -> str:
    ratios = table(HEAD, [cells(figure) for figure in figures])
    return "\n\n".join((machine, ratios, table(START_HEAD, [row(part) for part in starts])))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also stand straight in a terminal."""
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def cells(figure: Figure) -> list[str]:
    spread = f"{min(figure.ratios):.2f} to {max(figure.ratios):.2f}"
    theirs, ours = (f"{_middle(side):,.0f} {figure.unit}" for side in (figure.baseline, figure.candidate))
    cpu = f"{_cpu(figure.baseline)}, {_cpu(figure.candidate)}"
    return [
        figure.name,
        theirs.replace(" /", "/"),
        ours.replace(" /", "/"),
        f"{figure.ratio:.2f}",
        spread,
        figure.verdict,
        cpu if figure.baseline[0].cpu_ms else "",
        figure.limit,
    ]


def _middle(side: tuple[Reading, ...]) -> float:
    return median(reading.value for reading in side)


def _cpu(side: tuple[Reading, ...]) -> str:
    known = [reading.cpu_ms for reading in side if reading.cpu_ms is not None]
    return f"{median(known):.2f}" if known else "unknown"


def machine(seconds: float, load: float, quick: bool) -> str:
    """One sentence on where, when and from what the figures come."""
    return (
        f"{os.cpu_count()} cores ({processor()}), {platform.system()}, Python {platform.python_version()}, "
        f"commit {commit()}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; load at the start {load:.1f}; "
        f"{'a quick run of' if quick else 'took'} {seconds:.0f} s."
    )


def processor() -> str:
    """Its model as Linux names it, else its kind."""
    named = (line for line in _lines("/proc/cpuinfo") if line.startswith("model name"))
    return next(named, platform.machine()).rpartition(": ")[2]


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def commit() -> str:
    """The commit, and whether the files differ from it."""
    try:
        head, changed = (
            _git(*words) for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head + (" with changes" if changed else "")


def _git(*words: str) -> str:
    command = ["git", "--no-optional-locks", *words]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
    return ran.stdout.strip()
