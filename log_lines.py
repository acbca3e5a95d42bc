"""One line of a log: a record as JSON in ASCII, bounded and without secrets."""

import contextlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

import orjson

from security.redaction import Redact, clean
from security.redaction import redact as redact_secrets

Record = dict[str, object]

# What LineMaker keeps in mind: so many words of at most this length.
_WORDS, _WORD_LENGTH = 4096, 128
_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_PASSTHROUGH_DATETIME
_PLAIN_KINDS = frozenset({int, float, bool, type(None), datetime})
_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode


def json_line(record: Mapping[str, object], redact: Redact = redact_secrets) -> bytes:
    """One line of ASCII: nothing in a record can end it, hide in it or forge another."""
    text = _encode(clean(record, redact))
    return text.replace("\x7f", "\\u007f").encode("ascii") + b"\n"


def _moment(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    raise TypeError


class LineMaker:
    """json_line, quicker: most texts of a line are the same few words, and known to hold no secret."""

    def __init__(self, redact: Redact = redact_secrets) -> None:
        self._redact = redact
        self._harmless: set[str] = set()

    def line(self, record: Mapping[str, object]) -> bytes:
        with contextlib.suppress(orjson.JSONEncodeError):  # a number beyond 64 bits
            if self._plain(record):
                line = orjson.dumps(record, _moment, _OPTIONS)
                if line.isascii() and b"\x7f" not in line:
                    return line
        return json_line(record, self._redact)

    def _plain(self, record: Mapping[str, object], nested: bool = False) -> bool:
        """Whether the record can be written as it stands: short words without secrets, numbers, moments."""
        # The names of a record's own fields stand in our code; those inside a field may come from a caller.
        if nested and not all(name in self._harmless or self._is_harmless(name) for name in record):
            return False
        for value in record.values():
            kind = value.__class__
            if kind is str:
                if value not in self._harmless and not self._is_harmless(cast(str, value)):
                    return False
            elif kind is dict and not nested:
                if not self._plain(cast(Record, value), nested=True):
                    return False
            elif kind is list and not nested:
                if not all(
                    item.__class__ is dict and self._plain(item, nested=True)
                    for item in cast(list[Any], value)
                ):
                    return False
            elif kind not in _PLAIN_KINDS:
                return False
        return True

    def _is_harmless(self, text: str) -> bool:
        if text.__class__ is not str or len(text) > _WORD_LENGTH or clean(text, self._redact) != text:
            return False
        if len(self._harmless) >= _WORDS:
            self._harmless.clear()
        self._harmless.add(text)
        return True
