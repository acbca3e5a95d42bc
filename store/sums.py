"""What closed rows add up to, by hour and by day: kept in the transaction of the rows themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import add, attrgetter

from identity import ANONYMOUS_TENANT, PERIODS, period_start
from store.rows import Row
from store.tables import DAY_US, HOUR_US, KEYS, UNKNOWN

Key = tuple[int | str, ...]
_keys_of = attrgetter(*KEYS)


class Sums:
    """Adds rows up. Taking a row back (`sign=-1`) undoes it, but for the slowest duration."""

    def __init__(self) -> None:
        self.hours: dict[Key, list[int]] = {}
        self.languages: dict[Key, list[int]] = {}
        self.totals: dict[str, list[int]] = {}
        # By counter: spent, and given back of what was reserved.
        self.budgets: dict[tuple[str, int], list[int]] = {}

    @property
    def days(self) -> dict[Key, list[int]]:
        """What the hours add up to: once a batch, not once a row."""
        days: dict[Key, list[int]] = {}
        for (hour, *keys), counted in self.hours.items():
            _merge(days, (int(hour) // 24, *keys), counted[:-1], counted[-1])
        return days

    def add(self, row: Row, sign: int = 1) -> None:
        counted = _counted(row)
        if sign < 0:
            counted = [-number for number in counted]
        _merge(self.hours, (row.at_us // HOUR_US, *_keys_of(row)), counted, row.duration_us)
        spent, saved = sign * (row.cost_nano or 0), sign * (row.saved_nano or 0)
        _plus(self.totals.setdefault(row.tenant, [0, 0, 0]), (sign, spent, saved))
        if spent:
            for counter in counters_of(row):
                _plus(self.budgets.setdefault(counter, [0, 0]), (spent,))
        if row.language:
            place = (row.at_us // DAY_US, row.tenant, row.language)
            _plus(self.languages.setdefault(place, [0, 0]), (sign, sign * row.lines))

    def give_back(self, row: Row) -> None:
        """What an open row holds, as the ledger has it, is free again."""
        for counter in holds_of(row):
            _plus(self.budgets.setdefault(counter, [0, 0]), (0, row.reserved_nano or 0))


def counters_of(row: Row) -> Iterator[tuple[str, int]]:
    """The counters of everybody who pays for a row: of its key, its user and its tenant, in each period."""
    owners = (("key", row.key_id), ("user", row.user_id), ("tenant", row.tenant))
    for kind, name in owners:
        if name and name != ANONYMOUS_TENANT:
            for period in PERIODS:
                yield f"{kind}:{name}:{period}", period_start(period, row.at_us)


def holds_of(row: Row) -> Iterator[tuple[str, int]]:
    """The counters that hold its reservation while it is open."""
    for hold in row.holds.split():
        scope, _, start = hold.rpartition("@")
        yield scope, int(start)


def _counted(row: Row) -> list[int]:
    """One row's share of each of tables.SUMS, in that order. Tokens count where they were paid."""
    hit, coalesced = row.saved_by == "hit", row.saved_by == "coalesced"
    saved, paid = row.saved_nano or 0, not row.saved_by
    return [
        1,
        int(hit),
        int(coalesced),
        int(row.status >= 400 or not row.status),
        int(row.cost_nano is None),
        int(row.state == UNKNOWN),
        row.attempts,
        row.unknown_attempts,
        row.input_tokens if paid else 0,
        row.output_tokens if paid else 0,
        row.cached_tokens if paid else 0,
        row.reasoning_tokens if paid else 0,
        row.cost_nano or 0,
        saved if hit else 0,
        saved if coalesced else 0,
        row.discount_nano,
        row.unknown_nano,
        row.duration_us,
    ]


def _merge(sums: dict[Key, list[int]], key: Key, counted: list[int], slowest: int) -> None:
    known = sums.get(key)
    if known is None:
        sums[key] = [*counted, slowest]
        return
    _plus(known, counted)
    known[-1] = max(known[-1], slowest)


def _plus(known: list[int], more: Iterable[int]) -> None:
    """Add to the first numbers of `known`, one each."""
    added = list(map(add, known, more))
    known[: len(added)] = added
