"""What the loopback model says and counts: functions of the request alone, so that crossed answers show."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .journal import Tokens

WORDS = (
    "river stone lamp field copper harbour winter signal orchard ledger north paper engine quiet salt".split()
)

# A prompt that lets it choose from a list: without a schema, models mostly do as they are told.
LISTED = re.compile(r"JSON list: (\[.*\])\.")


def digest(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def mark(prompt: str) -> str:
    """The hash that every answer to this prompt quotes."""
    return digest(prompt)[:12]


def answer_text(model: str, system: str, prompt: str, schema: Mapping[str, Any] | None = None) -> str:
    seal = digest(model, system, prompt)
    if schema is not None:
        return json.dumps(conforming(schema, seal), ensure_ascii=False)
    listed = LISTED.search(system)
    if listed:
        choices = json.loads(listed[1])
        return json.dumps({"category": choices[int(seal[:8], 16) % len(choices)]}, ensure_ascii=False)
    if "code" in system.lower():
        name = f"answer_{mark(prompt)}"
        return f'```python\ndef {name}() -> str:\n    """From {model}."""\n    return "{seal[:12]}"\n```'
    words = " ".join(WORDS[int(letter, 16) % len(WORDS)] for letter in seal[:16])
    return f"{model} answers {mark(prompt)} with {seal[:12]}: {words}."


def conforming(schema: Mapping[str, Any], seal: str, root: Mapping[str, Any] | None = None) -> Any:
    """A value that fits a JSON schema; out of an enum the seal picks."""
    root = schema if root is None else root
    if "$ref" in schema:
        return conforming(root["$defs"][schema["$ref"].rpartition("/")[2]], seal, root)
    for branches in ("anyOf", "oneOf", "allOf"):
        if branches in schema:
            return conforming(schema[branches][0], seal, root)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][int(seal[:8], 16) % len(schema["enum"])]
    return _by_type(schema, seal, root)


def _by_type(schema: Mapping[str, Any], seal: str, root: Mapping[str, Any]) -> Any:
    given = schema.get("type", "object")
    kind = str(given[0] if isinstance(given, list) else given).lower()  # Gemini's own schemas say OBJECT.
    if kind == "object":
        return {name: conforming(part, seal, root) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return _array(schema.get("items", {"type": "string"}), seal, root)
    return {"string": seal[:12], "integer": 1, "number": 0.5, "boolean": True}.get(kind)


def _array(items: Mapping[str, Any], seal: str, root: Mapping[str, Any]) -> list[Any]:
    """Of an enum the entries whose bit of the seal is set, backwards and the last of them twice; else one item."""
    if not items.get("enum"):
        return [conforming(items, seal, root)]
    chosen = [entry for place, entry in enumerate(items["enum"]) if int(seal, 16) >> place & 1]
    return [*reversed(chosen), *chosen[:1]]


def count(text: str) -> int:
    return max(1, len(text.encode("utf-8", "surrogatepass")) // 4)


def tokens_for(prompt: str, system: str, text: str, *, writes: bool = False) -> Tokens:
    """Some prompts are partly cached, some take thought: which ones, their hash says.

    What is not yet cached is written to the cache where the caller asks for that.
    """
    seal = int(digest(prompt)[:8], 16)
    length = count(system + prompt) + 1
    cached = length * 2 // 3 if seal % 4 == 1 else 0
    thoughts = 1 + seal % 400 if seal % 3 == 0 else 0
    written = (length - cached) // 2 if writes else 0
    return Tokens(length, cached, candidates=count(text), thoughts=thoughts, written=written)


def within(limit: int | None, text: str, tokens: Tokens) -> tuple[str, Tokens, bool]:
    """Hold thoughts and text under the caller's limit, as every provider does; true when the text was cut."""
    if limit is None or tokens.candidates + tokens.thoughts <= limit:
        return text, tokens, False
    thoughts = min(tokens.thoughts, limit // 2)
    candidates = min(tokens.candidates, limit - thoughts)
    short = replace(tokens, candidates=candidates, thoughts=thoughts)
    if candidates == tokens.candidates:
        return text, short, False
    return text[: candidates * 4], short, True


def vector(model: str, text: str, dimensions: int) -> list[float]:
    """A unit vector; a shorter one of the same text points the same way, as OpenAI cuts them."""
    stream = hashlib.shake_256(f"{model}\x1f{text}".encode("utf-8", "surrogatepass")).digest(2 * dimensions)
    raw = struct.unpack(f"<{dimensions}h", stream)
    length = sum(part * part for part in raw) ** 0.5 or 1.0
    return [part / length for part in raw]
