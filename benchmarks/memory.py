"""The resident memory of another process, as Linux tells it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from benchmarks.rounds import progress

SETTLING_SECONDS, MOST_SETTLING_SECONDS = 1.0, 20.0

Value = TypeVar("Value")


def memory(pid: int, name: str = "VmRSS") -> int | None:
    """KiB that are resident now, or the most there ever were (VmHWM); None where the system does not tell."""
    try:
        told = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in told.splitlines() if line.startswith(f"{name}:")), None)


def forget_highest(pid: int) -> None:
    """The highest mark begins anew. Where that is not allowed it counts from the start, against us."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        progress("the highest memory counts from the start of the process")


def idle_memory(pid: int) -> int | None:
    """KiB once the process no longer grows: when it has just started it still loads its libraries."""
    return settled(lambda: memory(pid))


def settled(
    read: Callable[[], Value],
    timer: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Value:
    """What is read once it has stayed the same for a second; after twenty, whatever it is then."""
    value, since = read(), timer()
    until = since + MOST_SETTLING_SECONDS
    while timer() < min(since + SETTLING_SECONDS, until):
        sleep(0.1)
        if (now := read()) != value:
            value, since = now, timer()
    return value
