"""A loopback provider that speaks Gemini's protocol, fails on demand and keeps the journal that money tests trust."""

from __future__ import annotations

from .answers import answer_text, mark
from .faults import ANSWERED, BROKEN, NAMES, REFUSED, RETRYABLE, Fault
from .journal import Call, Tokens
from .process import UpstreamProcess
from .refusals import CANARY
from .server import Upstream

__all__ = [
    "ANSWERED",
    "BROKEN",
    "CANARY",
    "NAMES",
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
