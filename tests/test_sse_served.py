"""Streams over a real socket: readers who leave, who read slowly or never, and what is left of them."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from conftest import House
from errors import DeadlineExceeded
from services import build_services
from tests.ledger_house import rows
from tests.readers import CODE, LONG, Reader, said, wait_until
from tests.streamed import Directed, Served
from tests.upstream import CANARY

PROMPT = {"prompt": "Tell me about rivers.", "stream": True}
# What the directed provider's ten tokens in and five out cost.
COST = 10 * 250 + 5 * 1500


class Stage:
    """A served house, its directed provider, and readers who all go home in the end."""

    def __init__(self, house: House, provider: Directed, served: Served) -> None:
        self.house, self.provider, self.served = house, provider, served
        self.readers: list[Reader] = []

    def reader(self, body: Any = PROMPT, **options: Any) -> Reader:
        self.readers.append(Reader(self.served.port, body, **options))
        return self.readers[-1]

    def called(self) -> None:
        """Wait until the provider has been called."""
        assert self.provider.called.acquire(timeout=LONG)

    def rows(self) -> list[Any]:
        """The ledger, once nothing of any stream is left."""
        assert wait_until(self.served.quiet)
        return rows(self.house.services.ledger)

    def close(self) -> None:
        for reader in self.readers:
            reader.leave()
        self.provider.end()
        assert self.house.services.roads.wait(LONG)
        self.served.__exit__()


@pytest.fixture
def stage(make_house, settings) -> Iterator[Callable[..., Stage]]:
    begun: list[Stage] = []

    def begin(*, slow_reader_seconds: float = LONG, **changes: Any) -> Stage:
        provider = Directed()
        known = {"port": 0, "threads": 16, "stream_heartbeat_seconds": 0.02} | changes
        services = build_services(replace(settings, **known), provider=provider)
        house = make_house(services, **known)
        served = Served(house, slow_reader_seconds=slow_reader_seconds).__enter__()
        begun.append(Stage(house, provider, served))
        return begun[-1]

    yield begin
    for each in begun:
        each.close()


def first_event(reader: Reader) -> Iterator[tuple[str, Any]]:
    """Read the head and one event; the rest is there to be read."""
    assert reader.head()[0] == 200
    told = reader.events()
    assert next(told)[0] == "message"
    return told


# Readers who stay.


def test_the_first_piece_is_there_while_the_provider_still_writes_and_silences_are_filled(stage):
    play = stage()
    reader = play.reader()
    play.called()
    play.provider.say("one")
    status, headers = reader.head()
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert headers["x-accel-buffering"] == "no"
    assert "content-length" not in headers
    told = reader.events()
    assert next(told) == ("message", {"generated_text": "one"})
    assert not play.provider.closed.is_set()
    assert [next(told), next(told)] == [("comment", "heartbeat")] * 2
    play.provider.say(" two")
    play.provider.end()
    (piece, bill) = [event for event in told if event[0] != "comment"]
    assert piece == ("message", {"generated_text": " two"})
    assert bill[1]["cost"]["total"] == f"{COST / 1e9:.9f}"
    (row,) = play.rows()
    assert (row["status"], row["cost_nano"], row["request_id"]) == (200, COST, headers["x-request-id"])


def test_a_client_of_http_1_0_gets_the_same_events_without_chunks(stage):
    play = stage()
    reader = play.reader(version="1.0")
    play.provider.say("one", " two")
    play.provider.end()
    _, headers = reader.head()
    assert "transfer-encoding" not in headers
    told = [event for event in reader.events() if event[0] != "comment"]
    assert said(told) == "one two"
    assert told[-1][0] == "bill"


def test_a_client_that_has_said_its_last_word_still_hears_everything(stage):
    """As `nc` does: half-closed is not gone."""
    play = stage()
    reader = play.reader()
    reader.socket.shutdown(socket.SHUT_WR)
    play.called()
    play.provider.say("one")
    told = first_event(reader)
    assert [next(told)[0] for _ in range(5)] == ["comment"] * 5
    play.provider.say(" two")
    play.provider.end()
    assert list(told)[-1][0] == "bill"
    assert [row["status"] for row in play.rows()] == [200]


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_only_a_post_streams(stage, method):
    play = stage()
    with socket.create_connection(("127.0.0.1", play.served.port), LONG) as connection:
        connection.sendall(
            f"{method} {CODE} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        reply = b"".join(iter(lambda: connection.recv(65536), b""))
    assert reply.startswith(b"HTTP/1.1 405")
    assert play.provider.calls == []


# Readers who leave.

HOW = pytest.mark.parametrize("reset", [True, False], ids=["reset", "politely"])


def assert_left(play: Stage, row: Any, text: str) -> None:
    """One row, estimated from what came; the provider was hung up on, and nobody gets the half of an answer."""
    estimate = play.house.services.tracker._counter.count_tokens
    assert (row["state"], row["status"], row["cache_status"]) == ("settled", 499, "miss")
    assert row["output_tokens"] == estimate(text)
    assert row["cost_nano"] == row["input_tokens"] * 250 + row["output_tokens"] * 1500 > 0
    assert row["estimated"]
    assert play.provider.hung_up.is_set()
    assert play.house.services.cache.size() == 0


@HOW
def test_a_reader_who_leaves_before_the_head_is_billed_as_far_as_it_came(stage, reset):
    play = stage()
    reader = play.reader()
    play.called()
    reader.leave(reset=reset)
    text = speak_until_hung_up(play)
    (row,) = play.rows()
    assert_left(play, row, text)


@HOW
def test_a_reader_who_leaves_after_the_first_event_is_billed_as_far_as_it_came(stage, reset):
    play = stage()
    reader = play.reader()
    play.provider.say("one")
    first_event(reader)
    reader.leave(reset=reset)
    text = speak_until_hung_up(play)
    (row,) = play.rows()
    assert_left(play, row, "one" + text)


def speak_until_hung_up(play: Stage) -> str:
    """Go on piece by piece; what was said until somebody hung up on the provider."""
    text = ""
    for number in range(500):
        if play.provider.hung_up.wait(0.01):
            return text
        text += f" {number}"
        play.provider.say(f" {number}")
    raise AssertionError("nobody hung up")


@HOW
def test_a_reader_who_leaves_in_a_silence_is_found_by_the_heartbeat(stage, reset):
    """Its thread is free at once; the provider learns of it with its next piece."""
    play = stage()
    reader = play.reader()
    play.provider.say("one")
    first_event(reader)
    assert play.served.at_work == 1
    reader.leave(reset=reset)
    assert wait_until(lambda: play.served.at_work == 0)
    assert play.house.services.roads.under_way() == 1
    assert not play.provider.hung_up.is_set()
    play.provider.say(" two")
    assert play.provider.hung_up.wait(LONG)
    (row,) = play.rows()
    assert_left(play, row, "one two")


def test_a_reader_who_leaves_while_the_provider_hangs_is_billed_when_its_time_is_up(stage):
    play = stage()
    reader = play.reader()
    play.provider.say("one")
    first_event(reader)
    reader.leave()
    assert wait_until(lambda: play.served.at_work == 0)
    play.provider.fail(DeadlineExceeded(unknown=True))
    (row,) = play.rows()
    assert (row["state"], row["status"], row["attempts"], row["unknown_attempts"]) == ("settled", 504, 1, 0)
    assert row["cost_nano"] > 0
    assert row["estimated"]


def test_a_reader_who_leaves_after_the_last_piece_has_its_whole_answer_paid_and_kept(stage):
    play = stage()
    reader = play.reader()
    play.provider.say("one")
    first_event(reader)
    play.provider.end()
    assert play.provider.closed.wait(LONG)
    reader.leave()
    (row,) = play.rows()
    assert (row["status"], row["cost_nano"], row["estimated"]) == (200, COST, 0)
    again = play.reader()
    assert again.head()[1]["x-cache-status"] == "hit"


def test_those_who_wait_for_the_same_answer_get_it_when_the_first_one_leaves(stage):
    play = stage()
    leader = play.reader()
    play.provider.say("half of")
    first_event(leader)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(ask_plainly, play), pool.submit(ask_streamed, play)]
        assert wait_until(lambda: play.house.services.flights.waiting() == 2)
        leader.leave()
        assert wait_until(lambda: play.served.at_work == 2)
        play.provider.say(" an answer")
        assert play.provider.hung_up.wait(LONG)
        play.called()
        play.called()
        play.provider.say("a whole", " answer")
        play.provider.end()
        assert [each.result(LONG) for each in waiting] == ["a whole answer"] * 2
    told = play.rows()
    assert Counter(row["status"] for row in told) == {200: 2, 499: 1}
    assert Counter(row["cache_status"] for row in told if row["status"] == 200) == {"miss": 1, "coalesced": 1}
    assert len(play.provider.calls) == 2


def test_when_two_who_lead_leave_in_turn_the_third_gets_a_whole_answer_and_each_pays_its_own_part(stage):
    play = stage()
    first = play.reader()
    play.called()
    second = play.reader()
    leaves_to_the_next(play, first, "half")
    with ThreadPoolExecutor(1) as pool:
        third = pool.submit(ask_streamed, play)
        leaves_to_the_next(play, second, "a third")
        play.provider.say("a whole", " answer")
        play.provider.end()
        assert third.result(LONG) == "a whole answer"
    told = play.rows()
    assert [(row["status"], row["cache_status"]) for row in told] == [
        (499, "miss"),
        (499, "miss"),
        (200, "miss"),
    ]
    count = play.house.services.tracker._counter.count_tokens
    assert [row["output_tokens"] for row in told] == [count("half more"), count("a third more"), 5]
    costs = [row["input_tokens"] * 250 + row["output_tokens"] * 1500 for row in told]
    assert [row["cost_nano"] for row in told] == costs
    assert costs[-1] == COST
    assert play.house.services.ledger.overall_nano("anonymous") == sum(costs)
    assert len(play.provider.calls) == 3


def leaves_to_the_next(play: Stage, leader: Reader, text: str) -> None:
    """The one who leads hears a piece and leaves; the one who waits is the next for whom the provider is called."""
    assert wait_until(lambda: play.house.services.flights.waiting() == 1)
    play.provider.hung_up.clear()
    play.provider.say(text)
    first_event(leader)
    leader.leave()
    assert wait_until(lambda: play.served.at_work == 1)
    play.provider.say(" more")
    assert play.provider.hung_up.wait(LONG)
    play.called()


def ask_plainly(play: Stage) -> str:
    reader = Reader(play.served.port, {"prompt": PROMPT["prompt"]})
    assert reader.head()[0] == 200
    told = json.loads(reader.text())["generated_text"]
    reader.leave()
    return told


def ask_streamed(play: Stage) -> str:
    reader = Reader(play.served.port, PROMPT)
    assert reader.head()[0] == 200
    told = said(reader.events())
    reader.leave()
    return told


def test_twenty_readers_who_all_leave_at_different_moments_leave_twenty_rows_and_nothing_else(stage):
    play = stage()
    for number in range(20):
        play.provider.hung_up.clear()  # while nothing is under way: the next hang-up may come with the leaving
        reader = play.reader({"prompt": f"river {number}", "stream": True})
        play.called()
        for _ in range(number % 5):
            play.provider.say("more ")
        if number % 5:
            first_event(reader)
        reader.leave(reset=number % 2 == 0)
        speak_until_hung_up(play)
        assert wait_until(play.served.quiet)
        while not play.provider._lines.empty():
            play.provider._lines.get()
    told = play.rows()
    assert Counter(row["status"] for row in told) == {499: 20}
    # A thread that has done its work takes a moment to end.
    assert wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "stream"])


# Readers who are slow.

PIECE = "x" * 2**16


def test_a_reader_that_has_stopped_holds_a_thread_no_longer_than_its_patience(stage):
    """More than any socket buffer takes; the answer is complete and paid, whoever reads it."""
    play = stage(slow_reader_seconds=0.2)
    reader = play.reader(buffer=4096)
    play.provider.say("begin", *[PIECE] * 256)
    first_event(reader)
    play.provider.end()
    (row,) = play.rows()
    assert (row["status"], row["cost_nano"]) == (200, COST)
    assert wait_until(lambda: not play.served.server.active_channels), "its connection is closed as well"


def test_a_reader_that_is_only_slow_gets_all_of_it(stage):
    play = stage()
    reader = play.reader(buffer=4096)
    play.provider.say("begin", *[PIECE] * 192)
    play.provider.end()
    told = first_event(reader)
    watermark = play.served.server.adj.outbuf_high_watermark
    (channel,) = play.served.server.active_channels.values()
    assert wait_until(lambda: channel.total_outbufs_len > watermark)
    assert said(told) == PIECE * 192
    assert [row["status"] for row in play.rows()] == [200]


def test_a_connection_whose_reader_has_stopped_ends_after_its_timeout(stage):
    """The answer waits in our buffer, and no thread with it."""
    play = stage()
    play.served.server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    reader = play.reader(buffer=4096)
    play.provider.say("begin", *[PIECE] * 8)
    first_event(reader)
    play.provider.end()
    assert [row["status"] for row in play.rows()] == [200]
    server = play.served.server
    (channel,) = server.active_channels.values()
    assert channel.total_outbufs_len > 0
    server.adj.channel_timeout = server.adj.cleanup_interval = 0
    server.next_channel_cleanup = 0
    assert wait_until(lambda: not server.active_channels)


# What is told of a stream once it is over.


def ends(play: Stage) -> list[dict[str, Any]]:
    play.rows()
    lines = [json.loads(line) for line in play.house.lines("api_requests.log")]
    assert Counter(line["event"] for line in lines)["REQUEST_START"] == len(play.readers)
    return [line for line in lines if line["event"] == "REQUEST_END"]


def test_the_end_line_is_written_when_the_stream_ends_and_says_what_became_of_it(stage):
    play = stage()
    reader = play.reader()
    play.provider.say("one")
    told = first_event(reader)
    assert play.house.lines("api_requests.log")[1:] == []
    play.provider.end()
    bill = list(told)[-1][1]
    (line,) = ends(play)
    assert (line["request_id"], line["status"], line["cached"]) == (bill["request_id"], 200, False)
    assert line["cost"] == {"cost_nanodollars": COST, "cache_status": "miss"}


@pytest.mark.parametrize(
    ("mode", "shown"), [("off", False), ("redacted", True), ("full", True)], ids=["off", "redacted", "full"]
)
def test_the_texts_of_a_stream_are_logged_as_prompt_log_says(stage, mode, shown):
    play = stage(prompt_log=mode)
    reader = play.reader({"prompt": "words of the caller", "stream": True})
    play.provider.say("words of", " the model")
    play.provider.end()
    first_event(reader)
    (line,) = ends(play)
    assert (line.get("prompt"), line.get("response")) == (
        ("words of the caller", "words of the model") if shown else (None, None)
    )
    everything = "".join(play.house.lines("api_requests.log") + play.house.lines("cost_tracking.log"))
    assert ("words of" in everything) is shown


def test_a_reader_who_left_is_499_in_the_log_and_in_the_metrics(stage):
    play = stage()
    reader = play.reader()
    play.provider.say("one")
    first_event(reader)
    reader.leave()
    speak_until_hung_up(play)
    (line,) = ends(play)
    assert line["status"] == 499
    (failed,) = [json.loads(line) for line in play.house.lines("api_errors.log")]
    assert (failed["event"], failed["code"], failed["level"]) == ("REQUEST_ERROR", "caller_left", "WARNING")
    metrics = play.house.client.get("/metrics").text
    assert (
        'llm_request_seconds_count{method="POST",route="/api/v1/generate/text",status="499"} 1.0' in metrics
    )
    assert 'outcome="caller_left"' in metrics
    assert "llm_streams_in_air 0.0" in metrics


def test_a_bug_of_ours_in_mid_stream_is_an_error_event_that_tells_nothing(stage):
    play = stage()
    reader = play.reader()
    play.provider.say("one")
    told = first_event(reader)
    play.provider.fail(RuntimeError(CANARY))
    rest = [event for event in told if event[0] != "comment"]
    assert [name for name, _ in rest] == ["error"]
    assert (rest[0][1]["code"], CANARY in str(rest)) == ("internal_error", False)
    (row,) = play.rows()
    assert (row["status"], row["unknown_attempts"], row["state"]) == (500, 1, "unknown")
    assert [line["status"] for line in ends(play)] == [500]
    assert CANARY in "".join(play.house.lines("api_errors.log"))
