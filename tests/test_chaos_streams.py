"""The checks of the goal `streams` see what they are there to see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import errors
from chaos.check import Story
from chaos.readers import BEFORE_THE_HEAD, STATUSES, StreamPlan, refused, streamed
from chaos.streams import stream_problems
from tests import test_chaos
from tests.test_chaos import COST, TOKENS, call
from tests.upstream import Call, Tokens
from tests.upstream.bills import bill, told_of

HALF = replace(TOKENS, candidates=5)
HALF_COST = 100 * 250 + 5 * 1500


def row(request_id: str, **facts: Any) -> dict[str, Any]:
    return test_chaos.row(request_id, **{"estimated": 0, **facts})


def story(rows: list[dict[str, Any]], calls: list[Call]) -> Story:
    return Story("one", rows=rows, calls=calls)


def honest() -> list[Story]:
    """A whole stream, one that was cut, one that was estimated, one whose reader left, one that never began, and
    one out of time whose second call nobody heard of."""
    cut = call("one", fault="cut_body", reported=HALF, delivered=False)
    untold = call("one", fault="cut_body", reported=None, delivered=False)
    return [
        story([row("a")], [call("one")]),
        story([row("a", status=502, cost_nano=HALF_COST)], [cut]),
        story([row("a", status=502, cost_nano=77, estimated=1)], [untold]),
        story([row("a", status=499, cost_nano=HALF_COST)], [call("one", delivered=False)]),
        story([row("a", status=502, cost_nano=0, unknown_attempts=1)], [untold]),
        story([row("a", status=504, cost_nano=HALF_COST, attempts=2)], [call("one", delivered=False)]),
        story([row("a"), row("b", cost_nano=0, attempts=0, cache_status="coalesced")], [call("one")]),
    ]


def kinds(each: Story) -> list[str]:
    found = list(stream_problems(each))
    assert all(problem.details for problem in found)
    return [problem.kind for problem in found]


def test_the_checks_find_nothing_where_all_agree():
    assert [kinds(each) for each in honest()] == [[]] * 7
    assert (bill(call("one")), told_of(call("one", reported=HALF)), told_of(call("one", reported=None))) == (
        COST,
        HALF_COST,
        0,
    )


LIES: dict[str, tuple[int, Callable[[Story], Any], str]] = {
    "a nano-dollar more": (0, lambda s: s.rows[0].update(cost_nano=COST + 1), "rows do not cost what the provider told of"),
    "cut and billed whole": (1, lambda s: s.rows[0].update(cost_nano=COST), "rows do not cost what the provider told of"),
    "billed twice": (0, lambda s: s.rows.append(row("a~1f")), "attempts in rows are not the calls of the journal"),
    "a call that nobody counted": (5, lambda s: s.rows[0].update(attempts=0), "attempts in rows are not the calls of the journal"),
    "no row": (0, lambda s: s.rows.clear(), "a call to the provider of which no row tells"),
    "a call unseen": (2, lambda s: s.calls.append(call("one")), "attempts in rows are not the calls of the journal"),
    "free": (4, lambda s: s.rows[0].update(unknown_attempts=0), "billed by the provider, and neither paid nor unknown"),
    "left and overpaid": (3, lambda s: s.rows[0].update(cost_nano=COST + 1), "more is paid than the provider told of"),
    "a bug": (0, lambda s: s.rows[0].update(status=500), "a bug of ours"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_the_checks_find_every_lie(lie):
    place, tell, kind = LIES[lie]
    told = honest()[place]
    tell(told)
    assert kind in kinds(told)


def test_an_error_that_a_provider_says_before_any_text_may_cost_nothing():
    silent = call("one", fault="stream_error", billed=Tokens(prompt=100), reported=None)
    assert kinds(story([row("a", status=502, cost_nano=0)], [silent])) == []


# Readers.

BILL = {
    "cost": {"total": "0.000000007", "saved": "0.000000000", "overall": "0.000000009"},
    "cache_status": "miss",
}
EVENTS = [
    ("message", {"generated_text": "a"}),
    ("comment", "heartbeat"),
    ("message", {"generated_text": "b"}),
]


def test_a_reader_who_stays_has_its_bill_in_hand():
    reply = streamed(iter([*EVENTS, ("bill", BILL)]), None)
    assert (reply.status, reply.cost_nano, reply.overall_nano, reply.cache_status) == (200, 7, 9, "miss")
    failed = streamed(iter([*EVENTS, ("error", {"code": "deadline"}), ("bill", BILL)]), None)
    assert (failed.status, failed.code) == (504, "deadline")


@pytest.mark.parametrize("leaves", range(3))
def test_a_reader_who_leaves_reads_so_many_events_and_no_more(leaves):
    told = iter([*EVENTS, ("bill", BILL)])
    assert streamed(told, leaves) is None
    assert len(list(told)) == {0: 3, 1: 1, 2: 0}[leaves]


def test_a_stream_that_ends_without_a_bill_is_noticed():
    with pytest.raises(ValueError, match="no bill after 2 events"):
        streamed(iter(EVENTS), None)


def test_a_refusal_is_read_like_any_other():
    headers = {"x-cost-total": "0.000000007", "x-cost-saved": "0.000000000", "x-cost-overall": "0.000000009"}
    reply = refused(422, headers, {"code": "content_blocked"})
    assert (reply.status, reply.code, reply.billed, reply.cost_nano) == (422, "content_blocked", True, 7)


def test_the_plan_is_the_same_for_the_same_seed_and_readers_leave_at_every_moment():
    first, again, other = ([plan.next() for _ in range(300)] for plan in map(StreamPlan, (1, 1, 2)))
    assert first == again != other
    leaves = Counter(wanted.leaves for wanted in first)
    assert set(leaves) == {None, BEFORE_THE_HEAD, 0, 1, 2, 3, 4}
    assert {wanted.reset for wanted in first} == {True, False}
    assert len({wanted.marker for wanted in first}) < 300


def test_each_code_of_a_failure_has_one_status():
    kinds_of = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    told = [kind for kind in kinds_of if issubclass(kind, errors.PlatformError)]
    assert len(told) > 20
    assert [kind for kind in told if STATUSES[kind.code] != kind.status] == []
