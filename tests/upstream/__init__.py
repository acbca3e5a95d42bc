"""Loopback Gemini, OpenAI (its base URL ends with /v1) and Anthropic: they fail on demand and keep a journal."""

from __future__ import annotations

from .answers import answer_text, mark
from .faults import ANSWERED, BROKEN, NAMES, OWN, PROVIDERS, REFUSED, RETRYABLE, Fault
from .journal import Call, Tokens
from .process import UpstreamProcess
from .refusals import CANARY
from .server import Upstream

__all__ = [
    "ANSWERED",
    "BROKEN",
    "CANARY",
    "NAMES",
    "OWN",
    "PROVIDERS",
    "REFUSED",
    "RETRYABLE",
    "Call",
    "Fault",
    "Tokens",
    "Upstream",
    "UpstreamProcess",
    "answer_text",
    "mark",
]
