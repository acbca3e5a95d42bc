"""What Prometheus reads: right figures, bounded labels, and a registry of one's own."""

# Above 300 lines, because every family is proven here, against one reader of a scrape.

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lru_cache import RateLimitCache
from metrics import MAX_MODELS, NullMetrics, PrometheusMetrics
from services import build_services
from tasks import Bill, Usage
from tests.readers import LONG, wait_until
from tests.test_services import Fake

TEXT = "/api/v1/generate/text"
MODEL = "gemini-3.1-flash-lite"
FAMILIES = {
    "llm_request_seconds": "histogram",
    "llm_upstream_seconds": "histogram",
    "llm_answers": "counter",
    "llm_tokens": "counter",
    "llm_cost_dollars": "counter",
    "llm_saved_dollars": "counter",
    "llm_unpriced_answers": "counter",
    "llm_feedback": "counter",
    "llm_rate_limited": "counter",
    "llm_shed": "counter",
    "llm_metric_errors": "counter",
    "llm_cache_hits": "counter",
    "llm_cache_misses": "counter",
    "llm_cache_evictions": "counter",
    "llm_cache_entries": "gauge",
    "llm_cache_bytes": "gauge",
    "llm_breaker_state": "gauge",
    "llm_retries": "counter",
    "llm_failovers": "counter",
    "llm_ledger_rows": "counter",
    "llm_ledger_commits": "counter",
    "llm_ledger_given_up": "counter",
    "llm_ledger_keeper_errors": "counter",
    "llm_ledger_degraded": "gauge",
    "llm_replays": "counter",
    "llm_replays_owed": "gauge",
    "llm_log_lines_dropped": "counter",
    "llm_log_write_errors": "counter",
    "llm_budget_refusals": "counter",
    "llm_budget_soft_limits": "counter",
    "llm_budget_events_dropped": "counter",
    "llm_budget_events_failed": "counter",
    "llm_audit_lines_left_out": "counter",
    "llm_budget_waiting": "gauge",
    "llm_asks_in_air": "gauge",
    "llm_flights_in_air": "gauge",
    "llm_streams_in_air": "gauge",
    "llm_limiter_keys": "gauge",
    "llm_server_queue": "gauge",
    "llm_build_info": "gauge",
}


def families(text: str) -> dict:
    return {family.name: family for family in text_string_to_metric_families(text)}


def scraped(house) -> Callable[..., float]:
    """Reads one scrape: the sum of a sample over all series that carry the given labels."""
    samples = [
        sample for family in families(house.client.get("/metrics").text).values() for sample in family.samples
    ]

    def value(name: str, **labels: str) -> float:
        return sum(
            sample.value
            for sample in samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    return value


def post(house, prompt: str = "Say hello.", **fields):
    return house.client.post(TEXT, json={"prompt": prompt, **fields})


def test_every_family_is_there_with_its_type_and_its_words(house):
    found = families(house.client.get("/metrics").text)
    assert {name: found[name].type for name in FAMILIES if name in found} == FAMILIES
    assert set(found) == set(FAMILIES), "a new metric: add it here"
    assert all(family.documentation.endswith(".") for family in found.values())


def test_requests_are_counted_and_timed_by_route_method_and_status(house):
    post(house), post(house), post(house, "")
    house.client.get(TEXT)
    house.client.get("/nowhere")
    value = scraped(house)
    assert value("llm_request_seconds_count", route=TEXT, method="POST", status="200") == 2
    assert value("llm_request_seconds_count", route=TEXT, status="400") == 1
    assert value("llm_request_seconds_count", route="<unmatched>") == 2
    assert value("llm_request_seconds_count", status="405") == 1
    assert value("llm_request_seconds_bucket", route=TEXT, status="200", le="+Inf") == 2
    assert 0 < value("llm_request_seconds_sum", route=TEXT) < 10
    assert scraped(house)("llm_request_seconds_count", route="/metrics") == 1


def test_upstream_calls_are_counted_one_by_one_and_timed(make_house, upstream):
    house = make_house()
    upstream.latency = 0.05
    upstream.script("unavailable", "ok", "forbidden")
    upstream.script()
    post(house, "retried")
    post(house, "refused")
    value = scraped(house)
    calls = {"provider": "gemini", "model": MODEL}
    assert value("llm_upstream_seconds_count", **calls) == len(upstream.journal) == 3
    assert value("llm_upstream_seconds_count", outcome="ok", **calls) == 1
    assert value("llm_upstream_seconds_count", outcome="upstream_error", **calls) == 2
    assert 0.15 <= value("llm_upstream_seconds_sum", **calls) < 5


def test_tokens_and_dollars_are_those_of_the_replies(house, upstream):
    replies = [post(house, f"number {number % 3}") for number in range(6)]
    total = {name: sum(Decimal(r.headers[f"X-Cost-{name}"]) for r in replies) for name in ("Total", "Saved")}
    value = scraped(house)
    assert value("llm_cost_dollars_total", provider="gemini", model=MODEL) == pytest.approx(
        float(total["Total"])
    )
    assert value("llm_saved_dollars_total", cache="hit") == pytest.approx(float(total["Saved"]))
    billed = [call.billed for call in upstream.journal]
    assert len(billed) == 3
    assert value("llm_tokens_total", kind="input") == sum(tokens.prompt for tokens in billed)
    assert value("llm_tokens_total", kind="cached") == sum(tokens.cached for tokens in billed)
    assert value("llm_tokens_total", kind="reasoning") == sum(tokens.thoughts for tokens in billed)
    assert value("llm_tokens_total", kind="output") == sum(t.candidates + t.thoughts for t in billed)


def test_hits_misses_bypasses_and_failures_are_told_apart(house, upstream):
    post(house), post(house)
    house.post("text", {"prompt": "Say hello."}, Cache_Control="no-cache")
    upstream.script("blocked_prompt")
    post(house, "refused")
    value = scraped(house)
    answers = {
        status: value("llm_answers_total", cache=status) for status in ("hit", "miss", "bypass", "failed")
    }
    assert answers == {"hit": 1, "miss": 1, "bypass": 1, "failed": 1}
    assert value("llm_answers_total") == 4
    assert (value("llm_cache_hits_total"), value("llm_cache_misses_total")) == (1, 2)


def test_coalesced_asks_are_counted_and_the_air_is_shown_while_they_wait(house, upstream):
    upstream.held = True
    threads = [
        threading.Thread(target=lambda: house.app.test_client().post(TEXT, json={"prompt": "same"}))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    try:
        assert wait_until(lambda: house.services.flights.waiting() == 4)
        during = scraped(house)
    finally:
        upstream.held = False
        for thread in threads:
            thread.join(LONG)
    after = scraped(house)
    assert (during("llm_asks_in_air"), during("llm_flights_in_air")) == (5, 1)
    assert (after("llm_asks_in_air"), after("llm_flights_in_air")) == (0, 0)
    assert after("llm_answers_total", cache="coalesced") == 4
    assert after("llm_answers_total", cache="miss") == 1
    assert after("llm_saved_dollars_total", cache="coalesced") == pytest.approx(
        4 * after("llm_cost_dollars_total")
    )


def test_the_size_of_the_cache_and_its_evictions_are_shown(make_house):
    house = make_house(google_api_key="", gemini_base_url="", cache_max_size=3)
    for number in range(5):
        post(house, f"number {number}")
    value = scraped(house)
    assert (value("llm_cache_entries"), value("llm_cache_evictions_total")) == (3, 2)
    assert value("llm_cache_bytes") == house.services.cache.get_stats()["bytes"] > 0


def test_refusals_by_limits_are_counted_by_route(make_house):
    house = make_house(google_api_key="", gemini_base_url="", rate_limit="1 per minute")
    for _ in range(4):
        post(house)
    value = scraped(house)
    assert value("llm_rate_limited_total", route=TEXT) == value("llm_rate_limited_total") == 3
    assert value("llm_limiter_keys") == house.services.limits.size() >= 1


def test_a_providers_own_429_is_no_refusal_by_our_limits(make_house, upstream):
    house = make_house(llm_max_attempts=1)
    upstream.script("rate_limited")
    assert post(house).status_code == 429
    assert scraped(house)("llm_rate_limited_total") == 0


def test_an_answer_without_a_price_is_counted_and_costs_nothing_known(make_house, settings):
    house = make_house(build_services(settings, provider=Fake()))
    assert post(house).headers["X-Cost-Known"] == "false"
    value = scraped(house)
    assert value("llm_unpriced_answers_total", model="fake-1") == 1
    assert value("llm_cost_dollars_total") == 0


def test_shed_requests_the_queue_and_lost_log_lines_are_shown(make_house):
    house = make_house(google_api_key="", gemini_base_url="")
    house.services.load.queue_length = lambda: 10_000
    assert post(house).status_code == 503
    value = scraped(house)
    assert (value("llm_shed_total"), value("llm_server_queue")) == (1, 10_000)
    assert value("llm_log_lines_dropped_total") == house.services.writer.dropped == 0
    assert value("llm_log_write_errors_total") == 0


def test_failed_writes_of_logs_are_counted(make_house, tmp_path):
    (tmp_path / "file").write_text("in the way")
    house = make_house(google_api_key="", gemini_base_url="", log_dir=str(tmp_path / "file" / "logs"))
    post(house)
    house.services.writer.flush(5)
    assert scraped(house)("llm_log_write_errors_total") >= 1


def test_the_build_says_version_and_mode(house, make_house):
    from config import VERSION

    assert scraped(house)("llm_build_info", version=VERSION, mode="live") == 1
    sandbox = make_house(google_api_key="", gemini_base_url="")
    assert scraped(sandbox)("llm_build_info", mode="sandbox") == 1


# Bounds.


def series(house) -> int:
    return sum(len(family.samples) for family in families(house.client.get("/metrics").text).values())


def test_1000_unknown_paths_methods_and_hosts_make_no_series_of_their_own(make_house):
    house = make_house(google_api_key="", gemini_base_url="")
    house.client.get("/nowhere"), house.client.open("/", method="BREW"), house.client.get("/metrics")
    house.client.get("/", headers={"Host": "evil.example"})
    before = series(house)
    for number in range(1000):
        house.client.get(f"/nowhere/{number}?x={number}")
    for number in range(50):
        house.client.open("/", method=f"BREW{number}")
        house.client.get("/", headers={"Host": f"host{number}.example"})
    assert series(house) == before
    assert scraped(house)("llm_request_seconds_count", route="<unmatched>", status="404") == 1001
    assert scraped(house)("llm_request_seconds_count", method="OTHER") == 51


def test_1000_model_names_share_a_bounded_set_of_labels(make_house, settings):
    house = make_house(build_services(replace(settings, cache_max_size=1), provider=Fake()))
    for number in range(1000):
        assert post(house, model=f"gemini/model-{number}").status_code == 200
    found = families(house.client.get("/metrics").text)
    for name in ("llm_answers", "llm_upstream_seconds", "llm_tokens", "llm_unpriced_answers"):
        models = {sample.labels["model"] for sample in found[name].samples}
        assert len(models) <= MAX_MODELS + 1, name
        assert "<other>" in models
    assert scraped(house)("llm_answers_total") == 1000


def test_the_caller_decides_no_label(make_house):
    house = make_house(google_api_key="", gemini_base_url="")
    post(house, "a-word-of-the-caller")
    post(house, "x", model="a-word-of-the-caller")
    house.client.get("/a-word-of-the-caller", headers={"User-Agent": "a-word-of-the-caller"})
    assert "a-word-of-the-caller" not in house.client.get("/metrics").text


# Registries.


def test_two_apps_in_one_process_count_apart(make_house):
    one, two = (make_house(google_api_key="", gemini_base_url="") for _ in range(2))
    post(one), post(one), post(two)
    count = {"route": TEXT, "status": "200"}
    assert scraped(one)("llm_request_seconds_count", **count) == 2
    assert scraped(two)("llm_request_seconds_count", **count) == 1
    assert scraped(two)("llm_answers_total", cache="hit") == 0


def test_nothing_goes_to_the_registry_that_libraries_share():
    from prometheus_client import REGISTRY

    PrometheusMetrics("1", "live").shed()
    assert not [family.name for family in REGISTRY.collect() if family.name.startswith("llm_")]


def test_a_negative_saving_is_none():
    """Prices may have fallen since: a counter must not be asked to go down."""
    metrics = PrometheusMetrics("1", "live")
    metrics.answered("hit", Bill(Usage(1, 1), "m", "gemini", saved_nano=-5))
    metrics.answered("coalesced", Bill(Usage(1, 1), "m", "gemini", saved_nano=None))
    found = families(metrics.expose().decode())
    assert {sample.value for sample in found["llm_saved_dollars"].samples} == {0.0}


def test_readings_are_taken_at_each_scrape_and_not_before():
    from prometheus_client.core import GaugeMetricFamily

    taken: list[int] = []
    metrics = PrometheusMetrics("1", "live")

    def readings():
        taken.append(1)
        yield GaugeMetricFamily("llm_a_reading", "How often this was read.", value=len(taken))

    metrics.read_from(readings)
    assert taken == []
    for number in (1.0, 2.0):
        assert families(metrics.expose().decode())["llm_a_reading"].samples[0].value == number


def test_null_metrics_take_everything_and_show_nothing(make_house, settings):
    services = replace(
        build_services(settings, provider=Fake()), metrics=NullMetrics(), limits=RateLimitCache(10)
    )
    house = make_house(services)
    assert post(house).status_code == 200
    services.metrics.upstream("p", "m", "ok", 0.1)
    services.metrics.answered("hit", Bill())
    services.metrics.limited(TEXT)
    services.metrics.shed()
    services.metrics.read_from(lambda: ())
    assert house.client.get("/metrics").data == b""
