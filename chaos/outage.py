"""outage: a minute in which no provider answers; nothing is amplified, refusals are quick, and it ends by itself."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

from chaos.books import read_books
from chaos.check import rows_by_request
from chaos.goal import Run
from chaos.judge import judge, landed
from chaos.load import Asked, ask_once
from chaos.mapping import ANSWER, ERROR, LATE, NO_CALL, seen_by
from chaos.plan import FIRST, WARM, Wanted
from chaos.platform import Platform, three_providers
from chaos.steady import KNOWN, Steady
from providers.breaker import PAUSE
from tests.servers.ports import free_port
from tests.upstream import Call, UpstreamProcess

RATE, SECONDS, AFTERWARDS, DEADLINE = 50.0, 60.0, 15.0, 10.0
SHORT_RATE, SHORT_SECONDS, SHORT_AFTERWARDS, SHORT_DEADLINE = 20.0, 8.0, 7.0, 3.0
REFUSED_WITHIN, HEALED_WITHIN, WELL_AFTER, LATENESS = 0.05, 5.0, 5.0, 0.5
DRIPS = 16
# Calls that waited for their turn when the breaker opened are still made.
SETTLING = 3.0
SICK = ("unavailable", "hang", "gateway_timeout", "reset_before")
# Calls hang until the ask's time is up; a key that is taken back, and an overload.
SICK_CHAIN = (
    "gemini:hang",
    "gemini:hang",
    "gemini:unavailable",
    "anthropic:unauthorized",
    "anthropic:overloaded",
)


def outage(run: Run) -> None:
    alone(run)
    chain(run)


def alone(run: Run) -> None:
    """One provider: nobody listens at its address, then it is there and ill, then well."""
    act = Act(run, "alone", ["gemini"])
    with ExitStack() as stack:
        with UpstreamProcess(seed=run.seed, latency=0.02, port=act.port) as before:
            stack.enter_context(act.platform({}))
            act.learn()
            act.calls += landed(before)
        load = stack.enter_context(act.load())
        load.until(act.seconds / 3)
        upstream = stack.enter_context(
            UpstreamProcess(seed=run.seed, latency=0.02, port=act.port, fault_rate=1.0, menu=SICK)
        )
        load.until(act.seconds)
        act.heal(upstream)
        act.see(load)
        act.drip(upstream)
        act.end(upstream)
    act.verdict(load)


def chain(run: Run) -> None:
    """Three providers: one hangs, at the next nobody listens, the last refuses key or work."""
    act, deaf = Act(run, "chain", ["gemini", "openai", "anthropic"]), free_port()
    with ExitStack() as stack:
        upstream = stack.enter_context(UpstreamProcess(seed=run.seed, latency=0.02, port=act.port))
        stack.enter_context(
            act.platform(three_providers(upstream.url, f"http://127.0.0.1:{deaf}", upstream.url))
        )
        act.learn()
        upstream.control(menu=SICK_CHAIN, fault_rate=1.0)
        load = stack.enter_context(act.load())
        load.until(act.seconds)
        act.heal(upstream)
        second = stack.enter_context(UpstreamProcess(seed=run.seed, latency=0.02, port=deaf))
        act.see(load)
        act.drip(upstream, second)
        act.end(upstream, second)
    act.verdict(load)


class Act:
    """One outage of one platform: what was asked, what was called, and when it was over."""

    def __init__(self, run: Run, name: str, providers: list[str]) -> None:
        self.run, self.name, self.providers = run, name, providers
        self.port = free_port()
        self.seconds = SHORT_SECONDS if run.short else SECONDS
        self.deadline = SHORT_DEADLINE if run.short else DEADLINE
        self.calls: list[Call] = []
        self.aside: list[Asked] = []
        self.drips: list[Asked] = []
        self.opened = self.healed = self.over = 0.0

    # Its course.

    def platform(self, settings: dict[str, str]) -> Platform:
        url = f"http://127.0.0.1:{self.port}"
        settings = {"LLM_TIMEOUT_SECONDS": str(self.deadline), **settings}
        self.house = Platform(self.run.folder / self.name, url, **settings)
        return self.house

    def learn(self) -> None:
        """What will be hits during the outage."""
        first = FIRST if len(self.providers) > 1 else (WARM,)
        self._aside(*KNOWN, *first)

    def _aside(self, *wanted: Wanted) -> None:
        for each in wanted:
            self.aside.append(ask_once(self.house.port, f"{self.name}-aside-{len(self.aside)}", each))

    def load(self) -> Steady:
        self.run.say(f"{self.name}: the outage begins")
        rate = SHORT_RATE if self.run.short else RATE
        return Steady(self.house.port, rate, timeout=self.deadline + 20, name=self.name)

    def heal(self, upstream: UpstreamProcess) -> None:
        upstream.control(fault_rate=0.0)
        self.healed = time.monotonic()
        self.run.say(f"{self.name}: well again")

    def see(self, load: Steady) -> None:
        """What the healing changes, then no more asks."""
        time.sleep(SHORT_AFTERWARDS if self.run.short else AFTERWARDS)
        load.__exit__()
        self.over = time.monotonic()

    def drip(self, *upstreams: UpstreamProcess) -> None:
        """Replies of a byte a second, at every provider."""
        for upstream in upstreams:
            upstream.control(menu=["drip"], fault_rate=1.0)
        wanted = [Wanted(f"{self.name}-drip-{number}", "text", 10) for number in range(DRIPS)]
        with ThreadPoolExecutor(DRIPS) as pool:
            self.drips = list(pool.map(lambda each: ask_once(self.house.port, each.marker, each), wanted))
        for upstream in upstreams:
            upstream.control(fault_rate=0.0)

    def end(self, *upstreams: UpstreamProcess) -> None:
        last = ask_once(self.house.port, f"last-{self.name}", WARM)
        self.books = read_books(self.house.ledger_url)
        for upstream in upstreams:
            self.calls += landed(upstream)
        self.aside.append(last)
        self.run.demand(self.house.end() == 0, "the platform did not end cleanly", self.house.last_words())

    # What came of it.

    def verdict(self, load: Steady) -> None:
        asked = [*load.asked, *self.drips, *self.aside]
        figures = self.run.figures
        judge(self.run, asked, self.books, self.calls, some_unheard=True)
        figures[self.name] = {
            name: figures.pop(name) for name in ("ledger_nano", "headers_nano", "journal_nano")
        }
        self._one_row_each(asked)
        self._hits(load.known)
        fresh = sorted(load.fresh, key=lambda ask: ask.began)
        during = [ask for ask in fresh if ask.began < self.healed]
        self._not_amplified(during)
        self._refusals(during)
        self._healing(fresh)
        self._one_probe_at_a_time()
        self._drips()

    def _note(self, **figures: Any) -> None:
        self.run.figures[self.name] |= figures

    def _one_row_each(self, asked: Iterable[Asked]) -> None:
        rows = rows_by_request(self.books.rows)
        for ask in asked:
            self.run.demand(ask.reply and ask.reply.whole, "an ask without a reply", f"  {ask}")
            self.run.demand(len(rows[ask.request_id]) == 1, "an ask that has not one row", f"  {ask}")
            self.run.demand(ask.reply is None or ask.reply.status != 500, "a 500", f"  {ask}")

    def _hits(self, known: list[Asked]) -> None:
        for ask in known:
            hit = ask.reply is not None and (ask.reply.status, ask.reply.cache_status) == (200, "hit")
            self.run.demand(hit, "a cached answer that was not served", f"  {ask}")
        self._note(hits=len(known), hits_p99_seconds=p99(known))

    def _not_amplified(self, during: list[Asked]) -> None:
        attempts = sum(ask.reply.attempts for ask in during if ask.reply)
        told = Counter(" ".join(map(str, seen_by(ask.reply))) for ask in during if ask.reply)
        self._note(requests=len(during), attempts=attempts, replies=dict(told.most_common()))
        most = 1.05 * len(during) + (100 if len(during) >= 3000 else len(during) / 30)
        self.run.demand(
            attempts <= most, "an outage that was amplified", f"  {attempts} of at most {most:.0f}"
        )
        allowed = NO_CALL | {ERROR, LATE}
        for ask in during:
            fits = ask.reply is None or seen_by(ask.reply) in allowed
            self.run.demand(fits, "a reply that is none of an outage", f"  {ask}")

    def _refusals(self, during: list[Asked]) -> None:
        """Once the breaker is open, everything but the probes: asks without a call."""
        unheard = [ask for ask in during if ask.reply and seen_by(ask.reply) == (503, "no_provider")]
        ends = [ask.began + ask.seconds for ask in unheard if ask.reply and not ask.reply.attempts]
        self.opened = min(ends, default=self.healed)
        later = [ask for ask in during if ask.began > self.opened and ask.reply]
        refused = [ask for ask in later if ask.reply and not ask.reply.attempts]
        # A short run shares its machine, so its slowest may take longer; the usual one may not.
        slowest, usual = p99(refused), middle(refused)
        probes = len(later) - len(refused)
        span = self.healed - self.opened
        self._note(
            opened_after_seconds=round(self.opened - during[0].began, 2),
            refusals=len(refused),
            refusals_p50_seconds=usual,
            refusals_p99_seconds=slowest,
            probes=probes,
        )
        is_quick = slowest <= self.run.within(REFUSED_WITHIN) and usual <= REFUSED_WITHIN
        self.run.demand(is_quick, "refusals that were not quick", f"  {usual} s, the slowest {slowest} s")
        most = len(self.providers) * (span / PAUSE + 1)
        self.run.demand(
            probes <= most, "more asks with a call than probes", f"  {probes} of at most {most:.0f}"
        )
        for ask in refused:
            tells = ask.reply is not None and seen_by(ask.reply) in NO_CALL and ask.reply.retry_after >= 1
            self.run.demand(tells, "a refusal without code or Retry-After", f"  {ask}")

    def _healing(self, fresh: list[Asked]) -> None:
        served = [ask for ask in fresh if ask.reply and seen_by(ask.reply) == ANSWER]
        ends = [ask.began + ask.seconds - self.healed for ask in served]
        first = min((end for end in ends if end > 0), default=float("inf"))
        self._note(first_success_seconds=round(first, 2))
        self.run.demand(first <= self.run.within(HEALED_WITHIN), "found too late", f"  {first:.1f} s")
        self.run.demand(
            min(ends, default=0) > 0, "a fresh answer during the outage: it was none", f"  {ends[:1]}"
        )
        for ask in fresh:
            well = ask.began < self.healed + WELL_AFTER or (ask.reply and seen_by(ask.reply) == ANSWER)
            self.run.demand(well, "not well five seconds after the healing", f"  {ask}")

    def _one_probe_at_a_time(self) -> None:
        """Between two calls to a provider that is down lies its pause; the first that is answered ends that."""
        for provider in self.providers:
            calls = [call for call in self.calls if call.provider == provider]
            calls = [call for call in calls if self.opened + SETTLING < call.at < self.over]
            last = next((place for place, call in enumerate(calls) if call.fault == "ok"), len(calls))
            gaps = [later.at - call.at for call, later in pairwise(calls[: last + 1])]
            self._note(**{f"{provider}_least_gap_seconds": round(min(gaps), 2) if gaps else None})
            patience = PAUSE - (1.0 if self.run.short else 0.3)
            self.run.demand(
                min(gaps, default=PAUSE) >= patience, "two probes at once", f"  {provider}: {gaps}"
            )

    def _drips(self) -> None:
        slowest = max(ask.seconds for ask in self.drips)
        self._note(drips=len(self.drips), drips_max_seconds=round(slowest, 2), deadline_seconds=self.deadline)
        most = self.deadline + self.run.within(LATENESS)
        for ask in self.drips:
            late = ask.reply is not None and seen_by(ask.reply) == LATE and ask.seconds <= most
            self.run.demand(late, "a dripping reply that did not end as 504 at its deadline", f"  {ask}")


def p99(asked: list[Asked]) -> float:
    return _percentile(asked, 99)


def middle(asked: list[Asked]) -> float:
    return _percentile(asked, 50)


def _percentile(asked: list[Asked], percent: int) -> float:
    seconds = sorted(ask.seconds for ask in asked)
    return round(seconds[len(seconds) * percent // 100], 4) if seconds else 0.0
