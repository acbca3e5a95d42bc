"""What the provider charges for a call, by a price list written out by hand: it shares nothing with the price book."""

from __future__ import annotations

from .gemini import OTHER_MODEL
from .journal import Call

# Nano-dollars per token: fresh input, cached input, output with thoughts. As Google's price list has them.
PRICES = {
    "gemini-3.1-flash-lite": (250, 25, 1500),
    "gemini-3.5-flash-lite": (300, 30, 2500),
    OTHER_MODEL: (1500, 150, 9000),
}


def bill(call: Call) -> int:
    """In nano-dollars, whether or not the client ever learnt of it."""
    if call.billed is None:
        return 0
    fresh, cached, output = PRICES[OTHER_MODEL if call.fault == "other_model" else call.model]
    tokens = call.billed
    paid = (tokens.prompt - tokens.cached) * fresh + tokens.cached * cached
    return paid + (tokens.candidates + tokens.thoughts) * output


def is_lost(call: Call) -> bool:
    """Charged for, though its counts never arrived."""
    return call.billed is not None and not call.usage_sent and not is_uncounted(call)


def is_uncounted(call: Call) -> bool:
    """Answered in full, but without counts: whoever bills it has to estimate."""
    return call.fault == "no_usage" and call.delivered
