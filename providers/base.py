"""What a provider is, and how an ask is put to one: words, one policy of attempts, the reply read and checked."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from code_facts import CodeFacts, code_facts
from errors import InvalidReply, ModelGone, ModelUnknown, PlatformError, PromptTooLong, UpstreamFault
from providers.retry import Guard, RetryPolicy
from tasks import Ask, Task, Usage, Wording, read_reply, word

# Of every answer that is no code.
NO_CODE = CodeFacts("", 0)


@dataclass(frozen=True, slots=True)
class Call:
    """One upstream call. `seconds` is all the time it may take, from connecting to the last byte."""

    model: str
    wording: Wording
    max_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """One good reply. `usage` is None where the provider gave no counts; `whole` is False for a cut text.

    ignored: parameters that were asked for and that the model does not take. provider: noted by the meter.
    """

    text: str
    usage: Usage | None
    model: str
    whole: bool = True
    code: CodeFacts = NO_CODE
    provider: str = ""
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Billed:
    """One upstream call that was billed: who served it, with which model, and its token counts."""

    provider: str
    model: str
    usage: Usage


_NOT_PLAIN = re.compile(r"[^\x21-\x7e]")


class Provider(Protocol):
    """One LLM service behind one adapter."""

    name: str

    def models(self, requested: str | None) -> Sequence[str]:
        """Model ids to try in order; raises ModelUnknown where the caller named one that cannot be."""
        ...

    def call(self, call: Call) -> Reply:
        """Make one attempt. Raises an UpstreamFault, whatever went wrong."""
        ...

    def retired(self, model: str) -> None:
        """Take note that the service no longer knows this model."""
        ...

    def warm(self) -> None:
        """Load what the first call would otherwise wait for."""
        ...


def _no_bound(_provider: str, _call: Call) -> int | None:
    return None


def no_cover(_: str, __: Call, ___: int | None) -> None:
    """Where no ledger has to know before a call."""


@dataclass(slots=True)
class Meter:
    """What one ask has used upstream so far, failed and repeated calls included.

    bound: what a call to that provider costs at most, in nano-dollars; None where its model has no price. cover:
    told before a call what this one and all earlier calls that may be billed come to at most, wherever that is more
    than before. provider: who was called last.
    """

    estimate: Callable[[str], int]
    bound: Callable[[str, Call], int | None] = _no_bound
    cover: Callable[[str, Call, int | None], None] = no_cover
    charges: list[Billed] = field(default_factory=list)
    provider: str = ""
    attempts: int = 0
    unknown_attempts: int = 0
    unknown_nano: int = 0
    _held_nano: int = 0
    _covered_nano: int = -1

    def run(self, provider: Provider, call: Call) -> Reply:
        """One counted attempt; whatever the provider bills for it is noted before anything else happens."""
        bound = self._hold(provider.name, call)
        try:
            reply = provider.call(call)
        except UpstreamFault as fault:
            self._note_failed(provider.name, fault, bound)
            raise
        except PlatformError:  # refused before the call was made
            self._held_nano -= bound
            raise
        except BaseException:  # a bug of an adapter: the call may have been billed all the same
            self._note(provider.name, "", None)
            self._note_lost(bound)
            raise
        model, text = plain_name(reply.model), whole_characters(reply.text)
        reply = replace(reply, text=text, model=model, provider=provider.name)
        self._note(provider.name, reply.model, reply.usage or self._estimated(call, reply))
        return reply

    def _note(self, provider: str, model: str, usage: Usage | None) -> None:
        self.attempts += 1
        self.provider = provider
        if usage is not None:
            self.charges.append(Billed(provider, model, usage))

    def _hold(self, provider: str, call: Call) -> int:
        bound = self.bound(provider, call)
        self._held_nano += bound or 0
        if self._held_nano > self._covered_nano:
            self.cover(provider, call, None if bound is None else self._held_nano)
            self._covered_nano = self._held_nano
        return bound or 0

    def _note_failed(self, provider: str, fault: UpstreamFault, bound: int) -> None:
        self._note(provider, plain_name(fault.model), fault.usage)
        if fault.unknown:
            self._note_lost(bound)
        elif fault.usage is None:
            self._held_nano -= bound  # it is known to cost nothing

    def _note_lost(self, bound: int) -> None:
        self.unknown_attempts += 1
        self.unknown_nano += bound

    def _estimated(self, call: Call, reply: Reply) -> Usage:
        asked = self.estimate(call.wording.system) + self.estimate(call.wording.text)
        return Usage(asked, self.estimate(reply.text), estimated=True)


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms on which providers are called: the policy of attempts and the cap on output tokens."""

    policy: RetryPolicy
    max_output_tokens: int

    def output_tokens(self, ask: Ask) -> int:
        """The cap on the output of one call."""
        return min(ask.max_tokens or self.max_output_tokens, self.max_output_tokens)


def plain_name(name: str) -> str:
    """A model id that a provider chose, as headers, labels and logs may carry it."""
    return _NOT_PLAIN.sub("?", name)[:100]


def whole_characters(text: str) -> str:
    """The text without halves of surrogate pairs, which JSON may carry but no reply of ours can."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def answer_from(
    provider: Provider, ask: Ask, meter: Meter, terms: Terms, guard: Guard | None = None
) -> Reply:
    """The provider's answer in the form that the task promises.

    A classification that names none of the categories is repaired once; what remains unreadable is an
    InvalidReply.
    """
    for repair in (False, True):
        reply = _reply_from(provider, ask, word(ask, repair), meter, terms, guard)
        text = read_reply(ask, reply.text)
        if text is not None:
            return replace(reply, text=text, code=_code_facts(ask, reply.text))
    raise InvalidReply("The model named none of the categories. Try again, or make the categories clearer.")


def _code_facts(ask: Ask, told: str) -> CodeFacts:
    """Looked at before a fence is taken off: it names the language."""
    return code_facts(ask.text, told) if ask.task is Task.CODE else NO_CODE


def _reply_from(
    provider: Provider, ask: Ask, wording: Wording, meter: Meter, terms: Terms, guard: Guard | None
) -> Reply:
    """A reply of the first model that the provider still has."""
    max_tokens = terms.output_tokens(ask)
    gone: ModelGone | None = None
    for model in provider.models(ask.model):
        attempt = functools.partial(_attempt, provider, meter, model, wording, max_tokens)
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


def _attempt(
    provider: Provider, meter: Meter, model: str, wording: Wording, max_tokens: int, seconds: float
) -> Reply:
    return meter.run(provider, Call(model, wording, max_tokens, seconds))
