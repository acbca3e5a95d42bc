"""The price book: what a call costs, by exact model id and UTC day, in whole nano-dollars."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING

from tasks import Usage

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

Nano = int | Decimal  # nano-dollars per token: an int where whole, as every listed rate is

SANDBOX = "sandbox"
PACKAGE_NAMES = {"gemini": "google", "openai": "openai", "anthropic": "anthropic"}
DATED_PROVIDERS = ("openai", "anthropic")  # they report gpt-4o-mini-2024-07-18 for gpt-4o-mini
MEMO_SIZE = 256

_SNAPSHOT_DATE = re.compile(r"-20\d{2}-?\d{2}-?\d{2}\Z")


@dataclass(frozen=True, slots=True)
class Rates:
    """What one price sheet asks per token, and where it says so."""

    model: str
    input_nano: Nano
    cached_nano: Nano
    output_nano: Nano
    source: str

    def as_text(self) -> dict[str, str]:
        """The same as text, for a ledger row; `from_text` gives equal rates back."""
        return {name: str(value) for name, value in asdict(self).items()}

    @classmethod
    def from_text(cls, row: Mapping[str, str]) -> Rates:
        fresh, cached, output = (
            _whole(Decimal(row[f"{part}_nano"])) for part in ("input", "cached", "output")
        )
        return cls(row["model"], fresh, cached, output, row["source"])

    def cost(self, usage: Usage) -> Cost:
        """The bill of one call, rounded once per part, half to even."""
        # A count of cached tokens above the input is a provider's mistake and must not make a cost negative.
        cached = min(usage.cached_tokens, usage.input_tokens)
        fresh = usage.input_tokens - cached
        input_nano = round(fresh * self.input_nano + cached * self.cached_nano)
        return Cost(input_nano, round(usage.output_tokens * self.output_nano), self)

    def discount(self, usage: Usage) -> int:
        """What the provider's own prompt cache took off the price of one call, in nano-dollars."""
        cached = min(usage.cached_tokens, usage.input_tokens)
        return round(usage.input_tokens * self.input_nano) - self.cost(usage).input_nano if cached else 0


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call costs, in nano-dollars, and the rates that give it."""

    input_nano: int
    output_nano: int
    rates: Rates

    @property
    def total_nano(self) -> int:
        return self.input_nano + self.output_nano


@dataclass(frozen=True, slots=True)
class OwnPrice:
    """A negotiated price for one exact model id, from a UTC day on and until a UTC day, exclusive."""

    provider: str
    rates: Rates
    starts: date = date.min
    ends: date = date.max

    @property
    def exactly(self) -> tuple[str, str]:
        """Provider and model."""
        return self.provider, self.rates.model


@dataclass(frozen=True, slots=True)
class Sheet:
    """Rates in steps (above so many input tokens, rates): the last step that is reached prices the whole call."""

    steps: tuple[tuple[int, Rates], ...]
    has_output: bool = True

    def cost(self, usage: Usage) -> Cost | None:
        if usage.output_tokens and not self.has_output:
            return None
        return next(rates for above, rates in reversed(self.steps) if usage.input_tokens > above).cost(usage)


class PriceBook:
    """Prices of the providers' models: own prices first, then the genai-prices package, offline."""

    def __init__(self, own_prices: Iterable[OwnPrice] = ()) -> None:
        self._own = tuple(own_prices)
        self._sheet = lru_cache(maxsize=MEMO_SIZE)(self._look_up)

    def cost(self, provider: str, served_model: str, usage: Usage, at: datetime) -> Cost | None:
        """What one call costs at that moment; None means the price is unknown.

        `usage` is of a single call: a sum of calls could climb a step that no call of them climbed.
        """
        sheet = self.sheet(provider, served_model, at)
        return sheet.cost(usage) if sheet else None

    def sheet(self, provider: str, model: str, at: datetime) -> Sheet | None:
        if at.tzinfo is None:
            raise ValueError("the price book needs a moment with a time zone: pass an aware datetime")
        return self._sheet(provider, model, at.astimezone(UTC).date())

    def warm(self) -> None:
        """Import the package, 0.3 s, so that the first caller does not wait for it."""
        _package_entry("gemini", "")

    def _look_up(self, provider: str, served_model: str, day: date) -> Sheet | None:
        model = served_model.removeprefix("models/") if provider == "gemini" else served_model
        if own := self._own_rates(provider, model, day):
            return Sheet(((-1, own),))
        if provider == SANDBOX:
            return Sheet(((-1, Rates(model, 0, 0, 0, SANDBOX)),))
        entry = _package_entry(provider, model)
        if entry is None:
            return None
        # A price agreed for an id also holds for the dated ids that the package files under it.
        own = self._own_rates(provider, entry.id, day)
        return Sheet(((-1, own),)) if own else _package_sheet(entry, day)

    def _own_rates(self, provider: str, model: str, day: date) -> Rates | None:
        for own in self._own:
            if own.exactly == (provider, model) and own.starts <= day < own.ends:
                return own.rates
        return None


def _package_entry(provider: str, model: str) -> ModelInfo | None:
    """The package's entry of exactly this model, or of this model without its date."""
    from genai_prices.data_snapshot import get_snapshot

    accepted = {model}
    if provider in DATED_PROVIDERS:
        accepted.add(_SNAPSHOT_DATE.sub("", model))
    # Not `calc_price`: it remembers every name that it was ever asked for.
    for listed in get_snapshot().providers:
        if listed.id == PACKAGE_NAMES.get(provider):
            # The package matches by prefix; only an equal id is a price, everything else is a guess.
            found = listed.find_model(model)
            return found if found and found.id in accepted else None
    return None


def _package_sheet(entry: ModelInfo, day: date) -> Sheet | None:
    import genai_prices

    listed = entry.get_prices(datetime(day.year, day.month, day.day, 12, tzinfo=UTC))
    if listed.input_mtok is None:
        return None
    source = f"genai-prices {genai_prices.__version__}"
    starts = sorted({-1, *(tier.start for price in _ladders(listed) for tier in price.tiers)})
    steps = tuple((above, _package_rates(entry.id, listed, above, source)) for above in starts)
    return Sheet(steps, has_output=listed.output_mtok is not None)


def _package_rates(model: str, listed: ModelPrice, above: int, source: str) -> Rates:
    fresh = _step_price(listed.input_mtok, above)
    cached = fresh if listed.cache_read_mtok is None else _step_price(listed.cache_read_mtok, above)
    return Rates(
        model,
        nano_per_token(fresh),
        nano_per_token(cached),
        nano_per_token(_step_price(listed.output_mtok, above)),
        source,
    )


def _step_price(price: Decimal | TieredPrices | None, above: int) -> Decimal:
    if price is None or isinstance(price, Decimal):
        return price or Decimal(0)
    return next((tier.price for tier in reversed(price.tiers) if tier.start <= above), price.base)


def _ladders(listed: ModelPrice) -> list[TieredPrices]:
    prices = (listed.input_mtok, listed.cache_read_mtok, listed.output_mtok)
    return [price for price in prices if price is not None and not isinstance(price, Decimal)]


def nano_per_token(dollars_per_million: Decimal) -> Nano:
    return _whole(dollars_per_million * 1000)


def _whole(value: Decimal) -> Nano:
    return int(value) if value == value.to_integral_value() else value.normalize()


def dollars(nano: int) -> Decimal:
    """Nano-dollars as dollars, exactly."""
    return Decimal(nano).scaleb(-9)


def format_dollars(nano: int) -> str:
    """Nano-dollars as dollars with nine decimals: 1750525 is "0.001750525"."""
    if not nano:  # the bill of every cached answer
        return "0.000000000"
    whole, rest = divmod(abs(nano), 10**9)
    return f"{'-' if nano < 0 else ''}{whole}.{rest:09d}"
