"""The providers in order: who may answer an ask, who is next where one fails, and what a caller hears if all do."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace

from errors import (
    DeadlineExceeded,
    InvalidInput,
    KeyRefused,
    ModelGone,
    ModelNotAllowed,
    ModelUnknown,
    TurnedAway,
    UpstreamFault,
    UpstreamQuotaExhausted,
)
from providers.asking import Meter, Terms, allowed_models, answer_from
from providers.base import Reply
from providers.gate import GatedProvider
from providers.retry import Guard
from tasks import TOOLS, Ask

log = logging.getLogger(__name__)

# How the makers name their models.
FAMILIES = (
    (re.compile(r"gpt-|chatgpt-|o[0-9]|text-embedding-"), "openai"),
    (re.compile(r"claude-"), "anthropic"),
    (re.compile(r"gemini-|gemma-"), "gemini"),
)
# Of the time that is left, a provider with another one behind it may use this part, waits and calls together.
SHARE = 0.5


@dataclass(slots=True)
class Link:
    """One provider of the chain, with what guards it. failovers: asks that went on from it to the next."""

    provider: GatedProvider
    guard: Guard = field(default_factory=Guard)
    failovers: int = 0

    @property
    def name(self) -> str:
        return self.provider.name


class Chain:
    """Puts an ask to its providers in order, until one answers.

    catch_all: the provider that gets models of unknown families, if any: a server of one's own may call its models
    as it likes.
    """

    def __init__(
        self, links: Sequence[Link], *, catch_all: str = "", timer: Callable[[], float] = time.monotonic
    ) -> None:
        self.links = tuple(links)
        self._by_name = {link.name: link for link in self.links}
        self._catch_all, self._timer = catch_all, timer
        self._counting = threading.Lock()
        self._offer = tuple((link.name, tuple(link.provider.models(None))) for link in self.links)

    @property
    def name(self) -> str:
        """The provider that is asked first."""
        return self.links[0].name

    @property
    def offer(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Providers in order, each with the models that it is configured with: together they decide an answer."""
        return self._offer

    def warm(self) -> None:
        for link in self.links:
            link.provider.warm()

    def answer(self, ask: Ask, meter: Meter, terms: Terms) -> Reply:
        """The first good reply. Raises what is no other provider's business at once, else the last one's fault."""
        links, model = self._able(ask)
        faults: list[UpstreamFault] = []
        for place, link in enumerate(links):
            later = links[place + 1 :]
            turn = self._turn(ask, model, later)
            try:
                return answer_from(link.provider, turn, meter, terms, link.guard)
            except ModelUnknown as unknown:
                raise self._unknown_model() from unknown
            except UpstreamFault as fault:
                if not self._goes_on(fault, link, later):
                    raise
                faults.append(fault)
        raise _last_word(faults)

    def _turn(self, ask: Ask, model: str | None, later: Sequence[Link]) -> Ask:
        """The ask as one provider gets it: each that comes later must still have time for a call."""
        deadline = ask.deadline
        if any(not link.guard.breaker.shut for link in later):
            now = self._timer()
            deadline = now + (ask.deadline - now) * SHARE
        elif model == ask.model:
            return ask
        return replace(ask, model=model, deadline=deadline, grace=ask.deadline - deadline)

    def _goes_on(self, fault: UpstreamFault, link: Link, later: Sequence[Link]) -> bool:
        if isinstance(fault, KeyRefused):
            log.error("%s refuses our key (%s): set it anew and start again", link.name, fault.detail)
        goes_on = is_worth_the_next(fault)
        if goes_on and later:
            self._note_failover(fault, link, later[0])
        return goes_on

    def _note_failover(self, fault: UpstreamFault, link: Link, following: Link) -> None:
        with self._counting:
            link.failovers += 1
        if not isinstance(fault, TurnedAway):  # the breaker has said so once, and an outage has many asks
            log.warning("%s failed (%s), %s is next", link.name, fault.detail or fault.code, following.name)

    # Which provider has a model.

    def _able(self, ask: Ask) -> tuple[Sequence[Link], str | None]:
        """Who may answer and has what the ask needs."""
        links, model = self._route(ask.model)
        able = tuple(link for link in links if ask.needs <= link.provider.offers)
        if not able:
            raise _refusal(ask.needs, links)
        if not ask.models:
            return able, model
        allowed = tuple(link for link in able if allowed_models(link.provider, ask, model))
        if not allowed:
            raise _not_allowed(ask)
        return allowed, model

    def _route(self, requested: str | None) -> tuple[Sequence[Link], str | None]:
        """Who may answer, and the model's name as they know it. A model that was named has one provider."""
        if requested is None:
            return self.links, None
        prefix, _, rest = requested.partition("/")
        if rest and prefix in self._by_name:
            return (self._by_name[prefix],), rest
        link = self._by_name.get(self._owner(requested))
        if link is None:
            raise self._unknown_model()
        return (link,), requested

    def _owner(self, model: str) -> str:
        for name, models in self._offer:
            if model in models:
                return name
        families = (name for pattern, name in FAMILIES if name in self._by_name and pattern.match(model))
        return next(families, self._catch_all)

    def _unknown_model(self) -> ModelUnknown:
        named = ", ".join(f"{name}/{model}" for name, models in self._offer for model in models)
        return ModelUnknown(
            f"There is no such model here. Leave out `model`, or name one of these: {named}.", field="model"
        )


def _not_allowed(ask: Ask) -> ModelNotAllowed:
    step = "Name one of these" if ask.model is None else "Leave out `model`, or name one of these"
    return ModelNotAllowed(f"Your key is not for this model. {step}: {', '.join(ask.models)}.", field="model")


def _refusal(needs: Set[str], links: Sequence[Link]) -> InvalidInput:
    missing = ", ".join(sorted(needs))
    tried = ", ".join(link.name for link in links)
    step = "Leave them out, or name another model" if TOOLS in needs else "Name a model of another provider"
    return InvalidInput(
        f"No provider that could answer ({tried}) offers {missing}. {step}.",
        field="tools" if TOOLS in needs else "model",
    )


def is_worth_the_next(fault: UpstreamFault) -> bool:
    """Whether another provider may do better; never where the ask itself is at fault, or its content.

    Once a part of the reply went out, nobody may do better.
    """
    if fault.begun:
        return False
    elsewhere = (UpstreamQuotaExhausted, KeyRefused, ModelGone, TurnedAway, DeadlineExceeded)
    return fault.transient or fault.unexplained or isinstance(fault, elsewhere)


def _last_word(faults: list[UpstreamFault]) -> UpstreamFault:
    """The last fault of a call that was made, or of none; it says when the first of the providers may be back.

    Empties the list: faults lead back to the frame that holds them, and an outage has many for the collector.
    """
    called = [fault for fault in faults if not isinstance(fault, TurnedAway)]
    last = (called or faults)[-1]
    waits = [fault.delay or 0.0 for fault in faults if fault.transient or fault.delay is not None]
    last.delay = min(waits, default=None)
    faults.clear()
    return last
