"""What holds for every request: an id, headers, hosts, origins, two log lines, and JSON even for our own bugs."""

# Above 300 lines, because each of these promises holds for every request, and they share one list of kinds of request.

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from app import create_app
from config import Settings
from services import build_services
from tests.test_schemas import assert_refused

ROOT = Path(__file__).resolve().parent.parent
TEXT, HEALTH = "/api/v1/generate/text", "/api/v1/health"
PROMPT = {"prompt": "Say hello."}
SECRET_SENTENCE = "a sentence that only the exception knows"
ATTACK = "<script>alert(1)</script>"


@pytest.fixture
def sandbox(make_house):
    return make_house(google_api_key="", gemini_base_url="")


def events(house, log: str = "api_requests.log") -> list[dict]:
    return [json.loads(line) for line in house.lines(log)]


# Building.


def test_create_app_builds_its_services_from_the_settings_it_is_given(tmp_path):
    app = create_app(Settings(log_dir=str(tmp_path), data_dir=str(tmp_path), gemini_model="some-model"))
    assert app.extensions["llm_platform"].settings.gemini_model == "some-model"
    assert list(tmp_path.iterdir()) == []


def test_two_apps_in_one_process_share_nothing(make_house):
    one, two = make_house(rate_limit="1 per minute"), make_house(rate_limit="1 per minute")
    assert one.post("text", PROMPT).status_code == 200
    assert one.post("text", PROMPT).status_code == 429
    assert two.post("text", PROMPT).headers["X-Cache-Status"] == "miss"


def test_apps_that_nobody_holds_any_more_are_gone_with_all_they_had(tmp_path):
    """But for the last: Flask-RESTX keeps that one in a class of its own."""

    def used() -> weakref.ref:
        app = create_app(Settings(log_dir=str(tmp_path), data_dir=str(tmp_path)))
        assert app.test_client().get("/api/v1/swagger.json").status_code == 200
        app.extensions["llm_platform"].close()
        return weakref.ref(app)

    *earlier, _last = [used() for _ in range(4)]
    gc.collect()
    assert [app() for app in earlier] == [None] * 3


def test_the_module_offers_an_app_that_is_ready():
    code = "from app import app; print(app.test_client().get('/api/v1/health/live').status_code)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"GOOGLE_API_KEY": ""},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (run.stdout, run.returncode) == ("200\n", 0), run.stderr


# Request ids and headers.


@pytest.mark.parametrize("given", ["a", "A-z.0_9", "x" * 128])
def test_a_callers_request_id_is_kept(sandbox, given):
    for path in (HEALTH, "/nowhere"):
        response = sandbox.client.get(path, headers={"X-Request-ID": given})
        assert response.headers.getlist("X-Request-ID") == [given]
    assert {event["request_id"] for event in events(sandbox)} == {given}


@pytest.mark.parametrize(
    "given", ["", "x" * 129, "a b", "a/b", "é", "a;b", "<b>", "a\tb", "{}", "a,b", '"a"']
)
def test_a_request_id_that_is_none_is_replaced(sandbox, given):
    response = sandbox.client.get("/nowhere", headers={"X-Request-ID": given})
    (kept,) = response.headers.getlist("X-Request-ID")
    assert len(kept) == 32
    assert int(kept, 16) >= 0
    assert kept == response.get_json()["request_id"]


def test_each_request_gets_an_id_of_its_own(sandbox):
    ids = {sandbox.client.get(HEALTH).headers["X-Request-ID"] for _ in range(100)}
    assert len(ids) == 100


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", HEALTH, 200),
        ("GET", "/", 200),
        ("GET", "/metrics", 200),
        ("GET", "/api/v1/stats", 200),
        ("GET", "/api/v1/swagger.json", 200),
        ("GET", "/swagger/", 200),
        ("GET", "/swaggerui/swagger-ui.css", 200),
        ("GET", "/api//v1/health", 308),
        ("OPTIONS", TEXT, 200),
        ("POST", TEXT, 415),
        ("GET", TEXT, 405),
        ("GET", "/nowhere", 404),
    ],
)
def test_every_reply_has_an_id_and_the_headers_that_protect(sandbox, method, path, status):
    with sandbox.client.open(path, method=method) as response:
        assert response.status_code == status
        assert len(response.headers.getlist("X-Request-ID")) == 1
        assert response.headers.getlist("X-Content-Type-Options") == ["nosniff"]
        expected = "no-cache" if "swaggerui" in path else "no-store"
        assert response.headers.getlist("Cache-Control") == [expected]
        assert "Server" not in response.headers
        if response.mimetype == "text/html":
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]
            assert response.headers["X-Frame-Options"] == "DENY"
            assert response.headers["Referrer-Policy"] == "no-referrer"


def test_a_redirect_within_the_house_never_leads_out_of_it(sandbox):
    for path in ("/api//v1/health", "/api///evil.example", "/swagger//"):
        response = sandbox.client.get(path)
        where = response.headers.get("Location", "http://localhost/")
        assert where.startswith("http://localhost/"), where


# Hosts.


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:5000", "127.0.0.1", "127.0.0.1:5000", "LocalHost:5000", "[::1]:5000", "[::1]"],
)
def test_the_names_of_this_machine_are_accepted(sandbox, host):
    assert sandbox.client.get(HEALTH, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "evil.localhost", "localhost@evil.example", "0.0.0.0", "a b"],
)
def test_another_host_is_refused_so_that_no_web_page_can_rebind_its_name(sandbox, host):
    for path in (HEALTH, "/nowhere"):
        assert_refused(sandbox.client.get(path, headers={"Host": host}), 400, "unknown_host")
    assert "Location" not in sandbox.client.get("/api//v1/health", headers={"Host": host}).headers
    assert sandbox.client.post(TEXT, json=PROMPT, headers={"Host": host}).status_code == 400


def test_trusted_hosts_takes_the_place_of_the_default(make_house):
    house = make_house(
        google_api_key="", gemini_base_url="", trusted_hosts=("llm.example.org", "Other.example")
    )
    for host, status in (
        ("llm.example.org", 200),
        ("LLM.example.org:8443", 200),
        ("other.example", 200),
        ("localhost", 400),
        ("example.org", 400),
        ("x.llm.example.org", 400),
    ):
        assert house.client.get(HEALTH, headers={"Host": host}).status_code == status, host


def test_on_an_open_address_any_host_is_accepted_unless_some_are_named(make_house):
    house = make_house(google_api_key="", gemini_base_url="", host="0.0.0.0", allow_anonymous=True)
    assert house.client.get(HEALTH, headers={"Host": "llm.example.org"}).status_code == 200


# Origins.

ORIGIN = "https://app.example.org"


def test_no_origin_is_allowed_by_default(sandbox):
    for method in ("GET", "POST", "OPTIONS"):
        headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
        response = sandbox.client.open(TEXT, method=method, headers=headers)
        assert not [name for name, _ in response.headers if name.startswith("Access-Control")]


@pytest.fixture
def open_to_origin(make_house):
    return make_house(google_api_key="", gemini_base_url="", cors_origins=(ORIGIN, "http://localhost:3000"))


def test_a_listed_origin_may_call_and_read_our_headers(open_to_origin):
    headers = {"Origin": ORIGIN}
    for response in (
        open_to_origin.client.post(TEXT, json=PROMPT, headers=headers),
        open_to_origin.client.post(TEXT, json={}, headers=headers),
        open_to_origin.client.get("/api/v1/stats", headers=headers),
    ):
        assert response.headers.getlist("Access-Control-Allow-Origin") == [ORIGIN]
        assert "Origin" in response.headers["Vary"]
        exposed = {name.strip() for name in response.headers["Access-Control-Expose-Headers"].split(",")}
        assert {
            "X-Request-ID",
            "X-Cost-Total",
            "X-Cache-Status",
            "RateLimit-Remaining",
            "Retry-After",
        } <= exposed
        assert "Access-Control-Allow-Credentials" not in response.headers


def test_a_preflight_of_a_listed_origin_is_answered(open_to_origin):
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
        "Access-Control-Request-Private-Network": "true",
    }
    response = open_to_origin.client.options(TEXT, headers=asked)
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "POST" in response.headers["Access-Control-Allow-Methods"]
    assert response.headers["Access-Control-Allow-Headers"].lower() == "content-type"
    assert response.headers.get("Access-Control-Allow-Private-Network") != "true"


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", f"{ORIGIN}.evil.example", "http://app.example.org", f"{ORIGIN}:8443"],
)
def test_another_origin_gets_nothing(open_to_origin, origin):
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    for method in ("POST", "OPTIONS"):
        response = open_to_origin.client.open(TEXT, method=method, headers=headers)
        assert not [name for name, _ in response.headers if name.startswith("Access-Control-Allow")]


def test_where_origins_are_listed_every_reply_says_that_it_varies_by_origin(open_to_origin):
    """Else a cache on the way could hand the reply for one origin to another."""
    for headers in ({"Origin": ORIGIN}, {"Origin": "https://evil.example"}, {}):
        assert "Origin" in open_to_origin.client.get("/api/v1/stats", headers=headers).headers.get(
            "Vary", ""
        ), headers


# Two lines for each request.


def break_a_view(house, error: type[BaseException] = RuntimeError) -> None:
    """A bug of ours, where the next request meets it."""

    def broken() -> str:
        raise error(SECRET_SENTENCE)

    house.app.view_functions["ops.index"] = broken


def shed(house) -> None:
    house.services.load.queue_length = lambda: house.settings.max_queue + 1


KINDS = {
    "200": (lambda house: house.post("text", PROMPT), 200, None),
    "304 or 200 of an asset": (lambda house: house.client.get("/swaggerui/favicon-16x16.png"), 200, None),
    "308": (lambda house: house.client.get("/api//v1/health"), 308, None),
    "OPTIONS": (lambda house: house.client.options(TEXT), 200, None),
    "HEAD": (lambda house: house.client.head(HEALTH), 200, None),
    "400": (lambda house: house.post("text", {}), 400, "invalid_input"),
    "400 for the host": (lambda house: house.client.get(HEALTH, headers={"Host": "x.y"}), 400, "unknown_host"),
    "400 for a threat": (lambda house: house.client.get(HEALTH, query_string={"q": ATTACK}), 400, "blocked"),
    "404": (lambda house: house.client.get("/nowhere"), 404, "not_found"),
    "405": (lambda house: house.client.get(TEXT), 405, "method_not_allowed"),
    "413": (lambda house: house.client.post(TEXT, data=b"x" * 1_100_000, content_type="application/json"), 413, "too_large"),
    "415": (lambda house: house.client.post(TEXT, data=b"x"), 415, "unsupported_media_type"),
    "429": (lambda house: [house.client.get("/api/v1/stats") for _ in range(3)][-1], 429, "rate_limited"),
    "500": (lambda house: (break_a_view(house), house.client.get("/"))[1], 500, "internal_error"),
    "503": (lambda house: (shed(house), house.post("text", PROMPT))[1], 503, "overloaded"),
}  # fmt: skip


@pytest.mark.parametrize(("act", "status", "code"), KINDS.values(), ids=KINDS)
def test_each_request_leaves_one_start_and_one_end_and_a_failure_its_code(make_house, act, status, code):
    house = make_house(
        google_api_key="", gemini_base_url="", threat_mode="block", rate_limit_reads="2 per minute"
    )
    response = act(house)
    response.close()
    assert response.status_code == status
    request_id = response.headers["X-Request-ID"]
    lines = [event for event in events(house) if event["request_id"] == request_id]
    assert [event["event"] for event in lines] == ["REQUEST_START", "REQUEST_END"]
    assert lines[1]["status"] == status
    assert lines[1]["duration_ms"] >= 0
    assert Counter(event["event"] for event in events(house)).keys() == {"REQUEST_START", "REQUEST_END"}
    failures = [event for event in events(house, "api_errors.log") if event["event"] == "REQUEST_ERROR"]
    failures = [event for event in failures if event["request_id"] == request_id]
    assert [event["code"] for event in failures] == ([code] if code else [])
    performance = [event for event in events(house, "performance.log") if event["request_id"] == request_id]
    assert len(performance) == 1


def test_a_line_says_who_asked_for_what_and_when(sandbox):
    sandbox.client.get(
        "/nowhere/x", headers={"User-Agent": "me/1"}, environ_base={"REMOTE_ADDR": "192.0.2.7"}
    )
    start, end = events(sandbox)
    assert (start["address"], start["method"], start["path"]) == ("192.0.2.7", "GET", "/nowhere/x")
    assert start["user_agent"] == "me/1"
    assert (end["route"], end["tenant"], end["status"]) == ("<unmatched>", "anonymous", 404)
    assert end["timestamp"].endswith("+00:00")


def test_a_callers_text_can_not_forge_a_line_and_is_not_logged(sandbox):
    bad = 'x\r\n{"event": "FORGED"}\u2028\u0085\x1b[2J\u202e'
    sandbox.client.get(f"/{bad}", headers={"User-Agent": 'a{"event": "FORGED"}\x1b[2J'})
    sandbox.post("text", {"prompt": f"my secret prompt {bad}"})
    sandbox.post("text", {"prompt": "my secret prompt", "model": 5})
    for path in Path(sandbox.settings.log_dir).iterdir():
        raw = (sandbox.lines(path.name), path.read_text())[1]
        assert "my secret prompt" not in raw
        assert not set(raw) & set("\r\x1b\x85\u2028\u2029\u202e")
        assert all(json.loads(line).get("event") != "FORGED" for line in raw.splitlines())


@pytest.mark.parametrize(("mode", "shown"), [("off", False), ("redacted", True), ("full", True)])
def test_prompts_and_answers_are_logged_only_where_that_was_set(make_house, mode, shown):
    house = make_house(google_api_key="", gemini_base_url="", prompt_log=mode)
    house.post("text", {"prompt": "some words of mine"})
    assert ("some words of mine" in "".join(house.lines("api_requests.log"))) is shown


def test_refusals_by_limit_and_load_leave_one_audit_line_a_minute(make_house):
    house = make_house(google_api_key="", gemini_base_url="", rate_limit="1 per minute")
    for _ in range(4):
        house.post("text", PROMPT)
    shed(house)
    for _ in range(4):
        assert house.post("code", PROMPT).status_code == 503
    audit = [(line["event"], line["severity"]) for line in events(house, "security_audit.log")]
    assert audit == [("RATE_LIMITED", "LOW"), ("LOAD_SHED", "MEDIUM")]


def test_a_body_that_is_too_large_leaves_an_audit_line(sandbox):
    sandbox.client.post(TEXT, data=b"x" * 1_100_000, content_type="application/json")
    (line,) = events(sandbox, "security_audit.log")
    assert (line["event"], line["severity"]) == ("BODY_TOO_LARGE", "LOW")


# Our own bugs.


@pytest.mark.parametrize("testing", [True, False])
@pytest.mark.parametrize("error", [RuntimeError, KeyError, RecursionError, UnicodeError])
def test_a_bug_of_ours_is_our_json_500_and_one_error_line(sandbox, testing, error):
    sandbox.app.testing = testing
    break_a_view(sandbox, error)
    response = sandbox.client.get("/")
    reply = assert_refused(response, 500, "internal_error")
    assert "request_id" in reply["error"]
    assert SECRET_SENTENCE not in response.text + str(response.headers)
    assert error.__name__ not in response.text
    (line,) = [event for event in events(sandbox, "api_errors.log") if event["event"] == "ERROR"]
    assert (line["level"], line["error_type"]) == ("ERROR", error.__name__)
    assert SECRET_SENTENCE in line["message"]
    assert line["request_id"] == response.headers["X-Request-ID"]


class BrokenProvider:
    """A provider with a bug."""

    name, offers = "gemini", frozenset()
    models = staticmethod(lambda requested, embeds=False: ("some-model",))
    retired = warm = staticmethod(lambda *_: None)

    def call(self, call):
        raise ZeroDivisionError(SECRET_SENTENCE)


@pytest.mark.parametrize("testing", [True, False])
def test_a_bug_on_the_road_is_our_json_500_in_every_task_and_still_recorded(make_house, settings, testing):
    house = make_house(build_services(settings, provider=BrokenProvider()))
    house.app.testing = testing
    for task, body in (("text", PROMPT), ("code", PROMPT), ("classify", {"text": "x", "categories": ["a"]})):
        response = house.post(task, body)
        assert_refused(response, 500, "internal_error")
        assert SECRET_SENTENCE not in response.text
    assert [
        event["error_type"] for event in events(house, "api_errors.log") if event["event"] == "ERROR"
    ] == ["ZeroDivisionError"] * 3
    assert len(house.lines("cost_tracking.log")) == 3
    assert house.services.gate.in_air == house.services.flights.in_air() == 0


def test_a_full_queue_sheds_tasks_at_once_and_leaves_health_and_metrics_alone(sandbox):
    shed(sandbox)
    response = sandbox.post("text", PROMPT)
    assert_refused(response, 503, "overloaded")
    assert int(response.headers["Retry-After"]) >= 1
    assert sandbox.client.get(HEALTH).status_code == 200
    assert "llm_shed_total 1.0" in sandbox.client.get("/metrics").text


# Threats.

THREATS = {
    "path": lambda client: client.get("/api/v1/../../etc/passwd"),
    "encoded path": lambda client: client.get("/%2e%2e/%2e%2e/etc/passwd"),
    "query": lambda client: client.get(f"{HEALTH}?id=1' OR '1'='1"),
    "query of a task": lambda client: client.post(f"{TEXT}?x=<script>alert(1)</script>", json=PROMPT),
    "header": lambda client: client.get(HEALTH, headers={"Referer": "' UNION SELECT password FROM users --"}),
    "user agent": lambda client: client.get(HEALTH, headers={"User-Agent": "sqlmap/1.7"}),
}


@pytest.mark.parametrize("attack", THREATS.values(), ids=THREATS)
def test_an_attack_is_blocked_where_that_was_set_and_the_reply_names_no_rule(make_house, attack):
    house = make_house(google_api_key="", gemini_base_url="", threat_mode="block")
    response = attack(house.client)
    reply = assert_refused(response, 400, "blocked")
    (event,) = events(house, "security_audit.log")
    assert event["event"] == "THREAT_ENVELOPE"
    assert event["details"]["rules"]
    assert not [rule for rule in event["details"]["rules"] if rule in reply["error"]]


@pytest.mark.parametrize("attack", THREATS.values(), ids=THREATS)
def test_an_attack_is_only_logged_by_default(sandbox, attack):
    response = attack(sandbox.client)
    assert response.status_code in (200, 404)
    assert len(events(sandbox, "security_audit.log")) == 1


@pytest.mark.parametrize(
    "words",
    [
        "' OR 1=1; DROP TABLE users --",
        ATTACK,
        "cat ../../../etc/passwd",
        "sqlmap/1.7",
        "1 UNION SELECT password FROM users",
    ],
)
def test_the_words_of_a_prompt_are_never_blocked(make_house, words):
    house = make_house(google_api_key="", gemini_base_url="", threat_mode="block")
    assert house.post("text", {"prompt": words}).status_code == 200
    assert house.post("code", {"prompt": words}).status_code == 200
    assert house.post("classify", {"text": words, "categories": [words, "other"]}).status_code == 200


def test_a_caller_who_was_harmless_before_is_looked_at_again(make_house):
    house = make_house(google_api_key="", gemini_base_url="", threat_mode="block")
    agent = {"User-Agent": "me/1"}
    for _ in range(2):
        assert house.client.get("/nowhere", headers=agent).status_code == 404
        assert house.client.get("/nowhere", headers=agent, query_string={"q": ATTACK}).status_code == 400
        assert house.client.get("/nowhere", headers={**agent, "Referer": ATTACK}).status_code == 400
        assert house.client.get("/nowhere", headers={**agent, "X-Request-ID": ATTACK}).status_code == 400
        assert house.client.get("/nowhere/../../etc/passwd", headers=agent).status_code == 400
    assert len(events(house, "security_audit.log")) == 8


def test_everyday_requests_are_no_threat(sandbox):
    browser = (
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0 Safari/537.36"
    )
    for agent in (browser, "curl/8.5.0", "python-requests/2.32"):
        sandbox.post("text", PROMPT, User_Agent=agent, X_Request_ID="a.b-c_1", Accept_Language="en;q=0.9, de")
    assert events(sandbox, "security_audit.log") == []


# The environment.


def test_switches_of_libraries_are_taken_away_when_an_app_is_made(tmp_path, monkeypatch):
    import os

    from config import LIBRARY_SWITCHES

    for name in LIBRARY_SWITCHES:
        monkeypatch.setenv(name, "true")
    create_app(replace(Settings(), log_dir=str(tmp_path), data_dir=str(tmp_path)))
    assert not set(LIBRARY_SWITCHES) & set(os.environ)
