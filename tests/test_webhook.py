"""Signed events: whoever tells one never waits, and whoever gets one can tell that it is ours."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config import ConfigError, load_settings
from services import build_services
from soft_limits import SoftLimits, facts_of
from store.budgets import Crossing
from webhook import MOST_WAITING, SIGNATURE, NoEvents, Webhook, http_post

ROOT = Path(__file__).resolve().parent.parent
SECRET = "0123456789abcdef" * 2
CROSSING = Crossing(("key:k1:day", 20_780), 2_000, 3_000, 2_500)


class Receiver:
    """A loopback server that keeps what it gets, and answers with the next status of its script, else 204."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.script: list[int] = []
        self.silent = False
        self.over = threading.Event()
        receiver = self

        class Door(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((self.path, dict(self.headers), body))
                if receiver.silent:
                    receiver.over.wait(60)  # far longer than the caller's patience
                self.send_response(receiver.script.pop(0) if receiver.script else 204)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nobody reads it."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door)
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/hook?room=budgets"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.over.set()
    one.server.shutdown()
    one.server.server_close()


def wait_until(true: Callable[[], object]) -> None:
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.002)


def is_signed(headers: dict[str, str], body: bytes) -> bool:
    """As docs/budgets.md tells receivers to verify it: this is its own code."""
    page = (ROOT / "docs" / "budgets.md").read_text()
    told: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], told)
    return bool(told["is_ours"](SECRET, headers[SIGNATURE], body))


def test_an_event_is_signed_with_its_time_and_told_once(receiver):
    hook = Webhook(SECRET, http_post(receiver.url))
    hook.tell("budget.soft_limit", {"owner": "key"})
    hook.close()
    ((path, headers, body),) = receiver.got
    assert (path, is_signed(headers, body), is_signed(headers, body + b" ")) == (
        "/hook?room=budgets",
        True,
        False,
    )
    event = json.loads(body)
    assert (event["type"], event["data"], len(event["id"])) == ("budget.soft_limit", {"owner": "key"}, 32)
    assert (hook.sent, hook.failed, hook.dropped) == (1, 0, 0)


def test_each_event_has_an_id_of_its_own_and_the_time_of_each_attempt():
    now, sent = [1000.0], []

    def post(body: bytes, headers: dict[str, str]) -> int:
        sent.append((json.loads(body), headers[SIGNATURE].partition(",")[0]))
        now[0] += 60
        return 500 if len(sent) == 1 else 204

    hook = Webhook(SECRET, post, waits=(0.001,), clock=lambda: now[0])
    hook.tell("one", {})
    wait_until(lambda: hook.sent == 1)
    hook.tell("two", {})
    hook.close()
    (first, first_stamp), (again, later_stamp), (second, _) = sent
    assert (first_stamp, later_stamp, first["created"], again["created"]) == ("t=1000", "t=1060", 1000, 1000)
    assert first["id"] == again["id"] != second["id"]


def test_at_the_end_of_the_process_nothing_is_tried_again():
    tried = threading.Event()
    attempts: list[bytes] = []

    def post(body: bytes, _: dict[str, str]) -> int:
        attempts.append(body)
        tried.set()
        return 500

    hook = Webhook(SECRET, post, waits=(30.0, 30.0, 30.0))
    hook.tell("one", {})
    assert tried.wait(20)
    hook.close()
    wait_until(lambda: hook.failed == 1)
    assert len(attempts) == 1


def test_a_soft_limit_alone_has_no_limit_to_tell_of():
    assert facts_of(replace(CROSSING, limit_nano=None))["limit"] is None


def test_an_event_that_is_not_taken_is_tried_again_and_then_given_up(receiver):
    hook = Webhook(SECRET, http_post(receiver.url), waits=(0.001, 0.001))
    receiver.script = [500, 429, 200, 500, 500, 500]
    hook.tell("one", {})
    wait_until(lambda: hook.sent == 1)
    assert len({body for _, _, body in receiver.got}) == 1, "the same event under the same id"
    hook.tell("two", {})
    wait_until(lambda: hook.failed == 1)
    assert len(receiver.got) == 6
    hook.close()


def test_a_redirect_is_no_delivery_and_is_not_followed(receiver):
    hook = Webhook(SECRET, http_post(receiver.url), waits=())
    receiver.script = [307]
    hook.tell("one", {})
    hook.close()
    assert ([path for path, _, _ in receiver.got], hook.failed) == (["/hook?room=budgets"], 1)


def test_a_proxy_of_the_environment_gets_nothing(receiver, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    hook = Webhook(SECRET, http_post(receiver.url), waits=())
    hook.tell("one", {})
    hook.close()
    assert hook.sent == 1


def test_a_server_that_does_not_answer_costs_a_bounded_time_of_the_thread(receiver):
    receiver.silent = True
    hook = Webhook(SECRET, http_post(receiver.url, seconds=0.2), waits=())
    hook.tell("one", {})
    wait_until(lambda: hook.failed == 1)
    hook.close()


def test_an_event_that_is_being_sent_costs_none_of_the_time_of_whoever_tells():
    told = threading.Event()
    hook = Webhook(SECRET, lambda *_: 204 if told.wait(20) else 500, waits=())
    for _ in range(2):
        hook.tell("one", {})
    told.set()
    wait_until(lambda: hook.sent == 2)
    hook.close()


def test_nobody_there_is_a_failure_and_no_exception_of_the_thread():
    hook = Webhook(SECRET, http_post("http://127.0.0.1:9/"), waits=())
    for _ in range(2):
        hook.tell("one", {})
    wait_until(lambda: hook.failed == 2)
    hook.close()


def test_events_that_find_no_place_are_dropped_and_counted():
    held = threading.Event()
    hook = Webhook(SECRET, lambda *_: held.wait(20) and 200, waits=())
    for _ in range(MOST_WAITING + 3):
        hook.tell("one", {})
    assert hook.dropped in (2, 3)  # the thread has taken one of them, or has not yet
    held.set()
    wait_until(lambda: hook.sent == MOST_WAITING + 3 - hook.dropped)
    hook.close()


def test_a_bug_in_sending_one_event_does_not_keep_the_next_one():
    outcomes: list[Any] = [ZeroDivisionError(), 200]

    def post(*_: Any) -> int:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return int(outcome)

    hook = Webhook(SECRET, post, waits=())
    for _ in range(2):
        hook.tell("one", {})
    wait_until(lambda: hook.sent == 1)
    assert hook.failed == 1
    hook.close()


def test_without_an_address_nothing_is_sent_and_no_thread_started(settings):
    threads = threading.active_count()
    services = build_services(settings)
    services.soft_limits.reached(CROSSING)
    assert isinstance(services.events, NoEvents)
    assert services.events.dropped == 0
    assert not [thread for thread in threading.enumerate()[threads:] if thread.name == "webhook"]
    services.close()


def test_a_soft_limit_goes_out_as_the_settings_say(settings, receiver):
    services = build_services(
        replace(settings, budget_webhook_url=receiver.url, budget_webhook_secret=SECRET)
    )
    services.soft_limits.reached(CROSSING)
    services.close()
    ((_, headers, body),) = receiver.got
    assert is_signed(headers, body)
    assert json.loads(body)["data"] == {
        "owner": "key",
        "id": "k1",
        "period": "day",
        "spent": "0.000002500",
        "soft_limit": "0.000002000",
        "limit": "0.000003000",
    }


def test_what_breaks_in_telling_of_a_soft_limit_breaks_no_reply():
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    told = SoftLimits(broken, lambda _: None, NoEvents())
    told.reached(CROSSING)
    assert told.errors == 1


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ({"BUDGET_WEBHOOK_URL": "https://example.org/hook"}, "BUDGET_WEBHOOK_SECRET"),
        ({"BUDGET_WEBHOOK_SECRET": SECRET}, "BUDGET_WEBHOOK_URL"),
        ({"BUDGET_WEBHOOK_URL": "http://example.org/hook", "BUDGET_WEBHOOK_SECRET": SECRET}, "https"),
        ({"BUDGET_WEBHOOK_URL": "example.org", "BUDGET_WEBHOOK_SECRET": SECRET}, "BUDGET_WEBHOOK_URL"),
        (
            {"BUDGET_WEBHOOK_URL": "https://example.org/", "BUDGET_WEBHOOK_SECRET": "short"},
            "at least 32 characters",
        ),
    ],
)
def test_an_address_needs_a_secret_and_nobody_may_listen_on_the_way(written, sentence):
    with pytest.raises(ConfigError, match=sentence) as refusal:
        load_settings(written, None)
    assert SECRET not in str(refusal.value)


def test_the_secret_is_a_secret():
    written = {"BUDGET_WEBHOOK_URL": "https://example.org/a/", "BUDGET_WEBHOOK_SECRET": SECRET}
    settings = load_settings(written, None)
    assert settings.budget_webhook_url == "https://example.org/a/", "its end may matter"
    assert SECRET in settings.secrets
    assert SECRET not in repr(settings)
