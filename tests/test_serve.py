"""The process itself: `python app.py` in its own environment, asked over real sockets, and stopped by signals."""

# Above 300 lines, because each promise here needs the one child process that this file knows how to start.

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import psutil
import pytest

from config import Settings
from serve import banner, check_exposure
from tests.upstream import Upstream

ROOT = Path(__file__).resolve().parent.parent
REFUSED = 78
TEXT = "/api/v1/generate/text"
JSON = {"Content-Type": "application/json"}


def environment(log_dir: Path, **settings: str) -> dict[str, str]:
    """Nothing of this machine but PATH: each setting is the given one or, being empty, the default."""
    unset = {field.name.upper(): "" for field in fields(Settings)}
    own = {
        "HOST": "127.0.0.1",
        "PORT": "0",
        "LOG_DIR": str(log_dir),
        "DATA_DIR": str(log_dir.parent / "data"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return {"PATH": os.environ["PATH"], **unset, **own, **settings}


class Platform:
    """A child process that serves; its banner has been read."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.log_dir = folder / "logs"
        self.stderr_file = folder / "stderr"
        started = time.monotonic()
        with self.stderr_file.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "app.py"],
                cwd=ROOT,
                env=environment(self.log_dir, **settings),
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self.banner = self._read_banner()
        self.seconds_to_banner = time.monotonic() - started
        self.started = started
        self.port = int(re.search(r"on http://\S+:(\d+)", self.banner)[1])

    def _read_banner(self) -> str:
        guard = threading.Timer(60, self.process.kill)
        guard.start()
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if "Swagger:" in line:
                break
        guard.cancel()
        assert lines, f"no banner; stderr: {self.stderr}"
        return "".join(lines)

    @property
    def stderr(self) -> str:
        return self.stderr_file.read_text()

    def connect(self, timeout: float = 60) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def request(
        self, method: str, path: str, body: Any = None, connection: Any = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and body; on a connection of its own unless one is given."""
        opened = connection or self.connect()
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            data = None if body is None else json.dumps(body)
            opened.request(method, path, data, {**(JSON if body is not None else {}), **named})
            response = opened.getresponse()
            return response.status, response.headers, response.read()
        finally:
            if connection is None:
                opened.close()

    def ask(self, prompt: str, **headers: str) -> tuple[int, http.client.HTTPMessage, bytes, float]:
        """A text task, and how long it took."""
        started = time.monotonic()
        reply = self.request("POST", TEXT, {"prompt": prompt}, **headers)
        return (*reply, time.monotonic() - started)

    def end(self, number: int = signal.SIGTERM, timeout: float = 60) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)
        self.process.stdout.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Platform]]:
    """Starts platforms on free ports; none outlives its test."""
    running: list[Platform] = []

    def begin(**settings: str) -> Platform:
        folder = tmp_path / f"platform{len(running)}"
        folder.mkdir()
        running.append(Platform(folder, **settings))
        return running[-1]

    yield begin
    for platform in running:
        platform.close()


@pytest.fixture
def live(start: Callable[..., Platform], upstream: Upstream) -> Callable[..., Platform]:
    """Starts platforms whose provider is the loopback upstream; its client has been built and used once."""

    def begin(**settings: str) -> Platform:
        platform = start(
            GOOGLE_API_KEY="any-key", GEMINI_BASE_URL=upstream.url, RATE_LIMIT="100000 per minute", **settings
        )
        assert platform.ask("warm up")[0] == 200
        return platform

    return begin


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """One sandbox for all who only read or misbehave."""
    platform = Platform(tmp_path_factory.mktemp("shared"), RATE_LIMIT="100000 per minute")
    yield platform
    platform.close()


def wait_until(true: Callable[[], object], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return True
    return False


def run_refused(tmp_path: Path, **settings: str) -> str:
    """Starts what must not start; the one sentence that it leaves on stderr."""
    run = subprocess.run(
        [sys.executable, "app.py"],
        cwd=ROOT,
        env=environment(tmp_path / "logs", **settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == REFUSED, run.stderr
    assert run.stdout == ""
    assert "Traceback" not in run.stderr
    (line,) = run.stderr.splitlines()
    assert line.startswith("Not started: ")
    assert not (tmp_path / "logs").exists()
    return line


# The start.


def test_the_banner_shows_a_newcomer_everything_and_its_curl_lines_work(start):
    platform = start(RATE_LIMIT="100 per minute")
    base = f"http://127.0.0.1:{platform.port}"
    assert base in platform.banner
    assert "SANDBOX" in platform.banner
    assert "GOOGLE_API_KEY" in platform.banner
    assert f"{base}/swagger/" in platform.banner
    assert "OPEN TO THE NETWORK" not in platform.banner
    lines = [line.strip() for line in platform.banner.splitlines() if line.strip().startswith("curl")]
    assert len(lines) == 3
    for line, field in zip(lines, ("generated_text", "generated_code", "classification"), strict=True):
        run = subprocess.run(
            ["sh", "-c", line + " -sS"], capture_output=True, text=True, timeout=60, check=True
        )
        head, _, body = run.stdout.replace("\r\n", "\n").partition("\n\n")
        assert head.startswith("HTTP/1.1 200")
        assert "X-Cost-Total: 0.000000000" in head
        assert json.loads(body)[field]
        assert shlex.split(line)[0] == "curl"
    assert platform.request("GET", "/swagger/")[0] == 200


def test_the_first_health_answer_comes_within_seconds_of_the_start(start, record_property):
    platform = start()
    status, headers, _ = platform.request("GET", "/api/v1/health")
    seconds = time.monotonic() - platform.started
    record_property("seconds_to_first_health", seconds)
    print(
        f"\nstart to first health answer: {seconds:.2f} s (banner after {platform.seconds_to_banner:.2f} s)"
    )
    assert status == 200
    assert "Server" not in headers
    assert seconds < 60, "ten were seen on two cores with a load of twelve"
    spent = psutil.Process(platform.process.pid).cpu_times()
    assert spent.user + spent.system < 5, "of the CPU: those on the clock are shared with whatever else runs"


def test_a_live_platform_says_so_and_answers_over_the_wire(live, upstream):
    platform = live()
    assert "LIVE" in platform.banner
    assert "SANDBOX" not in platform.banner
    status, headers, _, _ = platform.ask("one")
    assert (status, headers["X-Provider"]) == (200, "gemini")
    assert [call.prompt for call in upstream.journal] == ["warm up", "one"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "llm.example.org"])
def test_open_access_on_a_network_refuses_to_start(tmp_path, host):
    line = run_refused(tmp_path, HOST=host)
    assert "ALLOW_ANONYMOUS=true" in line
    assert host not in line


def test_open_access_that_was_said_aloud_starts_and_the_banner_says_it_again(start):
    platform = start(HOST="0.0.0.0", ALLOW_ANONYMOUS="true")
    assert "OPEN TO THE NETWORK" in platform.banner
    assert platform.request("GET", "/api/v1/health", Host="any.example")[0] == 200


@pytest.mark.parametrize(
    "settings",
    [
        {"PORT": "http"},
        {"THREADS": "many"},
        {"RATE_LIMIT": "ten per minute"},
        {"AUTH": "sometimes"},
        {"GEMINI_BASE_URL": "http://example.org", "GOOGLE_API_KEY": "any-key"},
        {"GEMINI_BASE_URL": "http://[::1", "GOOGLE_API_KEY": "any-key"},
        {"PRICES_FILE": "/nowhere/prices.toml"},
        {"HOST": "no such host", "ALLOW_ANONYMOUS": "true"},
        {"HOST": "300.1.1.1", "ALLOW_ANONYMOUS": "true"},
    ],
    ids=lambda settings: " ".join(settings),
)
def test_a_wrong_setting_is_one_sentence_and_exit_78(tmp_path, settings):
    line = run_refused(tmp_path, **settings)
    name, value = next(iter(settings.items()))
    assert name in line
    assert value not in line


def test_a_port_in_use_is_one_sentence_and_exit_78(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = run_refused(tmp_path, PORT=str(taken.getsockname()[1]))
    assert "PORT" in line


def test_a_name_of_two_addresses_starts_or_is_refused_in_one_sentence(tmp_path, start):
    addresses = {entry[4][0] for entry in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    if len(addresses) > 1:
        assert "HOST" in run_refused(tmp_path, HOST="localhost")
    else:
        assert "http://localhost:" in start(HOST="localhost").banner


def ipv6() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


@pytest.mark.skipif(not ipv6(), reason="this machine has no IPv6")
def test_the_address_of_the_banner_works_on_ipv6_too(start):
    platform = start(HOST="::1")
    base = re.search(r"on (http://\S+)", platform.banner)[1]
    assert base == f"http://[::1]:{platform.port}"
    with contextlib.closing(http.client.HTTPConnection("::1", platform.port, timeout=60)) as connection:
        assert platform.request("GET", "/api/v1/health", connection=connection)[0] == 200


def test_exposure_is_checked_by_address():
    for host in ("127.0.0.1", "localhost", "::1"):
        check_exposure(Settings(host=host))
    check_exposure(Settings(host="10.0.0.1", allow_anonymous=True))
    check_exposure(Settings(host="10.0.0.1", auth="required"))


def test_an_address_of_ipv6_stands_in_brackets_in_the_banner():
    assert "http://[::1]:5000/swagger/" in banner(Settings(host="::1"), 5000)


def test_the_key_is_shown_nowhere(live, upstream, start, tmp_path):
    """Not in the terminal, a log, health, metrics or stats, not even eight characters; whatever its shape."""
    key = hashlib.sha256(b"a key for this test").hexdigest()[:39]
    platform = start(
        GOOGLE_API_KEY=key, GEMINI_BASE_URL=upstream.url, RATE_LIMIT="1000 per minute", LLM_MAX_ATTEMPTS="1"
    )
    replies = []
    for fault in ("ok", "bad_key", "forbidden", "garbage", "reset_before", "unavailable"):
        upstream.script(fault)
        replies.append(platform.request("POST", TEXT, {"prompt": fault}))
    paths = ("/api/v1/health", "/api/v1/health/ready", "/metrics", "/api/v1/stats", "/", f"/{key}?key={key}")
    forged = {"User_Agent": key, "Referer": f"https://x.example/?k={key}"}
    replies += [platform.request("GET", path, **forged) for path in paths]
    platform.ask(f"my key is {key}")
    assert platform.end() == 0
    shown = platform.banner + platform.process.stdout.read() + platform.stderr
    logs = {path.name: path.read_text() for path in platform.log_dir.iterdir()}
    assert len(logs) >= 4
    assert logs["api_errors.log"].count("\n") >= 5
    seen = shown + "".join(logs.values()) + "".join(str(reply[1]) + reply[2].decode() for reply in replies)
    assert [piece for piece in (key[at : at + 8] for at in range(len(key) - 7)) if piece in seen] == []


def test_a_start_that_logs_prompts_is_told_to_the_audit(start):
    platform = start(PROMPT_LOG="full")
    assert platform.request("GET", "/api/v1/health")[0] == 200
    assert platform.end() == 0
    (line,) = (platform.log_dir / "security_audit.log").read_text().splitlines()
    assert (json.loads(line)["event"], json.loads(line)["severity"]) == ("PROMPT_LOG_ENABLED", "HIGH")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", TEXT, {"prompt": "Say hello."}),
        ("POST", TEXT, {}),
        ("GET", TEXT, None),
        ("OPTIONS", TEXT, None),
        ("GET", "/nowhere", None),
        ("HEAD", "/api/v1/health", None),
        ("GET", "/api/v1/stats", None),
        ("GET", "/api//v1/health", None),
        ("GET", "/swagger/", None),
        ("GET", "/swaggerui/swagger-ui.css", None),
    ],
)
def test_a_real_server_sends_the_headers_that_the_app_has_set_and_each_once(
    shared, make_house, method, path, body
):
    house = make_house(google_api_key="", gemini_base_url="")
    status, sent, _ = shared.request(method, path, body, X_Request_ID="my.own-id")
    with house.client.open(path, method=method, json=body, headers={"X-Request-ID": "my.own-id"}) as response:
        assert status == response.status_code
        expected = Counter(name.lower() for name, _ in response.headers)
        kind = response.headers["Content-Type"]
    own = Counter(("date", "connection"))  # what the server may add
    assert Counter(name.lower() for name, _ in sent.items()) - own == expected - own
    assert (sent["Content-Type"], sent["X-Request-ID"]) == (kind, "my.own-id")


# The end.


def slow_asks(platform: Platform, count: int, pool: ThreadPoolExecutor) -> list:
    return [pool.submit(platform.ask, f"slow ask {number}") for number in range(count)]


def test_sigterm_with_50_requests_in_flight_loses_none(live, upstream):
    platform = live()
    waiting = platform.connect()
    assert platform.request("GET", "/api/v1/health/ready", connection=waiting)[0] == 200
    upstream.held = True
    with ThreadPoolExecutor(50) as pool:
        asks = slow_asks(platform, 50, pool)
        assert wait_until(lambda: upstream.in_flight == 50)
        platform.process.send_signal(signal.SIGTERM)
        assert wait_until(lambda: refuses(platform.port)), "new connections must be refused while others end"
        status, _, body = platform.request("GET", "/api/v1/health/ready", connection=waiting)
        upstream.held = False
        statuses = Counter(ask.result()[0] for ask in asks)
    waiting.close()
    assert (status, json.loads(body)["checks"]["server"]) == (503, "draining")
    assert statuses == {200: 50}
    assert platform.process.wait(60) == 0
    assert len(upstream.journal) == 51
    assert "Traceback" not in platform.stderr
    lines = [json.loads(line) for line in (platform.log_dir / "api_requests.log").read_text().splitlines()]
    events = Counter(line["event"] for line in lines)
    assert events["REQUEST_START"] == events["REQUEST_END"] == 53
    assert len((platform.log_dir / "cost_tracking.log").read_text().splitlines()) == 51


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_platform_cleanly_and_soon(start, number):
    platform = start()
    assert platform.request("GET", "/api/v1/health")[0] == 200
    started = time.monotonic()
    assert platform.end(number) == 0
    assert time.monotonic() - started < 15  # a drain that waits for nothing takes thirty
    assert refuses(platform.port)
    assert "Traceback" not in platform.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_with_the_banner_is_heard_too(start, number):
    platform = start()
    assert platform.end(number) == 0
    assert "Traceback" not in platform.stderr


SLOW_STOP = """
import os, signal, sys, threading, time
from app import create_app
from config import Settings
from serve import drain_on_signals, open_server

settings = Settings(port=0, log_dir=sys.argv[1], data_dir=sys.argv[1])
app = create_app(settings)
server = open_server(app, settings)
accept = server.handle_accept
server.handle_accept = lambda: (time.sleep(0.5), accept())
drain_on_signals(server, app.extensions["llm_platform"].load, 5)
threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
server.run()
print("ended")
"""


def test_the_end_is_not_lost_where_the_listener_takes_its_time_to_stop(tmp_path):
    """waitress swallows whatever is raised inside a trigger's call, a SystemExit too: the process would stay for ever."""
    run = subprocess.run(
        [sys.executable, "-c", SLOW_STOP, str(tmp_path)],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.stdout, run.returncode) == ("ended\n", 0), run.stderr


def test_ctrl_c_lets_requests_in_flight_finish_like_sigterm(live, upstream):
    platform = live()
    waiting = platform.connect()
    assert platform.request("GET", "/api/v1/health/ready", connection=waiting)[0] == 200
    upstream.held = True
    with ThreadPoolExecutor(5) as pool:
        asks = slow_asks(platform, 5, pool)
        assert wait_until(lambda: upstream.in_flight == 5)
        platform.process.send_signal(signal.SIGINT)
        assert wait_until(lambda: refuses(platform.port))
        status = platform.request("GET", "/api/v1/health/ready", connection=waiting)[0]
        upstream.held = False
        assert Counter(ask.result()[0] for ask in asks) == {200: 5}
    waiting.close()
    assert status == 503
    assert platform.process.wait(60) == 0


def test_a_second_signal_ends_the_wait(live, upstream):
    platform = live()
    upstream.held = True
    with ThreadPoolExecutor(1) as pool:
        ask = pool.submit(platform.ask, "slow ask")
        assert wait_until(lambda: upstream.in_flight == 1)
        platform.process.send_signal(signal.SIGTERM)
        assert wait_until(lambda: refuses(platform.port))
        started = time.monotonic()
        assert platform.end(signal.SIGTERM) == 1
        assert time.monotonic() - started < 15  # waitress takes five, the whole drain thirty
        with contextlib.suppress(OSError, http.client.HTTPException):
            ask.result()


def test_the_drain_is_bounded_by_its_setting(live, upstream):
    platform = live(DRAIN_SECONDS="0.5")
    upstream.held = True
    with ThreadPoolExecutor(1) as pool:
        ask = pool.submit(platform.ask, "slow ask")
        assert wait_until(lambda: upstream.in_flight == 1)
        started = time.monotonic()
        assert platform.end() == 1
        assert time.monotonic() - started < 15  # as above
        with contextlib.suppress(OSError, http.client.HTTPException):
            ask.result()


# Under load.


def test_slow_provider_calls_starve_neither_hits_nor_health_and_the_rest_is_shed(live, upstream):
    """96 threads: 64 calls at once, 84 asks in the air, and the others refused at once."""
    platform = live()
    upstream.held = True
    with ThreadPoolExecutor(90) as pool:
        asks = slow_asks(platform, 90, pool)
        assert wait_until(lambda: upstream.in_flight == 64)
        assert wait_until(lambda: sum(ask.done() for ask in asks) == 6)
        refused = [ask.result() for ask in asks if ask.done()]
        for _ in range(5):
            status, headers, _, _ = platform.ask("warm up")
            assert (status, headers["X-Cache-Status"]) == (200, "hit")
            assert platform.request("GET", "/api/v1/health")[0] == 200
        assert upstream.in_flight == 64, "the slow asks must have been pending all the while"
        upstream.held = False
        replies = [ask.result() for ask in asks]
    assert upstream.max_in_flight == 64
    assert Counter(reply[0] for reply in replies) == {200: 84, 503: 6}
    for status, headers, body, _ in refused:
        assert status == 503
        assert int(headers["Retry-After"]) >= 1
        assert json.loads(body)["code"] == "overloaded"


def test_50_different_asks_at_once_are_all_with_the_provider_together(live, upstream):
    platform = live()
    upstream.meet = 50
    with ThreadPoolExecutor(50) as pool:
        replies = [ask.result() for ask in slow_asks(platform, 50, pool)]
    assert Counter(reply[0] for reply in replies) == {200: 50}
    assert upstream.max_in_flight == 50


# Rough callers.


def raw(port: int, data: bytes, seconds: float = 30) -> bytes:
    """Everything that comes back until the server closes or the time is up."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), seconds) as connection, contextlib.suppress(OSError):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65536):
            received += piece
    return received


def head(length: object, *more: str) -> bytes:
    lines = [
        f"POST {TEXT} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {length}",
    ]
    return "\r\n".join([*lines, *more, "", ""]).encode()


@pytest.mark.parametrize("length", [2_000_000_000, 500_000_000, 3_000_000])
def test_a_promise_of_gigabytes_is_refused_before_they_come(shared, length):
    with socket.create_connection(("127.0.0.1", shared.port), 20) as connection:
        connection.sendall(head(length))
        reply = connection.recv(65536)
    assert reply.startswith(b"HTTP/1.1 413")


def test_a_body_just_above_the_limit_gets_our_json_413(shared):
    reply = raw(shared.port, head(1024 * 1024 + 1, "Connection: close") + b"x" * (1024 * 1024 + 1))
    assert reply.startswith(b"HTTP/1.1 413")
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["code"] == "too_large"


def test_a_chunked_body_is_read_and_a_chunked_flood_refused(shared):
    def chunked(body: bytes) -> bytes:
        lines = f"POST {TEXT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        pieces = b"".join(
            b"%x\r\n%s\r\n" % (len(body[at : at + 65536]), body[at : at + 65536])
            for at in range(0, len(body), 65536)
        )
        return lines.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n"

    assert raw(shared.port, chunked(b'{"prompt": "chunked"}')).startswith(b"HTTP/1.1 200")
    flood = raw(shared.port, chunked(b"x" * 4_000_000))
    assert flood == b"" or flood.startswith(b"HTTP/1.1 413")
    assert shared.ask("after the flood")[0] == 200


GARBAGE = {
    "noise": bytes(range(256)) * 64,
    "NULs": b"\0" * 5000,
    "no path": b"GET\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 500,
    "a long line": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    "a negative length": head(-5),
    "a length in words": head("ten"),
    "a hexadecimal length": head("0x10"),
    "two lengths": head(5, "Content-Length: 6") + b"hello!",
    "two framings": head(5, "Transfer-Encoding: chunked") + b"0\r\n\r\nGET /x HTTP/1.1\r\n\r\n",
    "an unknown coding": b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n",
    "a broken chunk": b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a bare newline in a header": b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: b\nX-B: c\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: a\r\n b\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
    "pipelined after a good one": b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n" + b"\xff\x00garbage\r\n\r\n" * 50,
}  # fmt: skip


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_garbage_does_no_harm(shared, data):
    reply = raw(shared.port, data)
    statuses = re.findall(rb"HTTP/1\.[01] (\d{3})", reply)
    assert set(statuses) <= {b"200", b"400", b"404", b"413", b"431", b"501"}, reply[:300]
    assert b"Traceback" not in reply
    assert shared.ask("still there")[0] == 200
    assert shared.process.poll() is None


def test_200_connections_of_pipelined_garbage_leave_the_server_alive(shared):
    with ThreadPoolExecutor(16) as pool:
        list(
            pool.map(
                lambda number: raw(shared.port, GARBAGE["pipelined after a good one"] * (1 + number % 3)),
                range(200),
            )
        )
    status, headers, _, seconds = shared.ask("still there")
    assert status == 200
    assert headers["X-Cache-Status"] in ("hit", "miss")
    assert seconds < 10
    assert shared.request("GET", "/api/v1/health")[0] == 200


def test_no_header_of_a_reply_comes_from_a_callers_line_break(shared):
    for name in ("X-Request-ID", "Origin", "User-Agent"):
        data = f"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{name}: a\rX-Forged: yes\r\n\r\n"
        head_of_reply = raw(shared.port, data.encode()).partition(b"\r\n\r\n")[0]
        assert head_of_reply.startswith(b"HTTP/1.")
        assert b"X-Forged" not in head_of_reply


@pytest.mark.parametrize("target", [b"http://[::1/api", b"//[::1/api/v1/health"])
def test_an_address_that_trips_the_servers_parser_is_400_and_leaves_no_stack_behind(start, target):
    platform = start()
    reply = raw(platform.port, b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert reply.split(b" ")[1] in (b"400", b"404")
    assert platform.request("GET", "/api/v1/health")[0] == 200
    assert platform.end() == 0
    assert "Traceback" not in platform.stderr
