"""How commands speak with people: arguments, progress, tables, plain lines."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence


class Refused(Exception):
    """A command that cannot be carried out; the message is one sentence with the next step."""


class Progress:
    """How far a long command is, on standard error; a line of its own now and then where that is no terminal."""

    def __init__(self, what: str, timer: Callable[[], float] = time.monotonic) -> None:
        self._what, self._timer = what, timer
        self._terminal = sys.stderr.isatty()
        self._next = timer() + 0.5

    def __call__(self, done: int, whole: int) -> None:
        if self._timer() < self._next:
            return
        self._next = self._timer() + (0.2 if self._terminal else 5.0)
        share = f" of {whole:,} ({100 * done // whole} %)" if whole else ""
        self._show(f"{done:,}{share} {self._what}", "\r" if self._terminal else "\n")

    def end(self, done: int) -> None:
        self._show(f"{done:,} {self._what}", "\n")

    def _show(self, text: str, end: str) -> None:
        print(f"{text:<60}", end=end, file=sys.stderr, flush=True)  # noqa: T201  a command speaks by printing


def whole_number(text: str, most: int) -> int:
    """An argument that is a number from 1 on."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"a whole number from 1 to {most} is needed")
    return int(text)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], names: int) -> list[str]:
    """Lines of a table; the first `names` columns hold words, the rest figures."""
    whole = [heads, *rows]
    widths = [max(len(row[place]) for row in whole) for place in range(len(heads))]
    return [_line(row, widths, names) for row in whole]


def _line(row: Sequence[str], widths: Sequence[int], names: int) -> str:
    cells = zip(row, widths, strict=True)
    return "  ".join(
        cell.ljust(width) if place < names else cell.rjust(width) for place, (cell, width) in enumerate(cells)
    ).rstrip()


def say(text: str) -> None:
    print(text)  # noqa: T201  a command speaks by printing


def tell(text: str, status: int) -> int:
    print(text, file=sys.stderr)  # noqa: T201
    return status
