"""RequestLogger: one START and one END per request, every severity and error, no secret, no prompt, no exception."""

import json
import subprocess
import sys
import threading
from hashlib import sha256
from pathlib import Path

import pytest
from flask import Flask, g

from enhanced_logging import RequestLogger
from log_writer import LogWriter
from security.redaction import make_redactor

ROOT = Path(__file__).resolve().parent.parent
FILES = ("api_requests", "performance", "api_errors", "security_audit")
KEY = "AI" + "za" + "Sy3xQ7" * 5
PROMPT = "tell me the story of the brave little toaster"
HOSTILE = "a\r\nFORGED b\u2028c\u0085d\x1b[2Je\u202ef\x7f" + "x" * 65_536


class Clock:
    """A wall clock and a timer that move when they are told to."""

    def __init__(self):
        self.now = 1_782_864_000.0

    def __call__(self):
        return self.now


class Bench:
    """A bare Flask app whose hooks call the logger, and the lines that it has written."""

    def __init__(self, folder, **options):
        self.folder, self.clock = folder, Clock()
        self.logger = RequestLogger(folder, clock=self.clock, timer=self.clock, **options)
        self.app = Flask("bench")
        self.app.before_request(lambda: self.logger.log_request_start() and None)
        self.app.after_request(self._after)
        self.app.teardown_request(lambda error: self.logger.log_request_end(None, 500))
        self.app.add_url_rule("/things/<name>", view_func=self._thing, methods=["GET", "POST"])
        self.view = lambda: ({"generated_text": "fine"}, 200)

    def _thing(self, name):
        return self.view()

    def _after(self, response):
        data = response.get_json(silent=True) if response.is_json else None
        self.logger.log_request_end(data, response.status_code)
        return response

    def lines(self, name):
        assert self.logger.flush()
        path = self.folder / f"{name}.log"
        return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []

    def everything(self):
        assert self.logger.flush()
        return b"".join(path.read_bytes() for path in self.folder.glob("*.log*"))


@pytest.fixture
def make_bench(tmp_path):
    benches = []

    def make(**options):
        benches.append(Bench(tmp_path / f"logs{len(benches)}", **options))
        return benches[-1]

    yield make
    for bench in benches:
        bench.logger.close()


@pytest.fixture
def bench(make_bench):
    return make_bench()


# What a request leaves behind


def test_a_request_has_one_start_one_end_and_one_performance_line(bench):
    bench.view = lambda: (setattr(bench.clock, "now", bench.clock.now + 0.25), {"generated_text": "fine"})[1]
    agent = {"User-Agent": "curl/8.5.0"}
    bench.app.test_client().post("/things/one", headers=agent, environ_base={"REMOTE_ADDR": "203.0.113.7"})
    start, end = bench.lines("api_requests")
    (performance,) = bench.lines("performance")
    shared = {
        "request_id": start["request_id"], "tenant": "anonymous", "key_id": None, "address": "203.0.113.7",
        "method": "POST", "route": "/things/<name>", "path": "/things/one",
    }  # fmt: skip
    outcome = {"status": 200, "duration_ms": 250.0, "cached": False}
    text = {"response_length": 4, "response_digest": sha256(b"fine").hexdigest()[:12]}
    began, ended = "2026-07-01T00:00:00.000+00:00", "2026-07-01T00:00:00.250+00:00"
    assert start == {"timestamp": began, "event": "REQUEST_START", **shared, "user_agent": "curl/8.5.0"}
    assert end == {"timestamp": ended, "event": "REQUEST_END", **shared, **outcome, **text}
    assert performance == {"timestamp": ended, "event": "PERFORMANCE", **shared, **outcome}


def test_start_takes_the_id_that_is_given_or_makes_a_fresh_one(bench):
    with bench.app.test_request_context("/"):
        assert bench.logger.log_request_start("my-id.1") == "my-id.1"
        first, second = bench.logger.log_request_start(), bench.logger.log_request_start()
    assert first != second
    assert len(first) == 32
    starts = [line for line in bench.lines("api_requests") if line["event"] == "REQUEST_START"]
    assert [line["request_id"] for line in starts] == ["my-id.1", first, second]


def test_end_is_written_once_however_often_it_is_called(bench):
    with bench.app.test_request_context("/"):
        bench.logger.log_request_start("a")
        for status in (200, 500, 404):
            bench.logger.log_request_end("x", status, True, {"total_cost": "0.000000000"})
    assert [line["event"] for line in bench.lines("api_requests")] == ["REQUEST_START", "REQUEST_END"]
    end = bench.lines("api_requests")[1]
    assert (end["status"], end["cached"], end["cost"]) == (200, True, {"total_cost": "0.000000000"})
    assert bench.lines("api_errors") == []


def test_end_without_a_start_writes_nothing(bench):
    with bench.app.test_request_context("/"):
        bench.logger.log_request_end("x", 200)
    assert bench.lines("api_requests") == []


def test_each_start_has_its_end_whatever_happens_in_between(bench):
    def fails():
        raise RuntimeError("a bug")

    client = bench.app.test_client()
    views = [lambda: "fine", fails, lambda: ("no", 429), lambda: iter(["a", "b"])]
    for propagate in (False, True):
        bench.app.config["PROPAGATE_EXCEPTIONS"] = propagate
        for view in views:
            bench.view = view
            try:
                client.get("/things/x").get_data()
            except RuntimeError:
                assert propagate
        client.get("/nowhere")
        client.delete("/things/x")
    lines = bench.lines("api_requests")
    starts = [line["request_id"] for line in lines if line["event"] == "REQUEST_START"]
    ends = [line["request_id"] for line in lines if line["event"] == "REQUEST_END"]
    assert len(starts) == len(set(starts)) == 12
    assert sorted(starts) == sorted(ends)
    assert [line["status"] for line in lines if line["event"] == "REQUEST_END"] == [
        200,
        500,
        429,
        200,
        404,
        405,
    ] * 2
    assert lines[-3]["route"] == "<unmatched>"


def test_the_end_of_a_stream_is_written_when_it_closes_and_not_before(bench):
    ends = []

    def stream():
        g.tenant = "acme"
        ends.append(bench.logger.defer_request_end())
        return iter(["a"])

    bench.view = stream
    bench.app.test_client().get("/things/x").get_data()
    assert [line["event"] for line in bench.lines("api_requests")] == ["REQUEST_START"]
    bench.clock.now += 3
    closing = threading.Thread(target=ends[0], args=("a", 200), kwargs={"cost_info": {"total": 1}})
    closing.start()
    closing.join()
    ends[0]("a", 200)
    start, end = bench.lines("api_requests")
    assert (end["event"], end["request_id"], end["tenant"]) == ("REQUEST_END", start["request_id"], "acme")
    assert (end["route"], end["duration_ms"], end["cost"]) == ("/things/<name>", 3000.0, {"total": 1})


def test_tenant_and_key_are_those_that_the_guard_has_set(bench):
    def view():
        g.tenant, g.key_id = "acme", "ab12"
        bench.logger.log_security_event("KEY_REVOKED", "HIGH", {})
        return "fine"

    bench.view = view
    bench.app.test_client().get("/things/x")
    for line in (
        bench.lines("api_requests")[1],
        bench.lines("performance")[0],
        bench.lines("security_audit")[0],
    ):
        assert (line["tenant"], line["key_id"]) == ("acme", "ab12")


def test_the_address_is_what_the_platform_believes(make_bench):
    bench = make_bench(address_of=lambda: "198.51.100.9")
    bench.app.test_client().get("/things/x")
    assert {line["address"] for line in bench.lines("api_requests")} == {"198.51.100.9"}


# Errors and events


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 413, 415, 422, 429, 500, 502, 503, 504])
def test_each_refused_request_has_its_line_in_the_error_log(bench, status):
    bench.view = lambda: ({"error": "a sentence", "code": "stable_word", "request_id": "x"}, status)
    bench.app.test_client().get("/things/x")
    (line,) = bench.lines("api_errors")
    level = "WARNING" if status < 500 else "ERROR"
    told = (line["event"], line["level"], line["status"], line["code"], line["route"])
    assert told == ("REQUEST_ERROR", level, status, "stable_word", "/things/<name>")


def test_the_code_of_an_openai_error_is_found_too(bench):
    bench.view = lambda: ({"error": {"message": "a sentence", "code": "stable_word"}}, 400)
    bench.app.test_client().get("/things/x")
    assert bench.lines("api_errors")[0]["code"] == "stable_word"


@pytest.mark.parametrize("severity", ["LOW", "MEDIUM", "HIGH", "CRITICAL"])
def test_every_severity_is_written(bench, severity):
    bench.logger.log_security_event("AUTH_FAILURE", severity, {"reason": "expired"})
    (line,) = bench.lines("security_audit")
    assert (line["event"], line["severity"], line["details"]) == (
        "AUTH_FAILURE",
        severity,
        {"reason": "expired"},
    )


def test_events_and_errors_outside_of_a_request_have_null_fields(bench):
    bench.logger.log_security_event("PROMPT_LOG_ENABLED", "HIGH", "full")
    bench.logger.log_error("a word")
    for name in ("security_audit", "api_errors"):
        (line,) = bench.lines(name)
        assert {
            line[field] for field in ("request_id", "tenant", "key_id", "address", "method", "route", "path")
        } == {None}
        assert line["timestamp"].endswith("+00:00")


def test_an_exception_is_written_with_its_class_its_traceback_and_its_context(bench):
    try:
        int("no number")
    except ValueError as error:
        bench.logger.log_error(error, "a note", provider="gemini")
    (line,) = bench.lines("api_errors")
    assert (line["level"], line["error_type"]) == ("ERROR", "ValueError")
    assert "no number" in line["message"]
    assert "test_enhanced_logging.py" in "".join(line["traceback"])
    assert line["context"] == {"provider": "gemini", "notes": ["a note"]}


def test_a_strange_exception_is_one_bounded_line(bench):
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no words")

    def deep(n):
        return deep(n + 1)

    for failing in (lambda: deep(0), lambda: (_ for _ in ()).throw(Mute()), lambda: 1 / len(HOSTILE[:0])):
        try:
            failing()
        except Exception as error:  # noqa: BLE001 - whatever it is: it is what is handed on
            error.__cause__ = ValueError(HOSTILE)
            bench.logger.log_error(error)
    lines = bench.lines("api_errors")
    assert [line["error_type"] for line in lines] == ["RecursionError", "Mute", "ZeroDivisionError"]
    assert all(sum(map(len, line["traceback"])) <= 8192 + 200 for line in lines)


# Forging, secrets, prompts


def test_hostile_text_anywhere_is_exactly_one_valid_line(bench):
    logger = bench.logger
    with bench.app.test_request_context(
        "/things/x", headers={"User-Agent": HOSTILE.replace("\r\n", " ")}
    ) as context:
        context.request.path = "/" + HOSTILE
        logger.log_request_start(HOSTILE)
        logger.log_error(ValueError(HOSTILE), context=HOSTILE)
        logger.log_security_event(HOSTILE, HOSTILE, {HOSTILE: HOSTILE})
        logger.log_request_end({"code": HOSTILE}, 400, cost_info={"model": HOSTILE})
    assert [len(bench.lines(name)) for name in FILES] == [2, 1, 2, 1]
    raw = bench.everything()
    assert all(byte == 10 or 32 <= byte < 127 for byte in raw)
    fields = [value for name in FILES for line in bench.lines(name) for value in line.values()]
    assert max(len(field.encode()) for field in fields if isinstance(field, str)) <= 2048


def test_secrets_are_redacted_in_every_log(bench):
    def fails():
        bench.logger.log_security_event("AUTH_FAILURE", "MEDIUM", {"header": f"Bearer {KEY}", KEY: [KEY]})
        raise RuntimeError(f"GET https://host/v1?key={KEY} failed")

    bench.view = fails
    bench.app.register_error_handler(
        RuntimeError, lambda error: (bench.logger.log_error(error), ({"code": KEY}, 500))[1]
    )
    headers = {"User-Agent": f"x {KEY}", "Referer": f"https://a/?key={KEY}", "Authorization": f"Bearer {KEY}"}
    bench.app.test_client().get(f"/things/{KEY}?key={KEY}&id=' or 1=1--", headers=headers)
    with bench.app.test_request_context(f"/things/{KEY}?key={KEY}"):
        bench.logger.log_request_start(KEY)
        bench.logger._check_security_issues({"path": f"/../{KEY}", "query": f"key={KEY}' or 1=1--"})
        bench.logger.log_request_end(KEY, 200, cost_info={"model": KEY})
    assert [len(bench.lines(name)) for name in FILES] == [4, 2, 2, 2]
    raw = bench.everything().decode()
    assert not [KEY[at : at + 8] for at in range(len(KEY) - 7) if KEY[at : at + 8] in raw]


def test_the_redactor_may_be_the_writers_or_the_loggers_own(tmp_path):
    secret = "plain " + "words"
    for count, options in enumerate(({}, {"redact": make_redactor([secret])})):
        with_secret = LogWriter(redact=make_redactor([secret])) if not options else LogWriter()
        logger = RequestLogger(tmp_path / str(count), writer=with_secret, **options)
        logger.log_error(f"with {secret} inside")
        with_secret.close()
        assert "[redacted]" in (tmp_path / str(count) / "api_errors.log").read_text()


def write_prompts_everywhere(bench):
    logger = bench.logger
    with bench.app.test_request_context("/things/x"):
        logger.log_request_start("a")
        logger.log_security_event("THREAT_BODY", "LOW", {"prompt": PROMPT, "body": {"text": [PROMPT]}})
        logger.log_error(ValueError("x"), prompt=PROMPT, request={"messages": [{"content": PROMPT}]})
        logger._check_security_issues({"prompt": f"{PROMPT} ' or 1=1--"})
        logger.log_request_end(
            {"generated_text": PROMPT}, 200, cost_info={"response": PROMPT}, prompt=f"{PROMPT} {KEY}"
        )
    return bench.everything().decode()


def test_without_prompt_log_no_word_of_prompt_or_answer_is_in_any_line(bench):
    assert "toaster" not in write_prompts_everywhere(bench)
    end = bench.lines("api_requests")[1]
    assert end["response_length"] == len(PROMPT)
    assert end["response_digest"] == sha256(PROMPT.encode()).hexdigest()[:12]
    assert end["prompt_length"] == len(PROMPT) + 1 + len(KEY)


def test_a_redacted_prompt_log_holds_the_words_but_no_secret(make_bench):
    bench = make_bench(prompt_log="redacted")
    assert KEY not in write_prompts_everywhere(bench)
    end = bench.lines("api_requests")[1]
    assert end["response"] == PROMPT
    assert end["prompt"] == f"{PROMPT} [redacted]"


def test_a_full_prompt_log_holds_the_words_as_they_are(make_bench):
    bench = make_bench(prompt_log="full")
    write_prompts_everywhere(bench)
    assert bench.lines("api_requests")[1]["prompt"] == f"{PROMPT} {KEY}"


# Detection


def check(bench, **data):
    findings = bench.logger._check_security_issues(data)
    return findings, bench.lines("security_audit")


def test_an_attack_in_the_envelope_is_one_event_with_the_worst_severity_and_no_text(bench):
    data = {
        "path": "/../x",
        "query": "id=' or 1=1--",
        "headers": {"Referer": "<svg >"},
        "user_agent": "sqlmap/1",
    }
    findings, (event,) = check(bench, **data)
    assert (event["event"], event["severity"]) == ("THREAT_ENVELOPE", "HIGH")
    assert set(event["details"]["kinds"]) == {
        "PATH_TRAVERSAL",
        "SQL_INJECTION",
        "SUSPICIOUS_USER_AGENT",
        "XSS",
    }
    assert event["details"]["where"] == [finding.where for finding in findings]
    assert set(event["details"]["where"]) == {"path", "query", "header:user-agent", "header:referer"}
    assert event["details"]["rules"] == [finding.rule for finding in findings]
    assert event["details"]["score"] == sum(5 if finding.severity == "HIGH" else 3 for finding in findings)
    assert "1=1" not in bench.everything().decode()


def test_an_attack_in_a_prompt_is_a_tag_of_severity_low(bench):
    findings, (event,) = check(bench, prompt="<script>alert(1)</script>", body={"text": "' or 1=1--"})
    assert (event["event"], event["severity"]) == ("THREAT_BODY", "LOW")
    assert {finding.severity for finding in findings} == {"LOW"}
    assert set(event["details"]["where"]) == {"body:prompt", "body:text"}


def test_query_arguments_and_header_pairs_are_read_in_any_form(bench):
    assert check(bench, args={"id": "' or 1=1--"})[0]
    assert check(bench, headers=[("Referer", "../../x")])[0]
    with bench.app.test_request_context("/", headers={"Referer": "../../x"}) as context:
        assert check(bench, headers=context.request.headers)[0]


def test_an_ordinary_request_is_no_event(bench):
    data = {
        "path": "/api/v1/generate/text",
        "query": "",
        "headers": {"Accept": "*/*"},
        "user_agent": "curl/8.5.0",
    }
    assert check(bench, prompt="write a poem", **data) == ([], [])


# Files and threads


def test_import_and_construction_make_no_file_and_no_thread(tmp_path):
    program = (
        "import threading, enhanced_logging\n"
        "enhanced_logging.RequestLogger()\n"
        "assert threading.active_count() == 1\n"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, timeout=30)
    assert list(tmp_path.iterdir()) == []


def test_only_the_logs_that_have_a_line_exist(bench):
    bench.logger.log_security_event("X", "LOW", {})
    bench.logger.flush()
    assert [path.name for path in bench.folder.iterdir()] == ["security_audit.log"]


@pytest.mark.parametrize("shared", [True, False])
def test_three_loggers_write_each_line_once(tmp_path, shared):
    writer = LogWriter() if shared else None
    loggers = [RequestLogger(tmp_path, writer=writer) for _ in range(3)]
    app = Flask("three")
    with app.test_request_context("/"):
        for number, logger in enumerate(loggers):
            logger.log_request_start(str(number))
        for logger in loggers:
            logger.log_request_end("x", 200)
    for logger in loggers:
        logger.close()
    lines = [json.loads(line) for line in (tmp_path / "api_requests.log").read_text().splitlines()]
    told = sorted((line["request_id"], line["event"]) for line in lines)
    assert told == [(str(number), event) for number in range(3) for event in ("REQUEST_END", "REQUEST_START")]
    if writer:
        writer.close()


def test_closing_ends_the_own_writer_and_leaves_a_shared_one_alone(tmp_path):
    before = set(threading.enumerate())
    own = RequestLogger(tmp_path / "own")
    own.log_error("x")
    own.close()
    assert not set(threading.enumerate()) - before  # others may end meanwhile
    shared = LogWriter()
    RequestLogger(tmp_path / "shared", writer=shared).close()
    assert not shared.closed
    shared.close()


def test_a_log_folder_that_cannot_be_written_breaks_no_request(bench):
    logger = RequestLogger("/proc/no/such/folder")
    with bench.app.test_request_context("/"):
        logger.log_request_start()
        logger.log_request_end("x", 500)
        logger.log_error(ValueError("x"))
        logger.log_security_event("X", "LOW", {})
    logger.close()


def test_sixteen_threads_of_hostile_requests_lose_no_line_at_rotation(tmp_path):
    max_bytes, backups = 50_000, 400
    logger = RequestLogger(tmp_path, max_bytes=max_bytes, backups=backups)
    app = Flask("load")

    def work(number):
        for count in range(60):
            with app.test_request_context("/x\u2028y", headers={"User-Agent": "\x1b[2J" + "z" * 500}):
                logger.log_request_start(f"{number}-{count}")
                logger.log_request_end({"code": "x\ny"}, 400 if count % 2 else 200)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    logger.close()
    parts = list(tmp_path.glob("api_requests.log*"))
    lines = [json.loads(line) for part in parts for line in part.read_bytes().split(b"\n")[:-1]]
    for event in ("REQUEST_START", "REQUEST_END"):
        assert len({line["request_id"] for line in lines if line["event"] == event}) == 16 * 60
    assert len(lines) == 2 * 16 * 60
    assert len(parts) > 5
    assert all(part.stat().st_size <= max_bytes for part in tmp_path.iterdir())
