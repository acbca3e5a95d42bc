"""OpenAI's embeddings: texts or lists of tokens in, unit vectors out."""

from __future__ import annotations

import base64
import struct
from typing import Any

from . import replies
from .answers import count, vector
from .asks import Ask, Outcome
from .faults import UNREADABLE, Fault
from .journal import Tokens

DIMENSIONS = {"text-embedding-3-large": 3072}


def inputs(body: dict[str, Any]) -> list[tuple[str, int]]:
    """The texts to embed with their counts; a text may also come as a list of its tokens."""
    given = body.get("input")
    if isinstance(given, list) and not all(isinstance(part, int) for part in given):
        return [_input(part) for part in given]
    return [_input(given)]


def _input(part: Any) -> tuple[str, int]:
    if isinstance(part, list):
        return " ".join(map(str, part)), len(part)
    return str(part), count(str(part))


def embedded(ask: Ask, fault: Fault) -> Outcome:
    texts = inputs(ask.body)
    tokens = fault.usage or Tokens(prompt=sum(length for _, length in texts))
    if fault.name in UNREADABLE:
        return Outcome(replies.unreadable(fault), tokens)
    if fault.name in ("huge", "gzip_bomb"):
        return Outcome(replies.oversized(fault, replies.around({"object": "list", "data": "LONG"})), tokens)
    size = ask.body.get("dimensions") or DIMENSIONS.get(ask.model, 1536)
    packed = ask.body.get("encoding_format") == "base64"
    data = [_embedding(place, vector(ask.model, text, size), packed) for place, (text, _) in enumerate(texts)]
    body: dict[str, Any] = {"object": "list", "data": data, "model": fault.model or ask.model}
    if fault.name != "no_usage":
        body["usage"] = {"prompt_tokens": tokens.prompt, "total_tokens": tokens.prompt}
    reply = replies.good(fault, [replies.raw(body)], stream=False)
    return Outcome(reply, tokens, (None if fault.name == "no_usage" else tokens,))


def _embedding(place: int, numbers: list[float], packed: bool) -> dict[str, Any]:
    raw = struct.pack(f"<{len(numbers)}f", *numbers)
    # The floats are those of the packed form: 32 bits each.
    shown = base64.b64encode(raw).decode() if packed else struct.unpack(f"<{len(numbers)}f", raw)
    return {"object": "embedding", "index": place, "embedding": shown}
