"""OpenAI's embeddings: the body as an Ask, the answer as vectors."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass
from typing import Any

from flask import Response

import rules
from api.chat_asks import note_left_out, read_model
from api.chat_replies import usage_json
from api.replies import render_json
from api.schemas import make_ask, read_body
from config import Settings
from errors import InvalidInput
from tasks import Answer, Ask, Task

KNOWN = frozenset({"input", "model", "encoding_format", "dimensions", "user"})
EXAMPLE = '{"model": "default", "input": "Hello"}'
FORMATS = ("float", "base64")
# So many vectors fit into the answer of a provider that is read at most.
MAX_INPUTS = 256


@dataclass(frozen=True, slots=True)
class EmbedAsk:
    """An ask and the form of the vectors: numbers, or the bytes of 32-bit floats in base64."""

    ask: Ask
    packed: bool


def read_embed(settings: Settings) -> EmbedAsk:
    """The Ask of an embedding."""
    body = read_body(KNOWN, EXAMPLE)
    inputs = _inputs(body.get("input"), settings.max_prompt_chars)
    if body.get("dimensions") is not None:
        raise InvalidInput("`dimensions` is not taken here. Leave it out.", field="dimensions")
    wanted = body.get("encoding_format")
    form = rules.one_of("float" if wanted is None else wanted, "encoding_format", FORMATS)
    note_left_out(body, frozenset({"user"}))
    model = read_model(body.get("model"))
    ask = make_ask(Task.EMBED, "\n".join(inputs), settings, inputs=inputs, model=model)
    return EmbedAsk(ask, form == "base64")


def _inputs(value: Any, max_chars: int) -> tuple[str, ...]:
    if not isinstance(value, list):
        return (rules.text_field(value, "input", max_chars),)
    entries = rules.a_list(value, "input", MAX_INPUTS)
    if all(isinstance(entry, int | list) for entry in entries):
        raise InvalidInput(
            "`input` holds numbers of tokens. Send text: a string or a list of strings.", field="input"
        )
    inputs = tuple(
        rules.text_field(entry, f"input[{place}]", max_chars) for place, entry in enumerate(entries)
    )
    length = sum(map(len, inputs))
    if length > max_chars:
        raise InvalidInput(
            f"`input` has {length} characters in all; send at most {max_chars} at once.", field="input"
        )
    return inputs


def render_vectors(answer: Answer, packed: bool) -> Response:
    """200 with the vectors in the order of the texts."""
    vectors = json.loads(answer.text)
    data = [
        {"object": "embedding", "index": place, "embedding": vector if packed else unpacked(vector)}
        for place, vector in enumerate(vectors)
    ]
    usage = usage_json(answer.bill, answer.overall_nano, answer.cached, answer.left_nano)
    told = {name: usage[name] for name in ("prompt_tokens", "total_tokens", "cost")}
    return render_json({"object": "list", "data": data, "model": answer.bill.model, "usage": told}, answer)


def unpacked(vector: str) -> list[float]:
    """The numbers in base64 of 32-bit floats, lowest byte first."""
    raw = base64.b64decode(vector)
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))
