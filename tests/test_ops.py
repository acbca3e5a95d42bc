"""The doors of operators: index, health, metrics and Swagger."""

from __future__ import annotations

import re
import time

import pytest

from services import FAILING

PROMPT = {"prompt": "Say hello."}


@pytest.fixture
def sandbox(make_house):
    return make_house(google_api_key="", gemini_base_url="")


def test_the_index_leads_everywhere(sandbox):
    doors = sandbox.client.get("/").get_json()
    assert doors["mode"] == "sandbox"
    for path in (doors["documentation"], doors["health"], doors["metrics"]):
        assert sandbox.client.get(path).status_code == 200
    for path in doors["tasks"]:
        assert sandbox.client.post(path, json={}).status_code == 400


def test_health_says_what_the_design_promises(sandbox):
    response = sandbox.client.get("/api/v1/health")
    health = response.get_json()
    assert response.status_code == 200
    assert set(health) == {"status", "timestamp", "version", "mode", "checks"}
    assert (health["status"], health["mode"]) == ("healthy", "sandbox")
    assert abs(health["timestamp"] - time.time()) < 60
    assert health["checks"] == {"provider": "ok", "provider.sandbox": "ok", "ledger": "ok", "logs": "ok"}


def test_health_of_a_live_platform_says_live_and_calls_no_provider(house, upstream):
    for path in ("/api/v1/health", "/api/v1/health/live", "/api/v1/health/ready"):
        assert house.client.get(path).status_code == 200
    assert house.client.get("/api/v1/health").get_json()["mode"] == "live"
    assert upstream.journal == []
    assert upstream.connections == 0


def test_health_shows_neither_key_nor_address_nor_path(make_house, upstream):
    house = make_house(google_api_key="a-key-for-this-test")
    for path in ("/api/v1/health", "/api/v1/health/ready", "/api/v1/stats", "/metrics", "/"):
        text = house.client.get(path).text
        assert "a-key-for-this-test" not in text
        assert upstream.url not in text
        assert house.settings.log_dir not in text


@pytest.mark.parametrize("mode", ["redacted", "full"])
def test_health_admits_that_prompts_are_logged(make_house, mode):
    house = make_house(google_api_key="", gemini_base_url="", prompt_log=mode)
    assert house.client.get("/api/v1/health").get_json()["prompt_log"] == mode


def test_a_provider_that_keeps_failing_degrades_health_and_one_answer_heals_it(make_house, upstream):
    house = make_house(llm_max_attempts=1)
    upstream.script(*["forbidden"] * FAILING)
    for number in range(FAILING):
        assert house.client.get("/api/v1/health").get_json()["status"] == "healthy"
        assert house.post("text", {"prompt": f"number {number}"}).status_code == 502
    response = house.client.get("/api/v1/health")
    assert response.status_code == 200
    assert response.get_json()["status"] == "degraded"
    assert response.get_json()["checks"]["provider"] == "degraded"
    assert house.post("text", PROMPT).status_code == 200
    assert house.client.get("/api/v1/health").get_json()["status"] == "healthy"


def test_refused_content_is_no_failing_provider(make_house, upstream):
    house = make_house(llm_max_attempts=1)
    upstream.script(*["blocked_prompt"] * (FAILING + 1))
    for number in range(FAILING + 1):
        assert house.post("text", {"prompt": f"number {number}"}).status_code == 422
    assert house.client.get("/api/v1/health").get_json()["status"] == "healthy"


def test_ready_turns_503_while_the_process_drains_and_live_does_not(sandbox):
    ready = sandbox.client.get("/api/v1/health/ready")
    assert (ready.status_code, ready.get_json()["ready"]) == (200, True)
    assert set(ready.get_json()["checks"]) == {"provider", "provider.sandbox", "ledger", "logs", "server"}
    assert set(ready.get_json()["checks"].values()) == {"ok"}
    sandbox.services.load.draining = True
    ready = sandbox.client.get("/api/v1/health/ready")
    assert (ready.status_code, ready.get_json()["ready"]) == (503, False)
    assert ready.get_json()["checks"]["server"] == "draining"
    assert sandbox.client.get("/api/v1/health/live").status_code == 200


def test_metrics_are_prometheus_text(sandbox):
    response = sandbox.client.get("/metrics")
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "# TYPE llm_request_seconds histogram" in response.text


@pytest.mark.parametrize("path", ["/swagger", "/swagger/"])
def test_swagger_renders_at_both_addresses(sandbox, path):
    response = sandbox.client.get(path)
    assert response.status_code == 200
    assert response.mimetype == "text/html"
    assert "SwaggerUIBundle({" in response.text
    assert 'url: "/api/v1/swagger.json"' in response.text


def test_swagger_needs_no_other_host(sandbox):
    """Its page names no address elsewhere, and each asset of it comes from us and is there."""
    page = sandbox.client.get("/swagger/").text
    elsewhere = set(re.findall(r"(?:https?:)?//[^\s\"'<>]+", page)) - {
        "http://www.w3.org/2000/svg",  # names of XML, which nobody fetches
        "http://www.w3.org/1999/xlink",
    }
    assert elsewhere == set()
    assets = re.findall(r"(?:src|href)=\"([^\"#]+)\"", page)
    assert len(assets) >= 5
    for asset in [*assets, "/api/v1/swagger.json"]:
        with sandbox.client.get(asset) as response:
            assert response.status_code == 200, asset
            assert len(response.data) > 100


def test_swaggers_style_sheets_fetch_nothing_from_elsewhere(sandbox):
    page = sandbox.client.get("/swagger/").text
    for sheet in re.findall(r"href=\"([^\"]+\.css)\"", page):
        with sandbox.client.get(sheet) as response:
            assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", response.text), sheet


def test_swaggers_policy_allows_what_its_page_holds_and_nothing_from_elsewhere(sandbox):
    policy = sandbox.client.get("/swagger/").headers["Content-Security-Policy"]
    rules = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert set(rules["script-src"].split()) == {"'self'", "'unsafe-inline'"}
    assert rules["connect-src"] == rules["font-src"] == "'self'"
    assert rules["frame-ancestors"] == "'none'"
    assert not re.search(r"https?:|\*", policy)
