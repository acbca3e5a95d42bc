"""The operator's own prices, from the TOML file that PRICES_FILE names."""

from __future__ import annotations

import tomllib
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from pathlib import Path
from typing import Any

from config import ConfigError
from prices import PACKAGE_NAMES, SANDBOX, Nano, OwnPrice, PriceBook, Rates, nano_per_token

_FIELDS = {"provider", "model", "input", "output", "cached", "from", "until"}
# Within these bounds a product of rate and tokens fits Decimal's 28 digits: it is exact before it is rounded.
_MOST_DOLLARS, _MOST_DECIMALS = 1_000_000, 9


class PricesFileError(ValueError):
    """A prices file that cannot be used; the message is one sentence naming table and field."""


def price_book(prices_file: str) -> PriceBook:
    """The price book with the own prices of the setting PRICES_FILE, if there is one. Raises ConfigError."""
    try:
        return PriceBook(read_prices_file(prices_file) if prices_file else ())
    except PricesFileError as wrong:
        raise ConfigError(f"PRICES_FILE cannot be used: {wrong}") from None


def read_prices_file(path: str | Path) -> tuple[OwnPrice, ...]:
    """Own prices from a TOML file of [[price]] tables, in US dollars per million tokens."""
    try:
        content = tomllib.loads(Path(path).read_text("utf-8"), parse_float=Decimal)
    except OSError as error:
        raise PricesFileError(f"The prices file cannot be read, check its path: {error.strerror}.") from error
    except RecursionError:
        raise PricesFileError("it is nested too deeply.") from None
    except (ValueError, InvalidOperation) as error:
        raise PricesFileError(f"The prices file is not valid TOML in UTF-8: {error}.") from error
    tables = content.pop("price", [])
    if content or not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise PricesFileError("The prices file may hold [[price]] tables only: remove everything else.")
    own = tuple(_own_price(number, table) for number, table in enumerate(tables, 1))
    _refuse_overlaps(own)
    return own


def _own_price(number: int, table: dict[str, Any]) -> OwnPrice:
    for name in sorted(table.keys() - _FIELDS):
        raise _fault(number, name, f"is unknown, use only {', '.join(sorted(_FIELDS))}")
    provider = _text(number, table, "provider")
    if provider not in (*PACKAGE_NAMES, SANDBOX):
        raise _fault(number, "provider", f"must be one of {', '.join((*PACKAGE_NAMES, SANDBOX))}")
    fresh, output = _rate(number, table, "input"), _rate(number, table, "output")
    cached = _rate(number, table, "cached") if "cached" in table else fresh
    rates = Rates(_text(number, table, "model"), fresh, cached, output, "PRICES_FILE")
    starts, ends = _day(number, table, "from", date.min), _day(number, table, "until", date.max)
    if starts >= ends:
        raise _fault(number, "until", "must be later than from: it is the first day without this price")
    return OwnPrice(provider, rates, starts, ends)


def _text(number: int, table: dict[str, Any], name: str) -> str:
    value = table.get(name)
    if not isinstance(value, str) or not value or value != value.strip():
        raise _fault(number, name, "must be given as a text without spaces around it")
    return value


def _rate(number: int, table: dict[str, Any], name: str) -> Nano:
    value = table.get(name)
    try:
        if isinstance(value, bool) or not isinstance(value, (int, str, Decimal)):
            raise InvalidOperation
        rate = Decimal(value)
        if not rate.is_finite() or not 0 <= rate <= _MOST_DOLLARS or rate != round(rate, _MOST_DECIMALS):
            raise InvalidOperation
    except InvalidOperation:
        bounds = f"from 0 to {_MOST_DOLLARS} with up to {_MOST_DECIMALS} decimals"
        raise _fault(number, name, f"must be US dollars per million tokens, {bounds}") from None
    return nano_per_token(rate)


def _day(number: int, table: dict[str, Any], name: str, default: date) -> date:
    value = table.get(name, default)
    if not isinstance(value, date) or isinstance(value, datetime):
        raise _fault(number, name, "must be a day such as 2027-01-01, without quotes and without a time")
    return value


def _refuse_overlaps(own: tuple[OwnPrice, ...]) -> None:
    numbered = sorted(enumerate(own, 1), key=lambda pair: (pair[1].exactly, pair[1].starts))
    for (first, one), (second, other) in pairwise(numbered):
        if one.exactly == other.exactly and other.starts < one.ends:
            raise _fault(max(first, second), "from", f"overlaps with table {min(first, second)}, same model")


def _fault(number: int, name: str, problem: str) -> PricesFileError:
    return PricesFileError(f"In [[price]] table {number} of the prices file the field {name!r} {problem}.")
