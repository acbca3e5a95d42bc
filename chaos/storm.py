"""storm: a provider that fails in every way it can, under load; ledger, headers and journal must be equal integers."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from typing import Any

from chaos.books import read_books
from chaos.check import marker_of
from chaos.goal import Run
from chaos.judge import judge, landed
from chaos.load import Asked, Load, ask_once
from chaos.plan import WARM, Plan
from chaos.platform import Platform
from tests.upstream import RETRYABLE, Call, UpstreamProcess

CALLERS, FAULT_RATE, LATENCY = 32, 0.3, 0.02
DEADLINE = 20.0
# What the table of faults allows a caller to see. 500 is nowhere in it.
STATUSES = frozenset({200, 400, 422, 429, 502, 503, 504})
# One of each beside many that a retry repairs: a storm, and not the end of the world.
ONCE: tuple[str | dict[str, Any], ...] = (
    *("bad_request", "bad_key", "forbidden", "unauthorized", "not_found", "redirect", "too_long"),
    *("garbage", "wrong_schema", "html", "huge", "gzip_bomb", "hang", "drip"),
    *("slow", "other_model", "no_usage", "max_tokens", "empty", "no_candidates"),
    *("blocked_prompt", "blocked_answer", "recitation", "quota_per_day"),
    {"name": "says", "text": "none of these"},
    {"name": "rate_limited", "delay": ""},
    {"name": "rate_limited", "delay": "3s"},
    {"name": "rate_limited", "delay": "90s"},
)
OFTEN = tuple({"name": name, "delay": "0.5s"} for name in RETRYABLE)
LEFT_OUT_WHEN_SHORT = ("hang", "drip", "huge", "gzip_bomb")


def menu(run: Run) -> list[Any]:
    once = [fault for fault in ONCE if not (run.short and fault in LEFT_OUT_WHEN_SHORT)]
    return [*OFTEN * 12, *once]


def storm(run: Run) -> None:
    total = 200 if run.short else 5_000
    deadline = 3.0 if run.short else DEADLINE
    with ExitStack() as stack:
        upstream = stack.enter_context(UpstreamProcess(seed=run.seed, latency=LATENCY))
        settings = {"LLM_TIMEOUT_SECONDS": str(deadline)}
        platform = stack.enter_context(Platform(run.folder / "platform", upstream.url, **settings))
        first = ask_once(platform.port, "warm-up", WARM)
        upstream.control(menu=menu(run), fault_rate=FAULT_RATE)
        asked = _blow(run, platform, total, deadline)
        upstream.control(fault_rate=0.0)
        last = ask_once(platform.port, "last", WARM)
        books, calls = read_books(platform.ledger_url), landed(upstream)
        run.demand(platform.end() == 0, "the platform did not end cleanly", platform.last_words())
    judge(run, [*asked, first, last], books, calls)
    _count(run, asked, calls, deadline)


def _blow(run: Run, platform: Platform, total: int, deadline: float) -> list[Asked]:
    plan = Plan(run.seed, hot=0.3)
    with Load([platform.port], CALLERS, plan, timeout=deadline + 20, total=total, name="storm") as load:
        shown = 0.0
        while load.running:
            time.sleep(0.1)
            if time.monotonic() - shown > 10:
                shown = time.monotonic()
                run.say(f"{len(load.asked):,} of {total:,} asks answered")
    return load.asked


def _count(run: Run, asked: list[Asked], calls: list[Call], deadline: float) -> None:
    statuses = Counter(ask.reply.status for ask in asked if ask.reply)
    codes = Counter(ask.reply.code for ask in asked if ask.reply and ask.reply.code)
    for ask in asked:
        run.demand(ask.reply and ask.reply.whole, "an ask without a reply", f"  {ask}")
        run.demand(
            ask.reply is None or ask.reply.status in STATUSES, "a status outside the table", f"  {ask}"
        )
    seconds = sorted(ask.seconds for ask in asked)
    p99 = seconds[len(seconds) * 99 // 100]
    run.demand(p99 <= deadline + run.within(0.5), "p99 above the deadline + 0.5 s", f"  {p99:.2f} s")
    run.figures |= {
        "requests": len(asked),
        "callers": CALLERS,
        "calls": len(calls),
        "faults": sum(call.fault != "ok" for call in calls),
        "calls_per_paid_request": round(len(calls) / max(1, _paid(asked)), 3),
        "success_of_all": _share(
            sum(count for status, count in statuses.items() if status == 200), len(asked)
        ),
        "success_of_retryable": _retryable_success(asked, calls),
        "p50_seconds": round(seconds[len(seconds) // 2], 3),
        "p99_seconds": round(p99, 3),
        "deadline_seconds": deadline,
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "codes": dict(codes.most_common()),
        "cache": dict(Counter(ask.reply.cache_status for ask in asked if ask.reply).most_common()),
    }


def _paid(asked: list[Asked]) -> int:
    return sum(ask.reply is not None and ask.reply.cache_status not in ("hit", "coalesced") for ask in asked)


def _retryable_success(asked: list[Asked], calls: list[Call]) -> float:
    """Of the asks whose calls met nothing worse than what a retry repairs."""
    repairable = {"ok", "slow", *RETRYABLE}
    spoilt = {marker_of(call) for call in calls if call.fault not in repairable}
    part = [ask for ask in asked if ask.wanted.marker not in spoilt and ask.reply]
    return _share(sum(ask.reply is not None and ask.reply.status == 200 for ask in part), len(part))


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0
