"""What objects count anyway, read when Prometheus asks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from providers.breaker import CLOSED, HALF_OPEN, OPEN
from providers.chain import Chain

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from services import Services


def readings(services: Services) -> Iterable[Metric]:
    """What other objects count anyway, read when Prometheus asks."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    cache, limits = services.cache.get_stats(), services.limits.get_stats()
    counters = {
        "llm_cache_hits": ("Answers found in the cache.", cache["hit_count"]),
        "llm_cache_misses": ("Looks into the cache that found nothing.", cache["miss_count"]),
        "llm_cache_evictions": ("Answers that made room for others.", cache["evictions"]),
        "llm_ledger_rows": ("Rows opened, closed or both at once.", services.ledger.rows),
        "llm_ledger_commits": ("Commits that they took.", services.ledger.commits),
        "llm_ledger_keeper_errors": (
            "Rounds of the ledger's care that a bug ended.",
            services.ledger.keeper_errors,
        ),
        "llm_ledger_given_up": ("Open rows of dead processes that became unknown.", services.ledger.given_up),
        "llm_budget_events_dropped": (
            "Events that found no place in the webhook's queue.",
            services.events.dropped,
        ),
        "llm_budget_events_failed": ("Events that the webhook did not take.", services.events.failed),
        "llm_replays": ("Replies given again for an Idempotency-Key.", services.replays.repeated),
        "llm_audit_lines_left_out": (
            "Audit lines beyond those that one address may cause in a minute.",
            services.logger.audit_lines_left_out,
        ),
        "llm_log_lines_dropped": ("Log lines lost because the queue was full.", services.writer.dropped),
        "llm_log_write_errors": ("Failed writes to log files.", services.writer.errors),
    }
    gauges = {
        "llm_cache_entries": ("Answers in the cache.", cache["size"]),
        "llm_cache_bytes": ("Bytes that they take.", cache["bytes"]),
        "llm_asks_in_air": ("Asks that lead, follow or wait for a provider call.", services.gate.in_air),
        "llm_flights_in_air": ("Provider calls that others may join.", services.flights.in_air()),
        "llm_streams_in_air": ("Answers being made for streams, read or not.", services.roads.under_way()),
        "llm_budget_waiting": (
            "Asks that wait for what calls in flight hold of their budgets.",
            services.ledger.waiting,
        ),
        "llm_ledger_degraded": ("1 while rows go to the spool or nowhere.", services.ledger.state != "ok"),
        "llm_replays_owed": (
            "Replies that could not be kept for their Idempotency-Keys yet.",
            services.replays.owed,
        ),
        "llm_limiter_keys": ("Callers that the limiter counts.", limits["size"]),
        "llm_server_queue": ("Requests that wait for a thread.", services.load.queue_length()),
    }
    for name, (text, value) in counters.items():
        yield CounterMetricFamily(name, text, value=value)
    for name, (text, value) in gauges.items():
        yield GaugeMetricFamily(name, text, value=value)
    yield from _of_chain(services.chain)


def _of_chain(chain: Chain) -> Iterable[Metric]:
    """The same for each provider."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    breaker = GaugeMetricFamily(
        "llm_breaker_state", "Circuit breakers: 0 closed, 1 half-open, 2 open.", labels=["provider"]
    )
    retries = CounterMetricFamily("llm_retries", "Retries paid for.", labels=["provider"])
    failovers = CounterMetricFamily(
        "llm_failovers", "Asks that went on to the next provider.", labels=["provider"]
    )
    for link in chain.links:
        breaker.add_metric([link.name], (CLOSED, HALF_OPEN, OPEN).index(link.guard.breaker.state))
        retries.add_metric([link.name], link.guard.budget.retries)
        failovers.add_metric([link.name], link.failovers)
    return breaker, retries, failovers
