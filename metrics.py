"""Prometheus metrics on a registry of their own. Every label has a bounded set of values."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from prices import dollars

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from tasks import Bill

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# Callers may name models; beyond this many names the rest share one label.
MAX_MODELS = 50


class Metrics(Protocol):
    """What the house reports as it happens; what can be read from objects is read at scrape time."""

    def request(self, method: str, route: str, status: int, seconds: float) -> None: ...

    def upstream(self, provider: str, model: str, outcome: str, seconds: float) -> None: ...

    def answered(self, cache_status: str, bill: Bill) -> None: ...

    def judged(self, correct: bool) -> None: ...

    def limited(self, route: str) -> None: ...

    def shed(self) -> None: ...

    def budget_refused(self, reason: str) -> None: ...

    def soft_limit_reached(self, period: str) -> None: ...

    def expose(self) -> bytes: ...

    def read_from(self, readings: Callable[[], Iterable[Metric]]) -> None: ...


class NullMetrics:
    """Metrics that nobody reads."""

    def request(self, method: str, route: str, status: int, seconds: float) -> None: ...

    def upstream(self, provider: str, model: str, outcome: str, seconds: float) -> None: ...

    def answered(self, cache_status: str, bill: Bill) -> None: ...

    def judged(self, correct: bool) -> None: ...

    def limited(self, route: str) -> None: ...

    def shed(self) -> None: ...

    def budget_refused(self, reason: str) -> None: ...

    def soft_limit_reached(self, period: str) -> None: ...

    def expose(self) -> bytes:
        return b""

    def read_from(self, readings: Callable[[], Iterable[Metric]]) -> None: ...


def _harmless(method: Callable[..., None]) -> Callable[..., None]:
    """A metric must not break a reply: what goes wrong in it is counted instead."""

    @functools.wraps(method)
    def guarded(self: PrometheusMetrics, *facts: Any) -> None:
        try:
            method(self, *facts)
        except Exception:  # noqa: BLE001  a sink, and counted
            self._errors.inc()

    return guarded


class PrometheusMetrics:
    """The same, for Prometheus."""

    def __init__(self, version: str, mode: str, models: Iterable[str] = ()) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram, Info, disable_created_metrics

        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library left it untyped
        self._registry = CollectorRegistry()
        count = functools.partial(Counter, registry=self._registry)
        times = functools.partial(Histogram, registry=self._registry, buckets=SECONDS)
        self._requests = times("llm_request_seconds", "Requests served.", ["method", "route", "status"])
        self._upstream = times(
            "llm_upstream_seconds", "Calls to providers.", ["provider", "model", "outcome"]
        )
        self._answers = count("llm_answers_total", "Answers by cache status.", ["provider", "model", "cache"])
        self._tokens = count("llm_tokens_total", "Tokens billed.", ["provider", "model", "kind"])
        self._cost = count("llm_cost_dollars_total", "Dollars billed since start.", ["provider", "model"])
        self._saved = count(
            "llm_saved_dollars_total", "Dollars saved since start.", ["provider", "model", "cache"]
        )
        self._unpriced = count(
            "llm_unpriced_answers_total", "Answers of unknown cost.", ["provider", "model"]
        )
        self._judged = count("llm_feedback_total", "Feedback on classifications.", ["correct"])
        self._limited = count("llm_rate_limited_total", "Requests refused by a limit.", ["route"])
        self._errors = count("llm_metric_errors_total", "Metrics that could not be taken.")
        self._shed = count("llm_shed_total", "Requests refused because the platform was full.")
        self._refused = count("llm_budget_refusals_total", "Asks that a budget refused.", ["reason"])
        self._soft = count(
            "llm_budget_soft_limits_total", "Soft limits of budgets that were reached.", ["period"]
        )
        Info("llm_build", "The running version.", registry=self._registry).info(
            {"version": version, "mode": mode}
        )
        self._models = set(models)
        self._naming = threading.Lock()

    @_harmless
    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        _child(self._requests, method, route, str(status)).observe(seconds)

    @_harmless
    def upstream(self, provider: str, model: str, outcome: str, seconds: float) -> None:
        _child(self._upstream, provider, self._known(model, learn=outcome == "ok"), outcome).observe(seconds)

    @_harmless
    def answered(self, cache_status: str, bill: Bill) -> None:
        provider, model = bill.provider, self._known(bill.model, learn=cache_status != "failed")
        _child(self._answers, provider, model, cache_status).inc()
        if cache_status in ("hit", "coalesced"):
            _child(self._saved, provider, model, cache_status).inc(_dollars(max(0, bill.saved_nano or 0)))
        else:
            self._billed(provider, model, bill)

    def _billed(self, provider: str, model: str, bill: Bill) -> None:
        usage = bill.usage
        kinds = {
            "input": usage.input_tokens,
            "output": usage.output_tokens,
            "cached": usage.cached_tokens,
            "reasoning": usage.reasoning_tokens,
        }
        for kind, tokens in kinds.items():
            _child(self._tokens, provider, model, kind).inc(tokens)
        if bill.total_nano is None:
            _child(self._unpriced, provider, model).inc()
        else:
            _child(self._cost, provider, model).inc(_dollars(bill.total_nano))

    def judged(self, correct: bool) -> None:
        _child(self._judged, "true" if correct else "false").inc()

    @_harmless
    def limited(self, route: str) -> None:
        _child(self._limited, route).inc()

    def shed(self) -> None:
        self._shed.inc()

    def budget_refused(self, reason: str) -> None:
        _child(self._refused, reason).inc()

    @_harmless
    def soft_limit_reached(self, period: str) -> None:
        _child(self._soft, period).inc()

    def expose(self) -> bytes:
        from prometheus_client import generate_latest

        return generate_latest(self._registry)

    def read_from(self, readings: Callable[[], Iterable[Metric]]) -> None:
        """Gauges and counters that other objects keep, asked for at each scrape."""
        self._registry.register(_Readings(readings))

    def _known(self, model: str, learn: bool) -> str:
        """The model's name as a label. Callers may name what they like, so only models that answered are learnt."""
        if model in self._models or not model:
            return model
        with self._naming:
            if not learn or len(self._models) >= MAX_MODELS:
                return "<other>"
            self._models.add(model)
        return model


class _Readings:
    """A collector that asks for the current readings at each scrape."""

    def __init__(self, readings: Callable[[], Iterable[Metric]]) -> None:
        self._readings = readings

    def collect(self) -> Iterable[Metric]:
        return self._readings()

    def describe(self) -> Iterable[Metric]:
        return ()  # else the registry would collect once when it registers, before all objects are there


@functools.lru_cache(maxsize=1024)
def _dollars(nano: int) -> float:
    return float(dollars(nano))


@functools.lru_cache(maxsize=4096)
def _child(metric: Any, *labels: str) -> Any:
    """`metric.labels` locks and hashes on each call; a child is the same for ever."""
    return metric.labels(*labels)
