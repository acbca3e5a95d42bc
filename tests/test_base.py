"""How an ask is put to a provider: wording, models in order, one repair, and everything billed noted."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from errors import (
    CallerLeft,
    ContentBlocked,
    InvalidReply,
    ModelGone,
    ModelUnknown,
    Overloaded,
    UpstreamFault,
    UpstreamRateLimited,
)
from gemini_wrapper import GeminiProvider
from providers.asking import Meter, Terms, answer_from
from providers.base import Billed, Call, Piece, Provider, Reply
from providers.breaker import OPEN, Breaker
from providers.retry import Guard, RetryPolicy
from providers.sandbox import SandboxProvider
from taps import Beginning
from tasks import TEMPERATURES, Ask, Task, Usage
from wording import word

ONE = Usage(10, 1)
FIRST = Billed("scripted", "served-first", ONE)


class Scripted:
    """A provider that follows a script of replies and faults, and remembers how it was called."""

    name = "scripted"
    offers: frozenset[str] = frozenset()

    def __init__(self, *script: Any, models: Sequence[str] = ("first",)) -> None:
        self._script, self._models = list(script), tuple(models)
        self.calls: list[Call] = []
        self.closed = 0
        self.gone: list[str] = []

    def models(self, requested: str | None, embeds: bool = False) -> Sequence[str]:
        return self._models if requested is None else (requested,)

    def call(self, call: Call) -> Reply:
        self.calls.append(call)
        outcome = self._script.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome if isinstance(outcome, Reply) else Reply(outcome, ONE, f"served-{call.model}")

    def stream(self, call: Call) -> Generator[Piece, None, Reply]:
        """A script's line is then a list of pieces, with a reply or a fault at its end."""
        self.calls.append(call)
        *pieces, outcome = self._script.pop(0)
        try:
            yield from pieces
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome
        finally:
            self.closed += 1

    def retired(self, model: str) -> None:
        self.gone.append(model)

    def warm(self) -> None:
        """There is nothing to load."""


def ask_for(task: Task = Task.TEXT, **options: Any) -> Ask:
    categories = ("yes", "no") if task is Task.CLASSIFY else ()
    return Ask(task, "the input", time.monotonic() + 60, categories, **options)


def put(provider: Provider, ask: Ask, most_tokens: int = 100) -> tuple[Reply, Meter]:
    meter = Meter(len)
    policy = RetryPolicy(sleep=lambda seconds: None, jitter=lambda low, high: 0.0)
    return answer_from(provider, ask, meter, Terms(policy, most_tokens)), meter


def failed(provider: Provider, ask: Ask, kind: type[Exception]) -> tuple[Any, Meter]:
    meter = Meter(len)
    policy = RetryPolicy(sleep=lambda seconds: None, jitter=lambda low, high: 0.0)
    with pytest.raises(kind) as failure:
        answer_from(provider, ask, meter, Terms(policy, 100))
    return failure.value, meter


def test_the_adapters_are_providers():
    providers: list[Provider] = [SandboxProvider(), GeminiProvider("any-key", "model")]
    assert [provider.name for provider in providers] == ["sandbox", "gemini"]


@pytest.mark.parametrize("task", list(TEMPERATURES))
def test_a_provider_gets_the_tasks_wording_and_its_reply_is_read_as_the_task_promises(task):
    said = {Task.TEXT: "words", Task.CODE: "```\nx = 1\n```", Task.CLASSIFY: '{"category": "no"}'}[task]
    provider = Scripted(said)
    ask = ask_for(task)
    reply, meter = put(provider, ask)
    assert reply.text == {Task.TEXT: "words", Task.CODE: "x = 1", Task.CLASSIFY: "no"}[task]
    (call,) = provider.calls
    assert (call.model, call.wording) == ("first", word(ask))
    assert 30 < call.seconds <= 60
    assert (meter.charges, meter.attempts, meter.unknown_attempts) == ([FIRST], 1, 0)


@pytest.mark.parametrize(("asked", "allowed", "sent"), [(None, 100, 100), (7, 100, 7), (500, 100, 100)])
def test_the_cap_on_tokens_is_the_lower_one(asked, allowed, sent):
    provider = Scripted("x")
    put(provider, ask_for(max_tokens=asked), allowed)
    assert provider.calls[0].max_tokens == sent


def test_a_cut_reply_stays_marked_as_cut():
    reply, _ = put(Scripted(Reply("half", ONE, "m", whole=False)), ask_for())
    assert not reply.whole


def test_one_repair_is_made_and_both_calls_are_noted():
    provider = Scripted("maybe", "yes")
    reply, meter = put(provider, ask_for(Task.CLASSIFY))
    assert reply.text == "yes"
    assert [call.wording for call in provider.calls] == [
        word(ask_for(Task.CLASSIFY)),
        word(ask_for(Task.CLASSIFY), repair=True),
    ]
    assert meter.charges == [FIRST] * 2


def test_there_is_no_second_repair():
    provider = Scripted("maybe", "perhaps", "yes")
    failure, meter = failed(provider, ask_for(Task.CLASSIFY), InvalidReply)
    assert "maybe" not in str(failure)
    assert len(provider.calls) == len(meter.charges) == 2


def test_a_fault_during_the_repair_keeps_the_first_charge():
    _, meter = failed(
        Scripted("maybe", ContentBlocked(usage=Usage(3, 0), model="m")),
        ask_for(Task.CLASSIFY),
        ContentBlocked,
    )
    assert meter.charges == [FIRST, Billed("scripted", "m", Usage(3, 0))]


def test_a_model_that_is_gone_is_reported_and_the_next_one_answers():
    provider = Scripted(ModelGone(), ModelGone(), "here", models=("a", "b", "c"))
    reply, meter = put(provider, ask_for())
    assert reply.text == "here"
    assert ([call.model for call in provider.calls], provider.gone) == (["a", "b", "c"], ["a", "b"])
    assert (meter.attempts, len(meter.charges)) == (3, 1)


def test_only_a_missing_model_moves_on_to_the_next():
    provider = Scripted(UpstreamFault(), "never", models=("a", "b"))
    failed(provider, ask_for(), UpstreamFault)
    assert len(provider.calls) == 1


def test_with_every_model_gone_the_failure_is_the_providers():
    failure, _ = failed(Scripted(ModelGone(), ModelGone(), models=("a", "b")), ask_for(), ModelGone)
    assert (failure.status, failure.field) == (502, None)


def test_a_provider_without_any_model_is_a_failure_and_no_answer():
    failed(Scripted(models=()), ask_for(), ModelGone)


def test_a_model_that_the_caller_named_is_the_callers_to_correct():
    failure, _ = failed(Scripted(ModelGone()), ask_for(model="mine"), ModelUnknown)
    assert (failure.status, failure.field) == (400, "model")


def test_a_passing_fault_is_tried_again_with_the_same_words():
    provider = Scripted(UpstreamRateLimited(transient=True, delay=1), "x")
    _, meter = put(provider, ask_for())
    assert provider.calls[0].wording == provider.calls[1].wording
    assert (meter.attempts, meter.charges) == (2, [FIRST])


def test_what_may_have_been_billed_unseen_is_counted_apart():
    lost = UpstreamFault(transient=True, unknown=True)
    _, meter = put(Scripted(lost, lost, "x"), ask_for())
    assert (meter.attempts, meter.unknown_attempts) == (3, 2)


def test_a_refusal_of_our_own_gate_is_no_attempt():
    _, meter = failed(Scripted(Overloaded()), ask_for(), Overloaded)
    assert (meter.attempts, meter.charges) == (0, [])


def test_counts_are_estimated_from_all_that_was_sent_and_received_where_the_provider_gave_none():
    ask = ask_for(Task.CODE)
    _, meter = put(Scripted(Reply("x = 1", None, "m")), ask)
    wording = word(ask)
    counted = Usage(len(wording.system) + len(wording.text), 5, estimated=True)
    assert meter.charges == [Billed("scripted", "m", counted)]


def test_half_a_surrogate_pair_in_a_reply_is_replaced_before_anybody_stumbles_over_it():
    reply, _ = put(Scripted("caf\u00e9 \ud83d \U0001f642"), ask_for())
    assert reply.text == "caf\u00e9 ? \U0001f642"


def test_a_count_of_zero_is_a_count():
    _, meter = put(Scripted(Reply("x", Usage(0, 0), "m")), ask_for())
    assert meter.charges == [Billed("scripted", "m", Usage(0, 0))]


def test_a_call_is_a_value_that_the_gate_may_shorten():
    provider = Scripted("x")
    put(provider, ask_for())
    assert replace(provider.calls[0], seconds=1.0).wording is provider.calls[0].wording


# Streams.


class Listener:
    """A tap that remembers, and leaves after so many texts."""

    def __init__(self, stays: int = 100) -> None:
        self.begun: list[Beginning] = []
        self.said: list[str] = []
        self.ended, self._stays = 0, stays

    def begin(self, beginning: Beginning) -> None:
        self.begun.append(beginning)

    def say(self, text: str) -> None:
        if len(self.said) == self._stays:
            raise CallerLeft()
        self.said.append(text)

    def end(self) -> None:
        self.ended += 1


def streamed(
    provider: Provider, listener: Listener, ask: Ask | None = None, guard: Guard | None = None
) -> tuple[Reply | Exception, Meter]:
    meter = Meter(len, tap=listener)
    policy = RetryPolicy(sleep=lambda seconds: None, jitter=lambda low, high: 0.0)
    try:
        return answer_from(provider, ask or ask_for(), meter, Terms(policy, 100), guard), meter
    except (UpstreamFault, CallerLeft) as failure:
        return failure, meter


SENT = len("the input")
LOST = UpstreamFault(transient=True, unknown=True)


def test_a_stream_is_passed_on_as_it_comes_and_billed_as_its_reply_says():
    listener = Listener()
    provider = Scripted([Piece("one "), Piece("two", "late"), Reply("one two", Usage(9, 4), "m")])
    reply, meter = streamed(provider, listener)
    assert isinstance(reply, Reply)
    assert (reply.text, listener.said, listener.ended) == ("one two", ["one ", "two"], 1)
    assert listener.begun == [Beginning("scripted", "first", 1)]
    assert (meter.charges, meter.attempts, provider.closed) == ([Billed("scripted", "m", Usage(9, 4))], 1, 1)


def test_the_beginning_says_what_is_known_by_then():
    listener = Listener()
    streamed(Scripted([Piece("x", "served\nby", ignored=("stop",)), Reply("x", ONE, "m")]), listener)
    assert listener.begun == [Beginning("scripted", "served?by", 1, ignored=("stop",))]


def test_a_stream_without_counts_is_estimated_whole():
    _, meter = streamed(Scripted([Piece("one"), Reply("one", None, "m")]), Listener())
    assert meter.charges == [Billed("scripted", "m", Usage(SENT, 3, estimated=True))]


def test_half_a_surrogate_pair_is_replaced_in_pieces_too():
    listener = Listener()
    reply, _ = streamed(Scripted([Piece("a\ud83d"), Reply("a\ud83d", ONE, "m")]), listener)
    assert isinstance(reply, Reply)
    assert "".join(listener.said) == reply.text == "a?"


def test_before_its_first_piece_a_stream_is_tried_again_and_begins_once():
    listener = Listener()
    reply, meter = streamed(Scripted([LOST], [Piece("x"), Reply("x", ONE, "m")]), listener)
    assert isinstance(reply, Reply)
    assert [beginning.attempts for beginning in listener.begun] == [2]
    assert (meter.attempts, meter.unknown_attempts, len(meter.charges)) == (2, 1, 1)


@pytest.mark.parametrize(
    ("pieces", "fault", "usage"),
    [
        # Nobody counted: estimated as far as it came.
        ([Piece("one "), Piece("two")], LOST, Usage(SENT, 7, estimated=True)),
        # Counted so far on the way.
        ([Piece("one ", usage=Usage(9, 2)), Piece("two", usage=Usage(9, 4))], LOST, Usage(9, 4)),
        # Counted at the beginning only: the output is at least what came.
        ([Piece("one two", usage=Usage(9, 1, estimated=True))], LOST, Usage(9, 7, estimated=True)),
        # What was told once holds where a later piece says nothing of it.
        (
            [Piece("one ", usage=Usage(20, 1, estimated=True)), Piece("two")],
            LOST,
            Usage(20, 7, estimated=True),
        ),
        # The fault knows it best.
        ([Piece("one", usage=Usage(9, 1))], InvalidReply(transient=True, usage=Usage(9, 5)), Usage(9, 5)),
        (
            [Piece("one two", usage=Usage(9, 1, estimated=True))],
            UpstreamFault(transient=True, usage=Usage(9, 1, estimated=True)),
            Usage(9, 7, estimated=True),
        ),
    ],
)
def test_a_stream_that_breaks_is_billed_once_as_far_as_it_came_and_never_tried_again(pieces, fault, usage):
    fault = type(fault)(transient=fault.transient, unknown=fault.unknown, usage=fault.usage)
    listener = Listener()
    provider = Scripted([*pieces, fault], [Piece("never"), Reply("never", ONE, "m")])
    failure, meter = streamed(provider, listener)
    assert failure is fault
    assert (fault.begun, fault.unknown) == (True, False)
    assert (meter.charges, meter.attempts) == ([Billed("scripted", "first", usage)], 1)
    assert (meter.unknown_attempts, meter.unknown_nano) == (0, 0)
    assert (len(provider.calls), provider.closed, listener.ended) == (1, 1, 0)


def test_a_caller_who_leaves_is_billed_for_what_came_and_the_provider_is_hung_up_on():
    listener = Listener(stays=1)
    provider = Scripted([Piece("one ", "m"), Piece("two"), Piece("three"), Reply("one two three", ONE, "m")])
    failure, meter = streamed(provider, listener)
    assert isinstance(failure, CallerLeft)
    assert (listener.said, provider.closed, len(provider.calls)) == (["one "], 1, 1)
    assert meter.charges == [Billed("scripted", "first", Usage(SENT, 7, estimated=True))]
    assert (meter.attempts, meter.unknown_attempts) == (1, 0)


def test_a_stream_that_breaks_after_it_began_counts_against_the_service():
    """Else one whose streams all die on the way would never be left alone."""
    breaker = Breaker(failures_to_open=3, jitter=lambda low, high: 0.0)
    for _ in range(3):
        fault = UpstreamFault(transient=True, unknown=True)
        streamed(Scripted([Piece("one"), fault]), Listener(), guard=Guard(breaker))
    assert breaker.state == OPEN


def test_a_caller_who_leaves_says_nothing_about_the_service():
    breaker = Breaker(failures_to_open=1)
    provider = Scripted([Piece("one"), Reply("one", ONE, "m")])
    streamed(provider, Listener(stays=0), guard=Guard(breaker))
    assert breaker.state != OPEN


def test_a_bug_of_an_adapter_in_a_stream_may_have_been_billed():
    meter = Meter(len, bound=lambda provider, call: 70, tap=Listener())
    with pytest.raises(ZeroDivisionError):
        meter.run(Scripted([Piece("one"), ZeroDivisionError()]), Call("m", word(ask_for()), 9, 1.0))
    assert (meter.attempts, meter.unknown_attempts, meter.unknown_nano) == (1, 1, 70)


# What calls hold of a budget.

BOUND = 70


@pytest.mark.parametrize(
    ("outcome", "covered"),
    [
        # It cost nothing, or was never made: the next call needs no more than this one did.
        (UpstreamFault(), [BOUND]),
        (UpstreamRateLimited(transient=True), [BOUND]),
        (Overloaded(), [BOUND]),
        # It was billed, or may have been.
        ("a reply", [BOUND, 2 * BOUND]),
        (UpstreamFault(usage=ONE), [BOUND, 2 * BOUND]),
        (LOST, [BOUND, 2 * BOUND]),
        (ZeroDivisionError(), [BOUND, 2 * BOUND]),
        (CallerLeft(), [BOUND, 2 * BOUND]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_a_call_gives_back_what_it_held_only_if_it_cost_nothing(outcome, covered):
    seen: list[int | None] = []
    meter = Meter(
        len, bound=lambda provider, call: BOUND, cover=lambda provider, call, nano: seen.append(nano)
    )
    provider, call = Scripted(outcome, "a reply"), Call("m", word(ask_for()), 9, 1.0)
    with suppress(UpstreamFault, Overloaded, ZeroDivisionError, CallerLeft):
        meter.run(provider, call)
    meter.run(provider, call)
    assert seen == covered


def test_a_call_for_which_covering_left_no_time_holds_nothing_and_is_not_made():
    now = [0.0]

    def cover(provider: str, call: Call, nano: int | None) -> None:
        seen.append(nano)
        now[0] += 5.0

    seen: list[int | None] = []
    meter = Meter(len, bound=lambda provider, call: BOUND, cover=cover, timer=lambda: now[0])
    provider, call = Scripted("a reply", "a reply"), Call("m", word(ask_for()), 9, 5.0)
    with pytest.raises(Overloaded):
        meter.run(provider, call)
    assert (provider.calls, meter.attempts) == ([], 0)
    meter.run(provider, call)
    assert seen == [BOUND]


def test_embeddings_ask_for_no_output_and_for_a_model_that_makes_them():
    provider = SandboxProvider()
    ask = Ask(Task.EMBED, "a\nb", time.monotonic() + 60, inputs=("a", "b"))
    reply, meter = put(provider, ask)
    assert len(json.loads(reply.text)) == 2
    assert Terms(RetryPolicy(), 100).output_tokens(ask) == 0
    assert [charge.model for charge in meter.charges] == ["sandbox-1"]
