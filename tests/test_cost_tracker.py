"""Every request is counted once, exactly, in bounded memory, and without its words."""

from __future__ import annotations

import hashlib
import inspect
import json
import subprocess
import sys
import threading
import time
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_tracker import (
    MAX_COUNTED_CHARS,
    MAX_ENDPOINTS,
    MAX_MINUTES,
    MAX_RECORDS,
    CostRecord,
    CostTracker,
    TokenCounter,
    digest,
)
from log_writer import LogWriter
from prices import Rates
from tasks import Bill, Charge, Usage
from tests.cache_contract import run_together
from tokenizer import CL100K_FILE

ROOT = Path(__file__).resolve().parent.parent
NOON = 1_800_000_000.0  # a whole minute
ROUTE = "/api/v1/generate/text"


class Nowhere:
    """A log channel that keeps nothing."""

    def write(self, record: dict[str, Any], *, must_keep: bool = False) -> None:
        assert must_keep


@pytest.fixture
def clock():
    return [NOON]


@pytest.fixture
def tracker(clock):
    return CostTracker(channel=Nowhere(), clock=lambda: clock[0])


@pytest.fixture
def logged(tmp_path):
    """A tracker with a log, and a way to read it."""
    writer = LogWriter()
    path = tmp_path / "costs.log"
    tracker = CostTracker(channel=writer.channel(path, 10**7, 1))

    def lines() -> list[dict[str, Any]]:
        assert writer.flush(5)
        return [json.loads(line) for line in path.read_text().splitlines()]

    yield tracker, lines
    writer.close()


def bill(nano: int | None, **facts: Any) -> Bill:
    return Bill(Usage(10, 5), model="m", provider="gemini", input_nano=nano, output_nano=0, **facts)


def track(tracker: CostTracker, nano: int | None = 100, route: str = ROUTE, **facts: Any) -> CostRecord:
    return tracker.track_request(route, "127.0.0.1", "prompt", "response", bill=bill(nano), **facts)


# The surface that outsiders import.


def positional(function: Any) -> list[tuple[str, Any]]:
    parameters = inspect.signature(function).parameters.values()
    return [(each.name, each.default) for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]


def test_names_order_and_defaults_are_those_that_were_promised():
    nothing = inspect.Parameter.empty
    assert positional(CostTracker)[:1] == [("log_file", "logs/cost_tracking.log")]
    assert positional(CostTracker.track_request)[1:] == [
        ("endpoint", nothing), ("user_ip", nothing), ("prompt", nothing), ("response", nothing), ("cached", False),
    ]  # fmt: skip
    assert positional(CostTracker.get_usage_stats)[1:] == [("hours", 24)]
    assert positional(CostTracker.export_records)[1:] == [("output_file", nothing), ("hours", None)]
    assert positional(CostTracker.cleanup_old_records)[1:] == [("days", 30)]
    assert positional(TokenCounter.count_tokens)[1:] == [("text", nothing)]
    assert positional(TokenCounter.calculate_cost)[1:] == [
        ("input_tokens", nothing),
        ("output_tokens", nothing),
    ]
    assert [field.name for field in fields(CostRecord)][:11] == (
        "timestamp endpoint user_ip prompt response input_tokens output_tokens input_cost output_cost total_cost cached"
    ).split()
    assert (TokenCounter.INPUT_COST_PER_MILLION, TokenCounter.OUTPUT_COST_PER_MILLION) == (0.10, 0.40)


def test_the_stats_have_the_promised_keys(tracker):
    assert set(tracker.get_usage_stats()) >= {
        "period_hours", "total_requests", "cached_requests", "cache_hit_rate", "total_input_tokens",
        "total_output_tokens", "total_cost", "average_cost_per_request", "cost_savings_from_cache", "endpoints",
    }  # fmt: skip


def test_importing_and_building_opens_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(threading.enumerate())
    CostTracker()
    TokenCounter()
    assert list(tmp_path.iterdir()) == []
    assert set(threading.enumerate()) <= before, "others may end meanwhile, and none begins"


def test_a_tracker_by_itself_writes_one_line_per_request_where_it_was_told_to(tmp_path):
    program = (
        "from cost_tracker import CostTracker\n"
        "tracker = CostTracker()\n"
        "for number in range(3): tracker.track_request('/x', '127.0.0.1', 'Hello', 'World', number == 2)\n"
        "print(tracker.get_usage_stats()['total_requests'], tracker.export_records('out/records.json'))\n"
    )
    done = run_apart(program, tmp_path)
    assert done.split() == ["3", "3"]
    lines = (tmp_path / "logs" / "cost_tracking.log").read_text().splitlines()
    assert [json.loads(line)["cached"] for line in lines] == [False, False, True]
    assert len(json.loads((tmp_path / "out" / "records.json").read_text())) == 3


def run_apart(program: str, place: Path) -> str:
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}",
    ]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Counting tokens.


def test_no_text_has_no_tokens_and_some_text_has_some():
    counter = TokenCounter()
    assert counter.count_tokens("") == 0
    for text in ("a", "<|endoftext|>", "<|fim_prefix|>", "\ud800", "\0", "🙂", "日本語", " ", "\n"):
        assert counter.count_tokens(text) >= 1
    assert counter.count_tokens("Hello, world!") in range(3, 6)


def test_text_that_looks_like_a_special_token_is_only_text():
    assert TokenCounter().count_tokens("<|endoftext|>") > 1
    assert TokenCounter().count_tokens("<|endoftext|>" * 100) > 100


def test_a_huge_text_is_counted_in_no_time_and_in_proportion():
    counter, piece = TokenCounter(), "some words of a long text "
    huge = piece * (20_000_000 // len(piece))
    began = time.thread_time()
    count = counter.count_tokens(huge)
    assert time.thread_time() - began < 5.0
    rate = counter.count_tokens(huge[:MAX_COUNTED_CHARS]) / MAX_COUNTED_CHARS
    assert count == pytest.approx(len(huge) * rate, rel=1e-3)


@pytest.mark.parametrize(
    "text", ["a" * 1_000_000, "\n" * 1_000_000, "!?" * 500_000, "🙂" * 250_000, " " * 1_000_000]
)
def test_no_text_is_slow_to_count(text):
    began = time.thread_time()
    TokenCounter().count_tokens(text)
    assert time.thread_time() - began < 5.0


@given(st.text(max_size=200))
def test_any_text_has_a_count(text):
    count = TokenCounter().count_tokens(text)
    assert 0 <= count <= 4 * len(text.encode("utf-8", "surrogatepass")) + 1


@pytest.mark.parametrize("content", [b"", b"not a tokenizer", b"IQ== 0\n" * 10, b"\xff" * 1000], ids=repr)
def test_a_corrupt_tokenizer_file_is_ignored_and_left_alone(tmp_path, content):
    file = tmp_path / CL100K_FILE
    file.write_bytes(content)
    text = "Count these five little words."
    assert TokenCounter(str(tmp_path)).count_tokens(text) == TokenCounter(
        str(tmp_path / "none")
    ).count_tokens(text)
    assert file.read_bytes() == content


def test_the_tokenizers_name_is_the_one_that_tiktoken_looks_for():
    address = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
    assert hashlib.sha1(address.encode()).hexdigest() == CL100K_FILE


def test_with_a_black_holed_network_the_platform_starts_and_counts(tmp_path):
    """Every connection and every look-up of a name is forbidden, and so would end the program."""
    (tmp_path / ".tiktoken").mkdir()
    (tmp_path / ".tiktoken" / CL100K_FILE).write_bytes(b"corrupt")
    program = (
        "def forbid(event, args):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.gethostbyname', 'urllib.Request'):\n"
        "        print('NETWORK', event, args); import os; sys.stdout.flush(); os._exit(3)\n"
        "sys.addaudithook(forbid)\n"
        "import time; began = time.monotonic()\n"
        "from app import app\n"
        "from cost_tracker import CostTracker, TokenCounter\n"
        "assert TokenCounter().count_tokens('Hello, world! <|endoftext|>') > 3\n"
        "CostTracker().track_request('/x', '127.0.0.1', 'Hello', 'World')\n"
        "assert app.test_client().get('/api/v1/health').status_code == 200\n"
        "assert time.monotonic() - began < 20\n"
        "print('done')\n"
    )
    assert run_apart(program, tmp_path).strip() == "done"


# Costs.


@pytest.mark.parametrize(
    ("tokens", "costs"),
    [
        ((0, 0), (0.0, 0.0, 0.0)),
        ((1, 1), (0.0000001, 0.0000004, 0.0000005)),
        ((1_000_000, 1_000_000), (0.10, 0.40, 0.50)),
        ((3, 3), (0.0000003, 0.0000012, 0.0000015)),
    ],
)
def test_the_counters_two_prices_give_exact_dollars(tokens, costs):
    assert TokenCounter().calculate_cost(*tokens) == costs


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_the_counters_costs_are_exact_to_the_nano_dollar(tokens_in, tokens_out):
    given_in, given_out, total = TokenCounter().calculate_cost(tokens_in, tokens_out)
    assert round(Decimal(given_in), 9) == Decimal(tokens_in * 100).scaleb(-9)
    assert round(Decimal(total), 9) == round(Decimal(given_in), 9) + round(Decimal(given_out), 9)


def test_without_a_bill_a_request_is_estimated_and_says_so(tracker):
    record = tracker.track_request(ROUTE, "127.0.0.1", "Hello there", "General answer")
    assert record.estimated
    assert record.cost_nanodollars == record.input_tokens * 100 + record.output_tokens * 400 > 0
    assert tracker.overall_nano == record.cost_nanodollars == record.overall_nanodollars


def test_a_cached_request_costs_nothing_and_says_what_it_saved(tracker):
    paid = tracker.track_request(ROUTE, "127.0.0.1", "Hello there", "General answer")
    hit = tracker.track_request(ROUTE, "127.0.0.1", "Hello there", "General answer", True)
    assert (hit.total_cost, hit.cost_nanodollars, hit.cached) == (0.0, 0, True)
    assert hit.saved_nanodollars == paid.cost_nanodollars
    stats = tracker.get_usage_stats()
    assert (stats["cached_requests"], stats["cache_hit_rate"]) == (1, 0.5)
    assert stats["saved_nanodollars"] == stats["total_cost_nanodollars"] == paid.cost_nanodollars
    assert stats["cost_savings_from_cache"] == pytest.approx(paid.total_cost)
    assert stats["average_cost_per_request"] == pytest.approx(paid.total_cost / 2)
    assert stats["total_input_tokens"] == paid.input_tokens


def test_an_unknown_cost_is_counted_as_unknown_and_adds_nothing(tracker):
    track(tracker, 70)
    record = track(tracker, None)
    assert (record.total_cost, record.cost_nanodollars) == (None, None)
    assert tracker.overall_nano == 70
    stats = tracker.get_usage_stats()
    assert (stats["unknown_cost_requests"], stats["total_cost_nanodollars"]) == (1, 70)


def test_shared_and_failed_requests_are_counted_apart(tracker):
    track(tracker, 0, cache_status="coalesced")
    track(tracker, 0, cache_status="miss", status=502)
    stats = tracker.get_usage_stats()
    assert (stats["coalesced_requests"], stats["failed_requests"], stats["cached_requests"]) == (1, 1, 0)
    assert stats["total_input_tokens"] == 10  # those of the shared one were counted where they were paid


def test_the_running_total_is_exact_under_concurrency(logged):
    tracker, lines = logged

    def act(index: int) -> list[int]:
        return [track(tracker, index + 1).overall_nanodollars for _ in range(100)]

    seen = [total for totals in run_together(8, act) for total in totals]
    assert tracker.overall_nano == max(seen) == sum(range(1, 9)) * 100
    assert len(set(seen)) == 800
    assert sum(line["cost_nanodollars"] for line in lines()) == tracker.overall_nano
    assert len(lines()) == 800


def test_sums_of_nano_dollars_never_drift(tracker):
    for _ in range(3000):
        track(tracker, 100_000_001)  # a tenth of a dollar and a bit, three thousand times
    stats = tracker.get_usage_stats()
    assert stats["total_cost_nanodollars"] == tracker.overall_nano == 3000 * 100_000_001
    assert stats["total_cost"] == 300.000003


def test_each_record_goes_to_the_sink_once():
    seen: list[CostRecord] = []
    tracker = CostTracker(channel=Nowhere(), sink=seen.append)
    assert [track(tracker), track(tracker)] == seen


# Time.


def requests_in(tracker: CostTracker, hours: float) -> int:
    return tracker.get_usage_stats(hours)["total_requests"]


def test_the_window_of_the_stats_has_whole_minutes_and_both_edges(tracker, clock):
    for clock[0] in (NOON - 3660, NOON - 3600, NOON - 3540, NOON - 1, NOON):
        track(tracker)
    assert requests_in(tracker, 1) == 3  # the minute that began an hour ago is over
    assert requests_in(tracker, 2) == 5
    assert requests_in(tracker, 1 / 60) == 1
    assert requests_in(tracker, 0) == 0
    assert tracker.get_usage_stats(2)["period_hours"] == 2
    clock[0] = NOON + 59.9
    assert requests_in(tracker, 1) == 3
    clock[0] = NOON + 60
    assert requests_in(tracker, 1) == 2


def test_requests_leave_the_window_but_never_the_total(tracker, clock):
    track(tracker, 40)
    clock[0] += 25 * 3600
    stats = tracker.get_usage_stats()
    assert (stats["total_requests"], stats["total_cost_nanodollars"]) == (0, 0)
    assert stats["overall_cost_nanodollars"] == tracker.overall_nano == 40


def test_a_clock_that_jumps_back_and_forth_loses_and_breaks_nothing(tracker, clock):
    for clock[0] in (NOON, NOON - 7200, NOON + 86_400, NOON, NOON - 10**9, NOON):
        track(tracker, 10)
    assert tracker.overall_nano == 60
    assert requests_in(tracker, 10**6) == 6
    assert tracker.cleanup_old_records(1) == 1
    assert tracker.overall_nano == 60


# Memory.


def test_memory_holds_the_last_records_only_while_the_sums_stay_whole(tracker, tmp_path):
    for number in range(MAX_RECORDS + 500):
        track(tracker, number)
    out = tmp_path / "records.json"
    assert tracker.export_records(out) == MAX_RECORDS
    assert json.loads(out.read_text())[0]["cost_nanodollars"] == 500
    count = MAX_RECORDS + 500
    assert requests_in(tracker, 1) == count
    assert tracker.overall_nano == count * (count - 1) // 2


def test_memory_holds_a_month_of_minutes(tracker, clock):
    for _ in range(MAX_MINUTES + 100):
        clock[0] += 60
        track(tracker, 1)
    assert requests_in(tracker, 10**6) == MAX_MINUTES
    assert tracker.overall_nano == MAX_MINUTES + 100


def test_a_flood_of_addresses_shares_one_name(tracker):
    for number in range(MAX_ENDPOINTS * 3):
        track(tracker, route=f"/{number}")
    ends = tracker.get_usage_stats()["endpoints"]
    assert len(ends) <= MAX_ENDPOINTS + 1
    assert ends["<other>"]["total_requests"] == MAX_ENDPOINTS * 2
    assert sum(end["total_requests"] for end in ends.values()) == MAX_ENDPOINTS * 3


# Keeping and forgetting.


def test_an_export_is_a_json_list_with_every_field(tracker, tmp_path, clock):
    track(tracker)
    clock[0] += 7200
    track(tracker, None, request_id="abc")
    out = tmp_path / "new" / "place" / "records.json"
    assert tracker.export_records(str(out)) == 2
    first, second = json.loads(out.read_text())
    assert set(first) == {field.name for field in fields(CostRecord)} - {
        "opened",
        "charges",
        "classified",
        "budgets",
        "left_nano",
    } | {"rates"}
    assert (first["cost_nanodollars"], second["cost_nanodollars"], second["request_id"]) == (100, None, "abc")
    assert tracker.export_records(out, hours=1) == 1
    assert tracker.export_records(out, hours=2) == 2  # the edge belongs to the window
    assert [path.name for path in out.parent.iterdir()] == ["records.json"]


def test_an_export_that_fails_leaves_the_older_one_whole(tracker, tmp_path):
    out = tmp_path / "records.json"
    track(tracker)
    tracker.export_records(out)
    before = out.read_text()
    track(tracker)
    (tmp_path / "records.json.part").mkdir()  # so that nothing can be written beside it
    with pytest.raises(OSError, match=r"."):
        tracker.export_records(out)
    assert out.read_text() == before


def test_an_export_takes_prices_with_fractions_of_a_nano_dollar(tracker, tmp_path):
    rates = Rates("m", Decimal("75.5"), 10, 300, "PRICES_FILE")
    tracker.track_request(
        ROUTE, "127.0.0.1", "p", "r", bill=bill(151, charges=(Charge("m", Usage(2, 0), rates),))
    )
    out = tmp_path / "records.json"
    assert tracker.export_records(out) == 1
    (record,) = json.loads(out.read_text())
    (told,) = record["rates"]
    assert Decimal(str(told["input_nano"])) == Decimal("75.5")


def test_old_records_are_forgotten_and_the_total_stays(tracker, clock):
    track(tracker, 10)
    clock[0] += 31 * 86_400
    track(tracker, 5)
    assert tracker.cleanup_old_records() == 1
    assert tracker.cleanup_old_records() == 0
    assert requests_in(tracker, 10**6) == 1
    assert tracker.overall_nano == 15
    assert tracker.cleanup_old_records(days=0) == 0  # this very moment is not old


def test_cleaning_up_while_others_write_loses_no_money(tracker):
    def act(index: int) -> None:
        for _ in range(100):
            tracker.cleanup_old_records() if index == 0 else track(tracker, 1)
            tracker.get_usage_stats()

    assert run_together(4, act) == [None] * 4
    assert tracker.overall_nano == requests_in(tracker, 1) == 300


# Words.


def test_no_word_of_prompt_or_answer_is_kept_by_default(logged, tmp_path):
    tracker, lines = logged
    record = tracker.track_request(ROUTE, "127.0.0.1", "my secret plan", "its hidden answer")
    out = tmp_path / "out.json"
    tracker.export_records(out)
    everything = out.read_text() + json.dumps(lines()) + repr(record)
    assert "secret" not in everything
    assert "hidden" not in everything
    assert "14 characters" in record.prompt


def test_the_same_prompt_can_be_known_again_without_its_words():
    assert digest("one") == digest("one") != digest("two")
    assert digest("") == ""
    assert digest("\ud800").startswith("[1 characters")


def test_words_are_kept_where_the_settings_say_so():
    tracker = CostTracker(channel=Nowhere(), shown=str)
    assert tracker.track_request(ROUTE, "127.0.0.1", "my plan", "answer").prompt == "my plan"


def test_a_line_cannot_be_forged(logged):
    tracker, lines = logged
    tracker.track_request(
        '/x\n{"cost_nanodollars": 1}', "1\r\n2", "p", "r", bill=bill(7), request_id="\u2028\n"
    )
    (line,) = lines()
    assert line["cost_nanodollars"] == 7
