"""Replies in callers' hands, rows in the ledger and calls in the provider's journal: all three must tell the same story."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from chaos.books import Row, shown
from chaos.goal import Problem
from chaos.load import Asked
from tests.upstream import Call
from tests.upstream.bills import bill, is_lost, is_uncounted

MARKER = re.compile(r"\A\[([A-Za-z0-9.-]+)\]")
# Refusals of asks that never reached the road, or could not be written down: a row may be there and need not.
MAY_LACK_A_ROW = frozenset({"ledger_unavailable", "overloaded", "rate_limited"})


# Replies and rows.


def reply_problems(asked: Iterable[Asked], rows: Iterable[Row]) -> Iterator[Problem]:
    """Each acknowledged reply has exactly one row that says what its headers say; no row is nobody's."""
    by_id = rows_by_request(rows)
    for ask in asked:
        found = by_id.pop(ask.request_id, [])
        if len(found) > 1:
            yield Problem("two rows for one ask", _story(ask, found))
        elif found:
            yield from _row_problems(ask, found[0])
        elif ask.reply is not None and ask.reply.code not in MAY_LACK_A_ROW:
            yield Problem("an acknowledged reply without a row", _story(ask, found))
    for found in by_id.values():
        yield Problem("a row that nobody asked for", "\n".join(map(shown, found)))


def rows_by_request(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The platform names the row of a second request under a known id `id~mark`."""
    by_id: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_id[row["request_id"].partition("~")[0]].append(row)
    return by_id


def _row_problems(ask: Asked, row: Row) -> Iterator[Problem]:
    reply = ask.reply
    if reply is None or reply.code in MAY_LACK_A_ROW:
        return
    if row["state"] == "open":
        yield Problem("an acknowledged reply whose row is still open", _story(ask, [row]))
        return
    told = (reply.cost_nano, reply.saved_nano, reply.status)
    if told != (row["cost_nano"], row["saved_nano"], row["status"]):
        yield Problem("a row that says otherwise than its reply's headers", _story(ask, [row]))
    elif reply.status == 200 and reply.cache_status != row["cache_status"]:
        yield Problem("a row of another cache status than its reply", _story(ask, [row]))


def open_problems(rows: Iterable[Row], kind: str = "a row that stays open") -> Iterator[Problem]:
    for row in rows:
        if row["state"] == "open":
            yield Problem(kind, shown(row))


# Rows and the journal.


@dataclass(slots=True)
class Story:
    """All that concerns one prompt: who asked for it, the rows of these asks, and the calls that were made."""

    marker: str
    asked: list[Asked] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    @property
    def closed(self) -> list[Row]:
        """Rows whose request ended under its own process, however it ended."""
        return [row for row in self.rows if row["state"] != "open" and row["status"]]

    @property
    def given_up(self) -> list[Row]:
        """Rows that were still open when their process was gone."""
        return [row for row in self.rows if row["state"] == "unknown" and not row["status"]]

    @property
    def whole(self) -> bool:
        """Whether each ask has its reply in hand, with what it cost."""
        return not self.given_up and all(
            ask.reply is not None and ask.reply.code not in MAY_LACK_A_ROW for ask in self.asked
        )

    @property
    def estimated(self) -> bool:
        return any(is_uncounted(call) for call in self.calls)

    @property
    def paid_nano(self) -> int:
        return sum(row["cost_nano"] or 0 for row in self.closed)

    @property
    def told_nano(self) -> int:
        """What the provider charges for the calls whose counts it has told."""
        return sum(bill(call) for call in self.calls if call.usage_sent)

    @property
    def billed_nano(self) -> int:
        """The same with the calls whose replies were lost."""
        return sum(bill(call) for call in self.calls)

    @property
    def bound_nano(self) -> int:
        return sum(row["unknown_nano"] for row in self.rows)

    def problem(self, kind: str, ours: int, theirs: int) -> Problem:
        return Problem(kind, f"  {ours}, and {theirs}\n{self}")

    def __str__(self) -> str:
        lines = [_asked_line(ask) for ask in self.asked[:20]] + [shown(row) for row in self.rows[:20]]
        return "\n".join([*lines, *(_call_line(call) for call in self.calls[:20])])


def stories(asked: Iterable[Asked], rows: Iterable[Row], calls: Iterable[Call]) -> dict[str, Story]:
    told: dict[str, Story] = {}
    by_id = rows_by_request(rows)
    for ask in asked:
        story = told.setdefault(ask.wanted.marker, Story(ask.wanted.marker))
        story.asked.append(ask)
        story.rows += by_id.get(ask.request_id, [])
    for call in calls:
        marker = marker_of(call)
        told.setdefault(marker, Story(marker)).calls.append(call)
    return told


def marker_of(call: Call) -> str:
    found = MARKER.match(call.prompt)
    return found[1] if found else "(no prompt of ours)"


def journal_problems(told: Iterable[Story], *, some_unheard: bool = False) -> Iterator[Problem]:
    """Settled rows are what the provider billed; what was cut off is unknown, and its bound holds.

    some_unheard: there were times when nobody listened, so that rows tell of more calls than the journal.
    """
    for story in told:
        yield from _call_problems(story, some_unheard)
        if not story.estimated:
            yield from _money_problems(story)


def _call_problems(story: Story, some_unheard: bool) -> Iterator[Problem]:
    if story.calls and not story.rows:
        yield Problem("a call to the provider of which no row tells", str(story))
        return
    attempts = sum(row["attempts"] for row in story.closed)
    lost = sum(is_lost(call) for call in story.calls)
    unknown = sum(row["unknown_attempts"] for row in story.closed)
    whole = not story.given_up
    unheard = some_unheard and attempts > len(story.calls)
    if not unheard and (attempts > len(story.calls) or (whole and attempts != len(story.calls))):
        yield story.problem("attempts in rows are not the calls of the journal", attempts, len(story.calls))
    elif unknown > lost or (whole and unknown != lost):
        yield story.problem("unknown attempts in rows are not those lost in the journal", unknown, lost)


def _money_problems(story: Story) -> Iterator[Problem]:
    paid, told = story.paid_nano, story.told_nano
    if paid > told or (not story.given_up and paid != told):
        yield story.problem("rows do not cost what the provider told of", paid, told)
    elif story.billed_nano - paid > story.bound_nano:
        unsettled = story.billed_nano - paid
        yield story.problem("unknown rows have a bound below what was billed", story.bound_nano, unsettled)


def money(told: Iterable[Story]) -> dict[str, int]:
    """The three sums that must be equal, over prompts of which nothing was estimated or cut off."""
    whole = [story for story in told if story.whole and not story.estimated]
    headers = [ask.reply for story in whole for ask in story.asked if ask.reply is not None]
    return {
        "ledger_nano": sum(story.paid_nano for story in whole),
        "headers_nano": sum(reply.cost_nano or 0 for reply in headers),
        "journal_nano": sum(story.told_nano for story in whole),
    }


# Showing it.


def _story(ask: Asked, rows: list[Row]) -> str:
    return "\n".join([_asked_line(ask), *map(shown, rows)])


def _asked_line(ask: Asked) -> str:
    said: Any = ask.reply if ask.reply is not None else f"no reply: {ask.trouble}"
    return f"  asked {ask.request_id} [{ask.wanted.marker}] {ask.seconds:.3f} s: {said}"


def _call_line(call: Call) -> str:
    return (
        f"  call  {call.number} {call.fault} status={call.status} delivered={call.delivered} model={call.model} "
        f"billed={bill(call)} told={call.usage_sent}"
    )
