"""Envelopes that were looked at before and held nothing: callers send the same headers again and again."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from security.detection import SECRET_HEADERS

# Values that may be secrets are not remembered; an envelope with one is looked at each time.
SECRET = frozenset(f"HTTP_{name.upper().replace('-', '_')}" for name in SECRET_HEADERS)
LONGEST = 1024

# A new one with each request, and none of the characters that an attack needs.
_PLAIN_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")

Envelope = tuple[str, ...]


class Familiar:
    """The last harmless envelopes, at most `size` of at most 1 KB each."""

    def __init__(self, size: int = 1024) -> None:
        self._size = size
        self._seen: OrderedDict[Envelope, None] = OrderedDict()

    def knows(self, envelope: Envelope | None) -> bool:
        return envelope in self._seen

    def remember(self, envelope: Envelope | None) -> None:
        if envelope is not None:
            self._seen[envelope] = None
            if len(self._seen) > self._size:
                self._seen.popitem(last=False)


def envelope_of(environ: Mapping[str, Any]) -> Envelope | None:
    """Everything of a WSGI request that detection looks at, or None where it should not be remembered."""
    if environ.get("QUERY_STRING"):  # it may hold a key
        return None
    parts = [environ["PATH_INFO"], environ.get("CONTENT_TYPE", "")]
    for name, value in environ.items():
        if name.startswith("HTTP_") and not (name == "HTTP_X_REQUEST_ID" and _PLAIN_ID.fullmatch(value)):
            if name in SECRET:
                return None
            parts += (name, value)
    return tuple(parts) if sum(map(len, parts)) <= LONGEST else None
