"""The ledger's rows as JSON, as lines of JSON or as CSV, page by page: what finance takes home."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import orjson

# Each field of an export, and the column of the ledger behind it. Neither prompts nor answers are among them.
FIELDS = {
    "request_id": "request_id",
    "timestamp": "at_us",
    "endpoint": "route",
    "task": "task",
    "caller": "caller",
    "provider": "provider",
    "model": "model",
    "requested_model": "requested_model",
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cached_tokens": "cached_tokens",
    "reasoning_tokens": "reasoning_tokens",
    "estimated": "estimated",
    "cost_nanodollars": "cost_nano",
    "saved_nanodollars": "saved_nano",
    "saved_by": "saved_by",
    "discount_nanodollars": "discount_nano",
    "unknown_nanodollars": "unknown_nano",
    "cache_status": "cache_status",
    "status": "status",
    "state": "state",
    "attempts": "attempts",
    "unknown_attempts": "unknown_attempts",
    "duration_ms": "duration_us",
    "address": "address",
    "key_id": "key_id",
    "user_id": "user_id",
    "tenant": "tenant",
    "prompt_hash": "prompt_hash",
    "language": "language",
    "lines": "lines",
    "rates": "charges",
}
COLUMNS = tuple(FIELDS.values())
# What each upstream call was billed, at which rates per token, and where those came from.
CHARGE_FIELDS = (
    *("model", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"),
    *("input_nanodollars", "cached_nanodollars", "output_nanodollars", "rates_model", "source", "provider"),
)
# A spreadsheet takes a cell that begins so for a formula. The last four are the wide forms of the first.
FORMULA_STARTS = frozenset("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")

_NAMES = tuple(FIELDS)
_NUMBERS = frozenset(
    "input_tokens output_tokens cached_tokens reasoning_tokens cost_nanodollars saved_nanodollars "
    "discount_nanodollars unknown_nanodollars status attempts unknown_attempts duration_ms lines".split()
)
# Whatever is no number of ours is looked at, so that a new field is safe before anybody thinks of it.
_TEXTS = tuple(place for place, name in enumerate(_NAMES) if name not in _NUMBERS)
_AT, _ESTIMATED, _DURATION, _RATES = (
    _NAMES.index(name) for name in ("timestamp", "estimated", "duration_ms", "rates")
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Pages = Iterable[Sequence[Sequence[Any]]]


@dataclass(frozen=True, slots=True)
class Format:
    """How rows are written. `encode` takes pages of COLUMNS, and whatever may follow those in a row."""

    content_type: str
    encode: Callable[[Pages], Iterator[bytes]]


def iso(at_us: int) -> str:
    """Microseconds since 1970 as an ISO 8601 moment, UTC."""
    return (_EPOCH + timedelta(microseconds=at_us)).isoformat(timespec="microseconds")


def _json(pages: Pages) -> Iterator[bytes]:
    """One JSON document, also where no row is in it; a row a line."""
    before = b"[\n"
    for page in pages:
        yield before + b",\n".join(map(_object, page))
        before = b",\n"
    yield b"[]\n" if before == b"[\n" else b"\n]\n"


def _ndjson(pages: Pages) -> Iterator[bytes]:
    for page in pages:
        yield b"\n".join(map(_object, page)) + b"\n"


def _csv(pages: Pages) -> Iterator[bytes]:
    yield _lines([_NAMES])
    for page in pages:
        yield _lines(map(_cells, page))


def _object(row: Sequence[Any]) -> bytes:
    return orjson.dumps(dict(zip(_NAMES, _values(row), strict=True)))


def _values(row: Sequence[Any]) -> list[Any]:
    """A row in the order of FIELDS, as it is told."""
    values = list(row[: len(_NAMES)])
    values[_AT] = iso(values[_AT])
    values[_DURATION] /= 1000
    values[_RATES] = [
        # Rows of before there were several providers name none.
        dict(zip(CHARGE_FIELDS, charge, strict=False))
        for charge in orjson.loads(values[_RATES])
    ]
    return values


def _cells(row: Sequence[Any]) -> list[Any]:
    """The same for a spreadsheet. Numbers are ours; a text may be a caller's, and no formula of theirs may run."""
    values = _values(row)
    values[_ESTIMATED] = "true" if values[_ESTIMATED] else "false"
    values[_RATES] = orjson.dumps(values[_RATES]).decode()
    for place in _TEXTS:
        if values[place][:1] in FORMULA_STARTS:
            values[place] = f"'{values[place]}"
    return values


def _lines(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


FORMATS = {
    "json": Format("application/json; charset=utf-8", _json),
    "ndjson": Format("application/x-ndjson", _ndjson),
    "csv": Format("text/csv; charset=utf-8; header=present", _csv),
}


class Export:
    """The chunks of one export. However it ends, `ended` is told once: rows read, and whether it came to its end.

    The first page is read at once, so that a ledger that cannot be read is known before a reply begins.
    """

    def __init__(self, pages: Pages, form: str, ended: Callable[[int, bool], None]) -> None:
        rest = iter(pages)
        first = next(rest, None)
        self._rows, self._ended, self._open = 0, ended, True
        self._chunks = FORMATS[form].encode(self._counted([] if first is None else chain([first], rest)))

    def _counted(self, pages: Pages) -> Iterator[Sequence[Sequence[Any]]]:
        for page in pages:
            self._rows += len(page)
            yield page

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._chunks)
        except StopIteration:
            self._end(whole=True)
            raise

    def close(self) -> None:
        """Called by the server, also for a client who left, or who asked for the headers only."""
        self._end(whole=False)

    def _end(self, whole: bool) -> None:
        if self._open:
            self._open = False
            self._ended(self._rows, whole)
