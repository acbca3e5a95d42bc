"""What a rate such as `10 per minute; 500 per day` may be: windows that end, each with room for one request."""

from __future__ import annotations

import re

YEAR_SECONDS = 366 * 86_400
# The library reads `5 per 0 minutes` as five per minute.
_NO_WINDOW = re.compile(r"(/|\bper)\s*0+\s*[a-z]", re.IGNORECASE)


class TooLong(ValueError):
    """A window that nobody sees the end of."""


def check(rates: str) -> None:
    """Raise ValueError for what is no rate, TooLong for one over more than a year."""
    from limits import parse_many  # a heavy import, needed only where a limit is set

    windows = parse_many(rates)
    if _NO_WINDOW.search(rates) or not all(window.amount for window in windows):
        raise ValueError("nobody could wait for long enough")
    if any(window.get_expiry() > YEAR_SECONDS for window in windows):
        raise TooLong("more than a year")
