"""How the CPU time of a function grows with its text."""

from __future__ import annotations

import time
from collections.abc import Callable

ROUNDS = 12
# Seconds that are lost to measuring.
NOISE = 0.00002


def cpu_seconds(work: Callable[[str], object], text: str) -> float:
    began = time.thread_time()
    work(text)
    return time.thread_time() - began


def grows_linearly(work: Callable[[str], object], text: str) -> bool:
    """Twice the text takes at most 2.5 times the time, in one of twelve rounds at least.

    The speed of a shared machine jumps: only what was measured side by side is compared.
    """
    half = text[: len(text) // 2]
    for _ in range(ROUNDS):
        before, whole, after = cpu_seconds(work, half), cpu_seconds(work, text), cpu_seconds(work, half)
        if whole <= 2.5 * min(before, after) + NOISE:
            return True
    return False
