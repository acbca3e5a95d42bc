"""From a body to the fields of a key or a user, or a refusal that names the field."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import account_rules
import rules
from api.queries import read_query, whole_number
from api.schemas import read_body
from api.visit import current_request
from errors import InvalidInput
from identity import PERIODS, Budget
from store.budget_use import USE_FIELDS
from store.rows import MICRO

BUDGET_FIELDS = ("period", "limit_usd", "soft_usd")
# From here on neighbouring floats are more than half a nano-dollar apart: what was written may come as another amount.
EXACT_FLOATS = 2**22
PAGE_SIZE, MOST_PAGE_SIZE = 50, 200
LONGEST_CURSOR, LONGEST_TEXT = 64, 8192


def read_fields(known: Iterable[str], needed: Iterable[str] = (), example: str = "{}") -> dict[str, Any]:
    """The body, its times and money as the accounts want them; what else a field may be is theirs to say."""
    body = read_body(known, example) if needed or has_body() else {}
    for name in needed:
        if name not in body:
            raise InvalidInput(f"`{name}` is missing. Send an object such as {example}.", field=name)
    if "expires" in body:
        body["expires_us"] = _moment(body.pop("expires"))
    if "budget" in body:
        body["budget"] = _budget(body["budget"])
    return body


def has_body() -> bool:
    """Where every field may be left out, so may the body."""
    environ = current_request().environ
    return environ.get("CONTENT_LENGTH", "") not in ("", "0") or "HTTP_TRANSFER_ENCODING" in environ


def read_text(body: dict[str, Any], name: str) -> str:
    """A string of a body that takes secrets: nothing of it is repeated to anybody."""
    value = body.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_TEXT:
        raise InvalidInput(f"`{name}` must be a string of 1 to {LONGEST_TEXT} characters.", field=name)
    rules.carriable(value, name)
    return value


def read_seconds(body: dict[str, Any], name: str, default: float) -> float:
    value = body.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(f"`{name}` must be a number of seconds.", field=name)
    return value


def read_page() -> tuple[str, int]:
    """After which id a page begins, and how many it holds at most."""
    query = read_query("after", "limit")
    size = whole_number(query, "limit", PAGE_SIZE, 1, MOST_PAGE_SIZE)
    after = query.get("after", "")
    if len(after) > LONGEST_CURSOR or not (after.isascii() and after.isprintable()):
        raise InvalidInput("`after` must be the `next` of the page before.", field="after")
    return after, size


def _moment(value: Any) -> int | None:
    """Microseconds since 1970 of a moment to come; None for never."""
    if value is None:
        return None
    try:
        at = datetime.fromisoformat(value)
        at_us = round(at.timestamp() * MICRO) if at.tzinfo is not None else 0
    except (TypeError, ValueError, OverflowError):
        at_us = 0
    if not time.time() * MICRO < at_us < account_rules.YEAR_10000_US:
        raise InvalidInput(
            "`expires` must be a moment to come, with its offset, such as `2027-01-31T00:00:00+00:00`; or null.",
            field="expires",
        )
    return at_us


def _budget(value: Any) -> Budget | None:
    if value is None:
        return None
    if isinstance(value, dict):  # what was read may be sent back as a whole
        value = {name: each for name, each in value.items() if name not in USE_FIELDS}
    given = rules.an_object(value, "budget", BUDGET_FIELDS)
    period = rules.one_of(given.get("period"), "budget.period", PERIODS)
    return Budget("", period, _nano(given, "limit_usd"), _nano(given, "soft_usd"))


def _nano(given: dict[str, Any], name: str) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    field = f"budget.{name}"
    if isinstance(value, float) and value >= EXACT_FLOATS:
        raise InvalidInput(
            f'`{field}` is too large for a number with a fraction. Send it as text, such as "5000000.50".',
            field=field,
        )
    # Below that a number of JSON is as good as its text: no arithmetic is done with it.
    return account_rules.nano_dollars(repr(value) if isinstance(value, float) else value, field)
