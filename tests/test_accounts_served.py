"""Keys in front of real processes: two on one database, raw requests on the wire, and a browser."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from playwright.sync_api import Browser, Error

from config import ConfigError, Settings
from serve import REFUSED_START, banner, check_exposure
from tests.browser import launched
from tests.test_serve import ROOT, Platform, environment

TEXT, KEYS, LIVE = "/api/v1/generate/text", "/api/v1/keys", "/api/v1/health/live"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Platform]]:
    """Starts platforms that share one DATA_DIR and need keys."""
    running: list[Platform] = []

    def begin(**settings: str) -> Platform:
        folder = tmp_path / f"platform{len(running)}"
        folder.mkdir()
        own = {"AUTH": "required", "DATA_DIR": str(tmp_path / "data"), "RATE_LIMIT": "1000000 per minute"}
        running.append(Platform(folder, **(own | {"RATE_LIMIT_READS": "1000000 per minute"} | settings)))
        return running[-1]

    yield begin
    for platform in running:
        platform.close()


def command(tmp_path: Path, *arguments: str) -> Any:
    """What a command of cli.py says in JSON, on the same DATA_DIR."""
    said = subprocess.run(
        [sys.executable, "cli.py", *arguments, "--json"],
        cwd=ROOT,
        env=environment(tmp_path / "logs", AUTH="required", DATA_DIR=str(tmp_path / "data")),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


def make_key(tmp_path: Path, role: str, **options: str) -> tuple[str, str]:
    named = [part for name, value in options.items() for part in (f"--{name}", value)]
    made = command(tmp_path, "create-key", "--name", "k", "--role", role, *named)
    return made["id"], made["key"]


def test_a_revocation_reaches_two_processes_within_a_second(start, tmp_path):
    one, other = start(), start()
    admin = make_key(tmp_path, "admin")[1]
    for revoke in (
        lambda key_id: one.request("DELETE", f"{KEYS}/{key_id}", X_API_Key=admin),
        lambda key_id: command(tmp_path, "revoke-key", key_id),
    ):
        key_id, text = make_key(tmp_path, "developer")
        connections = {platform: platform.connect() for platform in (one, other)}

        def status(platform: Platform, text: str = text, known: Any = connections) -> int:
            body = {"prompt": "Hello."}
            return platform.request("POST", TEXT, body, known[platform], X_API_Key=text)[0]

        assert [status(platform) for platform in (one, other)] == [200, 200]
        revoke(key_id)
        revoked = time.monotonic()
        waiting, latest = {one, other}, 0.0
        while waiting and time.monotonic() - revoked < 30:
            for platform in list(waiting):
                asked = (
                    time.monotonic() - revoked
                )  # a reply may come late: what counts is when it was asked for
                if status(platform) == 401:
                    waiting.remove(platform)
                else:
                    latest = asked
        assert not waiting
        assert latest <= 1.0
        for connection in connections.values():
            connection.close()


def test_a_key_of_the_command_line_serves_at_once_and_limits_are_its_own(start, tmp_path):
    platform = start()
    _, text = make_key(tmp_path, "developer", **{"rate-limit": "2 per minute"})
    statuses = [platform.request("POST", TEXT, {"prompt": "x"}, X_API_Key=text)[0] for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert platform.request("GET", LIVE)[0] == 200
    assert platform.request("GET", "/api/v1/health")[0] == 401


def test_the_openai_client_works_with_a_key_and_names_its_errors(start, tmp_path):
    platform = start()
    base = f"http://127.0.0.1:{platform.port}/api/v2"
    messages: Any = [{"role": "user", "content": "Hello"}]

    def ask(key: str) -> Any:
        client = openai.OpenAI(api_key=key, base_url=base, max_retries=0)
        return client.chat.completions.create(model="default", messages=messages)

    assert ask(make_key(tmp_path, "developer")[1]).choices[0].message.content
    with pytest.raises(openai.AuthenticationError):
        ask("sk-none")
    with pytest.raises(openai.PermissionDeniedError):
        ask(make_key(tmp_path, "viewer")[1])


RAW = [
    ("GET http://127.0.0.1/api/v1/health/live/../../keys HTTP/1.1", "localhost"),
    ("GET http://x/api/v1/keys HTTP/1.1", "localhost"),
    ("GET /api/v1/keys HTTP/1.1", "localhost/api/v1/health/live?"),
    ("GET /api/v1/keys HTTP/1.1", "127.0.0.1/?"),
    ("GET /api/v1/keys HTTP/1.1", "127.0.0.1#"),
    ("GET //api/v1/keys HTTP/1.1", "localhost"),
    ("GET /./api/v1/keys HTTP/1.1", "localhost"),
    ("GET /api/v1/%2e/keys HTTP/1.1", "localhost"),
    ("GET /api/v1/health/live%2f..%2f..%2fkeys HTTP/1.1", "localhost"),
    ("GET /api/v1/keys?/api/v1/health/live HTTP/1.1", "localhost"),
    ("GET api/v1/keys HTTP/1.1", "localhost"),
    ("OPTIONS * HTTP/1.1", "localhost"),
    ("POST /api/v1/users HTTP/1.0", "localhost"),
    ("get /api/v1/keys HTTP/1.1", "localhost"),
]


def test_no_request_line_and_no_host_on_the_wire_gets_around_the_guard(start):
    platform = start()
    for line, host in RAW:
        with socket.create_connection(("127.0.0.1", platform.port), timeout=10) as wire:
            wire.sendall(
                f"{line}\r\nHost: {host}\r\nX-Original-URL: {LIVE}\r\nConnection: close\r\n\r\n".encode()
            )
            head = b"".join(iter(lambda wire=wire: wire.recv(4096), b""))
        assert head.split()[1] in (b"400", b"401"), (line, host, head[:200])


# A browser.


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


def test_a_browser_asks_for_the_key_once_and_shows_the_dashboard_and_swagger(start, tmp_path, browser):
    platform = start()
    key = make_key(tmp_path, "developer")[1]
    assert platform.request("POST", TEXT, {"prompt": "One for the books."}, X_API_Key=key)[0] == 200
    base = f"http://127.0.0.1:{platform.port}"
    context = browser.new_context(http_credentials={"username": "any", "password": key})
    context.set_default_timeout(40_000)
    page = context.new_page()
    page.goto(f"{base}/dashboard/")
    page.wait_for_selector("main[aria-busy=false]")
    page.wait_for_selector("#chart-requests .main-svg")
    assert page.goto(f"{base}/swagger/").status == 200
    page.wait_for_selector(".opblock-tag")
    assert page.locator("button.authorize").count() == 1
    assert context.cookies() == []
    # What a page sends of its own accord asks for nothing that costs or changes anything.
    sent = page.evaluate(
        """async (addresses) => Promise.all(addresses.map(([method, address]) =>
             fetch(address, {method, body: method == "POST" ? '{"prompt": "x", "name": "x"}' : null,
                             headers: {"Content-Type": "application/json"}}).then((reply) => reply.status)))""",
        [["POST", TEXT], ["POST", KEYS], ["GET", KEYS], ["GET", "/api/v1/stats"], ["GET", "/dashboard/data"]],
    )
    assert sent == [401, 401, 401, 401, 200]
    tried = page.evaluate(
        """(key) => fetch("/api/v1/generate/text", {method: "POST", body: '{"prompt": "x"}',
             headers: {"Content-Type": "application/json", "X-API-Key": key}}).then((reply) => reply.status)""",
        key,
    )
    assert tried == 200, "Swagger's button works beside the password"
    context.close()


def test_a_browser_without_the_key_sees_nothing(start, browser):
    platform = start()
    context = browser.new_context()
    for path in ("/dashboard/", "/swagger/", "/metrics"):
        address = f"http://127.0.0.1:{platform.port}{path}"
        page = context.new_page()
        if path == "/metrics":
            assert page.goto(address).status == 401
            continue
        with pytest.raises(Error, match="ERR_INVALID_AUTH_CREDENTIALS"):  # nobody is there to type one
            page.goto(address)
    context.close()


# The start.


def test_keys_make_an_address_that_others_reach_acceptable():
    check_exposure(Settings(host="0.0.0.0", auth="required"))
    check_exposure(Settings(host="0.0.0.0", allow_anonymous=True))
    with pytest.raises(ConfigError, match="AUTH=required"):
        check_exposure(Settings(host="0.0.0.0"))


def test_who_stands_behind_a_proxy_is_open_to_strangers_though_on_this_machine():
    open_to_all = Settings(trusted_proxies=1)
    assert open_to_all.is_exposed
    with pytest.raises(ConfigError, match=r"^TRUSTED_PROXIES .*AUTH=required.*ALLOW_ANONYMOUS=true"):
        check_exposure(open_to_all)
    check_exposure(Settings(trusted_proxies=1, allow_anonymous=True))
    check_exposure(Settings(trusted_proxies=1, auth="required"))
    check_exposure(Settings())
    assert "OPEN TO THE NETWORK" in banner(open_to_all, 5000)
    with pytest.raises(ConfigError, match=r"^HOST "):
        check_exposure(Settings(host="0.0.0.0", trusted_proxies=1))


def test_a_platform_behind_a_proxy_that_was_not_said_to_be_open_does_not_start(tmp_path):
    started = subprocess.run(
        [sys.executable, "app.py"],
        cwd=ROOT,
        env=environment(tmp_path / "logs", DATA_DIR=str(tmp_path / "data"), TRUSTED_PROXIES="1"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert started.returncode == REFUSED_START
    assert started.stderr.startswith("Not started: TRUSTED_PROXIES ")


def test_the_banner_says_that_keys_are_needed_and_how_to_get_one():
    told = banner(Settings(auth="required", host="0.0.0.0"), 5000)
    assert "create-key" in told
    assert "X-API-Key" in told
    assert "OPEN TO THE NETWORK" not in told
    assert "OPEN TO THE NETWORK" in banner(Settings(host="0.0.0.0"), 5000)
    assert "create-key" not in banner(Settings(), 5000)
