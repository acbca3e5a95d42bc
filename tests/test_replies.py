"""Errors have one shape wherever they arise, and an answer's bill stands in its headers."""

from __future__ import annotations

from decimal import Decimal

import pytest

from api.replies import EXPOSED_HEADERS, bill_headers
from tasks import Bill, Usage
from tests.servers.ports import free_port
from tests.test_schemas import assert_refused
from tests.upstream import CANARY, Fault

TEXT = "/api/v1/generate/text"
PROMPT = {"prompt": "Say hello."}


@pytest.fixture
def sandbox(make_house):
    return make_house(google_api_key="", gemini_base_url="")


@pytest.mark.parametrize(
    "path", ["/nowhere", "/api", "/api/v1/nowhere", "/api/v3/chat", "/swagger/x", "/metrics/"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_what_is_not_there_is_404_in_one_shape(sandbox, path, method):
    reply = assert_refused(sandbox.client.open(path, method=method, json={"prompt": "x"}), 404, "not_found")
    assert "/swagger/" in reply["error"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", TEXT, {"POST", "OPTIONS"}),
        ("PUT", "/api/v1/generate/code", {"POST", "OPTIONS"}),
        ("DELETE", "/api/v1/classify/text", {"POST", "OPTIONS"}),
        ("POST", "/api/v1/stats", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/api/v1/health", {"GET", "HEAD", "OPTIONS"}),
        ("PATCH", "/metrics", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/swagger/", {"GET", "HEAD", "OPTIONS"}),
        ("TRACE", "/", {"GET", "HEAD", "OPTIONS"}),
        ("BREW", TEXT, {"POST", "OPTIONS"}),
    ],
)
def test_a_method_that_an_address_lacks_is_405_and_allow_says_which_it_takes(sandbox, method, path, allowed):
    response = sandbox.client.open(path, method=method)
    reply = assert_refused(response, 405, "method_not_allowed")
    assert "Allow" in reply["error"]
    assert {name.strip() for name in response.headers["Allow"].split(",")} == allowed


def test_a_refused_head_has_the_headers_and_no_body(sandbox):
    response = sandbox.client.head(TEXT)
    assert (response.status_code, response.data) == (405, b"")
    assert response.headers["X-Request-ID"]
    assert response.headers["Allow"]
    assert sandbox.client.head("/nowhere").status_code == 404


@pytest.mark.parametrize("path", ["/api/v1/health", "/api/v1/stats", "/metrics", "/swagger/", "/"])
def test_head_is_get_without_its_body(sandbox, path):
    head, get = sandbox.client.head(path), sandbox.client.get(path)
    assert (head.status_code, head.data) == (200, b"")
    assert head.headers["Content-Type"] == get.headers["Content-Type"]


def test_options_lists_the_methods_and_is_never_charged_to_a_limit(make_house):
    house = make_house(
        google_api_key="", gemini_base_url="", rate_limit="1 per minute", rate_limit_reads="1 per minute"
    )
    for _ in range(3):
        response = house.client.options(TEXT)
        assert response.status_code == 200
        assert "POST" in response.headers["Allow"]
        assert "RateLimit-Limit" not in response.headers
    assert house.post("text", PROMPT).status_code == 200


def test_too_many_requests_is_429_in_the_same_shape(make_house):
    house = make_house(google_api_key="", gemini_base_url="", rate_limit="1 per minute")
    assert house.post("text", PROMPT).status_code == 200
    response = house.post("text", PROMPT)
    reply = assert_refused(response, 429, "rate_limited")
    assert "Retry-After" in reply["error"]
    assert 1 <= int(response.headers["Retry-After"]) <= 60


def test_every_reply_that_is_json_or_text_says_its_charset(sandbox):
    for path in (
        "/",
        "/api/v1/health",
        "/api/v1/stats",
        "/api/v1/swagger.json",
        "/metrics",
        "/swagger/",
        "/nowhere",
    ):
        assert "charset=utf-8" in sandbox.client.get(path).headers["Content-Type"], path


FAILURES = [
    ("unavailable", 502, "upstream_error"),
    ("internal", 502, "upstream_error"),
    ("rate_limited", 429, "upstream_rate_limited"),
    ("quota_per_day", 503, "upstream_quota_exhausted"),
    ("reset_before", 502, "upstream_error"),
    ("bad_request", 502, "upstream_error"),
    ("bad_key", 502, "upstream_error"),
    ("forbidden", 502, "upstream_error"),
    ("garbage", 502, "upstream_invalid_response"),
    ("html", 502, "upstream_invalid_response"),
    ("blocked_prompt", 422, "content_blocked"),
    ("recitation", 422, "content_blocked"),
]


@pytest.mark.parametrize(("fault", "status", "code"), FAILURES, ids=[fault for fault, *_ in FAILURES])
def test_what_the_provider_said_in_failing_never_reaches_the_caller(
    make_house, upstream, fault, status, code
):
    house = make_house(llm_max_attempts=1)
    upstream.script(fault)
    response = house.post("text", PROMPT)
    reply = response.get_json()
    assert (response.status_code, reply["code"]) == (status, code), response.text
    assert reply["error"].endswith(".")
    assert reply["request_id"] == response.headers["X-Request-ID"]
    seen = response.text + str(response.headers)
    for leak in (
        CANARY,
        upstream.url,
        str(upstream.port),
        "Traceback",
        "Error:",
        "google",
        "langchain",
        "httpx",
    ):
        assert leak not in seen
    assert ("Retry-After" in response.headers) == (status in (429, 503))


def test_a_provider_that_cannot_be_reached_is_503_with_a_time_to_wait(make_house):
    port = free_port()
    house = make_house(llm_max_attempts=1, gemini_base_url=f"http://127.0.0.1:{port}")
    response = house.post("text", PROMPT)
    assert (response.status_code, response.get_json()["code"]) == (503, "no_provider")
    assert int(response.headers["Retry-After"]) >= 1
    assert str(port) not in response.text


@pytest.mark.parametrize(
    ("delay", "told"), [("7s", "7"), ("0.2s", "1"), ("46.1s", "47")], ids=["whole", "below one", "rounded up"]
)
def test_the_wait_that_the_provider_asks_for_is_passed_on_in_whole_seconds(make_house, upstream, delay, told):
    house = make_house(llm_max_attempts=1, llm_timeout_seconds=5.0)
    upstream.script(Fault("rate_limited", delay=delay))
    response = house.post("text", PROMPT)
    assert response.status_code in (429, 503)
    assert response.headers["Retry-After"] == told


def test_a_failure_that_cost_money_says_how_much(make_house, upstream):
    """A billed reply with no text in it is an error, and its bill stands in the headers all the same."""
    house = make_house(llm_max_attempts=1)
    upstream.script("empty")
    response = house.post("text", PROMPT)
    assert response.status_code == 502
    assert Decimal(response.headers["X-Cost-Total"]) > 0
    assert response.headers["X-Cost-Overall"] == response.headers["X-Cost-Total"]


def test_a_bill_is_written_in_dollars_of_nine_decimals():
    usage = Usage(1234, 56, cached_tokens=1000, reasoning_tokens=6)
    bill = Bill(usage, "m-1", "gemini", input_nano=83_500, output_nano=84_000, saved_nano=0, attempts=1)
    headers = dict(bill_headers(bill, overall_nano=12_345_678_901))
    assert headers == {
        "X-Cost-Input": "0.000083500",
        "X-Cost-Output": "0.000084000",
        "X-Cost-Total": "0.000167500",
        "X-Cost-Overall": "12.345678901",
        "X-Cost-Saved": "0.000000000",
        "X-Tokens-Input": "1234",
        "X-Tokens-Output": "56",
        "X-Model": "m-1",
        "X-Provider": "gemini",
    }


def test_an_unknown_price_is_said_and_never_guessed():
    headers = dict(bill_headers(Bill(Usage(1, 1), "m", "gemini", input_nano=None, output_nano=None), 5))
    assert headers["X-Cost-Known"] == "false"
    assert headers["X-Cost-Total"] == headers["X-Cost-Input"] == headers["X-Cost-Output"] == "unknown"
    assert headers["X-Cost-Overall"] == "0.000000005"


def test_an_estimate_is_called_one(house, upstream):
    upstream.script("no_usage")
    response = house.post("text", PROMPT)
    assert response.headers["X-Tokens-Estimated"] == "true"
    assert "X-Tokens-Estimated" not in house.post("text", {"prompt": "Counted."}).headers


def test_a_script_may_read_every_header_that_is_ours(house):
    response = house.post("text", PROMPT)
    ours = {name for name, _ in response.headers if name.startswith(("X-", "RateLimit-"))}
    assert ours - {"X-Content-Type-Options"} <= set(EXPOSED_HEADERS)
