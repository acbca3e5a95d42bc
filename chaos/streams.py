"""streams: readers who leave at any moment, providers that break in mid-stream; each stream is billed once, and nothing stays."""

from __future__ import annotations

import http.client
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from chaos.books import Row, read_books, sums_problems
from chaos.check import Story, open_problems, reply_problems, stories
from chaos.goal import Problem, Run
from chaos.judge import landed
from chaos.load import Asked, Load, ask_once
from chaos.plan import WARM
from chaos.platform import Platform
from chaos.readers import StreamCaller, StreamPlan
from tests.upstream import Call, UpstreamProcess
from tests.upstream.bills import bill, told_of

CALLERS, DEADLINE, FAULT_RATE, LATENCY = 64, 6.0, 0.9, 0.01
# What a stream can meet on its way, and what keeps it from beginning.
INSIDE: tuple[dict[str, Any], ...] = tuple(
    {"name": name, "after": after, "seconds": 0.3}
    for name in (
        "cut_body",
        "reset_body",
        "half_close",
        "stream_error",
        "stream_garbage",
        "stream_stops",
    )
    for after in (0, 1, 2, 3)
)
WHOLE: tuple[dict[str, Any], ...] = (
    *({"name": "ok", "pause": pause} for pause in (0.02, 0.05, 0.2, 0.5)),
    *({"name": name, "pause": 0.05} for name in ("no_usage", "other_model", "max_tokens")),
)
BEFORE: tuple[dict[str, Any], ...] = tuple(
    {"name": name, "delay": "0.2s", "seconds": 0.5}
    for name in (
        *("rate_limited", "unavailable", "internal", "reset_before", "quota_per_day", "overloaded", "slow"),
        *("garbage", "html", "wrong_schema", "blocked_prompt", "blocked_answer", "empty", "no_candidates"),
        *("bad_request", "redirect"),
    )
)
# Each of them holds its stream up to the deadline.
LONG: tuple[dict[str, Any], ...] = (
    {"name": "hang"},
    {"name": "drip"},
    {"name": "ok", "pause": 60.0},
)
MENU = (*INSIDE, *WHOLE * 10, *BEFORE, *LONG)


def streams(run: Run) -> None:
    total, deadline = (150, 3.0) if run.short else (1_000, DEADLINE)
    with ExitStack() as stack:
        upstream = stack.enter_context(UpstreamProcess(seed=run.seed, latency=LATENCY))
        settings = _settings(upstream.url, deadline)
        platform = stack.enter_context(Platform(run.folder / "platform", upstream.url, **settings))
        first = _warm_up(platform, upstream)
        before = Size.of(platform, upstream)
        upstream.control(menu=MENU, fault_rate=FAULT_RATE)
        asked = _flow(run, platform, total, deadline)
        upstream.control(fault_rate=0.0)
        _nothing_stays(run, platform, upstream, before, deadline)
        last = ask_once(platform.port, "last", WARM)
        books, calls = read_books(platform.ledger_url), landed(upstream)
        run.demand(platform.end() == 0, "the platform did not end cleanly", platform.last_words())
    everything = [*first, *asked, last]
    told = list(stories(everything, books.rows, calls).values())
    run.found(reply_problems(everything, books.rows))
    run.found(open_problems(books.rows))
    run.found(sums_problems(books))
    run.found(problem for story in told for problem in stream_problems(story))
    run.demand(
        last.reply and last.reply.overall_nano == books.cost_nano, "X-Cost-Overall is not the sum of the rows"
    )
    _ends(run, asked, _count(run, asked, books.rows, calls, told), deadline)


def _settings(url: str, deadline: float) -> dict[str, str]:
    return {
        "LLM_PROVIDERS": "gemini,openai,anthropic",
        "OPENAI_API_KEY": "any-key",
        "OPENAI_BASE_URL": f"{url}/v1",
        "ANTHROPIC_API_KEY": "any-key",
        "ANTHROPIC_BASE_URL": url,
        "LLM_TIMEOUT_SECONDS": str(deadline),
        "STREAM_HEARTBEAT_SECONDS": "0.2",
    }


def _warm_up(platform: Platform, upstream: UpstreamProcess) -> list[Asked]:
    """Whatever is made once is made now: clients of all three providers, connections, logs, that of errors too."""
    first = [ask_once(platform.port, "warm-up", WARM)]
    upstream.control(script=["bad_request"])
    with Load(
        [platform.port],
        6,
        StreamPlan(0, name="warm-", leaving=0.0),
        timeout=30,
        total=60,
        name="warm",
        caller=StreamCaller,
    ) as load:
        while load.running:
            time.sleep(0.05)
    return first + load.asked


def _flow(run: Run, platform: Platform, total: int, deadline: float) -> list[Asked]:
    plan = StreamPlan(run.seed)
    known: dict[str, Any] = {
        "timeout": deadline + 20,
        "total": total,
        "name": "stream",
        "caller": StreamCaller,
    }
    with Load([platform.port], CALLERS, plan, **known) as load:
        shown_at = 0.0
        while load.running:
            time.sleep(0.1)
            if time.monotonic() - shown_at > 10:
                shown_at = time.monotonic()
                run.say(f"{len(load.asked):,} of {total:,} streams")
    return load.asked


# What stays.


class Size:
    """What one platform process holds: threads, files, and sockets by whom they lead to."""

    def __init__(self, threads: int, files: int, clients: int, closing: int) -> None:
        self.threads, self.files, self.clients, self.closing = threads, files, clients, closing

    @classmethod
    def of(cls, platform: Platform, upstream: UpstreamProcess) -> Size:
        """files: without connections to providers, which are kept for the next call."""
        provider = int(upstream.url.rpartition(":")[2])
        folder = Path(f"/proc/{platform.pid}")
        threads = len(list((folder / "task").iterdir()))
        connections = psutil.Process(platform.pid).net_connections("tcp")
        kept = [link for link in connections if link.raddr and link.raddr.port == provider]
        clients = [link for link in connections if link.raddr and link.laddr.port == platform.port]
        files = len(list((folder / "fd").iterdir())) - len(kept)
        return cls(
            threads, files, len(clients), sum(link.status == psutil.CONN_CLOSE_WAIT for link in connections)
        )

    def __le__(self, other: Size) -> bool:
        return (
            self.threads <= other.threads and self.files <= other.files and self.clients == self.closing == 0
        )

    def __str__(self) -> str:
        return (
            f"{self.threads} threads, {self.files} files, {self.clients} clients, {self.closing} half-closed"
        )


def _nothing_stays(
    run: Run, platform: Platform, upstream: UpstreamProcess, before: Size, deadline: float
) -> None:
    """Once the deadline of the last stream is over, what is left is what was there before."""
    until = time.monotonic() + deadline + 2
    while (left := in_air(platform)) and time.monotonic() < until:
        time.sleep(0.1)
    run.demand(not left, "something is still in the air", f"  {left}")
    until = time.monotonic() + 5
    while not (after := Size.of(platform, upstream)) <= before and time.monotonic() < until:
        time.sleep(0.1)
    run.demand(after <= before, "something stays in the process", f"  before: {before}\n  after: {after}")
    run.demand(not upstream.state()["in_flight"], "a provider still writes for nobody")
    run.figures |= {"before": str(before), "after": str(after)}


def in_air(platform: Platform) -> dict[str, float]:
    """Whatever the metrics still count as under way, and replies with 500."""
    connection = http.client.HTTPConnection("127.0.0.1", platform.port, timeout=30)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    values = {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
    }
    watched = ("llm_asks_in_air", "llm_flights_in_air", "llm_streams_in_air")
    bugs = {name for name in values if 'status="500"' in name}
    return {name: values[name] for name in (*watched, *bugs) if values[name]}


# Money.


def stream_problems(story: Story) -> Iterator[Problem]:
    """What the rows of one prompt say against the provider's journal."""
    if story.calls and not story.rows:
        yield Problem("a call to the provider of which no row tells", str(story))
        return
    attempts = sum(row["attempts"] for row in story.rows)
    # Out of time or connections, an attempt may end before the provider has heard of it.
    unheard = any(row["status"] in (503, 504) for row in story.rows)
    if attempts < len(story.calls) or (attempts > len(story.calls) and not unheard):
        yield story.problem("attempts in rows are not the calls of the journal", attempts, len(story.calls))
    if any(row["status"] == 500 for row in story.rows):
        yield Problem("a bug of ours", str(story))
    yield from _money_problems(story)


def _money_problems(story: Story) -> Iterator[Problem]:
    """Equal where all that was told was heard; estimated and marked where it was not told; never free."""
    told = sum(map(told_of, story.calls))
    billed = sum(bill(call) for call in story.calls if not gave_up(call))
    if is_exact(story):
        if story.paid_nano != told:
            yield story.problem("rows do not cost what the provider told of", story.paid_nano, told)
    elif not is_estimated(story) and story.paid_nano > told:
        yield story.problem("more is paid than the provider told of", story.paid_nano, told)
    if billed and not story.paid_nano and not any(row["unknown_attempts"] for row in story.rows):
        yield story.problem("billed by the provider, and neither paid nor unknown", story.paid_nano, billed)


def gave_up(call: Call) -> bool:
    """Said by itself, before any text, that nothing will come of it: as good as a refusal, which costs nothing."""
    return call.fault == "stream_error" and call.billed is not None and not call.billed.candidates


def is_estimated(story: Story) -> bool:
    return any(row["estimated"] for row in story.rows)


def is_exact(story: Story) -> bool:
    """Who leaves, or runs out of time, may not hear of all that the provider has counted by then."""
    return not is_estimated(story) and not any(row["status"] in (499, 504) for row in story.rows)


def _count(run: Run, asked: list[Asked], rows: list[Row], calls: list[Call], told: list[Story]) -> list[Row]:
    """The figures; returns the rows of the streams."""
    exact = [story for story in told if is_exact(story)]
    ids = {ask.request_id for ask in asked}
    streamed = [row for row in rows if row["request_id"] in ids]
    run.figures |= {
        "streams": len(asked),
        "callers": CALLERS,
        "calls": len(calls),
        "faults": sum(call.fault != "ok" for call in calls),
        "rows": len(streamed),
        "left": sum(ask.trouble == "left" for ask in asked),
        "statuses": {
            str(status): count for status, count in sorted(Counter(row["status"] for row in streamed).items())
        },
        "estimated_rows": sum(bool(row["estimated"]) for row in streamed),
        "ledger_nano": sum(story.paid_nano for story in exact),
        "journal_nano": sum(told_of(call) for story in exact for call in story.calls),
    }
    return streamed


def _ends(run: Run, asked: list[Asked], rows: list[Row], deadline: float) -> None:
    """Each reader who stayed has a bill, in time; enough of the others were noticed."""
    cut = [ask for ask in asked if ask.reply is None and ask.trouble != "left"]
    run.demand(not cut, "a stream that ended without its bill", "\n".join(f"  {ask}" for ask in cut[:5]))
    seconds = sorted(ask.seconds for ask in asked if ask.reply)
    p99, most = seconds[len(seconds) * 99 // 100], deadline + run.within(0.5)
    run.figures |= {"p99_seconds": round(p99, 3), "deadline_seconds": deadline}
    run.demand(p99 <= most, "p99 above the deadline + 0.5 s", f"  {p99:.2f} s")
    left, noticed = run.figures["left"], sum(row["status"] == 499 for row in rows)
    run.demand(left > len(asked) // 4, "too few readers left for this to prove anything", f"  {left}")
    run.demand(noticed > left // 10, "readers who left were not noticed", f"  {noticed} of {left}")
