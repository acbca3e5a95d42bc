"""The fifteen named tests: the real client over the wire, against the loopback upstream.

With LIVE=1 and a real GOOGLE_API_KEY in .env the same tests run against Google.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

import gemini_wrapper
from config import Settings, load_settings
from conftest import LIVE
from cost_tracker import CostTracker, TokenCounter
from lru_cache import LRUCache, ResponseCache
from prices import PriceBook
from tasks import TEMPERATURES

CATEGORIES = ["positive", "negative", "neutral"]
BODIES = {
    "text": {"prompt": "Say hello in one short sentence."},
    "code": {"prompt": "Write a Python function that adds two numbers."},
    "classify": {"text": "I love this phone, it is great.", "categories": CATEGORIES},
}


def money(response, name: str = "Total") -> Decimal:
    return Decimal(response.headers[f"X-Cost-{name}"])


def priced_by_hand(upstream) -> int:
    """Nano-dollars that the upstream billed, by its own journal and the price list."""
    fresh, cached, output = 250, 25, 1500  # gemini-3.1-flash-lite, nano-dollars per token
    billed = [call.billed for call in upstream.journal if call.billed is not None]
    return sum(
        (tokens.prompt - tokens.cached) * fresh
        + tokens.cached * cached
        + (tokens.candidates + tokens.thoughts) * output
        for tokens in billed
    )


def test_01_env_api_key_configured(tmp_path, monkeypatch):
    """A key in .env is read and makes the platform live; without one it says sandbox; it is never shown."""
    key = "-".join(["not", "a", "real", "key"])
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"GOOGLE_API_KEY={key}\n")
    from_file = load_settings({}, dotenv)
    assert from_file.google_api_key == key
    assert from_file.mode == "live"
    assert load_settings({"GOOGLE_API_KEY": "other"}, dotenv).google_api_key == "other"
    assert load_settings({}, None).mode == "sandbox"
    assert key not in repr(from_file)
    if LIVE:
        assert load_settings().google_api_key


def test_02_flask_app_initialization(house):
    """The app has its doors, and Swagger describes the three tasks."""
    rules = {rule.rule for rule in house.app.url_map.iter_rules()}
    assert {"/api/v1/generate/text", "/api/v1/generate/code", "/api/v1/classify/text"} <= rules
    assert {"/api/v1/health", "/api/v1/stats", "/swagger/", "/metrics"} <= rules
    assert house.client.get("/swagger/").status_code == 200
    described = house.client.get("/api/v1/swagger.json").get_json()["paths"]
    assert {"/generate/text", "/generate/code", "/classify/text"} <= set(described)
    from app import app

    assert app.test_client().get("/api/v1/health/live").status_code == 200


def test_03_generate_text_endpoint(house, upstream):
    response = house.post("text", BODIES["text"])
    assert response.status_code == 200, response.text
    assert set(response.get_json()) == {"generated_text"}
    assert response.get_json()["generated_text"].strip()
    if not LIVE:
        (call,) = upstream.journal
        assert call.prompt == BODIES["text"]["prompt"]
        assert call.body["generationConfig"]["temperature"] == TEMPERATURES["text"] == 0.7


def test_04_generate_code_endpoint(house, upstream):
    response = house.post("code", BODIES["code"])
    assert response.status_code == 200, response.text
    code = response.get_json()["generated_code"]
    assert "def " in code
    assert not code.startswith("```")
    compile(code, "answer", "exec")
    if not LIVE:
        (call,) = upstream.journal
        assert "code" in call.system
        assert call.body["generationConfig"]["temperature"] == TEMPERATURES["code"] == 0.2


def test_05_classify_text_endpoint(house, upstream):
    response = house.post("classify", BODIES["classify"])
    assert response.status_code == 200, response.text
    assert response.get_json()["classification"] in CATEGORIES
    if not LIVE:
        (call,) = upstream.journal
        assert call.body["generationConfig"]["temperature"] == TEMPERATURES["classify"] == 0.0
        assert json.dumps(CATEGORIES) in json.dumps(call.body["generationConfig"])


def test_06_lru_cache_functionality():
    """Least recently used goes first; entries live as long as their TTL on the injected clock."""
    now = [0.0]
    cache = LRUCache(max_size=2, default_ttl=10, timer=lambda: now[0])
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert cache.get("b") is None
    assert cache.size() == 2
    now[0] = 10.0
    assert cache.get("a") is None
    cache.put("d", 4, ttl=0)
    assert cache.get("d") is None
    assert cache.delete("c") in (True, False)
    cache.clear()
    assert cache.size() == 0
    answers = ResponseCache()
    answers.cache_response("hello", "text", "hi", 1, 2, 0.5)
    assert answers.get_cached_response("hello", "text")["response"] == "hi"
    assert answers.get_cached_response("hello", "code") is None
    assert answers.get_stats()["hit_count"] == 1


def test_07_cost_tracking_accuracy(tmp_path, house, upstream):
    """Costs are the provider's counts at the served model's price, to the nano-dollar."""
    counter = TokenCounter()
    assert counter.count_tokens("") == 0
    assert counter.count_tokens("Hello, world!") in range(2, 8)
    assert counter.calculate_cost(1_000_000, 1_000_000) == (0.10, 0.40, 0.50)
    tracker = CostTracker(str(tmp_path / "costs.log"))
    record = tracker.track_request("/api/v1/generate/text", "127.0.0.1", "Hello", "World")
    assert record.total_cost == pytest.approx(record.input_cost + record.output_cost)
    assert tracker.get_usage_stats()["total_requests"] == 1
    response = house.post("text", BODIES["text"])
    assert money(response, "Input") + money(response, "Output") == money(response) > 0
    if not LIVE:
        assert money(response) * 10**9 == priced_by_hand(upstream)


def test_08_api_response_headers(house):
    response = house.post("text", BODIES["text"], X_Request_ID="my-own.id_1")
    assert response.headers["X-Request-ID"] == "my-own.id_1"
    for name in ("Input", "Output", "Total", "Overall", "Saved"):
        assert len(response.headers[f"X-Cost-{name}"].split(".")[1]) == 9
    assert int(response.headers["X-Tokens-Input"]) > 0
    assert int(response.headers["X-Tokens-Output"]) > 0
    assert response.headers["X-Cached"] == "false"
    assert response.headers["X-Cache-Status"] == "miss"
    assert response.headers["X-Provider"] == "gemini"
    assert response.headers["X-Model"].startswith("gemini-")
    assert response.headers["RateLimit-Limit"] == "100000"
    assert "Retry-After" not in response.headers
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"


def test_09_health_and_stats_endpoints(house, upstream):
    health = house.client.get("/api/v1/health")
    assert health.status_code == 200
    assert health.get_json()["status"] == "healthy"
    assert health.get_json()["mode"] == "live"
    assert isinstance(health.get_json()["timestamp"], float)
    assert house.client.get("/api/v1/health/ready").status_code == 200
    stats = house.client.get("/api/v1/stats").get_json()
    assert set(stats) == {"cache_stats", "usage_stats", "rate_limit_stats"}
    assert {"size", "max_size", "hit_ratio", "hit_count", "miss_count", "total_requests"} <= set(
        stats["cache_stats"]
    )
    assert {"period_hours", "total_requests", "total_cost", "endpoints"} <= set(stats["usage_stats"])
    if not LIVE:
        assert upstream.journal == []  # health never bills


@pytest.mark.parametrize(
    ("path", "body", "kind", "status", "field"),
    [
        ("/api/v1/generate/text", b"null", "application/json", 400, None),
        ("/api/v1/generate/text", b"[]", "application/json", 400, None),
        ("/api/v1/generate/text", b'"x"', "application/json", 400, None),
        ("/api/v1/generate/text", b'{"prompt": 5}', "application/json", 400, "prompt"),
        ("/api/v1/generate/code", b'{"prompt": ""}', "application/json", 400, "prompt"),
        ("/api/v1/generate/code", b"{}", "application/json", 400, "prompt"),
        ("/api/v1/generate/text", b'{"prompt": "x", "max_tokens": NaN}', "application/json", 400, None),
        ("/api/v1/generate/text", b'{"prompt": "\\ud800"}', "application/json", 400, "prompt"),
        ("/api/v1/generate/text", b"[" * 100_000, "application/json", 400, None),
        ("/api/v1/classify/text", b'{"text": "x"}', "application/json", 400, "categories"),
        (
            "/api/v1/classify/text",
            b'{"text": "x", "categories": ["a", "a"]}',
            "application/json",
            400,
            "categories",
        ),
        (
            "/api/v1/classify/text",
            b'{"text": "x", "categories": "abc"}',
            "application/json",
            400,
            "categories",
        ),
        ("/api/v1/generate/text", b"x" * 1_100_000, "application/json", 413, None),
        ("/api/v1/generate/text", b"prompt=x", "application/x-www-form-urlencoded", 415, None),
        ("/api/v1/nowhere", b"{}", "application/json", 404, None),
    ],
)
def test_10_error_handling_robustness(house, upstream, path, body, kind, status, field):
    """Whatever is sent, the reply is ours, names the field, and costs nothing."""
    response = house.client.post(path, data=body, content_type=kind)
    assert response.status_code == status
    reply = response.get_json()
    assert reply["error"].endswith(".")
    assert reply["code"]
    assert reply["request_id"] == response.headers["X-Request-ID"]
    assert reply.get("field") == field
    assert upstream.journal == []


def test_11_cache_hit_miss_behavior(house, upstream):
    first = house.post("text", BODIES["text"])
    second = house.post("text", BODIES["text"])
    assert (first.headers["X-Cache-Status"], second.headers["X-Cache-Status"]) == ("miss", "hit")
    assert (first.headers["X-Cached"], second.headers["X-Cached"]) == ("false", "true")
    assert first.get_json() == second.get_json()
    assert money(second) == money(second, "Input") == money(second, "Output") == 0
    assert money(second, "Saved") == money(first)
    assert house.post("text", BODIES["text"], Cache_Control="no-cache").headers["X-Cache-Status"] == "bypass"
    assert house.post("code", BODIES["text"]).headers["X-Cache-Status"] == "miss"
    if not LIVE:
        assert len(upstream.journal) == 3


def test_12_log_files_creation(house):
    assert not Path(house.settings.log_dir).exists()
    house.post("text", BODIES["text"], User_Agent="sqlmap/1.7")
    house.post("text", {"prompt": 5})
    for name in ("api_requests", "api_errors", "security_audit", "performance", "cost_tracking"):
        lines = house.lines(f"{name}.log")
        assert lines, name
        assert all(isinstance(json.loads(line), dict) for line in lines)
        assert BODIES["text"]["prompt"] not in "".join(lines)
    events = Counter(json.loads(line)["event"] for line in house.lines("api_requests.log"))
    assert events["REQUEST_START"] == events["REQUEST_END"] == 2
    assert len(house.lines("cost_tracking.log")) == 1


def test_13_direct_wrapper_functions(monkeypatch, upstream):
    """The three functions work without Flask."""
    if not LIVE:
        monkeypatch.setenv("GOOGLE_API_KEY", "any-key")
        monkeypatch.setenv("GEMINI_BASE_URL", upstream.url)
    gemini_wrapper._speaker.cache_clear()
    assert gemini_wrapper.generate_text("Say hello.").strip()
    assert "def " in gemini_wrapper.generate_code("Write a Python function that adds two numbers.")
    assert gemini_wrapper.classify_text("I love it.", CATEGORIES) in CATEGORIES
    gemini_wrapper._speaker.cache_clear()
    if not LIVE:
        assert len(upstream.journal) == 3


def test_14_overall_cost_tracking(house, upstream):
    """X-Cost-Overall is the sum of every X-Cost-Total before it, and of the upstream's journal."""
    replies = [house.post(task, body) for task, body in BODIES.items() for _ in range(2)]
    spent = Decimal(0)
    for reply in replies:
        spent += money(reply)
        assert money(reply, "Overall") == spent
    stats = house.client.get("/api/v1/stats").get_json()["usage_stats"]
    assert stats["total_cost_nanodollars"] == spent * 10**9
    assert stats["total_requests"] == 6
    assert stats["cached_requests"] == 3
    if not LIVE:
        assert spent * 10**9 == priced_by_hand(upstream)


def test_15_concurrent_request_handling(house, upstream):
    """Ten different asks at once all answer, each with its own text and its own id."""
    upstream.latency = 0.2
    replies = {}

    def ask(number: int) -> None:
        client = house.app.test_client()
        body = {"prompt": f"Name the number {number}."}
        replies[number] = client.post("/api/v1/generate/text", json=body)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [reply.status_code for reply in replies.values()] == [200] * 10
    assert len({reply.headers["X-Request-ID"] for reply in replies.values()}) == 10
    if not LIVE:
        assert len({reply.get_json()["generated_text"] for reply in replies.values()}) == 10
        assert upstream.max_in_flight > 1


def test_the_default_model_has_a_price():
    """The prices that these tests use by hand are those of the price book."""
    from datetime import UTC, datetime

    from tasks import Usage

    cost = PriceBook().cost(
        "gemini", Settings().gemini_model, Usage(1, 1), datetime(2026, 11, 22, tzinfo=UTC)
    )
    assert (cost.input_nano, cost.output_nano) == (250, 1500)
