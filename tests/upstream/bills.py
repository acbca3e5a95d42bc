"""What the provider charges for a call, by a price list written out by hand: it shares nothing with the price book."""

from __future__ import annotations

from dataclasses import replace

from .anthropic import OTHER_MODEL as OTHER_CLAUDE
from .gemini import OTHER_MODEL
from .journal import Call
from .openai import OTHER_MODEL as OTHER_GPT

# Nano-dollars per token: fresh input, cached input, output with thoughts. As Google's price list has them.
PRICES = {
    "gemini-3.1-flash-lite": (250, 25, 1500),
    "gemini-3.5-flash-lite": (300, 30, 2500),
    OTHER_MODEL: (1500, 150, 9000),
}
OPENAI = {
    "gpt-5.4-nano": (200, 20, 1250),
    OTHER_GPT: (750, 75, 4500),
    "text-embedding-3-small": (20, 20, 0),
}
ANTHROPIC = {"claude-haiku-5-5": (100, 10, 500), OTHER_CLAUDE: (1000, 100, 5000)}
# Of a prompt above so many tokens every token is dearer, the answer's too.
ABOVE = {"claude-haiku-5-5": (100_000, (500, 50, 2500))}
LISTS = {"gemini": PRICES, "openai": OPENAI, "anthropic": ANTHROPIC}
OTHERS = {"gemini": OTHER_MODEL, "openai": OTHER_GPT, "anthropic": OTHER_CLAUDE}


def bill(call: Call) -> int:
    """In nano-dollars, whether or not the client ever learnt of it."""
    if call.billed is None:
        return 0
    model = OTHERS[call.provider] if call.fault == "other_model" else call.model
    tokens = call.billed
    most, dear = ABOVE.get(model, (tokens.prompt, (0, 0, 0)))
    fresh, cached, output = dear if tokens.prompt > most else LISTS[call.provider][model]
    # What Anthropic writes to its cache for five minutes costs a quarter more than fresh input.
    written = tokens.written * fresh * 5 // 4 if call.provider == "anthropic" else tokens.written * fresh
    paid = (tokens.prompt - tokens.cached - tokens.written) * fresh + tokens.cached * cached + written
    return paid + (tokens.candidates + tokens.thoughts) * output


def told_of(call: Call) -> int:
    """What the counts come to that were sent, of a stream that was cut those of its last piece."""
    return bill(replace(call, billed=call.reported))


def is_lost(call: Call) -> bool:
    """Charged for, though its counts never arrived."""
    return call.billed is not None and not call.usage_sent and not is_uncounted(call)


def is_uncounted(call: Call) -> bool:
    """Answered in full, but without counts: whoever bills it has to estimate."""
    return call.fault == "no_usage" and call.delivered
