"""The verdict over one load: replies, rows, sums and the provider's journal, each against the others."""

from __future__ import annotations

import time
from collections.abc import Iterator

from chaos.books import Books, sums_problems
from chaos.check import Story, journal_problems, money, open_problems, reply_problems, stories
from chaos.goal import Problem, Run
from chaos.load import Asked
from tests.upstream import Call, UpstreamProcess


def landed(upstream: UpstreamProcess) -> list[Call]:
    """The journal, once the last call that a client has left knows it."""
    until = time.monotonic() + 10
    while upstream.state()["in_flight"] and time.monotonic() < until:
        time.sleep(0.1)
    return upstream.journal()


def judge(
    run: Run, asked: list[Asked], books: Books, calls: list[Call], *, some_unheard: bool = False
) -> None:
    """Every check that holds once the load is over. some_unheard: there were times when nobody listened."""
    told = list(stories(asked, books.rows, calls).values())
    run.found(reply_problems(asked, books.rows))
    run.found(open_problems(books.rows))
    run.found(journal_problems(told, some_unheard=some_unheard))
    run.found(sums_problems(books))
    _equal(run, told)
    run.found(_overall(asked, books))


def _equal(run: Run, told: list[Story]) -> None:
    sums = money(told)
    run.figures |= sums
    run.demand(len(set(sums.values())) == 1, "ledger, headers and journal are not equal", str(sums))


def _overall(asked: list[Asked], books: Books) -> Iterator[Problem]:
    """The running total in the last replies, of each instance, is what all rows add up to."""
    for ask in asked:
        told = ask.reply.overall_nano if ask.reply else None
        if ask.request_id.startswith("last") and told != books.cost_nano:
            yield Problem("X-Cost-Overall is not the sum of the rows", f"  {books.cost_nano}, and {ask}")
