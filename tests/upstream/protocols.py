"""Which provider's protocol a request speaks: all of them live at one address."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from . import anthropic, gemini, openai
from .asks import Ask, Outcome
from .faults import Fault
from .wire import Reply, Request


class Speech(Protocol):
    """What each of the three modules offers."""

    def read_ask(self, request: Request) -> Ask | None:
        """The ask in a call that is billed; None for any other request."""

    def objection(self, ask: Ask) -> Fault | None:
        """What the provider finds wrong with a request before any model sees it."""

    def outcome(self, ask: Ask, fault: Fault, number: int) -> Outcome:
        """The reply that the fault makes of the answer, and its bill."""

    def browse(self, request: Request, retired: Iterable[str]) -> Reply:
        """The list of models, one model, or 404."""


def speech_of(request: Request) -> Speech:
    if not request.target.startswith("/v1/"):
        return gemini
    # OpenAI and Anthropic list their models under one path.
    theirs = "anthropic-version" in request.headers or "x-api-key" in request.headers
    return anthropic if theirs or request.target.startswith("/v1/messages") else openai
