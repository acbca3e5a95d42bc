"""What a call may cost at most, before it is made: every input token counted, every output token that it may have."""

from __future__ import annotations

import math
import unicodedata

from prices import Rates, Sheet
from wording import Wording

# What providers put around each message of a prompt (roles, separators), and before tools and reply schemas.
WRAPPING_TOKENS, SHAPES_TOKENS = 16, 1024


def most_nano(sheet: Sheet, wording: Wording, max_tokens: int) -> int | None:
    """In nano-dollars; None where the price is not known. It holds where the provider serves the model that was asked
    for, and keeps to the cap."""
    output = 0 if wording.inputs else max_tokens  # embeddings have none
    if output and not sheet.has_output:
        return None
    given = most_given(wording)
    # On whichever step the call ends: a dearer one may end below a cheaper one.
    tops = [*(above for above, _ in sheet.steps[1:]), given]
    ends = zip(sheet.steps, tops, strict=True)
    return max(_most(rates, min(top, given), output) for (above, rates), top in ends if above < given)


def _most(rates: Rates, given: int, output: int) -> int:
    """What is cached may cost more than what is not, by a price of one's own."""
    return math.ceil(given * max(rates.input_nano, rates.cached_nano)) + math.ceil(output * rates.output_nano)


def most_given(wording: Wording) -> int:
    """Input tokens at most: none is shorter than a byte."""
    given = _bytes(wording.system) + _bytes(wording.text) + _shapes(wording)
    chat = wording.chat
    if chat is None:
        return given + WRAPPING_TOKENS * (1 + len(wording.inputs))
    ids = sum(len(turn.answers) + sum(len(call.id) for call in turn.calls) for turn in chat.turns)
    return given + 2 * ids + WRAPPING_TOKENS * (1 + sum(1 + len(turn.calls) for turn in chat.turns))


def _shapes(wording: Wording) -> int:
    """Tools and schemas: providers write them anew in words of their own, so twice their size is allowed for."""
    shapes = str(wording.schema or "")
    if wording.chat is not None:
        shapes += wording.chat.schema + wording.chat.tools + wording.chat.tool_choice
    return 2 * _bytes(shapes) + SHAPES_TOKENS if shapes else 0


def _bytes(text: str) -> int:
    """Tokenizers read some texts in a compatible spelling, in which a single sign may become a word."""
    if text.isascii():
        return len(text)
    spelled = unicodedata.normalize("NFKC", text)
    return max(len(each.encode("utf-8", "surrogatepass")) for each in (text, spelled))
