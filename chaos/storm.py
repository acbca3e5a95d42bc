"""storm: three providers that fail in every way they can, under load; each fault has its place, every sum is equal."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from typing import Any

from chaos.books import read_books
from chaos.check import Story, stories
from chaos.goal import Run
from chaos.judge import judge, landed
from chaos.load import Asked, Load, ask_once
from chaos.mapping import is_repairable, mapping_problems
from chaos.plan import FIRST, MODELS, WARM, Plan
from chaos.platform import Platform, three_providers
from tests.upstream import RETRYABLE, Call, UpstreamProcess
from tests.upstream.faults import NAMES, OWN, PLAIN, PROVIDERS

CALLERS, FAULT_RATE, LATENCY = 32, 0.3, 0.02
DEADLINE = 20.0
LEAST_SUCCESS, MOST_CALLS, LATENESS = 0.965, 1.45, 0.5
# One of each beside many that a retry repairs: a storm, and not the end of the world.
NO_CATEGORY = {"name": "says", "text": "none of these"}
WITH_FIELDS: tuple[dict[str, Any], ...] = (
    NO_CATEGORY,
    {"name": "rate_limited", "delay": ""},
    {"name": "rate_limited", "delay": "3s"},
    {"name": "rate_limited", "delay": "90s"},
)
OFTEN = (*RETRYABLE, "half_close", "reset_body", "overloaded")
# Faults of streams are other faults where a call is none.
ONCE = tuple(sorted((NAMES | set(OWN)) - {*OFTEN, *PLAIN, "ok", "says"}))
LEFT_OUT_WHEN_SHORT = ("hang", "drip", "huge", "gzip_bomb")


def menu(run: Run) -> list[Any]:
    once = [fault for fault in ONCE if not (run.short and fault in LEFT_OUT_WHEN_SHORT)]
    often = [{"name": name, "delay": "0.5s"} for name in OFTEN]
    return [*often * 12, *once, *WITH_FIELDS]


def each_once() -> list[dict[str, Any]]:
    """The whole menu at each provider once, with two good answers between: chance alone would miss some."""
    faults = [*({"name": name} for name in (*OFTEN, *ONCE)), NO_CATEGORY]
    return [
        {**each, "provider": provider}
        for fault in faults
        for provider in OWN.get(fault["name"], PROVIDERS)
        for each in (fault, {"name": "ok"}, {"name": "ok"})
    ]


def storm(run: Run) -> None:
    total = 200 if run.short else 5_000
    deadline = 6.0 if run.short else DEADLINE
    with ExitStack() as stack:
        upstream = stack.enter_context(UpstreamProcess(seed=run.seed, latency=LATENCY))
        settings = {"LLM_TIMEOUT_SECONDS": str(deadline), **three_providers(upstream.url)}
        platform = stack.enter_context(Platform(run.folder / "platform", upstream.url, **settings))
        first = [ask_once(platform.port, f"warm-{wanted.model}", wanted) for wanted in FIRST]
        upstream.control(menu=menu(run), fault_rate=FAULT_RATE, script=[] if run.short else each_once())
        asked = _blow(run, platform, total, deadline)
        upstream.control(fault_rate=0.0)
        last = ask_once(platform.port, "last", WARM)
        books, calls = read_books(platform.ledger_url), landed(upstream)
        run.demand(platform.end() == 0, "the platform did not end cleanly", platform.last_words())
    judge(run, [*first, *asked, last], books, calls)
    told = stories([*first, *asked, last], books.rows, calls)
    run.found(mapping_problems(told.values(), deadline))
    _count(run, asked, calls, deadline)
    _is_whole(run, calls)
    _promise(run, told, calls)


def _blow(run: Run, platform: Platform, total: int, deadline: float) -> list[Asked]:
    plan = Plan(run.seed, hot=0.3, models=MODELS)
    with Load([platform.port], CALLERS, plan, timeout=deadline + 20, total=total, name="storm") as load:
        shown = 0.0
        while load.running:
            time.sleep(0.1)
            if time.monotonic() - shown > 10:
                shown = time.monotonic()
                run.say(f"{len(load.asked):,} of {total:,} asks answered")
    return load.asked


def _count(run: Run, asked: list[Asked], calls: list[Call], deadline: float) -> None:
    replies = [ask.reply for ask in asked if ask.reply]
    statuses = Counter(reply.status for reply in replies)
    for ask in asked:
        run.demand(ask.reply and ask.reply.whole, "an ask without a reply", f"  {ask}")
        run.demand(ask.reply is None or ask.reply.status != 500, "a 500", f"  {ask}")
    seconds = sorted(ask.seconds for ask in asked)
    p99 = seconds[len(seconds) * 99 // 100]
    run.demand(p99 <= deadline + run.within(LATENESS), "p99 above the deadline + 0.5 s", f"  {p99:.2f} s")
    run.figures |= {
        "requests": len(asked),
        "callers": CALLERS,
        "calls": len(calls),
        "faults": sum(call.fault != "ok" for call in calls),
        "calls_by_provider": dict(Counter(call.provider for call in calls).most_common()),
        "kinds_of_fault": len({call.fault for call in calls} - {"ok"}),
        "success_of_all": _share(statuses[200], len(asked)),
        "p50_seconds": round(seconds[len(seconds) // 2], 3),
        "p99_seconds": round(p99, 3),
        "deadline_seconds": deadline,
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "codes": dict(Counter(reply.code for reply in replies if reply.code).most_common()),
        "cache": dict(Counter(reply.cache_status for reply in replies).most_common()),
    }


def _is_whole(run: Run, calls: list[Call]) -> None:
    wanted = set() if run.short else {(fault["provider"], fault["name"]) for fault in each_once()}
    missed = wanted - {(call.provider, call.fault) for call in calls}
    run.demand(not missed, "faults that no call has met", f"  {sorted(missed)}")


def _promise(run: Run, told: dict[str, Story], calls: list[Call]) -> None:
    """Without hits and shared flights, which would make both figures better than they are."""
    replies = [(ask, ask.reply) for story in told.values() for ask in story.asked if ask.reply]
    callers = [ask for ask, reply in replies if reply.attempts]
    own = [ask for ask, reply in replies if reply.cache_status not in ("hit", "coalesced")]
    repairable = [ask for ask in own if is_repairable(told[ask.wanted.marker])]
    success = _share(
        sum(ask.reply is not None and ask.reply.status == 200 for ask in repairable), len(repairable)
    )
    effort = round(len(calls) / max(1, len(callers)), 3)
    run.figures |= {
        "asks_that_called": len(callers),
        "retryable_asks": len(repairable),
        "success_of_retryable": success,
        "calls_per_request": effort,
    }
    # Of the 140 asks of a short run a few more or less say nothing.
    slack = 0.035 if run.short else 0.0
    run.demand(
        success >= LEAST_SUCCESS - slack, "too few of the repairable asks were answered", f"  {success}"
    )
    run.demand(effort <= MOST_CALLS * (1 + 5 * slack), "too many calls per request", f"  {effort}")


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0
