"""How an ask is put to a provider: wording, models in order, one repair, and everything billed noted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from errors import (
    ContentBlocked,
    InvalidReply,
    ModelGone,
    ModelUnknown,
    Overloaded,
    UpstreamFault,
    UpstreamRateLimited,
)
from gemini_wrapper import GeminiProvider
from providers.base import Billed, Call, Meter, Provider, Reply, Terms, answer_from
from providers.retry import RetryPolicy
from providers.sandbox import SandboxProvider
from tasks import TEMPERATURES, Ask, Task, Usage, word

ONE = Usage(10, 1)
FIRST = Billed("scripted", "served-first", ONE)


class Scripted:
    """A provider that follows a script of replies and faults, and remembers how it was called."""

    name = "scripted"
    offers: frozenset[str] = frozenset()

    def __init__(self, *script: Any, models: Sequence[str] = ("first",)) -> None:
        self._script, self._models = list(script), tuple(models)
        self.calls: list[Call] = []
        self.gone: list[str] = []

    def models(self, requested: str | None, embeds: bool = False) -> Sequence[str]:
        return self._models if requested is None else (requested,)

    def call(self, call: Call) -> Reply:
        self.calls.append(call)
        outcome = self._script.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome if isinstance(outcome, Reply) else Reply(outcome, ONE, f"served-{call.model}")

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
    assert 59 < call.seconds <= 60
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
