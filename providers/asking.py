"""How an ask is put to a provider: one meter, one policy of attempts, the reply read and checked."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

from chats import ToolCall
from code_facts import CodeFacts, code_facts
from errors import (
    CallerLeft,
    InvalidReply,
    ModelGone,
    ModelUnknown,
    Overloaded,
    PlatformError,
    PromptTooLong,
    UpstreamFault,
)
from providers.base import NO_CODE, Billed, Call, Piece, Provider, Reply, plain_name, whole_characters
from providers.retry import LEAST_SECONDS, Guard, RetryPolicy
from taps import Beginning, Tap
from tasks import Ask, Task, Usage
from wording import Wording, read_reply, word

CUT_SHORT = (
    "`max_tokens` has cut the answer before it named what the categories allow. Send a larger one, or none."
)


def _no_bound(_provider: str, _call: Call) -> int | None:
    return None


def no_cover(_: str, __: Call, ___: int | None) -> None:
    """Where no ledger has to know before a call."""


class Heard:
    """What came of one call's reply so far, for its bill."""

    def __init__(self, call: Call, estimate: Callable[[str], int]) -> None:
        self._call, self._estimate = call, estimate
        self.texts: list[str] = []
        self.model = ""
        self._counted: Usage | None = None

    def note(self, piece: Piece) -> None:
        self.texts.append(piece.text)
        self.model = plain_name(piece.model or self._call.model)
        self._counted = piece.usage or self._counted

    @property
    def usage(self) -> Usage:
        """What the provider counted of the part that came, else an estimate of it."""
        told, guess = self._counted, self.estimated("".join(self.texts))
        if told is None:
            return guess
        more = max(told.output_tokens, guess.output_tokens)
        return replace(told, output_tokens=more) if told.estimated else told

    def estimated(self, text: str) -> Usage:
        """An estimate is a guess, and the cap is none."""
        made = min(self._estimate(text), self._call.max_tokens)
        return Usage(self._estimate(self._call.wording.sent), made, estimated=True)

    def completed(self, fault: UpstreamFault) -> UpstreamFault:
        """A fault after the first piece is billed as far as the reply came, and nobody may try again."""
        if self.texts:
            self._counted = fault.usage or self._counted
            fault.begun, fault.unknown = True, False
            fault.usage, fault.model = self.usage, fault.model or self.model
        return fault


@dataclass(slots=True)
class Meter:
    """What one ask has used upstream so far, failed and repeated calls included. With a tap the calls are streams.

    bound: what a call to that provider costs at most, in nano-dollars; None where its model has no price. cover:
    told before a call what this one and all earlier calls that may be billed come to at most, wherever that is more
    than before. provider: who was called last.
    """

    estimate: Callable[[str], int]
    bound: Callable[[str, Call], int | None] = _no_bound
    cover: Callable[[str, Call, int | None], None] = no_cover
    charges: list[Billed] = field(default_factory=list)
    tap: Tap | None = None
    provider: str = ""
    attempts: int = 0
    unknown_attempts: int = 0
    unknown_nano: int = 0
    timer: Callable[[], float] = time.monotonic
    _held_nano: int = 0
    _covered_nano: int = -1
    # A call of unknown price is among them.
    _unpriced: bool = False

    def run(self, provider: Provider, call: Call) -> Reply:
        """One counted attempt; whatever the provider bills for it is noted before anything else happens."""
        bound, call = self._hold(provider.name, call)
        heard = Heard(call, self.estimate)
        try:
            reply = self._listen(provider, call, heard, self.tap) if self.tap else provider.call(call)
        except UpstreamFault as fault:
            self._note_failed(provider.name, heard.completed(fault), bound)
            raise
        except CallerLeft:
            self._note(provider.name, heard.model, heard.usage)
            raise
        except PlatformError:  # refused before the call was made
            self._held_nano -= bound
            raise
        except BaseException:  # a bug of an adapter: the call may have been billed all the same
            self._note(provider.name, "", None)
            self._note_lost(bound)
            raise
        text, calls = whole_characters(reply.text), tuple(map(_whole_call, reply.calls))
        reply = replace(reply, text=text, calls=calls, model=plain_name(reply.model), provider=provider.name)
        said = text + "".join(call.name + call.arguments for call in calls)
        self._note(provider.name, reply.model, reply.usage or heard.estimated(said))
        return reply

    def _listen(self, provider: Provider, call: Call, heard: Heard, tap: Tap) -> Reply:
        """The reply, its pieces passed on as they come."""
        pieces = provider.stream(call)
        try:
            while True:
                piece = next(pieces)
                heard.note(piece)
                if len(heard.texts) == 1:
                    tap.begin(Beginning(provider.name, heard.model, self.attempts + 1, ignored=piece.ignored))
                tap.say(whole_characters(piece.text))
        except StopIteration as end:
            tap.end()
            return cast(Reply, end.value)
        finally:
            pieces.close()

    def _note(self, provider: str, model: str, usage: Usage | None) -> None:
        self.attempts += 1
        self.provider = provider
        if usage is not None:
            self.charges.append(Billed(provider, model, usage))

    def _hold(self, provider: str, call: Call) -> tuple[int, Call]:
        """The bound of a call that is covered now, and the call with the time that this has left of it."""
        began, bound = self.timer(), self.bound(provider, call)
        held, unpriced = self._held_nano + (bound or 0), self._unpriced or bound is None
        if held > self._covered_nano or unpriced > self._unpriced:
            self.cover(provider, call, None if unpriced else held)
            self._covered_nano, self._unpriced = max(held, self._covered_nano), unpriced
            call = replace(call, seconds=call.seconds - (self.timer() - began))
            if call.seconds < LEAST_SECONDS:
                raise Overloaded()
        self._held_nano = held
        return bound or 0, call

    def _note_failed(self, provider: str, fault: UpstreamFault, bound: int) -> None:
        self._note(provider, plain_name(fault.model), fault.usage)
        if fault.unknown:
            self._note_lost(bound)
        elif fault.usage is None:
            self._held_nano -= bound  # it is known to cost nothing

    def _note_lost(self, bound: int) -> None:
        self.unknown_attempts += 1
        self.unknown_nano += bound


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms on which providers are called: the policy of attempts and the cap on output tokens."""

    policy: RetryPolicy
    max_output_tokens: int

    def output_tokens(self, ask: Ask) -> int:
        """The cap on the output of one call."""
        if ask.task is Task.EMBED:
            return 0
        return min(ask.max_tokens or self.max_output_tokens, self.max_output_tokens)


def _whole_call(call: ToolCall) -> ToolCall:
    return ToolCall(whole_characters(call.id), whole_characters(call.name), whole_characters(call.arguments))


def answer_from(
    provider: Provider, ask: Ask, meter: Meter, terms: Terms, guard: Guard | None = None
) -> Reply:
    """The provider's answer in the form that the task promises.

    A classification that names none of the categories is repaired once, unless the caller's own cap has cut it; what
    remains unreadable is an InvalidReply.
    """
    for repair in (False, True):
        reply = _reply_from(provider, ask, word(ask, repair), meter, terms, guard)
        text = read_reply(ask, reply.text)
        if text is not None:
            return replace(reply, text=text, code=_code_facts(ask, reply.text))
        if ask.max_tokens is not None and not reply.whole:
            raise InvalidReply(CUT_SHORT, field="max_tokens")  # a second call would be cut, and paid for, too
    raise InvalidReply("The model did not keep to the categories. Try again, or make the categories clearer.")


def _code_facts(ask: Ask, told: str) -> CodeFacts:
    """Looked at before a fence is taken off: it names the language."""
    return code_facts(ask.text, told) if ask.task is Task.CODE else NO_CODE


def _reply_from(
    provider: Provider, ask: Ask, wording: Wording, meter: Meter, terms: Terms, guard: Guard | None
) -> Reply:
    """A reply of the first model that the provider still has."""
    max_tokens = terms.output_tokens(ask)
    gone: ModelGone | None = None
    for model in allowed_models(provider, ask):
        attempt = functools.partial(
            _attempt, provider, meter, Call(model, wording, max_tokens, 0.0, ask.grace)
        )
        try:
            return terms.policy.run(attempt, ask.deadline, guard)
        except ModelGone as fault:
            provider.retired(model)
            gone = fault
        except PromptTooLong as fault:
            fault.field = ask.text_field
            raise
    if ask.model is not None:
        raise ModelUnknown(field="model") from gone
    raise gone or ModelGone()


def allowed_models(provider: Provider, ask: Ask, named: str | None = None) -> list[str]:
    """Of the models that the provider would try for an ask, those that the caller's key allows."""
    tried = provider.models(named or ask.model, ask.task is Task.EMBED)
    return [model for model in tried if ask.may_use(provider.name, model)]


def _attempt(provider: Provider, meter: Meter, call: Call, seconds: float) -> Reply:
    return meter.run(provider, replace(call, seconds=seconds))
